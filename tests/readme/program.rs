use longshore::settings::Settings;
use longshore::{Event, EventContext, Failure, shutdown_signal};

async fn handle(event: Event, _: EventContext) -> Result<(), Failure> {
    println!("{} bytes", event.body().len());
    Ok(()) // an Err is retried, then becomes a dead letter
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::from_process(None)?; // EVENTHUB_CONNECTION_STRING, and whatever else is set
    let consumer = settings.consumer()?.max_events_in_flight(50).event_handler(handle)?;
    // Until SIGTERM or Ctrl-C, and then until what was begun is done, at most `drain_timeout` (30 s); a second
    // signal changes nothing. An Err says what it could not connect to, or what it left undone.
    let exit = consumer.run_until(shutdown_signal()).await?;
    println!("{:?}", exit.counts);
    Ok(())
}
