//! A failure as a record: what [`DeadLetterRecord`] is under a key, and back.

use bytes::Bytes;

use super::key::{EventIdentity, FailureKey, FailureKind, LogIdentity};
use super::meta::FailureMeta;
use super::{FailureEntry, Fingerprint, StoredFailure, reason};
use crate::dead_letter::DeadLetter;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::{Error, ErrorClass};
use crate::event::Partition;
use crate::timestamp::from_rfc3339;

impl DeadLetterRecord {
    /// The event that the record is of.
    pub fn identity(&self) -> EventIdentity {
        let log = LogIdentity {
            namespace: self.namespace.clone(),
            entity: self.topic.clone(),
            incarnation: self.incarnation,
            consumer_group: self.consumer_group.clone(),
            partition: self.partition.clone(),
        };
        log.event(self.sequence_number)
    }

    /// The event that a letter is of.
    pub(crate) fn identity_of(letter: &DeadLetter) -> EventIdentity {
        let Partition { entity, id } = letter.event.partition();
        let log = LogIdentity {
            namespace: letter.namespace.clone(),
            entity: entity.clone(),
            incarnation: letter.incarnation,
            consumer_group: letter.consumer_group.clone(),
            partition: id.clone(),
        };
        log.event(letter.event.sequence_number())
    }

    /// What a listing says of the record.
    ///
    /// # Errors
    /// `BadData` if a time of the record is not a time.
    pub fn meta(&self) -> Result<FailureMeta, Error> {
        let time = |field: &str, text: &str| {
            from_rfc3339(text).ok_or_else(|| {
                let message = format!("its {field} is {text:?}, which is not a time");
                Error::new(ErrorClass::BadData, "read the failure", message)
            })
        };
        let failed_at = time("last_failure", &self.last_failure)?;
        let class = self.error.class;
        let fingerprint = Fingerprint::of(class, &self.error.message);
        let mut meta = FailureMeta::new(class, fingerprint, failed_at);
        meta.first_failure = time("first_failure", &self.first_failure)?;
        meta.enqueued_time = time("enqueued_time", &self.enqueued_time)?;
        meta.due = self.due.as_deref().map(|due| time("due", due)).transpose()?;
        meta.attempts = self.attempts;
        meta.parkings = self.parkings;
        meta.lane.clone_from(&self.lane);
        meta.reason = reason(&self.error.message);
        meta.destination.clone_from(&self.destination);
        meta.worker.clone_from(&self.worker);
        meta.body_bytes = self.body_bytes();
        meta.is_body_omitted = self.body_omitted_bytes.is_some();
        meta.job.clone_from(&self.job);
        meta.generation = self.generation;
        Ok(meta)
    }
}

impl FailureEntry {
    /// What is put of a record: in either place, under its [`DeadLetterRecord::identity`].
    ///
    /// # Errors
    /// As [`DeadLetterRecord::meta`].
    pub fn of(record: &DeadLetterRecord) -> Result<Self, Error> {
        Ok(Self { meta: record.meta()?, content: Bytes::from(record.to_json()?) })
    }
}

impl StoredFailure {
    /// Reads the record.
    ///
    /// # Errors
    /// `BadData` if it is [damaged](Self::is_damaged), no record, of a later release, or of another event than its place says.
    pub fn record(&self) -> Result<DeadLetterRecord, Error> {
        let place = &self.key;
        let refused =
            |message: String| Error::new(ErrorClass::BadData, "read the failure", message);
        let advice = match place.kind {
            FailureKind::Dead => "repair it, or delete it",
            FailureKind::Parked => "repair it, or delete it: its event is then not tried again",
        };
        if self.is_damaged {
            let message =
                format!("the record {place} is damaged: it is not what was written; {advice}");
            return Err(refused(message));
        }
        let record = DeadLetterRecord::from_json(&self.content).map_err(|error| {
            refused(format!("the record {place} cannot be read; {advice}")).with_source(error)
        })?;
        let found = record.identity();
        if found == place.event {
            return Ok(record);
        }
        let of = FailureKey { kind: place.kind, event: found };
        Err(refused(format!("the record {place} is a copy of {of}; {advice}")))
    }
}
