//! Polling for the next request for a moment before sleeping: when it pays, and when to stop.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::sys::apart;

/// How long a reader looks for the next request before it sleeps.
const LOOK: Duration = Duration::from_micros(50);
/// Processor pauses between two looks: together about a microsecond.
const PAUSES: u32 = 30;
/// A look that took this much longer than one step of it was interrupted: others want the CPU.
const PREEMPTED: Duration = Duration::from_micros(30);
/// How long a reader then does not look.
const GIVE_WAY: Duration = Duration::from_millis(10);
/// After this many looks in vain a reader sleeps at once, until requests come quickly again.
const VAIN_LOOKS: u32 = 8;
/// A request that comes this soon after the one before would have been seen by a look.
pub(super) const QUICK: Duration = Duration::from_micros(100);

/// Who sent the last requests: so many callers may want to run next.
#[derive(Default)]
pub(super) struct Callers {
    last: [u32; 8],
    next: usize,
}

impl Callers {
    /// A request of the thread `tid` has come. The kernel's own have none.
    pub(super) fn note(&mut self, tid: u32) {
        if tid != 0 {
            self.last[self.next] = tid;
            self.next = (self.next + 1) % self.last.len();
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let is_first = |&(n, tid): &(usize, &u32)| *tid != 0 && !self.last[..n].contains(tid);
        self.last.iter().enumerate().filter(is_first).count()
    }
}

/// What is known of the machine, and how its load is read.
#[derive(Debug)]
pub struct Machine {
    cpus: usize,
    load: Option<File>,
}

impl Machine {
    /// Looks at it.
    pub fn look() -> Self {
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cpus, load: None }
    }

    /// For whoever will serve: a server that has left `/proc` behind could not do it any more.
    pub(in crate::fuse) fn read_load(&mut self) {
        self.load = apart::open("/proc/loadavg", OFlags::RDONLY).ok().map(File::from);
    }

    /// How many CPUs this process may use.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    fn running(&self) -> Option<usize> {
        let mut line = [0; 128];
        let length = self.load.as_ref()?.read_at(&mut line, 0).ok()?;
        running(str::from_utf8(&line[..length]).ok()?)
    }
}

/// Whether more threads want to run, on the whole machine, than there are CPUs. Then looking takes
/// a CPU from somebody, first of all from the caller that is to make the next request.
pub(super) struct Crowd {
    machine: Machine,
    dense: AtomicBool,
    leaves_a_cpu: AtomicBool,
}

impl Crowd {
    /// Not counted yet.
    pub(super) fn of(machine: Machine) -> Self {
        let dense = AtomicBool::new(machine.cpus == 1);
        Self { machine, dense, leaves_a_cpu: AtomicBool::new(false) }
    }

    /// How many CPUs there are.
    pub(super) fn cpus(&self) -> usize {
        self.machine.cpus
    }

    /// Counts anew; the calling thread is not counted.
    pub(super) fn count(&self) {
        let Some(running) = self.machine.running() else { return };
        let (others, cpus) = (running.saturating_sub(1), self.machine.cpus);
        self.dense.store(cpus == 1 || others > cpus, Ordering::Relaxed);
        self.leaves_a_cpu.store(others < cpus, Ordering::Relaxed);
    }

    /// Whether a CPU was idle, by the last count: another reader would take it from nobody.
    pub(super) fn leaves_a_cpu(&self) -> bool {
        self.leaves_a_cpu.load(Ordering::Relaxed)
    }

    /// Whether a thread that looks would take a CPU from somebody: by the last count, or because
    /// these callers need all of them.
    pub(super) fn is_dense(&self, callers: &Callers) -> bool {
        self.dense.load(Ordering::Relaxed) || callers.count() >= self.machine.cpus
    }
}

/// The fourth field of /proc/loadavg is "runnable/existing" threads at this moment (proc(5)).
fn running(loadavg: &str) -> Option<usize> {
    loadavg.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

/// Whether looking for the next request pays, and when to stop.
#[derive(Default)]
pub(super) struct Polling {
    until: Option<Instant>,
    last: Option<Instant>,
    in_vain: u32,
    not_before: Option<Instant>,
}

impl Polling {
    /// A request has been served, and the next one is not there yet.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        let pays = self.in_vain < VAIN_LOOKS && self.not_before.is_none_or(|t| t <= now);
        self.until = pays.then(|| now + LOOK);
        self.last = pays.then_some(now);
    }

    /// A look has found a request.
    pub(super) fn found(&mut self) {
        self.in_vain = 0;
    }

    /// Whether to look once more.
    pub(super) fn goes_on(&mut self) -> bool {
        let Some(until) = self.until else { return false };
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last > PREEMPTED) {
            self.not_before = Some(now + GIVE_WAY);
            self.until = None;
            return false;
        }
        self.last = Some(now);
        if now < until {
            // Each look takes a lock that callers want too.
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
            return true;
        }
        self.until = None;
        self.in_vain = self.in_vain.saturating_add(1);
        false
    }

    /// A request came after reading, and sleeping in it, for this long.
    pub(super) fn read_took(&mut self, time: Duration) {
        if time < QUICK {
            self.in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(cpus: usize, dense: bool) -> Crowd {
        let leaves_a_cpu = AtomicBool::new(!dense);
        let mut machine = Machine { cpus, ..Machine::look() };
        machine.read_load();
        Crowd { machine, dense: AtomicBool::new(dense), leaves_a_cpu }
    }

    #[test]
    fn looking_stops_when_it_is_in_vain_and_starts_when_requests_are_quick() {
        let mut looking = Polling::default();
        for _ in 0..VAIN_LOOKS {
            looking.not_before = None; // whatever else this machine does
            looking.begin();
            looking.in_vain += 1;
            looking.until = None;
        }
        looking.begin();
        assert!(!looking.goes_on(), "it has not paid");
        looking.read_took(QUICK * 2);
        looking.begin();
        assert!(!looking.goes_on(), "requests are far apart");
        looking.read_took(Duration::ZERO);
        looking.begin();
        assert!(looking.until.is_some());
    }

    #[test]
    fn threads_that_want_to_run_are_counted() {
        assert_eq!(running("0.43 0.73 1.69 2/89 20684\n"), Some(2));
        assert_eq!(running("0.43 0.73"), None);
        let crowd = counted(1 << 20, true);
        crowd.count();
        assert!(crowd.leaves_a_cpu());
        let callers = Callers::default();
        assert!(!crowd.is_dense(&callers), "so many threads do not fit into this machine");
        let crowd = counted(1, false);
        crowd.count();
        assert!(crowd.is_dense(&callers), "with one CPU a look always takes it from the caller");
    }

    #[test]
    fn callers_need_cpus_too() {
        let crowd = counted(2, false);
        let mut callers = Callers::default();
        for tid in [7, 0, 7, 7] {
            callers.note(tid);
        }
        assert!(!crowd.is_dense(&callers), "one caller and the looker");
        callers.note(8);
        assert!(crowd.is_dense(&callers), "two callers, and no CPU to look on");
        (0..8).for_each(|_| callers.note(8));
        assert!(!crowd.is_dense(&callers), "the other one has gone");
    }

    #[test]
    fn looking_gives_way_to_others() {
        let mut looking = Polling::default();
        looking.begin();
        looking.last = Instant::now().checked_sub(PREEMPTED * 2);
        assert!(!looking.goes_on());
        looking.begin();
        assert!(!looking.goes_on(), "for a while");
    }
}
