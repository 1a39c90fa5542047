//! Folders that are gone at the end of a command, and that nobody else may look into meanwhile.

use std::io;

use tempfile::TempDir;

/// Makes one, whatever the umask says.
pub(super) fn folder() -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir()
}
