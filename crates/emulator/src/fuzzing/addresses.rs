//! Addresses of links, and tokens.

use crate::address::parse_node;
use crate::tokens::{self, AccessKey};

/// What an address is understood as is understood in the same way where it is written down, and so is
/// what a token must cover. A token that was not signed with the key opens nothing. One line is the address, the rest the token.
pub fn addresses(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (address, token) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(node) = parse_node(address)
        && let Some(resource) = node.resource()
    {
        let again = parse_node(&resource).map(|node| node.resource());
        assert_eq!(again, Ok(Some(resource)), "{node:?}");
    }
    let key = AccessKey { name: "name".to_owned(), key: "key".to_owned() };
    if let Ok(grant) = tokens::verify(token, address, std::slice::from_ref(&key), 0) {
        assert!(grant.expires_at_s > 0);
        let other = AccessKey { key: "another".to_owned(), ..key };
        assert!(tokens::verify(token, address, &[other], 0).is_err());
    }
}
