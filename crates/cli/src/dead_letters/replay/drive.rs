//! Carries a job out at a terminal: Ctrl-C, progress, and what it came to.

use std::sync::Arc;

use tokio::sync::watch;

use super::super::opened::Opened;
use super::freeze::Refused;
use super::outcome;
use crate::configured::hub_named;
use crate::progress::{Display, Standing, Unit};
use crate::signals::Signals;
use crate::terminal::tell;
use crate::{CommandError, Ending, ReportFormat};
use longshore::Error;
use longshore::clock::SystemClock;
use longshore::producer::EntityProducer;
use longshore::replay::{Counts, Ended, Job, Wait, Way, run as run_job};
use longshore::settings::Settings;
use longshore::transport::event_hubs::EventHubsPublisher;

pub(super) async fn run(
    mut job: Job,
    refused: &Refused,
    opened: &Opened,
    settings: &Settings,
    wait: Wait,
    report: Option<ReportFormat>,
) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let producer = match &job.plan().to {
        None => None,
        Some(to) => {
            let (namespace, entity) = hub_named(settings, to.as_str())?;
            let publisher = EventHubsPublisher::new(namespace, entity);
            Some(Arc::new(EntityProducer::new(Arc::new(publisher))))
        }
    };
    let way = producer.clone().map_or(Way::Group, Way::Entity);
    tell(format_args!("job {job}, its file is in {}", job.folder().display()));
    if producer.is_none() && wait == Wait::ForResults {
        tell(
            "the workers look for letters every half minute; what they did is read from the store",
        );
    }
    let name = job.to_string();
    let mut none = Counts::default();
    none.letters = job.plan().len();
    let (progress, counts) = watch::channel(none);
    let (stop, told) = watch::channel(false);
    let stopped = wait_for(told);
    let mut display = Display::new("");
    let working = async {
        let work = run_job(&mut job, &*opened.store, &way, wait, &SystemClock, &progress, stopped);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                ended = &mut work => return Work::Ended(ended),
                code = signals.next() => {
                    if *stop.borrow() {
                        return Work::Cut(code);
                    }
                    tell("stopping: what is being handed out is finished first; again to stop at once");
                    stop.send_replace(true);
                }
            }
        }
    };
    let work = display.during(working, || standing(*counts.borrow())).await;
    drop(display);
    if let Some(producer) = producer {
        producer.close().await;
    }
    let counts = *counts.borrow();
    match work {
        Work::Ended(ended) => outcome::tell(&job, &ended, counts, refused, report)
            .and_then(|()| outcome::ending(&job, ended, counts, refused)),
        Work::Cut(code) => {
            tell(format_args!("go on with it: longshore dead-letters replay --resume {name}"));
            Ok(Ending::Stopped(code))
        }
    }
}

enum Work {
    Ended(Result<Ended, Error>),
    /// A second signal cut it off.
    Cut(u8),
}

async fn wait_for(mut told: watch::Receiver<bool>) {
    if told.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn standing(counts: Counts) -> Standing {
    let number = |count: usize| count as u64;
    let failed = counts.failed_again + counts.skipped + counts.dropped + counts.in_doubt;
    Standing {
        unit: Unit::Letters,
        files: number(counts.done),
        failed: number(failed),
        total_files: number(counts.letters),
        is_total_known: true,
        running: counts.out,
        ..Standing::default()
    }
}
