//! What the allocator keeps, where little memory is to be used.
//!
//! What a connection has read, up to 400 KiB at a time, comes and goes all the time. glibc keeps such pieces,
//! and their gaps, in each of its arenas. In pages of their own they go back to the system at once, which takes
//! the processor some more time: so only who asks for a small transfer budget has it so.

use longshore::blob_store::container::DEFAULT_TRANSFER_BUDGET;

/// Pieces of this many bytes or more are given back at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: libc::c_int = 256 * 1024;

/// Told before files are moved.
pub(crate) fn on_transfer_budget(bytes: u64) {
    if bytes < DEFAULT_TRANSFER_BUDGET {
        give_back_at_once();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "there is no other way to tell glibc's allocator")]
fn give_back_at_once() {
    // SAFETY: it sets a number of the allocator's, under the allocator's own lock. Where it is refused,
    // everything stays as it is.
    let _is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back_at_once() {}
