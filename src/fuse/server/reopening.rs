//! Opens that the kernel is asked to do again, so that it sees what the first one changed.
//!
//! O_TRUNC by somebody without `CAP_FSETID` clears set-user-ID and set-group-ID bits below, but the
//! reply to OPEN has no room for the new mode. stat(2) and exec(2) ask for it when told to, while
//! the rules of `fs.protected_hardlinks` look at what is remembered. `ESTALE` has open(2) start
//! again by itself (`do_filp_open`, fs/namei.c), and its check of permissions then asks for the
//! attributes that it was told to forget (`fuse_permission`, fs/fuse/dir.c).
//!
//! The kernel starts again once: the second `ESTALE` would reach the program.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Callers that die between the two opens leave their entry behind.
const MOST: usize = 64;

/// The threads that were told to open again and have not come back yet.
#[derive(Default)]
pub(in super::super) struct Reopening(Mutex<VecDeque<u32>>);

impl Reopening {
    /// Whether this thread's open is the second of such a pair. The pair ends with it.
    pub(super) fn is_second(&self, tid: u32) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = told.iter().position(|&other| other == tid);
        place.is_some_and(|place| told.remove(place).is_some())
    }

    /// This thread will open again.
    pub(super) fn expect(&self, tid: u32) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() == MOST {
            told.pop_front();
        }
        told.push_back(tid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_twice_in_a_row() {
        let reopening = Reopening::default();
        assert!(!reopening.is_second(7));
        reopening.expect(7);
        assert!(!reopening.is_second(8) && reopening.is_second(7));
        assert!(!reopening.is_second(7), "the pair has ended");
    }

    #[test]
    fn callers_who_never_came_back_are_forgotten() {
        let reopening = Reopening::default();
        (0..1000).for_each(|tid| reopening.expect(tid));
        assert!(!reopening.is_second(0) && reopening.is_second(999));
        assert!(reopening.0.lock().unwrap().len() < MOST);
    }
}
