//! This process as a whole: its descriptors, its environment, and a copy of it.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Signal};

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

/// Says whether the next exec closes a descriptor. `EBADF` if there is none of this number.
pub fn set_close_on_exec(number: RawFd, closes: bool) -> Result<(), Errno> {
    let flags = if closes { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: fcntl(F_SETFD) takes a number, whatever it is, and changes no more than that flag.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, flags) }).map(drop)
}

/// Closes every descriptor from 3 on that an exec would have left open. Returns how many there were;
/// `ENOENT` without `/proc`.
///
/// # Safety
///
/// All that this process owns is closed by an exec: so these have come from whoever started it.
pub unsafe fn close_inherited() -> Result<usize, Errno> {
    let numbers = descriptors()?;
    let inherited = numbers.into_iter().filter(|&number| {
        // SAFETY: the number is only looked at; if it is closed meanwhile the call says so.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        number > 2 && rustix::io::fcntl_getfd(fd).is_ok_and(|f| !f.contains(FdFlags::CLOEXEC))
    });
    let mut closed = 0;
    for number in inherited {
        // SAFETY: by the caller's promise no owner has a descriptor without that flag.
        unsafe { libc::close(number) };
        closed += 1;
    }
    Ok(closed)
}

/// Closes every descriptor from 3 on but these.
///
/// # Safety
///
/// Nothing in this process uses or drops an owner of any other: it has been copied from another
/// process, and never returns to what that had open.
pub unsafe fn close_all_but(kept: &[RawFd]) -> Result<(), Errno> {
    for number in descriptors()?.into_iter().filter(|number| *number > 2 && !kept.contains(number))
    {
        // SAFETY: by the caller's promise no owner uses it or closes it again.
        unsafe { libc::close(number) };
    }
    Ok(())
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

/// How many threads this process has. Opens no directory: from one in `/proc` a link leads to the
/// host's root, and a supervisor shares its descriptors with a server that must not get there.
fn threads() -> Result<usize, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let status = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    count.and_then(|count| count.trim().parse().ok()).ok_or(Errno::IO)
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

/// Forks, and lets both processes share one table of descriptors: what one opens or closes, the
/// other has or has not, also when one of them has ended (clone(2) with `CLONE_FILES`).
///
/// `EBUSY` if this process has more than one thread: the others would not exist in the child, and
/// with them whatever lock they hold.
///
/// # Safety
///
/// Both processes have copies of the owners of all that is open. For each descriptor only one of them
/// may use its copy up to the end of the other, and the other must never drop its own.
pub unsafe fn fork_sharing_descriptors() -> Result<Forked, Errno> {
    be_alone()?;
    let flags = libc::c_ulong::from((libc::CLONE_FILES | libc::SIGCHLD).unsigned_abs());
    // SAFETY: this is fork(2) but for the table of descriptors: the child has a copy of the memory
    // and goes on from here, on the same stack. There is one thread, so no lock is held by one that the
    // child lacks. What the C library's fork does beyond that is for handlers, of which there are
    // none, and for its note of the thread's number, which it uses for nothing that is used here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid < 0 {
        return Err(super::last_errno());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(pid.map_or(Forked::Child, Forked::Parent))
}

/// Descriptors that are open in this process without an owner in it: another process, or the
/// program before this one, has left them. Each is given away once.
#[derive(Debug)]
pub struct LeftOpen(HashSet<RawFd>);

impl LeftOpen {
    /// These descriptors, as far as they are open.
    ///
    /// # Safety
    ///
    /// Nothing in this process owns one of them, and nothing comes to own one by another way than
    /// this value.
    pub unsafe fn new(numbers: impl IntoIterator<Item = RawFd>) -> Self {
        Self(numbers.into_iter().filter(|number| is_open(*number)).collect())
    }

    /// Closes those of the rest that are chosen.
    pub fn close(self, chosen: impl Fn(RawFd) -> bool) {
        for number in self.0.into_iter().filter(|number| chosen(*number)) {
            // SAFETY: as in `take`.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }

    /// Takes one over. `EBADF` if it is not among them, or was given away.
    pub fn take(&mut self, number: RawFd) -> Result<OwnedFd, Errno> {
        if !self.0.remove(&number) {
            return Err(Errno::BADF);
        }
        // SAFETY: it was open, nothing else owns it by the promise of `new`, and it is given away once.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: fcntl(F_GETFD) takes a number, whatever it is, and changes nothing.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// The numbers of all descriptors that are open now.
pub fn open_descriptors() -> Result<HashSet<RawFd>, Errno> {
    // Without the one by which they were listed.
    Ok(descriptors()?.into_iter().filter(|number| is_open(*number)).collect())
}

/// Has a signal sent to this process when its parent ends (`PR_SET_PDEATHSIG`): the thread that has
/// started it, also where other threads of that process go on.
pub fn signal_when_parent_ends(signal: Signal) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(signal))
}

/// Whether a process has ended as far as it can: its first thread has, others cannot. Its parent is
/// not told of that.
pub fn has_stuck_threads(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    // After the name, which is in brackets and may hold anything, comes the state.
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

/// When a process was started, in ticks since the system was: its number with this is never used again.
/// `None` if it has ended.
pub fn began(process: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // After the name, which is in brackets and may hold anything: state, parent, …; it is the 22nd.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    let lives = !matches!(rest.next()?, "Z" | "X");
    rest.nth(18)?.parse().ok().filter(|_| lives)
}

/// The names of a process's threads that have not ended.
pub fn thread_names(process: Pid) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero()));
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.into_iter().flatten().filter_map(name).collect()
}

/// Signals that arrive as something to be read (signalfd(2)), for a process with one thread. They do
/// nothing else any more, also not in children, until [`unblock`].
#[derive(Debug)]
pub struct Signals(OwnedFd);

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: sigemptyset fills the set that sigaddset then adds to; both only write to it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        set
    }
}

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub signal: i32,
    /// The process that sent it with kill(2); `None` if it came in another way.
    pub sender: Option<Pid>,
}

impl Signals {
    /// Collects these signals from now on.
    pub fn collect(signals: &[Signal]) -> Result<Self, Errno> {
        let set = set_of(signals);
        // SAFETY: both calls read the set, which lives across them; the descriptor is new and ours.
        unsafe {
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
            let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next one; waits for it.
    pub fn next(&self) -> Result<Arrived, Errno> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut bytes))?;
        if length != bytes.len() {
            return Err(Errno::IO);
        }
        // SAFETY: the kernel has filled all of it, and any bytes make a valid value.
        let info: libc::signalfd_siginfo =
            unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        let sender = i32::try_from(info.ssi_pid).ok().and_then(Pid::from_raw);
        let signal = i32::try_from(info.ssi_signo).map_err(|_| Errno::IO)?;
        // The kernel vouches for the sender of those that kill(2) has sent.
        Ok(Arrived { signal, sender: sender.filter(|_| info.ssi_code == libc::SI_USER) })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Holds these signals back, in this thread and what it starts, until [`unblock`].
pub fn block(signals: &[Signal]) -> Result<(), Errno> {
    let set = set_of(signals);
    // SAFETY: the call reads the set, which lives across it.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })
        .map(drop)
}

/// Lets these signals do again what they usually do, in a child of a process that collects them.
pub fn unblock(signals: &[Signal]) -> Result<(), Errno> {
    let set = set_of(signals);
    // SAFETY: the call reads the set, which lives across it.
    check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) })
        .map(drop)
}
