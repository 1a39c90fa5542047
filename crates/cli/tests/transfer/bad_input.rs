//! Tasks that cannot be done: each becomes one dead letter, and all others are done.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use longshore::dead_letter::record::DeadLetterRecord;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::closed_port::ClosedPort;
use crate::command::{Ended, Folder, start};
use crate::web::{Answer, WebServer};

/// A list with one bad line between two good ones.
struct BadLine {
    web: WebServer,
    folder: Folder,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl BadLine {
    fn new() -> Self {
        let web = WebServer::start();
        let first: Vec<u8> = (0..70_000_u32).map(|number| (number % 251) as u8).collect();
        let last = b"the last".to_vec();
        web.serve("good/first.bin", first.clone());
        web.serve("good/last.bin", last.clone());
        Self { web, folder: Folder::new(), first, last }
    }

    fn run(&self, line: &str) -> Ended {
        let (first, last) = (self.web.url("good/first.bin"), self.web.url("good/last.bin"));
        self.folder.list([first.as_str(), line, last.as_str()]);
        let ended = self.folder.run();
        for (name, body) in [("good/first.bin", &self.first), ("good/last.bin", &self.last)] {
            let arrived = fs::read(self.folder.target().join(name)).ok();
            assert!(arrived.as_ref() == Some(body), "{name} is not there, or wrong: {ended:#?}");
        }
        ended
    }

    /// The bad line fails, alone, for this reason, and leaves no file. Gives its dead letter.
    #[track_caller]
    fn fails(&self, line: &str, reason: &str) -> DeadLetterRecord {
        let ended = self.run(line).expect_code(3);
        let failures: Vec<&str> =
            ended.stderr.lines().filter(|line| line.starts_with("longshore: failed: ")).collect();
        let [failure] = failures[..] else {
            panic!("not one failure: {ended:#?}");
        };
        assert!(failure.starts_with("longshore: failed: list:2: "), "{failure}");
        assert!(failure.contains(reason), "{reason:?} is not in {failure}");
        assert!(failure.len() < 2_000, "a line for people has {} bytes", failure.len());
        for (figure, value) in [("files", 2), ("failed", 1), ("dead_letters", 1), ("skipped", 0)] {
            assert_eq!(ended.figure(figure), value, "{figure}: {ended:#?}");
        }
        assert_eq!(ended.figure("bytes"), (self.first.len() + self.last.len()) as u64);
        assert_eq!(self.folder.files(), names(["good/first.bin", "good/last.bin"]));
        assert!(!self.folder.target().join(".longshore").exists());
        let mut letters = self.folder.dead_letters();
        assert_eq!(letters.len(), 1);
        let letter = letters.remove(0);
        let told = letter
            .error
            .causes
            .iter()
            .fold(letter.error.message.clone(), |told, cause| format!("{told}: {cause}"));
        assert!(failure.ends_with(&told), "{failure} does not end with {told}");
        assert_eq!(letter.properties.get("line"), Some(&json!("list:2")));
        letter
    }

    /// The task of the line is in the dead letter.
    #[track_caller]
    fn fails_as_task(&self, task: &Value, reason: &str) -> DeadLetterRecord {
        let letter = self.fails(&task.to_string(), reason);
        let written: Value = serde_json::from_slice(&letter.body().unwrap()).unwrap();
        assert_eq!(written, *task);
        assert!(letter.error.message.contains("the-task"), "{:?}", letter.error);
        letter
    }

    fn task(&self, path: &str) -> Value {
        json!({ "id": "the-task", "url": self.web.url(path), "path": path })
    }
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn body_of(letter: &DeadLetterRecord) -> String {
    String::from_utf8(letter.body().unwrap().to_vec()).unwrap()
}

#[test]
fn a_line_that_is_no_url_fails() {
    let letter = BadLine::new().fails("no url", "\"no url\" is not a URL");
    assert_eq!(body_of(&letter), "no url");
}

#[test]
fn a_line_that_is_not_text_fails_and_keeps_its_bytes() {
    let bad = BadLine::new();
    let url = bad.web.url("good/first.bin");
    let line = b"https://\xff\xfe/x";
    bad.folder.list([&url]);
    let list = [fs::read(bad.folder.path("list")).unwrap(), line.to_vec()].concat();
    fs::write(bad.folder.path("list"), list).unwrap();
    bad.folder.run().expect_code(3).expect_said("list:2: it is not UTF-8");
    assert_eq!(bad.folder.dead_letters()[0].body().unwrap(), line.as_slice());
    assert_eq!(bad.folder.content("good/first.bin"), bad.first);
}

#[test]
fn an_unknown_scheme_fails() {
    let letter = BadLine::new().fails("ftp://127.0.0.1/file", "its scheme is \"ftp\"");
    assert!(body_of(&letter).contains("ftp://127.0.0.1/file"));
}

#[test]
fn a_host_that_refuses_connections_fails_after_all_attempts() {
    let bad = BadLine::new();
    let closed = ClosedPort::take();
    let url = format!("http://{}/file", closed.address());
    let letter = bad.fails(&url, "Connection refused");
    assert_eq!(letter.attempts, 5);
    assert!(body_of(&letter).contains(&url));
}

#[test]
fn a_host_that_does_not_exist_fails_and_is_named() {
    let bad = BadLine::new();
    let letter = bad.fails("http://nowhere.invalid/file", "its host could not be resolved");
    assert!(letter.error.message.contains("nowhere.invalid"), "{:?}", letter.error);
}

#[test]
fn a_file_that_is_not_there_fails_at_once() {
    let bad = BadLine::new();
    let letter = bad.fails_as_task(&bad.task("none.bin"), "the server answered 404");
    assert_eq!((letter.attempts, bad.web.requests("none.bin")), (1, 1));
}

#[test]
fn a_server_error_that_passes_is_tried_again() {
    let bad = BadLine::new();
    let answers = [Answer::Status(500), Answer::Status(502), Answer::File(b"at last".to_vec())];
    bad.web.answer("flaky.bin", answers);
    let ended = bad.run(&bad.web.url("flaky.bin")).expect_code(0);
    assert_eq!(bad.folder.content("flaky.bin"), b"at last");
    assert_eq!(bad.web.requests("flaky.bin"), 3);
    assert_eq!((ended.figure("files"), ended.figure("failed")), (3, 0));
    assert!(bad.folder.dead_letters().is_empty());
}

#[test]
fn a_busy_server_is_given_the_time_it_asks_for() {
    let bad = BadLine::new();
    bad.web.answer("busy.bin", [Answer::Busy(5), Answer::File(b"now".to_vec())]);
    let started = Instant::now();
    bad.run(&bad.web.url("busy.bin")).expect_code(0);
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert_eq!(bad.folder.content("busy.bin"), b"now");
}

#[test]
fn a_redirect_is_followed_unless_it_may_not_be() {
    let bad = BadLine::new();
    bad.web.serve("elsewhere.bin", b"there".to_vec());
    bad.web.answer("moved.bin", [Answer::Redirect(bad.web.url("elsewhere.bin"))]);
    bad.run(&bad.web.url("moved.bin")).expect_code(0);
    assert_eq!(bad.folder.content("moved.bin"), b"there");
    let folder = Folder::new();
    folder.list([bad.web.url("moved.bin")]);
    let mut command = folder.transfer();
    let ended = start(command.args(["--allow-private", "--no-redirects"])).end().expect_code(3);
    ended.expect_said("redirects are not followed").expect_said("/elsewhere.bin");
    assert_eq!(bad.web.requests("elsewhere.bin"), 1);
}

#[test]
fn a_redirect_to_where_nothing_may_be_fetched_fails() {
    let bad = BadLine::new();
    let metadata = "http://169.254.169.254/latest".to_owned();
    bad.web.answer("moved.bin", [Answer::Redirect(metadata)]);
    bad.fails_as_task(&bad.task("moved.bin"), "a cloud's metadata service");
}

#[test]
fn a_body_that_is_always_too_short_fails_after_all_attempts() {
    let bad = BadLine::new();
    bad.web.answer("short.bin", [Answer::Half(vec![7; 100_000])]);
    let letter = bad.fails_as_task(&bad.task("short.bin"), "the body broke off after 50000 bytes");
    assert_eq!((letter.attempts, bad.web.requests("short.bin")), (5, 5));
}

#[test]
fn a_body_that_is_too_short_once_is_fetched_again() {
    let bad = BadLine::new();
    let body = vec![7; 100_000];
    bad.web.answer("short.bin", [Answer::Half(body.clone()), Answer::File(body.clone())]);
    bad.run(&bad.web.url("short.bin")).expect_code(0);
    assert_eq!(bad.folder.content("short.bin"), body);
    assert_eq!(bad.web.requests("short.bin"), 2);
    let files = names(["good/first.bin", "good/last.bin", "short.bin"]);
    assert_eq!(bad.folder.files(), files);
}

#[test]
fn a_wrong_hash_fails_and_both_hashes_are_told() {
    let bad = BadLine::new();
    bad.web.serve("hashed.bin", b"what came".to_vec());
    let mut task = bad.task("hashed.bin");
    let [came, asked] = [b"what came", b"what must"].map(|body| hash(body));
    task["sha256"] = asked.clone().into();
    bad.fails_as_task(&task, &format!("the SHA-256 is {came}, not {asked}"));
    assert_eq!(bad.web.requests("hashed.bin"), 1);
}

#[test]
fn a_right_hash_and_size_pass() {
    let bad = BadLine::new();
    bad.web.serve("hashed.bin", b"what came".to_vec());
    let mut task = bad.task("hashed.bin");
    task["sha256"] = hash(b"what came").to_uppercase().into();
    task["size"] = 9.into();
    bad.run(&task.to_string()).expect_code(0);
    assert_eq!(bad.folder.content("hashed.bin"), b"what came");
}

#[test]
fn a_wrong_size_fails() {
    let bad = BadLine::new();
    bad.web.serve("sized.bin", b"nine byte".to_vec());
    let mut task = bad.task("sized.bin");
    task["size"] = 8.into();
    bad.fails_as_task(&task, "the server announced 9 bytes where the task said 8");
}

#[test]
fn a_path_that_climbs_out_fails() {
    let bad = BadLine::new();
    let url = bad.web.url("good/first.bin");
    let task = json!({ "id": "the-task", "url": url, "path": "../out" }).to_string();
    let letter = bad.fails(&task, "it climbs out of the folder with '..'");
    assert_eq!(body_of(&letter), task);
    assert!(!bad.folder.path("out").exists());
}

#[test]
fn a_url_whose_path_climbs_out_when_decoded_fails() {
    let bad = BadLine::new();
    let url = bad.web.url("%2e%2e%2fout");
    let letter = bad.fails(&url, "the path \"../out\" is refused");
    assert_eq!(body_of(&letter), url);
    assert!(!bad.folder.path("out").exists());
}

#[test]
fn a_path_below_the_folder_of_temporary_files_fails() {
    let bad = BadLine::new();
    bad.web.serve(".longshore/x", b"x".to_vec());
    bad.fails_as_task(&bad.task(".longshore/x"), "is where temporary files are");
}

#[test]
fn the_metadata_service_is_refused_even_where_private_addresses_are_allowed() {
    BadLine::new().fails("http://169.254.169.254/latest", "a cloud's metadata service");
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    let web = WebServer::start();
    let folder = Folder::new();
    folder.list([&web.url("a.bin"), "http://10.0.0.1/b.bin", "http://[::1]/c.bin"]);
    let ended = start(&mut folder.transfer()).end().expect_code(3);
    for line in ["list:1: ", "list:2: ", "list:3: "] {
        assert!(ended.stderr.contains(line), "{ended:#?}");
    }
    ended.expect_said("--allow-private");
    assert_eq!(web.all_requests(), 0);
    assert_eq!(folder.dead_letters().len(), 3);
    assert!(folder.files().is_empty());
}

#[test]
fn a_second_line_with_the_path_of_another_fails() {
    let bad = BadLine::new();
    let url = format!("{}?again", bad.web.url("good/first.bin"));
    let letter = bad.fails(&url, "its file \"good/first.bin\" is that of line 1 already");
    assert_eq!(body_of(&letter), url);
}

#[test]
fn broken_json_fails() {
    let bad = BadLine::new();
    let line = r#"{"id": "the-task", "url": "#;
    let letter = bad.fails(line, "it is not valid JSON: EOF while parsing");
    assert_eq!(body_of(&letter), line.trim_end());
}

#[test]
fn json_that_is_no_task_fails() {
    let bad = BadLine::new();
    let letter = bad.fails(r#"{"id": "the-task"}"#, "missing field `url`");
    assert_eq!(body_of(&letter), r#"{"id": "the-task"}"#);
}

#[test]
fn a_task_of_almost_a_mebibyte_is_done() {
    let bad = BadLine::new();
    bad.web.serve("huge.bin", b"huge".to_vec());
    let mut task = bad.task("huge.bin");
    task["metadata"] = json!({ "filler": "x".repeat(1_039_000) });
    bad.run(&task.to_string()).expect_code(0);
    assert_eq!(bad.folder.content("huge.bin"), b"huge");
    // Its result, as large, is known to the next run.
    let again = bad.run(&task.to_string()).expect_code(0);
    assert_eq!((again.figure("skipped"), bad.web.requests("huge.bin")), (3, 1));
}

#[test]
fn a_task_that_no_message_holds_fails() {
    let bad = BadLine::new();
    let mut task = bad.task("huge.bin");
    task["metadata"] = json!({ "filler": "x".repeat(2_000_000) });
    let line = task.to_string();
    let letter = bad.fails(&line, &format!("it has {} bytes, and a task may have", line.len()));
    let kept = body_of(&letter);
    assert!(!kept.is_empty() && line.starts_with(&kept));
}

#[test]
fn texts_of_any_length_make_short_messages() {
    let bad = BadLine::new();
    let long = "x".repeat(300_000);
    bad.fails(&long, "is not a URL");
    let bad = BadLine::new();
    let task = json!({ "id": long, "url": bad.web.url("good/first.bin"), "path": long });
    bad.fails(&task.to_string(), "it has more than 1,024 characters");
}

#[test]
fn a_path_with_a_file_where_a_folder_must_be_fails() {
    let bad = BadLine::new();
    bad.web.serve("good/first.bin/x", b"x".to_vec());
    // The file is there before: the order of tasks is not that of the list.
    fs::create_dir_all(bad.folder.target().join("good")).unwrap();
    fs::write(bad.folder.target().join("good/first.bin"), b"before").unwrap();
    let letter = bad.fails_as_task(&bad.task("good/first.bin/x"), "\"first.bin\" is a file");
    assert_eq!(letter.error.class.as_str(), "permanent");
}

fn hash(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn secrets_of_a_line_that_is_no_url_are_not_told() {
    let bad = BadLine::new();
    let letter = bad.fails("http://u:hush@127.0.0.1:99999/x?sig=hush", "invalid port number");
    assert!(!letter.error.message.contains("hush"), "{:?}", letter.error);
    let bad = BadLine::new();
    let letter = bad.fails("http://u:hush@h/a b?sig=hush", "write %20");
    assert!(!letter.error.message.contains("hush"), "{:?}", letter.error);
}

#[test]
fn a_value_of_another_kind_is_named() {
    let bad = BadLine::new();
    let mut task = bad.task("a.bin");
    task["size"] = "9".into();
    bad.fails_as_task(&task, "\"size\" must be a whole number of bytes, without quotes");
}
