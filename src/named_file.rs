//! Files that a person names: settings, credentials, certificates, checkpoints to import.
//!
//! They are read as a whole, so each has a most; and they are regular files, for a pipe that nobody writes
//! to would hold the caller for ever. Links are followed: where settings are mounted, they are links.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;

/// The most bytes of a file of settings or credentials, and of one with certificates: 4 MiB.
pub const MOST_CONFIGURATION_BYTES: u64 = 4 << 20;

/// Reads a file of at most so many bytes.
///
/// # Errors
/// As the file system fails; `InvalidInput` for what is no regular file, `FileTooLarge` for what is longer.
pub fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    // What it says of its length may be another one by now, and files of the system say none.
    file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        let why = format!("it is longer than the {most_bytes} bytes that it may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// The same of a text.
///
/// # Errors
/// As of [`read`]; `InvalidData` where it is not UTF-8.
pub fn read_text(path: &Path, most_bytes: u64) -> io::Result<String> {
    String::from_utf8(read(path, most_bytes)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Opens a regular file, and waits for nobody.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    match (metadata.is_file(), metadata.is_dir()) {
        (true, _) => Ok(file),
        // It has an error of its own, which says what it is.
        (false, true) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        (false, false) => {
            let why = "it is not a regular file, but a pipe or a device";
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_and_what_is_too_long_are_refused_and_a_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "1234").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_text(&path(name), 4).unwrap(), "1234");
            let error = read(&path(name), 3).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(error.to_string().contains("longer than the 3 bytes"), "{error}");
        }
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink(path("pipe"), path("link to a pipe")).unwrap();
        for special in [path("pipe"), path("link to a pipe"), "/dev/zero".into()] {
            let error = read(&special, 4).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{special:?}: {error}");
        }
        assert_eq!(read(dir.path(), 4).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&path("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(path("file"), b"\xff").unwrap();
        assert!(read_text(&path("file"), 4).unwrap_err().to_string().contains("not UTF-8"));
    }
}
