//! Commands in a mount namespace of their own.

use std::process::Command;

/// `unshare` with the flags that work here.
pub(crate) fn unshare() -> Command {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    for way in ways {
        let mut command = Command::new("unshare");
        command.args(way);
        let works = Command::new("unshare").args(way).arg("true").output();
        if works.is_ok_and(|output| output.status.success()) {
            return command;
        }
    }
    panic!(
        "this test mounts a small file system in a mount namespace: it needs unshare \
         (util-linux), and to be root or to be allowed unprivileged user namespaces"
    );
}
