//! Files that are written so often that each event would cost those who write more than it is
//! worth: their writes are not heard of for a while, and answers about them are trusted for
//! [`SHORT`](super::SHORT) only.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::event::Handle;

/// Changes of one file's contents in a second that are too many to hear of each.
const HOT_EVENTS: u32 = 25;
/// How long they are not heard of then.
const HOT: Duration = Duration::from_secs(10);
/// How many files that can be at a time.
const MAX_HOT: usize = 256;
/// How many files are counted in a second.
const MAX_COUNTED: usize = 4096;

/// The files that are written very often, by inode number.
#[derive(Default)]
pub(super) struct HotFiles {
    inner: Mutex<Inner>,
    /// Whether there have ever been any.
    some: AtomicBool,
}

#[derive(Default)]
struct Inner {
    since: Option<Instant>,
    counts: HashMap<u64, Count>,
    hot: HashMap<u64, Hot>,
}

/// How often the contents of a file have changed.
#[derive(Default)]
struct Count {
    /// Which file: inode numbers are given again.
    file: u64,
    changes: u32,
}

/// A file whose writes are not heard of, and its handle.
struct Hot {
    until: Instant,
    kind: i32,
    data: Box<[u8]>,
}

/// A number for the file behind a handle.
fn which(handle: Handle<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    handle.data.hash(&mut hasher);
    hasher.finish()
}

impl HotFiles {
    /// Whether its writes are not heard of.
    pub(super) fn contains(&self, ino: u64) -> bool {
        self.some.load(Ordering::SeqCst) && self.lock().hot.contains_key(&ino)
    }

    /// Counts a change of contents; true if the file is hot from now on, and its writes should not
    /// be heard of.
    pub(super) fn count(&self, ino: u64, handle: Handle<'_>, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.since.is_none_or(|since| now - since > Duration::from_secs(1)) {
            inner.since = Some(now);
            inner.counts.clear();
        }
        if inner.counts.len() >= MAX_COUNTED && !inner.counts.contains_key(&ino) {
            return false;
        }
        let file = which(handle);
        let count = inner.counts.entry(ino).or_default();
        if count.file != file {
            *count = Count { file, changes: 0 };
        }
        count.changes += 1;
        let too_many = count.changes == HOT_EVENTS;
        let room = match inner.hot.get(&ino) {
            // Another file had the number before, and what it was spared has gone with it.
            Some(hot) => *hot.data != *handle.data,
            None => inner.hot.len() < MAX_HOT,
        };
        if !too_many || !room {
            return false;
        }
        let hot = Hot { until: now + HOT, kind: handle.kind, data: handle.data.into() };
        self.some.store(true, Ordering::SeqCst);
        inner.hot.insert(ino, hot);
        true
    }

    /// Ends what has been hot for long enough. `hear` turns a file's events on again; then `heard`
    /// is told its number *before* the file counts as hot no more.
    pub(super) fn cool_down(
        &self,
        now: Instant,
        hear: impl Fn(Handle<'_>) -> Result<(), Errno>,
        mut heard: impl FnMut(u64),
    ) {
        let due = || {
            let inner = self.lock();
            let mut due = inner.hot.iter().filter(|(_, hot)| hot.until <= now);
            due.next().map(|(&ino, hot)| (ino, hot.kind, hot.data.clone()))
        };
        while let Some((ino, kind, data)) = due() {
            match hear(Handle { kind, data: &data }) {
                // The file has gone, or it was evicted, and the exception with it.
                Ok(()) | Err(Errno::STALE | Errno::NOENT) => {
                    heard(ino);
                    self.lock().hot.remove(&ino);
                }
                Err(errno) => {
                    tracing::debug!(%errno, ino, "a file's writes are not heard of yet");
                    self.lock().hot.entry(ino).and_modify(|hot| hot.until = now + HOT);
                }
            }
        }
    }

    /// When the next one has been hot for long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lock().hot.values().map(|hot| hot.until).min()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: Handle<'static> = Handle { kind: 1, data: &[7, 0, 0, 0, 0, 0, 0, 0] };

    /// Counts as many changes as make a file hot.
    fn heat(files: &HotFiles, ino: u64, now: Instant) -> usize {
        (0..HOT_EVENTS).filter(|_| files.count(ino, HANDLE, now)).count()
    }

    #[test]
    fn a_file_is_hot_for_a_while_after_many_writes_in_a_second() {
        let (files, start) = (HotFiles::default(), Instant::now());
        for second in 0..5 {
            let now = start + Duration::from_secs(2 * second);
            assert!((1..HOT_EVENTS).all(|_| !files.count(7, HANDLE, now)));
        }
        assert_eq!(heat(&files, 7, start + Duration::from_secs(20)), 1);
        assert!(files.contains(7) && !files.contains(8));
        let due = files.next_due().unwrap();
        let mut cooled = Vec::new();
        let mut cool = |now, answer| {
            files.cool_down(
                now,
                |_| answer,
                |ino| {
                    assert!(files.contains(ino), "it is told while it is hot");
                    cooled.push(ino);
                },
            );
            cooled.len()
        };
        assert_eq!(cool(start, Ok(())), 0);
        assert_eq!(cool(due, Err(Errno::MFILE)), 0, "it cannot be heard yet");
        assert_eq!(cool(due + HOT, Err(Errno::STALE)), 1);
        assert!(!files.contains(7) && files.next_due().is_none());
    }

    #[test]
    fn a_file_that_gets_the_number_of_a_hot_one_is_counted_anew() {
        const NEXT: Handle<'static> = Handle { kind: 1, data: &[7, 0, 0, 0, 1, 0, 0, 0] };
        let (files, now) = (HotFiles::default(), Instant::now());
        assert_eq!(heat(&files, 7, now), 1);
        assert_eq!(heat(&files, 7, now), 0, "it is hot");
        let heated = (0..2 * HOT_EVENTS).filter(|_| files.count(7, NEXT, now));
        assert_eq!(heated.count(), 1, "its events are not turned off yet");
        assert!(files.contains(7));
    }

    #[test]
    fn hot_files_are_bounded() {
        let (files, now) = (HotFiles::default(), Instant::now());
        let hot: usize = (0..2 * MAX_HOT as u64).map(|ino| heat(&files, ino, now)).sum();
        assert_eq!(hot, MAX_HOT);
    }
}
