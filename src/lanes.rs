//! Lanes: which events belong together, and what that means for how they are handled.
//!
//! An event may belong to a [`Lane`]: its key, its partition, the host that a task names. A [`LaneRule`] says
//! which lane an event belongs to, and what the lanes do. Events whose lane is full or closed wait without a slot,
//! and other events pass them within the window W.
//!
//! ```text
//!                       ordered                           limited
//!  at once              one event, or one batch           at most the cap
//!  busy until           all of that is settled            the call returns
//!  a failed event       goes to the lane's front, which   waits for its retry beside
//!                       is closed for the back-off        the lane
//! ```
//!
//! A lane is shared by all partitions of a consumer, or of a set that has the rule. Lanes take turns, and so do
//! the partitions that wait for one. Neither order nor closing times cross processes; see
//! [`guarantees`](crate::guarantees).

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::error::InvalidConfig;
use crate::event::{Event, Partition};

/// The most bytes of a name that a [`Lane`] keeps: 1,024.
pub const MAX_LANE_BYTES: usize = 1_024;

/// The longest time for which a lane can be closed: a day.
pub const MAX_LANE_CLOSING: Duration = Duration::from_secs(24 * 60 * 60);

/// The most closed lanes without an event that are remembered: 65,536. Beyond that, the lane that would open first
/// is forgotten.
pub const MAX_CLOSED_LANES: usize = 65_536;

/// A name of this length needs no allocation.
const INLINE: usize = 22;

/// Names a lane. Cheap to clone.
///
/// A name is text or bytes. If it is longer than [`MAX_LANE_BYTES`], its beginning is kept with a hash of the
/// whole. Two such names may become one lane, which costs speed and never order.
#[derive(Clone)]
pub struct Lane(Name);

#[derive(Clone)]
enum Name {
    Short { len: u8, bytes: [u8; INLINE] },
    Long(Arc<[u8]>),
}

impl Lane {
    /// The lane of this name.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        let mut bytes = [0; INLINE];
        if let (Some(place), Ok(len)) = (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            place.copy_from_slice(name);
            return Self(Name::Short { len, bytes });
        }
        if name.len() <= MAX_LANE_BYTES {
            return Self(Name::Long(name.into()));
        }
        let hash = format!("#{:016x}", fnv(name));
        let kept = name.get(..MAX_LANE_BYTES - hash.len()).unwrap_or_default();
        Self(Name::Long([kept, hash.as_bytes()].concat().into()))
    }

    /// The lane of all events of a partition.
    pub fn of_partition(partition: &Partition) -> Self {
        Self::new(partition.to_string())
    }

    /// The name.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Name::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Name::Long(bytes) => bytes,
        }
    }
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl PartialEq for Lane {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Lane {}

impl PartialOrd for Lane {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lane {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// As its bytes, so that a lane is found by them.
impl Hash for Lane {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Lane {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The name. Characters that do not print are escaped.
impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.as_bytes()) {
            Ok(text) => write!(f, "{}", text.escape_debug()),
            Err(_) => write!(f, "{}", self.as_bytes().escape_ascii()),
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane(\"{self}\")")
    }
}

impl From<&str> for Lane {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Lane {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

/// Gives the lane of an event.
pub type LaneFunction = Arc<dyn Fn(&Event) -> Option<Lane> + Send + Sync>;

/// Where the lane of an event comes from.
#[derive(Clone)]
pub(crate) enum LaneSource {
    Key,
    Partition,
    Function(LaneFunction),
}

/// A rule that gives events their lanes, and says what the lanes do.
///
/// A function is asked once for each event that is received, before its handler can be called, on the task that
/// receives. So it must be quick. If it panics, that is a failed attempt of the event.
///
/// ```
/// use longshore::lanes::{Lane, LaneRule};
///
/// let by_customer = LaneRule::ordered(|event| {
///     event.properties().get("customer").and_then(|value| value.as_text()).map(Lane::new)
/// });
/// assert!(by_customer.is_ordered());
/// ```
#[derive(Clone)]
pub struct LaneRule {
    source: LaneSource,
    /// `None`: ordered.
    cap: Option<usize>,
}

impl LaneRule {
    /// Handles the events of a lane in order: the next event begins when the one before is settled, and a dead
    /// letter is acknowledged. Events without a lane do not wait.
    pub fn ordered(lane: impl Fn(&Event) -> Option<Lane> + Send + Sync + 'static) -> Self {
        Self { source: LaneSource::Function(Arc::new(lane)), cap: None }
    }

    /// At most `cap` events of a lane are handled at once. A `cap` of 0 is refused when the consumer
    /// is built.
    pub fn limited(
        cap: usize,
        lane: impl Fn(&Event) -> Option<Lane> + Send + Sync + 'static,
    ) -> Self {
        Self { source: LaneSource::Function(Arc::new(lane)), cap: Some(cap) }
    }

    /// Events of a partition key are handled in order. One without a key, or with an empty one, has
    /// no lane.
    pub fn per_key() -> Self {
        Self { source: LaneSource::Key, cap: None }
    }

    /// Events of a partition are handled in order.
    pub fn per_partition() -> Self {
        Self { source: LaneSource::Partition, cap: None }
    }

    /// Whether events of a lane are handled in order.
    pub fn is_ordered(&self) -> bool {
        self.cap.is_none()
    }

    /// Whether a partition is one lane.
    pub(crate) fn is_of_partition(&self) -> bool {
        matches!(self.source, LaneSource::Partition)
    }

    /// How many calls, or for a limited rule events, of a lane may be under way.
    pub fn cap(&self) -> usize {
        self.cap.unwrap_or(1)
    }

    /// The lane of an event.
    ///
    /// # Panics
    /// Where the rule's function does.
    pub fn lane_of(&self, event: &Event) -> Option<Lane> {
        match &self.source {
            LaneSource::Key => event.key().filter(|key| !key.is_empty()).map(Lane::new),
            LaneSource::Partition => Some(Lane::of_partition(event.partition())),
            LaneSource::Function(lane) => lane(event),
        }
    }

    pub(crate) fn source(&self) -> &LaneSource {
        &self.source
    }

    /// Checks the cap.
    ///
    /// # Errors
    /// A cap of 0.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        match self.cap {
            Some(0) => Err(InvalidConfig::new("lane_cap", 0, "it must be at least 1")),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for LaneRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            LaneSource::Key => "key",
            LaneSource::Partition => "partition",
            LaneSource::Function(_) => "function",
        };
        f.debug_struct("LaneRule").field("lane", &source).field("cap", &self.cap).finish()
    }
}

/// Where the lanes of a consumer, or of a set that shares them, stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LaneSnapshot {
    /// Lanes that have events here, or are closed.
    pub known: usize,
    /// Those of them that are closed.
    pub closed: usize,
    /// Events, or for ordered lanes calls, that are under way in lanes.
    pub in_flight: usize,
    /// How many of a lane may be.
    pub cap: usize,
    /// Events of this consumer whose lane is full or closed.
    pub waiting_events: usize,
}

/// Why the next event of a lane waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LaneHold {
    /// As much of the lane is under way as may be.
    Full,
    /// How long the lane is still closed.
    ClosedFor(Duration),
}

/// The lane that holds a partition's watermark back while nothing more may come in.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HoldingLane {
    /// The lane of the oldest unsettled event.
    pub lane: Lane,
    /// Events of the partition that wait for this lane.
    pub waiting_events: usize,
    /// Why they wait.
    pub hold: LaneHold,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventParts;

    #[test]
    fn a_name_is_kept_whatever_its_length_up_to_a_bound() {
        for len in [0, 1, INLINE, INLINE + 1, MAX_LANE_BYTES] {
            let name = vec![b'a'; len];
            assert_eq!(Lane::new(&name).as_bytes(), name);
        }
        let long = |last: u8| {
            let mut name = vec![b'a'; 5_000];
            name.push(last);
            Lane::new(name)
        };
        assert_eq!(long(1).as_bytes().len(), MAX_LANE_BYTES);
        assert_eq!(long(1), long(1));
        assert_ne!(long(1), long(2), "what is cut off is in the hash");
    }

    #[test]
    fn a_name_is_shown_escaped() {
        assert_eq!(format!("{:?}", Lane::new("a\n\u{1b}[31mü\"")), r#"Lane("a\n\u{1b}[31mü\"")"#);
        assert_eq!(Lane::new([0xff, b'x', 0]).to_string(), r"\xffx\x00");
    }

    #[test]
    fn an_event_without_a_key_or_with_an_empty_one_has_no_lane() {
        let event = |key: Option<&str>| -> Event {
            let partition = Arc::new(Partition::new("orders", "0"));
            let mut parts = EventParts::new(partition, 7, "");
            parts.key = key.map(str::to_owned);
            parts.into()
        };
        let rule = LaneRule::per_key();
        assert_eq!(rule.lane_of(&event(None)), None);
        assert_eq!(rule.lane_of(&event(Some(""))), None);
        assert_eq!(rule.lane_of(&event(Some("7"))), Some(Lane::new("7")));
        assert_eq!(LaneRule::per_partition().lane_of(&event(None)), Some(Lane::new("orders/0")));
    }

    #[test]
    fn a_cap_of_nothing_is_refused_by_name() {
        let refused = LaneRule::limited(0, |_| None).validate().expect_err("no cap");
        assert_eq!(refused.field, "lane_cap");
        assert_eq!(LaneRule::limited(1, |_| None).validate(), Ok(()));
        assert_eq!(LaneRule::per_key().validate(), Ok(()));
    }
}
