//! What goes along with the files of a run, as the command line says it.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use longshore::config::{AccessTier, CopyBy, FileTime, GoesAlong, MetadataOf};

use super::files::To;
use crate::CommandError;

#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "What goes along with files")]
pub(crate) struct AlongArgs {
    /// Which time a file gets: that of its commit, or that of its source, as the server reports it. A
    /// folder keeps it as the time of the file, a container as the metadata mtime of the blob
    #[arg(long, value_name = "WHICH", default_value = "commit")]
    #[arg(value_parser = PossibleValuesParser::new(["commit", "source"]).map(time))]
    time: FileTime,
    /// Which metadata goes onto the blobs of a container: none, or that of JSON tasks
    #[arg(long, value_name = "WHOSE", default_value = "none")]
    #[arg(value_parser = PossibleValuesParser::new(["none", "task"]).map(metadata))]
    metadata: MetadataOf,
    /// The access tier of the blobs of a container. Default: the tier of the account
    #[arg(long, value_name = "TIER")]
    #[arg(value_parser = PossibleValuesParser::new(AccessTier::ALL.map(AccessTier::as_str)).map(tier))]
    tier: Option<AccessTier>,
    /// Who copies large files into a container: this process, or the storage service, if it can read their
    /// URLs. The service then gets the URLs with all that is secret in them
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
