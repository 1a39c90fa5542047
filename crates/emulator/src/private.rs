//! Files and folders that only their owner may use: made with no wider mode, opened without waiting,
//! and never through a link.
//!
//! A pipe, a device or a link where a file should be is an error of its own: opened as others open
//! files, a pipe would hold the caller until somebody writes to it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Makes a folder, and what is missing above it.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a regular file as `options` say.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if is_special(path) => {
            return Err(io::Error::new(error.kind(), NOT_REGULAR));
        }
        Err(error) => return Err(error),
    };
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_REGULAR)),
    }
}

const NOT_REGULAR: &str = "it is not a regular file, but a link, a pipe, a folder or a device";

fn is_special(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
}

/// What a file holds; `None` if there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match open(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The text of a file that has at most [`MOST_TEXT_BYTES`].
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    text_of(open(OpenOptions::new().read(true), path)?)
}

/// The same of a file that a person names: links are followed, for where settings are mounted, they are
/// links.
pub(super) fn read_named_text(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => text_of(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_REGULAR)),
    }
}

/// The most bytes of a file of settings, of a key and of a certificate: 4 MiB.
const MOST_TEXT_BYTES: u64 = 4 << 20;

fn text_of(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MOST_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_TEXT_BYTES {
        let why = format!("it is longer than the {MOST_TEXT_BYTES} bytes that it may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Replaces a file, and is durable when it returns. A crash leaves the old content or the new.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut out = open(OpenOptions::new().write(true).create(true).truncate(true), &temporary)?;
    out.write_all(content)?;
    out.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes new names in a folder survive a crash of the machine.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_folder(&folder).unwrap();
        let file = folder.join("x.json");
        replace(&file, b"1").unwrap();
        replace(&file, b"2").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), b"2");
        assert_eq!(
            (mode(&dir.path().join("a")), mode(&folder), mode(&file)),
            (0o700, 0o700, 0o600)
        );
    }

    #[test]
    fn a_pipe_a_link_and_a_folder_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        std::fs::write(dir.path().join("target"), "kept").unwrap();
        symlink(dir.path().join("target"), dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        for name in ["pipe", "link", "folder"] {
            for options in
                [OpenOptions::new().read(true), OpenOptions::new().write(true).create(true)]
            {
                let error = open(&mut options.clone(), &dir.path().join(name)).unwrap_err();
                assert!(error.to_string().contains("not a regular file"), "{name}: {error}");
            }
        }
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"kept");
        for name in ["pipe", "link", "folder"] {
            let error = read_text(&dir.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{name}: {error}");
            match read_named_text(&dir.path().join(name)) {
                Ok(text) => assert_eq!((name, text.as_str()), ("link", "kept")),
                Err(error) => {
                    assert!(name != "link" && error.to_string().contains("not a regular file"));
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::File::create(&path).unwrap().set_len(MOST_TEXT_BYTES).unwrap();
        assert_eq!(read_text(&path).unwrap().len() as u64, MOST_TEXT_BYTES);
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        for read in [read_text, read_named_text] {
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains("longer than the 4194304 bytes"), "{error}");
        }
    }
}
