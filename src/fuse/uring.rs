//! Requests through io_uring instead of reading /dev/fuse (`transport=`, Linux 6.14).
//!
//! The kernel has a queue for each CPU. A request is put into the queue of the CPU that its caller runs
//! on, and is given to a thread on that same CPU: nothing has to wake another one, and one system call
//! sends an answer and waits for the next request. What nobody waits for, and what interrupts, still
//! comes through /dev/fuse; notifications are written there.
//!
//! - The kernel puts a request into an *entry*, memory that was given to it for a queue. A thread holds
//!   one entry at a time, so what comes next for a thread that is stuck is nobody's.
//! - The *porter* holds one entry of each queue at the beginning, and gives it to a new thread when the
//!   first request comes in it. CPUs on which nobody uses the mount have no thread.
//! - When all threads of a queue are stuck, it gets another one, up to the number of rings: these are
//!   made before the sandbox is entered, since no ring can be made inside ([`Rings`]).
//! - What finds no thread is put aside; whichever is free next takes it ([`queues`]).

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::io::Errno;

use super::negotiate::MAX_WRITE;
use super::reply::Payload;
use crate::sys::uring::{Entry, Ring, Room, Waits};
pub(super) use payload::Answer;
pub(super) use queues::run;

mod payload;
mod queues;

/// More queues than this are not served: each has an entry, and may get a thread.
const MOST_QUEUES: u16 = 256;
/// How many threads there can be beside one for each queue.
const SPARE: usize = 32;
/// Submissions at a time; a thread makes one, the porter one for each queue.
const OF_A_THREAD: u32 = 2;
const OF_THE_PORTER: u32 = 64;

/// All rings of a mount. They are made while the server still may, and do nothing yet.
pub(super) struct Rings {
    porters: Ring,
    threads: Vec<Ring>,
    queues: u16,
}

impl Rings {
    /// Makes them for this connection. Where that fails, it says why.
    pub(super) fn make(device: BorrowedFd<'_>) -> Result<Self, String> {
        let queues = possible_cpus()?;
        let ring = |entries, waits| {
            Ring::new(device, entries, waits).map_err(|errno| match errno {
                Errno::PERM => "io_uring is forbidden here (sysctl kernel.io_uring_disabled, or \
                                the filter of a container)"
                    .to_owned(),
                other => format!("io_uring: {other}"),
            })
        };
        let porters = ring(OF_THE_PORTER, Waits::ForOthersToo)?;
        let threads = usize::from(queues) + SPARE;
        let threads =
            (0..threads).map(|_| ring(OF_A_THREAD, Waits::ForIt)).collect::<Result<_, _>>()?;
        Ok(Self { porters, threads, queues })
    }

    /// Gives the kernel an entry of each queue, after which all requests come here. For the thread that
    /// will be the porter.
    pub(super) fn begin(mut self) -> Result<Porter, Errno> {
        self.porters.enable()?;
        for queue in 0..self.queues {
            self.porters.register(entry_of(queue)?)?;
        }
        self.porters.submit()?;
        // What is refused comes back at once.
        match self.porters.take() {
            Some((_, Err(errno))) => return Err(errno),
            Some((_, Ok(()))) => return Err(Errno::PROTO),
            None => {}
        }
        Ok(Porter { ring: self.porters, threads: self.threads, queues: self.queues })
    }
}

/// What holds the first entry of each queue.
pub(super) struct Porter {
    ring: Ring,
    threads: Vec<Ring>,
    queues: u16,
}

impl Porter {
    /// By which numbers system calls know the rings.
    pub(super) fn numbers(&self) -> Vec<RawFd> {
        [&self.ring].into_iter().chain(&self.threads).map(Ring::number).collect()
    }

    /// Answers what has come, with what `serve` makes of each message. `Err(NODEV)` when the
    /// connection has ended.
    pub(super) fn answer(
        &mut self,
        mut serve: impl FnMut(&[u8], &mut Payload, &mut Answer),
        payload: &mut Payload,
    ) -> Result<(), Errno> {
        self.ring.submit()?;
        while let Some((mut entry, result)) = self.ring.take() {
            result.map_err(|_| Errno::NODEV)?;
            let came = payload::came(&mut entry).map_err(|_| Errno::PROTO)?;
            let mut answer = Answer::default();
            serve(&entry.room[came.message], payload, &mut answer);
            answer.put_into(&mut entry, &payload.bytes);
            self.ring.commit(entry, came.id)?;
        }
        self.ring.submit()
    }
}

impl AsFd for Porter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// A new entry of a queue.
fn entry_of(queue: u16) -> Result<Entry, Errno> {
    Ok(Entry { queue, room: Room::new(MAX_WRITE as usize)? })
}

/// How many CPUs there can ever be: so many queues the kernel wants.
fn possible_cpus() -> Result<u16, String> {
    let path = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(path).map_err(|error| format!("'{path}': {error}"))?;
    let queues = count_of(text.trim()).ok_or_else(|| format!("'{path}' says '{}'", text.trim()))?;
    if queues > MOST_QUEUES {
        return Err(format!("{queues} possible CPUs are more than {MOST_QUEUES}"));
    }
    Ok(queues)
}

/// The length of a list like `0-7`, which has to begin at 0 and have no gaps: then the numbers of CPUs are
/// those of queues.
fn count_of(numbers: &str) -> Option<u16> {
    let last = match numbers.split_once('-') {
        Some(("0", last)) => last.parse::<u16>().ok()?,
        None if numbers == "0" => 0,
        _ => return None,
    };
    last.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted() {
        assert_eq!(count_of("0-7"), Some(8));
        assert_eq!(count_of("0"), Some(1));
        for bad in ["", "1-7", "0-3,5-7", "0-", "0-65535"] {
            assert_eq!(count_of(bad), None, "{bad}");
        }
    }
}
