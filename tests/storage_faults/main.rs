//! What Blob Storage answers becomes of a file what docs/troubleshooting.md says, for short files, for
//! blocks and for their commit; and the blob is right or absent. Needs Azurite, which scripts/test
//! installs.

#[path = "../azurite/mod.rs"]
mod azurite;
#[path = "../support/closed_port.rs"]
mod closed_port;
#[path = "../support/log.rs"]
mod log;
mod stage;
#[path = "../support/storage_double/mod.rs"]
mod storage_double;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod worker;

use std::time::{Duration, Instant, SystemTime};

use azurite::ALL;
use closed_port::ClosedPort;
use futures::TryStreamExt as _;
use log::Log;
use longshore::blob_store::{BlobError, BlobSource as _, BlobStore as _, Commit, MadeOf};
use stage::{BLOCK, LONG, SHORT, Stage, all_of, content, name, store, told};
use storage_double::refusal::*;
use storage_double::{Operation, Play, Refusal, Script};
use table::{Becomes, WRITES, is_answered, refusals};

/// How often a request is sent where it may succeed.
const TRIES: usize = 4;

#[tokio::test]
async fn each_refusal_becomes_what_the_table_says_and_the_blob_is_absent() {
    let stage = &Stage::set().await;
    let refusals = refusals();
    let cases = || {
        refusals.iter().enumerate().flat_map(|(number, (refusal, becomes))| {
            let writes = WRITES.into_iter().filter(|operation| is_answered(refusal, *operation));
            writes.map(move |operation| {
                (format!("{number}-{operation:?}"), refusal, *becomes, operation)
            })
        })
    };
    for (path, refusal, _, operation) in cases() {
        stage.double.play(Script::on(operation).of(&path), Play::Refuse(refusal.clone()));
    }
    all_of(cases().map(|(path, refusal, becomes, operation)| async move {
        let error = stage.put(&path, operation).await.expect_err(&path);
        let what = format!("{operation:?} {refusal:?}: {}", told(&error));
        assert_eq!(Becomes::of(&error), becomes, "{what}");
        if !matches!(error, BlobError::Changed { .. }) {
            assert!(told(&error).contains(refusal.code), "{what}");
            assert!(told(&error).contains(&refusal.status.to_string()), "{what}");
        }
        assert!(!told(&error).contains("sig="), "{what}");
        if becomes == Becomes::DeadLetter {
            assert!(error.to_string().contains(&path), "{what}");
        }
        let asked = stage.double.requests(operation, &path);
        let blocks = if operation == Operation::PutBlock { 3 } else { 1 };
        match becomes {
            Becomes::DeadLetter | Becomes::Stop => assert!(asked <= blocks, "{what}: {asked}"),
            Becomes::Again | Becomes::Later => assert!(asked <= TRIES * blocks, "{what}: {asked}"),
        }
        stage.has_none(&path).await;
    }))
    .await;
    // And once the reason is gone, the same file is stored.
    stage.double.be_kind();
    all_of(cases().map(|(path, _, _, operation)| async move {
        stage.put(&path, operation).await.expect(&path);
        stage.has(&path, operation).await;
    }))
    .await;
}

#[tokio::test]
async fn what_passes_is_asked_for_again_and_the_blob_is_right() {
    let stage = &Stage::set().await;
    let plays = [
        Play::LoseAnswer,
        Play::LoseRequest,
        Play::CutRequest,
        Play::RefuseAfter(OPERATION_TIMED_OUT),
        Play::RefuseAfter(BAD_GATEWAY),
        Play::Refuse(INTERNAL_ERROR),
        Play::Refuse(CRC64_MISMATCH),
        Play::Refuse(SERVER_BUSY),
        Play::Refuse(SERVER_BUSY.retry_after(1)),
        Play::Refuse(SERVER_BUSY.retry_after_ms(100)),
        Play::Refuse(SERVER_BUSY.retry_at(SystemTime::now())),
        Play::Refuse(TOO_MANY_REQUESTS),
    ];
    let reads = [Operation::GetProperties, Operation::GetBlockList];
    let cases = || {
        plays.iter().enumerate().flat_map(|(number, play)| {
            let each = WRITES.into_iter().chain(reads);
            each.map(move |operation| (format!("{number}-{operation:?}"), play, operation))
        })
    };
    // Each twice in a row.
    for (path, play, operation) in cases() {
        stage.double.play(Script::on(operation).of(&path).times(2), play.clone());
    }
    all_of(cases().map(|(path, play, operation)| async move {
        let put = stage.put(&path, operation).await;
        put.unwrap_or_else(|error| unreachable!("{path} {play:?}: {}", told(&error)));
        stage.has(&path, operation).await;
        let asked = stage.double.requests(operation, &path);
        assert!(asked > 2, "{path} {play:?}: {asked}");
        for commit in [Operation::PutBlob, Operation::PutBlockList] {
            assert!(stage.double.done(commit, &path) <= 1, "{path} {play:?}: {commit:?}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_blob() {
    let stage = &Stage::set().await;
    let cases = [Operation::PutBlob, Operation::PutBlockList].map(|operation| async move {
        let path = format!("{operation:?}");
        // All answers are lost.
        stage.double.play(Script::on(operation).of(&path), Play::LoseAnswer);
        let put = stage.put(&path, operation).await;
        put.unwrap_or_else(|error| unreachable!("{path}: {}", told(&error)));
        stage.has(&path, operation).await;
        assert_eq!(stage.double.requests(operation, &path), TRIES);
        assert_eq!(stage.double.done(operation, &path), 1);
        // The next attempt of the same delivery knows it by its note.
        let found = stage.store.find(&name(&path)).await.expect("found").expect("there");
        assert_eq!(found.note.expect("a note").work, [1; 16]);
    });
    all_of(cases).await;
}

#[tokio::test]
async fn a_lost_answer_of_a_blob_that_is_kept_as_it_is_is_no_refusal() {
    let stage = &Stage::set().await;
    for (number, refusal) in
        [BLOB_IMMUTABLE_DUE_TO_POLICY, BLOB_IMMUTABLE_DUE_TO_LEGAL_HOLD].into_iter().enumerate()
    {
        for operation in [Operation::PutBlob, Operation::PutBlockList] {
            let path = format!("{number}-{operation:?}");
            let script = || Script::on(operation).of(&path);
            stage.double.play(script().times(1), Play::LoseAnswer);
            stage.double.play(script(), Play::Refuse(refusal.clone()));
            let put = stage.put(&path, operation).await;
            put.unwrap_or_else(|error| unreachable!("{path}: {}", told(&error)));
            stage.has(&path, operation).await;
        }
    }
}

#[tokio::test]
async fn a_request_that_lands_late_replaces_nothing_that_came_meanwhile() {
    let stage = Stage::set().await;
    for operation in [Operation::PutBlob, Operation::PutBlockList] {
        let path = format!("{operation:?}");
        let landing = Duration::from_millis(2_500);
        stage.double.play(Script::on(operation).of(&path).times(1), Play::LandLate(landing));
        let begun = Instant::now();
        stage.put(&path, operation).await.expect(&path);
        stage.has(&path, operation).await;
        let newer = content(SHORT, 2);
        stage.put_whole(&path, &newer, 2).await.expect(&path);
        assert!(begun.elapsed() < landing, "{:?}: the test is too slow to say", begun.elapsed());
        tokio::time::sleep(landing).await;
        assert!(stage.container.content(&path).await.as_deref() == Some(&newer[..]), "{path}");
    }
}

#[tokio::test]
async fn what_is_thrown_away_has_landed_before_the_next_attempt_commits() {
    let stage = Stage::set().await;
    let body = content(LONG, 1);
    let made = MadeOf::new(&[7; 16], "v1", LONG, BLOCK).with_sha256(false);
    for path in ["in order", "aborted", "rejected"] {
        let slow = Play::LandSlowly(Duration::from_millis(500));
        stage.double.play(Script::on(Operation::PutBlock).of(path).times(1), slow);
        let name = name(path);
        if path == "in order" {
            let mut writer = stage.store.open(&name, Some(LONG)).await.expect("opened");
            writer.write(body.clone()).await.expect("written");
            writer.abort().await;
        } else {
            let opened = stage.store.open_blocks(&name, &made).await.expect("opened");
            let writer = opened.expect("it takes blocks").writer;
            writer.reserve(0).await;
            writer.write_at(0, vec![body.slice(..BLOCK as usize)]).await.expect("written");
            match path {
                "aborted" => writer.abort().await,
                _ => writer.reject().await,
            }
        }
        stage.put_whole(path, &body, 1).await.expect("stored");
        let asked = stage.double.requests(Operation::PutBlock, path);
        let done = || stage.double.done(Operation::PutBlock, path);
        support::until("all have landed", || done() == asked).await;
        stage.has(path, Operation::PutBlock).await;
        assert_eq!(stage.container.staged(path).await, 0, "{path}");
    }
}

#[tokio::test]
async fn a_busy_service_is_left_alone_for_as_long_as_it_says() {
    let stage = &Stage::set().await;
    let busy = |path: &'static str, refusal: Refusal| async move {
        stage.double.play(Script::on(Operation::PutBlob).of(path), Play::Refuse(refusal));
        let error = stage.put(path, Operation::PutBlob).await.expect_err(path);
        let BlobError::Busy { wait, .. } = error else { unreachable!("{error}") };
        (wait, stage.double.requests(Operation::PutBlob, path))
    };
    // A slot is not held for that, and nothing is asked before.
    let minute = Duration::from_secs(60);
    assert_eq!(busy("seconds", SERVER_BUSY.retry_after(60)).await, (Some(minute), 1));
    assert_eq!(busy("millis", SERVER_BUSY.retry_after_ms(60_000)).await, (Some(minute), 1));
    let (wait, asked) = busy("date", SERVER_BUSY.retry_at(SystemTime::now() + minute)).await;
    let near = minute - Duration::from_secs(10)..=minute;
    assert!(wait.is_some_and(|wait| near.contains(&wait)) && asked == 1, "{wait:?} {asked}");
    // A date that has passed, and what is no time, is none.
    let past = SystemTime::now() - minute;
    assert_eq!(busy("past", SERVER_BUSY.retry_at(past)).await, (Some(Duration::ZERO), TRIES));
    assert_eq!(busy("soon", TOO_MANY_REQUESTS.retry_after("soon")).await, (None, TRIES));
    // Whoever names a time beyond all sense is asked again before.
    for (path, said) in [("year", "31536000"), ("most", "18446744073709551615")] {
        let (wait, asked) = busy(path, SERVER_BUSY.retry_after(said)).await;
        let wait = wait.expect("a time");
        assert!(wait >= minute && wait <= Duration::from_secs(3_600), "{said}: {wait:?}");
        assert_eq!(asked, 1);
    }
    // A short wait is kept.
    let script = Script::on(Operation::PutBlob).of("kept").times(1);
    stage.double.play(script, Play::Refuse(SERVER_BUSY.retry_after(2)));
    let begun = Instant::now();
    stage.put("kept", Operation::PutBlob).await.expect("stored");
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn blocks_that_expired_come_again_and_only_they() {
    let stage = Stage::set().await;
    let body = content(LONG, 1);
    // Two of three are there, and the commit is lost: all is there for the next attempt but what expires.
    stage.double.play(Script::on(Operation::PutBlockList).times(TRIES), Play::LoseRequest);
    assert_eq!(
        Becomes::of(&stage.put_blocks("a", &body, 1).await.expect_err("lost")),
        Becomes::Again
    );
    assert_eq!(stage.put_blocks("a", &body, 1).await.expect("stored"), LONG);
    stage.has("a", Operation::PutBlock).await;
    // A week later nothing is.
    stage.double.play(Script::on(Operation::PutBlockList).times(TRIES), Play::LoseRequest);
    stage.put_blocks("b", &body, 1).await.expect_err("lost");
    stage.double.expire_blocks("b");
    assert_eq!(stage.put_blocks("b", &body, 1).await.expect("stored"), 0);
    stage.has("b", Operation::PutBlock).await;
    // Or they go between the last look and the commit.
    stage.double.play(Script::on(Operation::PutBlockList).times(1), Play::ExpireBlocks);
    let error = stage.put_blocks("c", &body, 1).await.expect_err("gone");
    assert_eq!(Becomes::of(&error), Becomes::Again, "{}", told(&error));
    stage.has_none("c").await;
    assert_eq!(stage.put_blocks("c", &body, 1).await.expect("stored"), 0);
    stage.has("c", Operation::PutBlock).await;
}

#[tokio::test]
async fn names_that_the_service_does_not_take_are_dead_letters() {
    let stage = Stage::set().await;
    for path in ["a.".to_owned(), "a./b".to_owned(), vec!["a"; 255].join("/")] {
        for operation in [Operation::PutBlob, Operation::PutBlock] {
            let error = stage.put(&path, operation).await.expect_err(&path);
            assert_eq!(Becomes::of(&error), Becomes::DeadLetter, "{}", told(&error));
            assert!(error.to_string().contains(&path), "{error}");
        }
    }
}

#[tokio::test]
async fn blocks_of_another_program_in_the_way_are_named() {
    let stage = Stage::set().await;
    let blob = stage.double.url(&stage.container.url(ALL)).replace('?', "/a?");
    let other = |url: &str| {
        let put = reqwest::Client::new().put(url).header("x-ms-version", "2021-12-02");
        put.header("x-ms-blob-type", "BlockBlob").body("x").send()
    };
    let block = other(&format!("{blob}&comp=block&blockid=YmxvY2stMDE%3D")).await;
    assert_eq!(block.expect("an answer").status(), 201);
    let error = stage.put("a", Operation::PutBlock).await.expect_err("in the way");
    assert_eq!(Becomes::of(&error), Becomes::DeadLetter, "{}", told(&error));
    assert!(error.to_string().contains("blocks of another upload"), "{error}");
    stage.has_none("a").await;
}

#[tokio::test]
async fn a_refusal_that_comes_before_all_is_sent_is_heard() {
    let stage = &Stage::set().await;
    // Longer than what waits in sockets.
    let long = &content(8 << 20, 1);
    let refusals = [
        (BLOB_IMMUTABLE_DUE_TO_POLICY, Becomes::DeadLetter),
        (REQUEST_BODY_TOO_LARGE, Becomes::DeadLetter),
        (AUTHENTICATION_FAILED, Becomes::Stop),
        (CONTAINER_NOT_FOUND, Becomes::Stop),
    ];
    let whole = stage.double.url(&stage.container.url(ALL));
    let store = &store(&whole).with_budget(64 << 20, 1);
    all_of(refusals.into_iter().map(|(refusal, becomes)| async move {
        let path = name(refusal.code);
        let script = Script::on(Operation::PutBlob).of(refusal.code);
        stage.double.play(script, Play::RefuseUnread(refusal));
        let mut writer = store.open(&path, Some(long.len() as u64)).await.expect("open");
        writer.write(long.clone()).await.expect("taken");
        let error = writer.commit(Commit::default()).await.expect_err("refused");
        assert_eq!(Becomes::of(&error), becomes, "{}", told(&error));
    }))
    .await;
}

#[tokio::test]
async fn an_address_at_which_nothing_answers_is_no_files_fault() {
    let stage = Stage::set().await;
    let closed = ClosedPort::take();
    let url = stage.container.url(ALL);
    let mut url = url::Url::parse(&url).expect("an address");
    url.set_port(Some(closed.port())).expect("a base");
    let nowhere = store(url.as_str());
    let log = Log::default();
    let _listening = log.of_this_thread();
    for bytes in [SHORT, LONG] {
        let mut writer = nowhere.open(&name("a"), Some(bytes)).await.expect("open");
        writer.write(content(bytes, 1)).await.expect("taken");
        let error = writer.commit(Commit::default()).await.expect_err("nothing answers");
        assert_eq!(Becomes::of(&error), Becomes::Later, "{}", told(&error));
        assert!(told(&error).contains("cannot be reached"), "{}", told(&error));
    }
    // Said once, and not for each file that waits.
    let said = log.text().matches("takes nothing for now; files wait for it").count();
    assert_eq!(said, 1, "{}", log.text());
    let (_, secret) = url.query_pairs().find(|(key, _)| key == "sig").expect("a signature");
    assert!(!log.text().contains(&*secret), "{}", log.text());
}

#[tokio::test]
async fn a_check_of_the_container_says_what_every_file_would_meet_and_of_one_file_nothing() {
    let stage = &Stage::set().await;
    let refusals = refusals();
    for operation in [Operation::PutBlob, Operation::GetBlob] {
        for (refusal, becomes) in &refusals {
            // As it is said of a blob that somebody is about to read or to put.
            let is_of_waiting = *becomes == Becomes::Again;
            if is_of_waiting || !is_answered(refusal, operation) {
                continue;
            }
            stage.double.be_kind();
            stage.double.play(Script::on(operation), Play::Refuse(refusal.clone()));
            let checked = match operation {
                Operation::PutBlob => stage.store.check_writable().await,
                _ => stage.store.check_readable().await,
            };
            let what = format!("{operation:?} {refusal:?}: {checked:?}");
            match becomes {
                Becomes::Stop => {
                    let error = checked.expect_err(&what);
                    assert_eq!(Becomes::of(&error), Becomes::Stop, "{what}");
                    let told = error.to_string();
                    let is_missing = told.contains("does not exist; create it");
                    assert!(told.contains(refusal.code) || is_missing, "{what}");
                }
                _ => assert!(checked.is_ok(), "{what}"),
            }
        }
    }
    // What passes is waited for.
    stage.double.be_kind();
    let script = Script::on_any([Operation::PutBlob, Operation::GetBlob]);
    stage.double.play(script.times(2), Play::LoseAnswer);
    stage.store.check_writable().await.expect("asked again");
    stage.store.check_readable().await.expect("asked again");
    assert_eq!(stage.container.names().await, Vec::<String>::new(), "nothing was put");
}

#[tokio::test]
async fn names_arrive_as_they_are() {
    let stage = Stage::set().await;
    for path in [
        "a b",
        "a%20b",
        "a+b",
        "a?b=c&d",
        "a#b",
        "ä/ö/日本",
        "a;b,c@d:e",
        "a'b\"c<d>",
        "...a",
        "%2e%2e/a",
        " a ",
    ] {
        for operation in [Operation::PutBlob, Operation::PutBlockList] {
            let path = format!("{operation:?}/{path}");
            stage.put(&path, operation).await.expect(&path);
            assert_eq!(stage.double.done(operation, &path), 1, "{path}");
            stage.has(&path, operation).await;
        }
    }
}

#[tokio::test]
async fn a_name_that_is_a_directory_is_no_file() {
    let stage = Stage::set().await;
    // As an account with a hierarchical namespace shows one.
    stage.container.put("directory", &[("hdi_isfolder", "true")]).await;
    let error = stage.store.find(&name("directory")).await.expect_err("a directory");
    assert_eq!(Becomes::of(&error), Becomes::DeadLetter, "{}", told(&error));
    assert!(error.to_string().contains("directory"), "{error}");
}

#[tokio::test]
async fn a_signature_that_allows_writing_only_is_enough_whatever_is_lost() {
    let stage = Stage::with_rights("cw").await;
    for operation in WRITES {
        for play in [Play::LoseAnswer, Play::LoseRequest, Play::RefuseAfter(INTERNAL_ERROR)] {
            let path = format!("{operation:?}-{play:?}");
            stage.double.play(Script::on(operation).of(&path).times(1), play);
            for _ in 0..2 {
                let put = stage.put(&path, operation).await;
                put.unwrap_or_else(|error| unreachable!("{path}: {}", told(&error)));
                stage.has(&path, operation).await;
            }
        }
    }
}

#[tokio::test]
async fn what_is_read_becomes_what_the_table_says() {
    let stage = &Stage::set().await;
    let read = |path: String| async move {
        let read = stage.store.read(&name(&path), None).await?.expect("there");
        read.body
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            })
            .await
    };
    let refusals = [
        (BLOB_ARCHIVED, Becomes::DeadLetter),
        (BLOB_BEING_REHYDRATED, Becomes::DeadLetter),
        (OPERATION_TIMED_OUT, Becomes::Again),
        (SERVER_BUSY, Becomes::Later),
        (CONTAINER_NOT_FOUND, Becomes::Stop),
        (AUTHENTICATION_FAILED, Becomes::Stop),
        (AUTHORIZATION_PERMISSION_MISMATCH, Becomes::Stop),
        (ACCOUNT_IS_DISABLED, Becomes::Stop),
    ];
    all_of(refusals.into_iter().map(|(refusal, becomes)| async move {
        let path = format!("{}-{}", refusal.status, refusal.code);
        stage.put(&path, Operation::PutBlob).await.expect("stored");
        let script = || Script::on(Operation::GetBlob).of(&path);
        stage.double.play(script().times(TRIES), Play::Refuse(refusal));
        let error = read(path.clone()).await.expect_err(&path);
        assert_eq!(Becomes::of(&error), becomes, "{}", told(&error));
    }))
    .await;
    for (play, is_again) in [(Play::LoseAnswer, false), (Play::CutAnswer, true)] {
        let path = format!("{play:?}");
        stage.put(&path, Operation::PutBlob).await.expect("stored");
        stage.double.play(Script::on(Operation::GetBlob).of(&path).times(1), play);
        match read(path.clone()).await {
            Ok(bytes) => assert!(!is_again && bytes == content(SHORT, 1)[..], "{path}"),
            Err(error) => assert!(is_again && Becomes::of(&error) == Becomes::Again, "{error}"),
        }
        assert!(read(path.clone()).await.expect("read") == content(SHORT, 1)[..]);
    }
}
