//! Listens, and hands each connection to a task. The only task that may stop listening for a while.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EmulatorError;
use super::broker::Broker;
use super::socket::{self, Ending};

const BACKLOG: u32 = 1024;
/// What one client after another may open; each costs some memory and a file descriptor.
const MAX_CONNECTIONS: usize = 5000;
/// Between two attempts when listening or accepting fails for want of resources.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long coming back may take after the pause is over.
const REBIND_LIMIT: Duration = Duration::from_secs(10);

/// Go away for a while.
#[derive(Debug)]
pub(super) struct Away {
    pub(super) pause: Duration,
    pub(super) done: oneshot::Sender<Result<(), EmulatorError>>,
}

/// The listening side of a broker.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    broker: Arc<Broker>,
    tasks: TaskTracker,
    stop: CancellationToken,
    last_connection: u64,
}

impl Listener {
    /// Starts listening; connections wait until [`Self::start`].
    pub(super) fn bind(
        address: SocketAddr,
        broker: Arc<Broker>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Result<(Self, SocketAddr), EmulatorError> {
        let socket = listen(address).map_err(|source| EmulatorError::Bind { address, source })?;
        // Port 0 became a real one; coming back must use that.
        let address =
            socket.local_addr().map_err(|source| EmulatorError::Bind { address, source })?;
        let listener = Self { socket, address, broker, tasks, stop, last_connection: 0 };
        Ok((listener, address))
    }

    pub(super) fn start(self, tasks: &TaskTracker) -> mpsc::Sender<Away> {
        let (away, requests) = mpsc::channel(1);
        tasks.spawn(self.run(requests));
        away
    }

    async fn run(mut self, mut requests: mpsc::Receiver<Away>) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(away) = requests.recv() => {
                    self = match self.on_away(away).await {
                        Some(listener) => listener,
                        None => return,
                    };
                }
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => self.on_connection(stream),
                    Err(error) => {
                        // Out of file descriptors, mostly: the next attempt would fail at once.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                },
            }
        }
    }

    fn on_connection(&mut self, stream: TcpStream) {
        if self.broker.connections() >= MAX_CONNECTIONS {
            tracing::warn!(limit = MAX_CONNECTIONS, "a connection is refused: too many are open");
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not available");
        }
        self.last_connection += 1;
        let id = self.last_connection;
        let ending = Ending { stop: self.stop.clone(), cut: CancellationToken::new() };
        let broker = Arc::clone(&self.broker);
        broker.on_connected(id, ending.cut.clone());
        self.tasks.spawn(async move {
            socket::serve(stream, Arc::clone(&broker), ending).await;
            broker.on_disconnected(id);
        });
    }

    /// Stops listening, cuts every connection, and listens again; `None` when stopped meanwhile.
    async fn on_away(self, away: Away) -> Option<Self> {
        let Self { socket, address, broker, tasks, stop, last_connection } = self;
        drop(socket);
        broker.cut_connections();
        let back = async {
            tokio::time::sleep(away.pause).await;
            let started = tokio::time::Instant::now();
            let mut done = Some(away.done);
            loop {
                match listen(address) {
                    Ok(socket) => return (socket, done),
                    Err(source) if started.elapsed() >= REBIND_LIMIT => {
                        // Whoever asked is told, and the attempts go on: the port may come free.
                        let error = EmulatorError::Bind { address, source };
                        if let Some(done) = done.take() {
                            let _ = done.send(Err(error));
                        }
                    }
                    Err(error) => tracing::debug!(%address, %error, "not back yet"),
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        let (socket, done) = tokio::select! {
            () = stop.cancelled() => return None,
            back = back => back,
        };
        if let Some(done) = done {
            let _ = done.send(Ok(()));
        }
        Some(Self { socket, address, broker, tasks, stop, last_connection })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of a moment ago must not keep the port from being listened on again. On Windows
    // the option means something else and is not needed.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
