//! Callers that wait for locks on lower files.
//!
//! A caller that waits must not occupy a worker: the one that would release the lock might find
//! none. It waits in a thread that does nothing else, in the lower file system's own queue, and costs
//! nothing meanwhile. Such threads have a bound, one user's and that of all. Who comes on top waits
//! here for one of them. He gets his lock at once, too, if its release goes through this mount; for
//! the case that it does not, those who wait here try in turn, so many times a second however many
//! they are.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use rustix::io::Errno;

use crate::error::FsError;
use crate::fuse::device::Device;
use crate::lower::lock_owners::Attempt;
use crate::sys::wake::{self, Sleeper};

/// How many threads wait for one user, and for all.
const OF_ONE: usize = 16;
const OF_ALL: usize = 64;
/// Their stacks, on which nothing but a system call is made.
const STACK: usize = 128 * 1024;
/// After how long one who has no thread tries again, and how often one of them does at the most.
const RETRY: Duration = Duration::from_millis(100);
const TURN: Duration = Duration::from_millis(20);
/// How many of them try for a lock that has been released.
const TRIED: usize = 8;
/// How long a thread has to notice that it was interrupted, until it is told again.
const AGAIN: Duration = Duration::from_millis(1);
/// How many interrupts are remembered that came before what they interrupt. The kernel never uses
/// a request's number again, so one that stays too long does no harm.
const MAX_EARLY: usize = 1024;

/// Callers that wait for locks.
pub(in crate::fuse) struct LockWaiters {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    /// How many have no thread.
    queued: Arc<AtomicUsize>,
}

/// One of them.
pub(super) struct Waiter {
    /// The request.
    pub(super) unique: u64,
    /// The file.
    pub(super) nodeid: u64,
    /// Whose it is, if that can be found out.
    pub(super) user: Option<u32>,
    /// The lock.
    pub(super) attempt: Attempt,
}

enum Message {
    Wait(Waiter),
    /// The caller got a signal.
    Interrupt(u64),
    /// A lock on this file has been released.
    Released(u64),
    /// A thread has ended.
    Ended(u64),
}

impl LockWaiters {
    /// Nobody waits yet.
    pub(in crate::fuse) fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver, queued: Arc::default() }
    }

    /// Starts the thread that keeps the order.
    pub(in crate::fuse) fn start(&self, device: Device) -> Result<(), Errno> {
        wake::prepare()?;
        let keeper = Keeper {
            device,
            sender: self.sender.clone(),
            sleepers: HashMap::new(),
            queue: VecDeque::new(),
            queued: Arc::clone(&self.queued),
            turn: 0,
            no_thread: false,
            early: VecDeque::new(),
        };
        let receiver = self.receiver.clone();
        thread::Builder::new()
            .name("locks".into())
            .spawn(move || keeper.run(&receiver))
            .map(drop)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
    }

    /// From now on it waits, and is answered when it has the lock.
    pub(super) fn wait(&self, waiter: Waiter) -> Result<(), FsError> {
        self.send(Message::Wait(waiter))
    }

    /// The caller got a signal.
    pub(super) fn interrupt(&self, unique: u64) -> Result<(), FsError> {
        self.send(Message::Interrupt(unique))
    }

    /// A lock on this file has been released, or may have been.
    pub(in crate::fuse) fn released(&self, nodeid: u64) -> Result<(), FsError> {
        if self.queued.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        self.send(Message::Released(nodeid))
    }

    fn send(&self, message: Message) -> Result<(), FsError> {
        self.sender.send(message).map_err(|_| FsError::Refused(Errno::NOLCK))
    }
}

/// A thread that waits for a lock.
struct Asleep {
    user: Option<u32>,
    call: Arc<Call>,
}

/// What it waits in.
#[derive(Default)]
struct Call {
    thread: OnceLock<Sleeper>,
    interrupted: AtomicBool,
}

struct Keeper {
    device: Device,
    sender: Sender<Message>,
    sleepers: HashMap<u64, Asleep>,
    /// Those without a thread, the longest first.
    queue: VecDeque<Waiter>,
    queued: Arc<AtomicUsize>,
    /// Who of them tries next.
    turn: usize,
    /// No thread could be started.
    no_thread: bool,
    /// Interrupts of requests that another worker has not handed over yet.
    early: VecDeque<u64>,
}

impl Keeper {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut next = Instant::now();
        loop {
            let pause = self.pause();
            let message = match pause {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => {
                    next = next.min(Instant::now() + pause);
                    messages.recv_deadline(next)
                }
            };
            match message {
                Ok(Message::Wait(waiter)) => self.take_in(waiter),
                Ok(Message::Interrupt(unique)) => self.interrupt(unique),
                Ok(Message::Released(nodeid)) => self.released(nodeid),
                Ok(Message::Ended(unique)) => {
                    self.sleepers.remove(&unique);
                    self.hand_out_threads();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if pause.is_some() && Instant::now() >= next {
                self.wake_interrupted();
                self.try_one_more();
                if std::mem::take(&mut self.no_thread) {
                    self.hand_out_threads();
                }
                next = Instant::now() + self.pause().unwrap_or(RETRY);
            }
            self.queued.store(self.queue.len(), Ordering::SeqCst);
        }
    }

    /// How long it may sleep if nothing happens; for ever if nobody needs it.
    fn pause(&self) -> Option<Duration> {
        if self.sleepers.values().any(|asleep| asleep.call.is_interrupted()) {
            return Some(AGAIN);
        }
        let count = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        RETRY.checked_div(count).map(|pause| pause.max(TURN))
    }

    fn take_in(&mut self, waiter: Waiter) {
        if let Some(at) = self.early.iter().position(|&unique| unique == waiter.unique) {
            self.early.remove(at);
            return answer(&self.device, waiter.unique, Err(Errno::INTR));
        }
        self.queue.push_back(waiter);
        // Whoever releases the lock after this tells of it; whoever has before has told nobody.
        self.queued.store(self.queue.len(), Ordering::SeqCst);
        let last = self.queue.len() - 1;
        if !self.try_now(last) {
            self.hand_out_thread(last);
        }
    }

    fn interrupt(&mut self, unique: u64) {
        if let Some(asleep) = self.sleepers.get(&unique) {
            asleep.call.interrupt();
        } else if let Some(at) = self.queue.iter().position(|waiter| waiter.unique == unique) {
            self.queue.remove(at);
            answer(&self.device, unique, Err(Errno::INTR));
        } else {
            self.early.truncate(MAX_EARLY - 1);
            self.early.push_front(unique);
        }
    }

    fn wake_interrupted(&mut self) {
        let interrupted = |asleep: &&Asleep| asleep.call.is_interrupted();
        self.sleepers.values().filter(interrupted).for_each(|asleep| asleep.call.interrupt());
    }

    fn released(&mut self, nodeid: u64) {
        let (mut at, mut tried) = (0, 0);
        while tried < TRIED && at < self.queue.len() {
            if self.queue.get(at).is_none_or(|waiter| waiter.nodeid != nodeid) {
                at += 1;
                continue;
            }
            tried += 1;
            if !self.try_now(at) {
                at += 1;
            }
        }
    }

    fn try_one_more(&mut self) {
        if self.turn >= self.queue.len() {
            self.turn = 0;
        }
        if !self.queue.is_empty() && !self.try_now(self.turn) {
            self.turn += 1;
        }
    }

    /// Tries for one without a thread; returns whether he waits no more.
    fn try_now(&mut self, at: usize) -> bool {
        let Some(waiter) = self.queue.get(at) else { return false };
        match waiter.attempt.try_now() {
            Err(FsError::Os { errno: Errno::AGAIN, .. }) => false,
            result => {
                answer(&self.device, waiter.unique, result.map_err(FsError::errno));
                self.queue.remove(at);
                true
            }
        }
    }

    /// Gives a thread to everybody who may have one, the longest waiting first.
    fn hand_out_threads(&mut self) {
        let (mut at, mut refused) = (0, None);
        while self.sleepers.len() < OF_ALL && !self.no_thread {
            let Some(user) = self.queue.get(at).map(|waiter| waiter.user) else { return };
            if refused == Some(user) || !self.hand_out_thread(at) {
                refused = Some(user);
                at += 1;
            }
        }
    }

    /// Gives a thread to one who waits, if he may have one; returns whether he has.
    fn hand_out_thread(&mut self, at: usize) -> bool {
        let Some(user) = self.queue.get(at).map(|waiter| waiter.user) else { return false };
        let has = self.sleepers.values().filter(|asleep| asleep.user == user).count();
        if has >= OF_ONE || self.sleepers.len() >= OF_ALL {
            return false;
        }
        // Taken out when there is a thread to take him: without one he goes on trying in turn.
        let (give, given) = bounded::<Waiter>(1);
        let call = Arc::new(Call::default());
        let (device, sender, slept) = (self.device.clone(), self.sender.clone(), Arc::clone(&call));
        let run = move || {
            let Ok(Waiter { unique, attempt, .. }) = given.recv() else { return };
            answer(&device, unique, slept.sleep(&attempt));
            drop(attempt);
            if sender.send(Message::Ended(unique)).is_err() {
                tracing::debug!("nobody waits for locks any more");
            }
        };
        let started = thread::Builder::new().name("lock".into()).stack_size(STACK).spawn(run);
        let Some(waiter) = started.ok().and_then(|_| self.queue.remove(at)) else {
            self.no_thread = true;
            return false;
        };
        self.sleepers.insert(waiter.unique, Asleep { user, call });
        give.send(waiter).is_ok()
    }
}

impl Call {
    /// Waits for the lock, or to be interrupted.
    fn sleep(&self, attempt: &Attempt) -> Result<(), Errno> {
        self.thread.get_or_init(Sleeper::this);
        loop {
            if self.is_interrupted() {
                return Err(Errno::INTR);
            }
            match attempt.wait().map_err(FsError::errno) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// To be repeated until the thread has ended: it may be just about to wait.
    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        if let Some(Err(errno)) = self.thread.get().map(|thread| thread.wake()) {
            tracing::debug!(%errno, "a thread that waits for a lock has just ended");
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

fn answer(device: &Device, unique: u64, result: Result<(), Errno>) {
    let sent = match result {
        Ok(()) => device.reply(unique, &[]),
        Err(errno) => device.reply_error(unique, errno),
    };
    if let Err(errno) = sent {
        tracing::debug!(%errno, "nobody waits for the lock any more");
    }
}
