//! Listens on every port of the broker, and hands each connection to a task. The only task that may
//! stop listening for a while.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EmulatorError;
use super::broker::Broker;
use super::doorway::{self, Protocol};
use super::socket::Ending;

const BACKLOG: u32 = 1024;
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

/// A port and what is spoken there.
#[derive(Debug)]
struct Door {
    socket: TcpListener,
    address: SocketAddr,
    protocol: Protocol,
}

impl Door {
    fn open(address: SocketAddr, protocol: Protocol) -> Result<Self, EmulatorError> {
        let bind = |source| EmulatorError::Bind { address, source };
        let socket = listen(address).map_err(bind)?;
        // Port 0 became a real one; coming back must use that.
        let address = socket.local_addr().map_err(bind)?;
        Ok(Self { socket, address, protocol })
    }
}

/// The listening side of a broker.
#[derive(Debug)]
pub(super) struct Listener {
    doors: Vec<Door>,
    broker: Arc<Broker>,
    tasks: TaskTracker,
    stop: CancellationToken,
    last_connection: u64,
}

impl Listener {
    /// Starts listening; connections wait until [`Self::start`]. Returns the addresses in the order
    /// of `doors`.
    pub(super) fn bind(
        doors: Vec<(SocketAddr, Protocol)>,
        broker: Arc<Broker>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Result<(Self, Vec<SocketAddr>), EmulatorError> {
        let doors = doors
            .into_iter()
            .map(|(address, protocol)| Door::open(address, protocol))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = doors.iter().map(|door| door.address).collect();
        let listener = Self { doors, broker, tasks, stop, last_connection: 0 };
        Ok((listener, addresses))
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
                accepted = poll_fn(|cx| self.poll_accept(cx)) => match accepted {
                    Ok((stream, protocol)) => self.on_connection(stream, protocol),
                    Err(error) => {
                        // Out of file descriptors, mostly: the next attempt would fail at once.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                },
            }
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, Protocol)>> {
        // Each time another one first: a busy door must not starve the others.
        let (last, first) =
            self.doors.split_at(self.last_connection as usize % self.doors.len().max(1));
        for door in first.iter().chain(last) {
            if let Poll::Ready(accepted) = door.socket.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, _)| (stream, door.protocol.clone())));
            }
        }
        Poll::Pending
    }

    fn on_connection(&mut self, stream: TcpStream, protocol: Protocol) {
        let limit = self.broker.settings.max_connections;
        if self.broker.connections() >= limit {
            tracing::warn!(limit, "a connection is refused: too many are open");
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not available");
        }
        self.last_connection += 1;
        let id = self.last_connection;
        let ending = Ending {
            stop: self.stop.clone(),
            cut: CancellationToken::new(),
            silence: CancellationToken::new(),
        };
        let broker = Arc::clone(&self.broker);
        if broker.weather.take_silence() {
            ending.silence.cancel();
        }
        broker.on_connected(id, ending.clone());
        self.tasks.spawn(async move {
            doorway::enter(stream, protocol, Arc::clone(&broker), ending).await;
            broker.on_disconnected(id);
        });
    }

    /// Stops listening, cuts every connection, and listens again; `None` when stopped meanwhile.
    async fn on_away(self, away: Away) -> Option<Self> {
        let Self { doors, broker, tasks, stop, last_connection } = self;
        let closed: Vec<_> = doors.into_iter().map(|door| (door.address, door.protocol)).collect();
        broker.cut_connections();
        let mut done = Some(away.done);
        let back = async {
            tokio::time::sleep(away.pause).await;
            let started = tokio::time::Instant::now();
            let mut doors = Vec::new();
            for (address, protocol) in closed {
                loop {
                    match Door::open(address, protocol.clone()) {
                        Ok(door) => break doors.push(door),
                        Err(error) if started.elapsed() >= REBIND_LIMIT => {
                            // Whoever asked is told, and the attempts go on: the port may come free.
                            if let Some(done) = done.take() {
                                let _ = done.send(Err(error));
                            }
                        }
                        Err(error) => tracing::debug!(%address, %error, "not back yet"),
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
            doors
        };
        let doors = tokio::select! {
            () = stop.cancelled() => return None,
            doors = back => doors,
        };
        if let Some(done) = done {
            let _ = done.send(Ok(()));
        }
        Some(Self { doors, broker, tasks, stop, last_connection })
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
