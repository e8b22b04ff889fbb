//! The threads that read requests, and how they wait.
//!
//! A round trip through FUSE costs mostly waking: 10 µs if the server wakes on the caller's CPU,
//! 40–70 µs if an idle CPU has to be woken for it. So a *reader* looks for the next request for a
//! moment before it sleeps, as long as that pays, and as few threads as possible read:
//!
//! - One reader serves one request after the other. It gets company when requests queue up, or when
//!   it is stuck in one (a slow disk, fsync) while others might come.
//! - A reader that finds nothing to do while another one waits goes back to the bench.
//! - A *referee* watches for readers that are stuck; it sleeps while the mount is quiet.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::sync::{Parker, Unparker};
use rustix::io::Errno;

use super::device::Read;
use super::negotiate::MAX_WRITE;
use super::reply::Payload;
use super::server::Server;

/// Room for the largest request: a write, and its headers.
pub(super) const BUFFER: usize = MAX_WRITE as usize + 4096;

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
const QUICK: Duration = Duration::from_micros(100);
/// After this many requests without a gap, another reader is worth its wake-up.
const BACKLOG: u32 = 8;
/// How often the referee looks, and after how long without requests it goes to sleep.
const TICK: Duration = Duration::from_millis(1);
const QUIET_TICKS: u32 = 20;
/// Replies longer than this are not kept for the next request.
const KEPT_PAYLOAD: usize = 256 * 1024;

struct Workers {
    server: Arc<Server>,
    /// Threads that read requests, and how many of these are not in a request just now.
    readers: AtomicUsize,
    waiting: AtomicUsize,
    /// Requests begun: how the referee sees that there is progress.
    begun: AtomicU64,
    /// Another reader is wanted because requests queue up.
    backlog: AtomicBool,
    referee_sleeps: AtomicBool,
    referee: Unparker,
    bench: Mutex<Bench>,
    called: Condvar,
    failure: Mutex<Option<Errno>>,
}

#[derive(Default)]
struct Bench {
    /// Threads that wait to be called.
    sitting: usize,
    /// Calls that no thread has answered yet.
    calls: usize,
    started: usize,
    ended: bool,
}

/// Serves until the connection ends. The calling thread becomes the referee, whose credentials
/// nobody changes: new threads inherit them.
pub(super) fn run(server: &Arc<Server>, most: usize) -> Result<(), Errno> {
    let parker = Parker::new();
    let workers = Arc::new(Workers {
        server: Arc::clone(server),
        readers: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
        begun: AtomicU64::new(0),
        backlog: AtomicBool::new(false),
        referee_sleeps: AtomicBool::new(false),
        referee: parker.unparker().clone(),
        bench: Mutex::default(),
        called: Condvar::new(),
        failure: Mutex::new(None),
    });
    let mut threads = Vec::new();
    workers.call_reader(most, &mut threads)?;
    workers.referee(&parker, most, &mut threads);
    for thread in threads {
        if thread.join().is_err() {
            return Err(Errno::IO);
        }
    }
    let failure = workers.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), Err)
}

impl Workers {
    /// Watches over the readers until the connection ends.
    fn referee(
        self: &Arc<Self>,
        parker: &Parker,
        most: usize,
        threads: &mut Vec<thread::JoinHandle<()>>,
    ) {
        let mut seen = 0;
        let mut quiet = 0;
        while !self.ended() {
            if quiet >= QUIET_TICKS {
                self.server.fs.lower.tidy();
                self.referee_sleeps.store(true, Ordering::SeqCst);
                parker.park();
                self.referee_sleeps.store(false, Ordering::SeqCst);
                quiet = 0;
            } else {
                parker.park_timeout(TICK);
            }
            let begun = self.begun.load(Ordering::Relaxed);
            let stuck = begun == seen && self.waiting.load(Ordering::Relaxed) == 0;
            let behind = self.backlog.swap(false, Ordering::Relaxed);
            if (stuck || behind) && self.call_reader(most, threads).is_err() {
                tracing::warn!("cannot start another thread: going on with those that run");
            }
            quiet = if begun == seen && !stuck { quiet + 1 } else { 0 };
            seen = begun;
        }
        self.called.notify_all();
    }

    /// Calls a thread off the bench, or starts one if the bench is empty and there may be more.
    fn call_reader(
        self: &Arc<Self>,
        most: usize,
        threads: &mut Vec<thread::JoinHandle<()>>,
    ) -> Result<(), Errno> {
        let mut bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner);
        if bench.sitting > bench.calls {
            bench.calls += 1;
            self.readers.fetch_add(1, Ordering::Relaxed);
            self.called.notify_one();
            return Ok(());
        }
        if bench.started >= most.max(1) {
            return Ok(());
        }
        let workers = Arc::clone(self);
        let name = format!("fuse-{}", bench.started);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || workers.work())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        bench.started += 1;
        self.readers.fetch_add(1, Ordering::Relaxed);
        threads.push(thread);
        Ok(())
    }

    /// A thread's life: reading, and sitting on the bench.
    fn work(&self) {
        let mut buffer = vec![0; BUFFER];
        let mut payload = Payload::default();
        loop {
            let result = self.read_requests(&mut buffer, &mut payload);
            if let Err(errno) = result {
                tracing::error!(%errno, "cannot read from /dev/fuse");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno);
            }
            if !matches!(result, Ok(Turn::Over)) {
                self.end();
                return;
            }
            if !self.sit() {
                return;
            }
        }
    }

    /// Reads and serves requests until there is nothing to do and another reader waits.
    fn read_requests(&self, buffer: &mut [u8], payload: &mut Payload) -> Result<Turn, Errno> {
        let mut looking = Looking::default();
        let mut without_gap = 0;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        loop {
            match self.server.device.read(buffer)? {
                Read::Request(length) => {
                    without_gap += 1;
                    if without_gap >= BACKLOG {
                        without_gap = 0;
                        self.backlog.store(true, Ordering::Relaxed);
                    }
                    self.serve(&buffer[..length], payload);
                    looking.begin();
                }
                Read::Nothing => {
                    without_gap = 0;
                    if looking.goes_on() {
                        continue;
                    }
                    if self.waiting.load(Ordering::Relaxed) > 1 && self.leave() {
                        return Ok(Turn::Over);
                    }
                    let slept = Instant::now();
                    self.server.device.wait()?;
                    looking.slept(slept.elapsed());
                }
                Read::Ended => return Ok(Turn::Ended),
            }
        }
    }

    fn serve(&self, message: &[u8], payload: &mut Payload) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.referee_sleeps.load(Ordering::SeqCst) {
            self.referee.unpark();
        }
        self.server.serve(message, payload);
        if payload.bytes.capacity() > KEPT_PAYLOAD {
            *payload = Payload::default();
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Leaves the readers, unless this would leave none.
    fn leave(&self) -> bool {
        let one_less = |readers: usize| (readers > 1).then(|| readers - 1);
        let left = self.readers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        if left {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        left
    }

    /// Sits on the bench until called (true) or until the connection ends.
    fn sit(&self) -> bool {
        let mut bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner);
        bench.sitting += 1;
        while bench.calls == 0 && !bench.ended {
            bench = self.called.wait(bench).unwrap_or_else(PoisonError::into_inner);
        }
        bench.sitting -= 1;
        bench.calls = bench.calls.saturating_sub(1);
        !bench.ended
    }

    fn end(&self) {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.called.notify_all();
        self.referee.unpark();
    }

    fn ended(&self) -> bool {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner).ended
    }
}

/// Why a reader stopped reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing to do, and another one waits.
    Over,
    /// The connection has ended.
    Ended,
}

/// Whether looking for the next request pays, and when to stop.
#[derive(Default)]
struct Looking {
    until: Option<Instant>,
    last: Option<Instant>,
    in_vain: u32,
    not_before: Option<Instant>,
}

impl Looking {
    /// A request has been served: look for the next one.
    fn begin(&mut self) {
        if self.until.take().is_some() {
            self.in_vain = 0; // the last look found it
        }
        let now = Instant::now();
        let pays = self.in_vain < VAIN_LOOKS && self.not_before.is_none_or(|t| t <= now);
        self.until = pays.then(|| now + LOOK);
        self.last = pays.then_some(now);
    }

    /// Whether to look once more.
    fn goes_on(&mut self) -> bool {
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

    /// A request came after this much sleep.
    fn slept(&mut self, time: Duration) {
        if time < QUICK {
            self.in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_stops_when_it_is_in_vain_and_starts_when_requests_are_quick() {
        let mut looking = Looking::default();
        for _ in 0..VAIN_LOOKS {
            looking.not_before = None; // whatever else this machine does
            looking.begin();
            looking.in_vain += 1;
            looking.until = None;
        }
        looking.begin();
        assert!(!looking.goes_on(), "it has not paid");
        looking.slept(QUICK * 2);
        looking.begin();
        assert!(!looking.goes_on(), "requests are far apart");
        looking.slept(Duration::ZERO);
        looking.begin();
        assert!(looking.until.is_some());
    }

    #[test]
    fn looking_gives_way_to_others() {
        let mut looking = Looking::default();
        looking.begin();
        looking.last = Instant::now().checked_sub(PREEMPTED * 2);
        assert!(!looking.goes_on());
        looking.begin();
        assert!(!looking.goes_on(), "for a while");
    }
}
