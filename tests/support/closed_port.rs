//! A port of this machine that refuses connections.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port at which nobody listens, and nobody can while this is there. A port that was free a
/// moment ago may be another test's by now.
pub struct ClosedPort(TcpSocket);

impl ClosedPort {
    pub fn take() -> Self {
        Self::of(TcpSocket::new_v4().expect("a socket"))
    }

    /// One at which a process that we start may listen, with `SO_REUSEPORT`.
    #[cfg(unix)]
    pub fn to_share() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseport(true).expect("an option of sockets");
        Self::of(socket)
    }

    fn of(socket: TcpSocket) -> Self {
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }
}
