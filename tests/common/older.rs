//! An older kernel, as a program sees it: a filter answers `ENOSYS` to each system call that is newer,
//! and `EINVAL` or `ENOTTY` to newer flags of old ones.
//!
//! `IDSHIFT_TEST_KERNEL=5.4` runs any test program so: idshift alone is under the filter, the tests
//! see the machine's kernel. What a filter cannot take away stays: what statx(2) tells, the fields of
//! `/proc`, and what the kernel's FUSE offers. Virtual machines have that (`tests/kernels.sh`).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use idshift::sys::{self, seccomp};
use rustix::io::Errno;
use rustix::thread::set_no_new_privs;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// A version of Linux.
pub(crate) type Version = (u32, u32);

/// The first system call that has the same number on all architectures: all later ones have, too.
const FIRST: i64 = 424;
/// Beyond what any kernel has today.
const BEYOND: i64 = 600;

/// The system calls from [`FIRST`] on, by the kernel that brought them (`arch/x86/entry/syscalls`).
const CALLS: &[(Version, std::ops::RangeInclusive<i64>)] = &[
    ((5, 1), 424..=427),  // pidfd_send_signal, io_uring_*
    ((5, 2), 428..=433),  // open_tree, move_mount, fsopen, fsconfig, fsmount, fspick
    ((5, 3), 434..=435),  // pidfd_open, clone3
    ((5, 9), 436..=436),  // close_range
    ((5, 6), 437..=438),  // openat2, pidfd_getfd
    ((5, 8), 439..=439),  // faccessat2
    ((5, 10), 440..=440), // process_madvise
    ((5, 11), 441..=441), // epoll_pwait2
    ((5, 12), 442..=442), // mount_setattr
    ((5, 14), 443..=443), // quotactl_fd
    ((5, 13), 444..=446), // landlock_*
    ((5, 14), 447..=447), // memfd_secret
    ((5, 15), 448..=448), // process_mrelease
    ((5, 16), 449..=449), // futex_waitv
    ((5, 17), 450..=450), // set_mempolicy_home_node
    ((6, 5), 451..=451),  // cachestat
    ((6, 6), 452..=453),  // fchmodat2, map_shadow_stack
    ((6, 7), 454..=456),  // futex_wake, futex_wait, futex_requeue
    ((6, 8), 457..=461),  // statmount, listmount, lsm_*
    ((6, 10), 462..=462), // mseal
    ((6, 13), 463..=466), // setxattrat, getxattrat, listxattrat, removexattrat
    ((6, 15), 467..=467), // open_tree_attr
    ((6, 17), 468..=469), // file_getattr, file_setattr
];

/// Newer flags of older calls, `EINVAL` before: the kernel that brought them, the call, which argument,
/// the bits.
const FLAGS: &[(Version, i64, u8, u32)] = &[
    ((5, 1), libc::SYS_fanotify_init, 0, libc::FAN_REPORT_FID),
    ((5, 9), libc::SYS_fanotify_init, 0, libc::FAN_REPORT_DIR_FID),
    ((5, 17), libc::SYS_fanotify_init, 0, libc::FAN_REPORT_TARGET_FID),
    ((5, 19), libc::SYS_fanotify_mark, 1, libc::FAN_MARK_EVICTABLE),
    ((6, 0), libc::SYS_fanotify_mark, 1, libc::FAN_MARK_IGNORE),
    ((5, 8), libc::SYS_utimensat, 3, libc::AT_EMPTY_PATH.cast_unsigned()),
    ((6, 3), libc::SYS_memfd_create, 1, libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC),
];

/// The kernel that idshift sees.
pub(crate) fn kernel() -> Version {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse().ok());
    let own = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    asked_for().map_or(own, |shown| own.min(version(&shown)))
}

/// What is asked for, as in `5.4`.
pub(crate) fn asked_for() -> Option<String> {
    std::env::var("IDSHIFT_TEST_KERNEL").ok()
}

/// A program in `base` that runs `program` as on this kernel: a copy of this test program, with what to
/// run behind its end ([`stand_in`]).
pub(crate) fn wrap(program: &Path, kernel: &str, base: &Path) -> PathBuf {
    let dir = base.join(format!("on-{kernel}"));
    std::fs::create_dir_all(&dir).unwrap();
    let wrapper = dir.join("idshift");
    if wrapper.exists() {
        return wrapper;
    }
    // By another process: a file that is open for writing anywhere cannot be executed.
    // And whole, if several tests make it at once.
    let script = r#"cat /proc/$1/exe >"$2.$$" && printf '\0%s\0%s\0%s' "$3" "$4" "$5" >>"$2.$$" &&
        chmod 755 "$2.$$" && mv "$2.$$" "$2""#;
    let status = Command::new("sh")
        .args(["-c", script, "sh", &std::process::id().to_string()])
        .args([wrapper.as_os_str(), kernel.as_ref(), program.as_os_str(), MARK.as_ref()])
        .status();
    assert!(status.unwrap().success());
    wrapper
}

/// What such a copy ends with.
const MARK: &str = "idshift on an older kernel";
/// More than is behind the end of the test program.
const TAIL: i64 = 8192;

/// If this is such a copy: becomes the program that it stands for. For the start of `main`.
pub(crate) fn stand_in() {
    let mut own = File::open("/proc/self/exe").unwrap();
    own.seek(SeekFrom::End(-TAIL)).unwrap();
    let mut tail = Vec::new();
    own.read_to_end(&mut tail).unwrap();
    let mut words = tail.rsplit(|byte| *byte == 0);
    if words.next() != Some(MARK.as_bytes()) {
        return;
    }
    let program = PathBuf::from(OsStr::from_bytes(words.next().unwrap()));
    install(version(std::str::from_utf8(words.next().unwrap()).unwrap()));
    let mut args = std::env::args_os();
    let mut command = Command::new(program);
    command.arg0(args.next().unwrap()).args(args);
    let error = command.exec();
    panic!("{command:?}: {error}");
}

/// A version in words.
pub(crate) fn version(text: &str) -> Version {
    let (major, minor) = text.split_once('.').expect("a version as 5.4");
    (major.parse().unwrap(), minor.parse().unwrap())
}

/// Puts the filter on this process, and on all that it executes.
fn install(kernel: Version) {
    let mut missing = BTreeMap::new();
    let known = |call| CALLS.iter().any(|(since, calls)| *since <= kernel && calls.contains(&call));
    for call in (FIRST..BEYOND).filter(|call| !known(*call)) {
        missing.insert(call, Vec::new());
    }
    put(missing, Errno::NOSYS);
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (since, call, at, bits) in FLAGS {
        // Any one of the bits.
        for bit in (0..32).map(|n| 1 << n).filter(|bit| bits & bit != 0 && *since > kernel) {
            let rule = (*at, SeccompCmpOp::MaskedEq(u64::from(bit)), u64::from(bit));
            refused.entry(*call).or_default().push(only(rule));
        }
    }
    put(refused, Errno::INVAL);
    if kernel < (6, 9) {
        let backing = [sys::fuse_device::BACKING_OPEN, sys::fuse_device::BACKING_CLOSE];
        let ioctls = backing.map(|number| only((1, SeccompCmpOp::Eq, u64::from(number))));
        put(BTreeMap::from([(libc::SYS_ioctl, ioctls.to_vec())]), Errno::NOTTY);
    }
}

fn only((at, how, value): (u8, SeccompCmpOp, u64)) -> SeccompRule {
    let condition = SeccompCondition::new(at, SeccompCmpArgLen::Dword, how, value).unwrap();
    SeccompRule::new(vec![condition]).unwrap()
}

fn put(rules: BTreeMap<i64, Vec<SeccompRule>>, answer: Errno) {
    if rules.is_empty() {
        return;
    }
    let answer = SeccompAction::Errno(answer.raw_os_error().unsigned_abs());
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).unwrap();
    let program = seccompiler::BpfProgram::try_from(filter).unwrap();
    let program: Vec<_> = program.iter().map(|one| (one.code, one.jt, one.jf, one.k)).collect();
    let installed = seccomp::install(&program, false).or_else(|_| {
        // Who has no CAP_SYS_ADMIN has to give up set-user-ID programs first (fusermount3).
        set_no_new_privs(true)?;
        seccomp::install(&program, false)
    });
    installed.unwrap();
}
