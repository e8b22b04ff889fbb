//! Going on where a server that was killed had come to.
//!
//! The kernel sends the requests again that it has no answer to. Most can simply be done once more.
//! Those that make, move or remove names, or append, may have been done already: the killed server's slot
//! says since when it was about them, and the lower tree whether they happened ([`crate::fs`]).

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::time::SystemTime;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::data::take_write;
use super::{Done, Server, done, place};
use crate::error::FsError;
use crate::fs::Write;
use crate::fuse::device::Read;
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::root;
use crate::fuse::wire::{self, Opcode, UNIQUE_RESEND};
use crate::fuse::workers::Turn;
use crate::state::slot::{self, Slot};

/// A request that has ended so many servers ends with an error instead.
const MOST_TRIES: u64 = 3;

/// Whether doing it twice could be noticed: then it is written down when it begins.
pub(super) fn is_no_harmless_one(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Create
            | Opcode::Mknod
            | Opcode::Mkdir
            | Opcode::Symlink
            | Opcode::Link
            | Opcode::Unlink
            | Opcode::Rmdir
            | Opcode::Rename
            | Opcode::Rename2
            | Opcode::Setxattr
            | Opcode::Removexattr
            | Opcode::Write
    )
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Server {
    /// Takes over what is open, in a process in which nothing has been served yet. `base` are the
    /// descriptors that were open before the first server began.
    pub(in crate::fuse) fn adopt(&mut self, base: &HashSet<RawFd>) -> Result<(), Errno> {
        let adopted = self.fs.lower.adopt(base)?;
        self.backings.adopt(adopted.backed, |nodeid| self.fs.lower.inodes.knows(nodeid));
        tracing::info!(
            inodes = self.fs.lower.inodes.len(),
            open = self.fs.lower.open_files.len(),
            "a new server goes on"
        );
        Ok(())
    }

    /// Finishes what the threads of the killed server were about, alone. Returns when only new
    /// requests are left.
    pub(in crate::fuse) fn take_over(&self) -> Result<Turn, Errno> {
        let state = &self.fs.lower.state;
        let slots: Vec<Slot> = state.slots.all().filter(Slot::was_used).collect();
        let mut payload = Payload::default();
        for slot in &slots {
            self.finish_message(slot, &mut payload)?;
        }
        let turn = match self.device.resend() {
            Ok(()) => self.serve_resent(&slots, &mut payload),
            Err(Errno::NODEV | Errno::CONNABORTED) => Ok(Turn::Ended),
            Err(errno) => {
                tracing::warn!(%errno, "this kernel sends no request again: those begun end with EIO");
                for unique in slots.iter().map(Slot::unique).filter(|&unique| unique != 0) {
                    // Some have been answered, some want no answer.
                    self.device.reply_error(unique, Errno::IO).ok();
                }
                Ok(Turn::Over)
            }
        };
        slots.iter().for_each(Slot::end);
        turn
    }

    /// Forgets what a thread had read that it was to forget: the kernel says that only once. On
    /// kernels that send nothing again, what it had read and not begun is refused.
    fn finish_message(&self, slot: &Slot, payload: &mut Payload) -> Result<(), Errno> {
        let mut buffer = self.fs.lower.state.buffer(slot.number())?;
        slot.enter();
        if let Some(mut request) = Request::parse(&buffer).filter(|request| request.unique() != 0) {
            match request.opcode() {
                Some(Opcode::Forget | Opcode::BatchForget) => {
                    payload.bytes.clear();
                    self.dispatch(&mut request, payload).map_err(FsError::errno)?;
                }
                _ if slot.unique() == 0 => slot.begin(request.unique()),
                _ => {}
            }
        }
        slot::await_message(&mut buffer);
        Ok(())
    }

    /// Serves requests, as long as they are ones that the kernel has sent again.
    fn serve_resent(&self, slots: &[Slot], payload: &mut Payload) -> Result<Turn, Errno> {
        // One that no worker has: what it holds is left as it is until its request is answered.
        let Some(spare) = self.fs.lower.state.slots.all().last() else { return Ok(Turn::Over) };
        let mut buffer = self.fs.lower.state.buffer(spare.number())?;
        while self.device.has_request()? {
            spare.enter();
            slot::await_message(&mut buffer);
            let length = match self.device.read(&mut buffer)? {
                Read::Request(length) => length,
                Read::Ended => return Ok(Turn::Ended),
            };
            let message = &buffer[..length];
            let Some(request) = Request::parse(message) else { continue };
            let unique = request.unique();
            let same = |slot: &&Slot| slot.unique() | UNIQUE_RESEND == unique;
            match slots.iter().find(same) {
                Some(slot) => self.serve_again(slot, request, payload),
                None if is_about_others(&request) => {
                    // In the slot of the buffer, which says how far it has come.
                    self.answer(request, payload, Self::dispatch);
                    continue;
                }
                None => {
                    // In one that holds nothing which is still to come.
                    let free = self.fs.lower.state.slots.all().find(|slot| slot.unique() == 0);
                    free.iter().for_each(Slot::enter);
                    self.serve(message, payload);
                }
            }
            if unique & UNIQUE_RESEND == 0 {
                break; // the others come first
            }
        }
        Ok(Turn::Over)
    }

    /// Serves a request that a thread of the killed server had begun, in that thread's slot.
    pub(in crate::fuse) fn serve_again(
        &self,
        slot: &Slot,
        request: Request<'_>,
        payload: &mut Payload,
    ) {
        slot.enter();
        self.fs.lower.inodes.take_back_counted(slot.counted());
        self.close_untold(slot.opened());
        let begun = slot.begun();
        slot.begin_again(request.unique());
        tracing::debug!(opcode = ?request.opcode(), tries = slot.tries(), "once more");
        if slot.tries() > MOST_TRIES {
            tracing::error!(opcode = ?request.opcode(), "a request that ends each server is refused");
            self.device.reply_error(request.unique(), Errno::IO).ok();
        } else {
            self.answer(request, payload, |server, request, payload| {
                if begun == 0 {
                    // The lower tree has not been touched yet. From now on it will be.
                    slot.set_begun(now());
                    return server.dispatch(request, payload);
                }
                server.dispatch_again(request, payload, (begun, slot.noted()))
            });
        }
        slot.end();
    }

    /// Closes a file that was opened for an answer that the kernel has not got.
    fn close_untold(&self, handle: u64) {
        let Ok(file) = self.fs.lower.open_files.get(handle) else { return };
        // Not the request's: what CREATE opens is another one.
        if self.fs.release(handle) {
            self.backings.release(file.inode.nodeid);
        }
    }

    /// Does what may have been done already, and what has been done only once. `begun` and `noted`
    /// are what the slot says.
    fn dispatch_again<'s>(
        &'s self,
        request: &mut Request<'_>,
        payload: &mut Payload,
        (begun, noted): (i64, u64),
    ) -> Done<'s> {
        let mut looked_at = request.clone();
        match request.opcode() {
            Some(Opcode::Create) => skip::<wire::CreateIn>(&mut looked_at)?,
            Some(Opcode::Mknod) => skip::<wire::MknodIn>(&mut looked_at)?,
            Some(Opcode::Mkdir) => skip::<wire::MkdirIn>(&mut looked_at)?,
            Some(Opcode::Link) => skip::<wire::LinkIn>(&mut looked_at)?,
            _ => {}
        }
        match request.opcode() {
            Some(Opcode::Create | Opcode::Mknod | Opcode::Mkdir | Opcode::Symlink) => {
                let is_link = request.opcode() == Some(Opcode::Symlink);
                self.fs.undo_making(place(request.nodeid(), &mut looked_at)?, begun, is_link)?;
            }
            Some(Opcode::Link) => {
                let linked = request.clone().take::<wire::LinkIn>()?.oldnodeid;
                self.fs.undo_linking(linked, place(request.nodeid(), &mut looked_at)?)?;
            }
            Some(Opcode::Unlink | Opcode::Rmdir)
                if self.fs.is_removed(place(request.nodeid(), &mut looked_at)?, begun)? =>
            {
                return done();
            }
            Some(Opcode::Rename) => {
                let newdir = looked_at.take::<wire::RenameIn>()?.newdir;
                if self.is_renamed(&mut looked_at, newdir)? {
                    return done();
                }
            }
            Some(Opcode::Rename2) => {
                let wire::Rename2In { newdir, flags, .. } = looked_at.take()?;
                let is_done =
                    if RenameFlags::from_bits_retain(flags).contains(RenameFlags::EXCHANGE) {
                        let from = place(request.nodeid(), &mut looked_at)?;
                        let to = place(root::known(newdir), &mut looked_at)?;
                        self.fs.is_exchanged(from, to, noted)?
                    } else {
                        self.is_renamed(&mut looked_at, newdir)?
                    };
                if is_done {
                    return done();
                }
            }
            Some(Opcode::Write) => return self.write_again(request, payload),
            Some(Opcode::Setxattr) => return self.setxattr(request, true),
            Some(Opcode::Removexattr) => {
                return match self.removexattr(request) {
                    Err(FsError::Os { errno: Errno::NODATA, .. }) => done(),
                    other => other,
                };
            }
            _ => {}
        }
        self.dispatch(request, payload)
    }

    fn is_renamed(&self, request: &mut Request<'_>, newdir: u64) -> Result<bool, FsError> {
        let from = place(request.nodeid(), request)?;
        let to = place(root::known(newdir), request)?;
        self.fs.is_renamed(from, to)
    }

    /// What has been appended already is not appended again.
    fn write_again(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let (file, write) = take_write(request)?;
        let append = write.append;
        let before = if append { self.fs.appended(file, write.offset, write.data)? } else { 0 };
        let rest = Write { data: &write.data[before..], ..write };
        let written = before + self.fs.write(request.caller(), file, rest)?;
        let size = u32::try_from(written).unwrap_or(u32::MAX);
        payload.push(&wire::WriteOut { size, padding: 0 });
        done()
    }
}

/// Whether a message is no request of its own.
fn is_about_others(request: &Request<'_>) -> bool {
    use Opcode::{BatchForget, Forget, Interrupt};
    matches!(request.opcode(), Some(Forget | BatchForget | Interrupt))
}

fn skip<T>(request: &mut Request<'_>) -> Result<(), FsError>
where
    T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable,
{
    request.take::<T>().map(drop)
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
            assert_eq!(server.ask_again(opcode, SHOWN_ROOT, &args).errno, 0, "{from} {to}");
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
        assert_eq!(server.ask_again(Opcode::Mkdir as u32, ROOT_ID, &mkdir).errno, 0);
        assert_eq!(server.ask_again(Opcode::Create as u32, ROOT_ID, &create("file")).errno, 0);
        assert_eq!(server.held(), (3, 1), "the root, two inodes, one open file");
        assert_eq!(server.ask_again(Opcode::Rmdir as u32, ROOT_ID, b"dir\0").errno, 0);
        assert_eq!(server.ask_again(Opcode::Unlink as u32, ROOT_ID, b"file\0").errno, 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_others_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut server = Driver::on(dir.path());
        let opcode = Opcode::Create as u32;
        let answer = server.ask_again_after(opcode, ROOT_ID, &create("full"), || {
            fs::remove_file(at("full")).unwrap();
            fs::write(at("full"), "theirs").unwrap();
        });
        assert_eq!(answer.errno, libc::ESTALE, "the kernel looks again");
        assert_eq!(fs::read(at("full")).unwrap(), b"theirs");
        fs::write(at("old"), "").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let answer = server.ask_again_after(opcode, ROOT_ID, &create("moved"), || {
            fs::rename(at("old"), at("moved")).unwrap();
        });
        assert_eq!(answer.errno, libc::ESTALE);
        assert!(fs::metadata(at("moved")).is_ok());
        // What cannot be told from the server's own is taken for that.
        let answer = server.ask_again_after(opcode, ROOT_ID, &create("empty"), || {
            fs::remove_file(at("empty")).unwrap();
            fs::write(at("empty"), "").unwrap();
        });
        assert_eq!(answer.errno, 0);
    }
}
