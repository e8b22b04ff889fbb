//! What is tried with each descriptor, and what all other calls are about.

use rustix::io::Errno;

use super::descriptors::Descriptor;
use crate::common::inject::Arg::{self, At, N};

/// A call that is made with a descriptor.
pub(super) struct Probe {
    pub(super) name: &'static str,
    pub(super) call: i64,
    args: fn(&Descriptor) -> Vec<Arg<'static>>,
    /// Errors that come after the descriptor has been found to be good for it.
    passes: &'static [Errno],
    pub(super) then: Then,
}

/// How what a call has done is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    Close,
    /// The name in the directory, with these flags.
    Remove(i64),
    /// The name in the lower directory.
    Unlink,
    Unmap,
}

impl Probe {
    pub(super) fn args(&self, descriptor: &Descriptor) -> Vec<Arg<'static>> {
        (self.args)(descriptor)
    }

    pub(super) fn passes(&self, result: Result<u64, Errno>) -> bool {
        match result {
            Ok(_) => true,
            Err(errno) => self.passes.contains(&errno),
        }
    }
}

const NOTHING: &[u8] = b"\0";
pub(super) const NAME: &[u8] = b"made-by-audit\0";
/// A `struct iovec` for one byte at address 0.
const ONE_BYTE: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
/// Room for a handle of 128 bytes, which it says first.
const ROOM: [u8; 136] = {
    let mut room = [0; 136];
    room[0] = 128;
    room
};
const EMPTY: i64 = libc::AT_EMPTY_PATH as i64;
const PATH: i64 = (libc::O_PATH | libc::O_CLOEXEC) as i64;

/// Its name in the one directory of `/proc` that there is.
fn by_name(descriptor: &Descriptor) -> Arg<'static> {
    At(format!("/proc/self/fd/{}\0", descriptor.number).leak().as_bytes())
}

fn again(descriptor: &Descriptor, flags: i32) -> Vec<Arg<'static>> {
    vec![N(libc::AT_FDCWD.into()), by_name(descriptor), N((flags | libc::O_CLOEXEC).into())]
}

macro_rules! probes {
    ($($name:literal $call:ident $args:expr, [$($errno:ident)*] $then:expr;)*) => {
        vec![$(Probe {
            name: $name,
            call: libc::$call,
            args: $args,
            passes: &[$(Errno::$errno),*],
            then: $then,
        }),*]
    };
}

/// Nothing is really written, sent or changed: a null pointer stops what gets so far.
pub(super) fn probes() -> Vec<Probe> {
    use Then::{Close, Nothing, Remove, Unlink, Unmap};
    probes![
        "read" SYS_read |d| vec![N(d.number), N(0), N(0)], [INVAL AGAIN] Nothing;
        "readv" SYS_readv |d| vec![N(d.number), N(0), N(0)], [INVAL AGAIN] Nothing;
        "write" SYS_write |d| vec![N(d.number), N(0), N(1)], [INVAL FAULT] Nothing;
        "writev" SYS_writev |d| vec![N(d.number), At(&ONE_BYTE), N(1)], [INVAL FAULT] Nothing;
        "pread64" SYS_pread64 |d| vec![N(d.number), N(0), N(0), N(0)], [INVAL] Nothing;
        "preadv2" SYS_preadv2 |d| vec![N(d.number), N(0), N(0), N(0), N(0), N(0)], [INVAL] Nothing;
        "pwrite64" SYS_pwrite64 |d| vec![N(d.number), N(0), N(1), N(0)], [INVAL FAULT] Nothing;
        "pwritev2" SYS_pwritev2 |d| vec![N(d.number), At(&ONE_BYTE), N(1), N(0), N(0), N(0)], [INVAL FAULT] Nothing;
        "recvfrom" SYS_recvfrom |d| vec![N(d.number), N(0), N(1), N((libc::MSG_DONTWAIT | libc::MSG_PEEK).into()), N(0), N(0)], [AGAIN FAULT] Nothing;
        "sendto" SYS_sendto |d| vec![N(d.number), N(0), N(1), N(0), N(0), N(0)], [FAULT] Nothing;
        "shutdown" SYS_shutdown |d| vec![N(d.number), N(9)], [INVAL] Nothing;
        "openat, of `.`" SYS_openat |d| vec![N(d.number), At(b".\0"), N(PATH)], [] Close;
        "openat, of `..`" SYS_openat |d| vec![N(d.number), At(b"..\0"), N(PATH)], [] Close;
        "openat, once more to read" SYS_openat |d| again(d, libc::O_RDONLY), [] Close;
        "openat, once more to write" SYS_openat |d| again(d, libc::O_WRONLY), [] Close;
        "open, once more to write" SYS_open |d| again(d, libc::O_WRONLY)[1..].to_vec(), [] Close;
        "statx" SYS_statx |d| vec![N(d.number), At(NOTHING), N(EMPTY), N(0x7ff), At(&[0; 256])], [] Nothing;
        "newfstatat" SYS_newfstatat |d| vec![N(d.number), At(NOTHING), At(&[0; 144]), N(EMPTY)], [] Nothing;
        "stat" SYS_stat |d| vec![by_name(d), At(&[0; 144])], [] Nothing;
        "fstat" SYS_fstat |d| vec![N(d.number), At(&[0; 144])], [] Nothing;
        "fstatfs" SYS_fstatfs |d| vec![N(d.number), At(&[0; 120])], [] Nothing;
        "statfs" SYS_statfs |d| vec![by_name(d), At(&[0; 120])], [] Nothing;
        "readlinkat, of itself" SYS_readlinkat |d| vec![N(d.number), At(NOTHING), At(&[0; 64]), N(64)], [] Nothing;
        "getdents64" SYS_getdents64 |d| vec![N(d.number), At(&[0; 512]), N(512)], [] Nothing;
        "faccessat" SYS_faccessat |d| vec![N(d.number), At(b".\0"), N(0)], [] Nothing;
        "faccessat2" SYS_faccessat2 |d| vec![N(d.number), At(NOTHING), N(0), N(EMPTY)], [] Nothing;
        "chdir" SYS_chdir |d| vec![by_name(d)], [] Nothing;
        "mkdirat" SYS_mkdirat |d| vec![N(d.number), At(NAME), N(0o700)], [] Remove(libc::AT_REMOVEDIR.into());
        "mknodat" SYS_mknodat |d| vec![N(d.number), At(NAME), N(i64::from(libc::S_IFREG | 0o600)), N(0)], [] Remove(0);
        "symlinkat" SYS_symlinkat |d| vec![At(b"x\0"), N(d.number), At(NAME)], [] Remove(0);
        "linkat, of itself" SYS_linkat |d| vec![N(d.number), At(NOTHING), N(d.root), At(NAME), N(EMPTY)], [] Unlink;
        "renameat2" SYS_renameat2 |d| vec![N(d.number), At(NAME), N(d.number), At(b"other\0"), N(0)], [NOENT] Nothing;
        "renameat" SYS_renameat |d| vec![N(d.number), At(NAME), N(d.number), At(b"other\0")], [NOENT] Nothing;
        "unlinkat" SYS_unlinkat |d| vec![N(d.number), At(NAME), N(0)], [NOENT] Nothing;
        "name_to_handle_at" SYS_name_to_handle_at |d| vec![N(d.number), At(NOTHING), At(&ROOM), At(&[0; 8]), N(EMPTY)], [] Nothing;
        "open_by_handle_at" SYS_open_by_handle_at |d| vec![N(d.number), At(&[8, 0, 0, 0, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), N(PATH)], [STALE INVAL] Close;
        "fanotify_mark, of it" SYS_fanotify_mark |d| vec![N(d.group), N(libc::FAN_MARK_ADD.into()), N(libc::FAN_MODIFY.cast_signed()), N(d.number), N(0)], [] Nothing;
        "fanotify_mark, with it" SYS_fanotify_mark |d| vec![N(d.number), N(libc::FAN_MARK_ADD.into()), N(libc::FAN_MODIFY.cast_signed()), N(d.root), N(0)], [] Nothing;
        "dup" SYS_dup |d| vec![N(d.number)], [] Close;
        "close" SYS_close |d| vec![N(d.number)], [] Nothing;
        "fcntl, F_DUPFD" SYS_fcntl |d| vec![N(d.number), N(libc::F_DUPFD.into()), N(0)], [] Close;
        "fcntl, F_DUPFD_CLOEXEC" SYS_fcntl |d| vec![N(d.number), N(libc::F_DUPFD_CLOEXEC.into()), N(0)], [] Close;
        "fcntl, F_GETFD" SYS_fcntl |d| vec![N(d.number), N(libc::F_GETFD.into())], [] Nothing;
        "fcntl, F_SETFD" SYS_fcntl |d| vec![N(d.number), N(libc::F_SETFD.into()), N(libc::FD_CLOEXEC.into())], [] Nothing;
        "fcntl, F_GETFL" SYS_fcntl |d| vec![N(d.number), N(libc::F_GETFL.into())], [] Nothing;
        "fcntl, F_SETFL" SYS_fcntl |d| vec![N(d.number), N(libc::F_SETFL.into()), N(d.flags.bits().into())], [] Nothing;
        "fcntl, F_OFD_GETLK" SYS_fcntl |d| vec![N(d.number), N(libc::F_OFD_GETLK.into()), N(0)], [FAULT] Nothing;
        "fcntl, F_OFD_SETLK" SYS_fcntl |d| vec![N(d.number), N(libc::F_OFD_SETLK.into()), N(0)], [FAULT] Nothing;
        "fcntl, F_OFD_SETLKW" SYS_fcntl |d| vec![N(d.number), N(libc::F_OFD_SETLKW.into()), N(0)], [FAULT] Nothing;
        "flock" SYS_flock |d| vec![N(d.number), N(libc::LOCK_UN.into())], [] Nothing;
        "ioctl, FS_IOC_GETFLAGS" SYS_ioctl |d| vec![N(d.number), N(0x8008_6601), N(0)], [FAULT] Nothing;
        "ioctl, FS_IOC_SETFLAGS" SYS_ioctl |d| vec![N(d.number), N(0x4008_6602), At(&[0; 8])], [] Nothing;
        "ioctl, FS_IOC_FSGETXATTR" SYS_ioctl |d| vec![N(d.number), N(0x801c_581f), N(0)], [FAULT] Nothing;
        "ioctl, FS_IOC_FSSETXATTR" SYS_ioctl |d| vec![N(d.number), N(0x401c_5820), At(&[0; 32])], [] Nothing;
        "ioctl, FS_IOC_GETVERSION" SYS_ioctl |d| vec![N(d.number), N(0x8008_7601), N(0)], [FAULT] Nothing;
        "ioctl, FUSE_DEV_IOC_BACKING_OPEN" SYS_ioctl |d| vec![N(d.number), N(0x4010_e501), N(0)], [FAULT] Nothing;
        "ioctl, FUSE_DEV_IOC_BACKING_CLOSE" SYS_ioctl |d| vec![N(d.number), N(0x4004_e502), N(0)], [FAULT] Nothing;
        "fchmod" SYS_fchmod |d| vec![N(d.number), N(0o700)], [] Nothing;
        "fchmodat" SYS_fchmodat |d| vec![N(libc::AT_FDCWD.into()), by_name(d), N(0o700)], [] Nothing;
        "fchmodat2" SYS_fchmodat2 |d| vec![N(d.number), At(NOTHING), N(0o700), N(EMPTY)], [] Nothing;
        "fchown" SYS_fchown |d| vec![N(d.number), N(-1), N(-1)], [] Nothing;
        "fchownat" SYS_fchownat |d| vec![N(d.number), At(NOTHING), N(-1), N(-1), N(EMPTY)], [] Nothing;
        "utimensat" SYS_utimensat |d| vec![N(libc::AT_FDCWD.into()), by_name(d), N(0), N(0)], [] Nothing;
        "ftruncate, shorter" SYS_ftruncate |d| vec![N(d.number), N(16)], [] Nothing;
        "truncate, shorter" SYS_truncate |d| vec![by_name(d), N(16)], [] Nothing;
        "fallocate" SYS_fallocate |d| vec![N(d.number), N(libc::FALLOC_FL_KEEP_SIZE.into()), N(0), N(1)], [] Nothing;
        "getxattr" SYS_getxattr |d| vec![by_name(d), At(b"trusted.audit\0"), N(0), N(0)], [NODATA] Nothing;
        "lgetxattr" SYS_lgetxattr |d| vec![by_name(d), At(b"trusted.audit\0"), N(0), N(0)], [NODATA] Nothing;
        "fgetxattr" SYS_fgetxattr |d| vec![N(d.number), At(b"trusted.audit\0"), N(0), N(0)], [NODATA] Nothing;
        "setxattr" SYS_setxattr |d| vec![by_name(d), At(b"trusted.audit\0"), At(b"x"), N(1), N(0)], [] Nothing;
        "lsetxattr" SYS_lsetxattr |d| vec![by_name(d), At(b"trusted.audit\0"), At(b"x"), N(1), N(0)], [] Nothing;
        "fsetxattr" SYS_fsetxattr |d| vec![N(d.number), At(b"trusted.audit\0"), At(b"x"), N(1), N(0)], [] Nothing;
        "listxattr" SYS_listxattr |d| vec![by_name(d), N(0), N(0)], [] Nothing;
        "llistxattr" SYS_llistxattr |d| vec![by_name(d), N(0), N(0)], [] Nothing;
        "flistxattr" SYS_flistxattr |d| vec![N(d.number), N(0), N(0)], [] Nothing;
        "removexattr" SYS_removexattr |d| vec![by_name(d), At(b"trusted.audit\0")], [NODATA] Nothing;
        "lremovexattr" SYS_lremovexattr |d| vec![by_name(d), At(b"trusted.audit\0")], [NODATA] Nothing;
        "fremovexattr" SYS_fremovexattr |d| vec![N(d.number), At(b"trusted.audit\0")], [NODATA] Nothing;
        "lseek" SYS_lseek |d| vec![N(d.number), N(0), N(libc::SEEK_CUR.into())], [] Nothing;
        "copy_file_range" SYS_copy_file_range |d| vec![N(d.number), N(0), N(d.number), N(0), N(0), N(0)], [] Nothing;
        "fadvise64" SYS_fadvise64 |d| vec![N(d.number), N(0), N(0), N(0)], [] Nothing;
        "fsync" SYS_fsync |d| vec![N(d.number)], [] Nothing;
        "fdatasync" SYS_fdatasync |d| vec![N(d.number)], [] Nothing;
        "syncfs" SYS_syncfs |d| vec![N(d.number)], [] Nothing;
        "mmap" SYS_mmap |d| vec![N(0), N(4096), N(libc::PROT_READ.into()), N(libc::MAP_SHARED.into()), N(d.number), N(0)], [] Unmap;
    ]
}

macro_rules! calls {
    ($($reach:literal: $($name:ident)*;)*) => {
        &[$(($reach, &[$((stringify!($name), libc::$name)),*])),*]
    };
}

/// What calls reach that are about no descriptor, or about all of them alike.
pub(super) const OTHERS: &[(&str, &[(&str, i64)])] = calls! {
    "waiting for descriptors": SYS_ppoll SYS_poll;
    "a new descriptor that counts": SYS_eventfd2;
    "names in the empty root, in /proc/self/fd, and in directories that are open": SYS_lstat SYS_readlink SYS_rename SYS_getcwd;
    "ids, groups, umask and capabilities of one thread: no more than it has had": SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_umask SYS_capget SYS_capset SYS_unshare;
    "memory of this process, never executable": SYS_brk SYS_mprotect SYS_munmap SYS_mremap SYS_madvise SYS_membarrier;
    "threads of this process, and time": SYS_clone SYS_clone3 SYS_futex SYS_set_robust_list SYS_rseq SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_nanosleep SYS_clock_nanosleep SYS_restart_syscall SYS_exit SYS_exit_group SYS_prctl SYS_tgkill;
    "the end of the helper, its child": SYS_wait4;
    "what this process does when a signal comes": SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack;
    "clocks, random numbers, what this process is, and the kernel's version": SYS_clock_gettime SYS_clock_getres SYS_gettimeofday SYS_time SYS_getrandom SYS_getpid SYS_getppid SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getrusage SYS_uname SYS_prlimit64;
};
