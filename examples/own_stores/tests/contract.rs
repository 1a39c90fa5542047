//! The stores do what longshore relies on.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::dead_letter::DeadLetterSink;
use longshore::testing::contract::{self, KeptLetter, LettersUnderTest};
use own_stores::{FileDeadLetterSink, SqliteCheckpointStore};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_store_holds_the_contract() {
    let folder = TempDir::new().expect("a folder");
    let stores = Cell::new(0);
    contract::checkpoint_stores()
        .hold(async || {
            stores.set(stores.get() + 1);
            let path = folder.path().join(format!("{}.sqlite", stores.get()));
            SqliteCheckpointStore::open(path).expect("it opens")
        })
        .await;
    assert_eq!(stores.get(), contract::checkpoint_stores().names().count());
}

/// A folder with the file of a sink.
struct Letters(TempDir);

impl Letters {
    fn path(&self) -> PathBuf {
        self.0.path().join("letters.jsonl")
    }
}

impl LettersUnderTest for Letters {
    fn open(&self) -> BoxFuture<'_, Arc<dyn DeadLetterSink>> {
        async {
            let sink = FileDeadLetterSink::open(self.path()).expect("it opens");
            Arc::new(sink) as Arc<dyn DeadLetterSink>
        }
        .boxed()
    }

    fn kept(&self) -> BoxFuture<'_, Vec<KeptLetter>> {
        async {
            let records = FileDeadLetterSink::read(self.path()).expect("it is read");
            let letters = records.into_iter().map(|record| {
                let event = record.to_event().expect("it has its event");
                KeptLetter {
                    partition: event.partition().clone(),
                    sequence_number: event.sequence_number(),
                    body: event.body().clone(),
                    message: record.error.message.clone(),
                }
            });
            letters.collect()
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_letter_sink_holds_the_contract() {
    let fresh = async || Letters(TempDir::new().expect("a folder"));
    contract::dead_letter_sinks().hold(fresh).await;
}

#[test]
fn a_part_of_a_line_is_cut_off_and_the_others_stay() {
    let letters = Letters(TempDir::new().expect("a folder"));
    let whole = "{\"version\":3}\n";
    std::fs::write(letters.path(), format!("{whole}{{\"vers")).expect("written");
    drop(FileDeadLetterSink::open(letters.path()).expect("it opens"));
    assert_eq!(std::fs::read_to_string(letters.path()).expect("read"), whole);
}
