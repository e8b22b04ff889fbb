//! Requests about open files and their contents.

use super::{Delivery, Done, Outcome, Server, done, place};
use crate::error::FsError;
use crate::fs::{Call, Contents, CopyEnd, Entry, NewFile, Opened, SetIdBits, Write};
use crate::fuse::backing::Backing;
use crate::fuse::negotiate::{FUSE_NO_OPEN_SUPPORT, FUSE_WRITEBACK_CACHE, MAX_WRITE};
use crate::fuse::reply::{Payload, entry_out};
use crate::fuse::request::Request;
use crate::fuse::wire::{self, fopen};
use crate::lower::open_files::NO_OPEN;
use crate::sys::ioctl::MAX_VALUE;
use rustix::fs::OFlags;
use rustix::io::Errno;

impl Server {
    pub(super) fn open<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::OpenIn = request.take()?;
        if self.agreed.has(FUSE_NO_OPEN_SUPPORT) {
            return Err(super::NOT_OFFERED); // from now on files are used without being opened
        }
        let nodeid = request.nodeid();
        if self.fs.before_writing(nodeid, args.flags)? {
            let _known = self.device.forget_attributes(nodeid);
        }
        if self.fs.is_made(nodeid, args.flags)? {
            let opened = self.fs.open(call, nodeid, args.flags, false)?;
            let fh = opened.handle();
            payload.push(&wire::OpenOut { fh, open_flags: fopen::DIRECT_IO, backing_id: 0 });
            return Ok(Outcome::Reply(Delivery { opened: Some(opened), ..Delivery::default() }));
        }
        let writes = OFlags::from_bits_retain(args.flags) & OFlags::ACCMODE != OFlags::RDONLY;
        let bits =
            if writes { self.fs.set_id_bits(call.caller, nodeid) } else { SetIdBits::Cleared };
        let backing = self.backing(nodeid, bits)?;
        let opened = self.fs.open(call, nodeid, args.flags, backing.is_some())?;
        payload.push(&self.open_out((nodeid, args.flags), &opened, backing.as_ref()));
        Ok(Outcome::Reply(Delivery { opened: Some(opened), backing, ..Delivery::default() }))
    }

    pub(super) fn create<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::CreateIn = request.take()?;
        let new = NewFile { mode: args.mode, umask: args.umask };
        let at = place(request.nodeid(), request)?;
        let (entry, opened) = self.fs.create(call, at, new, args.flags)?;
        self.created(call, entry, (opened, Made { flags: args.flags, named: true }), payload)
    }

    pub(super) fn tmpfile<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::CreateIn = request.take()?;
        let new = NewFile { mode: args.mode, umask: args.umask };
        let (entry, opened) = self.fs.tmpfile(call, request.nodeid(), new, args.flags)?;
        self.created(call, entry, (opened, Made { flags: args.flags, named: false }), payload)
    }

    /// The lower file for the kernel; anew where set-ID bits make a difference.
    fn backing(&self, nodeid: u64, bits: SetIdBits) -> Result<Option<Backing<'_>>, FsError> {
        let anew = bits != SetIdBits::Cleared;
        self.backings.acquire(nodeid, anew, || self.fs.backing_file(nodeid, bits))
    }

    fn created<'s>(
        &'s self,
        call: &Call<'s>,
        Entry { lookup, attr, valid }: Entry<'s>,
        (opened, made): (Opened<'s>, Made),
        payload: &mut Payload,
    ) -> Done<'s> {
        let nodeid = lookup.nodeid();
        if self.agreed.has(FUSE_NO_OPEN_SUPPORT) {
            // Once it has heard that files need not be opened, the kernel closes none either.
            self.fs.use_without_open(&opened, made.named)?;
            drop(opened);
            payload.push(&wire::CreateOut {
                entry: entry_out(nodeid, &attr, valid),
                open: wire::OpenOut { fh: NO_OPEN, open_flags: fopen::KEEP_CACHE, backing_id: 0 },
            });
            return Ok(Outcome::Reply(Delivery { lookup: Some(lookup), ..Delivery::default() }));
        }
        let bits = if attr.mode & 0o6000 == 0 {
            SetIdBits::Cleared
        } else {
            self.fs.set_id_bits(call.caller, nodeid)
        };
        let backing = self.backing(nodeid, bits)?;
        payload.push(&wire::CreateOut {
            entry: entry_out(nodeid, &attr, valid),
            open: self.open_out((nodeid, made.flags), &opened, backing.as_ref()),
        });
        Ok(Outcome::Reply(Delivery {
            lookup: Some(lookup),
            opened: Some(opened),
            backing,
            ..Delivery::default()
        }))
    }

    fn open_out(
        &self,
        (nodeid, flags): (u64, u32),
        opened: &Opened<'_>,
        backing: Option<&Backing<'_>>,
    ) -> wire::OpenOut {
        let (open_flags, backing_id) = match backing {
            Some(backing) => {
                opened.set_backed();
                if self.fs.used_by_the_kernel(nodeid, flags) {
                    let _known = self.device.forget_attributes(nodeid);
                }
                (fopen::PASSTHROUGH, backing.id())
            }
            // What the kernel has of the contents is as good as what it has of the attributes.
            None if self.fs.keeps_contents(nodeid) => (fopen::KEEP_CACHE, 0),
            None => (0, 0),
        };
        wire::OpenOut { fh: opened.handle(), open_flags, backing_id }
    }

    pub(super) fn read(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::ReadIn = request.take()?;
        // The kernel asks for no more; one that did gets a short read and not all of the memory.
        let size = args.size.min(MAX_WRITE);
        self.fs.read(contents(request, args.fh), args.offset, size, &mut payload.bytes)?;
        done()
    }

    pub(super) fn write(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'_> {
        let (file, write) = take_write(request)?;
        let late = write.whole && self.agreed.has(FUSE_WRITEBACK_CACHE);
        let write = || self.fs.write(call, file, write);
        let written = if late { self.fs.keeping_time(file, write)? } else { write()? };
        let size = u32::try_from(written).unwrap_or(u32::MAX);
        payload.push(&wire::WriteOut { size, padding: 0 });
        done()
    }

    pub(super) fn flush(&self, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::FlushIn = request.take()?;
        if self.lock_waiters.is_some() {
            self.fs.drop_locks_of(request.nodeid(), args.lock_owner);
            self.locks_released(request.nodeid())?;
        } else if !self.flush {
            return Err(super::NOT_OFFERED);
        }
        if self.flush {
            self.fs.flush(contents(request, args.fh))?;
        }
        done()
    }

    pub(super) fn release(&self, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::ReleaseIn = request.take()?;
        if self.fs.release(args.fh) {
            self.backings.release(request.nodeid());
            self.forget_if_mapped(request.nodeid());
        }
        self.locks_released(request.nodeid())?;
        done()
    }

    pub(super) fn fsync(&self, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::FsyncIn = request.take()?;
        self.fs.fsync(contents(request, args.fh), args.fsync_flags & wire::FSYNC_DATA != 0)?;
        self.forget_if_mapped(request.nodeid());
        done()
    }

    /// What the kernel knows of a file may be older than what has been done through a mapping.
    fn forget_if_mapped(&self, nodeid: u64) {
        if self.fs.may_change_unseen(nodeid) {
            let _known = self.device.forget_attributes(nodeid);
        }
    }

    pub(super) fn fallocate<'c>(&'c self, call: &Call<'c>, request: &mut Request<'_>) -> Done<'c> {
        let args: wire::FallocateIn = request.take()?;
        let file = contents(request, args.fh);
        let range = (args.offset, args.length);
        if self.agreed.has(FUSE_WRITEBACK_CACHE) {
            self.fs.fallocate_whole(call, file, args.mode, range)?;
            return done();
        }
        let allocated = self.fs.fallocate(call, file, args.mode, range);
        if allocated.is_err() {
            // Some of it may have been done. The kernel thinks that nothing has.
            let _known = self.device.forget_attributes(request.nodeid());
        }
        allocated?;
        done()
    }

    pub(super) fn lseek(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::LseekIn = request.take()?;
        if self.agreed.has(FUSE_WRITEBACK_CACHE) {
            // The lower file's holes may be data that is still to come: the kernel then takes all
            // of the file for data.
            return Err(super::NOT_OFFERED);
        }
        let whence = i32::try_from(args.whence).map_err(|_| FsError::Refused(Errno::INVAL))?;
        let offset = self.fs.lseek(contents(request, args.fh), args.offset, whence)?;
        payload.push(&wire::LseekOut { offset });
        done()
    }

    pub(super) fn copy_file_range<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::CopyFileRangeIn = request.take()?;
        let from = CopyEnd { file: contents(request, args.fh_in), offset: args.off_in };
        let target = Contents { nodeid: args.nodeid_out, handle: args.fh_out };
        let to = CopyEnd { file: target, offset: args.off_out };
        let size = self.fs.copy_file_range(call, from, to, args.len)?;
        // To the kernel above nobody has read the source: it would go on with the former time of access.
        let _known = self.device.forget_attributes(request.nodeid());
        payload.push(&wire::WriteOut { size, padding: 0 });
        done()
    }

    pub(super) fn ioctl(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'_> {
        let args: wire::IoctlIn = request.take()?;
        if args.flags & wire::IOCTL_UNRESTRICTED != 0 {
            return Err(FsError::Refused(Errno::NOTTY));
        }
        if args.cmd == crate::report::IOCTL {
            return self.asked(call, request, args, payload);
        }
        let length = args.in_size.min(MAX_VALUE);
        let input = request.take_bytes(length)?;
        let result = self.fs.ioctl(call, request.nodeid(), args.cmd, input, args.out_size)?;
        if result.changed {
            // The kernel does not know that the time of change has moved.
            let _known = self.device.forget_attributes(request.nodeid());
        }
        payload.push(&wire::IoctlOut::default());
        payload.bytes.extend_from_slice(result.bytes());
        done()
    }
}

/// How a file was made.
struct Made {
    flags: u32,
    /// Not with `O_TMPFILE`.
    named: bool,
}

/// The file that a request about contents names.
fn contents(request: &Request<'_>, handle: u64) -> Contents {
    Contents { nodeid: request.nodeid(), handle }
}

/// The file that is written to, and what.
fn take_write<'m>(request: &mut Request<'m>) -> Result<(Contents, Write<'m>), FsError> {
    let args: wire::WriteIn = request.take()?;
    let file = contents(request, args.fh);
    let data = request.take_bytes(args.size)?;
    let write = Write {
        offset: args.offset,
        data,
        append: OFlags::from_bits_retain(args.flags).contains(OFlags::APPEND),
        clear_privileges: args.write_flags & wire::WRITE_KILL_SUIDGID != 0,
        whole: args.write_flags & wire::WRITE_CACHE != 0,
    };
    Ok((file, write))
}
