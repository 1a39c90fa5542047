//! What is known of a failure without its record, and how it is written: `v=1;attempts=3;class=permanent;…`
//!
//! One line of printable ASCII, so that it fits where stores keep such things: the metadata of a blob, a
//! line of a file. Values are percent-encoded. Fields that are not known are passed over, and those that are
//! missing have their defaults. Names of any length and texts of anybody are in it, so texts are cut, and it
//! is bounded whatever the record is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::fingerprint::Fingerprint;
use super::key::{EventIdentity, LogIdentity};
use crate::error::{Error, ErrorClass};
use crate::event::{Incarnation, SequenceNumber};
use crate::timestamp::{from_unix_millis, unix_millis};

/// The version that this release writes.
const VERSION: u32 = 1;

/// Most bytes of a text once it is encoded.
const MAX_TEXT_BYTES: usize = 600;

/// Most bytes of a line: what Blob Storage takes as metadata, without the name of the field.
const MAX_LINE_BYTES: usize = 8 * 1024 - 64;

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'/')
    .remove(b':')
    .remove(b'$')
    .remove(b'@');

/// What a listing says of a failure. Texts may be cut: the record has all of them.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct FailureMeta {
    /// When it is to be tried again, of one that is parked; since when a job replays it, of one that is
    /// dead.
    pub due: Option<SystemTime>,
    /// How many times the handler had the event.
    pub attempts: u32,
    /// How many times it was parked.
    pub parkings: u32,
    /// When it failed first.
    pub first_failure: SystemTime,
    /// When it failed last.
    pub last_failure: SystemTime,
    /// When the service accepted the event.
    pub enqueued_time: SystemTime,
    /// The lane of the event, if it has one.
    pub lane: Option<String>,
    /// What kind of failure it was.
    pub class: ErrorClass,
    /// Which failures it is like.
    pub fingerprint: Fingerprint,
    /// What those have in common, in words.
    pub reason: String,
    /// What the failure blames, if it says so.
    pub destination: Option<String>,
    /// The worker that wrote it.
    pub worker: String,
    /// The size of the event's body.
    pub body_bytes: u64,
    /// Whether the body was left out: such an event cannot be replayed.
    pub is_body_omitted: bool,
    /// The job that replays it, or did last.
    pub job: Option<String>,
    /// How many times it was replayed.
    pub generation: u32,
}

impl FailureMeta {
    /// Of a failure of this class and kind, at one attempt; all else is unknown.
    pub fn new(class: ErrorClass, fingerprint: Fingerprint, failed_at: SystemTime) -> Self {
        Self {
            due: None,
            attempts: 1,
            parkings: 0,
            first_failure: failed_at,
            last_failure: failed_at,
            enqueued_time: SystemTime::UNIX_EPOCH,
            lane: None,
            class,
            fingerprint,
            reason: String::new(),
            destination: None,
            worker: String::new(),
            body_bytes: 0,
            is_body_omitted: false,
            job: None,
            generation: 0,
        }
    }

    /// The job that replays a dead letter now: it has a time since when, as nothing else that is dead has.
    pub fn replaying(&self) -> Option<&str> {
        self.due.and(self.job.as_deref())
    }

    /// Writes it as a line, with the event it is of.
    ///
    /// # Errors
    /// `Permanent` if the names of the event alone are too long for it.
    pub(crate) fn encode(&self, event: &EventIdentity) -> Result<String, Error> {
        let mut line = format!("v={VERSION}");
        let mut put = |name: &str, value: &str| {
            let _ = write!(line, ";{name}={value}");
        };
        let log = &event.log;
        for (name, value) in [
            ("namespace", log.namespace.as_str()),
            ("hub", log.entity.as_str()),
            ("group", log.consumer_group.as_str()),
            ("partition", log.partition.as_str()),
        ] {
            put(name, &encoded(value));
        }
        put("incarnation", &log.incarnation.0.to_string());
        put("number", &event.sequence_number.0.to_string());
        put("attempts", &self.attempts.to_string());
        put("class", self.class.as_str());
        put("fingerprint", &self.fingerprint.to_string());
        put("bytes", &self.body_bytes.to_string());
        for (name, time) in [
            ("first", Some(self.first_failure)),
            ("last", Some(self.last_failure)),
            ("enqueued", Some(self.enqueued_time)),
            ("due", self.due),
        ] {
            if let Some(time) = time {
                put(name, &unix_millis(time).to_string());
            }
        }
        for (name, count) in [
            ("parkings", self.parkings),
            ("generation", self.generation),
            ("omitted", u32::from(self.is_body_omitted)),
        ] {
            if count > 0 {
                put(name, &count.to_string());
            }
        }
        for (name, text) in [
            ("worker", Some(&self.worker)),
            ("reason", Some(&self.reason)),
            ("destination", self.destination.as_ref()),
            ("lane", self.lane.as_ref()),
            ("job", self.job.as_ref()),
        ] {
            if let Some(text) = text {
                put(name, &shortened(text));
            }
        }
        if line.len() <= MAX_LINE_BYTES {
            return Ok(line);
        }
        let message = "the names of its namespace, hub, group and partition are too long together";
        Err(Error::new(ErrorClass::Permanent, "describe the failure", message))
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn decode(line: &str) -> Result<(EventIdentity, Self), String> {
        let fields: BTreeMap<&str, &str> =
            line.split(';').filter_map(|field| field.split_once('=')).collect();
        let fields = Fields(fields);
        match fields.number("v")? {
            Some(version) if version > i64::from(VERSION) => {
                return Err(format!(
                    "its metadata is of version {version}, and this release reads up to {VERSION}; \
                     use a later release"
                ));
            }
            Some(_) => {}
            None => return Err("it has no metadata of a failure".to_owned()),
        }
        let log = LogIdentity {
            namespace: fields.needed("namespace")?,
            entity: fields.needed("hub")?.into(),
            incarnation: Incarnation(fields.number("incarnation")?.unwrap_or(0)),
            consumer_group: fields.needed("group")?.into(),
            partition: fields.needed("partition")?.into(),
        };
        let number = fields.number("number")?.ok_or("its metadata has no number")?;
        let class = fields.needed("class")?;
        let class = ErrorClass::from_word(&class).ok_or_else(|| {
            format!("its metadata is of the class {class:?}, which this release does not know")
        })?;
        let fingerprint = fields.needed("fingerprint")?.parse()?;
        let mut meta = Self::new(class, fingerprint, SystemTime::UNIX_EPOCH);
        fields.read_into(&mut meta)?;
        Ok((log.event(SequenceNumber(number)), meta))
    }
}

/// The fields of a line, by name.
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let value = self.0.get(name)?;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    fn needed(&self, name: &str) -> Result<String, String> {
        self.text(name).ok_or_else(|| format!("its metadata has no {name}"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.parse();
        number.map(Some).map_err(|_| format!("its metadata has a {name} that is no number"))
    }

    fn count(&self, name: &str) -> Result<u32, String> {
        let count = self.number(name)?.unwrap_or(0);
        Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
    }

    fn time(&self, name: &str) -> Result<Option<SystemTime>, String> {
        Ok(self.number(name)?.map(from_unix_millis))
    }

    fn read_into(&self, meta: &mut FailureMeta) -> Result<(), String> {
        meta.due = self.time("due")?;
        meta.attempts = self.count("attempts")?;
        meta.parkings = self.count("parkings")?;
        meta.generation = self.count("generation")?;
        meta.first_failure = self.time("first")?.unwrap_or(SystemTime::UNIX_EPOCH);
        meta.last_failure = self.time("last")?.unwrap_or(meta.first_failure);
        meta.enqueued_time = self.time("enqueued")?.unwrap_or(SystemTime::UNIX_EPOCH);
        meta.body_bytes = self.number("bytes")?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        meta.is_body_omitted = self.count("omitted")? > 0;
        meta.worker = self.text("worker").unwrap_or_default();
        meta.reason = self.text("reason").unwrap_or_default();
        meta.destination = self.text("destination");
        meta.lane = self.text("lane");
        meta.job = self.text("job");
        Ok(())
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A text that may be cut, encoded.
fn shortened(text: &str) -> String {
    encoded(kept(text))
}

/// What a listing has of a text: as much of its beginning as fits.
pub(crate) fn kept(text: &str) -> &str {
    let (mut bytes, mut end) = (0, 0);
    for letter in text.chars() {
        bytes += encoded(letter.encode_utf8(&mut [0; 4])).len();
        if bytes > MAX_TEXT_BYTES {
            break;
        }
        end += letter.len_utf8();
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn event(name: &str) -> EventIdentity {
        let log = LogIdentity {
            namespace: "ns.example".to_owned(),
            entity: name.into(),
            incarnation: Incarnation(1_700_000_000_123),
            consumer_group: "$Default".into(),
            partition: "3".into(),
        };
        log.event(SequenceNumber(17))
    }

    fn meta() -> FailureMeta {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let fingerprint = Fingerprint::of(ErrorClass::Permanent, "404");
        let mut meta = FailureMeta::new(ErrorClass::Permanent, fingerprint, at(60));
        meta.first_failure = at(10);
        meta.worker = "worker 1".to_owned();
        meta.body_bytes = 5;
        meta
    }

    #[test]
    fn a_line_is_ascii_that_people_can_read() {
        let line = meta().encode(&event("Orders")).unwrap();
        assert_eq!(
            line,
            format!(
                "v=1;namespace=ns.example;hub=Orders;group=$Default;partition=3;\
                 incarnation=1700000000123;number=17;attempts=1;class=permanent;fingerprint={};\
                 bytes=5;first=10000;last=60000;enqueued=0;worker=worker%201;reason=",
                meta().fingerprint
            )
        );
        assert_eq!(FailureMeta::decode(&line), Ok((event("Orders"), meta())));
        let later = format!("{line};never_heard_of=1");
        assert_eq!(FailureMeta::decode(&later), Ok((event("Orders"), meta())));
    }

    #[test]
    fn what_is_no_line_is_refused_in_words() {
        let line = meta().encode(&event("Orders")).unwrap();
        for (line, fault) in [
            (String::new(), "no metadata"),
            (line.replace("v=1", "v=2"), "of version 2"),
            (line.replace("number=17", "number=x"), "a number that is no number"),
            (line.replace(";hub=Orders", ""), "no hub"),
            (line.replace("class=permanent", "class=odd"), "the class \"odd\""),
            (line.replace("fingerprint=", "fingerprint=0"), "sixteen"),
        ] {
            let refused = FailureMeta::decode(&line).unwrap_err();
            assert!(refused.contains(fault), "{refused}");
        }
        assert!(meta().encode(&event(&"ä".repeat(2_000))).is_err());
    }

    proptest! {
        #[test]
        fn every_field_comes_back_and_the_line_is_bounded(
            texts in proptest::array::uniform5("(?s).{0,90}"),
            long in "(?s).{0,3000}",
            counts in any::<[u32; 3]>(),
            due in proptest::option::of(0..i64::MAX / 2),
            is_body_omitted in any::<bool>(),
        ) {
            let [name, worker, lane, destination, job] = texts;
            let mut meta = meta();
            meta.due = due.map(from_unix_millis);
            [meta.attempts, meta.parkings, meta.generation] = counts;
            meta.is_body_omitted = is_body_omitted;
            let mut cut = meta.clone();
            for text in [&mut cut.worker, &mut cut.reason] {
                text.clone_from(&long);
            }
            (cut.lane, cut.destination, cut.job) =
                (Some(long.clone()), Some(long.clone()), Some(long));
            let line = cut.encode(&event(&name)).unwrap();
            prop_assert!(line.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(line.len() <= MAX_LINE_BYTES);
            meta.worker = worker.chars().take(40).collect();
            meta.lane = Some(lane.chars().take(40).collect());
            meta.destination = Some(destination.chars().take(40).collect());
            meta.job = Some(job.chars().take(40).collect());
            let line = meta.encode(&event(&name)).unwrap();
            prop_assert_eq!(FailureMeta::decode(&line), Ok((event(&name), meta)));
        }
    }
}
