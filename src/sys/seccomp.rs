//! Filters of system calls (seccomp(2)).

use rustix::io::Errno;

use super::check;

/// One instruction of a filter (`struct sock_filter`): operation, the two jumps, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Puts a filter on all threads of this process, for good. With `log`, what it refuses is told to
/// the kernel's audit log. `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`, `EINVAL` where the
/// kernel has no filters (or before Linux 4.14), `ESRCH` if a thread has another filter already.
pub fn install(program: &[Instruction], log: bool) -> Result<(), Errno> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let log = if log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | log;
    // SAFETY: `program` and the instructions that it points to outlive the call, which copies them.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match check(ret)? {
        0 => Ok(()),
        _ => Err(Errno::SRCH), // the thread that could not take it
    }
}

/// Whether the kernel can refuse system calls with an errno.
pub fn is_there() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads one 32-bit number.
    let ret = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    ret == 0
}
