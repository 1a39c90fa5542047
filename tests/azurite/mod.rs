//! Azurite, the stand-in for Azure Blob Storage: one for all tests of a process, a container for
//! each test, and requests of its own to play the other SDKs.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::secret::Secret;
use sha2::Sha256;
use url::Url;
use url::form_urlencoded::Serializer;

const ACCOUNT: &str = "devstoreaccount1";
/// Published with Azurite, and good for nothing else.
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const SERVICE_VERSION: &str = "2021-12-02";

/// What all blobs together may take, as they do where files are large or many on purpose.
const MOST_MIB: &str = "8192";

/// All that a container can be asked for.
pub const ALL: &str = "rwdlac";

struct Azurite {
    account_url: String,
    /// Holds the pipe that keeps it alive.
    _child: Child,
}

fn azurite() -> &'static Azurite {
    static AZURITE: OnceLock<Azurite> = OnceLock::new();
    AZURITE.get_or_init(start)
}

fn start() -> Azurite {
    // The tests of the command use it from a folder of their own.
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = folders.find(|folder| folder.join("tests/azurite").exists()).expect("the root");
    let installed = root.join("target/azurite");
    assert!(
        installed.join("node_modules/azurite/package.json").exists(),
        "Azurite is not installed in {}: scripts/test installs it",
        installed.display()
    );
    let mut child = Command::new("node")
        .arg(root.join("tests/azurite/serve.js"))
        .args(["--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"])
        .args(["--extentMemoryLimit", MOST_MIB, "--silent", "--disableTelemetry"])
        .env("AZURITE", &installed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs: scripts/test installs it");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let address = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("successfully listens on ").map(|(_, at)| at.to_owned()))
        .expect("Azurite says where it listens");
    Azurite { account_url: format!("{}/{ACCOUNT}", address.trim()), _child: child }
}

/// A connection string, for SDKs that take one.
pub fn connection_string() -> String {
    let account_url = &azurite().account_url;
    format!(
        "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};\
         BlobEndpoint={account_url};"
    )
}

/// Where it listens, with its account.
pub fn account_url() -> &'static str {
    &azurite().account_url
}

/// A container that only one test uses.
pub struct Container {
    name: String,
}

impl Container {
    /// Makes a new one.
    pub async fn create() -> Self {
        let container = Self::absent();
        container.make().await;
        container
    }

    /// Makes one under this name.
    pub async fn make(&self) {
        let url = format!("{}&restype=container", self.url(ALL));
        assert_eq!(send(reqwest::Method::PUT, &url, &[]).await.status(), 201);
    }

    /// The container of this name.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// A name under which there is none.
    pub fn absent() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self { name: format!("state-{}", NEXT.fetch_add(1, Ordering::Relaxed)) }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address with a signature for these permissions.
    pub fn url(&self, permissions: &str) -> String {
        format!("{}/{}?{}", azurite().account_url, self.name, signature(permissions))
    }

    /// A store over it that may do this.
    pub fn store(&self, permissions: &str) -> BlobCheckpointStore {
        BlobCheckpointStore::with_signature(&Secret::new(self.url(permissions))).expect("valid")
    }

    /// Writes a blob as the other SDKs do: without a condition.
    pub async fn put(&self, name: &str, metadata: &[(&str, &str)]) {
        let mut headers = vec![("x-ms-blob-type".to_owned(), "BlockBlob".to_owned())];
        for (key, value) in metadata {
            headers.push((format!("x-ms-meta-{key}"), (*value).to_owned()));
        }
        let headers: Vec<_> =
            headers.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(send(reqwest::Method::PUT, &self.blob(name), &headers).await.status(), 201);
    }

    /// Takes a lease without end on a blob, as backup software does.
    pub async fn lease(&self, name: &str) {
        let url = format!("{}&comp=lease", self.blob(name));
        let headers = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")];
        assert_eq!(send(reqwest::Method::PUT, &url, &headers).await.status(), 201);
    }

    /// The metadata of a blob; `None` where there is no such blob.
    pub async fn metadata(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let answer = send(reqwest::Method::HEAD, &self.blob(name), &[]).await;
        if answer.status() == 404 {
            return None;
        }
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-ms-blob-type"], "BlockBlob");
        assert_eq!(answer.headers()["content-length"], "0");
        let metadata = answer.headers().iter().filter_map(|(key, value)| {
            let key = key.as_str().strip_prefix("x-ms-meta-")?;
            Some((key.to_owned(), value.to_str().expect("text").to_owned()))
        });
        Some(metadata.collect())
    }

    fn blob(&self, name: &str) -> String {
        let mut url = Url::parse(&self.url(ALL)).expect("valid");
        url.path_segments_mut().expect("a base").extend(name.split('/'));
        url.into()
    }

    /// The bytes of a blob; `None` where there is no such blob.
    pub async fn content(&self, name: &str) -> Option<Vec<u8>> {
        let answer = send(reqwest::Method::GET, &self.blob(name), &[]).await;
        if answer.status() == 404 {
            return None;
        }
        assert_eq!(answer.status(), 200);
        Some(answer.bytes().await.expect("a body").to_vec())
    }

    /// The names of its blobs, those that have uncommitted blocks and nothing else too.
    pub async fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut next = Some(String::new());
        while let Some(marker) = next {
            let mut url = Url::parse(&self.url(ALL)).expect("valid");
            url.query_pairs_mut()
                .append_pair("restype", "container")
                .append_pair("comp", "list")
                .append_pair("include", "uncommittedblobs")
                .append_pair("marker", &marker);
            let answer = send(reqwest::Method::GET, url.as_str(), &[]).await;
            assert_eq!(answer.status(), 200);
            let listed = answer.text().await.expect("a body");
            names.extend(between(&listed, "<Name>", "</Name>").map(str::to_owned));
            let marker = between(&listed, "<NextMarker>", "</NextMarker>").next();
            next = marker.filter(|marker| !marker.is_empty()).map(str::to_owned);
        }
        names
    }

    /// What the service says of a blob in a header.
    pub async fn header(&self, name: &str, header: &str) -> Option<String> {
        let answer = send(reqwest::Method::HEAD, &self.blob(name), &[]).await;
        Some(answer.headers().get(header)?.to_str().expect("text").to_owned())
    }

    /// Makes an empty append blob.
    pub async fn append_blob(&self, name: &str) {
        let headers = [("x-ms-blob-type", "AppendBlob")];
        assert_eq!(send(reqwest::Method::PUT, &self.blob(name), &headers).await.status(), 201);
    }

    /// Stages a block of one byte under this id, as another program does.
    pub async fn stage(&self, name: &str, id: &str) {
        let mut url = Url::parse(&self.blob(name)).expect("valid");
        let id = STANDARD.encode(id);
        url.query_pairs_mut().append_pair("comp", "block").append_pair("blockid", &id);
        let request = reqwest::Client::new().put(url).header("x-ms-version", SERVICE_VERSION);
        assert_eq!(request.body("x").send().await.expect("an answer").status(), 201);
    }

    /// How many blocks are staged for a blob.
    pub async fn staged(&self, name: &str) -> usize {
        self.staged_ids(name).await.len()
    }

    /// The ids of the blocks that are staged for a blob.
    pub async fn staged_ids(&self, name: &str) -> Vec<Vec<u8>> {
        let mut url = Url::parse(&self.blob(name)).expect("valid");
        url.query_pairs_mut()
            .append_pair("comp", "blocklist")
            .append_pair("blocklisttype", "uncommitted");
        let answer = send(reqwest::Method::GET, url.as_str(), &[]).await;
        let listed = answer.text().await.expect("a body");
        between(&listed, "<Name>", "</Name>")
            .map(|id| STANDARD.decode(id).expect("Base64"))
            .collect()
    }
}

/// What is between these, each time.
fn between<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).filter_map(move |rest| rest.split_once(end).map(|(within, _)| within))
}

async fn send(method: reqwest::Method, url: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new()
        .request(method, url)
        .header("x-ms-version", SERVICE_VERSION)
        .header("content-length", "0");
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    request.send().await.expect("an answer")
}

/// A shared access signature for the account, as its key's owner would hand it out.
fn signature(permissions: &str) -> String {
    let expiry = "2099-01-01T00:00:00Z";
    let to_sign = format!(
        "{ACCOUNT}\n{permissions}\nb\nsco\n\n{expiry}\n\nhttps,http\n{SERVICE_VERSION}\n\n"
    );
    let key = STANDARD.decode(KEY).expect("Base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(to_sign.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    Serializer::new(String::new())
        .extend_pairs([
            ("sv", SERVICE_VERSION),
            ("ss", "b"),
            ("srt", "sco"),
            ("sp", permissions),
            ("se", expiry),
            ("spr", "https,http"),
            ("sig", &signature),
        ])
        .finish()
}
