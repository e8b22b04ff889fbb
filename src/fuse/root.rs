//! The root directory's two nodeids.
//!
//! The kernel makes the inode with `FUSE_ROOT_ID` before the handshake, when it does not know yet
//! that this server has ACLs, and so marks it as one whose ACLs are never remembered
//! (`fuse_init_inode`). Since Linux 6.6.148, 6.12.101, 6.18.42 and 7.1.6 that mark stays: whoever is
//! not the owner of the root directory would cost a `GETXATTR` with each path that he walks. So the
//! root directory is shown a second time, as a child named [`NAME`] of that inode and with a nodeid
//! of its own, and this child is what is mounted (`mount/detached.rs`). The server itself knows one
//! root, [`ROOT_ID`]: the other number lives in this file and in those that it is called from.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::device::{Read, bytes};
use super::reply::{self, Payload};
use super::request::Request;
use super::server::Server;
use super::trust::Valid;
use super::wire::Opcode;
use crate::lower::table::ROOT_ID;
use crate::lower::watch::LONG;
use crate::state::BUFFER;

/// The name under which the root directory is found once more while nobody but the server can look
/// at the mount. It appears in `/proc/self/mountinfo`, as the part of the file system that is
/// mounted.
pub const NAME: &str = "lower";

/// The nodeid of that child. No inode of the table has it.
const SHOWN_ID: u64 = u64::MAX;

/// The nodeid by which the server knows what the kernel calls `nodeid`.
pub(super) fn known(nodeid: u64) -> u64 {
    if nodeid == SHOWN_ID { ROOT_ID } else { nodeid }
}

/// Tells the kernel something about `nodeid`, under the number by which it knows that inode.
pub(super) fn tell(nodeid: u64, tell: impl Fn(u64) -> Result<(), Errno>) -> Result<(), Errno> {
    if nodeid != ROOT_ID {
        return tell(nodeid);
    }
    match tell(SHOWN_ID) {
        Err(Errno::NOENT) => tell(ROOT_ID),
        told => told,
    }
}

/// Answers requests while another thread does `work` with a mount that nobody else can see;
/// returns what that comes to. [`NAME`] in the root directory is the root directory.
pub(super) fn answer_during<T: Send>(
    server: &Server,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Errno> {
    let done = eventfd(0, EventfdFlags::CLOEXEC)?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let outcome = work();
            rustix::io::write(&done, &1_u64.to_ne_bytes()).map(|_| outcome)
        });
        let (mut buffer, mut payload) = (vec![0; BUFFER], Payload::default());
        let is_done = || {
            let mut fds = [done.as_fd(), server.device.as_fd()]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            poll(&mut fds, None).map(|_| !fds[0].revents().is_empty())
        };
        while !is_done()? {
            match server.device.read(&mut buffer)? {
                Read::Request(length) => answer(server, &buffer[..length], &mut payload),
                Read::Ended => break,
            }
        }
        worker.join().map_err(|_| Errno::IO)?
    })
}

fn answer(server: &Server, message: &[u8], payload: &mut Payload) {
    if !looks_for_root(message) {
        server.serve(message, payload);
        return;
    }
    let Some(request) = Request::parse(message) else { return };
    let valid = Valid { name: LONG, attr: std::time::Duration::ZERO };
    let sent = match server.fs.getattr(ROOT_ID, None) {
        Ok(attr) => {
            let entry = reply::entry_out(SHOWN_ID, &attr, valid);
            server.device.reply(request.unique(), &[bytes(&entry)])
        }
        Err(error) => server.device.reply_error(request.unique(), error.errno()),
    };
    if let Err(errno) = sent {
        tracing::debug!(%errno, "cannot show the root directory");
    }
}

fn looks_for_root(message: &[u8]) -> bool {
    let Some(mut request) = Request::parse(message) else { return false };
    request.opcode() == Some(Opcode::Lookup)
        && request.nodeid() == ROOT_ID
        && request.take_str().is_ok_and(|name| name == OsStr::new(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_by_the_number_that_it_knows() {
        use std::cell::RefCell;
        let told = RefCell::new(Vec::new());
        let tell_knowing = |nodeid, known: &[u64]| {
            told.borrow_mut().clear();
            tell(nodeid, |id| {
                told.borrow_mut().push(id);
                if known.contains(&id) { Ok(()) } else { Err(Errno::NOENT) }
            })
        };
        assert_eq!(tell_knowing(ROOT_ID, &[ROOT_ID, SHOWN_ID]), Ok(()));
        assert_eq!(*told.borrow(), [SHOWN_ID]);
        assert_eq!(tell_knowing(ROOT_ID, &[ROOT_ID]), Ok(()), "it is mounted as it is");
        assert_eq!(tell_knowing(7, &[ROOT_ID, SHOWN_ID]), Err(Errno::NOENT));
        assert_eq!(*told.borrow(), [7]);
        assert_eq!((known(SHOWN_ID), known(7)), (ROOT_ID, 7));
    }
}
