//! What an idmapped mount needs and `rustix` does not offer: `mount_setattr(2)`, and a user
//! namespace that carries a map.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions};

bitflags::bitflags! {
    /// Attributes of a mount, as `mount_setattr(2)` names them (`linux/mount.h`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct MountAttrs: u64 {
        /// `MOUNT_ATTR_RDONLY`.
        const RDONLY = 0x01;
        /// `MOUNT_ATTR_NOSUID`.
        const NOSUID = 0x02;
        /// `MOUNT_ATTR_NODEV`.
        const NODEV = 0x04;
        /// `MOUNT_ATTR_NOEXEC`.
        const NOEXEC = 0x08;
        /// `MOUNT_ATTR_NOATIME`. One value of the field [`MountAttrs::ATIME`].
        const NOATIME = 0x10;
        /// `MOUNT_ATTR_STRICTATIME`. One value of the field [`MountAttrs::ATIME`].
        const STRICTATIME = 0x20;
        /// `MOUNT_ATTR__ATIME`: the whole field; must be cleared to set one of its values.
        const ATIME = 0x70;
        /// `MOUNT_ATTR_NODIRATIME`.
        const NODIRATIME = 0x80;
        /// `MOUNT_ATTR_NOSYMFOLLOW` (Linux 5.14).
        const NOSYMFOLLOW = 0x0020_0000;
        /// `MOUNT_ATTR_IDMAP`.
        const IDMAP = 0x0010_0000;
    }
}

/// `struct mount_attr` of `linux/mount.h`, first version (Linux 5.12).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What [`mount_setattr`] changes.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Attributes to set.
    pub set: MountAttrs,
    /// Attributes to clear first.
    pub clear: MountAttrs,
    /// Cut the tree off from the propagation of mounts (`MS_PRIVATE`).
    pub private: bool,
    /// The user namespace whose map the mount takes; sets [`MountAttrs::IDMAP`]. In that
    /// namespace's map the inside ids are the lower ones and the outside ids the upper ones.
    pub userns: Option<BorrowedFd<'a>>,
    /// Also change all mounts below.
    pub recursive: bool,
}

/// Whether the kernel has mount_setattr(2), and so idmapped mounts (Linux 5.12).
pub fn are_there() -> bool {
    // SAFETY: what there is to read has no length: with the call the answer is `EINVAL`.
    let done = unsafe {
        let attr: *const MountAttr = std::ptr::null();
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, c"".as_ptr(), 0, attr, 0_usize)
    };
    super::check(done).err() != Some(Errno::NOSYS)
}

/// Changes the attributes of the mount that `tree` names (mount_setattr(2), Linux 5.12).
///
/// `EINVAL`: the file system has no idmapped mounts; `EPERM`: no `CAP_SYS_ADMIN` over the file
/// system, or the mount is idmapped already; `ENOSYS`: an older kernel.
pub fn mount_setattr(tree: BorrowedFd<'_>, change: Change<'_>) -> Result<(), Errno> {
    let mut set = change.set;
    let mut userns_fd = 0;
    if let Some(userns) = change.userns {
        set |= MountAttrs::IDMAP;
        userns_fd = u64::from(userns.as_raw_fd().unsigned_abs());
    }
    let attr = MountAttr {
        attr_set: set.bits(),
        attr_clr: change.clear.bits(),
        propagation: if change.private { libc::MS_PRIVATE } else { 0 },
        userns_fd,
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is a live `struct mount_attr` and the size
    // given is its own; the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    super::check(done).map(|_| ())
}

/// Makes a user namespace with these maps and returns a descriptor of it. No process is left in
/// it; it lives as long as the descriptor, or what has taken it over.
///
/// The maps are in the layout of `/proc/PID/uid_map`: `inside outside count` a line
/// (user_namespaces(7)); the kernel takes at most 340 lines and less than a page.
/// The error names the step that failed.
pub fn user_namespace(uid_map: &str, gid_map: &str) -> Result<OwnedFd, (&'static str, io::Error)> {
    let helper =
        Helper::start().map_err(|errno| ("clone3 into a new user namespace", errno.into()))?;
    let proc = PathBuf::from(format!("/proc/{}", helper.pid.as_raw_nonzero()));
    std::fs::write(proc.join("uid_map"), uid_map).map_err(|e| ("writing the uid_map", e))?;
    std::fs::write(proc.join("gid_map"), gid_map).map_err(|e| ("writing the gid_map", e))?;
    rustix::fs::open(proc.join("ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ("opening the new user namespace", errno.into()))
}

/// `struct clone_args` of `linux/sched.h`, first version (Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// A child in a new user namespace that does nothing but wait for its end. Reaped on drop, so
/// that no zombie is left and the pid stays valid while this value lives.
struct Helper {
    pid: Pid,
    pidfd: OwnedFd,
    /// The child ends when this end closes; `None` only while it is dropped.
    alive: Option<OwnedFd>,
}

impl Helper {
    fn start() -> Result<Self, Errno> {
        let (wait_end, alive) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (wait_fd, alive_fd) = (wait_end.as_raw_fd(), alive.as_raw_fd());
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_NEWUSER | libc::CLONE_PIDFD;
        let args = CloneArgs {
            // Handlers of this program must not run in the child: the child shares none of the
            // memory that they would write to, but all of its descriptors.
            flags: u64::from(flags.unsigned_abs()) | CLONE_CLEAR_SIGHAND,
            pidfd: (&raw mut pidfd) as u64,
            exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
            ..CloneArgs::default()
        };
        // SAFETY: `args` is a live `struct clone_args` of the size given, and `pidfd` outlives the
        // call that writes it. No stack is given and CLONE_VM is not set, so the child runs on a
        // copy of this stack as after fork(2). Other threads may have held locks at that moment,
        // so the child must not reach the allocator, stdio or any lock: it goes straight into
        // `wait_for_end`, which makes raw system calls only and never returns.
        let pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>());
            if pid == 0 {
                wait_for_end(wait_fd, alive_fd)
            }
            pid
        };
        let pid = super::check(pid)?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a descriptor that the kernel
        // has just opened for this process and that nothing else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid, pidfd, alive: Some(alive) })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.alive.take());
        while let Err(Errno::INTR) =
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        {
        }
    }
}

/// `CLONE_CLEAR_SIGHAND` of `linux/sched.h` (Linux 5.5). The C library's constant does not fit
/// its own type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// The child's whole life: waits until the parent closes its end of the pipe (or dies), then ends.
///
/// # Safety
/// Only for the child of a clone without `CLONE_VM`. Makes raw system calls and touches nothing
/// but its own stack.
unsafe fn wait_for_end(wait_fd: RawFd, alive_fd: RawFd) -> ! {
    let mut byte = 0_u8;
    // SAFETY: the numbers are this process's own copies of the pipe's descriptors; `byte` is one
    // writable byte. A read that a signal interrupts is taken up again; anything else ends it.
    unsafe {
        libc::syscall(libc::SYS_close, alive_fd);
        loop {
            let got = libc::syscall(libc::SYS_read, wait_fd, &raw mut byte, 1_usize);
            if got >= 0 || *libc::__errno_location() != libc::EINTR {
                break;
            }
        }
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn a_map_that_the_kernel_refuses_is_an_error_that_names_the_step() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (step, error) = user_namespace("0 0 0\n", "0 0 1\n").expect_err("a count of 0");
        assert_eq!(step, "writing the uid_map");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn setattr_of_something_that_is_no_mount_is_refused() {
        let (read, _write) = rustix::pipe::pipe().expect("a pipe");
        let change = Change {
            set: MountAttrs::RDONLY,
            clear: MountAttrs::empty(),
            private: false,
            userns: None,
            recursive: false,
        };
        assert!(mount_setattr(read.as_fd(), change).is_err());
    }
}
