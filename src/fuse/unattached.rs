//! Answering requests while the mount is being attached, when nobody but this program can look at it.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::device::{Read, bytes};
use super::reply::{self, Payload};
use super::request::Request;
use super::root::{NAME, SHOWN_ID};
use super::server::Server;
use super::wire::Opcode;
use crate::fs::{LONG, Valid};
use crate::lower::table::ROOT_ID;
use crate::state::BUFFER;
use crate::state::in_flight::InFlight;

/// Answers requests while another thread does `work` with a mount that nobody else can see;
/// returns what that comes to. [`root::NAME`](super::root::NAME) in the root directory is the root directory.
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
    let Some(request) = Request::parse(message) else { return };
    if !looks_for_root(&request) {
        // No other server would go on with it.
        server.answer(&request, InFlight::NOWHERE, payload);
        return;
    }
    let valid = Valid { name: LONG, attr: Duration::ZERO };
    let sent = match server.fs.root_attr() {
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

fn looks_for_root(request: &Request<'_>) -> bool {
    request.opcode() == Some(Opcode::Lookup)
        && request.nodeid() == ROOT_ID
        && request.clone().take_str().is_ok_and(|name| name == OsStr::new(NAME))
}
