//! Uncommitted blocks, which the service throws away after a week and Azurite keeps.

use std::collections::{HashMap, HashSet};

use super::request::{Operation, Request};
use super::wire::Answer;

/// Per blob, the ids of the blocks that wait for their commit.
#[derive(Default)]
pub(super) struct Blocks {
    staged: HashMap<String, HashSet<String>>,
    /// Azurite has them still.
    expired: HashMap<String, HashSet<String>>,
}

impl Blocks {
    pub(super) fn expire(&mut self, blob: &str) {
        if let Some(staged) = self.staged.remove(blob) {
            self.expired.entry(blob.to_owned()).or_default().extend(staged);
        }
    }

    pub(super) fn staged(&self, blob: &str) -> impl Iterator<Item = &str> {
        self.staged.get(blob).into_iter().flatten().map(String::as_str)
    }

    /// Whether a list of blocks names one that is gone.
    pub(super) fn names_an_expired_one(&self, blob: &str, list: &str) -> bool {
        let mut expired = self.expired.get(blob).into_iter().flatten();
        expired.any(|id| list.contains(&format!(">{id}<")))
    }

    /// Keeps what a request did, and takes from its answer what the service would not have.
    pub(super) fn on_answer(&mut self, request: &Request, answer: &mut Answer) {
        let blob = &request.blob;
        match (request.operation, &request.block_id) {
            (Operation::PutBlock, Some(id)) if answer.status() == 201 => {
                self.staged.entry(blob.clone()).or_default().insert(id.clone());
                if let Some(expired) = self.expired.get_mut(blob) {
                    expired.remove(id);
                }
            }
            (Operation::PutBlob | Operation::PutBlockList, _) if answer.status() == 201 => {
                self.staged.remove(blob);
                self.expired.remove(blob);
            }
            (Operation::GetBlockList, _) if answer.status() == 200 => {
                if let Some(expired) = self.expired.get(blob) {
                    forget(&mut answer.body, expired);
                }
            }
            _ => {}
        }
    }
}

/// Takes blocks out of what a list says of uncommitted ones.
fn forget(body: &mut Vec<u8>, expired: &HashSet<String>) {
    const UNCOMMITTED: &str = "<UncommittedBlocks>";
    let list = String::from_utf8_lossy(body).into_owned();
    let Some((before, rest)) = list.split_once(UNCOMMITTED) else { return };
    let mut kept = format!("{before}{UNCOMMITTED}");
    for block in rest.split_inclusive("</Block>") {
        if !expired.iter().any(|id| block.contains(&format!("<Name>{id}</Name>"))) {
            kept.push_str(block);
        }
    }
    *body = kept.into_bytes();
}
