//! An HTTP server on loopback that gives each connection a fixed rate, for `longshore demo`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// How much is sent at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A running server. Dropped, it stops.
pub(super) struct FileServer {
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

struct Served {
    /// By the path of the URL, without the leading slash.
    files: BTreeMap<String, PathBuf>,
    bytes_per_second: u32,
}

impl FileServer {
    /// Serves `files`, by the path of their URLs, at this rate.
    ///
    /// # Errors
    /// If no port can be had.
    pub(super) async fn start(
        files: BTreeMap<String, PathBuf>,
        bytes_per_second: u32,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let served = Arc::new(Served { files, bytes_per_second });
        let router = Router::new().fallback(serve).with_state(served);
        let listener = listener.tap_io(|stream| {
            // Best effort: without it a small file waits for the client's delayed acknowledgement.
            let _set = stream.set_nodelay(true);
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, task })
    }

    /// The URL of a file.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(State(served): State<Arc<Served>>, uri: Uri) -> Response {
    let Some(path) = served.files.get(uri.path().trim_start_matches('/')) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let opened = async {
        let file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        io::Result::Ok((file, length))
    };
    match opened.await {
        Ok((file, length)) => {
            let body = Body::from_stream(paced(file, served.bytes_per_second));
            ([(header::CONTENT_LENGTH, length)], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The file in chunks, each when its turn comes at the rate, from the first byte on.
fn paced(
    mut file: tokio::fs::File,
    bytes_per_second: u32,
) -> impl futures::Stream<Item = io::Result<Bytes>> {
    async_stream::try_stream! {
        let started = Instant::now();
        let mut sent = 0_u64;
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = file.read(&mut chunk).await?;
            if count == 0 {
                break;
            }
            chunk.truncate(count);
            sent += count as u64;
            let due = Duration::from_secs_f64(sent as f64 / f64::from(bytes_per_second));
            sleep_until(started + due).await;
            yield Bytes::from(chunk);
        }
    }
}
