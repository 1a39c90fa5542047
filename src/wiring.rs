//! From settings to a wired consumer: the one place that knows both.

use std::sync::Arc;

use crate::checkpoint_store::CheckpointStore;
use crate::consumer::{BatchConsumer, BatchConsumerBuilder, EventConsumer, EventConsumerBuilder};
use crate::dead_letter::DeadLetterSink;
use crate::error::{Error, ErrorClass};
use crate::failure_store::FailureStore;
use crate::lease_store::LeaseStore;
use crate::settings::{DeadLetterPlace, Settings, SettingsError, Topic};
use crate::transport::event_hubs::EventHubsTransport;

/// What settings lead to, opened.
struct Wired {
    transport: EventHubsTransport,
    checkpoints: Arc<dyn CheckpointStore>,
    leases: Option<Arc<dyn LeaseStore>>,
    dead_letters: Arc<dyn DeadLetterSink>,
    failures: Arc<dyn FailureStore>,
}

/// Consumers of what settings name. Each is complete: transport, checkpoints, dead letters, failure store and all
/// options, and leases if the checkpoints are in a container. (A consumer of one event after the other parks
/// nothing.) Values that you set on the builder afterwards win.
///
/// ```no_run
/// use longshore::settings::Settings;
/// use longshore::{Batch, BatchContext, Event, Failure};
///
/// async fn store(event: Event) -> Result<(), Failure> {
///     println!("{} bytes", event.body().len());
///     Ok(())
/// }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let consumer = Settings::from_process(None)?
///     .consumer()?
///     .batch_handler(|batch: Batch, _: BatchContext| batch.for_each_concurrent(10, store))?;
/// consumer.run_until(longshore::shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
impl Settings {
    /// A consumer of the hub of these settings: that of `EVENTHUB_ENTITY_NAME`, or the `EntityPath` of the
    /// connection string. Nothing is connected yet. It blocks while it handles files.
    ///
    /// # Errors
    /// `Permanent` if no hub is named, if the connection string is in a vault and not
    /// [fetched](Self::fetched_from), if a folder cannot be used, or if another process has it. `Auth` if the
    /// credential cannot be opened.
    pub fn consumer(&self) -> Result<BatchConsumerBuilder, Error> {
        let input = self.input().map_err(unusable)?;
        let dead_letters = DeadLetterPlace::Store(self.failure_place());
        Ok(self.batches(self.wired(&input, &dead_letters)?))
    }

    /// A consumer of what the worker of this name reads ([`input_of`](Self::input_of)), with the dead letters
    /// ([`dead_letters_of`](Self::dead_letters_of)) and the name of that worker.
    ///
    /// # Errors
    /// As [`consumer`](Self::consumer).
    pub fn consumer_of(&self, worker: &str) -> Result<BatchConsumerBuilder, Error> {
        Ok(self.batches(self.wired_of(worker)?).worker(worker))
    }

    /// A consumer of one event after the other, from the same settings as [`consumer`](Self::consumer).
    ///
    /// # Errors
    /// As [`consumer`](Self::consumer).
    pub fn event_consumer(&self) -> Result<EventConsumerBuilder, Error> {
        let input = self.input().map_err(unusable)?;
        let dead_letters = DeadLetterPlace::Store(self.failure_place());
        Ok(self.events(self.wired(&input, &dead_letters)?))
    }

    /// A consumer of one event after the other, from the same settings as [`consumer_of`](Self::consumer_of).
    ///
    /// # Errors
    /// As [`consumer`](Self::consumer).
    pub fn event_consumer_of(&self, worker: &str) -> Result<EventConsumerBuilder, Error> {
        Ok(self.events(self.wired_of(worker)?).worker(worker))
    }

    fn batches(&self, wired: Wired) -> BatchConsumerBuilder {
        let builder = BatchConsumer::builder(wired.transport, wired.checkpoints)
            .dead_letters(wired.dead_letters)
            .failure_store(wired.failures)
            .options(self.consumer_options().clone());
        match wired.leases {
            Some(leases) => builder.leases_with(leases, self.lease_options().clone()),
            None => builder,
        }
    }

    fn events(&self, wired: Wired) -> EventConsumerBuilder {
        let builder = EventConsumer::builder(wired.transport, wired.checkpoints)
            .dead_letters(wired.dead_letters)
            .options(self.consumer_options().clone());
        match wired.leases {
            Some(leases) => builder.leases_with(leases, self.lease_options().clone()),
            None => builder,
        }
    }

    fn wired_of(&self, worker: &str) -> Result<Wired, Error> {
        let input = self.input_of(worker).map_err(unusable)?;
        self.wired(&input, &self.dead_letters_of(worker))
    }

    fn wired(&self, input: &Topic, dead_letters: &DeadLetterPlace) -> Result<Wired, Error> {
        let namespace = self.namespace_of(input)?;
        let group = self.consumer_group().clone();
        let stores = self.open_stores()?;
        Ok(Wired {
            transport: EventHubsTransport::new(namespace, input.entity().clone(), group),
            checkpoints: stores.checkpoints,
            leases: stores.leases,
            dead_letters: self.open_dead_letters(dead_letters)?,
            failures: self.open_failures()?,
        })
    }
}

fn unusable(error: SettingsError) -> Error {
    Error::new(ErrorClass::Permanent, "use the settings", error.to_string())
}
