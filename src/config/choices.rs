//! Choices for downloads: which URLs may be asked for, and what happens to files that are already there.

/// Which schemes a URL may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Schemes {
    /// `https` only. With [`PrivateAddresses::Allow`] also `http` to local addresses.
    #[default]
    HttpsOnly,
    /// `https` and `http`. Anyone on the way can read and change files that come over `http`.
    HttpAndHttps,
}

/// Whether a URL may lead into the worker's own network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum PrivateAddresses {
    /// Public addresses only.
    #[default]
    Refuse,
    /// Also loopback, private, unique-local and carrier-grade NAT addresses, over `http` as well. Addresses of
    /// metadata services stay refused, and so do addresses that no host has.
    Allow,
}

/// Who copies a file from a URL into a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum CopyBy {
    /// The worker: it fetches the file and stores it.
    #[default]
    Worker,
    /// The storage service itself, if it can read the URL (Put Block From URL). The bytes never pass the worker.
    /// The service gets the URL with all that is secret in it. The worker still fetches these files itself:
    /// files shorter than a block, files whose SHA-256 or MD5 is to be compared, files without a strong ETag
    /// or without ranges, files that need credentials, and files that the service does not read.
    Service,
}

/// What happens to a task whose file is already there.
///
/// One case does not depend on the choice. A process may die after the commit of a file, before its result was
/// acknowledged. The task then comes again, and its file is not fetched again: the store noted the delivery that
/// the file is from ([`BlobNote`](crate::blob_store::BlobNote)), and the result is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ExistingFiles {
    /// The file is fetched, and replaces what is there.
    #[default]
    Replace,
    /// The file is left alone, and the task is skipped without a result. If the task names a size, a file of
    /// another size is replaced. If a worker put the file there, it is judged as with `Verify`.
    Skip,
    /// The file is kept if it is known to be the file of the task, and the result is published. Otherwise it is
    /// fetched. It is known by the hash in the task, or by what the store noted of its source, which includes
    /// the hash. If neither is there, the server is asked: the length must be the same, and the source must not
    /// have changed since the file was put there.
    Verify,
}
