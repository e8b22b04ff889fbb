//! System calls made by another process, against its will: by ptrace(2), from outside. What the
//! process may do, and what it can reach, shows in the result.
#![allow(unsafe_code)] // each block says what makes it sound

use rustix::io::Errno;

/// `PTRACE_SECCOMP_GET_FILTER` of `linux/ptrace.h`.
#[cfg(target_arch = "x86_64")]
const GET_FILTER: libc::c_uint = 0x420c;

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// A number.
    N(i64),
    /// The address of these bytes, which are put in the process's memory.
    At(&'a [u8]),
}

/// A thread of another process that has been stopped. It goes on where it was when this is dropped.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Stopped {
    pid: libc::pid_t,
    before: libc::user_regs_struct,
}

#[cfg(target_arch = "x86_64")]
impl Stopped {
    /// Stops the process's first thread, which must be waiting in a system call.
    pub(crate) fn stop(pid: u32) -> Result<Self, Errno> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| Errno::SRCH)?;
        ptrace(libc::PTRACE_SEIZE, pid, 0, 0)?;
        ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
        wait(pid)?;
        let before = registers(pid)?;
        Ok(Self { pid, before })
    }

    /// Makes it do this.
    pub(crate) fn call(&self, number: i64, args: &[Arg<'_>]) -> Result<u64, Errno> {
        // Below what the thread uses of its stack, and below the 128 bytes that it may use without
        // saying so.
        let mut free = (self.before.rsp - 256) & !15;
        let mut values = [0; 6];
        for (value, arg) in values.iter_mut().zip(args) {
            *value = match arg {
                Arg::N(number) => number.cast_unsigned(),
                Arg::At(bytes) => {
                    let words = bytes.len() / 8 + 1;
                    free = (free - words as u64 * 8) & !15;
                    self.put(free, bytes)?;
                    free
                }
            };
        }
        let mut now = self.before;
        // The instruction that it waits in, `syscall`, has two bytes.
        now.rip -= 2;
        now.rsp = free;
        now.rax = number.cast_unsigned();
        now.orig_rax = u64::MAX; // no call to take up again
        [now.rdi, now.rsi, now.rdx, now.r10, now.r8, now.r9] = values;
        set_registers(self.pid, &now)?;
        ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0)?;
        wait(self.pid)?;
        let result = registers(self.pid)?.rax.cast_signed();
        match i32::try_from(result) {
            Ok(errno @ -4095..=-1) => Err(Errno::from_raw_os_error(-errno)),
            _ => Ok(result.cast_unsigned()),
        }
    }

    /// The filters of system calls that the thread has (seccomp(2)), as the kernel runs them.
    pub(crate) fn filters(&self) -> Result<Vec<Vec<libc::sock_filter>>, Errno> {
        let mut all = Vec::new();
        loop {
            let nth = all.len();
            let length = match self.filter(nth, std::ptr::null_mut()) {
                // There are no more.
                Err(Errno::NOENT) => return Ok(all),
                length => length?,
            };
            let none = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
            let mut program = vec![none; length];
            self.filter(nth, program.as_mut_ptr())?;
            all.push(program);
        }
    }

    fn filter(&self, nth: usize, into: *mut libc::sock_filter) -> Result<usize, Errno> {
        // SAFETY: the request writes nothing for a null pointer and says how long the program is;
        // otherwise there is room for it.
        let ret = unsafe { libc::ptrace(GET_FILTER, self.pid, nth, into) };
        usize::try_from(ret).map_err(|_| last())
    }

    /// Has the thread end itself, and lets go of it: the others live on.
    pub(crate) fn end_thread(self) -> Result<(), Errno> {
        let mut now = self.before;
        now.rip -= 2;
        now.rax = libc::SYS_exit.cast_unsigned();
        now.orig_rax = u64::MAX;
        now.rdi = 0;
        set_registers(self.pid, &now)?;
        let pid = self.pid;
        std::mem::forget(self);
        ptrace(libc::PTRACE_DETACH, pid, 0, 0)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        for (n, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = i64::from_ne_bytes(word);
            ptrace(libc::PTRACE_POKEDATA, self.pid, at + n as u64 * 8, word.cast_unsigned())?;
        }
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Stopped {
    fn drop(&mut self) {
        set_registers(self.pid, &self.before).ok();
        ptrace(libc::PTRACE_DETACH, self.pid, 0, 0).ok();
    }
}

/// Threads of another process that do nothing for now. They go on, or end, when this is dropped.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Held {
    release: Option<std::sync::mpsc::Sender<()>>,
    holder: Option<std::thread::JoinHandle<()>>,
}

#[cfg(target_arch = "x86_64")]
impl Held {
    /// Stops these threads.
    pub(crate) fn hold(threads: Vec<u32>) -> Result<Self, Errno> {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (say, said) = std::sync::mpsc::channel();
        // The kernel lets go of them, also of those that were killed meanwhile, when the thread ends
        // that has stopped them.
        let holder = std::thread::spawn(move || {
            say.send(threads.into_iter().try_for_each(hold)).ok();
            released.recv().ok();
        });
        let held = Self { release: Some(release), holder: Some(holder) };
        said.recv().map_err(|_| Errno::IO)??;
        Ok(held)
    }
}

#[cfg(target_arch = "x86_64")]
fn hold(thread: u32) -> Result<(), Errno> {
    let thread = libc::pid_t::try_from(thread).map_err(|_| Errno::SRCH)?;
    ptrace(libc::PTRACE_SEIZE, thread, 0, 0)?;
    ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
    wait(thread)
}

#[cfg(target_arch = "x86_64")]
impl Drop for Held {
    fn drop(&mut self) {
        drop(self.release.take());
        self.holder.take().map(std::thread::JoinHandle::join);
    }
}

#[cfg(target_arch = "x86_64")]
fn ptrace(request: libc::c_uint, pid: libc::pid_t, address: u64, data: u64) -> Result<(), Errno> {
    // SAFETY: the requests made here take numbers, or addresses in the other process; those that
    // take one in this process are below.
    let ret = unsafe { libc::ptrace(request, pid, address, data) };
    if ret == -1 { Err(last()) } else { Ok(()) }
}

#[cfg(target_arch = "x86_64")]
fn registers(pid: libc::pid_t) -> Result<libc::user_regs_struct, Errno> {
    let mut registers = std::mem::MaybeUninit::uninit();
    // SAFETY: the request fills the struct that it is given, and all of it where it succeeds.
    unsafe {
        let ret = libc::ptrace(libc::PTRACE_GETREGS, pid, 0, registers.as_mut_ptr());
        if ret == -1 { Err(last()) } else { Ok(registers.assume_init()) }
    }
}

#[cfg(target_arch = "x86_64")]
fn set_registers(pid: libc::pid_t, registers: &libc::user_regs_struct) -> Result<(), Errno> {
    // SAFETY: the request reads the struct, which outlives the call.
    let ret = unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw const *registers) };
    if ret == -1 { Err(last()) } else { Ok(()) }
}

#[cfg(target_arch = "x86_64")]
fn wait(pid: libc::pid_t) -> Result<(), Errno> {
    let mut status = 0;
    // SAFETY: the call writes one number.
    let ret = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    if ret == pid && libc::WIFSTOPPED(status) { Ok(()) } else { Err(Errno::SRCH) }
}

fn last() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(raw)
}

/// The handle of a file, as `open_by_handle_at` wants it (name_to_handle_at(2)).
pub(crate) fn file_handle(file: std::os::fd::BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    use std::os::fd::AsRawFd;
    let mut handle = vec![0_u8; 8 + 128];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = 0;
    // SAFETY: the buffer begins with the room that follows its head, as the call expects; the path
    // is an empty C string.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if ret == -1 { Err(last()) } else { Ok(handle) }
}
