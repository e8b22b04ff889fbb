//! On which CPU a reader runs: on a busy machine, the caller's.
//!
//! Where a caller and a reader wake each other on one CPU, a round trip is two switches: 18 µs on the
//! machine where this was written, where it was 35 µs on two CPUs that others occupied. The
//! scheduler, which sees the two take turns, leaves both where they are. On which CPU a caller runs
//! cannot be seen from here; how long a reader sleeps for the next request can.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::polling::QUICK;

/// How many requests tell how long one has to be slept for.
const ENOUGH: u32 = 32;
/// If they take less on average, the reader is where it should be.
const SLOW: Duration = Duration::from_micros(15);
/// How long a reader stays where it is after it has tried, at first and at most; doubled as long as
/// trying is in vain.
const STAY: Duration = Duration::from_millis(250);
const LONGEST_STAY: Duration = Duration::from_secs(16);

/// Whether a reader should move: it tries all CPUs in turn until one is better, or it is back.
pub(super) struct Affinity {
    cpus: usize,
    /// How many requests have come quickly, one after the other, and how long was slept for them.
    requests: u32,
    slept: Duration,
    trial: Option<Trial>,
    stay: Duration,
    not_before: Option<Instant>,
}

/// A search for a better CPU.
struct Trial {
    /// How long requests took on average where it began.
    before: Duration,
    moves: usize,
}

impl Affinity {
    /// On a machine with so many CPUs.
    pub(super) fn on(cpus: usize) -> Self {
        let (requests, slept) = (0, Duration::ZERO);
        Self { cpus, requests, slept, trial: None, stay: STAY, not_before: None }
    }

    /// A request came, on a busy machine, after reading for this long. Whether to move.
    pub(super) fn read_took(&mut self, time: Duration, now: Instant) -> bool {
        if time >= QUICK {
            (self.requests, self.slept) = (0, Duration::ZERO);
            return false;
        }
        self.requests += 1;
        self.slept += time;
        if self.requests < ENOUGH {
            return false;
        }
        let mean = self.slept / ENOUGH;
        (self.requests, self.slept) = (0, Duration::ZERO);
        let Some(trial) = &mut self.trial else {
            let begin = mean >= SLOW && self.not_before.is_none_or(|time| time <= now);
            self.trial = begin.then_some(Trial { before: mean, moves: 1 });
            return begin;
        };
        let better = mean * 4 < trial.before * 3;
        if !better && trial.moves < self.cpus {
            trial.moves += 1; // the last move is the one back
            return true;
        }
        self.trial = None;
        self.stay = if better { STAY } else { (self.stay * 2).min(LONGEST_STAY) };
        self.not_before = Some(now + self.stay);
        false
    }
}

/// Moves the calling thread to the next CPU that it may run on. It is free to leave that again.
pub(super) fn move_on() -> Result<(), Errno> {
    let allowed = sched_getaffinity(None)?;
    let next = next_after(sched_getcpu(), |cpu| allowed.is_set(cpu));
    let mut there = CpuSet::new();
    there.set(next);
    sched_setaffinity(None, &there)?;
    sched_setaffinity(None, &allowed)
}

/// The next number after this one that is allowed, past the last from 0 on.
fn next_after(here: usize, allowed: impl Fn(usize) -> bool) -> usize {
    let mut others = (1..CpuSet::MAX_CPU).map(|step| (here + step) % CpuSet::MAX_CPU);
    others.find(|&cpu| allowed(cpu)).unwrap_or(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_micros(35);
    const NEAR: Duration = Duration::from_micros(5);

    /// Whether it moves after as many requests as tell enough.
    fn moves(placing: &mut Affinity, time: Duration, now: Instant) -> bool {
        (0..ENOUGH).filter(|_| placing.read_took(time, now)).count() == 1
    }

    #[test]
    fn a_reader_moves_until_requests_come_sooner() {
        let (mut placing, now) = (Affinity::on(4), Instant::now());
        assert!(!moves(&mut placing, NEAR, now), "it is there");
        assert!(moves(&mut placing, FAR, now) && moves(&mut placing, FAR, now));
        assert!(!moves(&mut placing, NEAR, now), "it has found its caller");
        assert!(!moves(&mut placing, FAR, now), "not again so soon");
        assert!(moves(&mut placing, FAR, now + STAY));
    }

    #[test]
    fn a_reader_comes_back_and_stays_for_longer_each_time() {
        let (mut placing, mut now) = (Affinity::on(2), Instant::now());
        for stay in [2, 4, 8, 16, 32, 64, 64, 64] {
            assert!(moves(&mut placing, FAR, now) && moves(&mut placing, FAR, now), "there, back");
            assert!(!moves(&mut placing, FAR, now));
            let rest = STAY * stay;
            assert!(!moves(&mut placing, FAR, now + rest.mul_f32(0.99)));
            now += rest;
        }
    }

    #[test]
    fn requests_that_are_far_apart_tell_nothing() {
        let (mut placing, now) = (Affinity::on(2), Instant::now());
        for _ in 0..10 {
            assert!((1..ENOUGH).all(|_| !placing.read_took(FAR, now)));
            assert!(!placing.read_took(QUICK, now));
        }
    }

    #[test]
    fn all_allowed_cpus_are_tried() {
        let allowed = |cpu| [1, 2, 7].contains(&cpu);
        assert_eq!([1, 2, 7, 5].map(|here| next_after(here, allowed)), [2, 7, 1, 7]);
        assert_eq!(next_after(3, |_| false), 3);
    }

    #[test]
    fn a_thread_that_has_moved_may_run_where_it_could_before() {
        let before = sched_getaffinity(None).unwrap();
        for _ in 0..3 {
            move_on().unwrap();
            let now = sched_getaffinity(None).unwrap();
            assert!((0..CpuSet::MAX_CPU).all(|cpu| now.is_set(cpu) == before.is_set(cpu)));
        }
    }
}
