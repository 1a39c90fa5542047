//! `purge`: deletes letters by the version that was listed.

use super::PurgeArgs;
use super::acts::{self, Acted, Deed};
use super::opened::Opened;
use crate::terminal::tell;
use crate::{CommandError, Ending, brief};
use longshore::failure_store::{FailureKind, ListedFailure, StoreError};

pub(super) async fn run(args: PurgeArgs) -> Result<Ending, CommandError> {
    let PurgeArgs { filter, all, dry_run, common } = args;
    if let Some(fault) = filter.fault(all) {
        tell(fault);
        return Ok(Ending::Unusable);
    }
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let delete = |letter: ListedFailure| {
        let store = &opened.store;
        async move {
            match store.delete(&letter.key, &letter.version).await {
                Ok(()) => Acted::Done,
                Err(StoreError::Conflict) => Acted::Changed,
                Err(StoreError::Failed(error)) => Acted::Failed(brief(&error)),
            }
        }
    };
    let kind = FailureKind::Dead;
    let acts = acts::each(&opened, &filter, kind, dry_run, delete).await?;
    let deed = Deed { figure: "deleted", words: "deleted from" };
    acts.give(&opened, kind, deed, dry_run, common.report)
}
