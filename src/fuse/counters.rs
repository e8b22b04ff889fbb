//! Counting requests, so cheaply that it is always on: each worker writes into counters of its own
//! with plain stores, and whoever asks adds them up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::wire::{LAST_OPCODE, Opcode};
use crate::report::{BUCKETS, Histogram, Operation, bucket};

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served {
    /// What was asked, if it is known here.
    pub(super) opcode: Option<Opcode>,
    /// Whether the answer was an error.
    pub(super) failed: bool,
    /// How many attributes in it were trusted for long, shortly, and not at all.
    pub(super) trusted: [u64; 3],
}

/// The counters of one worker. Nobody else writes to them.
pub(super) struct Counters {
    operations: [OfOperation; OPERATIONS],
    trusted: [AtomicU64; 3],
    busy: AtomicBool,
}

/// One for each opcode, at its number; those that are not known share 0.
const OPERATIONS: usize = LAST_OPCODE as usize + 1;

#[derive(Default)]
struct OfOperation {
    errors: AtomicU64,
    nanos: AtomicU64,
    times: [AtomicU64; BUCKETS],
}

impl Counters {
    fn new() -> Self {
        Self {
            operations: std::array::from_fn(|_| OfOperation::default()),
            trusted: std::array::from_fn(|_| AtomicU64::new(0)),
            busy: AtomicBool::new(false),
        }
    }

    /// A request has been read.
    pub(super) fn begin(&self) {
        self.busy.store(true, Ordering::Relaxed);
    }

    /// It has been answered, after this time.
    pub(super) fn end(&self, served: Served, time: Duration) {
        self.busy.store(false, Ordering::Relaxed);
        let number = served.opcode.map_or(0, |opcode| opcode as usize);
        let operation = &self.operations[number];
        add(&operation.times[bucket(time)], 1);
        add(&operation.nanos, u64::try_from(time.as_nanos()).unwrap_or(0));
        if served.failed {
            add(&operation.errors, 1);
        }
        if served.trusted != [0; 3] {
            self.trusted.iter().zip(served.trusted).for_each(|(sum, more)| add(sum, more));
        }
    }
}

/// Not an atomic addition: there is one writer.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// The counters of all workers.
#[derive(Default)]
pub(super) struct AllCounters(Mutex<Vec<Arc<Counters>>>);

/// Their sum.
pub(super) struct Sum {
    /// What has come at all, in the order of the opcodes.
    pub(super) operations: Vec<Operation>,
    /// Answers about attributes that were trusted for long, shortly, and not at all.
    pub(super) trusted: [u64; 3],
    /// Threads that have read requests, and those that are in one just now.
    pub(super) workers: usize,
    pub(super) busy: usize,
}

impl AllCounters {
    /// Counters for a thread that begins to read requests.
    pub(super) fn of_new_worker(&self) -> Arc<Counters> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of a thread that has ended go on counting.
        if let Some(left) = all.iter().find(|counters| Arc::strong_count(counters) == 1) {
            return Arc::clone(left);
        }
        let counters = Arc::new(Counters::new());
        all.push(Arc::clone(&counters));
        counters
    }

    /// Adds all up.
    pub(super) fn sum(&self) -> Sum {
        let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let operations = (0..OPERATIONS).map(|number| {
            let mut sum = Operation { name: name(number), ..Operation::default() };
            for of_worker in workers.iter().map(|worker| &worker.operations[number]) {
                sum.errors += read(&of_worker.errors);
                sum.nanos += read(&of_worker.nanos);
                sum.times.add(&Histogram(std::array::from_fn(|at| read(&of_worker.times[at]))));
            }
            sum
        });
        let trusted = |kind: usize| workers.iter().map(|worker| read(&worker.trusted[kind])).sum();
        Sum {
            operations: operations.filter(|operation| operation.times.count() > 0).collect(),
            trusted: std::array::from_fn(trusted),
            // One of the three is in the list, and one here.
            workers: workers.iter().filter(|worker| Arc::strong_count(worker) > 2).count(),
            busy: workers.iter().filter(|worker| worker.busy.load(Ordering::Relaxed)).count(),
        }
    }
}

fn name(number: usize) -> String {
    let opcode = u32::try_from(number).ok().and_then(Opcode::from_raw);
    opcode.map_or("unknown".to_owned(), |opcode| format!("{opcode:?}").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_are_added_up() {
        let all = AllCounters::default();
        let (one, other) = (all.of_new_worker(), all.of_new_worker());
        let lookup = Served { opcode: Some(Opcode::Lookup), failed: false, trusted: [0; 3] };
        one.begin();
        one.end(lookup, Duration::from_micros(10));
        other.end(Served { failed: true, trusted: [0, 1, 0], ..lookup }, Duration::from_micros(10));
        other.begin();
        one.end(Served { opcode: None, failed: true, trusted: [0; 3] }, Duration::from_secs(1));
        let sum = all.sum();
        assert_eq!((sum.workers, sum.busy, sum.trusted), (2, 1, [0, 1, 0]));
        let [unknown, lookups] = &sum.operations[..] else { unreachable!() };
        assert_eq!((unknown.name.as_str(), unknown.errors), ("unknown", 1));
        assert_eq!((lookups.name.as_str(), lookups.errors), ("lookup", 1));
        assert_eq!(lookups.times.count(), 2);
    }

    #[test]
    fn every_opcode_has_a_place() {
        assert_eq!(name(LAST_OPCODE as usize), "statx");
        assert!(Opcode::from_raw(LAST_OPCODE + 1).is_none());
    }
}
