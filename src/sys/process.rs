//! This process as a whole: its descriptors, its environment, and a copy of it.

use std::os::fd::RawFd;

use rustix::io::{Errno, FdFlags};
use rustix::process::Pid;

use super::check;

/// `CLOSE_RANGE_CLOEXEC` of `linux/close_range.h`.
const CLOEXEC: libc::c_uint = 4;

/// Marks every descriptor from `first` on to be closed by the next exec (close_range(2); `ENOSYS`
/// before Linux 5.9, `EINVAL` before 5.11). Closes none in this process.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call changes a flag of descriptors and closes none, so
    // no owner of one can notice.
    let ret = unsafe {
        libc::syscall(libc::SYS_close_range, first.unsigned_abs(), libc::c_uint::MAX, CLOEXEC)
    };
    check(ret).map(drop)
}

/// Closes every descriptor from 3 on that an exec would have left open. All that this program opens
/// itself is closed by an exec, so these have come from whoever started it, and nothing here knows
/// them. Returns how many there were; `ENOENT` without `/proc`.
pub fn close_inherited() -> Result<usize, Errno> {
    let numbers = descriptors()?;
    let inherited = numbers.into_iter().filter(|&number| {
        // SAFETY: the number is only looked at; if it is closed meanwhile the call says so.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        number > 2 && rustix::io::fcntl_getfd(fd).is_ok_and(|f| !f.contains(FdFlags::CLOEXEC))
    });
    let mut closed = 0;
    for number in inherited {
        // SAFETY: no owner in this program has a descriptor without that flag.
        unsafe { libc::close(number) };
        closed += 1;
    }
    Ok(closed)
}

fn descriptors() -> Result<Vec<RawFd>, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let entries = std::fs::read_dir("/proc/self/fd").map_err(failed)?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Where a copy of the process goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the process that was there before; the new one has this id.
    Parent(Pid),
    /// In the new one.
    Child,
}

/// Makes a copy of this process (fork(2)). `EBUSY` if it has more than one thread: what the others
/// hold locked would stay locked for ever in the copy.
pub fn fork() -> Result<Forked, Errno> {
    be_alone()?;
    // SAFETY: there is no other thread, so the copy is in as sound a state as this process.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid).ok_or(Errno::SRCH)?)),
    }
}

/// `EBUSY` unless this is the only thread. One that has been joined may take a moment to go.
fn be_alone() -> Result<(), Errno> {
    for _ in 0..1000 {
        if threads()? == 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(Errno::BUSY)
}

/// How many threads this process has.
fn threads() -> Result<usize, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    Ok(std::fs::read_dir("/proc/self/task").map_err(failed)?.count())
}

/// Overwrites the environment where the kernel has put it, and forgets it. `EBUSY` if the process
/// has more than one thread, of which another might be reading it.
pub fn wipe_environment() -> Result<(), Errno> {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    be_alone()?;
    // SAFETY: `environ` is an array of C strings that a null pointer ends. The strings are in
    // writable memory (the initial stack, or the heap), and nobody else reads them just now.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            std::ptr::write_bytes(*entry, 0, libc::strlen(*entry));
            entry = entry.add(1);
        }
        libc::clearenv();
    }
    Ok(())
}
