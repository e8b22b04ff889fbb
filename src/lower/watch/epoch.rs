//! Did something happen while an answer was on its way? Numbers of events, per hash of an inode
//! number: see the argument in [`super`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Inodes share slots: a stranger's event costs an answer its long time, never its truth.
const SLOTS: usize = 4096;

/// Counts events, and what is watched from then on. Only the thread that reads events touches more
/// than the number.
pub struct Epochs {
    now: AtomicU64,
    /// The last event that may have been about anything.
    all: AtomicU64,
    slots: Box<[AtomicU64]>,
}

/// The time before an answer was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Default for Epochs {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { now: AtomicU64::new(0), all: AtomicU64::new(0), slots }
    }
}

impl Epochs {
    /// To be taken before the lower tree is asked.
    pub fn now(&self) -> Epoch {
        Epoch(self.now.load(Ordering::SeqCst))
    }

    /// From now on something more is watched: epochs that are taken later are not before the one
    /// that is returned, those taken earlier are.
    pub(super) fn watched(&self) -> Epoch {
        Epoch(self.now.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// An event about this inode number is being handled.
    pub(super) fn happened(&self, ino: u64) {
        let number = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.slots[slot(ino)].store(number, Ordering::SeqCst);
    }

    /// Events were lost.
    pub(super) fn happened_to_all(&self) {
        let number = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.all.store(number, Ordering::SeqCst);
    }

    /// Nobody listens any more.
    pub(super) fn stop(&self) {
        self.all.store(u64::MAX, Ordering::SeqCst);
    }

    /// Whether nobody listens any more.
    pub(super) fn has_stopped(&self) -> bool {
        self.all.load(Ordering::SeqCst) == u64::MAX
    }

    /// Whether nothing has happened to the inode since the epoch was taken. To be asked after
    /// the inode was entered in the table.
    pub fn undisturbed(&self, since: Epoch, ino: u64) -> bool {
        self.slots[slot(ino)].load(Ordering::SeqCst) <= since.0 && !self.all_disturbed(since)
    }

    /// Whether events have been lost since.
    pub fn all_disturbed(&self, since: Epoch) -> bool {
        self.all.load(Ordering::SeqCst) > since.0
    }
}

fn slot(ino: u64) -> usize {
    // Fibonacci hashing; the top 12 bits are 0 to 4095.
    usize::try_from(ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52).unwrap_or(0) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_events_disturb_an_answer() {
        let epochs = Epochs::default();
        epochs.happened(7);
        let epoch = epochs.now();
        assert!(epochs.undisturbed(epoch, 7));
        epochs.happened(8);
        assert!(epochs.undisturbed(epoch, 7) && !epochs.undisturbed(epoch, 8));
        epochs.happened(7);
        assert!(!epochs.undisturbed(epoch, 7));
        assert!(epochs.undisturbed(epochs.now(), 7));
    }

    #[test]
    fn what_is_watched_is_so_for_later_tickets_alone() {
        let epochs = Epochs::default();
        let before = epochs.now();
        let watched = epochs.watched();
        assert!(before < watched && watched <= epochs.now());
        assert!(epochs.undisturbed(before, 7));
    }

    #[test]
    fn lost_events_disturb_every_answer() {
        let epochs = Epochs::default();
        let epoch = epochs.now();
        epochs.happened_to_all();
        assert!(!epochs.undisturbed(epoch, 1) && epochs.all_disturbed(epoch));
        assert!(epochs.undisturbed(epochs.now(), 1));
        assert!(!epochs.has_stopped());
        epochs.stop();
        assert!(epochs.has_stopped());
        assert!(!epochs.undisturbed(epochs.now(), 1) && epochs.all_disturbed(epochs.now()));
    }
}
