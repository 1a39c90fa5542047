//! Counts the dead letters of a partition that lie in the failure store, while the partition is ours.
//!
//! Nothing else tells how many there are: operators replay, import and purge, and owners before wrote some. So they
//! are listed, slowly and beside the partition's worker, which never waits for it. A listing opens no record.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::consumer::shared::Shared;
use crate::consumer::status::PartitionStatus;
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::{Incarnation, Partition};
use crate::failure_store::{
    FailureKind, FailurePrefix, FailureStore, LogIdentity, MAX_PAGE_ENTRIES,
};

/// How often the dead letters of a partition are counted.
pub const LETTERS_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Most letters of a partition that are counted: so many are so many or more.
pub const MAX_COUNTED_LETTERS: u64 = 100_000;

/// The first count comes within this: a fleet that starts does not ask all at once.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// How soon it is counted again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Most pages of one count; a page may be short, and empty.
const MAX_PAGES: usize = 100;

const COUNT: &str = "count the dead letters";

/// The count that is under way for one ownership. Dropped, it ends.
pub(super) struct LetterCount(#[allow(dead_code, reason = "it ends with this")] JoinSet<()>);

impl LetterCount {
    /// Begins to count, where there is a failure store.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        partition: &Partition,
        incarnation: Incarnation,
        status: &Arc<PartitionStatus>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        if let Some(store) = &shared.failures {
            let log = shared.log_of(partition, incarnation);
            let (shared, status) = (Arc::clone(shared), Arc::clone(status));
            tasks.spawn(keep_counting(shared, Arc::clone(store), log, status));
        }
        Self(tasks)
    }
}

async fn keep_counting(
    shared: Arc<Shared>,
    store: Arc<dyn FailureStore>,
    log: LogIdentity,
    status: Arc<PartitionStatus>,
) {
    let prefix = FailurePrefix::of_log(FailureKind::Dead, &log);
    let mut wait = FIRST_WITHIN.mul_f64(shared.random());
    loop {
        sleep(wait).await;
        let counted = count(&*store, &prefix, shared.options.store_timeout).await;
        wait = match &counted {
            Ok(_letters) => LETTERS_INTERVAL.mul_f64(0.75 + shared.random() / 2.0),
            Err(error) => {
                debug!(
                    message_topic = %log.entity,
                    message_partition = %log.partition,
                    message_consumer_group = %log.consumer_group,
                    causes = ?error_chain(error),
                    "the dead letters cannot be counted"
                );
                AFTER_FAILURE
            }
        };
        status.on_letters(counted.ok());
    }
}

/// How many letters are listed, up to a limit.
///
/// # Errors
/// As the store fails; or a page takes longer than a call may.
async fn count(
    store: &dyn FailureStore,
    prefix: &FailurePrefix,
    limit: Duration,
) -> Result<u64, Error> {
    let (mut letters, mut after) = (0, None);
    for _page in 0..MAX_PAGES {
        let page = timeout(limit, store.list(prefix, after.as_ref(), MAX_PAGE_ENTRIES)).await;
        let page = page.unwrap_or_else(|_elapsed| {
            let message = format!("no answer within {limit:?}");
            Err(Error::new(ErrorClass::Transient, COUNT, message))
        })?;
        // One that cannot be read lies there as well.
        letters += page.entries.len() as u64;
        after = page.next;
        if after.is_none() || letters >= MAX_COUNTED_LETTERS {
            return Ok(letters.min(MAX_COUNTED_LETTERS));
        }
    }
    let message = format!("the listing has more than {MAX_PAGES} pages");
    Err(Error::new(ErrorClass::Unknown, COUNT, message))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::checkpoint_store::VersionToken;
    use crate::failure_store::{
        Expected, FailureEntry, FailureKey, FailurePage, PageToken, StoreError, StoredFailure,
    };

    /// A store that says its pages, by how many entries each has.
    #[derive(Debug)]
    struct Pages(Vec<usize>, AtomicUsize);

    impl Pages {
        fn new(pages: impl IntoIterator<Item = usize>) -> Self {
            Self(pages.into_iter().collect(), AtomicUsize::new(0))
        }
    }

    impl FailureStore for Pages {
        fn place(&self) -> String {
            "a test".to_owned()
        }

        fn put<'a>(
            &'a self,
            _: &'a FailureKey,
            _: &'a FailureEntry,
            _: &'a Expected,
        ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
            panic!("nothing is put")
        }

        fn read<'a>(
            &'a self,
            _: &'a FailureKey,
        ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
            panic!("no record is opened")
        }

        fn list<'a>(
            &'a self,
            prefix: &'a FailurePrefix,
            after: Option<&'a PageToken>,
            _: usize,
        ) -> BoxFuture<'a, Result<FailurePage, Error>> {
            assert_eq!(prefix.path(), "dead/ns/orders/0000000000007/g/0/");
            let page = self.1.fetch_add(1, Ordering::Relaxed);
            assert_eq!(after, (page > 0).then(|| PageToken(page.to_string())).as_ref());
            let mut listed = FailurePage::default();
            let unreadable = || Error::new(ErrorClass::BadData, "list", "it is cut");
            listed.entries = (0..self.0[page]).map(|_| Err(unreadable())).collect();
            listed.next = (page + 1 < self.0.len()).then(|| PageToken((page + 1).to_string()));
            async move { Ok(listed) }.boxed()
        }

        fn delete<'a>(
            &'a self,
            _: &'a FailureKey,
            _: &'a VersionToken,
        ) -> BoxFuture<'a, Result<(), StoreError>> {
            panic!("nothing is deleted")
        }
    }

    async fn counted(pages: &Pages) -> Result<u64, Error> {
        let log = LogIdentity {
            namespace: "ns".to_owned(),
            entity: "orders".into(),
            incarnation: Incarnation(7),
            consumer_group: "g".into(),
            partition: "0".into(),
        };
        let prefix = FailurePrefix::of_log(FailureKind::Dead, &log);
        count(pages, &prefix, Duration::from_secs(1)).await
    }

    #[tokio::test]
    async fn pages_are_counted_up_to_a_limit() {
        for (pages, expected) in [
            (vec![0], 0),
            (vec![5_000, 0, 1, 2], 5_003),
            (vec![5_000; 20], 100_000),
            (vec![4_999; 90], 100_000),
        ] {
            let pages = Pages::new(pages);
            assert_eq!(counted(&pages).await.unwrap(), expected);
            assert!(pages.1.load(Ordering::Relaxed) <= 21, "{:?}", pages.1);
        }
        let endless = Pages::new(vec![1; MAX_PAGES + 1]);
        let error = counted(&endless).await.unwrap_err();
        assert_eq!(endless.1.load(Ordering::Relaxed), MAX_PAGES);
        assert!(error.to_string().contains("more than 100 pages"), "{error}");
    }
}
