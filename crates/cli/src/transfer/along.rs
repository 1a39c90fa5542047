//! What goes along with the files of a run, as the command line says it.

use clap::Args;
use longshore::config::{AccessTier, FileTime, GoesAlong, MetadataOf};

use super::files::To;
use crate::CommandError;

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "What goes along with files")]
pub(crate) struct AlongArgs {
    /// Which time a file has: that of its commit, or the one that its server says, as the time of a file
    /// in a folder or the metadata mtime of a blob
    #[arg(long, value_name = "WHICH", default_value = "commit", value_parser = ["commit", "source"])]
    time: String,
    /// Puts the metadata of JSON tasks on the blobs of a container
    #[arg(long, value_name = "WHOSE", default_value = "none", value_parser = ["none", "task"])]
    metadata: String,
    /// The access tier of the blobs of a container. Default: that of the account
    #[arg(long, value_name = "TIER", value_parser = ["hot", "cool", "cold", "archive"])]
    tier: Option<String>,
}

impl AlongArgs {
    /// # Errors
    /// A folder has no place for it.
    pub(super) fn choice(&self, to: &To) -> Result<GoesAlong, CommandError> {
        let tier = AccessTier::ALL.into_iter().find(|it| self.tier.as_deref() == Some(it.as_str()));
        let metadata = if self.metadata == "task" { MetadataOf::Task } else { MetadataOf::None };
        let time = if self.time == "source" { FileTime::Source } else { FileTime::Commit };
        let is_for_blobs = tier.is_some() || metadata != MetadataOf::None;
        if is_for_blobs && matches!(to, To::Folder(_)) {
            return Err(CommandError::new("--tier and --metadata are for a container in --to"));
        }
        Ok(GoesAlong::new().with_metadata(metadata).with_time(time).with_tier(tier))
    }
}
