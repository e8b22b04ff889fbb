//! The threads that read requests, and how they wait.
//!
//! A round trip through FUSE costs mostly waking: 10 µs if the server wakes on the caller's CPU,
//! 40–70 µs if an idle CPU has to be woken for it. So a *reader* looks for the next request for a
//! moment before it sleeps, as long as that pays, and as few threads as possible read:
//!
//! - Polling pays only while the machine has a CPU to spare: on a busy one, or with as many callers
//!   as there are CPUs, sleeping at once is both quickest and cheapest ([`looking`]).
//! - One reader serves one request after the other. It gets company when requests queue up while a
//!   CPU is idle (so it waits for the disk now and then), or when it is stuck in one (fsync) while
//!   others might come. Two readers on CPUs that are all busy only take them from the callers.
//! - A reader that finds nothing to do while another one waits goes back to the bench.
//! - When all are stuck, more are started than a load needs: up to a bound that no one user can
//!   reach ([`shares`]). They end when they are not needed any more.
//! - On a busy machine a reader looks for the CPU on which its one caller runs ([`placing`]).
//! - A *referee* watches for readers that are stuck; it sleeps while the mount is quiet.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::sync::{Parker, Unparker};
use rustix::io::Errno;

use super::counters::{Counters, Served};
use super::device::Read;
use super::reply::Payload;
use super::request::Request;
use super::server::Server;
use crate::fs::Caller;
use crate::shift::id::{INVALID, Id};
use crate::state::in_flight::Record;
use crate::sys::shared::Bytes;
use affinity::Affinity;
pub use polling::Machine;
use polling::{Callers, Crowd, Polling};
use shares::{Fate, SHARE, Serving, Shares, Who};

mod affinity;
mod polling;
mod shares;

/// How the names of the threads begin.
pub const WORKER: &str = "fuse-";

/// After this many requests without a gap, another reader may be worth its wake-up.
const BACKLOG: u32 = 8;
/// It is if a CPU was idle whenever this many times in a row the crowd was counted.
const BEHIND: u32 = 2;
/// After this many requests without a gap the next one is probably there, too: no need to look.
const FLOW: u32 = 4;
/// A read that took longer has slept: there was a gap.
const GAP: Duration = Duration::from_micros(5);
/// How often the referee looks, and after how long without requests it goes to sleep.
const TICK: Duration = Duration::from_millis(1);
const QUIET_TICKS: u32 = 20;
/// After this many ticks without progress a reader is stuck. One may be lack of a CPU.
const STUCK_TICKS: u32 = 2;
/// Every so many ticks the referee counts who wants a CPU.
const CROWD_TICKS: u32 = 10;
/// How often it is said that no thread can be started.
const SAY_AGAIN: Duration = Duration::from_secs(60);
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
    /// Whether more threads want to run than there are CPUs.
    crowd: Crowd,
    most: Most,
    shares: Shares,
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
    /// How many of these have ended because they were not needed any more.
    gone: usize,
    ended: bool,
}

/// The most threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// For a load.
    pub(super) usual: usize,
    /// When all are stuck.
    pub(super) stuck: usize,
}

/// What one thread works with.
struct Desk {
    record: Record,
    buffer: Bytes,
    payload: Payload,
    counters: Arc<Counters>,
    serving: Arc<Serving>,
}

/// Serves until the connection ends. The calling thread becomes the referee, whose credentials
/// nobody changes: new threads inherit them.
pub(super) fn run(server: &Arc<Server>, most: Most, machine: Machine) -> Result<(), Errno> {
    let parker = Parker::new();
    let workers = Arc::new(Workers {
        server: Arc::clone(server),
        readers: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
        begun: AtomicU64::new(0),
        backlog: AtomicBool::new(false),
        crowd: Crowd::of(machine),
        most,
        shares: Shares::default(),
        referee_sleeps: AtomicBool::new(false),
        referee: parker.unparker().clone(),
        bench: Mutex::default(),
        called: Condvar::new(),
        failure: Mutex::new(None),
    });
    let mut threads = Vec::new();
    workers.call_reader(most.usual, &mut threads)?;
    workers.referee(&parker, &mut threads);
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
    fn referee(self: &Arc<Self>, parker: &Parker, threads: &mut Vec<thread::JoinHandle<()>>) {
        let (mut seen, mut said): (u64, Option<Instant>) = (0, None);
        let (mut quiet, mut stuck, mut behind, mut tick) = (0, 0, 0, 0);
        while !self.ended() {
            if quiet >= QUIET_TICKS {
                self.server.fs.tidy();
                self.referee_sleeps.store(true, Ordering::SeqCst);
                parker.park();
                self.referee_sleeps.store(false, Ordering::SeqCst);
                (quiet, tick) = (0, 0);
            } else {
                parker.park_timeout(TICK);
            }
            if tick % CROWD_TICKS == 0 {
                self.crowd.count();
                let helps =
                    self.backlog.swap(false, Ordering::Relaxed) && self.crowd.leaves_a_cpu();
                behind = if helps { behind + 1 } else { 0 };
            }
            tick = tick.wrapping_add(1);
            let begun = self.begun.load(Ordering::Relaxed);
            let no_progress = begun == seen && self.waiting.load(Ordering::Relaxed) == 0;
            stuck = if no_progress { stuck + 1 } else { 0 };
            if stuck >= STUCK_TICKS || behind >= BEHIND {
                let most = if stuck >= STUCK_TICKS { self.most.stuck } else { self.most.usual };
                (stuck, behind) = (0, 0);
                // Where it fails it is tried again at once, as long as it would help.
                let long_ago = said.is_none_or(|said| said.elapsed() > SAY_AGAIN);
                if self.call_reader(most, threads).is_err() && long_ago {
                    said = Some(Instant::now());
                    tracing::warn!("cannot start another thread: going on with those that run");
                }
            }
            quiet = if begun == seen && !no_progress { quiet + 1 } else { 0 };
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
        if bench.started - bench.gone >= most.max(1) {
            return Ok(());
        }
        // Those that have ended leave nothing to be waited for.
        threads.retain(|thread| !thread.is_finished());
        let workers = Arc::clone(self);
        let name = format!("{WORKER}{}", bench.started);
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
        let mut desk = match self.desk() {
            Ok(desk) => desk,
            Err(errno) => {
                tracing::error!(%errno, "a thread has no room to work");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno);
                return self.end();
            }
        };
        loop {
            let result = self.read_requests(&mut desk);
            if let Err(errno) = result {
                tracing::error!(%errno, "cannot read from /dev/fuse");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno);
            }
            if !matches!(result, Ok(Turn::Over)) {
                self.end();
                return;
            }
            if !self.sit(&mut desk) {
                return;
            }
        }
    }

    fn desk(&self) -> Result<Desk, Errno> {
        let state = self.server.fs.state();
        let record = state.in_flight.take().ok_or(Errno::AGAIN)?;
        let buffer = state.buffer(record.number())?;
        record.enter();
        Ok(Desk {
            record,
            buffer,
            payload: Payload::default(),
            counters: self.server.counters.of_new_worker(),
            serving: self.shares.of_new_thread(),
        })
    }

    /// Reads and serves requests until there is nothing to do and another reader waits.
    fn read_requests(&self, desk: &mut Desk) -> Result<Turn, Errno> {
        let mut looking = Polling::default();
        let mut callers = Callers::default();
        let mut placing = Affinity::on(self.crowd.cpus());
        let mut without_gap = 0;
        let mut ended = Instant::now();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        loop {
            let next =
                if without_gap >= FLOW { Next::There } else { self.look(&callers, &mut looking)? };
            if next == Next::Unknown && self.waiting.load(Ordering::Relaxed) > 1 && self.leave() {
                return Ok(Turn::Over);
            }
            // While requests flow, one look at the clock serves for the end of one and this.
            let begun = if without_gap >= FLOW { ended } else { Instant::now() };
            desk.record.await_message(&mut desk.buffer);
            let length = match self.server.device.read(&mut desk.buffer)? {
                Read::Request(length) => length,
                Read::Ended => return Ok(Turn::Ended),
            };
            let came = Instant::now();
            let took = came - begun;
            looking.read_took(took);
            let alone = callers.count() == 1;
            if alone && self.crowd.is_dense(&callers) && placing.read_took(took, came) {
                Self::move_on();
            }
            without_gap = if took < GAP && next != Next::Came { without_gap + 1 } else { 0 };
            if without_gap == BACKLOG {
                without_gap = FLOW;
                self.backlog.store(true, Ordering::Relaxed);
            }
            let Desk { record, buffer, payload, counters, serving } = desk;
            let message = &buffer[..length];
            let request = Request::parse(message);
            let who = request.as_ref().and_then(who);
            callers.note(who.map_or(0, Who::tid));
            if self.is_put_by(request.as_ref(), message) {
                ended = came;
                continue;
            }
            counters.begin();
            serving.begin(who);
            let served = self.serve(record, message, payload);
            serving.end();
            ended = Instant::now();
            counters.end(served, ended - came);
            if self.shares.any() {
                self.serve_waiting(desk);
                ended = Instant::now();
            }
        }
    }

    /// Whether a request is not served now, because its user occupies too many threads already.
    fn is_put_by(&self, request: Option<&Request<'_>>, message: &[u8]) -> bool {
        let readers = self.readers.load(Ordering::Relaxed);
        let busy = readers.saturating_sub(self.waiting.load(Ordering::Relaxed));
        let Some(request) = request.filter(|request| busy >= SHARE && request.can_be_stuck())
        else {
            return false;
        };
        let Some(who) = who(request) else { return false };
        match self.shares.judge(who, message, |who| self.person(who)) {
            Fate::Served => false,
            Fate::PutBy => true,
            Fate::Refused => {
                if let Err(errno) = self.server.device.reply_error(request.unique(), Errno::NOMEM) {
                    tracing::debug!(%errno, "nobody waits for the refusal any more");
                }
                true
            }
        }
    }

    fn person(&self, who: Who) -> Option<u32> {
        self.server.fs.person(Caller { uid: Id::new(who.uid()), gid: None, tid: who.tid() })
    }

    /// Serves requests that had to wait.
    fn serve_waiting(&self, Desk { record, buffer, payload, counters, serving }: &mut Desk) {
        while let Some(message) = self.shares.next(|who| self.person(who)) {
            let came = Instant::now();
            record.await_message(buffer);
            counters.begin();
            serving.begin(Request::parse(&message).as_ref().and_then(who));
            let served = self.serve(record, &message, payload);
            serving.end();
            counters.end(served, came.elapsed());
        }
    }

    /// Where it may not move, a reader is slower, and nothing else.
    fn move_on() {
        if let Err(errno) = affinity::move_on() {
            tracing::debug!(%errno, "cannot move to another CPU");
        }
    }

    /// Looks for the next request until it is there or looking does not pay any more.
    fn look(&self, callers: &Callers, looking: &mut Polling) -> Result<Next, Errno> {
        if self.crowd.is_dense(callers) {
            return Ok(Next::Unknown);
        }
        if self.server.device.has_request()? {
            return Ok(Next::There);
        }
        looking.begin();
        while looking.goes_on() {
            if self.server.device.has_request()? {
                looking.found();
                return Ok(Next::Came);
            }
        }
        Ok(Next::Unknown)
    }

    fn serve(&self, record: &Record, message: &[u8], payload: &mut Payload) -> Served {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.referee_sleeps.load(Ordering::SeqCst) {
            self.referee.unpark();
        }
        let served = self.server.serve(record, message, payload);
        if payload.bytes.capacity() > KEPT_PAYLOAD {
            *payload = Payload::default();
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        served
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

    /// Sits on the bench until called (true) or until it is not needed any more.
    fn sit(&self, desk: &mut Desk) -> bool {
        let mut bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner);
        if bench.started - bench.gone > self.most.usual.max(1) && bench.sitting > 0 {
            bench.gone += 1;
            desk.record.await_message(&mut desk.buffer);
            self.server.fs.state().in_flight.give_back(&desk.record);
            return false;
        }
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

/// Who makes a request.
fn who(request: &Request<'_>) -> Option<Who> {
    let caller = request.caller();
    Who::new(caller.uid.map_or(INVALID, Id::raw), caller.tid)
}

/// What a reader knows of the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It has been waiting.
    There,
    /// It came while the reader looked.
    Came,
    /// Reading will tell, and may sleep.
    Unknown,
}

/// Why a reader stopped reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing to do, and another one waits.
    Over,
    /// The connection has ended.
    Ended,
}
