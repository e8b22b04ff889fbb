//! One request: take it apart, call [`crate::fs`], send what comes back. Nothing is decided here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;

use super::backing::{Backing, Backings};
use super::counters::{AllCounters, Served};
use super::device::Device;
use super::negotiate::{Agreed, FUSE_SETXATTR_EXT, FUSE_WRITEBACK_CACHE};
use super::reply::{self, Payload, Sink};
use super::report::About;
use super::request::Request;
use super::wire::{self, Opcode};
use crate::error::FsError;
use crate::fs::{Call, Entry, FileSystem, Opened, Place, SetAttr, XattrReply};
use crate::lower::open_files::NO_OPEN;
use crate::lower::table::Lookup;
use crate::state::in_flight::{InFlight, Record};

mod ask;
mod data;
mod listing;
mod lock_requests;
mod names;
mod resume;

pub(super) use lock_requests::LockWaiters;
pub(super) use resume::Resumed;

/// Everything that a request needs.
pub(super) struct Server {
    pub(super) fs: FileSystem,
    pub(super) device: Device,
    pub(super) agreed: Agreed,
    /// Whether errors of close(2) matter on this lower file system.
    pub(super) flush: bool,
    pub(super) backings: Backings,
    /// Where locks are held on the lower files.
    pub(super) lock_waiters: Option<LockWaiters>,
    /// What the workers have done.
    pub(super) counters: AllCounters,
    /// What the mount tells of itself, and to whom.
    pub(super) about: About,
}

/// What a reply hands over to the kernel. If the reply cannot be delivered, because the caller has
/// been killed meanwhile, dropping it takes everything back.
#[derive(Default)]
struct Delivery<'s> {
    lookup: Option<Lookup<'s>>,
    listed: Vec<Lookup<'s>>,
    opened: Option<Opened<'s>>,
    backing: Option<Backing<'s>>,
}

impl Delivery<'_> {
    fn keep(self) {
        self.listed.into_iter().chain(self.lookup).for_each(Lookup::give_to_kernel);
        self.opened.into_iter().for_each(Opened::keep);
        self.backing.into_iter().for_each(Backing::keep);
    }
}

/// How a request ends.
enum Outcome<'s> {
    /// With the payload, which hands this over.
    Reply(Delivery<'s>),
    /// The kernel waits for no answer.
    Silent,
}

/// An answer that hands nothing over.
#[allow(clippy::unnecessary_wraps)] // the last word of every handler
fn done<'s>() -> Done<'s> {
    Ok(Outcome::Reply(Delivery::default()))
}

type Done<'s> = Result<Outcome<'s>, FsError>;

impl Server {
    /// Serves one message, which has come to a thread with this record. `payload` is reused from request
    /// to request.
    pub(super) fn serve(&self, record: &Record, message: &[u8], payload: &mut Payload) -> Served {
        let Some(request) = Request::parse(message) else {
            tracing::error!(length = message.len(), "a message that is no request");
            return Served { opcode: None, failed: true, trusted: [0; 3] };
        };
        record.begin(request.unique());
        let served = self.answer(&request, record.in_flight(), payload, &mut &self.device);
        record.end();
        served
    }

    /// Serves a request and gives the answer to `sink`; its payload stays in `payload`.
    pub(super) fn answer(
        &self,
        request: &Request<'_>,
        in_flight: InFlight<'_>,
        payload: &mut Payload,
        sink: &mut impl Sink,
    ) -> Served {
        let call = Call::new(request.caller(), in_flight);
        payload.bytes.clear();
        let unique = request.unique();
        // The one line per message that `tests/messages.rs` counts.
        tracing::trace!(opcode = ?request.opcode(), nodeid = request.nodeid(), "request");
        // A fault in one request must neither leave its caller waiting nor take the mount down.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.acting(request, || {
                payload.bytes.clear();
                self.dispatch(&call, &mut request.clone(), payload)
            })
        }));
        let mut failed = false;
        let sent = match outcome.unwrap_or(Err(FsError::Refused(Errno::IO))) {
            Ok(Outcome::Silent) => Ok(()),
            Ok(Outcome::Reply(handover)) => {
                let sent = sink.answer(unique, None, &payload.bytes);
                if sent.is_ok() {
                    handover.keep();
                }
                sent
            }
            Err(error) => {
                tracing::trace!(opcode = ?request.opcode(), %error, "refused");
                failed = true;
                sink.answer(unique, Some(error.errno()), &[])
            }
        };
        match sent {
            // Nobody waits for the answer any more, or the mount has gone.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => tracing::error!(opcode = ?request.opcode(), %errno, "cannot reply"),
        }
        Served { opcode: request.opcode(), failed, trusted: call.trusted() }
    }

    /// Runs a request with the ids that its calls below are to have.
    fn acting<T>(
        &self,
        request: &Request<'_>,
        mut run: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if request.opcode().is_none_or(uses_what_is_open) {
            self.fs.acting_for_nobody()?;
            return run();
        }
        self.fs.acting(request.caller(), request.nodeid(), run)
    }

    fn dispatch<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let Some(opcode) = request.opcode() else { return Err(NOT_OFFERED) };
        match opcode {
            Opcode::Lookup => self.lookup(call, request, payload),
            Opcode::Forget => Ok(self.forget(call, request)),
            Opcode::BatchForget => Ok(self.batch_forget(call, request)),
            Opcode::Getattr => self.getattr(call, request, payload),
            Opcode::Statx => self.statx(call, request, payload),
            Opcode::Setattr => self.setattr(call, request, payload),
            Opcode::Readlink => self.readlink(request, payload),
            Opcode::Symlink => self.symlink(call, request, payload),
            Opcode::Mknod => self.mknod(call, request, payload),
            Opcode::Mkdir => self.mkdir(call, request, payload),
            Opcode::Unlink => self.unlink(call, request),
            Opcode::Rmdir => self.rmdir(call, request),
            Opcode::Rename => self.rename(call, request),
            Opcode::Rename2 => self.rename2(call, request),
            Opcode::Link => self.link(call, request, payload),
            Opcode::Open => self.open(call, request, payload),
            Opcode::Create => self.create(call, request, payload),
            Opcode::Tmpfile => self.tmpfile(call, request, payload),
            Opcode::Read => self.read(request, payload),
            Opcode::Write => self.write(call, request, payload),
            Opcode::Flush => self.flush(request),
            Opcode::Release => self.release(request),
            Opcode::Fsync | Opcode::Fsyncdir => self.fsync(request),
            Opcode::Fallocate => self.fallocate(call, request),
            Opcode::Lseek => self.lseek(request, payload),
            Opcode::CopyFileRange => self.copy_file_range(call, request, payload),
            Opcode::Ioctl => self.ioctl(call, request, payload),
            Opcode::Opendir => self.opendir(call, request, payload),
            Opcode::Readdir => self.readdir(request, payload),
            Opcode::Readdirplus => self.readdirplus(call, request, payload),
            Opcode::Releasedir => self.releasedir(request),
            Opcode::Statfs => self.statfs(request, payload),
            Opcode::Syncfs => self.syncfs(),
            Opcode::Getxattr => self.getxattr(request, payload),
            Opcode::Setxattr => self.setxattr(call, request),
            Opcode::Listxattr => self.listxattr(call, request, payload),
            Opcode::Removexattr => self.removexattr(call, request),
            Opcode::Destroy => done(),
            Opcode::Getlk => self.getlk(request, payload),
            Opcode::Setlk => self.setlk(request, false),
            Opcode::Setlkw => self.setlk(request, true),
            Opcode::Interrupt => self.interrupt(request),
            // It comes once, before all others.
            Opcode::Init => Err(NOT_OFFERED),
        }
    }

    /// Hands an entry to the kernel.
    #[allow(clippy::unnecessary_wraps)] // as `done`
    fn entry<'s>(Entry { lookup, attr, valid }: Entry<'s>, payload: &mut Payload) -> Done<'s> {
        payload.push(&reply::entry_out(lookup.nodeid(), &attr, valid));
        Ok(Outcome::Reply(Delivery { lookup: Some(lookup), ..Delivery::default() }))
    }

    fn getattr(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'_> {
        let args: wire::GetattrIn = request.take()?;
        let handle = opened(args.getattr_flags & wire::GETATTR_FH != 0, args.fh);
        let known = self.fs.getattr(call, request.nodeid(), handle)?;
        payload.push(&reply::attr_out(&known));
        done()
    }

    fn statx(&self, call: &Call<'_>, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::StatxIn = request.take()?;
        let handle = opened(args.getattr_flags & wire::GETATTR_FH != 0, args.fh);
        let known = self.fs.getattr(call, request.nodeid(), handle)?;
        payload.push(&reply::statx_out(&known));
        done()
    }

    fn setattr(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'_> {
        let args: wire::SetattrIn = request.take()?;
        let set = set_attr(&args);
        let nodeid = request.nodeid();
        let change = || self.fs.setattr(call, nodeid, &set);
        let known = if self.agreed.has(FUSE_WRITEBACK_CACHE) {
            self.fs.setting_time(nodeid, &set, change)?
        } else {
            if !self.backings.is_on() && self.fs.may_be_written_late(nodeid, &set) {
                // The kernel writes it now, and asks other workers.
                let _known = self.device.forget_contents(nodeid);
            }
            change()?
        };
        payload.push(&reply::attr_out(&known));
        done()
    }

    fn statfs(&self, request: &Request<'_>, payload: &mut Payload) -> Done<'_> {
        let s = self.fs.statfs(request.nodeid())?;
        payload.push(&wire::StatfsOut {
            blocks: s.blocks,
            bfree: s.bfree,
            bavail: s.bavail,
            files: s.files,
            ffree: s.ffree,
            bsize: s.bsize,
            namelen: s.namelen,
            frsize: s.frsize,
            ..wire::StatfsOut::default()
        });
        done()
    }

    fn syncfs(&self) -> Done<'_> {
        self.fs.syncfs()?;
        done()
    }

    fn getxattr(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::GetxattrIn = request.take()?;
        let value = self.fs.getxattr(request.nodeid(), request.take_str()?, args.size)?;
        xattr(value, payload)
    }

    fn listxattr(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'_> {
        let args: wire::GetxattrIn = request.take()?;
        let names = self.fs.listxattr(call, request.nodeid(), args.size)?;
        xattr(names, payload)
    }

    fn setxattr(&self, call: &Call<'_>, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::SetxattrIn = request.take()?;
        let outside_group = if self.agreed.has(FUSE_SETXATTR_EXT) {
            let ext: wire::SetxattrExt = request.take()?;
            Some(ext.setxattr_flags & wire::SETXATTR_ACL_KILL_SGID != 0)
        } else {
            None
        };
        let name = request.take_str()?;
        let value = request.take_bytes(args.size)?;
        self.fs.setxattr(call, request.nodeid(), name, value, args.flags, outside_group)?;
        done()
    }

    fn removexattr(&self, call: &Call<'_>, request: &mut Request<'_>) -> Done<'_> {
        let name = request.take_str()?;
        self.fs.removexattr(call, request.nodeid(), name)?;
        done()
    }
}

/// An attribute's value, or how long it is.
#[allow(clippy::unnecessary_wraps)] // as `done`
fn xattr<'s>(reply: XattrReply, payload: &mut Payload) -> Done<'s> {
    match reply {
        XattrReply::Size(size) => payload.push(&wire::GetxattrOut { size, padding: 0 }),
        XattrReply::Data(data) => payload.bytes = data,
    }
    done()
}

fn place<'m>(parent: u64, request: &mut Request<'m>) -> Result<Place<'m>, FsError> {
    Ok(Place { parent, name: request.take_name()? })
}

fn set_attr(args: &wire::SetattrIn) -> SetAttr {
    use crate::fs::SetTime;
    use crate::lower::stat::Timestamp;
    use crate::shift::id::Id;
    use wire::fattr;

    let has = |flag: u32| args.valid & flag != 0;
    let time = |set: u32, now: u32, sec: i64, nsec: u32| match (has(set), has(now)) {
        (false, _) => None,
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(Timestamp { sec, nsec })),
    };
    SetAttr {
        mode: has(fattr::MODE).then_some(args.mode),
        uid: has(fattr::UID).then(|| Id::new(args.uid)),
        gid: has(fattr::GID).then(|| Id::new(args.gid)),
        size: has(fattr::SIZE).then_some(args.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, args.atime, args.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, args.mtime, args.mtimensec),
        handle: has(fattr::FH).then_some(args.fh),
        clear_privileges: has(fattr::KILL_SUIDGID),
    }
}

/// The handle that a request brings along; the kernel also sends one for a file that it used without
/// opening it.
fn opened(has_handle: bool, handle: u64) -> Option<u64> {
    (has_handle && handle != NO_OPEN).then_some(handle)
}

/// Whether a request rests on a file that is open, or on nothing: then it says whose it is only by
/// chance, as when the kernel reads ahead or writes back.
fn uses_what_is_open(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Forget
            | Opcode::BatchForget
            | Opcode::Read
            | Opcode::Write
            | Opcode::Flush
            | Opcode::Release
            | Opcode::Releasedir
            | Opcode::Interrupt
            | Opcode::Destroy
    )
}

/// The kernel then does without, and for most requests asks no more.
const NOT_OFFERED: FsError = FsError::Refused(Errno::NOSYS);
