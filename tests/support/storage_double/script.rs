//! What a test has played: which requests, how often, and what befalls them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::refusal::Refusal;
use super::request::{Operation, Request};

/// What befalls a request.
#[derive(Clone, Debug)]
pub enum Play {
    /// It is read, and the connection is reset before it is passed on.
    LoseRequest,
    /// The connection is reset in the middle of its body.
    CutRequest,
    /// It takes effect, and the connection is reset instead of an answer.
    LoseAnswer,
    /// It takes effect, and the connection is reset in the middle of the answer's body.
    CutAnswer,
    /// It takes effect, and is answered so much later.
    AnswerLate(Duration),
    /// It takes effect, and is answered once this is notified.
    Hold(Arc<Notify>),
    /// The connection is reset, and so much later it takes effect all the same.
    LandLate(Duration),
    /// So much later it takes effect and is answered, whether the client is still there or not.
    LandSlowly(Duration),
    /// It is refused and has no effect.
    Refuse(Refusal),
    /// It is refused before its body is read, and the connection ends.
    RefuseUnread(Refusal),
    /// It takes effect, and is answered with this.
    RefuseAfter(Refusal),
    /// Before it, the blob's uncommitted blocks are gone.
    ExpireBlocks,
    /// It takes effect, and the body of the answer is made another one.
    Alter(fn(&mut Vec<u8>)),
}

/// Which requests, and how often.
#[derive(Clone, Debug)]
pub struct Script {
    operations: Vec<Operation>,
    blob: Option<String>,
    skip: usize,
    times: Option<usize>,
}

impl Script {
    /// Requests of this operation, each.
    pub fn on(operation: Operation) -> Self {
        Self::on_any([operation])
    }

    /// Requests of these operations, each.
    pub fn on_any(operations: impl IntoIterator<Item = Operation>) -> Self {
        let operations = operations.into_iter().collect();
        Self { operations, blob: None, skip: 0, times: None }
    }

    /// Only those of this blob.
    #[must_use]
    pub fn of(mut self, blob: &str) -> Self {
        self.blob = Some(blob.to_owned());
        self
    }

    /// Only after so many have passed.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Only so many of them.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    fn fits(&self, request: &Request) -> bool {
        self.operations.contains(&request.operation)
            && self.blob.as_ref().is_none_or(|blob| *blob == request.blob)
            && self.times != Some(0)
    }
}

#[derive(Default)]
pub(super) struct Scripts(Vec<(Script, Play)>);

impl Scripts {
    pub(super) fn add(&mut self, script: Script, play: Play) {
        self.0.push((script, play));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What is played for a request, which counts for its script.
    pub(super) fn take(&mut self, request: &Request) -> Option<Play> {
        for (script, play) in &mut self.0 {
            if !script.fits(request) {
                continue;
            }
            if script.skip > 0 {
                script.skip -= 1;
                continue;
            }
            if let Some(times) = &mut script.times {
                *times -= 1;
            }
            return Some(play.clone());
        }
        None
    }
}
