//! A store over a container, with the double between them.

use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::{
    BlobError, BlobName, BlobNote, BlobStore as _, Commit, ExpectedBlob, MadeOf, OpenBlocks, Sums,
};
use longshore::secret::Secret;

use crate::azurite::{ALL, Container};
use crate::storage_double::{Operation, StorageDouble};

/// With this budget and eight streams, blocks have 64 KiB.
const BUDGET: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 64 << 10;
pub(crate) const LONG: u64 = 2 * BLOCK + 1_000;
pub(crate) const SHORT: u64 = 1_000;
const SOURCE: [u8; 16] = [7; 16];

pub(crate) struct Stage {
    pub(crate) container: Container,
    pub(crate) double: StorageDouble,
    pub(crate) store: ContainerBlobStore,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::with_rights(ALL).await
    }

    pub(crate) async fn with_rights(permissions: &str) -> Self {
        let container = Container::create().await;
        let double = StorageDouble::before(&container.url(ALL));
        let store = store(&double.url(&container.url(permissions)));
        Self { container, double, store }
    }

    /// A store of its own, over the same way.
    pub(crate) fn through(&self) -> Arc<ContainerBlobStore> {
        Arc::new(store(&self.double.url(&self.container.url(ALL))))
    }

    /// Stores a file that is short, or long where blocks are meant, as a worker does.
    pub(crate) async fn put(&self, path: &str, operation: Operation) -> Result<(), BlobError> {
        match operation {
            Operation::PutBlob => self.put_whole(path, &content(SHORT, 1), 1).await,
            _ => self.put_blocks(path, &content(LONG, 1), 1).await.map(drop),
        }
    }

    pub(crate) async fn put_whole(
        &self,
        path: &str,
        content: &Bytes,
        work: u8,
    ) -> Result<(), BlobError> {
        let name = name(path);
        let commit = self.commit(&name, content, work).await?;
        let mut writer = self.store.open(&name, Some(content.len() as u64)).await?;
        writer.write(content.clone()).await?;
        writer.commit(commit).await
    }

    /// How many bytes of it were there.
    pub(crate) async fn put_blocks(
        &self,
        path: &str,
        content: &Bytes,
        work: u8,
    ) -> Result<u64, BlobError> {
        let (name, bytes) = (name(path), content.len() as u64);
        let commit = self.commit(&name, content, work).await?;
        let made = MadeOf::new(&SOURCE, "v1", bytes, BLOCK).with_sha256(false);
        let opened = self.store.open_blocks(&name, &made).await?.expect("it takes blocks");
        let OpenBlocks { writer, there } = opened;
        for at in (0..bytes).step_by(BLOCK as usize) {
            if !there.iter().any(|part| part.contains(&at)) {
                writer.reserve(at).await;
                let block = at as usize..bytes.min(at + BLOCK) as usize;
                writer.write_at(at, vec![content.slice(block)]).await?;
            }
        }
        writer.on_written_to(bytes).await?;
        writer.commit(commit).await?;
        Ok(there.iter().map(|part| part.end - part.start).sum())
    }

    async fn commit(
        &self,
        name: &BlobName,
        content: &Bytes,
        work: u8,
    ) -> Result<Commit, BlobError> {
        let expected = match self.store.find(name).await? {
            None => ExpectedBlob::Absent,
            Some(found) => ExpectedBlob::Version(found.version.expect("a container tells")),
        };
        let (work, bytes) = ([work; 16], content.len() as u64);
        let note = BlobNote { work, source: SOURCE, bytes, sums: Sums::default() };
        Ok(Commit::new(note).with_expected(expected))
    }

    /// The blob is what was put, and nothing else.
    pub(crate) async fn has(&self, path: &str, operation: Operation) {
        let bytes = if operation == Operation::PutBlob { SHORT } else { LONG };
        assert!(
            self.container.content(path).await.as_deref() == Some(&content(bytes, 1)[..]),
            "{path}"
        );
    }

    pub(crate) async fn has_none(&self, path: &str) {
        assert!(self.container.content(path).await.is_none(), "{path}");
    }
}

pub(crate) fn store(url: &str) -> ContainerBlobStore {
    let store = ContainerBlobStore::with_signature(&Secret::new(url)).expect("valid");
    store.with_budget(BUDGET, 8)
}

pub(crate) fn name(text: &str) -> BlobName {
    BlobName::parse(text).expect("a name")
}

pub(crate) fn content(bytes: u64, seed: u64) -> Bytes {
    (0..bytes)
        .map(|at| (at * 31 / 7 + seed * 5) as u8 ^ (at >> 9) as u8)
        .collect::<Vec<u8>>()
        .into()
}

/// The error and what caused it.
pub(crate) fn told(error: &BlobError) -> String {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {cause}")
}

/// So many at once.
pub(crate) async fn all_of<F: Future<Output = ()>>(cases: impl IntoIterator<Item = F>) {
    stream::iter(cases).buffer_unordered(24).collect::<Vec<()>>().await;
}
