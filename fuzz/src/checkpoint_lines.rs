//! Lines that `longshore checkpoints import` reads.

use longshore::checkpoint_store::CheckpointScope;

#[path = "../../crates/cli/src/checkpoints/line.rs"]
#[allow(dead_code, unreachable_pub, reason = "the command's own, of which this reads lines")]
mod line;

/// Lines are checkpoints that are read as the same where they are written again; or what is wrong with them is
/// said, and is short.
pub(crate) fn checkpoint_lines(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let scope = CheckpointScope {
        namespace: "ns.example".to_owned(),
        entity: "orders".into(),
        consumer_group: "$Default".into(),
    };
    match line::read(text, &scope) {
        Ok(kept) => {
            let write = |(partition, checkpoint)| {
                line::write(&scope, partition, checkpoint).expect("it is written")
            };
            let lines: Vec<String> = kept.iter().map(|(id, kept)| write((id, kept))).collect();
            let written = lines.join("\n");
            assert!(written.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{written}");
            assert_eq!(line::read(&written, &scope).expect("what is written is read"), kept);
        }
        Err(wrong) => {
            assert!((1..=101).contains(&wrong.len()), "{} faults", wrong.len());
            assert!(wrong.iter().all(|fault| fault.chars().count() <= 401), "{wrong:?}");
        }
    }
}
