//! Notices a handler that blocks its thread, while it does.
//!
//! A blocked thread of the runtime keeps every other task of that thread from its work, and
//! cannot be cut. So every thread that polls handlers has a [`Post`] that says what it polls;
//! a thread of our own looks at all posts every [`LOOK_EVERY`], and where it finds the poll it
//! found before, it names the handler and its event in the log. To say what is polled costs
//! three stores; nothing reads a clock for it.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use crate::consumer::lock::lock;
use crate::event::{ConsumerGroup, Partition, SequenceNumber};

/// How often the watch looks: a handler that blocks for twice as long is noticed for certain.
const LOOK_EVERY: Duration = Duration::from_millis(500);

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);

thread_local! {
    static POST: OnceCell<Arc<Post>> = const { OnceCell::new() };
}

#[derive(Default)]
struct Watch {
    posts: Mutex<Vec<Arc<Post>>>,
    watched: Mutex<Handlers>,
}

#[derive(Default)]
struct Handlers {
    handlers: HashMap<u64, Handler>,
    next: u64,
    /// Whether the thread that looks is there.
    looking: bool,
}

/// What is known of a handler that is being watched.
#[derive(Clone)]
struct Handler {
    name: &'static str,
    partition: Partition,
    consumer_group: ConsumerGroup,
}

/// What a thread polls now.
struct Post {
    thread: String,
    /// Odd while a handler is polled; each poll has its own number.
    poll: AtomicU64,
    handler: AtomicU64,
    sequence_number: AtomicI64,
}

/// A handler that is watched while this lives.
#[derive(Debug)]
pub(crate) struct WatchedHandler(u64);

impl WatchedHandler {
    /// Has the watch look at the calls of a handler for the events of a partition.
    pub(crate) fn new(
        name: &'static str,
        partition: Partition,
        consumer_group: ConsumerGroup,
    ) -> Self {
        let mut watched = lock(&WATCH.watched);
        watched.next += 1;
        let id = watched.next;
        watched.handlers.insert(id, Handler { name, partition, consumer_group });
        if !watched.looking {
            let thread = thread::Builder::new().name("longshore-watch".to_owned()).spawn(look);
            watched.looking = thread.is_ok();
        }
        Self(id)
    }

    /// Runs a poll of the handler's call for the event of this number. Inlined: the future that is
    /// polled, and what it returns, would be moved through it.
    #[inline]
    pub(crate) fn poll<T>(&self, event: SequenceNumber, poll: impl FnOnce() -> T) -> T {
        let entered = on_post(|post| post.enter(self.0, event)).flatten();
        let result = poll();
        if let Some(number) = entered {
            on_post(|post| post.poll.store(number + 1, Ordering::Release));
        }
        result
    }
}

/// Calls `action` with this thread's post; a thread that is ending has none any more.
fn on_post<T>(action: impl FnOnce(&Post) -> T) -> Option<T> {
    POST.try_with(|post| action(post.get_or_init(Post::of_this_thread))).ok()
}

impl Drop for WatchedHandler {
    fn drop(&mut self) {
        lock(&WATCH.watched).handlers.remove(&self.0);
    }
}

impl Post {
    /// A poll begins; its number. `None`: it is within another one, which goes on to count.
    fn enter(&self, handler: u64, event: SequenceNumber) -> Option<u64> {
        let before = self.poll.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return None;
        }
        self.handler.store(handler, Ordering::Relaxed);
        self.sequence_number.store(event.0, Ordering::Relaxed);
        self.poll.store(before + 1, Ordering::Release);
        Some(before + 1)
    }

    fn of_this_thread() -> Arc<Self> {
        let thread = thread::current();
        let post = Arc::new(Self {
            thread: thread.name().unwrap_or("without a name").to_owned(),
            poll: AtomicU64::new(0),
            handler: AtomicU64::new(0),
            sequence_number: AtomicI64::new(0),
        });
        lock(&WATCH.posts).push(Arc::clone(&post));
        post
    }
}

/// What the watch remembers of a post from one look to the next.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Seen {
    poll: u64,
    /// How often the same poll was found again.
    again: u32,
}

/// What a look at a post says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    Well,
    /// The thread is blocked, for at least so many looks: at the first one, and each time
    /// it is twice as long.
    Blocked(u32),
    /// It was blocked, for about so many looks, and goes on.
    WentOn(u32),
}

impl Seen {
    fn look(&mut self, poll: u64) -> Look {
        if poll % 2 == 1 && poll == self.poll {
            self.again = self.again.saturating_add(1);
            return if self.again.is_power_of_two() {
                Look::Blocked(self.again)
            } else {
                Look::Well
            };
        }
        let before = std::mem::replace(self, Self { poll, again: 0 });
        if before.again > 0 { Look::WentOn(before.again) } else { Look::Well }
    }
}

/// Looks at all posts until no handler is watched any more.
fn look() {
    let mut seen: Vec<(Arc<Post>, Seen)> = Vec::new();
    loop {
        thread::sleep(LOOK_EVERY);
        {
            let mut watched = lock(&WATCH.watched);
            if watched.handlers.is_empty() {
                watched.looking = false;
                return;
            }
        }
        {
            let mut posts = lock(&WATCH.posts);
            // A thread that ended has let go of its post.
            posts.retain(|post| Arc::strong_count(post) > 1 + usize::from(is_in(&seen, post)));
            seen.retain(|(post, _)| posts.iter().any(|one| Arc::ptr_eq(one, post)));
            let new = posts.iter().filter(|post| !is_in(&seen, post)).cloned().collect::<Vec<_>>();
            seen.extend(new.into_iter().map(|post| (post, Seen::default())));
        }
        for (post, seen) in &mut seen {
            let look = seen.look(post.poll.load(Ordering::Acquire));
            report(post, look);
        }
    }
}

fn is_in(seen: &[(Arc<Post>, Seen)], post: &Arc<Post>) -> bool {
    seen.iter().any(|(one, _)| Arc::ptr_eq(one, post))
}

fn report(post: &Post, look: Look) {
    match look {
        Look::Well => {}
        Look::Blocked(looks) => {
            let handler =
                lock(&WATCH.watched).handlers.get(&post.handler.load(Ordering::Relaxed)).cloned();
            let Some(handler) = handler else {
                return;
            };
            warn!(
                message_topic = %handler.partition.entity,
                message_partition = %handler.partition.id,
                message_offset = post.sequence_number.load(Ordering::Relaxed),
                message_consumer_group = %handler.consumer_group,
                handler = handler.name,
                thread = post.thread,
                for_at_least = ?(LOOK_EVERY * looks),
                "a handler blocks its thread: other events wait, and no deadline can end it; \
                 move what blocks to tokio::task::spawn_blocking"
            );
        }
        Look::WentOn(looks) => info!(
            thread = post.thread,
            blocked_for_about = ?(LOOK_EVERY * looks),
            "the handler that blocked its thread goes on"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_poll_found_again_is_a_blocked_thread() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(0), Look::Well, "nothing is polled");
        assert_eq!(seen.look(0), Look::Well);
        assert_eq!(seen.look(7), Look::Well);
        let looks: Vec<Look> = (0..8).map(|_| seen.look(7)).collect();
        let said: Vec<Look> = looks.into_iter().filter(|look| *look != Look::Well).collect();
        let blocked = [1, 2, 4, 8].map(Look::Blocked);
        assert_eq!(said, blocked, "said again each time it lasted twice as long");
        assert_eq!(seen.look(9), Look::WentOn(8));
        assert_eq!(seen.look(11), Look::Well, "another poll each time is a busy thread");
    }
}
