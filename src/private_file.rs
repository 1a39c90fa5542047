//! Files and folders that only their owner may use: made with no wider mode, opened without waiting,
//! and never through a link. So are files that are handed on later, but for their mode.
//!
//! A pipe, a device or a link where a file should be is an error of its own: opened as others open
//! files, a pipe would hold the caller until somebody writes to it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Makes a folder, and what is missing above it. One that is there keeps its mode.
///
/// # Errors
/// As the file system fails.
pub fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a folder where there is none.
///
/// # Errors
/// As the file system fails; `AlreadyExists` for whatever is there.
pub fn create_one(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a regular file as `options` say; one that is made has the mode 0600.
///
/// # Errors
/// As the file system fails; `InvalidInput` for what is no regular file.
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    open_regular(options, path)
}

/// The same of a file that becomes another one's: one that is made has the mode that the umask says.
///
/// # Errors
/// As of [`open`].
pub fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    let not_regular = || {
        let why = "it is not a regular file, but a link, a pipe, a folder or a device";
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(not_regular()),
        Err(error) => {
            // A folder has an error of its own, which says what it is.
            let is_special = path
                .symlink_metadata()
                .is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
            Err(if is_special { not_regular() } else { error })
        }
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_made_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_folder(&folder).unwrap();
        open(OpenOptions::new().write(true).create(true), &folder.join("x")).unwrap();
        for (path, mode) in [("a", 0o700), ("a/b", 0o700), ("a/b/x", 0o600)] {
            let found = std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path}");
        }
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
            for mut options in [
                OpenOptions::new().read(true).clone(),
                OpenOptions::new().write(true).create(true).truncate(true).clone(),
            ] {
                let error = open(&mut options, &dir.path().join(name)).unwrap_err();
                let is_said = error.to_string().contains("not a regular file");
                assert!(is_said || name == "folder", "{name}: {error}");
            }
        }
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"kept");
    }
}
