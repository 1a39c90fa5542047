//! What a place of files that cannot be used is told to be.

use longshore::blob_store::BlobError;
use longshore::error::error_chain;

/// What a check of a place found, in a line, with what to do.
pub(crate) fn unfit(error: &BlobError) -> String {
    match error {
        // It says both.
        BlobError::Unusable { .. } => error.to_string(),
        // The first of the chain names the place, the last one says why.
        _ => {
            let chain = error_chain(error);
            let why = chain.last().map_or("", String::as_str);
            format!("{error}: {why}; look at its address and at the network")
        }
    }
}
