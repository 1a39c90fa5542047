//! `longshore worker upload`: tasks from a hub, files from a folder or a container.

use std::sync::Arc;

use super::RunArgs;
use super::opened::{Needs, Opened};
use super::service::serve;
use crate::{CommandError, Ending};
use longshore::producer::results::{MAX_RESULT_BYTES, MAX_RESULTS};
use longshore::transfer::rates::Rates;
use longshore::transfer::upload::UploadWorker;

/// What it is called, and the table of its settings unless another is asked for.
const KIND: &str = "upload";

pub(super) async fn run(args: RunArgs) -> Result<Ending, CommandError> {
    let Some(opened) = Opened::new(&args, KIND, Needs::Source).await? else {
        return Ok(Ending::Unusable);
    };
    let worker = worker(&opened)?;
    let progress = worker.progress();
    serve(opened, worker, &progress, None).await
}

fn worker(opened: &Opened) -> Result<UploadWorker, CommandError> {
    let settings = &opened.settings;
    let slots = settings.consumer_options().max_events_in_flight;
    let (store, results) = (Arc::clone(&opened.files), Arc::clone(&opened.results));
    let source = opened.source.clone().ok_or_else(|| CommandError::new("there is no source"))?;
    Ok(UploadWorker::new(source, store, results, settings.download_limits())
        .with_result_room(MAX_RESULTS.max(slots), MAX_RESULT_BYTES)
        .with_rates(Arc::new(Rates::new(*settings.rate_limits())?))
        .with_existing(settings.existing_files())
        .with_along(opened.along)
        .with_copy(opened.copy))
}
