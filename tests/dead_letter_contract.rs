//! The contract of dead-letter sinks, run against each of ours that is on this machine.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::dead_letter::store::StoreDeadLetterSink;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore};
use longshore::testing::contract::{KeptLetter, LettersUnderTest, dead_letter_sinks};
use longshore::{Error, ErrorClass};

fn kept_in(record: &DeadLetterRecord) -> KeptLetter {
    let event = record.to_event().expect("it has its event");
    KeptLetter {
        partition: event.partition().clone(),
        sequence_number: event.sequence_number(),
        body: event.body().clone(),
        message: record.error.message.clone(),
    }
}

struct Memory(Arc<MemoryDeadLetterSink>);

impl LettersUnderTest for Memory {
    fn open(&self) -> BoxFuture<'_, Arc<dyn DeadLetterSink>> {
        async { Arc::clone(&self.0) as Arc<dyn DeadLetterSink> }.boxed()
    }

    fn kept(&self) -> BoxFuture<'_, Vec<KeptLetter>> {
        let letters = self.0.letters();
        async move { letters.iter().map(|one| kept_in(&DeadLetterRecord::new(one))).collect() }
            .boxed()
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn sink(&self) -> FolderDeadLetterSink {
        FolderDeadLetterSink::open(PathBuf::from(self.0.path())).expect("it opens")
    }
}

impl LettersUnderTest for Folder {
    fn open(&self) -> BoxFuture<'_, Arc<dyn DeadLetterSink>> {
        async { Arc::new(self.sink()) as Arc<dyn DeadLetterSink> }.boxed()
    }

    fn kept(&self) -> BoxFuture<'_, Vec<KeptLetter>> {
        let mut kept = Vec::new();
        let visited =
            self.sink().visit(|stored| kept.push(kept_in(&stored.record.expect("whole"))));
        visited.expect("it is listed");
        async { kept }.boxed()
    }
}

struct Store(Arc<MemoryFailureStore>);

impl LettersUnderTest for Store {
    fn open(&self) -> BoxFuture<'_, Arc<dyn DeadLetterSink>> {
        let sink = StoreDeadLetterSink::new(self.0.clone());
        async { Arc::new(sink) as Arc<dyn DeadLetterSink> }.boxed()
    }

    fn kept(&self) -> BoxFuture<'_, Vec<KeptLetter>> {
        async {
            let all = FailurePrefix::all(FailureKind::Dead);
            let page = self.0.list(&all, None, 5_000).await.expect("it is listed");
            let mut kept = Vec::new();
            for entry in page.entries {
                let stored = self.0.read(&entry.expect("whole").key).await.expect("it is read");
                kept.push(kept_in(&stored.expect("there").record().expect("whole")));
            }
            kept
        }
        .boxed()
    }
}

#[tokio::test]
async fn the_sink_in_memory_holds_the_contract() {
    dead_letter_sinks().hold(async || Memory(Arc::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_in_a_folder_holds_the_contract() {
    dead_letter_sinks().hold(async || Folder(tempfile::tempdir().expect("a folder"))).await;
}

#[tokio::test]
async fn the_sink_in_the_store_of_failures_holds_the_contract() {
    dead_letter_sinks().hold(async || Store(Arc::new(MemoryFailureStore::new()))).await;
}

/// A sink that is wrong in one way.
#[derive(Debug)]
struct Wrong(Arc<MemoryDeadLetterSink>, Fault);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It says `Ok` and keeps nothing.
    Forgets,
    /// It keeps one letter of each number.
    MixesPartitions,
    Fails,
}

impl DeadLetterSink for Wrong {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        let number = letter.event.sequence_number();
        let knows = self.0.letters().iter().any(|one| one.event.sequence_number() == number);
        match self.1 {
            Fault::Forgets => async { Ok(()) }.boxed(),
            Fault::MixesPartitions if knows => async { Ok(()) }.boxed(),
            Fault::MixesPartitions => self.0.write(letter),
            Fault::Fails => {
                async { Err(Error::new(ErrorClass::Transient, "write", "away")) }.boxed()
            }
        }
    }
}

struct WrongLetters(Memory, Fault);

impl LettersUnderTest for WrongLetters {
    fn open(&self) -> BoxFuture<'_, Arc<dyn DeadLetterSink>> {
        let sink = Arc::new(Wrong(Arc::clone(&self.0.0), self.1)) as Arc<dyn DeadLetterSink>;
        async { sink }.boxed()
    }

    fn kept(&self) -> BoxFuture<'_, Vec<KeptLetter>> {
        self.0.kept()
    }
}

#[tokio::test]
async fn sinks_that_are_wrong_do_not_hold_it() {
    let contract = dead_letter_sinks();
    for fault in [Fault::Forgets, Fault::MixesPartitions, Fault::Fails] {
        let fresh = async || WrongLetters(Memory(Arc::default()), fault);
        let held = AssertUnwindSafe(contract.hold(fresh)).catch_unwind().await;
        assert!(held.is_err(), "{fault:?}");
    }
}
