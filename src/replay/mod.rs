//! Replay: hands dead letters out again, as a job that can be stopped, killed and continued.
//!
//! ```text
//!  which letters ──> Plan ──> Job (its folder) ──> run ──┬─> parked/, and the group handles them again
//!                                 ^                │     └─> another hub
//!                                 └── journal <────┘
//! ```
//!
//! - **The set of letters is fixed.** [`Plan`] names letters by the identity of their event and by how often they were
//!   replayed before. A letter that is written again meanwhile counts as another letter and is skipped.
//! - **A letter has one job.** Before a letter is handed out, it is marked with the job, by its version; see
//!   [`FailureMeta::replaying`](crate::failure_store::FailureMeta::replaying). Other jobs skip it.
//! - **Into the group** ([`Way::Group`]): a record below `parked/` is written that is due at once, with the job and the
//!   next generation. The owner of the partition hands it out. If both the parked record and the letter are gone, the
//!   letter is done. If the parked record is gone and there is a letter of that generation, it failed again. So the
//!   store alone tells how far a job is.
//! - **To another hub** ([`Way::Entity`]): the letter is published, and deleted when the hub has acknowledged it. If a
//!   run is killed between the two, nobody can know whether the hub has the event. Such letters are
//!   [`Fate::InDoubt`]: they stay in the store and are not published again.

mod hand_out;
mod job;
mod journal;
mod letters;
mod looking;
mod run;

pub use hand_out::Way;
pub use job::{Edited, Job, JobError, Plan};
pub use journal::{End, Note};
pub use letters::release;
pub use run::{Ended, Wait, run};

pub use crate::state::replay::{Counts, Fate, Limits, Stop};

#[cfg(test)]
mod tests;
