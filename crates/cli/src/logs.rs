//! Asks the logs of a hub's partitions where they begin and end, as fast as the service allows, and shows
//! how far that is.

use std::cell::{Cell, RefCell};
use std::time::SystemTime;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};

use super::brief;
use super::progress::{Display, Standing};
use longshore::event::PartitionId;
use longshore::hub::LogProperties;
use longshore::state::call_pace::CallPace;
use longshore::transport::Transport;
use longshore::transport::event_hubs::{EventHubsTransport, MANAGEMENT_CALLS_A_SECOND};

/// Questions that are under way at once, each over a connection of its own, which answers one after the
/// other. With so many the pace is the service's, and not the network's, up to answers of 80 ms.
const AT_ONCE: usize = 4;

/// Fewer partitions are asked over one connection: another one takes longer than they do.
const FEW: usize = 16;

/// What a log says of itself, and when.
pub(crate) struct Answer {
    pub(crate) log: LogProperties,
    pub(crate) at: SystemTime,
}

/// Asks for each of these, in their order; or why one does not answer. After a failure that is not one
/// partition's, the others are not asked.
pub(crate) async fn ask(
    transport: &EventHubsTransport,
    partitions: &[PartitionId],
) -> Vec<Result<Answer, String>> {
    let more = if partitions.len() <= FEW { 0 } else { AT_ONCE - 1 };
    let others: Vec<EventHubsTransport> = (0..more).map(|_| transport.another()).collect();
    let transports: Vec<&EventHubsTransport> = [transport].into_iter().chain(&others).collect();
    let asked = Asked::default();
    let mut questions = Vec::new();
    for (partition, transport) in partitions.iter().zip(transports.iter().copied().cycle()) {
        questions.push(asked.one(transport, partition));
    }
    let asking = stream::iter(questions).buffered(transports.len()).collect();
    let standing = || Standing::of_partitions(asked.answered.get(), partitions.len() as u64);
    let answers = Display::new("").during(asking, standing).await;
    join_all(others.iter().map(|other| other.close())).await;
    answers
}

/// What the questions share.
struct Asked {
    pace: RefCell<CallPace>,
    answered: Cell<u64>,
    /// Why nobody is asked any more.
    lost: RefCell<Option<String>>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            pace: RefCell::new(CallPace::new(MANAGEMENT_CALLS_A_SECOND)),
            answered: Cell::default(),
            lost: RefCell::default(),
        }
    }
}

impl Asked {
    async fn one(
        &self,
        transport: &EventHubsTransport,
        partition: &PartitionId,
    ) -> Result<Answer, String> {
        if let Some(why) = &*self.lost.borrow() {
            return Err(why.clone());
        }
        let place = self.pace.borrow_mut().take_place(Instant::now().into_std());
        sleep_until(Instant::from_std(place)).await;
        let answer = transport.log_properties(partition).await;
        self.answered.set(self.answered.get() + 1);
        answer.map(|log| Answer { log, at: SystemTime::now() }).map_err(|error| {
            let why = brief(&error);
            if error.class().is_retryable() {
                self.lost.replace(Some(why.clone()));
            }
            why
        })
    }
}
