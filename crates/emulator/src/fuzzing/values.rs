//! AMQP values.

use serde_amqp::Value;

use crate::wire;

/// A value that was checked is as long as it is said to be, has the items that it counts, and is no
/// trouble for the codec: what that reads of it, it writes as what it reads again.
pub fn values(bytes: &[u8]) {
    let _any = wire::descriptor(bytes);
    let Ok(len) = wire::check(bytes) else { return };
    assert!((1..=bytes.len()).contains(&len));
    let value = &bytes[..len];
    if let Ok(mut items) = wire::Items::new(value) {
        let mut within = 0;
        while let Ok(Some(item)) = items.next_item() {
            assert_eq!(wire::check(item), Ok(item.len()));
            let _any =
                (wire::as_uint(Some(item)), wire::as_bool(Some(item)), wire::as_octets(item));
            within += item.len();
        }
        assert!(within < len);
    }
    let Ok(read) = serde_amqp::from_slice::<Value>(value) else { return };
    let Ok(written) = serde_amqp::to_vec(&read) else { return };
    assert_eq!(wire::check(&written), Ok(written.len()), "{read:?} is written as {written:x?}");
    let again = serde_amqp::from_slice::<Value>(&written).map(|again| serde_amqp::to_vec(&again));
    assert!(matches!(&again, Ok(Ok(again)) if *again == written), "{read:?}: {again:?}");
}
