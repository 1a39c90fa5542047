//! The signals that ask a worker to end.

use tracing::error;

/// Waits until the process is asked to end: by SIGTERM, which service managers and Kubernetes send, or by Ctrl-C.
/// Pass it to the `run_until` of any consumer, which then drains.
///
/// From the first poll on, these signals no longer end the process by themselves. A second signal changes nothing;
/// the drain ends after its own [`drain_timeout`](crate::ConsumerOptions::drain_timeout). If the signals cannot be
/// listened to, that is logged, and the future never ends: the signals then do what they did before.
///
/// ```no_run
/// # async fn run(consumer: longshore::BatchConsumer) -> Result<(), Box<dyn std::error::Error>> {
/// consumer.run_until(longshore::shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// A dropped call loses the signals that came meanwhile.
///
/// # Panics
/// Outside a tokio runtime whose I/O is enabled.
pub async fn shutdown_signal() {
    if let Err(error) = asked_to_end().await {
        error!(%error, "signals cannot be listened to: the process ends by them at once");
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
async fn asked_to_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _signal = terminate.recv() => {}
        _signal = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn asked_to_end() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
