//! The dead letters of a state: each task has one, the newest, for as long as it is not done.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::full_disk;
use super::line::Key;
use super::queue::{LINE, LIST};
use crate::CommandError;
use crate::terminal::tell;
use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::error::Error;
use longshore::event::Event;
use longshore::transfer::task::DownloadTask;
use longshore::transfer::url_policy::{Reason, UrlPolicy};

/// Says on the terminal which task failed and why, once its dead letter is safe, and removes the letters of
/// tasks that are done. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Letters {
    sink: FolderDeadLetterSink,
    policy: UrlPolicy,
    /// Letters of earlier runs.
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    letters: Vec<KnownLetter>,
    by_line: HashMap<Key, Vec<usize>>,
    by_path: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct KnownLetter {
    /// `None` once it is removed.
    file: Option<PathBuf>,
    /// The list that the line was on.
    list: Option<String>,
    /// Whether the line is on the list of this run.
    is_listed: bool,
}

impl Known {
    fn add(&mut self, file: PathBuf, record: &DeadLetterRecord) {
        let index = self.letters.len();
        let list = record.properties.get(LIST).and_then(|list| list.as_str()).map(str::to_owned);
        self.letters.push(KnownLetter { file: Some(file), list, is_listed: false });
        let id = record.message.message_id.as_ref();
        if let Some(key) = id.and_then(|id| Key::parse(&id.text())) {
            self.by_line.entry(key).or_default().push(index);
        }
        let body = record.body().ok();
        let task = body.and_then(|body| DownloadTask::from_json(&body).ok());
        if let Some(task) = task {
            self.by_path.entry(task.path.as_str().to_owned()).or_default().push(index);
        }
    }

    fn on_listed(&mut self, line: &Key) {
        for index in self.by_line.get(line).into_iter().flatten() {
            if let Some(letter) = self.letters.get_mut(*index) {
                letter.is_listed = true;
            }
        }
    }

    /// The letters of a line, and of the file at a path where that is done.
    fn take(&mut self, line: Option<&Key>, path: Option<&str>) -> Vec<PathBuf> {
        let by_line = line.and_then(|line| self.by_line.remove(line));
        let by_path = path.and_then(|path| self.by_path.remove(path));
        let indexes = by_line.into_iter().chain(by_path).flatten();
        indexes.filter_map(|index| self.letters.get_mut(index)?.file.take()).collect()
    }

    /// The letters of lines that are not on this list any more.
    fn take_unlisted(&mut self, list: &str) -> Vec<PathBuf> {
        let of_list =
            |letter: &&mut KnownLetter| !letter.is_listed && letter.list.as_deref() == Some(list);
        self.letters.iter_mut().filter(of_list).filter_map(|letter| letter.file.take()).collect()
    }
}

impl Letters {
    /// Opens the folder, and reads the letters of earlier runs.
    pub(super) async fn open(folder: PathBuf, policy: UrlPolicy) -> Result<Self, CommandError> {
        let reading = spawn_blocking(move || {
            let sink = FolderDeadLetterSink::open(folder)?;
            let mut known = Known::default();
            sink.visit(|letter| {
                // What cannot be read is nobody's letter, and stays.
                if let Ok(record) = &letter.record {
                    known.add(letter.path, record);
                }
            })?;
            Ok::<_, Error>((sink, known))
        });
        let (sink, known) =
            reading.await.map_err(|error| CommandError::new(error.to_string()))??;
        Ok(Self { sink, policy, known: Arc::new(Mutex::new(known)) })
    }

    /// Whether earlier runs left any.
    pub(super) fn are_known(&self) -> bool {
        !self.lock().letters.is_empty()
    }

    /// A line is on the list of this run.
    pub(super) fn on_listed(&self, line: &Key) {
        self.lock().on_listed(line);
    }

    /// The file of a line is there: what was said of it, and of other lines with its path, is settled.
    pub(super) fn on_done(&self, line: &Key, path: &str) {
        let files = self.lock().take(Some(line), Some(path));
        remove(files);
    }

    /// This list was read to its end: who edited a line settled what was said of it.
    pub(super) fn on_list_ended(&self, list: &str) {
        let files = self.lock().take_unlisted(list);
        remove(files);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The argument that would allow what was refused.
    fn remedy(&self, letter: &DeadLetter) -> &'static str {
        let Ok(task) = DownloadTask::from_json(letter.event.body()) else {
            return "";
        };
        match self.policy.check_url(&task.url).map_err(|refused| refused.reason().clone()) {
            Err(Reason::Address { kind, .. }) if kind.is_local() => "; --allow-private allows it",
            Err(Reason::PlainHttp) => "; --allow-http allows it",
            _ => "",
        }
    }
}

fn remove(files: Vec<PathBuf>) {
    for file in files {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let file = file.display();
                tell(format_args!("{file} is settled, and cannot be removed: {error}"));
            }
            _ => {}
        }
    }
}

/// Where a task stands on the list.
pub(super) fn place(event: &Event) -> &str {
    event.properties().get(LINE).and_then(|line| line.as_text()).unwrap_or("a task")
}

impl DeadLetterSink for Letters {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            full_disk::patiently(|| self.sink.write(letter), full_disk::is_by_full_disk).await?;
            // The new one stands for it.
            let line = letter.event.message_id().and_then(|id| Key::parse(&id));
            let before = self.lock().take(line.as_ref(), None);
            if !before.is_empty() {
                // Where the runtime is shutting down, the next run removes them.
                let _ = spawn_blocking(move || remove(before)).await;
            }
            let causes = letter.failure.causes.iter().map(|cause| format!(": {cause}"));
            tell(format_args!(
                "failed: {}: {}{}{}",
                place(&letter.event),
                letter.failure,
                causes.collect::<String>(),
                self.remedy(letter)
            ));
            Ok(())
        }
        .boxed()
    }
}
