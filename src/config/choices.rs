//! Choices of downloads that are settings: which URLs may be asked for, and what becomes of files that
//! are there.

/// Which schemes a URL may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Schemes {
    /// `https`; and `http` to local addresses, where [`PrivateAddresses::Allow`] is set.
    #[default]
    HttpsOnly,
    /// `https` and `http`: who is on the way can read and change the files.
    HttpAndHttps,
}

/// Whether a URL may lead into the worker's own network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum PrivateAddresses {
    /// Public addresses only.
    #[default]
    Refuse,
    /// Loopback, private, unique-local and carrier-grade NAT addresses too, over `http` as
    /// well. Addresses of metadata services and those no host has stay refused.
    Allow,
}

/// Who copies a file into a container whose source is a URL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum CopyBy {
    /// The worker: it fetches the file and stores it.
    #[default]
    Worker,
    /// The storage service itself, where it can read the URL (Put Block From URL): the bytes never pass the
    /// worker. It is shown the URL, with all that is secret in it. Files shorter than a block, those whose
    /// SHA-256 or MD5 is to be compared, those without a strong ETag or without ranges, those that only who
    /// shows credentials can read, and those that the service does not read are fetched by the worker.
    Service,
}

/// What becomes of a task whose file is there already.
///
/// Whatever is chosen, a task that comes again after its file was committed, because the process
/// died before its result was acknowledged, does not fetch it again: the store noted the delivery
/// that the file is from ([`BlobNote`](crate::blob_store::BlobNote)), and the result is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ExistingFiles {
    /// It is fetched, and takes the place of what is there.
    #[default]
    Replace,
    /// It is left alone: the task is skipped, without a result. Where the task says a size, a file of
    /// another size is replaced; and of what a worker put there, it is known what it is (`Verify`).
    Skip,
    /// It is taken for the file of the task where that is known, and its result is published; else it is
    /// fetched. It is known by the hash that the task says, or by what the store noted of where it is
    /// from, its hash included. Where neither says anything, the server is asked: the same length,
    /// and no change after the file was put there.
    Verify,
}
