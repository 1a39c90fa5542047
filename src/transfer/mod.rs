//! Moving files: what a download or upload task may fetch, and from where.

pub mod url_policy;
