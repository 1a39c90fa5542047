//! Choices of what goes along with a file into a store, beside its bytes and the kind of its content.

/// What goes along with a file. A store leaves out what it has no place for: a folder keeps the time,
/// a container all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GoesAlong {
    /// Whose metadata.
    pub metadata: MetadataOf,
    /// Which time the file has.
    pub time: FileTime,
    /// The access tier of its blob; `None` is that of the account.
    pub tier: Option<AccessTier>,
}

impl GoesAlong {
    /// The kind of the content, and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whose metadata goes along.
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

/// Whose metadata goes along with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum MetadataOf {
    /// Nobody's.
    #[default]
    None,
    /// What the task says under `metadata`: texts, numbers, true and false.
    Task,
    /// What a container has of the file that comes from it. Files over HTTP and from folders have none.
    Source,
    /// Both; the task's where both have a name.
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
    /// When its source was changed last, where that says so: the time of a file in a folder, the metadata
    /// `mtime` of a blob, which rclone reads and writes as well.
    Source,
}

/// The access tier of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AccessTier {
    /// Dear to keep, cheap to read.
    Hot,
    /// For what is kept for a month or more.
    Cool,
    /// For what is kept for a quarter of a year or more.
    Cold,
    /// For what is kept for half a year or more. A blob in it cannot be read before it is brought back,
    /// which takes hours, nor be replaced where the service refuses that.
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
