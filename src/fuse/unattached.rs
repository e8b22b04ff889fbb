//! Answering requests while the mount is being attached, when nobody but this program can look at it.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::device::Read;
use super::reply::{self, Payload, Sink};
use super::request::Request;
use super::root::{NAME, SHOWN_ID};
use super::server::Server;
use super::uring::{Answer, Porter};
use super::wire::Opcode;
use crate::fs::{LONG, Valid};
use crate::lower::table::ROOT_ID;
use crate::state::BUFFER;
use crate::state::in_flight::InFlight;

/// Answers requests while another thread does `work` with a mount that nobody else can see;
/// returns what that comes to. [`root::NAME`](super::root::NAME) in the root directory is the root directory.
pub(super) fn answer_during<T: Send>(
    server: &Server,
    mut porter: Option<&mut Porter>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Errno> {
    let done = eventfd(0, EventfdFlags::CLOEXEC)?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let outcome = work();
            rustix::io::write(&done, &1_u64.to_ne_bytes()).map(|_| outcome)
        });
        let (mut buffer, mut payload) = (vec![0; BUFFER], Payload::default());
        loop {
            let ring = porter.as_ref().map_or(done.as_fd(), |porter| porter.as_fd());
            let mut fds = [done.as_fd(), server.device.as_fd(), ring]
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let [is_done, is_read, has_come] = fds.map(|fd| !fd.revents().is_empty());
            if is_done {
                break;
            }
            if let Some(porter) = porter.as_mut().filter(|_| has_come) {
                let serve = |message: &[u8], payload: &mut Payload, sink: &mut Answer| {
                    answer(server, message, payload, sink);
                };
                match porter.answer(serve, &mut payload) {
                    Err(Errno::NODEV) => break,
                    other => other?,
                }
            }
            if is_read {
                match server.device.read(&mut buffer)? {
                    Read::Request(length) => {
                        answer(server, &buffer[..length], &mut payload, &mut &server.device);
                    }
                    Read::Ended => break,
                }
            }
        }
        worker.join().map_err(|_| Errno::IO)?
    })
}

fn answer(server: &Server, message: &[u8], payload: &mut Payload, sink: &mut impl Sink) {
    let Some(request) = Request::parse(message) else { return };
    if !looks_for_root(&request) {
        // No other server would go on with it.
        server.answer(&request, InFlight::NOWHERE, payload, sink);
        return;
    }
    let valid = Valid { name: LONG, attr: Duration::ZERO };
    payload.bytes.clear();
    let sent = match server.fs.root_attr() {
        Ok(attr) => {
            payload.push(&reply::entry_out(SHOWN_ID, &attr, valid));
            sink.answer(request.unique(), None, &payload.bytes)
        }
        Err(error) => sink.answer(request.unique(), Some(error.errno()), &[]),
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
