//! Records of dead letters.

use longshore::dead_letter::record::DeadLetterRecord;

/// A record that is read is read as the same where it is written again, and has its event, or says why not.
pub(crate) fn dead_letters(bytes: &[u8]) {
    let Ok(record) = DeadLetterRecord::from_json(bytes) else { return };
    let written = record.to_json().expect("it is written");
    let again = DeadLetterRecord::from_json(&written).expect("what is written is read");
    assert_eq!(again.to_json().expect("it is written"), written);
    match (record.to_outgoing(), again.to_outgoing()) {
        (Ok(event), Ok(again)) => assert_eq!(event.body, again.body),
        (event, again) => assert!(event.is_err() && again.is_err()),
    }
    let _what_is_logged = format!("{record:?}");
}
