//! The bytes of one file: over one connection at a time, each going on where the last one broke; or, of
//! a large file, over several at once ([`side_by_side`](super::side_by_side)).

use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep};
use tracing::debug;
use url::Url;

use super::arriving::{Arriving, Hashes, InBlocks};
use super::by_service::{ByService, Copied, Refusals};
use super::checks::{check_along, check_length, check_rate, verified, wrong_length};
use super::job::Job;
use super::net::{First, Net, Stopped, put_back};
use super::room;
use super::side_by_side::{NotThere, SideBySide};
use crate::blob_store::{AskedMd5, BlobStore, Sums};
use crate::outcome::{Failure, Outcome};
use crate::state::block_plan::Blocks;
use crate::state::fetch_plan::{self as plan, AfterBreak, End, Misfit};
use crate::transfer::http::NotFetched;
use crate::transfer::rates::Meter;
use crate::transfer::source::{Body, Opened};
use crate::transfer::store_failure::store_failed;

/// A file that is fetched.
pub(super) struct Receiving<'a> {
    pub(super) net: Net<'a>,
    pub(super) store: &'a dyn BlobStore,
    pub(super) job: &'a Job<'a>,
    /// What names the file and all that it must be.
    pub(super) source: &'a [u8; 16],
    /// The host of the task's URL.
    pub(super) host: &'a str,
    /// Where the service of the store is to copy large files: the hosts that it does not read from.
    pub(super) service: Option<&'a Refusals>,
    /// What it takes of the disk.
    pub(super) room: &'a room::File<'a>,
}

/// How fast the bodies of one attempt came so far.
#[derive(Default)]
pub(super) struct Pace {
    received: u64,
    /// From the head of an answer to the end of its body, without what our own rates took.
    spent: Duration,
}

impl Receiving<'_> {
    /// All of the file, checked.
    pub(super) async fn all_of(&self, arriving: &mut Arriving) -> Result<(u64, Sums), Stopped> {
        if arriving.received() == 0 {
            let (store, name) = (self.store, self.job.path);
            let blocks = self.blocks(self.net.limits.block_bytes, self.job.md5.is_some());
            let resumed = arriving.resume(store, name, self.source, blocks);
            resumed.await.map_err(store_failed)?;
        }
        self.receive(arriving).await?;
        match verified(self.job, arriving) {
            // Its blocks may be at fault.
            Err(Outcome::Retry(_)) if arriving.in_blocks().is_some() => {
                arriving.on_no_parts().await;
                self.receive(arriving).await?;
                verified(self.job, arriving).map_err(Stopped::Ends)
            }
            checked => checked.map_err(Stopped::Ends),
        }
    }

    /// Asks for the file, and for the rest of it after each break, until all of it is there.
    async fn receive(&self, arriving: &mut Arriving) -> Result<(), Stopped> {
        let Self { net, job, .. } = self;
        let mut pace = Pace::default();
        if let Some(blocks) = arriving.in_blocks() {
            check_length(job, Some(blocks.version.total), net.limits)?;
            match self.in_blocks(blocks, None).boxed().await {
                // It may be another file by now, which may come in blocks.
                Err(NotThere::NoParts) => arriving.throw_away().await,
                Err(NotThere::Stopped(stopped)) => return Err(stopped),
                Ok(()) => return Ok(()),
            }
        }
        loop {
            let has_nothing = arriving.plan.received() == 0;
            let asked = tokio::select! {
                biased;
                asked = job.source.get(arriving.plan.ask(), net.rates) => asked,
                () = net.stop.cancelled(), if has_nothing => return Err(put_back().into()),
            };
            let Opened { body, answer, host, said, at } = match asked {
                Ok(opened) => opened,
                Err(NotFetched::NoSuchPart) => {
                    arriving.plan.on_no_such_part();
                    continue;
                }
                Err(NotFetched::Ends(outcome)) => return Err(Stopped::Broke(outcome)),
            };
            let mut first = First { body, host };
            match arriving.plan.on_answer(answer) {
                Ok(plan::Body::Follows) => check_length(job, arriving.plan.total(), net.limits)?,
                Ok(plan::Body::BeginsAnew) => {
                    check_length(job, arriving.plan.total(), net.limits)?;
                    check_along(job, &said)?;
                    arriving.said = Some(said);
                    first = match self.by_service(arriving, at, first).boxed().await? {
                        Copied::All => return Ok(()),
                        Copied::Not(Some(first)) => first,
                        Copied::Not(None) => {
                            arriving.on_not_copied();
                            continue;
                        }
                    };
                    if self.begin_in_blocks(arriving).await?
                        && let Some(blocks) = arriving.in_blocks()
                    {
                        match self.in_blocks(blocks, Some(first)).boxed().await {
                            Err(NotThere::NoParts) => arriving.on_no_parts().await,
                            Err(NotThere::Stopped(stopped)) => return Err(stopped),
                            Ok(()) => return Ok(()),
                        }
                        continue;
                    }
                    self.room.on_bytes(arriving.plan.total().unwrap_or(0));
                    let hashes = self.hashes(arriving);
                    let begun = arriving.begin_anew(self.store, job.path, hashes);
                    begun.await.map_err(store_failed)?;
                }
                Err(Misfit::OtherPart) => continue,
                Err(Misfit::NotAskedFor) => {
                    return Err(Stopped::Ends(Outcome::retry(Failure::transient(format!(
                        "{}: the server answered 206 Partial Content where all of the file was \
                         asked for",
                        job.source
                    )))));
                }
            }
            let (begun, before) = (Instant::now(), arriving.plan.received());
            let mut meter = net.rates.meter(first.host);
            let copied = self.copy(first.body, arriving, &mut meter, &pace).await;
            pace.spent += begun.elapsed().saturating_sub(meter.waited());
            pace.received += arriving.plan.received().saturating_sub(before);
            match copied {
                Ok(()) => match arriving.plan.on_end() {
                    End::Complete => return Ok(()),
                    // Whoever gives little at a time is asked as seldom as one who breaks off.
                    End::More => match arriving.plan.on_break() {
                        AfterBreak::GoOn(pause) => sleep(pause).await,
                        AfterBreak::Failed => {
                            let what = format!("{}: no more of it comes", job.source);
                            let failure = Failure::transient(what);
                            return Err(Stopped::Broke(Outcome::retry(failure)));
                        }
                    },
                    End::WrongLength { announced } => {
                        // What is too much of it is there as well: it is of no use.
                        let received = arriving.plan.received();
                        let message = wrong_length(job, received, announced, "the server");
                        return Err(Stopped::Ends(Outcome::retry(Failure::transient(message))));
                    }
                },
                Err(Stopped::Ends(outcome)) => return Err(Stopped::Ends(outcome)),
                Err(Stopped::Broke(outcome)) => match arriving.plan.on_break() {
                    AfterBreak::GoOn(pause) => {
                        debug!(
                            task = %job.id,
                            bytes = arriving.plan.received(),
                            "the connection broke; the rest is asked for"
                        );
                        sleep(pause).await;
                    }
                    AfterBreak::Failed => return Err(Stopped::Broke(outcome)),
                },
            }
        }
    }

    /// Has the service of the store copy the file, if that is chosen.
    async fn by_service<'b>(
        &self,
        arriving: &mut Arriving,
        at: Option<Url>,
        first: First<'b>,
    ) -> Result<Copied<'b>, Stopped> {
        let Some(refusals) = self.service else { return Ok(Copied::Not(Some(first))) };
        let Self { net, store, job, source, host, .. } = *self;
        ByService { net, store, job, source, host, refusals }.run(arriving, at, first).await
    }

    /// Whether the file is one that comes in blocks; then it is opened for them.
    async fn begin_in_blocks(&self, arriving: &mut Arriving) -> Result<bool, Outcome> {
        let Self { net, store, job, .. } = self;
        let wanted = net.limits.block_bytes;
        let is_large = |total: u64| total >= wanted.saturating_mul(2);
        let version = arriving.plan.version_in_parts();
        let version = version.filter(|of| is_large(of.total) && net.connections.are_shared());
        let Some(version) = version else { return Ok(false) };
        let hashes = self.hashes(arriving);
        let blocks =
            self.blocks(store.block_bytes(version.total, wanted), hashes.md5 != AskedMd5::No);
        let begun =
            arriving.begin_in_blocks(*store, job.path, self.source, version, blocks, hashes);
        begun.boxed().await.map_err(store_failed)
    }

    fn blocks(&self, block_bytes: u64, with_md5: bool) -> Blocks {
        // Twice what is under way: one that is slow holds nobody up for long.
        let wanted = self.net.limits.connections as u64 * 2;
        let with_hash = with_md5 || self.with_sha256();
        let most = self.store.window_bytes(with_hash) / block_bytes.max(1);
        Blocks { block_bytes, window_blocks: wanted.min(most.max(1)) }
    }

    /// Which hashes of the file somebody compares.
    fn hashes(&self, arriving: &Arriving) -> Hashes {
        let md5 = match (self.job.md5, arriving.said_md5()) {
            (Some(_), _) => AskedMd5::Always,
            (None, Some(_)) => AskedMd5::OfNewBlobs,
            (None, None) => AskedMd5::No,
        };
        Hashes { sha256: self.with_sha256(), md5 }
    }

    /// Whether the hash of the file is of use to anybody.
    fn with_sha256(&self) -> bool {
        self.job.sha256.is_some() || self.store.wants_sha256()
    }

    /// Fetches what is missing of a file that comes in blocks. It is boxed where it is called: what most files
    /// do not need is not to make the call of each larger.
    async fn in_blocks(&self, blocks: &InBlocks, first: Option<First<'_>>) -> Result<(), NotThere> {
        let Self { net, job, host, .. } = *self;
        let (received, total) = (blocks.plan().received(), Some(blocks.version.total));
        self.room.on_bytes(blocks.version.total);
        let large = net.progress.on_body(job.path.as_str(), received, total);
        SideBySide { net, job, host, blocks, large }.run(first).await
    }

    /// Reads the body of an answer into the store.
    pub(super) async fn copy(
        &self,
        mut body: Body<'_>,
        arriving: &mut Arriving,
        meter: &mut Meter<'_>,
        pace: &Pace,
    ) -> Result<(), Stopped> {
        let Self { net, job, .. } = self;
        let (begun, mut came) = (Instant::now(), 0);
        let (received, total) = (arriving.plan.received(), arriving.plan.total());
        let large = net.progress.on_body(job.path.as_str(), received, total);
        let most = job.size.unwrap_or(net.limits.max_bytes).min(net.limits.max_bytes);
        loop {
            let received = arriving.plan.received();
            let chunk = body.next(received, net.limits.read_timeout).await;
            let Some(mut chunk) = chunk.map_err(Stopped::Broke)? else {
                break;
            };
            let bytes = chunk.len() as u64;
            meter.on_arrived(chunk.len());
            if received + bytes > most {
                return Err(Stopped::Ends(Outcome::dead_letter(Failure::permanent(format!(
                    "{}: the body is longer than the {most} bytes it may have",
                    job.source
                )))));
            }
            net.progress.on_received(bytes);
            came += bytes;
            let spent = pace.spent + begun.elapsed().saturating_sub(meter.waited());
            check_rate(job, pace.received + came, spent, net.limits).map_err(Stopped::Broke)?;
            while !chunk.is_empty() {
                let part = meter.next_part(&mut chunk).await;
                arriving.write(part).await.map_err(store_failed)?;
            }
            arriving.plan.on_bytes(bytes);
            self.room.on_bytes(arriving.plan.received());
            if let Some(large) = &large {
                large.on_bytes(arriving.plan.received());
            }
        }
        meter.on_end().await;
        Ok(())
    }
}
