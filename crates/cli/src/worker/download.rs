//! `longshore worker download`: tasks from a hub, files over HTTP.

use std::sync::Arc;

use super::RunArgs;
use super::opened::{Needs, Opened};
use super::service::serve;
use crate::{CommandError, Ending};
use longshore::producer::results::{MAX_RESULT_BYTES, MAX_RESULTS};
use longshore::settings::Settings;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::rates::Rates;
use longshore::transfer::url_policy::UrlPolicy;

/// What it is called, and the table of its settings unless another is asked for.
const KIND: &str = "download";

pub(super) async fn run(args: RunArgs) -> Result<Ending, CommandError> {
    let Some(opened) = Opened::new(&args, KIND, Needs::Urls).await? else {
        return Ok(Ending::Unusable);
    };
    let worker = worker(&opened)?;
    let lanes = DownloadWorker::lane_rule(opened.settings.connections_per_host());
    let progress = worker.progress();
    serve(opened, worker, &progress, Some(lanes)).await
}

fn worker(opened: &Opened) -> Result<DownloadWorker, CommandError> {
    let settings = &opened.settings;
    let slots = settings.consumer_options().max_events_in_flight;
    let (store, results) = (Arc::clone(&opened.files), Arc::clone(&opened.results));
    let worker = DownloadWorker::new(store, results, policy(settings), settings.download_limits())?
        .with_http(settings.http_options().clone())
        .with_connections_per_host(settings.connections_per_host())
        .with_result_room(MAX_RESULTS.max(slots), MAX_RESULT_BYTES)
        .with_rates(Arc::new(Rates::new(*settings.rate_limits())?))
        .with_existing(settings.existing_files())
        .with_along(opened.along)
        .with_copy(opened.copy);
    Ok(worker)
}

fn policy(settings: &Settings) -> UrlPolicy {
    UrlPolicy::new()
        .with_schemes(settings.schemes())
        .with_private_addresses(settings.private_addresses())
}
