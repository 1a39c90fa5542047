//! A broker with little memory, and a client that sends what it likes: the broker lives, and others are
//! served beside it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use longshore::OutgoingEvent;
use longshore::transport::event_hubs::{EventHubsPublisher, Namespace};
use longshore::transport::{Publisher, SendTarget};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use sha2::Sha256;

const KEY: &str = "a key of this test";
const HONEST: usize = 10;

/// Values of AMQP, as bytes.
mod amqp {
    pub(crate) fn uint(value: u32) -> Vec<u8> {
        [&[0x70][..], &value.to_be_bytes()].concat()
    }

    pub(crate) fn text(value: &str) -> Vec<u8> {
        [&[0xb1][..], &(value.len() as u32).to_be_bytes(), value.as_bytes()].concat()
    }

    pub(crate) fn null() -> Vec<u8> {
        vec![0x40]
    }

    pub(crate) fn flag(value: bool) -> Vec<u8> {
        vec![if value { 0x41 } else { 0x42 }]
    }

    fn compound(code: u8, items: &[Vec<u8>]) -> Vec<u8> {
        let body = items.concat();
        let size = (body.len() as u32 + 4).to_be_bytes();
        [&[code][..], &size, &(items.len() as u32).to_be_bytes(), &body].concat()
    }

    /// A described list.
    pub(crate) fn list(code: u8, items: &[Vec<u8>]) -> Vec<u8> {
        [vec![0, 0x53, code], compound(0xd0, items)].concat()
    }

    /// A described map.
    pub(crate) fn map(code: u8, items: &[Vec<u8>]) -> Vec<u8> {
        [vec![0, 0x53, code], compound(0xd1, items)].concat()
    }

    /// A section of bytes.
    pub(crate) fn data(bytes: &[u8]) -> Vec<u8> {
        [&[0, 0x53, 0x75, 0xb0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    pub(crate) fn frame(channel: u16, performative: &[u8], payload: &[u8]) -> Vec<u8> {
        let size = (8 + performative.len() + payload.len()) as u32;
        let header = [&size.to_be_bytes()[..], &[2, 0], &channel.to_be_bytes()].concat();
        [&header, performative, payload].concat()
    }
}

/// By which door an attacker comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Door {
    Tcp,
    WebSocket,
}

/// Opcodes of WebSocket.
const CONTINUED: u8 = 0x0;
const BINARY: u8 = 0x2;
const PING: u8 = 0x9;
/// No more pieces follow.
const END: u8 = 0x80;

/// A piece of a WebSocket message, as a client sends it: masked, with zeros.
fn piece(opcode: u8, announced: u64, payload: &[u8]) -> Vec<u8> {
    let mut piece = vec![opcode];
    match announced {
        0..126 => piece.push(0x80 | announced as u8),
        126..0x1_0000 => {
            piece.push(0x80 | 126);
            piece.extend((announced as u16).to_be_bytes());
        }
        _ => {
            piece.push(0x80 | 127);
            piece.extend(announced.to_be_bytes());
        }
    }
    piece.extend([0; 4]);
    piece.extend(payload);
    piece
}

/// A connection that means no good.
struct Hostile {
    door: Door,
    stream: TcpStream,
    random: SmallRng,
    next_id: u32,
    /// Of each session.
    next_handle: [u32; 4],
    /// Links on which it may send.
    senders: Vec<(u16, u32)>,
}

impl Hostile {
    fn open(address: SocketAddr, door: Door, seed: u64) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        if door == Door::WebSocket {
            // Its answers are read by nobody, so its window closes.
            let request = "GET /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                           Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                           Sec-WebSocket-Protocol: AMQPWSB10\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101");
        }
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut hostile = Self {
            door,
            stream,
            random: SmallRng::seed_from_u64(seed),
            next_id: 0,
            next_handle: [1; 4],
            senders: vec![(0, 0)],
        };
        let mut hello = b"AMQP\x00\x01\x00\x00".to_vec();
        hello.extend(amqp::frame(0, &amqp::list(0x10, &[amqp::text("hostile")]), &[]));
        for channel in 0..4 {
            let begin = [amqp::null(), amqp::uint(0), amqp::uint(0), amqp::uint(100)];
            hello.extend(amqp::frame(channel, &amqp::list(0x11, &begin), &[]));
        }
        hello.extend(hostile.attach(0, 0, false, "$cbs", "cbs"));
        hostile.send(&hello);
        hostile
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        match self.door {
            Door::Tcp => self.stream.write_all(bytes).is_ok(),
            Door::WebSocket => {
                let message = piece(BINARY | END, bytes.len() as u64, bytes);
                self.stream.write_all(&message).is_ok()
            }
        }
    }

    /// What only a WebSocket has.
    fn act_in_pieces(&mut self) -> bool {
        let long = vec![0; self.random.random_range(100..60_000)];
        let bytes = match self.random.random_range(0..4) {
            // A message that has no end. What follows is refused, or is another piece of it.
            0 => {
                let begin = piece(BINARY, long.len() as u64, &long);
                [begin, piece(CONTINUED, 1_000, &[0; 1_000]).repeat(500)].concat()
            }
            // Pings in a row, whose answers nobody takes.
            1 => piece(PING | END, 125, &[7; 125]).repeat(1_000),
            // A piece that is larger than any message may be.
            2 => piece(BINARY | END, 1 << 40, &long),
            // As large as it may be after a token, and nothing in it.
            _ => piece(BINARY | END, 8 << 20, &vec![0; 8 << 20]),
        };
        self.stream.write_all(&bytes).is_ok()
    }

    fn attach(
        &self,
        channel: u16,
        handle: u32,
        is_receiver: bool,
        at: &str,
        name: &str,
    ) -> Vec<u8> {
        let address = |code| amqp::list(code, &[amqp::text(at)]);
        let attach = [
            amqp::text(name),
            amqp::uint(handle),
            amqp::flag(is_receiver),
            amqp::null(),
            amqp::null(),
            address(0x28),
            address(0x29),
            amqp::null(),
            amqp::null(),
            amqp::uint(0),
        ];
        amqp::frame(channel, &amqp::list(0x12, &attach), &[])
    }

    fn transfer(
        &mut self,
        (channel, handle): (u16, u32),
        format: u32,
        more: bool,
        payload: &[u8],
    ) -> Vec<u8> {
        self.next_id += 1;
        let transfer = [
            amqp::uint(handle),
            amqp::uint(self.next_id),
            vec![0xa0, 1, 1],
            amqp::uint(format),
            amqp::flag(true),
            amqp::flag(more),
        ];
        amqp::frame(channel, &amqp::list(0x14, &transfer), payload)
    }

    fn show_token(&mut self) {
        let resource = "sb%3A%2F%2Flocalhost%2Forders";
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let expiry = now + 3_600;
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
        mac.update(format!("{resource}\n{expiry}").as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let token =
            format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=test");
        let properties = ["operation", "put-token", "name", "sb://localhost/orders"];
        let message = [
            amqp::map(0x74, &properties.map(amqp::text)),
            [vec![0, 0x53, 0x77], amqp::text(&token)].concat(),
        ];
        let frame = self.transfer((0, 0), 0, false, &message.concat());
        assert!(self.send(&frame));
        std::thread::sleep(Duration::from_millis(50));
    }

    /// Something that costs more than it should; false when the broker has had enough.
    fn act(&mut self) -> bool {
        // Most of them end the connection.
        if self.door == Door::WebSocket && self.random.random_range(0..20) == 0 {
            return self.act_in_pieces();
        }
        let channel = self.random.random_range(0..4);
        let handle = self.next_handle[usize::from(channel)];
        let sender = self.senders[self.random.random_range(0..self.senders.len())];
        let long = "x".repeat(self.random.random_range(100..60_000));
        let mut next = || {
            self.next_handle[usize::from(channel)] += 1;
            self.senders.push((channel, handle));
        };
        let bytes = match self.random.random_range(0..9) {
            0 => {
                next();
                self.attach(channel, handle, true, "$cbs", &long)
            }
            1 => {
                next();
                self.attach(channel, handle, false, "orders/Partitions/0", &long[..9])
            }
            2 => {
                next();
                self.attach(channel, handle, false, "$cbs", &long[..9])
            }
            3 => {
                next();
                let at = format!("orders/ConsumerGroups/{}/Partitions/1", &long[..99]);
                self.attach(channel, handle, true, &at, &long)
            }
            // A message that has no end.
            4 => self.transfer(sender, 0, true, long.as_bytes()),
            // A batch that is much more than it looks.
            5 => {
                let key = "k".repeat(self.random.random_range(1..200));
                let name = [&[0xa3, 19][..], b"x-opt-partition-key"].concat();
                let mut batch = amqp::map(0x72, &[name, amqp::text(&key)]);
                for _ in 0..self.random.random_range(1..50_000) {
                    batch.extend(amqp::data(b""));
                }
                self.transfer(sender, 0x8001_3700, false, &batch)
            }
            // Requests whose answers nobody takes.
            6 => {
                let message = [
                    amqp::list(0x73, &[amqp::text(&long)]),
                    amqp::map(0x74, &["operation", "READ"].map(amqp::text)),
                    [vec![0, 0x53, 0x77], amqp::null()].concat(),
                ];
                self.transfer(sender, 0, false, &message.concat())
            }
            // Pings, in which nothing is.
            7 => amqp::frame(0, &[], &[]).repeat(1_000),
            // Credit for a window that is closed.
            _ => {
                let flow = [
                    amqp::uint(0),
                    amqp::uint(0),
                    amqp::uint(0),
                    amqp::uint(100),
                    amqp::uint(handle.saturating_sub(1)),
                    amqp::uint(0),
                    amqp::uint(1_000),
                ];
                amqp::frame(channel, &amqp::list(0x13, &flow), &[])
            }
        };
        self.send(&bytes)
    }
}

/// Sends what it likes until `stop`, on one connection after the other; how many there were.
fn attack(address: SocketAddr, door: Door, with_token: bool, stop: &AtomicBool) -> u64 {
    let mut connections = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut hostile = Hostile::open(address, door, connections);
        connections += 1;
        if with_token {
            hostile.show_token();
        }
        // Until the broker has had enough, or it has used up its handles.
        let (mut blocked, mut acts) = (0, 0);
        while !stop.load(Ordering::Relaxed) && blocked < 3 && acts < 1_000 {
            blocked += u32::from(!hostile.act());
            acts += 1;
        }
    }
    connections
}

struct Broker {
    child: Child,
    address: SocketAddr,
    websockets: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Broker {
    /// One that checks tokens, keeps its events in files, and may have 2 GB.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[[keys]]\nname = \"test\"\nkey = \"{KEY}\"\n[[hubs]]\nname = \"orders\"\npartitions = 4\n\
             retention_bytes = 67108864\n"
        );
        std::fs::write(dir.path().join("broker.toml"), config).unwrap();
        let limited = "ulimit -v 2000000; exec \"$0\" \"$@\"";
        let arguments = [
            "emulator",
            "--config",
            "broker.toml",
            "--port",
            "0",
            "--ws-port",
            "0",
            "--data",
            "data",
            "--report",
            "json",
        ];
        let mut child = Command::new("sh")
            .args(["-c", limited, env!("CARGO_BIN_EXE_longshore")])
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let report: Value = serde_json::from_str(&line).unwrap();
        let at = |door: &str| {
            let port = report["ports"][door].as_u64().unwrap() as u16;
            ([127, 0, 0, 1], port).into()
        };
        Self { child, address: at("amqp"), websockets: at("ws"), _dir: dir }
    }

    fn peak_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let mut text = String::new();
        std::fs::File::open(status).unwrap().read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Publishes one event after the other with each of ten clients; counts them until dropped.
fn honest(broker: &Broker) -> (tokio::task::JoinSet<()>, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    let string = format!(
        "Endpoint=sb://{};SharedAccessKeyName=test;SharedAccessKey={KEY};UseDevelopmentEmulator=true",
        broker.address
    );
    let namespace = Namespace::from_connection_string(&string)
        .unwrap()
        .with_custom_endpoint(format!("amqp://{}", broker.address))
        .unwrap();
    for _ in 0..HONEST {
        let (publisher, sent) =
            (EventHubsPublisher::new(namespace.clone(), "orders"), sent.clone());
        clients.spawn(async move {
            loop {
                let event = OutgoingEvent::new(vec![7; 100]);
                if publisher.send(SendTarget::Any, event).await.is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    (clients, sent)
}

/// `LONGSHORE_HOSTILE_SECONDS=60` has each attacker send for so long; unless said, for three seconds.
///
/// From a minute on the clients keep half of their rate. In three seconds it is a quarter: one client sends some
/// hundred events in that time, a flush of a busy disk holds all of them up for a part of a second, and the
/// attacker has one of the two cores of a small machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_client_ends_nothing_and_starves_nobody() {
    let seconds =
        std::env::var("LONGSHORE_HOSTILE_SECONDS").map_or(3, |text| text.parse().unwrap());
    let phase = Duration::from_secs(seconds);
    let mut broker = Broker::start();
    let (mut clients, sent) = honest(&broker);
    let started = Instant::now();
    while sent.load(Ordering::Relaxed) < 10 * HONEST as u64 {
        assert!(started.elapsed() < Duration::from_secs(60), "the honest ones do not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut rates = Vec::new();
    let by = |door| [Some((door, false)), Some((door, true))];
    for attacker in [&[None][..], &by(Door::Tcp), &by(Door::WebSocket)].concat() {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let attacking = attacker.map(|(door, with_token)| {
            let address = match door {
                Door::Tcp => broker.address,
                Door::WebSocket => broker.websockets,
            };
            std::thread::spawn(move || attack(address, door, with_token, &stopped))
        });
        let before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(phase).await;
        rates.push((sent.load(Ordering::Relaxed) - before) / seconds);
        stop.store(true, Ordering::Relaxed);
        let connections = attacking.map(|attacking| attacking.join().unwrap());
        assert!(broker.child.try_wait().unwrap().is_none(), "the broker ended: {attacker:?}");
        println!("attacker {attacker:?}: {connections:?} connections");
    }
    println!(
        "10 clients sent {rates:?} events a second: alone, beside a stranger, beside one with a token, beside \
         both over WebSocket; the broker had {} MB at most",
        broker.peak_bytes() / 1_000_000
    );
    assert!(broker.peak_bytes() < 1_000_000_000);
    let share = if seconds >= 60 { 2 } else { 4 };
    assert!(rates.iter().all(|rate| *rate >= rates[0] / share), "{rates:?}");
    clients.abort_all();
}
