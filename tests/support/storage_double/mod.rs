//! Blob Storage as it is: a proxy on the loopback address, before Azurite, which is kinder.
//!
//! What Azurite does right goes through to it. What the service refuses and Azurite takes is refused here
//! (`rules`), and what befalls requests of the service is played as a test says (`script`): answers that
//! are lost after they took effect, a server that is busy, blocks that expired, refusals. Everything that
//! was asked is counted.
//!
//! It runs on a thread of its own, so that it answers whatever the test does.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod blocks;
pub mod copies;
pub mod refusal;
mod request;
mod rules;
mod script;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use url::Url;

use blocks::Blocks;
pub use refusal::Refusal;
pub use request::Operation;
use request::Request;
use rules::Limits;
use script::Scripts;
pub use script::{Play, Script};
use wire::Answer;

/// The proxy. It ends when it is dropped.
pub struct StorageDouble {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub operation: Operation,
    pub blob: String,
    /// Bytes of its body that came.
    pub bytes: u64,
    /// With names in lower case.
    pub headers: Vec<(String, String)>,
    /// What it was answered; `None` where it was not.
    pub status: Option<u16>,
    /// What it did, by the status of the service behind, whatever was answered; `None` where it was
    /// not asked.
    pub did: Option<u16>,
}

struct Shared {
    upstream: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scripts: Scripts,
    seen: Vec<Seen>,
    blocks: Blocks,
    limits: Limits,
}

/// How long a client that was refused may still send.
const LINGER: Duration = Duration::from_secs(2);

/// What becomes of a connection after a request.
enum Then {
    GoesOn,
    IsReset,
}

impl StorageDouble {
    /// Starts one before the service that this address leads to.
    pub fn before(url: &str) -> Self {
        let upstream = Url::parse(url).expect("an address");
        let upstream = format!(
            "{}:{}",
            upstream.host_str().expect("a host"),
            upstream.port_or_known_default().expect("a port")
        );
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.set_nonblocking(true).expect("an option of sockets");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { upstream, state: Mutex::default() });
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, serving) => {}
                }
            });
        });
        Self { address, shared, _stop: stop }
    }

    /// The same address, through the double.
    pub fn url(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("an address");
        url.set_ip_host(self.address.ip()).expect("a base");
        url.set_port(Some(self.address.port())).expect("a base");
        url.into()
    }

    /// Plays this from now on, as often as the script says. Of several that fit, the one that was given
    /// first is played.
    pub fn play(&self, script: Script, play: Play) {
        self.state().scripts.add(script, play);
    }

    /// Plays nothing any more; what is refused by rule still is.
    pub fn be_kind(&self) {
        self.state().scripts.clear();
    }

    /// Blocks of this blob that came so far and are not committed are gone, as after a week.
    pub fn expire_blocks(&self, blob: &str) {
        self.state().blocks.expire(blob);
    }

    /// So many blocks of a blob may wait for their commit, instead of 100,000.
    pub fn limit_uncommitted_blocks(&self, most: usize) {
        self.state().limits.uncommitted_blocks = most;
    }

    /// So many bytes of a body are taken, instead of 5,000 MiB of a blob and 4,000 MiB of a block.
    pub fn limit_body_bytes(&self, most: u64) {
        self.state().limits.body_bytes = Some(most);
    }

    /// All requests, in the order in which they came.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How often this was asked of a blob, with whatever end.
    pub fn requests(&self, operation: Operation, blob: &str) -> usize {
        self.of(operation, blob).len()
    }

    /// Bytes of bodies that came for this.
    pub fn bytes(&self, operation: Operation, blob: &str) -> u64 {
        self.of(operation, blob).iter().map(|seen| seen.bytes).sum()
    }

    /// How many of them took effect, whatever was answered.
    pub fn done(&self, operation: Operation, blob: &str) -> usize {
        let of = self.of(operation, blob);
        of.iter().filter(|seen| seen.did.is_some_and(|status| status < 300)).count()
    }

    /// Requests of an operation for a blob.
    pub fn of(&self, operation: Operation, blob: &str) -> Vec<Seen> {
        let state = self.state();
        let fits = |seen: &&Seen| seen.operation == operation && seen.blob == blob;
        state.seen.iter().filter(fits).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // A client that goes away is what some tests want.
        tokio::spawn(async move { drop(shared.connection(stream).await) });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut client = BufReader::new(stream);
        while let Some(head) = wire::read_head(&mut client).await? {
            let request = Request::of(head);
            match self.exchange(&mut client, request).await? {
                Then::GoesOn => {}
                Then::IsReset => {
                    // What the client has not read is gone as well.
                    client.get_ref().set_zero_linger()?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn exchange(
        self: &Arc<Self>,
        client: &mut BufReader<TcpStream>,
        mut request: Request,
    ) -> io::Result<Then> {
        let play = self.state().scripts.take(&request);
        if let Some(Play::CutRequest) = play {
            let half = request.head.content_length() / 2;
            wire::read_exactly(client, half, &mut request.body).await?;
            self.note(&request);
            return Ok(Then::IsReset);
        }
        if let Some(Play::RefuseUnread(refusal)) = &play {
            let noted = self.note(&request);
            let mut answer = refusal.answer(&request);
            answer.is_last = true;
            self.state().seen[noted].status = Some(answer.status());
            client.get_mut().write_all(&answer.bytes(&request)).await?;
            client.get_mut().shutdown().await?;
            // As servers do, so that the answer is not overtaken by the end of the connection.
            let rest = wire::read_body(client, &request.head, &mut request.body);
            let _ = tokio::time::timeout(LINGER, rest).await;
            return Ok(Then::IsReset);
        }
        wire::read_body(client, &request.head, &mut request.body).await?;
        let noted = self.note(&request);
        let is_cut = matches!(play, Some(Play::CutAnswer));
        let mut answer = match play {
            Some(Play::Refuse(refusal)) => refusal.answer(&request),
            Some(Play::LoseRequest) => return Ok(Then::IsReset),
            Some(Play::LandLate(after)) => {
                let shared = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    drop(shared.pass_on(&request, noted).await);
                });
                return Ok(Then::IsReset);
            }
            Some(Play::LandSlowly(after)) => {
                tokio::time::sleep(after).await;
                self.pass_on(&request, noted).await?
            }
            Some(Play::LoseAnswer) => {
                self.pass_on(&request, noted).await?;
                return Ok(Then::IsReset);
            }
            Some(Play::RefuseAfter(refusal)) => {
                self.pass_on(&request, noted).await?;
                refusal.answer(&request)
            }
            Some(Play::AnswerLate(after)) => {
                let answer = self.pass_on(&request, noted).await?;
                tokio::time::sleep(after).await;
                answer
            }
            Some(Play::Hold(release)) => {
                let answer = self.pass_on(&request, noted).await?;
                release.notified().await;
                answer
            }
            Some(Play::ExpireBlocks) => {
                self.state().blocks.expire(&request.blob);
                self.pass_on(&request, noted).await?
            }
            Some(Play::Alter(alter)) => {
                let mut answer = self.pass_on(&request, noted).await?;
                alter(&mut answer.body);
                answer
            }
            None | Some(Play::CutAnswer | Play::CutRequest | Play::RefuseUnread(_)) => {
                self.pass_on(&request, noted).await?
            }
        };
        if is_cut {
            answer.cut = Some(answer.body.len() / 2);
        }
        self.state().seen[noted].status = Some(answer.status());
        client.get_mut().write_all(&answer.bytes(&request)).await?;
        client.get_mut().flush().await?;
        Ok(if answer.cut.is_some() { Then::IsReset } else { Then::GoesOn })
    }

    /// What the service would answer.
    async fn pass_on(&self, request: &Request, noted: usize) -> io::Result<Answer> {
        if request.operation != Operation::PutBlockFromUrl {
            return self.pass_on_as_it_is(request, noted).await;
        }
        match copies::as_block(request).await {
            Ok(block) => {
                let mut answer = self.pass_on_as_it_is(&block, noted).await?;
                copies::add_sum(&mut answer, &block.body);
                Ok(answer)
            }
            Err(refusal) => Ok(refusal.answer(request)),
        }
    }

    async fn pass_on_as_it_is(&self, request: &Request, noted: usize) -> io::Result<Answer> {
        let refused = {
            let state = self.state();
            rules::refusal(request, &state.limits, &state.blocks)
        };
        if let Some(refusal) = refused {
            return Ok(refusal.answer(request));
        }
        let mut answer = wire::forward(&self.upstream, request).await?;
        let mut state = self.state();
        state.seen[noted].did = Some(answer.status());
        state.blocks.on_answer(request, &mut answer);
        drop(state);
        Ok(answer)
    }

    fn note(&self, request: &Request) -> usize {
        let mut state = self.state();
        state.seen.push(Seen {
            operation: request.operation,
            blob: request.blob.clone(),
            bytes: request.body.len() as u64,
            headers: request.head.headers.clone(),
            status: None,
            did: None,
        });
        state.seen.len() - 1
    }
}
