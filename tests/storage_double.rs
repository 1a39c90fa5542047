//! The double of Blob Storage is what it says: each condition that it plays, and each rule by which it
//! refuses what Azurite takes. Needs Azurite, which scripts/test installs.

mod azurite;
#[path = "support/storage_double/mod.rs"]
mod storage_double;

use std::time::{Duration, Instant, SystemTime};

use azurite::{ALL, Container};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method, Response};
use storage_double::refusal::*;
use storage_double::{Operation, Play, Script, StorageDouble};
use url::Url;

/// A container, and the double before it.
struct Stage {
    container: Container,
    double: StorageDouble,
    client: Client,
}

impl Stage {
    async fn set() -> Self {
        let container = Container::create().await;
        let double = StorageDouble::before(&container.url(ALL));
        Self { container, double, client: Client::new() }
    }

    /// Asks the service, through the double.
    async fn ask(&self, request: Ask<'_>) -> reqwest::Result<Response> {
        request.send(&self.client, &self.double.url(&self.container.url(ALL))).await
    }

    /// Asks Azurite itself.
    async fn ask_azurite(&self, request: Ask<'_>) -> Response {
        request.send(&self.client, &self.container.url(ALL)).await.expect("an answer")
    }

    async fn put(&self, blob: &str, body: &'static str) -> reqwest::Result<Response> {
        self.ask(put(blob, body)).await
    }

    /// What is in a blob; `None` where there is none.
    async fn content(&self, blob: &str) -> Option<String> {
        let answer = self.ask_azurite(Ask::of(Method::GET, blob)).await;
        if answer.status() == 404 {
            return None;
        }
        Some(answer.text().await.expect("a body"))
    }

    /// Through the double.
    async fn blocks(&self, blob: &str) -> (u16, String) {
        let list = Ask::of(Method::GET, blob).with("comp", "blocklist");
        let answer = self.ask(list.with("blocklisttype", "all")).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }
}

struct Ask<'a> {
    method: Method,
    blob: &'a str,
    query: Vec<(&'a str, String)>,
    headers: Vec<(&'a str, &'a str)>,
    body: String,
}

impl<'a> Ask<'a> {
    fn of(method: Method, blob: &'a str) -> Self {
        Self { method, blob, query: Vec::new(), headers: Vec::new(), body: String::new() }
    }

    fn with(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    fn header(mut self, key: &'a str, value: &'a str) -> Self {
        self.headers.push((key, value));
        self
    }

    fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    async fn send(self, client: &Client, container: &str) -> reqwest::Result<Response> {
        let mut url = Url::parse(container).expect("an address");
        if !self.blob.is_empty() {
            let mut path = url.path_segments_mut().expect("a base");
            path.extend(self.blob.split('/'));
        }
        url.query_pairs_mut().extend_pairs(&self.query);
        let mut request = client.request(self.method, url).header("x-ms-version", "2021-12-02");
        for (key, value) in self.headers {
            request = request.header(key, value);
        }
        request.body(self.body).send().await
    }
}

fn put<'a>(blob: &'a str, body: &str) -> Ask<'a> {
    Ask::of(Method::PUT, blob).header("x-ms-blob-type", "BlockBlob").body(body)
}

fn block<'a>(blob: &'a str, id: &str, body: &str) -> Ask<'a> {
    let id = STANDARD.encode(id);
    Ask::of(Method::PUT, blob).with("comp", "block").with("blockid", id).body(body)
}

fn list<'a>(blob: &'a str, ids: &[&str]) -> Ask<'a> {
    let latest = |id: &&str| format!("<Latest>{}</Latest>", STANDARD.encode(id));
    let latest: String = ids.iter().map(latest).collect();
    let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{latest}</BlockList>");
    Ask::of(Method::PUT, blob).with("comp", "blocklist").body(body)
}

fn code(answer: &Response) -> String {
    let code = answer.headers().get("x-ms-error-code");
    code.map_or_else(String::new, |code| code.to_str().expect("text").to_owned())
}

#[tokio::test]
async fn what_is_not_played_goes_through_and_is_counted() {
    let stage = Stage::set().await;
    assert_eq!(stage.put("a/b c", "hello").await.expect("an answer").status(), 201);
    assert_eq!(stage.ask(block("large", "1", "one")).await.expect("an answer").status(), 201);
    assert_eq!(stage.ask(block("large", "2", "two")).await.expect("an answer").status(), 201);
    let (status, blocks) = stage.blocks("large").await;
    assert!(status == 200 && blocks.contains(&STANDARD.encode("2")), "{blocks}");
    assert_eq!(stage.ask(list("large", &["1", "2"])).await.expect("an answer").status(), 201);
    let range = Ask::of(Method::GET, "large").header("x-ms-range", "bytes=2-3");
    let answer = stage.ask(range).await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.expect("a body")),
        (206, "et".into())
    );
    let head = stage.ask(Ask::of(Method::HEAD, "large")).await.expect("an answer");
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"6".parse().expect("a value"))
    );
    let metadata =
        Ask::of(Method::PUT, "large").with("comp", "metadata").header("x-ms-meta-a", "1");
    assert_eq!(stage.ask(metadata).await.expect("an answer").status(), 200);
    let listing = Ask::of(Method::GET, "").with("restype", "container").with("comp", "list");
    let listing = stage.ask(listing).await.expect("an answer");
    assert!(listing.text().await.expect("a body").contains("<Name>a/b c</Name>"));
    assert_eq!(stage.ask(Ask::of(Method::DELETE, "a/b c")).await.expect("an answer").status(), 202);
    let double = &stage.double;
    for (operation, blob, requests, bytes) in [
        (Operation::PutBlob, "a/b c", 1, 5),
        (Operation::PutBlock, "large", 2, 6),
        (Operation::GetBlockList, "large", 1, 0),
        (Operation::GetBlob, "large", 1, 0),
        (Operation::GetProperties, "large", 1, 0),
        (Operation::SetMetadata, "large", 1, 0),
        (Operation::List, "", 1, 0),
        (Operation::Delete, "a/b c", 1, 0),
        (Operation::PutBlob, "large", 0, 0),
    ] {
        assert_eq!(double.requests(operation, blob), requests, "{operation:?} {blob}");
        assert_eq!(double.bytes(operation, blob), bytes, "{operation:?} {blob}");
    }
    let [commit] = &double.of(Operation::PutBlockList, "large")[..] else { unreachable!("one") };
    assert_eq!(commit.status, Some(201));
    assert!(commit.headers.iter().any(|(key, _)| key == "x-ms-version"));
    assert_eq!(double.seen().len(), 10);
}

#[tokio::test]
async fn a_lost_answer_took_effect_and_a_lost_request_did_not() {
    let stage = Stage::set().await;
    for (play, blob, is_there) in [
        (Play::LoseAnswer, "answer", true),
        (Play::LoseRequest, "request", false),
        (Play::CutRequest, "half", false),
    ] {
        stage.double.play(Script::on(Operation::PutBlob).of(blob).times(1), play);
        assert!(stage.put(blob, "hello").await.is_err(), "{blob}");
        assert_eq!(stage.content(blob).await.is_some(), is_there, "{blob}");
        let [seen] = &stage.double.of(Operation::PutBlob, blob)[..] else { unreachable!("one") };
        assert_eq!(stage.double.done(Operation::PutBlob, blob), usize::from(is_there));
        assert_eq!((seen.status, seen.bytes), (None, if blob == "half" { 2 } else { 5 }));
        // Once, and no more.
        assert_eq!(stage.put(blob, "again").await.expect("an answer").status(), 201);
        assert_eq!(stage.content(blob).await.as_deref(), Some("again"));
    }
}

#[tokio::test]
async fn an_answer_is_cut_in_its_body_changed_or_late() {
    let stage = Stage::set().await;
    stage.put("a", "hello").await.expect("an answer");
    let get = || stage.ask(Ask::of(Method::GET, "a"));
    let on_get = || Script::on(Operation::GetBlob).times(1);
    stage.double.play(on_get(), Play::CutAnswer);
    let cut = get().await.expect("a head");
    assert_eq!(
        (cut.status().as_u16(), &cut.headers()["content-length"]),
        (200, &"5".parse().expect("a value"))
    );
    assert!(cut.text().await.is_err());
    stage.double.play(on_get(), Play::Alter(|body| body[0] ^= 1));
    assert_eq!(get().await.expect("an answer").text().await.expect("a body"), "iello");
    stage.double.play(on_get(), Play::AnswerLate(Duration::from_millis(100)));
    let asked = Instant::now();
    assert_eq!(get().await.expect("an answer").text().await.expect("a body"), "hello");
    assert!(asked.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_request_lands_after_its_connection_is_gone() {
    let stage = Stage::set().await;
    let late = Play::LandLate(Duration::from_millis(300));
    stage.double.play(Script::on(Operation::PutBlob).of("a").times(1), late);
    assert!(stage.put("a", "early").await.is_err());
    assert_eq!(stage.put("a", "later").await.expect("an answer").status(), 201);
    assert_eq!(stage.content("a").await.as_deref(), Some("later"));
    let landed = async {
        while stage.content("a").await.as_deref() != Some("early") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), landed).await.expect("it lands");
}

#[tokio::test]
async fn a_script_begins_after_some_requests_and_ends_after_others() {
    let stage = Stage::set().await;
    let script = Script::on_any([Operation::PutBlock, Operation::PutBlob]).after(1).times(2);
    stage.double.play(script, Play::Refuse(SERVER_BUSY));
    let mut answers = Vec::new();
    for blob in ["a", "b", "c", "d"] {
        answers.push(stage.put(blob, "hello").await.expect("an answer").status().as_u16());
    }
    assert_eq!(answers, [201, 503, 503, 201]);
    stage.double.play(Script::on(Operation::PutBlob), Play::Refuse(INTERNAL_ERROR));
    assert_eq!(stage.put("a", "hello").await.expect("an answer").status(), 500);
    stage.double.be_kind();
    assert_eq!(stage.put("a", "hello").await.expect("an answer").status(), 201);
}

#[tokio::test]
async fn a_refusal_has_status_code_and_body_and_the_request_no_effect() {
    let stage = Stage::set().await;
    for refusal in [
        SERVER_BUSY,
        OPERATION_TIMED_OUT,
        BLOB_ARCHIVED,
        LEASE_ID_MISSING,
        BLOB_IMMUTABLE_DUE_TO_POLICY,
        RESOURCE_TYPE_MISMATCH,
        AUTHENTICATION_FAILED,
        CONTAINER_NOT_FOUND,
        REQUEST_BODY_TOO_LARGE,
        CRC64_MISMATCH,
    ] {
        let script = Script::on_any([Operation::PutBlob, Operation::GetProperties]).times(2);
        stage.double.play(script, Play::Refuse(refusal.clone()));
        let answer = stage.put("a", "hello").await.expect("an answer");
        assert_eq!((answer.status().as_u16(), &*code(&answer)), (refusal.status, refusal.code));
        assert_eq!(answer.headers()["content-type"], "application/xml");
        let body = answer.text().await.expect("a body");
        let code_in_body =
            format!("<Error><Code>{}</Code><Message>{}", refusal.code, refusal.message);
        assert!(body.contains(&code_in_body), "{body}");
        // An answer to HEAD has the code, and no body.
        let head = stage.ask(Ask::of(Method::HEAD, "a")).await.expect("an answer");
        assert_eq!((head.status().as_u16(), &*code(&head)), (refusal.status, refusal.code));
        assert_eq!(stage.content("a").await, None);
    }
    // Before all of the body is there, too.
    let script = || Script::on(Operation::PutBlob).times(1);
    stage.double.play(script(), Play::RefuseUnread(REQUEST_BODY_TOO_LARGE));
    let long = put("a", &"long".repeat(1 << 20));
    let answer = stage.ask(long).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), &*code(&answer)), (413, "RequestBodyTooLarge"));
    assert_eq!(answer.headers()["connection"], "close");
    stage.double.play(script(), Play::RefuseAfter(OPERATION_TIMED_OUT));
    assert_eq!(stage.put("a", "hello").await.expect("an answer").status(), 500);
    assert_eq!(stage.content("a").await.as_deref(), Some("hello"));
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back_in_each_way() {
    let stage = Stage::set().await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    for (refusal, headers) in [
        (SERVER_BUSY, &[][..]),
        (SERVER_BUSY.retry_after(3), &[("retry-after", "3")]),
        (SERVER_BUSY.retry_after_ms(250), &[("x-ms-retry-after-ms", "250")]),
        (SERVER_BUSY.retry_at(at), &[("retry-after", "Thu, 01 Jan 2026 00:00:00 GMT")]),
        (TOO_MANY_REQUESTS, &[]),
        (TOO_MANY_REQUESTS.retry_after(1), &[("retry-after", "1")]),
    ] {
        stage.double.play(Script::on(Operation::PutBlob).times(1), Play::Refuse(refusal.clone()));
        let answer = stage.put("a", "hello").await.expect("an answer");
        assert_eq!((answer.status().as_u16(), &*code(&answer)), (refusal.status, refusal.code));
        for name in ["retry-after", "x-ms-retry-after-ms"] {
            let said = headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            let got = answer.headers().get(name).map(|value| value.to_str().expect("text"));
            assert_eq!(got, said, "{refusal:?}");
        }
    }
}

#[tokio::test]
async fn expired_blocks_are_not_listed_and_cannot_be_committed() {
    let stage = Stage::set().await;
    for id in ["1", "2"] {
        assert_eq!(stage.ask(block("a", id, "old")).await.expect("an answer").status(), 201);
    }
    stage.double.expire_blocks("a");
    assert_eq!(stage.ask(block("a", "2", "new")).await.expect("an answer").status(), 201);
    let (status, blocks) = stage.blocks("a").await;
    let (one, two) = (STANDARD.encode("1"), STANDARD.encode("2"));
    assert!(status == 200 && !blocks.contains(&one) && blocks.contains(&two), "{blocks}");
    let refused = stage.ask(list("a", &["1", "2"])).await.expect("an answer");
    assert_eq!((refused.status().as_u16(), &*code(&refused)), (400, "InvalidBlockList"));
    assert_eq!(stage.ask(list("a", &["2"])).await.expect("an answer").status(), 201);
    assert_eq!(stage.content("a").await.as_deref(), Some("new"));
    // They expire between the last look and the commit, too.
    assert_eq!(stage.ask(block("b", "1", "one")).await.expect("an answer").status(), 201);
    stage.double.play(Script::on(Operation::PutBlockList).of("b").times(1), Play::ExpireBlocks);
    let refused = stage.ask(list("b", &["1"])).await.expect("an answer");
    assert_eq!((refused.status().as_u16(), &*code(&refused)), (400, "InvalidBlockList"));
    assert_eq!(stage.ask(block("b", "1", "two")).await.expect("an answer").status(), 201);
    assert_eq!(stage.ask(list("b", &["1"])).await.expect("an answer").status(), 201);
    assert_eq!(stage.content("b").await.as_deref(), Some("two"));
}

#[tokio::test]
async fn names_that_the_service_refuses_and_azurite_takes() {
    let stage = Stage::set().await;
    let deep = vec!["a"; 255].join("/");
    for (name, expected) in [
        ("a.", "InvalidResourceName"),
        ("a./b", "InvalidResourceName"),
        ("a/", "InvalidResourceName"),
        (&*deep, "InvalidUri"),
    ] {
        let refused = stage.put(name, "hello").await.expect("an answer");
        assert_eq!((refused.status().as_u16(), &*code(&refused)), (400, expected), "{name}");
        let refused = stage.ask(block(name, "1", "one")).await.expect("an answer");
        assert_eq!(code(&refused), expected, "{name}");
        assert_eq!(stage.ask_azurite(put(name, "hello")).await.status(), 201, "{name}");
    }
    let fine = vec!["a"; 254].join("/");
    assert_eq!(stage.put(&fine, "hello").await.expect("an answer").status(), 201);
}

#[tokio::test]
async fn metadata_that_the_service_refuses() {
    let stage = Stage::set().await;
    let long = "a".repeat(5_000);
    for (key, value, expected) in [
        ("x-ms-meta-", "1", "EmptyMetadataKey"),
        ("x-ms-meta-a-b", "1", "InvalidMetadata"),
        ("x-ms-meta-1a", "1", "InvalidMetadata"),
        ("x-ms-meta-a", "ä", "InvalidMetadata"),
        ("x-ms-meta-a", &*long, "MetadataTooLarge"),
    ] {
        let request = || put("a", "hello").header(key, value).header("x-ms-meta-b", &long);
        let refused = stage.ask(request()).await.expect("an answer");
        assert_eq!((refused.status().as_u16(), &*code(&refused)), (400, expected), "{key} {value}");
    }
    let fine = put("a", "hello").header("x-ms-meta-_a1", "1").header("x-ms-meta-b", &long);
    assert_eq!(stage.ask(fine).await.expect("an answer").status(), 201);
    let taken = put("b", "hello").header("x-ms-meta-a", &long).header("x-ms-meta-b", &long);
    assert_eq!(stage.ask_azurite(taken).await.status(), 201);
}

#[tokio::test]
async fn blocks_that_the_service_refuses() {
    let stage = Stage::set().await;
    assert_eq!(stage.ask(block("a", "10", "one")).await.expect("an answer").status(), 201);
    let other_width = stage.ask(block("a", "111", "two")).await.expect("an answer");
    assert_eq!((other_width.status().as_u16(), &*code(&other_width)), (400, "InvalidBlobOrBlock"));
    let too_wide = stage.ask(block("b", &"1".repeat(65), "one")).await.expect("an answer");
    assert_eq!((too_wide.status().as_u16(), &*code(&too_wide)), (400, "InvalidBlockId"));
    stage.double.limit_uncommitted_blocks(2);
    assert_eq!(stage.ask(block("a", "11", "two")).await.expect("an answer").status(), 201);
    let one_more = stage.ask(block("a", "12", "three")).await.expect("an answer");
    assert_eq!((one_more.status().as_u16(), &*code(&one_more)), (409, "BlockCountExceedsLimit"));
    // One that is there may come again.
    assert_eq!(stage.ask(block("a", "11", "two")).await.expect("an answer").status(), 201);
    // A commit makes room.
    assert_eq!(stage.ask(list("a", &["10", "11"])).await.expect("an answer").status(), 201);
    assert_eq!(stage.ask(block("a", "3", "three")).await.expect("an answer").status(), 201);
    let ids: Vec<String> = (0..=50_000).map(|number| number.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let too_long = stage.ask(list("a", &ids)).await.expect("an answer");
    assert_eq!((too_long.status().as_u16(), &*code(&too_long)), (400, "BlockListTooLong"));
    stage.double.limit_body_bytes(4);
    for request in [put("c", "hello"), block("c", "1", "hello")] {
        let too_large = stage.ask(request).await.expect("an answer");
        assert_eq!((too_large.status().as_u16(), &*code(&too_large)), (413, "RequestBodyTooLarge"));
    }
}

#[tokio::test]
async fn a_signature_that_allows_writing_only_reads_and_lists_nothing() {
    let stage = Stage::set().await;
    let only_writes = stage.double.url(&stage.container.url("cw"));
    let ask = |request: Ask<'static>| request.send(&stage.client, &only_writes);
    assert_eq!(ask(put("a", "hello")).await.expect("an answer").status(), 201);
    assert_eq!(ask(block("b", "1", "one")).await.expect("an answer").status(), 201);
    assert_eq!(ask(list("b", &["1"])).await.expect("an answer").status(), 201);
    for request in [
        Ask::of(Method::GET, "a"),
        Ask::of(Method::HEAD, "a"),
        Ask::of(Method::GET, "a").with("comp", "blocklist"),
        Ask::of(Method::GET, "").with("restype", "container").with("comp", "list"),
    ] {
        let answer = ask(request).await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), &*code(&answer)),
            (403, "AuthorizationPermissionMismatch")
        );
    }
}
