//! Choices of what goes along with a file into a store, beside its bytes and its content type.

/// What goes along with a file into a store. A container keeps all of it, a folder keeps only the time. Default:
/// nothing but the content type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GoesAlong {
    /// Which metadata. Default: none.
    pub metadata: MetadataOf,
    /// Which time the file has. Default: that of its commit.
    pub time: FileTime,
    /// The access tier of its blob. Default (`None`): the tier of the account.
    pub tier: Option<AccessTier>,
}

impl GoesAlong {
    /// The content type, and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which metadata goes along.
    #[must_use]
    pub fn with_metadata(mut self, metadata: MetadataOf) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets which time the file has.
    #[must_use]
    pub fn with_time(mut self, time: FileTime) -> Self {
        self.time = time;
        self
    }

    /// Sets the access tier.
    #[must_use]
    pub fn with_tier(mut self, tier: Option<AccessTier>) -> Self {
        self.tier = tier;
        self
    }
}

/// Which metadata goes along with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum MetadataOf {
    /// None.
    #[default]
    None,
    /// That of the task, under `metadata`: texts, numbers, true and false.
    Task,
    /// That of the blob, for a file that comes from a container. Files over HTTP and from folders have none.
    Source,
    /// Both. If a name is in both, the task wins.
    Both,
}

impl MetadataOf {
    /// Whether the task's is among it.
    pub fn has_task(self) -> bool {
        matches!(self, Self::Task | Self::Both)
    }

    /// Whether the source's is among it.
    pub fn has_source(self) -> bool {
        matches!(self, Self::Source | Self::Both)
    }
}

/// Which time a file has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum FileTime {
    /// That of its commit.
    #[default]
    Commit,
    /// When its source was last changed, if the source says so. A folder keeps it as the time of the file, a
    /// container as the metadata `mtime` of the blob, which rclone reads and writes as well.
    Source,
}

/// The access tier of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AccessTier {
    /// Expensive to keep, cheap to read.
    Hot,
    /// For files that are kept for a month or more.
    Cool,
    /// For files that are kept for a quarter of a year or more.
    Cold,
    /// For files that are kept for half a year or more. A blob in this tier cannot be read before it is brought
    /// back, which takes hours. The service may also refuse to replace it.
    Archive,
}

impl AccessTier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hot, Self::Cool, Self::Cold, Self::Archive];

    /// Its word in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cool => "cool",
            Self::Cold => "cold",
            Self::Archive => "archive",
        }
    }
}
