//! What goes along with the files of a run, as the command line says it.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use longshore::config::{AccessTier, CopyBy, FileTime, GoesAlong, MetadataOf};

use super::files::To;
use crate::CommandError;

#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "What goes along with files")]
pub(crate) struct AlongArgs {
    /// The modification time of a file. commit: when longshore finished writing it. source: what the server
    /// reports. A container keeps it as the metadata mtime of the blob
    #[arg(long, value_name = "WHICH", default_value = "commit")]
    #[arg(value_parser = PossibleValuesParser::new(["commit", "source"]).map(time))]
    time: FileTime,
    /// The metadata of blobs. none: nothing. task: the field metadata of JSON tasks. Only for a container
    #[arg(long, value_name = "WHOSE", default_value = "none")]
    #[arg(value_parser = PossibleValuesParser::new(["none", "task"]).map(metadata))]
    metadata: MetadataOf,
    /// The access tier of blobs. Only for a container. Default: the tier of the account
    #[arg(long, value_name = "TIER")]
    #[arg(value_parser = PossibleValuesParser::new(AccessTier::ALL.map(AccessTier::as_str)).map(tier))]
    tier: Option<AccessTier>,
    /// Who copies large files. worker: this process. service: the storage service fetches their URLs itself;
    /// it gets the URLs with all that is secret in them. Only for a container
    #[arg(long, value_name = "WHO", default_value = "worker")]
    #[arg(value_parser = PossibleValuesParser::new(["worker", "service"]).map(copy))]
    copy: CopyBy,
}

fn time(word: String) -> FileTime {
    if word == "source" { FileTime::Source } else { FileTime::Commit }
}

fn metadata(word: String) -> MetadataOf {
    if word == "task" { MetadataOf::Task } else { MetadataOf::None }
}

fn tier(word: String) -> AccessTier {
    let tier = AccessTier::ALL.into_iter().find(|tier| tier.as_str() == word);
    // It is one of them.
    tier.unwrap_or(AccessTier::Hot)
}

fn copy(word: String) -> CopyBy {
    if word == "service" { CopyBy::Service } else { CopyBy::Worker }
}

impl AlongArgs {
    /// # Errors
    /// A folder has no place for it.
    pub(super) fn choice(self, to: &To) -> Result<(GoesAlong, CopyBy), CommandError> {
        let Self { time, metadata, tier, copy } = self;
        let is_for_blobs =
            copy == CopyBy::Service || tier.is_some() || metadata != MetadataOf::None;
        if is_for_blobs && matches!(to, To::Folder(_)) {
            return Err(CommandError::new(
                "--tier, --metadata and --copy are for a container in --to",
            ));
        }
        Ok((GoesAlong::new().with_metadata(metadata).with_time(time).with_tier(tier), copy))
    }
}
