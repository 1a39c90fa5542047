//! A store of failures with letters in it, and the command over it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longshore::dead_letter::store::StoreDeadLetterSink;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::event::{EventParts, Incarnation, Partition};
use longshore::failure_store::FailureStore;
use longshore::failure_store::container::ContainerFailureStore;
use longshore::failure_store::folder::FolderFailureStore;
use longshore::secret::Secret;
use longshore::{ErrorClass, Failure};
use serde_json::Value;

use crate::azurite::{ALL, Container};
use crate::command::{Ended, Running, longshore, start};

/// Looked for in everything that is printed.
pub(crate) const KEY: &str = "Y2FuYXJ5LWtleQ==";

/// A store of failures, and the command over it.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) container: Option<Container>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Stage {
    /// Beside the checkpoints in the folder that is the default.
    pub(crate) fn over_a_folder() -> Self {
        let string =
            format!("Endpoint=sb://ns.example/;SharedAccessKeyName=k;SharedAccessKey={KEY}");
        Self {
            dir: tempfile::tempdir().unwrap(),
            container: None,
            environment: vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string)],
        }
    }

    /// In the container of the checkpoints.
    pub(crate) async fn over_a_container() -> Self {
        let mut stage = Self::over_a_folder();
        let container = Container::create().await;
        let key = "LONGSHORE_CHECKPOINT_CONTAINER".to_owned();
        stage.environment.push((key, container.url(ALL)));
        stage.container = Some(container);
        stage
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("longshore-state/failures")
    }

    pub(crate) fn store(&self) -> Arc<dyn FailureStore> {
        match &self.container {
            None => Arc::new(FolderFailureStore::open(self.folder()).unwrap()),
            Some(container) => {
                let url = Secret::new(container.url(ALL));
                Arc::new(ContainerFailureStore::with_signature(&url).unwrap())
            }
        }
    }

    pub(crate) async fn write(&self, letters: impl IntoIterator<Item = DeadLetter>) {
        let sink = StoreDeadLetterSink::new(self.store());
        for letter in letters {
            sink.write(&letter).await.unwrap();
        }
    }

    /// A command under way.
    pub(crate) fn start(&self, command: &str, arguments: &[&str]) -> Running {
        let mut process = longshore();
        process.env_clear().envs(self.environment.iter().cloned()).current_dir(self.dir.path());
        start(process.arg(command).args(arguments))
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_of("dead-letters", arguments).await
    }

    pub(crate) async fn run_of(&self, command: &str, arguments: &[&str]) -> Ended {
        let running = self.start(command, arguments);
        let ended = tokio::task::spawn_blocking(move || running.end()).await.unwrap();
        for printed in [&ended.stdout, &ended.stderr] {
            for secret in [KEY, "sig=", "c4nary", "\u{1b}"] {
                assert!(!printed.contains(secret), "{secret} is in\n{printed}");
            }
        }
        ended
    }

    pub(crate) async fn report(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--report", "json"]].concat()).await.expect_code(0).report()
    }
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000 + seconds)
}

pub(crate) fn parts(entity: &str, number: i64, body: &str) -> EventParts {
    let partition = Arc::new(Partition::new(entity, "0"));
    EventParts::new(partition, number, body.as_bytes().to_vec())
}

pub(crate) fn letter(parts: EventParts, message: &str) -> DeadLetter {
    let number = parts.sequence_number.0;
    let failed = at(u64::try_from(number).unwrap());
    let failure = Failure::permanent(message);
    DeadLetter::new(parts.into(), "$Default".into(), "worker-1", failure, failed)
        .with_history(3, at(0))
        .with_origin("ns.example", Incarnation(1_700_000_000_123))
}

/// Five of one failure and two of another.
pub(crate) fn several() -> Vec<DeadLetter> {
    let not_found = |number| format!("https://u:c4nary@files.example/{number}.zip?sig=c4nary: 404");
    let mut letters: Vec<_> =
        (1..=5).map(|number| letter(parts("orders", number, "x"), &not_found(number))).collect();
    for number in [6, 7] {
        let mut letter = letter(parts("billing", number, "{\"a\":1}"), "the disk is full");
        letter.failure.class = ErrorClass::Unknown;
        letter.worker = "worker-2".to_owned();
        letter.destination = Some("disk".to_owned());
        letters.push(letter);
    }
    letters
}

pub(crate) fn ids(report: &Value) -> Vec<i64> {
    let letters = report["letters"].as_array().unwrap();
    letters.iter().map(|letter| letter["sequence_number"].as_i64().unwrap()).collect()
}
