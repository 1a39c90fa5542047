//! What a panic says, as text and as a failure.

use std::any::Any;

use crate::outcome::Failure;

/// What a handler's panic makes of its event.
pub(super) fn panic_failure(panic: &(dyn Any + Send)) -> Failure {
    Failure::of_panic(format!("the handler panicked: {}", panic_text(panic)))
}

/// What a panic said.
pub(in crate::consumer) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failure_with_its_message() {
        for panic in [Box::new("boom 7") as Box<dyn Any + Send>, Box::new("boom 7".to_owned())] {
            assert_eq!(panic_failure(&*panic).message, "the handler panicked: boom 7");
        }
        assert_eq!(panic_failure(&7).message, "the handler panicked: without a message");
    }
}
