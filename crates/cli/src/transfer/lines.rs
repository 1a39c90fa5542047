//! The tasks of a list on their way: what is handed to the download worker, and what is said
//! about those that fail.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::terminal::tell;
use crate::urls::{FAULT, LINE};
use longshore::consumer::{EventContext, EventHandler};
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::error::{Error, ErrorClass};
use longshore::event::{Event, PartitionId, SequenceNumber};
use longshore::outcome::{Failure, Outcome};
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::task::DownloadTask;
use longshore::transfer::url_policy::{Reason, UrlPolicy};

/// Refuses the lines that are no tasks, and downloads the rest.
pub(super) struct Lines {
    download: DownloadWorker,
    /// Which event of a task is the one: a publication that had no answer was made again.
    begun: Mutex<HashMap<String, (PartitionId, SequenceNumber)>>,
}

impl Lines {
    pub(super) fn new(download: DownloadWorker) -> Self {
        Self { download, begun: Mutex::default() }
    }

    /// Whether another event of the same task came before this one.
    fn is_second(&self, event: &Event) -> bool {
        let Some(key) = event.message_id() else {
            return false;
        };
        let this = (event.partition().id.clone(), event.sequence_number());
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun.entry(key.into_owned()).or_insert_with(|| this.clone()) != this
    }
}

impl EventHandler for Lines {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        if self.is_second(&event) {
            return Outcome::skip("the task was published before");
        }
        if let Some(fault) = event.properties().get(FAULT).and_then(|fault| fault.as_text()) {
            return Outcome::dead_letter(Failure::new(ErrorClass::BadData, fault));
        }
        let place = place(&event).to_owned();
        match self.download.handle(event, context).await {
            Outcome::Abort(mut failure) => {
                failure.message = format!("{place}: {}", failure.message);
                Outcome::Abort(failure)
            }
            outcome => outcome,
        }
    }
}

/// Where a task stands on the list.
fn place(event: &Event) -> &str {
    event.properties().get(LINE).and_then(|line| line.as_text()).unwrap_or("a task")
}

/// Says on the terminal which task failed and why, once its dead letter is safe.
#[derive(Debug)]
pub(super) struct Announcing<S> {
    pub(super) letters: S,
    pub(super) policy: UrlPolicy,
}

impl<S> Announcing<S> {
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

impl<S: DeadLetterSink> DeadLetterSink for Announcing<S> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.letters.write(letter).await?;
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
