//! Dead letters in one file: a line of JSON each, at its end.
//!
//! `Ok` means durable: the line is flushed before the write returns. A process that is killed may leave a
//! part of a line, which was acknowledged to nobody: it is cut off when the file is opened next.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::{Error, ErrorClass};
use tokio::task::spawn_blocking;

/// A [`DeadLetterSink`] in a file, which one process uses at a time.
#[derive(Clone, Debug)]
pub struct FileDeadLetterSink {
    file: Arc<Mutex<Appended>>,
}

/// A file that ends with a whole line.
#[derive(Debug)]
struct Appended {
    file: File,
    length: u64,
}

impl FileDeadLetterSink {
    /// Opens a file, and creates it where it is missing. Blocks.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let opened = Appended::open(&path).map_err(|error| {
            let message = format!("{} cannot be used", path.display());
            Error::new(ErrorClass::Permanent, "open the dead letters", message).with_source(error)
        })?;
        Ok(Self { file: Arc::new(Mutex::new(opened)) })
    }

    /// Reads the letters of a file, oldest first. Blocks.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<DeadLetterRecord>, Error> {
        let failed = |error| {
            Error::new(ErrorClass::Transient, "read the dead letters", "the file cannot be read")
                .with_source(error)
        };
        let lines = BufReader::new(File::open(path).map_err(failed)?).split(b'\n');
        lines.map(|line| DeadLetterRecord::from_json(&line.map_err(failed)?)).collect()
    }
}

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut opened = Self { file, length: whole as u64 };
        opened.cut()?;
        // The name of a new file is durable when its folder is.
        if let Some(folder) = path.canonicalize()?.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(opened)
    }

    /// Removes what is behind the last whole line.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length += line.len() as u64,
            // A part of it may be there; the next line must not be put behind it.
            Err(_) => self.cut()?,
        }
        written
    }
}

impl DeadLetterSink for FileDeadLetterSink {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        let failed = |class, message| Error::new(class, "write the dead letter", message);
        let line = serde_json::to_vec(&DeadLetterRecord::new(letter));
        let file = Arc::clone(&self.file);
        async move {
            let mut line = line.map_err(|error| {
                failed(ErrorClass::Permanent, "it has no JSON").with_source(error)
            })?;
            line.push(b'\n');
            let append =
                move || file.lock().unwrap_or_else(PoisonError::into_inner).append(&line);
            match spawn_blocking(append).await {
                Ok(Ok(())) => Ok(()),
                // The engine tries again, and holds the checkpoint meanwhile.
                Ok(Err(error)) => {
                    Err(failed(ErrorClass::Transient, "the file failed").with_source(error))
                }
                Err(error) => {
                    Err(failed(ErrorClass::Unknown, "its thread is gone").with_source(error))
                }
            }
        }
        .boxed()
    }
}
