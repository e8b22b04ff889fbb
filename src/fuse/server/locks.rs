//! Requests about locks, where they are held on the lower files.
//!
//! A caller that waits for a lock must not occupy a worker: the one that would release the lock
//! might find none. So waiting attempts go to one thread of their own, which tries them in turn.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustix::io::Errno;

use super::{Done, Outcome, Server, done};
use crate::error::FsError;
use crate::fs::LockRequest;
use crate::fuse::device::Device;
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::wire;
use crate::lower::locks::Attempt;
use crate::sys::lock::{Hold, RangeLock};

/// How often the thread tries again.
const RETRY: Duration = Duration::from_millis(2);
/// How many interrupts are remembered that came before what they interrupt. The kernel never uses
/// a request's number again, so one that stays too long does no harm.
const MAX_EARLY: usize = 64;

/// Callers that wait for locks.
pub(in crate::fuse) struct LockWaiters {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
}

enum Message {
    Wait {
        unique: u64,
        attempt: Attempt,
    },
    /// The caller got a signal.
    Interrupt {
        unique: u64,
    },
}

impl LockWaiters {
    /// Nobody waits yet.
    pub(in crate::fuse) fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self { sender, receiver }
    }

    /// Starts the thread.
    pub(in crate::fuse) fn start(&self, device: Device) -> Result<(), Errno> {
        let receiver = self.receiver.clone();
        std::thread::Builder::new()
            .name("locks".into())
            .spawn(move || wait_for_locks(&device, &receiver))
            .map(drop)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
    }

    fn send(&self, message: Message) -> Result<(), FsError> {
        self.sender.send(message).map_err(|_| FsError::Refused(Errno::NOLCK))
    }
}

fn wait_for_locks(device: &Device, messages: &Receiver<Message>) {
    let mut waiting: Vec<(u64, Attempt)> = Vec::new();
    // Interrupts of requests that another worker has not handed over yet.
    let mut early: VecDeque<u64> = VecDeque::new();
    loop {
        let message = if waiting.is_empty() {
            messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            messages.recv_timeout(RETRY)
        };
        match message {
            Ok(Message::Wait { unique, .. }) if early.contains(&unique) => {
                answer(device, unique, Err(Errno::INTR));
            }
            Ok(Message::Wait { unique, attempt }) => waiting.push((unique, attempt)),
            Ok(Message::Interrupt { unique }) => {
                let found = waiting.iter().position(|&(waiter, _)| waiter == unique);
                if let Some(found) = found {
                    waiting.swap_remove(found);
                    answer(device, unique, Err(Errno::INTR));
                } else {
                    early.truncate(MAX_EARLY - 1);
                    early.push_front(unique);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        waiting.retain(|(unique, attempt)| match attempt.try_now() {
            Err(FsError::Os { errno: Errno::AGAIN, .. }) => true,
            result => {
                answer(device, *unique, result.map_err(FsError::errno));
                false
            }
        });
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

impl Server {
    pub(super) fn getlk(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let lock = lock_request(request)?;
        let found = self.fs.getlk(&lock)?;
        let free = RangeLock { hold: Hold::Nothing, ..lock.range };
        let RangeLock { hold, start, end } = found.unwrap_or(free);
        // Whose lock it is cannot be known: fcntl(2) says -1 for such, which FUSE cannot carry.
        payload.push(&wire::LkOut { start, end, kind: hold.raw(), pid: 0 });
        done()
    }

    pub(super) fn setlk(&self, request: &mut Request<'_>, wait: bool) -> Done<'_> {
        let attempt = self.fs.setlk(&lock_request(request)?)?;
        match (attempt.try_now(), &self.lock_waiters) {
            (Err(FsError::Os { errno: Errno::AGAIN, .. }), Some(waiters)) if wait => {
                waiters.send(Message::Wait { unique: request.unique(), attempt })?;
                Ok(Outcome::Silent)
            }
            (result, _) => {
                result?;
                done()
            }
        }
    }

    /// Only callers that wait for a lock can be interrupted; all else is over soon.
    pub(super) fn interrupt(&self, request: &mut Request<'_>) -> Done<'_> {
        let wire::InterruptIn { unique } = request.take()?;
        let Some(waiters) = &self.lock_waiters else { return Err(super::NOT_OFFERED) };
        waiters.send(Message::Interrupt { unique })?;
        Ok(Outcome::Silent)
    }
}

fn lock_request(request: &mut Request<'_>) -> Result<LockRequest, FsError> {
    let args: wire::LkIn = request.take()?;
    let hold = Hold::from_raw(args.kind).ok_or(FsError::Refused(Errno::INVAL))?;
    Ok(LockRequest {
        nodeid: request.nodeid(),
        handle: args.fh,
        owner: args.owner,
        range: RangeLock { hold, start: args.start, end: args.end },
        whole_file: args.lk_flags & wire::LK_FLOCK != 0,
    })
}
