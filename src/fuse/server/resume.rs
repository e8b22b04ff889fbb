//! Going on where a server that was killed had come to.
//!
//! The kernel sends the requests again that it has no answer to. What may have been done already is for
//! [`crate::fs`] to find out; here they are told apart from new ones, and each is served in the record of
//! the thread that had begun it.

use std::collections::HashSet;
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::Server;
use crate::error::FsError;
use crate::fs::Call;
use crate::fuse::device::Read;
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::wire::{Opcode, UNIQUE_RESEND};
use crate::state::in_flight::Record;

/// A request that has ended so many servers ends with an error instead.
const MOST_TRIES: u64 = 3;

/// What is left of a connection after the requests of a killed server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) enum Resumed {
    /// New requests.
    Serving,
    /// Nothing: it has ended.
    Ended,
}

impl Server {
    /// Takes over what is open, in a process in which nothing has been served yet. `base` are the
    /// descriptors that were open before the first server began.
    pub(in crate::fuse) fn adopt(&mut self, base: &HashSet<RawFd>) -> Result<(), Errno> {
        let adopted = self.fs.adopt(base)?;
        self.backings.adopt(adopted.backed, |nodeid| self.fs.knows(nodeid));
        Ok(())
    }

    /// Finishes what the threads of the killed server were about, alone. Returns when only new
    /// requests are left.
    pub(in crate::fuse) fn resume(&self) -> Result<Resumed, Errno> {
        let records: Vec<Record> =
            self.fs.state().in_flight.all().filter(Record::was_used).collect();
        let mut payload = Payload::default();
        for record in &records {
            self.finish_message(record, &mut payload)?;
        }
        let resumed = match self.device.resend() {
            Ok(()) => self.serve_resent(&records, &mut payload),
            Err(Errno::NODEV | Errno::CONNABORTED) => Ok(Resumed::Ended),
            Err(errno) => {
                tracing::warn!(%errno, "this kernel sends no request again: those begun end with EIO");
                for unique in records.iter().map(Record::unique).filter(|&unique| unique != 0) {
                    // Some have been answered, some want no answer.
                    self.device.reply_error(unique, Errno::IO).ok();
                }
                Ok(Resumed::Serving)
            }
        };
        records.iter().for_each(Record::end);
        resumed
    }

    /// Forgets what a thread had read that it was to forget: the kernel says that only once. On
    /// kernels that send nothing again, what it had read and not begun is refused.
    fn finish_message(&self, record: &Record, payload: &mut Payload) -> Result<(), Errno> {
        let mut buffer = self.fs.state().buffer(record.number())?;
        record.enter();
        if let Some(mut request) = Request::parse(&buffer).filter(|request| request.unique() != 0) {
            match request.opcode() {
                Some(Opcode::Forget | Opcode::BatchForget) => {
                    payload.bytes.clear();
                    let call = Call::new(request.caller(), record.in_flight());
                    self.dispatch(&call, &mut request, payload).map_err(FsError::errno)?;
                }
                _ if record.unique() == 0 => record.begin(request.unique()),
                _ => {}
            }
        }
        record.await_message(&mut buffer);
        Ok(())
    }

    /// Serves requests, as long as they are ones that the kernel has sent again.
    fn serve_resent(&self, records: &[Record], payload: &mut Payload) -> Result<Resumed, Errno> {
        let state = self.fs.state();
        // One that no worker has: what it holds is left as it is until its request is answered.
        let Some(spare) = state.in_flight.all().last() else { return Ok(Resumed::Serving) };
        let mut buffer = state.buffer(spare.number())?;
        while self.device.has_request()? {
            spare.enter();
            spare.await_message(&mut buffer);
            let length = match self.device.read(&mut buffer)? {
                Read::Request(length) => length,
                Read::Ended => return Ok(Resumed::Ended),
            };
            let message = &buffer[..length];
            let Some(request) = Request::parse(message) else { continue };
            let unique = request.unique();
            let same = |record: &&Record| record.unique() | UNIQUE_RESEND == unique;
            match records.iter().find(same) {
                Some(record) => self.replay(record, &request, payload),
                None if is_about_others(&request) => {
                    // In the record of the buffer, which says how far it has come.
                    self.answer(&request, spare.in_flight(), payload, &mut &self.device);
                    continue;
                }
                None => {
                    // In one that holds nothing which is still to come.
                    let free = state.in_flight.all().find(|record| record.unique() == 0);
                    let record = free.as_ref().unwrap_or(&spare);
                    record.enter();
                    self.serve(record, message, payload);
                }
            }
            if unique & UNIQUE_RESEND == 0 {
                break; // the others come first
            }
        }
        Ok(Resumed::Serving)
    }

    /// Serves a request that a thread of the killed server had begun, in that thread's record.
    pub(in crate::fuse) fn replay(
        &self,
        record: &Record,
        request: &Request<'_>,
        payload: &mut Payload,
    ) {
        record.enter();
        if let Some(nodeid) = self.fs.undo(record) {
            self.backings.release(nodeid);
        }
        record.begin_replay(request.unique());
        tracing::debug!(opcode = ?request.opcode(), tries = record.tries(), "once more");
        if record.tries() > MOST_TRIES {
            tracing::error!(opcode = ?request.opcode(), "a request that ends each server is refused");
            self.device.reply_error(request.unique(), Errno::IO).ok();
        } else {
            self.answer(request, record.in_flight(), payload, &mut &self.device);
        }
        record.end();
    }
}

/// Whether a message is no request of its own.
fn is_about_others(request: &Request<'_>) -> bool {
    use Opcode::{BatchForget, Forget, Interrupt};
    matches!(request.opcode(), Some(Forget | BatchForget | Interrupt))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use std::fs;

    use super::*;
    use crate::fuse::driver::Driver;
    use crate::lower::table::ROOT_ID;

    const EXCHANGE: u32 = 2;
    /// As which the kernel knows the mount's root.
    const SHOWN_ROOT: u64 = u64::MAX;

    fn rename(newdir: u64, flags: u32, from: &str, to: &str) -> Vec<u8> {
        let head = [newdir.to_ne_bytes().as_slice(), &flags.to_ne_bytes(), &[0; 4]].concat();
        [&head, from.as_bytes(), b"\0", to.as_bytes(), b"\0"].concat()
    }

    fn create(name: &str) -> Vec<u8> {
        let flags = (libc::O_CREAT | libc::O_EXCL | libc::O_RDWR).to_ne_bytes();
        let mode = 0o100_600_u32.to_ne_bytes();
        [flags.as_slice(), &mode, &[0; 8], name.as_bytes(), b"\0"].concat()
    }

    #[test]
    fn what_was_renamed_or_exchanged_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "b", "c"] {
            fs::write(at(name), name).unwrap();
        }
        let mut server = Driver::on(dir.path());
        let opcode = Opcode::Rename2 as u32;
        for (from, to, flags) in [("a", "b", EXCHANGE), ("c", "d", 0)] {
            let args = rename(SHOWN_ROOT, flags, from, to);
            assert_eq!(server.resend(opcode, SHOWN_ROOT, &args).errno, 0, "{from} {to}");
        }
        let content = |name| fs::read_to_string(at(name)).unwrap();
        assert_eq!(
            (content("a"), content("b"), content("d")),
            ("b".into(), "a".into(), "c".into())
        );
        assert!(!at("c").exists());
        assert_eq!(server.held(), (1, 0));
    }

    #[test]
    fn what_was_made_is_made_once_and_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Driver::on(dir.path());
        let mode = 0o600_u32.to_ne_bytes();
        let mkdir = [mode.as_slice(), &[0; 4], b"dir\0"].concat();
        assert_eq!(server.resend(Opcode::Mkdir as u32, ROOT_ID, &mkdir).errno, 0);
        assert_eq!(server.resend(Opcode::Create as u32, ROOT_ID, &create("file")).errno, 0);
        assert_eq!(server.held(), (3, 1), "the root, two inodes, one open file");
        assert_eq!(server.resend(Opcode::Rmdir as u32, ROOT_ID, b"dir\0").errno, 0);
        assert_eq!(server.resend(Opcode::Unlink as u32, ROOT_ID, b"file\0").errno, 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_others_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut server = Driver::on(dir.path());
        let opcode = Opcode::Create as u32;
        let answer = server.resend_after(opcode, ROOT_ID, &create("full"), || {
            fs::remove_file(at("full")).unwrap();
            fs::write(at("full"), "theirs").unwrap();
        });
        assert_eq!(answer.errno, libc::ESTALE, "the kernel looks again");
        assert_eq!(fs::read(at("full")).unwrap(), b"theirs");
        fs::write(at("old"), "").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let answer = server.resend_after(opcode, ROOT_ID, &create("moved"), || {
            fs::rename(at("old"), at("moved")).unwrap();
        });
        assert_eq!(answer.errno, libc::ESTALE);
        assert!(fs::metadata(at("moved")).is_ok());
        // What cannot be told from the server's own is taken for that.
        let answer = server.resend_after(opcode, ROOT_ID, &create("empty"), || {
            fs::remove_file(at("empty")).unwrap();
            fs::write(at("empty"), "").unwrap();
        });
        assert_eq!(answer.errno, 0);
    }
}
