//! Getting a thread out of a call that waits.

use rustix::io::Errno;

use super::check;

/// One that does nothing where nobody has asked for it.
const SIGNAL: libc::c_int = libc::SIGURG;

/// A thread of this process that waits in system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleeper(libc::pid_t);

impl Sleeper {
    /// The calling thread.
    pub fn this() -> Self {
        // SAFETY: gettid(2) takes nothing and cannot fail.
        Self(unsafe { libc::gettid() })
    }

    /// Ends the call in which the thread waits with `EINTR`. A thread that has not begun to wait
    /// notices nothing: to be repeated until it is out.
    pub fn wake(self) -> Result<(), Errno> {
        // SAFETY: tgkill(2) takes three numbers; the first names this process, so no other one can be
        // meant, and the signal's handler does nothing.
        let ret = unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::c_long::from(self.0), SIGNAL)
        };
        check(ret).map(drop)
    }
}

/// To be called before the first [`Sleeper::wake`]: until then it does nothing.
pub fn prepare() -> Result<(), Errno> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: all zeroes is a valid `sigaction`: no flags, so that waiting calls are not begun again,
    // and no other signal held back. The handler touches nothing.
    let ret = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut())
    };
    check(ret).map(drop)
}
