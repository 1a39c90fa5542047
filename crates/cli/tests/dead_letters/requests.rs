//! What the command asks of a container: a page for 5,000 letters, and no letter that nobody asked for.

use futures::StreamExt as _;
use longshore::dead_letter::DeadLetterSink as _;
use longshore::dead_letter::store::StoreDeadLetterSink;
use serde_json::json;

use crate::azurite::ALL;
use crate::stage::{Stage, letter, parts};
use crate::storage_double::{Operation, StorageDouble};

/// More than a page has.
const LETTERS: u64 = 5_001;

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_in_a_request_for_five_thousand_and_only_what_is_shown_is_read() {
    let mut stage = Stage::over_a_container().await;
    let url = stage.container.as_ref().unwrap().url(ALL);
    let sink = StoreDeadLetterSink::new(stage.store());
    let sink = &sink;
    let written = (0..LETTERS as i64).map(|number| async move {
        sink.write(&letter(parts("orders", number, "x"), "the disk is full")).await.unwrap();
    });
    futures::stream::iter(written).buffer_unordered(64).collect::<Vec<()>>().await;
    let double = StorageDouble::before(&url);
    let (_, container) = stage.environment.last_mut().unwrap();
    *container = double.url(&url);
    let mut before = 0;
    let mut asked = || {
        let seen = double.seen();
        let of =
            |operation| seen[before..].iter().filter(|seen| seen.operation == operation).count();
        let asked = (of(Operation::List) as u64, of(Operation::GetBlob), seen.len() - before);
        before = seen.len();
        asked
    };

    let page = stage.report(&["list", "--limit", "100"]).await;
    assert_eq!((page["letters"].as_array().unwrap().len(), &page["has_more"]), (100, &json!(true)));
    assert_eq!(asked(), (1, 0, 1), "a page is enough");
    for arguments in
        [&["list", "--limit", "6000"][..], &["list", "--reason", "nothing"], &["group"]]
    {
        stage.report(arguments).await;
        let (lists, reads, all) = asked();
        assert!(all as u64 <= LETTERS / 5_000 + 10, "{arguments:?}: {all} requests");
        assert_eq!((lists, reads), (LETTERS.div_ceil(5_000), 0), "{arguments:?}");
    }
    let groups = stage.report(&["group"]).await;
    assert_eq!(groups["letters"], json!(LETTERS));
    asked();

    let shown = stage.report(&["show", "orders/0#5000"]).await;
    assert_eq!(shown["sequence_number"], json!(5_000));
    assert_eq!(asked(), (1, 1, 2), "one page tells which logs there are, and one letter is read");
}
