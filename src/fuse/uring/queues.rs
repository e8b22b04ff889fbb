//! The threads that serve the queues, and the porter, who sees that each queue has one that is free.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::payload::{Answer, Came, came};
use super::{Porter, entry_of};
use crate::fuse::counters::{Counters, Served};
use crate::fuse::device::Read;
use crate::fuse::reply::{self, Payload};
use crate::fuse::request::Request;
use crate::fuse::server::Server;
use crate::fuse::wire::Opcode;
use crate::fuse::workers::WORKER;
use crate::lower::table::ROOT_ID;
use crate::state::BUFFER;
use crate::state::in_flight::InFlight;
use crate::sys::uring::{Entry, Ring};

/// How often the porter looks at the queues while there is something to do, and after how long without
/// requests it goes to sleep.
const TICK: Duration = Duration::from_millis(1);
const QUIET_TICKS: u32 = 20;
/// After this many ticks without progress a queue is stuck. One may be lack of a CPU.
const STUCK_TICKS: u32 = 2;
/// How often a thread tries to get back to its CPU.
const MOVE_AGAIN: Duration = Duration::from_secs(1);
/// Answers longer than this are not kept for the next request.
const KEPT_PAYLOAD: usize = 256 * 1024;
/// Numbers that the kernel does not give to requests by itself, even like those.
const OWN_REQUESTS: u64 = 1 << 62;
/// How many of the files are remembered that the kernel has known.
const FILES: usize = 16;

/// What all threads know.
struct Queues {
    server: Arc<Server>,
    each: Box<[Queue]>,
    /// Rings that no thread has.
    rings: Mutex<Vec<Ring>>,
    /// Requests that wait for a thread.
    aside: Mutex<VecDeque<Entry>>,
    aside_count: AtomicUsize,
    /// Answers that the porter is to give to the kernel, with the number of each request.
    handed: Mutex<Vec<(Entry, u64)>>,
    own_requests: AtomicU64,
    /// Some regular files that the kernel has known.
    files: [AtomicU64; FILES],
    next_file: AtomicUsize,
    /// How many of these have not been answered.
    own_pending: AtomicUsize,
    porter_sleeps: AtomicBool,
    wake: OwnedFd,
    ended: AtomicBool,
    failure: Mutex<Option<Errno>>,
}

#[derive(Default)]
struct Queue {
    threads: AtomicUsize,
    /// How many of these are in a request.
    busy: AtomicUsize,
    /// Requests begun: how the porter sees that there is progress.
    begun: AtomicU64,
}

/// With what a thread begins.
enum Start {
    /// A request.
    With(Entry),
    /// An entry that is still to be made.
    Fresh,
}

/// Serves until the connection ends. The calling thread is the porter; its credentials, which new
/// threads inherit, nobody changes.
pub(in crate::fuse) fn run(server: &Arc<Server>, porter: Porter) -> Result<(), Errno> {
    let Porter { ring, threads, queues } = porter;
    let shared = Arc::new(Queues {
        server: Arc::clone(server),
        each: (0..queues).map(|_| Queue::default()).collect(),
        rings: Mutex::new(threads),
        aside: Mutex::default(),
        aside_count: AtomicUsize::new(0),
        handed: Mutex::default(),
        own_requests: AtomicU64::new(OWN_REQUESTS),
        own_pending: AtomicUsize::new(0),
        files: Default::default(),
        next_file: AtomicUsize::new(0),
        porter_sleeps: AtomicBool::new(false),
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        ended: AtomicBool::new(false),
        failure: Mutex::new(None),
    });
    let reader = Arc::clone(&shared);
    let mut threads = vec![spawn("device", move || reader.read_the_rest())?];
    shared.watch(ring, &mut threads);
    if let Some(errno) = lock(&shared.failure).take() {
        return Err(errno);
    }
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| Errno::IO))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Errno> {
    thread::Builder::new()
        .name(format!("{WORKER}{name}"))
        .spawn(work)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the porter knows of a queue.
#[derive(Default, Clone)]
struct Seen {
    begun: u64,
    stuck: u32,
}

impl Queues {
    /// The porter's work: gives what comes to it to threads, and watches for queues that are stuck.
    fn watch(self: &Arc<Self>, mut ring: Ring, threads: &mut Vec<JoinHandle<()>>) {
        let mut seen = vec![Seen::default(); self.each.len()];
        let mut quiet = 0;
        let mut last = Instant::now();
        while !self.ended.load(Ordering::SeqCst) {
            if let Err(errno) = self.receive(&mut ring, threads) {
                self.end(Some(errno));
                break;
            }
            if quiet >= QUIET_TICKS {
                self.server.fs.tidy();
                self.porter_sleeps.store(true, Ordering::SeqCst);
                if !self.has_progressed(&seen) {
                    self.sleep(&ring, None);
                }
                self.porter_sleeps.store(false, Ordering::SeqCst);
                quiet = 0;
            } else {
                self.sleep(&ring, Some(TICK));
            }
            if last.elapsed() >= TICK {
                last = Instant::now();
                let goes_on = self.look_after(&mut seen, threads);
                quiet = if goes_on { 0 } else { quiet + 1 };
            }
        }
    }

    /// Gives requests that have come to the porter to threads, and answers of threads to the kernel.
    fn receive(
        self: &Arc<Self>,
        ring: &mut Ring,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Errno> {
        for (entry, id) in lock(&self.handed).drain(..) {
            ring.commit(entry, id)?;
        }
        ring.submit()?;
        while let Some((entry, result)) = ring.take() {
            let Some(mut entry) = self.still_there(entry, result)? else { continue };
            match came(&mut entry) {
                Ok(Came { id, is_own: true, .. }) => {
                    self.answer_nothing(id).put_into(&mut entry, &[]);
                    ring.commit(entry, id)?;
                }
                _ => self.assign(entry, threads),
            }
        }
        ring.submit()
    }

    /// An entry as the kernel gave it back; `None` if it is of no use any more.
    fn still_there(&self, entry: Entry, result: Result<(), Errno>) -> Result<Option<Entry>, Errno> {
        match result {
            Ok(()) => Ok(Some(entry)),
            Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV) => {
                self.end(None);
                Ok(None)
            }
            Err(errno) => {
                tracing::error!(queue = entry.queue, %errno, "a queue has lost an entry");
                Err(errno)
            }
        }
    }

    /// Gives a request to a thread, or puts it aside.
    fn assign(self: &Arc<Self>, entry: Entry, threads: &mut Vec<JoinHandle<()>>) {
        if let Err(Start::With(entry)) = self.start(entry.queue, Start::With(entry), threads) {
            self.put_aside(entry);
        }
    }

    /// Starts another thread for a queue. If that cannot be done, what it was to begin with comes back.
    fn start(
        self: &Arc<Self>,
        queue: u16,
        start: Start,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Start> {
        let Some(ring) = lock(&self.rings).pop() else { return Err(start) };
        // So that both can be had back if no thread can be made.
        let baggage = Arc::new(Mutex::new(Some((ring, start))));
        let (shared, taken) = (Arc::clone(self), Arc::clone(&baggage));
        let began = spawn(&format!("cpu{queue}"), move || {
            let baggage = lock(&taken).take();
            if let Some((ring, start)) = baggage {
                shared.serve_queue(queue, ring, start);
            }
        });
        match began {
            Ok(thread) => {
                self.each[usize::from(queue)].threads.fetch_add(1, Ordering::SeqCst);
                threads.push(thread);
                Ok(())
            }
            Err(errno) => {
                tracing::warn!(%errno, "cannot start another thread: going on with those that run");
                let Some((ring, start)) = lock(&baggage).take() else { return Ok(()) };
                lock(&self.rings).push(ring);
                Err(start)
            }
        }
    }

    /// Whether there have been requests since the porter has looked.
    fn has_progressed(&self, seen: &[Seen]) -> bool {
        self.each
            .iter()
            .zip(seen)
            .any(|(queue, seen)| queue.begun.load(Ordering::SeqCst) != seen.begun)
    }

    /// Looks at each queue; whether anything is going on.
    fn look_after(self: &Arc<Self>, seen: &mut [Seen], threads: &mut Vec<JoinHandle<()>>) -> bool {
        let mut goes_on = self.aside_count.load(Ordering::SeqCst) > 0;
        for (number, (queue, seen)) in (0..).zip(self.each.iter().zip(seen)) {
            let begun = queue.begun.load(Ordering::SeqCst);
            let count = queue.threads.load(Ordering::SeqCst);
            let is_busy = count > 0 && queue.busy.load(Ordering::SeqCst) >= count;
            goes_on |= begun != seen.begun || is_busy;
            seen.stuck = if is_busy && begun == seen.begun { seen.stuck + 1 } else { 0 };
            seen.begun = begun;
            if seen.stuck >= STUCK_TICKS {
                seen.stuck = 0;
                // Where it fails it is tried again, as long as it would help.
                self.start(number, Start::Fresh, threads).ok();
            }
        }
        if let Some(entry) = self.take_aside() {
            self.assign(entry, threads);
            // Whoever is free is not so any more, and then looks for what was put aside.
            if self.own_pending.load(Ordering::SeqCst) == 0 {
                self.ask_for_nothing();
            }
        }
        goes_on
    }

    /// Sleeps until something comes, or for this long.
    fn sleep(&self, ring: &Ring, time: Option<Duration>) {
        let mut fds =
            [ring.as_fd(), self.wake.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let time = time.map(|time| Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) });
        if poll(&mut fds, time.as_ref()).is_ok() && !fds[1].revents().is_empty() {
            let mut count = [0; 8];
            // It is only to be emptied.
            rustix::io::read(&self.wake, &mut count).ok();
        }
    }

    fn wake_porter(&self) {
        // If it is full, the porter wakes anyhow.
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).ok();
    }

    /// Has the kernel put a request into the queue of the CPU that this thread is on. With its answer
    /// a request comes that had been waiting for an entry. The kernel does so for regular files that it
    /// knows, older ones also for the root.
    fn ask_for_nothing(&self) {
        let files = self.files.iter().map(|file| file.load(Ordering::Relaxed));
        let files: Vec<u64> = files.filter(|&file| file != 0).chain([ROOT_ID]).collect();
        self.own_pending.fetch_add(1, Ordering::SeqCst);
        let unique = self.own_requests.fetch_add(2, Ordering::Relaxed);
        if !files.into_iter().any(|file| self.server.device.ask_for_nothing(file, unique).is_ok()) {
            self.own_pending.fetch_sub(1, Ordering::SeqCst);
            tracing::debug!("the kernel makes no request of its own");
        }
    }

    /// Remembers a regular file that the kernel knows, if the request was about one.
    fn note_file(&self, request: &Request<'_>, payload: &[u8]) {
        let file = match request.opcode() {
            Some(Opcode::Open) => request.nodeid(),
            Some(Opcode::Lookup | Opcode::Create | Opcode::Mknod) => {
                let Some(file) = reply::regular_file(payload) else { return };
                file
            }
            _ => return,
        };
        let place = self.next_file.fetch_add(1, Ordering::Relaxed) % FILES;
        self.files[place].store(file, Ordering::Relaxed);
    }

    /// The end, of itself or because of a failure.
    fn end(&self, failure: Option<Errno>) {
        if let Some(errno) = failure {
            lock(&self.failure).get_or_insert(errno);
        }
        self.ended.store(true, Ordering::SeqCst);
        self.wake_porter();
    }

    /// Reads what does not come through the rings.
    fn read_the_rest(&self) {
        let state = self.server.fs.state();
        let Some(record) = state.in_flight.take() else { return self.end(Some(Errno::AGAIN)) };
        record.enter();
        let (mut buffer, mut payload) = (vec![0; BUFFER], Payload::default());
        let counters = self.server.counters.of_new_worker();
        loop {
            match self.server.device.read(&mut buffer) {
                Ok(Read::Request(length)) => {
                    let came = Instant::now();
                    counters.begin();
                    let served = self.server.serve(&record, &buffer[..length], &mut payload);
                    counters.end(served, came.elapsed());
                }
                Ok(Read::Ended) => return self.end(None),
                Err(errno) => {
                    tracing::error!(%errno, "cannot read from /dev/fuse");
                    return self.end(Some(errno));
                }
            }
        }
    }

    /// A thread's life.
    fn serve_queue(&self, queue: u16, ring: Ring, start: Start) {
        let (payload, counters) = (Payload::default(), self.server.counters.of_new_worker());
        let mut desk = Desk { ring, place: Place::on(queue), payload, counters };
        if let Err(errno) = self.serve_from(&mut desk, start) {
            if !self.ended.load(Ordering::SeqCst) {
                tracing::error!(queue, %errno, "a thread cannot go on with its queue");
            }
            self.end(Some(errno));
        }
        // The sandbox lets nobody close it.
        std::mem::forget(desk.ring);
    }

    fn serve_from(&self, desk: &mut Desk, start: Start) -> Result<(), Errno> {
        desk.place.take();
        desk.ring.enable()?;
        match start {
            Start::With(entry) => self.serve(desk, entry)?,
            Start::Fresh => {
                desk.ring.register(entry_of(desk.place.cpu)?)?;
                desk.ring.submit()?;
                self.ask_for_nothing();
            }
        }
        loop {
            desk.ring.wait()?;
            while let Some((entry, result)) = desk.ring.take() {
                let Some(entry) = self.still_there(entry, result)? else { return Ok(()) };
                desk.place.take();
                self.serve(desk, entry)?;
            }
        }
    }

    /// Serves a request, and then what was put aside; the kernel gets the last answer with the next
    /// wait.
    fn serve(&self, desk: &mut Desk, entry: Entry) -> Result<(), Errno> {
        let queue = &self.each[usize::from(desk.place.cpu)];
        queue.busy.fetch_add(1, Ordering::SeqCst);
        queue.begun.fetch_add(1, Ordering::SeqCst);
        if self.porter_sleeps.load(Ordering::SeqCst) {
            self.wake_porter();
        }
        let (mut entry, mut id) = self.serve_one(desk, entry);
        while let Some(next) = self.take_aside() {
            // Two entries of one thread would be stuck together.
            lock(&self.handed).push((entry, id));
            self.wake_porter();
            (entry, id) = self.serve_one(desk, next);
        }
        queue.busy.fetch_sub(1, Ordering::SeqCst);
        desk.ring.commit(entry, id)
    }

    fn put_aside(&self, entry: Entry) {
        let mut aside = lock(&self.aside);
        aside.push_back(entry);
        self.aside_count.store(aside.len(), Ordering::SeqCst);
    }

    fn take_aside(&self) -> Option<Entry> {
        if self.aside_count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut aside = lock(&self.aside);
        let entry = aside.pop_front();
        self.aside_count.store(aside.len(), Ordering::SeqCst);
        entry
    }

    /// Serves a request; returns its entry, with the answer in it.
    fn serve_one(&self, desk: &mut Desk, mut entry: Entry) -> (Entry, u64) {
        let Desk { counters, payload, .. } = desk;
        payload.bytes.clear();
        let (id, answer) = match came(&mut entry) {
            Ok(Came { id, is_own: true, .. }) => (id, self.answer_nothing(id)),
            Ok(Came { id, message, .. }) => {
                let begun = Instant::now();
                counters.begin();
                let (answer, served) = self.answer(id, &entry.room[message], payload);
                counters.end(served, begun.elapsed());
                (id, answer)
            }
            Err(id) => {
                tracing::error!("a message that is no request");
                (id, Answer::refusal(id))
            }
        };
        answer.put_into(&mut entry, &payload.bytes);
        if payload.bytes.capacity() > KEPT_PAYLOAD {
            *payload = Payload::default();
        }
        (entry, id)
    }

    fn answer(&self, id: u64, message: &[u8], payload: &mut Payload) -> (Answer, Served) {
        let Some(request) = Request::parse(message) else {
            let served = Served { opcode: None, failed: true, trusted: [0; 3] };
            return (Answer::refusal(id), served);
        };
        let mut answer = Answer::default();
        let served = self.server.answer(&request, InFlight::NOWHERE, payload, &mut answer);
        if !served.failed {
            self.note_file(&request, &payload.bytes);
        }
        (answer, served)
    }

    fn answer_nothing(&self, id: u64) -> Answer {
        self.own_pending.fetch_sub(1, Ordering::SeqCst);
        Answer::nothing(id)
    }
}

/// What one thread works with.
struct Desk {
    ring: Ring,
    place: Place,
    payload: Payload,
    counters: Arc<Counters>,
}

/// A thread's CPU. It may be off, or forbidden to the server: then it runs elsewhere.
struct Place {
    cpu: u16,
    tried: Option<Instant>,
}

impl Place {
    fn on(cpu: u16) -> Self {
        Self { cpu, tried: None }
    }

    /// Moves the calling thread there, unless it is there.
    fn take(&mut self) {
        let cpu = usize::from(self.cpu);
        if sched_getcpu() == cpu && self.tried.is_some() {
            return;
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < MOVE_AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        let mut there = CpuSet::new();
        there.set(cpu);
        if let Err(errno) = sched_setaffinity(None, &there) {
            tracing::debug!(cpu, %errno, "a queue is served from another CPU");
        }
    }
}
