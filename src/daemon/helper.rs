//! A small process that stays outside of the server's sandbox, and does there what the server
//! cannot do inside: it unmounts, undoes the guard, writes to the system log, and looks callers up
//! in `/proc`.
//!
//! It is a copy of the server from before it was confined, and has one descriptor of it each for
//! questions and for the log. It hears nothing but the fixed messages of `Order`, so what could
//! happen to the server cannot spread to it: at worst the mount is unmounted. When the server ends,
//! however that comes, it ends too.
//!
//! What it does when it is told that the mount has ended would be wrong while that goes on. So it does
//! not believe that, but ends the connection first (`fusectl`).

mod fusectl;
mod order;
mod serving;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{Pid, WaitOptions};

use order::Order;
use serving::HelperProcess;

use super::log;
use crate::error::StartError;
use crate::lower::caller::Fact;
use crate::mount::config::MountConfig;
use crate::mount::guard::Guard;
use crate::sys::process::{self, Forked};

/// The server's side. Dropping it has the helper undo what was done outside, and waits for that and
/// for the helper's end. Nothing gets to the system log after that.
#[derive(Debug)]
pub struct Helper {
    line: Arc<Line>,
    process: Pid,
    log: RawFd,
}

/// What a program must be given that goes on after this one; descriptors that nothing owns stay
/// open as long as the process.
#[derive(Debug)]
pub(super) struct Handles<'k> {
    pub(super) process: Pid,
    pub(super) line: MutexGuard<'k, OwnedFd>,
    /// Where lines for the system log go.
    pub(super) log: RawFd,
}

/// What leads to a helper that another program has started.
pub(super) struct AdoptedHelper {
    pub(super) process: Pid,
    pub(super) line: OwnedFd,
    pub(super) log: OwnedFd,
}

/// What leads to the helper.
#[derive(Debug)]
pub struct Line(Mutex<OwnedFd>);

impl Helper {
    /// Starts the helper, which takes over the guard. This process must have one thread.
    ///
    /// `mount` is the server's own mount of the lower directory, where it has one.
    pub fn start(
        config: &MountConfig,
        guard: Option<Guard>,
        mount: Option<BorrowedFd<'_>>,
    ) -> Result<Self, StartError> {
        let failed = |what: &'static str| {
            move |errno: Errno| StartError::System { what: what.into(), source: errno.into() }
        };
        let pair = |kind, flags| socketpair(AddressFamily::UNIX, kind, flags, None);
        let closing = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            pair(SocketType::STREAM, closing).map_err(failed("cannot make a socket"))?;
        // A full log must not hold the server up: then lines are lost.
        let (to_log, from_server) = pair(SocketType::SEQPACKET, closing | SocketFlags::NONBLOCK)
            .map_err(failed("cannot make a socket"))?;
        let server = rustix::process::getpid();
        match process::fork().map_err(failed("cannot start the process that unmounts"))? {
            Forked::Child => {
                // It must hear of the server's end.
                drop((ours, to_log));
                let lower = mount.and_then(|mount| rustix::io::fcntl_dupfd_cloexec(mount, 0).ok());
                HelperProcess::new(config, guard, lower, server, (theirs, from_server)).attend()
            }
            Forked::Parent(process) => {
                // Undoing it is the helper's part, and so is its lock, which a server that was taken
                // over could let go of.
                guard.into_iter().for_each(Guard::leave);
                Ok(Self::new(ours, process, to_log))
            }
        }
    }

    /// The helper that another program has started, whose place this one has taken.
    pub(super) fn adopt(kept: AdoptedHelper) -> Self {
        let AdoptedHelper { process, line, log } = kept;
        Self::new(line, process, log)
    }

    fn new(line: OwnedFd, process: Pid, to_log: OwnedFd) -> Self {
        let log = to_log.as_raw_fd();
        log::send_through(to_log);
        Self { line: Arc::new(Line(Mutex::new(line))), process, log }
    }

    pub(super) fn handles(&self) -> Handles<'_> {
        Handles { process: self.process, line: self.line.lock(), log: self.log }
    }

    /// For threads that ask the helper.
    pub fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.line.finish();
        let line = self.line.lock();
        // Others hold the line too, so its end has to be said. Waited for, so that no zombie is left
        // where the first process of a container waits for none.
        let ended = shutdown(&*line, Shutdown::Both).and_then(|()| {
            rustix::process::waitpid(Some(self.process), WaitOptions::empty()).map(drop)
        });
        if let Err(errno) = ended {
            tracing::debug!(%errno, "nobody to wait for");
        }
    }
}

impl Line {
    /// Has undone what was done outside, and waits for that.
    pub fn finish(&self) {
        let line = self.lock();
        let finished = send(&line, Order::Finish).and_then(|()| read_exact(&line, &mut [0]));
        if let Err(errno) = finished {
            tracing::warn!(
                "the process that works outside of the sandbox has gone ({errno}): if there is a \
                 guard, 'idshift unguard' undoes it"
            );
        }
    }

    /// Has the mount taken away, if the mount point still shows it.
    pub fn unmount(&self) {
        if let Err(errno) = send(&self.lock(), Order::Unmount) {
            tracing::error!(
                "cannot unmount, because the process that would do it has gone ({errno}); 'idshift \
                 umount' does it"
            );
        }
    }

    /// Has the access times of the server's own mount kept as a remount asks.
    pub fn times(&self, bits: u64) -> Result<(), Errno> {
        let line = self.lock();
        let mut answer = [0; 4];
        send(&line, Order::Times(bits))?;
        read_exact(&line, &mut answer)?;
        match i32::from_ne_bytes(answer) {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }

    /// Says which mount it is all about, by the kernel's number for it, and waits until the helper
    /// knows: once, before any caller can have had the server say something else.
    pub fn mounted(&self, mount: u64) -> Result<(), Errno> {
        let line = self.lock();
        send(&line, Order::Mounted(mount))?;
        read_exact(&line, &mut [0])
    }

    /// Has the connection ended if the server, which is the process that has started the helper, is
    /// killed. The kernel does that by itself, but for one case: a notification that waits for a
    /// lock, whose holder waits for the server's answer, keeps the connection open.
    pub fn notifies(&self) -> Result<(), Errno> {
        send(&self.lock(), Order::Notifies)
    }

    /// Passes over what the helper has answered to a server that was killed before it read that.
    pub fn resume(&self) -> Result<(), Errno> {
        let line = self.lock();
        // A number that no answer holds by chance.
        let own = u64::from(std::process::id());
        let number = own.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63;
        send(&line, Order::Echo(number))?;
        let mut last = [0; 8];
        while u64::from_ne_bytes(last) != number {
            let mut byte = [0];
            read_exact(&line, &mut byte)?;
            last.rotate_left(1);
            last[7] = byte[0];
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` where nothing is known of the caller, and when the helper has gone.
    pub fn fact(&self, tid: u32, fact: Fact) -> Option<String> {
        let line = self.lock();
        send(&line, Order::Fact(fact, tid)).ok()?;
        let mut length = [0; 4];
        read_exact(&line, &mut length).ok()?;
        let length = u32::from_ne_bytes(length);
        if length == NOTHING {
            return None;
        }
        let mut text = vec![0; usize::try_from(length).ok()?];
        read_exact(&line, &mut text).ok()?;
        String::from_utf8(text).ok()
    }
}

/// In place of a length: there is nothing to say.
const NOTHING: u32 = u32::MAX;

fn send(line: &OwnedFd, order: Order) -> Result<(), Errno> {
    write_all(line, &order.encode())
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// `PIPE` at the end.
fn read_exact(from: &OwnedFd, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::read(from, &mut buffer[done..]) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
