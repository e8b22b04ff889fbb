//! Calls by way of io_uring, also with the credentials of another (`IORING_REGISTER_PERSONALITY`).

use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::{IoUring, opcode, squeue, types};

use super::attributes::describe;
use super::{Answer, Args, Hands, OPEN_FLAGS};

impl Hands {
    /// `uring SLOT PATH FLAGS [MODE]` opens, `uringas UID GID SLOT PATH FLAGS [MODE]` with
    /// registered credentials of these ids, `uringstat PATH` looks.
    pub(super) fn uring_call(&mut self, call: &str, args: &Args<'_>) -> Answer {
        let mut ring = IoUring::new(2).map_err(|error| errno_of(&error))?;
        let cwd = types::Fd(libc::AT_FDCWD);
        if call == "uringstat" {
            let path = self.path(args.word(0))?;
            let mut stat = Box::new(std::mem::MaybeUninit::<libc::statx>::zeroed());
            let target = stat.as_mut_ptr().cast();
            let entry = opcode::Statx::new(cwd, path.as_ptr(), target)
                .mask(libc::STATX_BASIC_STATS)
                .flags(libc::AT_SYMLINK_NOFOLLOW)
                .build();
            submit(&mut ring, &entry)?;
            // SAFETY: all bytes zero are a valid `struct statx`, and the kernel has filled it.
            return Ok(describe(unsafe { stat.assume_init_ref() }));
        }
        let first = if call == "uringas" { 2 } else { 0 };
        let path = self.path(args.word(first + 1))?;
        let flags = args.flags(first + 2, OPEN_FLAGS) | libc::O_CLOEXEC;
        let mode = if args.count() > first + 3 { args.octal(first + 3) } else { 0 };
        let mut entry = opcode::OpenAt::new(cwd, path.as_ptr()).flags(flags).mode(mode).build();
        if call == "uringas" {
            entry = entry.personality(personality(&ring, args.id(0), args.id(1))?);
        }
        let fd = submit(&mut ring, &entry)?;
        // SAFETY: the ring has just made this descriptor, and nothing else owns it.
        self.slots.insert(args.word(first).to_owned(), unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(String::new())
    }
}

/// Registers credentials with other file system ids.
fn personality(ring: &IoUring, uid: u32, gid: u32) -> Result<u16, i32> {
    // SAFETY: no pointers; one thread.
    unsafe {
        let (own_gid, own_uid) = (libc::setfsgid(gid), libc::setfsuid(uid));
        let registered = ring.submitter().register_personality();
        libc::setfsuid(own_uid as u32);
        libc::setfsgid(own_gid as u32);
        registered.map_err(|error| errno_of(&error))
    }
}

/// The result of one entry, whose pointers the caller keeps alive.
fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> Result<i32, i32> {
    // SAFETY: what the entry points to outlives this call, which waits for the completion.
    unsafe { ring.submission().push(entry) }.expect("an empty ring has room");
    ring.submit_and_wait(1).map_err(|error| errno_of(&error))?;
    let result = ring.completion().next().expect("waited for").result();
    if result < 0 { Err(-result) } else { Ok(result) }
}

fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
