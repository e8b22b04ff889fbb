//! Did something happen while an answer was on its way? Numbers of events, per hash of an inode
//! number: see the argument in [`super`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Inodes share slots: a stranger's event costs an answer its long time, never its truth.
const SLOTS: usize = 4096;

/// Counts events, and what is watched from then on. Only the thread that reads events touches more
/// than the number.
pub struct Clock {
    now: AtomicU64,
    /// The last event that may have been about anything.
    all: AtomicU64,
    slots: Box<[AtomicU64]>,
}

/// The time before an answer was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Default for Clock {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { now: AtomicU64::new(0), all: AtomicU64::new(0), slots }
    }
}

impl Clock {
    /// To be taken before the lower tree is asked.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.now.load(Ordering::SeqCst))
    }

    /// From now on something more is watched: tickets that are taken later are not before the one
    /// that is returned, those taken earlier are.
    pub(super) fn watched(&self) -> Ticket {
        Ticket(self.now.fetch_add(1, Ordering::SeqCst) + 1)
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

    /// Whether nothing has happened to the inode since the ticket was taken. To be asked after
    /// the inode was entered in the table.
    pub fn undisturbed(&self, since: Ticket, ino: u64) -> bool {
        self.slots[slot(ino)].load(Ordering::SeqCst) <= since.0 && !self.all_disturbed(since)
    }

    /// Whether events have been lost since.
    pub fn all_disturbed(&self, since: Ticket) -> bool {
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
        let clock = Clock::default();
        clock.happened(7);
        let ticket = clock.ticket();
        assert!(clock.undisturbed(ticket, 7));
        clock.happened(8);
        assert!(clock.undisturbed(ticket, 7) && !clock.undisturbed(ticket, 8));
        clock.happened(7);
        assert!(!clock.undisturbed(ticket, 7));
        assert!(clock.undisturbed(clock.ticket(), 7));
    }

    #[test]
    fn what_is_watched_is_so_for_later_tickets_alone() {
        let clock = Clock::default();
        let before = clock.ticket();
        let watched = clock.watched();
        assert!(before < watched && watched <= clock.ticket());
        assert!(clock.undisturbed(before, 7));
    }

    #[test]
    fn lost_events_disturb_every_answer() {
        let clock = Clock::default();
        let ticket = clock.ticket();
        clock.happened_to_all();
        assert!(!clock.undisturbed(ticket, 1) && clock.all_disturbed(ticket));
        assert!(clock.undisturbed(clock.ticket(), 1));
        assert!(!clock.has_stopped());
        clock.stop();
        assert!(clock.has_stopped());
        assert!(!clock.undisturbed(clock.ticket(), 1) && clock.all_disturbed(clock.ticket()));
    }
}
