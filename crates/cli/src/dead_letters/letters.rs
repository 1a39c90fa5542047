//! Goes through the letters of a store, or through what it has parked, page by page, and keeps what is meant.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::filter::{FilterArgs, LetterId};
use super::opened::Opened;
use crate::table::counted;
use crate::terminal::tell;
use crate::{CommandError, brief};
use longshore::event::{EntityName, PartitionId, SequenceNumber};
use longshore::failure_store::{
    FailureKey, FailureKind, FailurePage, Listed, ListedFailure, LogIdentity, MAX_PAGE_ENTRIES,
    PageToken, StoredFailure,
};

/// Whether to look at more letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    GoOn,
    Enough,
}

/// How many entries were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Looked {
    pub(crate) letters: u64,
    pub(crate) matching: u64,
    pub(crate) unreadable: u64,
}

impl Looked {
    /// Says that nothing matches, and what cannot be read.
    pub(crate) fn tell(self, place: &str, kind: FailureKind) {
        let (one, all) = (noun(kind), titled(kind));
        if self.matching == 0 {
            match self.letters {
                // There may be some.
                0 if self.unreadable > 0 => {}
                0 => tell(format_args!("there are no {all} in {place}")),
                letters => {
                    tell(format_args!("no {one} matches, of {} in {place}", counted(letters, one)));
                }
            }
        }
        if self.unreadable > 1 {
            tell(format_args!("{} entries cannot be read", self.unreadable));
        }
    }
}

/// What one of them is called.
pub(crate) fn noun(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Dead => "letter",
        FailureKind::Parked => "event",
    }
}

/// What all of them are called.
pub(crate) fn titled(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Dead => "dead letters",
        FailureKind::Parked => "parked events",
    }
}

/// A way through the letters of a store, in its order. It can be left and gone on with.
pub(crate) struct Scan<'a> {
    opened: &'a Opened,
    filter: &'a FilterArgs,
    kind: FailureKind,
    now: SystemTime,
    /// What is left of the page at hand, in its order.
    page: std::vec::IntoIter<Listed>,
    after: Option<PageToken>,
    /// Whether the page at hand is the last one.
    is_last: bool,
    pub(crate) looked: Looked,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(opened: &'a Opened, filter: &'a FilterArgs, kind: FailureKind) -> Self {
        Self {
            opened,
            filter,
            kind,
            now: SystemTime::now(),
            page: Vec::new().into_iter(),
            after: None,
            is_last: false,
            looked: Looked::default(),
        }
    }

    /// Calls `on_letter` with each letter that is meant, until it has enough. Says whether there are no
    /// more.
    pub(crate) async fn run(
        &mut self,
        mut on_letter: impl FnMut(ListedFailure) -> Result<Next, CommandError>,
    ) -> Result<bool, CommandError> {
        loop {
            while let Some(entry) = self.page.next() {
                if let Some(letter) = self.meant(entry)
                    && on_letter(letter)? == Next::Enough
                {
                    return Ok(false);
                }
            }
            if self.is_last {
                return Ok(true);
            }
            let prefix = self.filter.prefix(self.kind);
            let page = self.opened.store.list(&prefix, self.after.as_ref(), MAX_PAGE_ENTRIES).await;
            let FailurePage { entries, next, .. } =
                page.map_err(|error| CommandError::new(brief(&error)))?;
            self.page = entries.into_iter();
            self.is_last = next.is_none();
            self.after = next;
        }
    }

    /// The letter of an entry, if it can be read and is meant.
    fn meant(&mut self, entry: Listed) -> Option<ListedFailure> {
        let letter = match entry {
            Ok(letter) => letter,
            Err(error) => {
                self.looked.unreadable += 1;
                if self.looked.unreadable == 1 {
                    tell(brief(&error));
                }
                return None;
            }
        };
        self.looked.letters += 1;
        let is_meant = self.filter.matches(&letter, self.now);
        self.looked.matching += u64::from(is_meant);
        is_meant.then_some(letter)
    }
}

/// Calls `on_letter` with each letter that is meant.
pub(crate) async fn each(
    opened: &Opened,
    filter: &FilterArgs,
    kind: FailureKind,
    on_letter: impl FnMut(ListedFailure) -> Result<Next, CommandError>,
) -> Result<Looked, CommandError> {
    let mut scan = Scan::new(opened, filter, kind);
    scan.run(on_letter).await?;
    Ok(scan.looked)
}

/// The one letter of an id.
pub(crate) async fn one(
    opened: &Opened,
    id: &str,
    kind: FailureKind,
) -> Result<StoredFailure, CommandError> {
    let found = match id.parse().map_err(CommandError::new)? {
        LetterId::Whole(event) => read(opened, event.key(kind)).await?,
        LetterId::Short { entity, partition, number } => {
            short(opened, &entity, &partition, number, kind).await?
        }
    };
    found.ok_or_else(|| {
        CommandError::new(format!("there is no {} {id} in {}", noun(kind), opened.place))
    })
}

async fn read(opened: &Opened, key: FailureKey) -> Result<Option<StoredFailure>, CommandError> {
    opened.store.read(&key).await.map_err(|error| CommandError::new(brief(&error)))
}

/// The first letter of a hub, a partition and a number. Namespace, incarnation and group are mostly those of
/// the letters that are listed first; else all are gone through.
async fn short(
    opened: &Opened,
    entity: &EntityName,
    partition: &PartitionId,
    number: SequenceNumber,
    kind: FailureKind,
) -> Result<Option<StoredFailure>, CommandError> {
    let filter = FilterArgs::default();
    let mut logs = BTreeSet::new();
    let mut scan = Scan::new(opened, &filter, kind);
    let mut left = MAX_PAGE_ENTRIES;
    scan.run(|letter| {
        let log = letter.key.event.log;
        if log.entity == *entity {
            logs.insert(LogIdentity { partition: partition.clone(), ..log });
        }
        left -= 1;
        Ok(if left == 0 { Next::Enough } else { Next::GoOn })
    })
    .await?;
    for log in logs {
        if let Some(found) = read(opened, log.event(number).key(kind)).await? {
            return Ok(Some(found));
        }
    }
    let (entity, partition) = (entity.clone(), partition.clone());
    let id = LetterId::Short { entity, partition, number };
    let mut found = None;
    scan.run(|letter| {
        let event = letter.key.event;
        found = id.is_of(&event).then_some(event);
        Ok(if found.is_some() { Next::Enough } else { Next::GoOn })
    })
    .await?;
    match found {
        Some(event) => read(opened, event.key(kind)).await,
        None => Ok(None),
    }
}
