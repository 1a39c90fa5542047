//! How much one connection may make the broker keep for it: less before a token was shown, where
//! tokens are checked.
//!
//! Counted is what is kept, not what arrived: a small frame can stand for much. Whoever holds
//! something gives it back when it is gone; what would be too much is refused, or waits. Pure.

use super::frame::MAX_FRAME_BYTES;
use super::refusal::{RESOURCE_LIMIT_EXCEEDED, Refusal};
use super::settings::TokenCheck;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Bytes of messages of which frames are missing.
    Unfinished,
    /// Bytes of the names and addresses of links.
    Texts,
    /// Bytes of replies that wait for credit.
    Replies,
    /// Bytes that were read from files and are not sent.
    Reads,
}

const KINDS: usize = 4;

/// The most of each kind.
#[derive(Debug)]
pub(super) struct Limits {
    /// Links of all sessions.
    pub(super) links: usize,
    /// The largest frame.
    pub(super) frame_bytes: usize,
    /// The largest message of a WebSocket. Clients send a frame, or what one call of theirs wrote, in each.
    pub(super) message_bytes: usize,
    bytes: [usize; KINDS],
}

/// Of a connection that showed a token, or of any where none is asked for. What is read ahead is a
/// quarter of a MiB for each receiver, mostly.
const KNOWN: Limits = Limits {
    links: 8192,
    frame_bytes: MAX_FRAME_BYTES as usize,
    message_bytes: 8 * 1024 * 1024,
    bytes: [16 * 1024 * 1024, 4 * 1024 * 1024, 4 * 1024 * 1024, 64 * 1024 * 1024],
};
/// Of one that has yet to show a token.
const STRANGER: Limits = Limits {
    links: 16,
    frame_bytes: 64 * 1024,
    message_bytes: 64 * 1024,
    bytes: [64 * 1024, 16 * 1024, 64 * 1024, 0],
};

/// Who the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    #[default]
    Stranger,
    Known,
}

/// What a connection keeps.
#[derive(Debug, Default)]
pub(super) struct Budget {
    held: [usize; KINDS],
    standing: Standing,
}

impl Budget {
    /// Of a connection that begins.
    pub(super) fn new(tokens: TokenCheck) -> Self {
        let standing = match tokens {
            TokenCheck::Required => Standing::Stranger,
            TokenCheck::Ignored => Standing::Known,
        };
        Self { held: [0; KINDS], standing }
    }

    /// A token was shown: from now on it may keep more.
    pub(super) fn on_token(&mut self) {
        self.standing = Standing::Known;
    }

    pub(super) fn limits(&self) -> &'static Limits {
        match self.standing {
            Standing::Stranger => &STRANGER,
            Standing::Known => &KNOWN,
        }
    }

    /// Counts `bytes` more.
    ///
    /// # Errors
    /// They are too much; nothing is counted.
    pub(super) fn hold(&mut self, kind: Kept, bytes: usize) -> Result<(), Refusal> {
        let limit = self.limits().bytes[kind as usize];
        let held = &mut self.held[kind as usize];
        let after = held.saturating_add(bytes);
        if after > limit {
            let what = match kind {
                Kept::Unfinished => "unfinished messages",
                Kept::Texts => "names and addresses of links",
                Kept::Replies => "replies that wait for credit",
                Kept::Reads => "events that wait to be sent",
            };
            return Err(Refusal::new(
                RESOURCE_LIMIT_EXCEEDED,
                format!("{what} of more than {limit} bytes on one connection"),
            ));
        }
        *held = after;
        Ok(())
    }

    /// Gives back what was counted.
    pub(super) fn release(&mut self, kind: Kept, bytes: usize) {
        let held = &mut self.held[kind as usize];
        *held = held.saturating_sub(bytes);
    }

    /// What is counted.
    #[cfg(test)]
    pub(super) fn held(&self, kind: Kept) -> usize {
        self.held[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_held_up_to_its_limit_by_strangers_and_by_known_peers() {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        for (kind, of_stranger, of_known, said) in [
            (Kept::Texts, 16 * KIB, 4 * MIB, "names and addresses of links of more than"),
            (Kept::Unfinished, 64 * KIB, 16 * MIB, "unfinished messages of more than"),
            (Kept::Replies, 64 * KIB, 4 * MIB, "replies that wait for credit of more than"),
            // Nothing is read for who showed no token.
            (Kept::Reads, 0, 64 * MIB, "events that wait to be sent of more than"),
        ] {
            let known = || {
                let mut known = Budget::new(TokenCheck::Required);
                known.on_token();
                known
            };
            for (mut budget, limit) in [
                (Budget::new(TokenCheck::Required), of_stranger),
                (known(), of_known),
                (Budget::new(TokenCheck::Ignored), of_known),
            ] {
                let refused = budget.hold(kind, limit + 1).expect_err("one byte too many");
                assert_eq!(refused.condition, RESOURCE_LIMIT_EXCEEDED, "{kind:?}");
                let description = refused.description;
                assert!(description.contains(&format!("{said} {limit} bytes")), "{description}");
                assert_eq!(budget.held(kind), 0, "{kind:?}: what was refused does not count");
                budget.hold(kind, limit).expect("just so many");
                budget.hold(kind, 0).expect("nothing more");
                assert!(budget.hold(kind, 1).is_err(), "{kind:?}");
                assert_eq!(budget.held(kind), limit);
                // Each kind has a limit of its own.
                let others = [Kept::Texts, Kept::Unfinished, Kept::Replies];
                for other in others.into_iter().filter(|other| *other != kind) {
                    budget.hold(other, 1).expect("another kind");
                }
                budget.release(kind, 1);
                assert_eq!(budget.hold(kind, 1).is_ok(), limit > 0, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_given_back_can_be_held_again_and_a_token_opens_more() {
        let mut budget = Budget::default();
        let limit = STRANGER.bytes[Kept::Replies as usize];
        budget.hold(Kept::Replies, limit).unwrap();
        assert!(budget.hold(Kept::Replies, 1).is_err());
        budget.hold(Kept::Texts, 1).unwrap();
        budget.release(Kept::Replies, limit);
        budget.hold(Kept::Replies, limit).unwrap();
        budget.on_token();
        budget.hold(Kept::Replies, limit).unwrap();
        assert!(budget.hold(Kept::Replies, usize::MAX).is_err());
        assert_eq!(budget.held(Kept::Replies), 2 * limit);
    }
}
