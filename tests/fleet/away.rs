//! A store that hangs for longer than a lease lasts: nothing stops, nothing is lost, nothing is
//! taken.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore::event::PartitionId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use url::Url;

use super::evidence;
use super::journal::{Handled, now};
use super::processes::{Fleet, alone};
use super::publishing::Publishing;
use super::worker::{Pace, Work};

const PARTITIONS: usize = 8;
const PACE: Pace = Pace {
    heartbeat: Duration::from_millis(300),
    expiry: Duration::from_secs(2),
    look: Duration::from_millis(500),
};
const AWAY: Duration = Duration::from_secs(8);
/// Longest rest of a partition that still counts as going on. Whoever stops with its lease rests for
/// six seconds here; a busy machine makes anybody rest for one.
const REST: Duration = Duration::from_secs(3);

/// A proxy that holds back every byte while it is shut, and lets it go on when it is opened.
struct Gate {
    is_open: watch::Sender<bool>,
    port: u16,
}

impl Gate {
    /// Stands before the store of this address.
    async fn before(url: &str) -> Self {
        let url = Url::parse(url).unwrap();
        let store = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_open, seen) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (store, seen) = (store.clone(), seen.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(store).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::join!(
                        pass(from_client, to_server, seen.clone()),
                        pass(from_server, to_client, seen)
                    );
                });
            }
        });
        Self { is_open, port }
    }

    /// The address that leads through it.
    fn url(&self, url: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }
}

async fn pass(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut is_open: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 * 1_024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        // The test is over where the gate is gone.
        if is_open.wait_for(|is_open| *is_open).await.is_err()
            || to.write_all(&bytes[..count]).await.is_err()
        {
            return;
        }
    }
    let _closed = to.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_for_longer_than_a_lease_lasts_stops_nothing() {
    let _alone = alone().await;
    let mut fleet = Fleet::start(PARTITIONS, Some(PACE), Work::None).await;
    let gate = Gate::before(&fleet.container_url).await;
    fleet.container_url = gate.url(&fleet.container_url);
    let publishing = Publishing::start(&fleet, usize::MAX, 2, Duration::from_millis(50));
    let (first, second) = (fleet.add(), fleet.add());
    fleet.handles(1_000).await;
    let shut = now();
    gate.is_open.send(false).unwrap();
    sleep(AWAY).await;
    gate.is_open.send(true).unwrap();
    let opened = now();
    let handled = fleet.handled();
    fleet.handles(handled + 1_000).await;
    publishing.stop().await;
    fleet.handles_all().await;
    first.drain().await;
    second.drain().await;

    let mut last: BTreeMap<PartitionId, u64> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    let mut lines: Vec<Handled> =
        fleet.journals("handled").into_iter().flat_map(|of| of.1).collect();
    lines.retain(|line| (shut..=opened).contains(&line.at));
    lines.sort_by_key(|line| line.at);
    for line in lines {
        let before = last.insert(line.partition, line.at).unwrap_or(shut);
        longest = longest.max(Duration::from_nanos(line.at - before));
    }
    for before in last.values() {
        longest = longest.max(Duration::from_nanos(opened - before));
    }
    let report = evidence::check(&fleet).await;
    println!("away for {AWAY:?}, longest rest {longest:.2?}: {report}");
    assert_eq!(last.len(), PARTITIONS, "every partition went on");
    assert!(longest < REST, "{longest:?}");
    assert_eq!((report.delivery.taken, report.delivery.repeats), (0, 0));
    fleet.stop().await;
}
