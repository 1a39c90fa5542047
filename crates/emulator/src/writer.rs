//! The thread that writes a durable log.
//!
//! ```text
//! connections --AppendRequest--> [queue] --batch--> encode, write(2) per partition
//!                                                   fdatasync per partition (Durability::Disk)
//!                                                   note the files that were begun
//!            <--Notice::Appended----------------    make visible, wake receivers
//! ```
//!
//! One thread serves all partitions, so files never block the runtime, and whatever arrived while a
//! batch was being written makes up the next one (group commit). The queue has no limit of its own:
//! each connection stops reading at its append budget.
//!
//! Invariants:
//! - An event is visible, and its publisher told, only after its bytes were written (and synced,
//!   when that is asked for).
//! - Before the first events of a file are visible, they are synced, and it is noted that the file
//!   must be there: a broker that is killed then misses it when it is lost. A later event costs no
//!   note.
//! - A failed write leaves the file as it was before: the partial record is cut off, and until that
//!   succeeds nothing more is written to that partition.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::broker::unix_millis;
use super::event::Prepared;
use super::hub::Partition;
use super::log::{Encoded, Next, encode_records};
use super::mailbox::{AppendTicket, Mailbox, Notice};
use super::private::{self, sync_folder};
use super::refusal::{CONNECTION_FORCED, INTERNAL_ERROR, Refusal};
use super::segment::{SEGMENT_HEADER_BYTES, Segment};
use super::store::{FolderLock, Store};
use super::{Durability, EmulatorError};

/// A segment that has reached this size is closed and a new one begun.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// How much one batch may hold.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Files kept open between writes; a process may have only so many.
const MAX_OPEN_FILES: usize = 128;

/// The events of one delivery for one partition.
#[derive(Debug)]
pub(super) struct AppendRequest {
    pub(super) partition: Arc<Partition>,
    pub(super) events: Vec<Prepared>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) ticket: AppendTicket,
}

impl AppendRequest {
    fn finish(self, result: Result<(), Refusal>) {
        self.mailbox.post(Notice::Appended(self.ticket, result));
    }
}

/// The running writer.
#[derive(Debug)]
pub(super) struct Writer {
    requests: Mutex<Option<mpsc::UnboundedSender<AppendRequest>>>,
    finished: Mutex<Option<oneshot::Receiver<io::Result<()>>>>,
}

impl Writer {
    /// Holds `lock` for as long as anything may be written: an emulator that was only dropped still
    /// writes what was sent.
    pub(super) fn start(
        durability: Durability,
        store: Arc<Store>,
        lock: FolderLock,
    ) -> Result<Self, EmulatorError> {
        let (requests, queue) = mpsc::unbounded_channel();
        let (done, finished) = oneshot::channel();
        std::thread::Builder::new()
            .name("emulator-log".to_owned())
            .spawn(move || {
                let mut files = Files::new(durability, store);
                files.run(queue);
                let result = files.sync_all();
                drop(lock);
                // The receiver is gone when the emulator was dropped instead of shut down.
                let _ = done.send(result);
            })
            .map_err(|source| EmulatorError::Thread { source })?;
        Ok(Self { requests: Mutex::new(Some(requests)), finished: Mutex::new(Some(finished)) })
    }

    pub(super) fn send(&self, request: AppendRequest) -> Result<(), Refusal> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .as_ref()
            .and_then(|requests| requests.send(request).ok())
            .ok_or_else(|| Refusal::new(CONNECTION_FORCED, "The broker is shutting down"))
    }

    /// Writes and syncs what was sent, and ends the thread.
    pub(super) async fn close(&self) -> Result<(), EmulatorError> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner).take();
        match finished {
            None => Ok(()),
            Some(finished) => match finished.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(source)) => Err(EmulatorError::Sync { source }),
                Err(_) => Err(EmulatorError::Sync {
                    source: io::Error::other("the writer thread ended early"),
                }),
            },
        }
    }
}

/// The files the writer has open.
struct Files {
    durability: Durability,
    store: Arc<Store>,
    open: HashMap<usize, LogFile>,
    /// Counts batches; tells which file was used least recently.
    turn: u64,
}

/// The requests of one batch for one partition.
struct Group {
    partition: Arc<Partition>,
    requests: Vec<AppendRequest>,
}

impl Files {
    fn new(durability: Durability, store: Arc<Store>) -> Self {
        Self { durability, store, open: HashMap::new(), turn: 0 }
    }

    fn run(&mut self, mut queue: mpsc::UnboundedReceiver<AppendRequest>) {
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = first.ticket.bytes;
            let mut batch = vec![first];
            while bytes < BATCH_BYTES {
                let Ok(request) = queue.try_recv() else {
                    break;
                };
                bytes += request.ticket.bytes;
                batch.push(request);
            }
            self.on_batch(batch);
        }
    }

    fn on_batch(&mut self, batch: Vec<AppendRequest>) {
        self.turn += 1;
        let mut written = Vec::new();
        for group in group_by_partition(batch) {
            match self.write(&group) {
                Ok(encoded) => written.push((group, encoded)),
                Err(error) => group.refuse(&error),
            }
        }
        let mut synced = Vec::new();
        for (group, encoded) in written {
            match self.sync(&group.partition) {
                Ok(()) => synced.push((group, encoded)),
                Err(error) => group.refuse(&error),
            }
        }
        self.note_begun(&synced);
        for (group, encoded) in synced {
            self.publish(group, encoded);
        }
        self.close_idle_files();
    }

    fn write(&mut self, group: &Group) -> io::Result<Encoded> {
        let partition = &group.partition;
        if partition.is_gone() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the hub was deleted"));
        }
        let events = group.requests.iter().flat_map(|request| &request.events);
        let encoded = encode_records(events, partition.log.next(), unix_millis());
        let file = self.file_for(partition)?;
        file.append(&encoded.records)?;
        Ok(encoded)
    }

    /// The partition's newest file, ready to be appended to.
    fn file_for(&mut self, partition: &Arc<Partition>) -> io::Result<&mut LogFile> {
        let key = Arc::as_ptr(partition) as usize;
        let full = match self.open.get_mut(&key) {
            Some(file) => file.accepted_bytes >= SEGMENT_BYTES,
            None => {
                let file = LogFile::open(partition, self.durability)?;
                let full = file.accepted_bytes >= SEGMENT_BYTES;
                self.open.insert(key, file);
                full
            }
        };
        if full {
            let file = self.open.get(&key).ok_or(io::ErrorKind::NotFound)?;
            // An older segment may be taken to be whole, so it has to be before there is a newer one.
            file.file.sync_data()?;
            let next = LogFile::begin(partition, partition.log.next(), self.durability)?;
            self.open.insert(key, next);
        }
        let file = self.open.get_mut(&key).ok_or(io::ErrorKind::NotFound)?;
        file.used = self.turn;
        Ok(file)
    }

    fn sync(&mut self, partition: &Arc<Partition>) -> io::Result<()> {
        let Some(file) = self.open.get_mut(&(Arc::as_ptr(partition) as usize)) else {
            return Ok(());
        };
        match self.durability {
            Durability::Process if file.is_noted => Ok(()),
            _ => file.file.sync_data().inspect_err(|_| file.cut()),
        }
    }

    /// Notes the files that were begun, all of a batch at once. If that fails, the events are stored
    /// all the same, and the next batch tries again.
    fn note_begun(&mut self, synced: &[(Group, Encoded)]) {
        let key = |partition: &Arc<Partition>| Arc::as_ptr(partition) as usize;
        let begun: Vec<_> = synced
            .iter()
            .map(|(group, encoded)| (&group.partition, encoded.next))
            .filter(|(partition, _)| {
                self.open.get(&key(partition)).is_some_and(|file| !file.is_noted)
            })
            .collect();
        if begun.is_empty() {
            return;
        }
        if let Err(error) = self.store.on_begun(&begun) {
            tracing::warn!(%error, "log files that were begun are not noted: a loss of them would not be found out");
            return;
        }
        for (partition, _) in begun {
            if let Some(file) = self.open.get_mut(&key(partition)) {
                file.is_noted = true;
            }
        }
    }

    fn publish(&mut self, group: Group, encoded: Encoded) {
        let Some(file) = self.open.get_mut(&(Arc::as_ptr(&group.partition) as usize)) else {
            return;
        };
        file.accepted_bytes = file.written_bytes;
        let begun = file.begun.take();
        let (end, marks) = (encoded.next.offset, encoded.events.clone());
        group.partition.log.on_written(encoded, |segments| {
            segments.extend(begun);
            if let Some(newest) = segments.last_mut() {
                newest.on_accepted(&marks, end);
            }
        });
        for request in group.requests {
            request.finish(Ok(()));
        }
    }

    /// Closes the files that were not used for longest, when there are too many. What was written
    /// to them is in the hands of the operating system, as the durability asks.
    fn close_idle_files(&mut self) {
        while self.open.len() > MAX_OPEN_FILES {
            let idle = self
                .open
                .iter()
                .filter(|(_, file)| file.written_bytes == file.accepted_bytes)
                .min_by_key(|(_, file)| file.used)
                .map(|(key, _)| *key);
            match idle.and_then(|key| self.open.remove(&key)) {
                Some(file) => {
                    if let Err(error) = file.file.sync_data() {
                        tracing::warn!(%error, "a log file cannot be synced");
                    }
                }
                None => return,
            }
        }
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.open.drain().try_for_each(|(_, file)| file.file.sync_data())
    }
}

impl Group {
    fn refuse(self, error: &io::Error) {
        tracing::error!(
            partition = self.partition.id,
            folder = ?self.partition.folder,
            %error,
            "events cannot be written and are refused"
        );
        let refusal = Refusal::new(
            INTERNAL_ERROR,
            format!("the events were not stored: {error}; nothing of this delivery is kept"),
        );
        for request in self.requests {
            request.finish(Err(refusal.clone()));
        }
    }
}

fn group_by_partition(batch: Vec<AppendRequest>) -> Vec<Group> {
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for request in batch {
        let place = *places.entry(Arc::as_ptr(&request.partition) as usize).or_insert_with(|| {
            groups.push(Group { partition: Arc::clone(&request.partition), requests: Vec::new() });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(place) {
            group.requests.push(request);
        }
    }
    groups
}

/// The newest segment of a partition, open for appending.
struct LogFile {
    /// Keeps the address that names this file in the map from being used again.
    _partition: Arc<Partition>,
    file: File,
    /// Up to the last record whose publisher was told.
    accepted_bytes: u64,
    written_bytes: u64,
    /// The segment, until the first events in it are accepted.
    begun: Option<Segment>,
    /// A start of the broker would miss it.
    is_noted: bool,
    used: u64,
}

impl LogFile {
    fn open(partition: &Arc<Partition>, durability: Durability) -> io::Result<Self> {
        let Some((path, bytes)) = partition.log.newest_file() else {
            return Self::begin(partition, partition.log.next(), durability);
        };
        Ok(Self {
            _partition: Arc::clone(partition),
            file: private::open(OpenOptions::new().append(true), &path)?,
            accepted_bytes: bytes,
            // What the file really holds is found out, and cut, by the first append.
            written_bytes: u64::MAX,
            begun: None,
            is_noted: true,
            used: 0,
        })
    }

    fn begin(partition: &Arc<Partition>, next: Next, durability: Durability) -> io::Result<Self> {
        let folder = partition
            .folder
            .as_deref()
            .ok_or_else(|| io::Error::other("a partition without a folder"))?;
        private::create_folder(folder)?;
        let segment = Segment::starting_at(folder, next);
        let file = create_segment(&segment, durability)?;
        Ok(Self {
            _partition: Arc::clone(partition),
            file,
            accepted_bytes: SEGMENT_HEADER_BYTES as u64,
            written_bytes: SEGMENT_HEADER_BYTES as u64,
            begun: Some(segment),
            is_noted: false,
            used: 0,
        })
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.written_bytes != self.accepted_bytes {
            self.file.set_len(self.accepted_bytes)?;
            self.written_bytes = self.accepted_bytes;
        }
        match self.file.write_all(records) {
            Ok(()) => {
                self.written_bytes += records.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.cut();
                Err(error)
            }
        }
    }

    /// Cuts off what was not accepted. When that fails too, the next append tries again first.
    fn cut(&mut self) {
        self.written_bytes = match self.file.set_len(self.accepted_bytes) {
            Ok(()) => self.accepted_bytes,
            Err(error) => {
                tracing::error!(%error, "a partial record cannot be cut off");
                u64::MAX
            }
        };
    }
}

fn create_segment(segment: &Segment, durability: Durability) -> io::Result<File> {
    // A file of that name can only be one that was begun and never accepted anything.
    let mut file =
        private::open(OpenOptions::new().write(true).create(true).truncate(true), &segment.path)?;
    let folder = segment.path.parent().unwrap_or(Path::new("."));
    let begun = file.write_all(&segment.header()).and_then(|()| match durability {
        Durability::Process => Ok(()),
        Durability::Disk => file
            .sync_all()
            .and_then(|()| sync_folder(folder))
            .and_then(|()| folder.parent().map_or(Ok(()), sync_folder)),
    });
    if let Err(error) = begun {
        let _ = std::fs::remove_file(&segment.path);
        return Err(error);
    }
    drop(file);
    private::open(OpenOptions::new().append(true), &segment.path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(super) mod tests {
    use std::time::Instant;

    use super::super::event;
    use super::super::log::PartitionLog;
    use super::super::mailbox::LinkKey;
    use super::super::{segment, wire};
    use super::*;

    /// Of a folder of its own: nothing of these partitions is noted.
    fn store(root: &Path) -> Arc<Store> {
        Arc::new(Store::open(root.join("store")).unwrap().0)
    }

    /// Appends to a partition so many events for each file, ten at a time, and stops as if killed.
    pub(in super::super) fn append_and_be_killed(
        store: &Arc<Store>,
        partition: &Arc<Partition>,
        files_events: &[i64],
    ) {
        let mailbox = Arc::new(Mailbox::default());
        let mut files = Files::new(Durability::Process, Arc::clone(store));
        for events in files_events {
            for file in files.open.values_mut() {
                file.accepted_bytes = SEGMENT_BYTES;
            }
            for _ in 0..events / 10 {
                let body = [b'x'; 50];
                let batch = (0..10).map(|_| request(partition, &mailbox, &body)).collect();
                files.on_batch(batch);
                assert_eq!(results(&mailbox), [true; 10]);
            }
        }
    }

    fn partition(folder: &Path) -> Arc<Partition> {
        let recovered = segment::recover(folder, None).unwrap();
        let log = PartitionLog::durable(recovered.segments, recovered.next, -1, 1024);
        Arc::new(Partition::new(0, log, Some(folder.to_owned())))
    }

    fn request(partition: &Arc<Partition>, mailbox: &Arc<Mailbox>, body: &[u8]) -> AppendRequest {
        let mut message = bytes::BytesMut::new();
        wire::put_descriptor(&mut message, 0x75);
        wire::put_binary(&mut message, body);
        AppendRequest {
            partition: Arc::clone(partition),
            events: event::prepare(message.freeze(), None).unwrap().events,
            mailbox: Arc::clone(mailbox),
            ticket: AppendTicket {
                link: LinkKey { channel: 0, handle: 0, serial: 0 },
                delivery_id: 0,
                settled: false,
                received_at: Instant::now(),
                bytes: body.len(),
            },
        }
    }

    fn results(mailbox: &Mailbox) -> Vec<bool> {
        mailbox
            .take_notices()
            .into_iter()
            .map(|notice| match notice {
                Notice::Appended(_, result) => result.is_ok(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_was_accepted_is_there_after_a_crash_at_once() {
        for durability in [Durability::Process, Durability::Disk] {
            let dir = tempfile::tempdir().unwrap();
            let mailbox = Arc::new(Mailbox::default());
            let mut files = Files::new(durability, store(dir.path()));
            let first = partition(&dir.path().join("0"));
            let batch = (0..3).map(|_| request(&first, &mailbox, b"x")).collect();
            files.on_batch(batch);
            assert_eq!(results(&mailbox), [true; 3]);
            // No close, no sync: another process would find the same.
            let again = partition(&dir.path().join("0"));
            assert_eq!(again.log.next(), first.log.next());
            assert_eq!(again.log.next().sequence, 3);
        }
    }

    #[test]
    fn events_that_cannot_be_written_are_refused_and_later_ones_work() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("0");
        let mailbox = Arc::new(Mailbox::default());
        let mut files = Files::new(Durability::Process, store(dir.path()));
        let blocked = partition(&folder);
        let other = partition(&dir.path().join("1"));
        // A file where the folder should be.
        std::fs::write(&folder, b"").unwrap();
        files.on_batch(vec![request(&blocked, &mailbox, b"a"), request(&other, &mailbox, b"b")]);
        let mut seen = results(&mailbox);
        seen.sort_unstable();
        assert_eq!(seen, [false, true]);
        assert_eq!(blocked.log.next(), Next::FIRST);
        std::fs::remove_file(&folder).unwrap();
        files.on_batch(vec![request(&blocked, &mailbox, b"a")]);
        assert_eq!(results(&mailbox), [true]);
        assert_eq!(partition(&folder).log.next(), blocked.log.next());
    }

    #[test]
    fn a_partial_record_is_cut_off_before_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("0");
        let mailbox = Arc::new(Mailbox::default());
        let mut files = Files::new(Durability::Process, store(dir.path()));
        let torn = partition(&folder);
        files.on_batch(vec![request(&torn, &mailbox, b"a")]);
        let (path, accepted) = torn.log.newest_file().unwrap();
        // What a write that failed half-way leaves, when cutting it off failed as well.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"half a record").unwrap();
        let open = files.open.values_mut().next().unwrap();
        open.file = File::open(&path).unwrap();
        open.append(b"record").unwrap_err();
        assert_ne!(open.written_bytes, open.accepted_bytes);
        assert_eq!(results(&mailbox), [true]);
        files.on_batch(vec![request(&torn, &mailbox, b"b")]);
        assert_eq!(results(&mailbox), [false]);
        files.open.values_mut().next().unwrap().file =
            OpenOptions::new().append(true).open(&path).unwrap();
        files.on_batch(vec![request(&torn, &mailbox, b"c")]);
        assert_eq!(results(&mailbox), [true]);
        assert!(std::fs::metadata(&path).unwrap().len() > accepted);
        assert_eq!(partition(&folder).log.next(), torn.log.next());
        assert_eq!(torn.log.next().sequence, 2);
    }

    #[test]
    fn a_full_segment_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("0");
        let mailbox = Arc::new(Mailbox::default());
        let mut files = Files::new(Durability::Process, store(dir.path()));
        let rolled = partition(&folder);
        files.on_batch(vec![request(&rolled, &mailbox, b"a")]);
        files.open.values_mut().next().unwrap().accepted_bytes = SEGMENT_BYTES;
        files.on_batch(vec![request(&rolled, &mailbox, b"b")]);
        files.on_batch(vec![request(&rolled, &mailbox, b"c")]);
        assert_eq!(results(&mailbox), [true; 3]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        assert_eq!(partition(&folder).log.next(), rolled.log.next());
    }

    #[test]
    fn only_so_many_files_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let mailbox = Arc::new(Mailbox::default());
        let mut files = Files::new(Durability::Process, store(dir.path()));
        for round in 0..2 {
            for id in 0..MAX_OPEN_FILES + 10 {
                let folder = dir.path().join(id.to_string());
                files.on_batch(vec![request(&partition(&folder), &mailbox, b"x")]);
                let stored = partition(&folder).log.next().sequence;
                assert_eq!(stored, round + 1);
            }
            assert!(files.open.len() <= MAX_OPEN_FILES);
        }
    }
}
