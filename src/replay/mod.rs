//! Replay: hands dead letters out again, as a job that can be stopped, killed and gone on with.
//!
//! ```text
//!  which letters ──> Plan ──> Job (its folder) ──> run ──┬─> parked/, and the group handles them again
//!                                 ^                │     └─> another hub
//!                                 └── journal <────┘
//! ```
//!
//! - **A frozen set.** [`Plan`] names letters by the identity of their event and by how often they were replayed
//!   before. What is written anew meanwhile is another letter, and is skipped.
//! - **One job a letter.** Before a letter is handed out it is marked with the job, by its version; see
//!   [`FailureMeta::replaying`](crate::failure_store::FailureMeta::replaying). Another job skips it.
//! - **Into the group** ([`Way::Group`]): a record below `parked/` that is due at once, with the job and the next
//!   generation. The owner of the partition hands it out. Parked and letter gone: done. Parked gone and a letter of
//!   that generation: failed again. So the store alone says how far a job is.
//! - **To another hub** ([`Way::Entity`]): the letter is published, and deleted when the hub has acknowledged it.
//!   A run that is killed in between cannot know which of the two; such letters are [`Fate::InDoubt`], stay in the
//!   store, and are not published again.
//!
//! What is decided is in [`state::replay`](crate::state::replay); here is what carries it out.

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
