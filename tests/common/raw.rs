//! System calls that have no safe wrapper in `rustix`. The only unsafe code of the tests.
#![allow(unsafe_code)] // each block says what makes it sound

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

fn errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// `fork(2)`; call it only while the process has one thread.
pub(crate) fn fork() -> Result<libc::pid_t, Errno> {
    // SAFETY: the callers fork at the start of `main`, before any thread exists, so the child may
    // run any code.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(errno()) } else { Ok(pid) }
}

/// `unshare(2)`.
pub(crate) fn unshare(flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: no memory is involved. CLONE_FS and the namespaces are per thread; no descriptor
    // table is unshared here.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// `umask(2)`: of the thread, after `unshare(CLONE_FS)`.
pub(crate) fn umask(mask: u32) {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(mask) };
}

/// Kills this process when its parent thread dies, so that a crashed test leaves no server.
pub(crate) fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// Runs the command with this limit of open descriptors, as `ulimit -n` does.
pub(crate) fn limit_descriptors(command: &mut std::process::Command, limit: u64) {
    use std::os::unix::process::CommandExt;
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: setrlimit is async-signal-safe and reads only the value that was moved in.
    unsafe {
        command.pre_exec(move || {
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

/// `mount_setattr(2)` on the mount behind `fd` itself: sets attributes and, with a user namespace,
/// the id map.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        set: set | userns.map_or(0, |_| MOUNT_ATTR_IDMAP),
        clear: 0,
        propagation: 0,
        userns_fd: userns.map_or(0, |ns| u64::from(ns.as_raw_fd().unsigned_abs())),
    };
    // SAFETY: the path is a C string and `attr` lives across the call; its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// A shared, writable mapping of a file. Reads and writes go through volatile copies, because the
/// same bytes change by `write(2)`.
pub(crate) struct Mapping {
    address: *mut u8,
    length: usize,
}

impl Mapping {
    /// Maps the first `length` bytes of `fd`, `MAP_SHARED`, readable and (if asked) writable.
    pub(crate) fn shared(fd: BorrowedFd<'_>, length: usize, writable: bool) -> Result<Self, Errno> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(errno());
        }
        Ok(Self { address: address.cast(), length })
    }

    /// One byte of the mapping.
    pub(crate) fn get(&self, index: usize) -> u8 {
        assert!(index < self.length);
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.address.add(index).read_volatile() }
    }

    /// Stores one byte in the mapping, which must have been made writable.
    pub(crate) fn set(&self, index: usize, value: u8) {
        assert!(index < self.length);
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.address.add(index).write_volatile(value) }
    }

    /// `msync(MS_SYNC)`.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the whole mapping, which is ours.
        check(unsafe { libc::msync(self.address.cast(), self.length, libc::MS_SYNC) }.into())
            .map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, used by nobody after this.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// `ioctl(2)` with a pointer to a value that the kernel reads and may write.
pub(crate) fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, value: &mut T) -> Result<i64, Errno> {
    // SAFETY: the callers pass the type that the request's number encodes, or a larger buffer.
    check(
        unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, std::ptr::from_mut(value)) }
            .into(),
    )
}

/// A record lock call (`F_SETLK`, `F_OFD_SETLK`, `F_GETLK`, …) over `start..start+len`.
pub(crate) fn lock(
    fd: BorrowedFd<'_>,
    command: libc::c_int,
    kind: libc::c_int,
    start: i64,
    len: i64,
) -> Result<libc::flock, Errno> {
    // SAFETY: all-zero is a valid `flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap();
    lock.l_whence = i16::try_from(libc::SEEK_SET).unwrap();
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: `lock` lives across the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) }.into())?;
    Ok(lock)
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: libc::c_int) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), signal) }.into()).map(drop)
}

/// The version of Landlock that this kernel has; less than 1 if it has none.
pub(crate) fn landlock_version() -> i64 {
    // Asked for the version, it makes nothing (landlock_create_ruleset(2)).
    // SAFETY: no memory is looked at.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) }
}

/// A path as C has it.
pub(crate) fn c_path(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// `mknod(2)` without libc's checks: any type bits.
pub(crate) fn mknod(path: &Path, mode: u32, device: u64) -> Result<(), Errno> {
    // SAFETY: the path is a C string that lives across the call.
    check(unsafe { libc::mknod(c_path(path).as_ptr(), mode, device) }.into()).map(drop)
}

/// `waitpid(2)`: the exit code of a forked child, 128+n for a signal.
pub(crate) fn wait(pid: libc::pid_t) -> u8 {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives across the call.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } >= 0 {
            break;
        }
        assert_eq!(errno(), Errno::INTR);
    }
    if libc::WIFEXITED(status) {
        u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(255)
    } else {
        128 + u8::try_from(libc::WTERMSIG(status)).unwrap_or(127)
    }
}

/// `execve(2)` of a file that is no program: whether it might be run shows in the error, and this
/// process goes on either way.
pub(crate) fn try_exec(path: &Path) -> Errno {
    let path = c_path(path);
    let arguments = [path.as_ptr(), std::ptr::null()];
    let none = [std::ptr::null()];
    // SAFETY: the strings and the arrays, which end with null, live across the call.
    check(unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), none.as_ptr()) }.into())
        .expect_err("a file that is no program was run")
}

/// `truncate(2)`.
pub(crate) fn truncate(path: &Path, length: i64) -> Result<(), Errno> {
    // SAFETY: the path is a C string that lives across the call.
    check(unsafe { libc::truncate(c_path(path).as_ptr(), length) }.into()).map(drop)
}

/// Allows this thread to write to files below `place` and forbids it to truncate any (landlock(7)).
/// `ENOSYS` or `EOPNOTSUPP` where there is no Landlock, `EINVAL` where it is too old for that.
pub(crate) fn forbid_truncation(place: BorrowedFd<'_>) -> Result<(), Errno> {
    const WRITE_FILE: u64 = 1 << 1;
    const TRUNCATE: u64 = 1 << 14;
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct Beneath {
        allowed: u64,
        parent: i32,
    }
    let handled = WRITE_FILE | TRUNCATE;
    let beneath = Beneath { allowed: WRITE_FILE, parent: place.as_raw_fd() };
    // SAFETY: both pointers are to live values of the sizes that these calls expect; the calls
    // change the rights of this thread alone.
    unsafe {
        let rules = &raw const handled;
        let rules = check(libc::syscall(libc::SYS_landlock_create_ruleset, rules, 8, 0))?;
        check(libc::syscall(libc::SYS_landlock_add_rule, rules, 1, &raw const beneath, 0))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::syscall(libc::SYS_landlock_restrict_self, rules, 0))?;
        check(libc::syscall(libc::SYS_close, rules)).map(drop)
    }
}

/// Lets nobody change a file system until it is thawed (`FIFREEZE`, `FITHAW`).
pub(crate) fn freeze(place: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    // _IOWR('X', 119, int) and _IOWR('X', 120, int) of linux/fs.h
    let number = if on { 0xc004_5877_u32 } else { 0xc004_5878 };
    // SAFETY: both ignore their argument.
    check(unsafe { libc::ioctl(place.as_raw_fd(), number.into(), 0) }.into()).map(drop)
}

/// A file's handle as name_to_handle_at(2) writes it, header included.
pub(crate) fn name_to_handle(path: &Path) -> Result<Vec<u8>, Errno> {
    let mut handle = vec![0; 8 + 128];
    handle[0] = 128;
    let mut mount = 0;
    let path = c_path(path);
    // SAFETY: the path is a C string, the buffer a `struct file_handle` with the room that it says.
    let done = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr().cast(),
            &raw mut mount,
            0,
        )
    };
    if done == 0 { Ok(handle) } else { Err(errno()) }
}

/// Opens what a handle names for reading; `mount` is on the same file system.
pub(crate) fn open_by_handle(mount: BorrowedFd<'_>, handle: &mut [u8]) -> Result<OwnedFd, Errno> {
    // SAFETY: the buffer is one that name_to_handle_at(2) has filled.
    let fd = unsafe {
        libc::open_by_handle_at(mount.as_raw_fd(), handle.as_mut_ptr().cast(), libc::O_RDONLY)
    };
    // SAFETY: the kernel has just made it.
    if fd >= 0 { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) } else { Err(errno()) }
}

/// Asynchronous I/O of the kernel's own kind (io_setup(2)), one request at a time.
pub(crate) struct Aio(libc::c_ulong);

impl Aio {
    pub(crate) fn new() -> Result<Self, Errno> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one number.
        check(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
        Ok(Self(context))
    }

    /// Writes `data`, aligned as direct I/O wants it, and waits for the event that says it is done.
    pub(crate) fn write(&self, fd: BorrowedFd<'_>, data: &[u8], offset: i64) -> Result<i64, Errno> {
        // struct iocb: the opcode (IOCB_CMD_PWRITE) and the descriptor are halves of the third word.
        let target = u64::from(fd.as_raw_fd().unsigned_abs()) << 32 | 1;
        let mut block: [u64; 8] = [0; 8];
        block[2] = target;
        block[3] = data.as_ptr() as u64;
        block[4] = data.len() as u64;
        block[5] = offset.cast_unsigned();
        let blocks = [block.as_ptr()];
        let mut event = [0_i64; 4];
        // SAFETY: block, data and event outlive the request, because its end is waited for.
        unsafe {
            check(libc::syscall(libc::SYS_io_submit, self.0, 1, blocks.as_ptr()))?;
            let none = std::ptr::null::<libc::timespec>();
            check(libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, event.as_mut_ptr(), none))?;
        }
        Ok(event[2])
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is this value's.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}
