//! Messages of publishers: events and batches of them.

use bytes::{Bytes, BytesMut};

use crate::event::{self, BATCH_FORMAT};

/// What is stored of a publication is read as one event, and storing that leaves it as it is, but for its
/// position. The first byte says whether the rest is a batch.
pub fn batches(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    let format = (kind % 2 == 1).then_some(BATCH_FORMAT);
    let Ok(publication) = event::prepare(Bytes::copy_from_slice(message), format) else { return };
    assert!(!publication.events.is_empty());
    let mut kept_bytes = 0;
    for event in &publication.events {
        let mut stored = BytesMut::new();
        event.encode(&mut stored, 7, 4096, 1_700_000_000_000);
        kept_bytes += event.size_hint();
        let again = event::prepare(stored.clone().freeze(), None);
        let [again] = &again.as_ref().map_or(&[][..], |again| &again.events) else {
            unreachable!("what is stored is no event: {again:?}");
        };
        let mut stored_again = BytesMut::new();
        again.encode(&mut stored_again, 7, 4096, 1_700_000_000_000);
        assert_eq!(stored, stored_again);
    }
    assert!(publication.kept_bytes >= kept_bytes);
}
