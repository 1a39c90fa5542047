//! Who can reach a broker, and whether that is meant: decided from its addresses and its keys
//! before it listens, and said when it does. Pure.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::settings::{Settings, TokenCheck};
use super::{EmulatorError, KEY};

/// Who may connect from elsewhere without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Strangers {
    /// Nobody: a port that other machines reach is opened only where tokens are checked.
    #[default]
    Refused,
    /// Anyone who reaches a port.
    Allowed,
}

/// Whether only this machine reaches the address.
fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether tokens are checked, and with no key that is printed in a documentation.
fn is_guarded(settings: &Settings) -> bool {
    settings.tokens == TokenCheck::Required && !has_known_key(settings)
}

fn has_known_key(settings: &Settings) -> bool {
    settings.keys.iter().any(|key| key.key == KEY)
}

/// Refuses to open a port to other machines by accident.
pub(super) fn check(
    addresses: impl IntoIterator<Item = SocketAddr>,
    settings: &Settings,
    strangers: Strangers,
) -> Result<(), EmulatorError> {
    let outside = addresses.into_iter().find(|address| !is_loopback(address));
    match outside {
        Some(address) if strangers == Strangers::Refused && !is_guarded(settings) => {
            Err(EmulatorError::OpenToAnyone { address })
        }
        _ => Ok(()),
    }
}

/// A port that is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub(super) address: SocketAddr,
    pub(super) is_plain: bool,
}

/// Whether somebody on another machine gets in without a key of this broker's own.
pub(super) fn is_open_to_anyone(ports: &[Port], settings: &Settings) -> bool {
    !is_guarded(settings) && ports.iter().any(|port| !is_loopback(&port.address))
}

/// What is open to whom, in two lines.
pub(super) fn said(ports: &[Port], settings: &Settings) -> String {
    let mut text = String::from("listens on ");
    for (number, Port { address, is_plain }) in ports.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let wire = if *is_plain { "plain text" } else { "TLS" };
        let _infallible = write!(text, "{comma}{address} ({wire})");
    }
    let is_outside = ports.iter().any(|port| !is_loopback(&port.address));
    text.push_str(match is_outside {
        true => ": OPEN TO EVERY MACHINE THAT REACHES THIS ONE",
        false => ": only this machine reaches it",
    });
    text.push('\n');
    text.push_str(match (settings.tokens, has_known_key(settings), is_outside) {
        (TokenCheck::Ignored, _, true) => {
            "TOKENS ARE NOT CHECKED: anyone who connects may read and write every event"
        }
        (TokenCheck::Ignored, _, false) => {
            "tokens are not checked: every program here may read and write every event"
        }
        (TokenCheck::Required, true, _) => {
            "tokens are checked, with a key that everyone knows: SAS_KEY_VALUE"
        }
        (TokenCheck::Required, false, _) => "tokens are checked",
    });
    if is_outside && ports.iter().any(|port| port.is_plain && !is_loopback(&port.address)) {
        text.push_str("; in plain text, anyone on the way can read along");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tokens::AccessKey;
    use super::*;

    fn with(tokens: TokenCheck, key: &str) -> Settings {
        let keys = vec![AccessKey { name: "name".to_owned(), key: key.to_owned() }];
        Settings { tokens, keys, ..Settings::default() }
    }

    fn port(address: &str, is_plain: bool) -> Port {
        Port { address: address.parse().unwrap(), is_plain }
    }

    #[test]
    fn other_machines_need_a_key_of_our_own_or_an_explicit_word() {
        let own = with(TokenCheck::Required, "canary");
        let known = with(TokenCheck::Required, KEY);
        let ignored = with(TokenCheck::Ignored, "canary");
        for inside in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:5672", "[::ffff:127.0.0.1]:5672"] {
            let inside = [inside.parse().unwrap()];
            assert!(check(inside, &Settings::default(), Strangers::Refused).is_ok(), "{inside:?}");
        }
        for outside in ["0.0.0.0:0", "[::]:0", "10.0.0.1:5672", "[::ffff:10.0.0.1]:5672"] {
            // The first port may be inside.
            let addresses = ["127.0.0.1:0".parse().unwrap(), outside.parse().unwrap()];
            assert!(check(addresses, &own, Strangers::Refused).is_ok());
            for open in [&known, &ignored, &Settings::default()] {
                assert!(check(addresses, open, Strangers::Allowed).is_ok());
                let error = check(addresses, open, Strangers::Refused).unwrap_err().to_string();
                for word in [outside, "shared_access_keys", "[[keys]]", "allow_anyone"] {
                    assert!(error.contains(word), "{word}: {error}");
                }
                assert!(!error.contains("canary"));
            }
        }
    }

    #[test]
    fn it_says_who_reaches_what_and_how() {
        let inside = [port("127.0.0.1:5672", true), port("127.0.0.1:5671", false)];
        assert_eq!(
            said(&inside, &Settings::default()),
            "listens on 127.0.0.1:5672 (plain text), 127.0.0.1:5671 (TLS): only this machine \
             reaches it\n\
             tokens are not checked: every program here may read and write every event"
        );
        let outside = [port("0.0.0.0:5672", true)];
        let text = said(&outside, &Settings::default());
        assert!(text.contains("0.0.0.0:5672 (plain text): OPEN TO EVERY MACHINE"), "{text}");
        assert!(text.contains("TOKENS ARE NOT CHECKED"), "{text}");
        assert!(text.ends_with("anyone on the way can read along"), "{text}");
        assert!(is_open_to_anyone(&outside, &Settings::default()));
        let own = with(TokenCheck::Required, "canary");
        assert!(!is_open_to_anyone(&outside, &own));
        let text = said(&[port("[::]:5671", false)], &own);
        assert!(text.ends_with("THIS ONE\ntokens are checked"), "{text}");
        let known = with(TokenCheck::Required, KEY);
        assert!(said(&inside, &known).contains("a key that everyone knows"));
    }
}
