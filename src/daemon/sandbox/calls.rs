//! The system calls that a confined server can make, by what it needs them for. Everything else is
//! refused.
//!
//! Numbers differ between processors, names do not: what a processor lacks is left out by `cfg`.

use libc::{
    SYS_brk, SYS_capget, SYS_capset, SYS_chdir, SYS_clock_getres, SYS_clock_gettime,
    SYS_clock_nanosleep, SYS_clone, SYS_clone3, SYS_close, SYS_copy_file_range, SYS_dup,
    SYS_eventfd2, SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2, SYS_fadvise64,
    SYS_fallocate, SYS_fanotify_mark, SYS_fchmod, SYS_fchmodat, SYS_fchmodat2, SYS_fchown,
    SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock,
    SYS_fremovexattr, SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex,
    SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getpid, SYS_getppid,
    SYS_getrandom, SYS_getrusage, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr,
    SYS_io_uring_enter, SYS_io_uring_register, SYS_ioctl, SYS_lgetxattr, SYS_linkat, SYS_listxattr,
    SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_madvise, SYS_membarrier,
    SYS_mkdirat, SYS_mknodat, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap,
    SYS_name_to_handle_at, SYS_nanosleep, SYS_newfstatat, SYS_open_by_handle_at, SYS_openat,
    SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv2, SYS_prlimit64, SYS_pwrite64, SYS_pwritev2,
    SYS_read, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_removexattr, SYS_renameat2,
    SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_yield, SYS_sendto, SYS_set_robust_list,
    SYS_setfsgid, SYS_setfsuid, SYS_setgroups, SYS_setxattr, SYS_shutdown, SYS_sigaltstack,
    SYS_statfs, SYS_statx, SYS_symlinkat, SYS_syncfs, SYS_tgkill, SYS_truncate, SYS_umask,
    SYS_uname, SYS_unlinkat, SYS_unshare, SYS_utimensat, SYS_wait4, SYS_write, SYS_writev,
};

use std::os::fd::{AsRawFd, RawFd};

use crate::lower::Keys;
use crate::sys::fanotify::{END_IGNORING, FORGET_MARKS, IGNORE_INODE, MARK_INODE};
use crate::sys::fuse_device::{BACKING_CLOSE, BACKING_OPEN};
use crate::sys::ioctl::FileIoctl;
use crate::sys::uring;

/// Calls that a feature needs, whatever their arguments.
#[derive(Debug)]
pub struct Feature {
    /// What needs them.
    pub name: &'static str,
    /// Their numbers on this processor.
    pub calls: &'static [i64],
}

/// Calls that are needed with some arguments only. All conditions must hold.
#[derive(Debug)]
pub struct Narrow {
    /// What needs it.
    pub name: &'static str,
    /// Its number on this processor.
    pub call: i64,
    /// What must be true of its arguments.
    pub when: Vec<When>,
}

/// A condition on the argument of a call, counted from 0; 32 bits of it, but for addresses.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// It is this number.
    Is(u8, u32),
    /// It is any other.
    Not(u8, u32),
    /// Of these bits, exactly those of the second number are set.
    Bits(u8, u32, u32),
    /// It is a null pointer.
    Null(u8),
}

/// The calls that are needed whatever their arguments.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "requests and answers",
        calls: &[SYS_read, SYS_readv, SYS_write, SYS_writev, SYS_ppoll, SYS_eventfd2, SYS_recvfrom],
    },
    Feature {
        name: "names",
        calls: &[
            SYS_openat,
            SYS_statx,
            SYS_newfstatat,
            SYS_readlinkat,
            SYS_getdents64,
            SYS_faccessat,
            SYS_faccessat2,
            SYS_getcwd,
            SYS_chdir,
        ],
    },
    Feature {
        name: "changing names",
        calls: &[SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat, SYS_unlinkat, SYS_renameat2],
    },
    Feature { name: "file handles", calls: &[SYS_name_to_handle_at] },
    Feature { name: "descriptors", calls: &[SYS_dup, SYS_fstat, SYS_fstatfs, SYS_statfs] },
    Feature {
        name: "attributes",
        calls: &[
            SYS_fchmod,
            SYS_fchmodat,
            SYS_fchmodat2,
            SYS_fchown,
            SYS_fchownat,
            SYS_utimensat,
            SYS_truncate,
            SYS_ftruncate,
        ],
    },
    Feature {
        name: "extended attributes and ACLs",
        calls: &[
            SYS_getxattr,
            SYS_lgetxattr,
            SYS_fgetxattr,
            SYS_setxattr,
            SYS_lsetxattr,
            SYS_fsetxattr,
            SYS_listxattr,
            SYS_llistxattr,
            SYS_flistxattr,
            SYS_removexattr,
            SYS_lremovexattr,
            SYS_fremovexattr,
        ],
    },
    Feature {
        name: "contents",
        calls: &[
            SYS_pread64,
            SYS_preadv2,
            SYS_pwrite64,
            SYS_pwritev2,
            SYS_lseek,
            SYS_fallocate,
            SYS_copy_file_range,
            SYS_fadvise64,
            SYS_fsync,
            SYS_fdatasync,
            SYS_syncfs,
        ],
    },
    Feature { name: "ending the helper", calls: &[SYS_shutdown, SYS_wait4] },
    Feature { name: "locks", calls: &[SYS_flock] },
    Feature {
        name: "acting as the caller",
        calls: &[SYS_setfsuid, SYS_setfsgid, SYS_setgroups, SYS_umask, SYS_capget, SYS_capset],
    },
    Feature {
        name: "memory",
        calls: &[SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_membarrier],
    },
    Feature {
        name: "threads and waiting",
        calls: &[
            SYS_clone3, // refused by another filter, in a way that the C library understands
            SYS_futex,
            SYS_set_robust_list,
            SYS_rseq,
            SYS_sched_yield,
            SYS_sched_getaffinity,
            SYS_nanosleep,
            SYS_clock_nanosleep,
            SYS_restart_syscall,
            SYS_exit,
            SYS_exit_group,
        ],
    },
    Feature {
        name: "signals",
        calls: &[SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack],
    },
    Feature {
        name: "clocks and facts",
        calls: &[
            SYS_clock_gettime,
            SYS_clock_getres,
            SYS_gettimeofday,
            SYS_getrandom,
            SYS_getpid,
            SYS_getppid,
            SYS_gettid,
            SYS_getuid,
            SYS_geteuid,
            SYS_getgid,
            SYS_getegid,
            SYS_getrusage,
            SYS_uname,
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Feature {
        name: "older forms of the above",
        calls: &[
            libc::SYS_poll,
            libc::SYS_rename,
            libc::SYS_renameat,
            libc::SYS_open,
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_readlink,
            libc::SYS_time,
        ],
    },
];

/// Descriptors by whose numbers the filter knows what a call is about. They were opened before the
/// filter was there and stay: they cannot be closed, nor others be put in their places.
///
/// With any descriptor in its first argument `open_by_handle_at` opens every file of the file system
/// that this one is on, and `fanotify_mark` listens to all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    /// By what files are opened by their handles.
    pub mounts: Vec<RawFd>,
    /// What listens to changes (`fanotify`).
    pub group: Option<RawFd>,
    /// What requests come through (io_uring). Each is restricted to requests and answers of this one
    /// mount, so nothing else can be had through it.
    pub rings: Vec<RawFd>,
}

impl From<(Keys<'_>, Vec<RawFd>)> for Pins {
    fn from((keys, rings): (Keys<'_>, Vec<RawFd>)) -> Self {
        let Keys { mounts, group } = keys;
        let mounts = mounts.iter().map(AsRawFd::as_raw_fd).collect();
        Self { mounts, group: group.map(|group| group.as_raw_fd()), rings }
    }
}

impl Pins {
    /// What is allowed with them, and nothing else that could move them: neither `dup2`, `dup3` nor
    /// `close_range` is listed anywhere.
    fn calls(&self) -> Vec<Narrow> {
        let opens = self.mounts.iter().map(|fd| Narrow {
            name: "file handles",
            call: SYS_open_by_handle_at,
            when: vec![When::Is(0, bits(*fd))],
        });
        // On single inodes, never on whole mounts or file systems.
        let marks = self.group.into_iter().flat_map(|group| {
            [MARK_INODE, FORGET_MARKS, IGNORE_INODE, END_IGNORING].map(|flags| Narrow {
                name: "cache=coherent",
                call: SYS_fanotify_mark,
                when: vec![When::Is(0, bits(group)), When::Is(1, flags)],
            })
        });
        // A ring is enabled by the thread that will use it; all else about it is settled.
        let rings = self.rings.iter().flat_map(|&ring| {
            [(SYS_io_uring_enter, None), (SYS_io_uring_register, Some(uring::ENABLE))].map(
                |(call, command)| Narrow {
                    name: "transport=uring",
                    call,
                    when: [When::Is(0, bits(ring))]
                        .into_iter()
                        .chain(command.map(|command| When::Is(1, command)))
                        .collect(),
                },
            )
        });
        let pinned = self.mounts.iter().copied().chain(self.group).chain(self.rings.clone());
        let close = Narrow {
            name: "descriptors",
            call: SYS_close,
            when: pinned.map(|fd| When::Not(0, bits(fd))).collect(),
        };
        opens.chain(marks).chain(rings).chain([close]).collect()
    }
}

/// The calls that are needed with some arguments only.
pub fn narrow(pins: &Pins) -> Vec<Narrow> {
    let one = |name, call, when: &[When]| Narrow { name, call, when: when.to_vec() };
    let mut all = vec![
        // Threads of this process; no other process, and no namespace.
        one("threads", SYS_clone, &[When::Bits(0, NOT_FOR_THREADS | THREAD, THREAD)]),
        one("acting as the caller", SYS_unshare, &[When::Is(0, bits(libc::CLONE_FS))]),
        one("moving to a caller's CPU", SYS_sched_setaffinity, &[When::Is(0, 0)]), // this thread
        one("names of threads", SYS_prctl, &[When::Is(0, bits(libc::PR_SET_NAME))]),
        one("names of memory", SYS_prctl, &[When::Is(0, bits(libc::PR_SET_VMA))]),
        // Nothing is ever made executable.
        one("memory", SYS_mmap, &[When::Bits(2, bits(libc::PROT_EXEC), 0)]),
        one("memory", SYS_mprotect, &[When::Bits(2, bits(libc::PROT_EXEC), 0)]),
        one("limits of this process", SYS_prlimit64, &[When::Is(0, 0), When::Null(2)]),
        // To whoever the socket is connected to.
        one("telling the service manager, signals", SYS_sendto, &[When::Null(4)]),
        one("ending, and waking who waits", SYS_tgkill, &[When::Is(0, std::process::id())]),
    ];
    let commands = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_OFD_GETLK,
        libc::F_OFD_SETLK,
        libc::F_OFD_SETLKW,
    ];
    // Not those that would have the kernel send signals to others.
    all.extend(
        commands
            .map(|command| one("descriptors and locks", SYS_fcntl, &[When::Is(1, bits(command))])),
    );
    let requests = FileIoctl::ALL.iter().map(|ioctl| ioctl.request());
    let requests = requests.chain([BACKING_OPEN, BACKING_CLOSE]);
    all.extend(requests.map(|request| one("ioctls", SYS_ioctl, &[When::Is(1, request)])));
    all.extend(pins.calls());
    all
}

/// What every thread is made with, and a new process never.
const THREAD: u32 = bits(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND);
/// What no thread is made with.
const NOT_FOR_THREADS: u32 = bits(
    libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PTRACE
        | libc::CLONE_VFORK,
);

const fn bits(flags: i32) -> u32 {
    flags.cast_unsigned()
}
