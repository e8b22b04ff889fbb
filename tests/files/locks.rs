//! Advisory locks: flock, POSIX and OFD, on the mount and (`locks=lower`) with the lower side.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::raw::{self, lock};
use crate::common::{self, Errno, Mount, OFlags, assert_errno, eventually, lo, open, put_file};
use rustix::fs::{FlockOperation, flock};

crate::common::tests!(
    flock_excludes,
    flock_is_shared,
    flock_ends_with_the_last_descriptor,
    posix_locks_exclude_another_process,
    posix_lock_is_reported_with_its_owner,
    posix_locks_end_with_the_process,
    ofd_locks_exclude_each_other,
    ranges_are_independent,
    waiting_lock_gets_its_turn,
    locks_need_the_right_mode,
    flock_with_the_lower_side,
    posix_locks_with_the_lower_side,
);

const LOCKED: Errno = Errno::AGAIN;

fn one_file(options: &str) -> Mount {
    Mount::with(&format!("{}{options}", common::MAP), |lower| {
        put_file(&lower.join("file"), b"0123456789", 0o666, lo(0), lo(0));
    })
}

fn rw(path: &Path) -> OwnedFd {
    open(path, OFlags::RDWR, 0).unwrap()
}

fn try_flock(fd: &OwnedFd, operation: FlockOperation) -> Result<(), Errno> {
    flock(fd, operation)
}

/// Takes an OFD lock, which belongs to the descriptor.
fn try_ofd(fd: &OwnedFd, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    lock(fd.as_fd(), libc::F_OFD_SETLK, kind, start, length).map(drop)
}

/// Takes a POSIX lock, which belongs to the process.
fn try_posix(fd: &OwnedFd, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    lock(fd.as_fd(), libc::F_SETLK, kind, start, length).map(drop)
}

/// Another process that holds a POSIX write lock on the whole file until it is killed.
struct Holder(Child);

impl Holder {
    fn of(path: &Path) -> Self {
        common::runner::needs_program("python3");
        let program = "import fcntl,sys\n\
             f=open(sys.argv[1],'r+')\n\
             fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n\
             print('locked',flush=True)\n\
             sys.stdin.read()\n";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn flock_excludes() {
    let mount = one_file("");
    let (one, two) = (rw(&mount.up("file")), rw(&mount.up("file")));
    try_flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_errno!(try_flock(&two, FlockOperation::NonBlockingLockExclusive), LOCKED);
    assert_errno!(try_flock(&two, FlockOperation::NonBlockingLockShared), LOCKED);
    try_flock(&one, FlockOperation::Unlock).unwrap();
    try_flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
}

fn flock_is_shared() {
    let mount = one_file("");
    let (one, two) = (rw(&mount.up("file")), rw(&mount.up("file")));
    try_flock(&one, FlockOperation::NonBlockingLockShared).unwrap();
    try_flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    assert_errno!(try_flock(&one, FlockOperation::NonBlockingLockExclusive), LOCKED);
}

fn flock_ends_with_the_last_descriptor() {
    let mount = one_file("");
    let one = rw(&mount.up("file"));
    try_flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    let copy = one.try_clone().unwrap();
    drop(one);
    let two = rw(&mount.up("file"));
    assert_errno!(try_flock(&two, FlockOperation::NonBlockingLockExclusive), LOCKED);
    drop(copy);
    // A process that another test is just starting may still have a copy, until it executes.
    eventually("the lock ends with the last descriptor", || {
        try_flock(&two, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
}

fn posix_locks_exclude_another_process() {
    let mount = one_file("");
    let holder = Holder::of(&mount.up("file"));
    let fd = rw(&mount.up("file"));
    assert_errno!(try_posix(&fd, libc::F_WRLCK, 0, 0), LOCKED);
    assert_errno!(try_posix(&fd, libc::F_RDLCK, 5, 1), LOCKED);
    assert_errno!(try_ofd(&fd, libc::F_RDLCK, 5, 1), LOCKED);
    drop(holder);
    try_posix(&fd, libc::F_WRLCK, 0, 0).unwrap();
}

fn posix_lock_is_reported_with_its_owner() {
    let mount = one_file("");
    let holder = Holder::of(&mount.up("file"));
    let fd = rw(&mount.up("file"));
    let found = lock(fd.as_fd(), libc::F_GETLK, libc::F_WRLCK, 0, 0).unwrap();
    assert_eq!(i32::from(found.l_type), libc::F_WRLCK);
    assert_eq!(u32::try_from(found.l_pid).unwrap(), holder.0.id());
    assert_eq!((found.l_start, found.l_len), (0, 0));
    drop(holder);
    let found = lock(fd.as_fd(), libc::F_GETLK, libc::F_WRLCK, 0, 0).unwrap();
    assert_eq!(i32::from(found.l_type), libc::F_UNLCK);
}

fn posix_locks_end_with_the_process() {
    let mount = one_file("");
    for _ in 0..3 {
        let holder = Holder::of(&mount.up("file"));
        raw::kill(holder.0.id(), libc::SIGKILL).unwrap();
        drop(holder);
        let fd = rw(&mount.up("file"));
        try_posix(&fd, libc::F_WRLCK, 0, 0).unwrap();
        // Closing any descriptor of the file drops the process's locks.
        drop(rw(&mount.up("file")));
    }
}

fn ofd_locks_exclude_each_other() {
    let mount = one_file("");
    let (one, two) = (rw(&mount.up("file")), rw(&mount.up("file")));
    try_ofd(&one, libc::F_WRLCK, 0, 5).unwrap();
    assert_errno!(try_ofd(&two, libc::F_WRLCK, 4, 2), LOCKED);
    let copy = one.try_clone().unwrap();
    drop(one);
    assert_errno!(try_ofd(&two, libc::F_WRLCK, 4, 2), LOCKED);
    drop(copy);
    try_ofd(&two, libc::F_WRLCK, 4, 2).unwrap();
}

fn ranges_are_independent() {
    let mount = one_file("");
    let (one, two) = (rw(&mount.up("file")), rw(&mount.up("file")));
    try_ofd(&one, libc::F_WRLCK, 0, 10).unwrap();
    try_ofd(&two, libc::F_WRLCK, 10, 10).unwrap();
    try_ofd(&one, libc::F_UNLCK, 3, 4).unwrap();
    try_ofd(&two, libc::F_WRLCK, 3, 4).unwrap();
    assert_errno!(try_ofd(&two, libc::F_WRLCK, 2, 1), LOCKED);
    assert_errno!(try_ofd(&two, libc::F_WRLCK, 7, 1), LOCKED);
    // Far out, where nothing is.
    try_ofd(&one, libc::F_WRLCK, 1 << 40, 1).unwrap();
    assert_errno!(try_ofd(&two, libc::F_RDLCK, 1 << 40, 0), LOCKED);
}

fn waiting_lock_gets_its_turn() {
    let mount = one_file("");
    let one = rw(&mount.up("file"));
    try_flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let two = rw(&mount.up("file"));
            try_flock(&two, FlockOperation::LockExclusive).unwrap();
            sender.send(()).unwrap();
        });
        let short = std::time::Duration::from_millis(100);
        assert!(receiver.recv_timeout(short).is_err(), "it must wait");
        // While one waits, other calls go on.
        assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"0123456789");
        try_flock(&one, FlockOperation::Unlock).unwrap();
        receiver.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    });
}

fn locks_need_the_right_mode() {
    let mount = one_file("");
    let read_only = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
    assert_errno!(try_posix(&read_only, libc::F_WRLCK, 0, 0), Errno::BADF);
    try_posix(&read_only, libc::F_RDLCK, 0, 0).unwrap();
    let write_only = open(&mount.up("file"), OFlags::WRONLY, 0).unwrap();
    assert_errno!(try_posix(&write_only, libc::F_RDLCK, 0, 0), Errno::BADF);
}

/// As on the kernel's mount, which is the same inode: with `locks=lower`.
fn flock_with_the_lower_side() {
    let mount = one_file(",locks=lower");
    let (up, low) = (rw(&mount.up("file")), rw(&mount.low("file")));
    try_flock(&low, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_errno!(try_flock(&up, FlockOperation::NonBlockingLockExclusive), LOCKED);
    try_flock(&low, FlockOperation::Unlock).unwrap();
    try_flock(&up, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_errno!(try_flock(&low, FlockOperation::NonBlockingLockShared), LOCKED);
    let second = rw(&mount.up("file"));
    assert_errno!(try_flock(&second, FlockOperation::NonBlockingLockShared), LOCKED);
    drop(up);
    common::eventually("the lock ends with its descriptor", || {
        try_flock(&low, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
}

fn posix_locks_with_the_lower_side() {
    let mount = one_file(",locks=lower");
    let up = rw(&mount.up("file"));
    let holder = Holder::of(&mount.low("file"));
    assert_errno!(try_posix(&up, libc::F_WRLCK, 0, 0), LOCKED);
    assert_errno!(try_ofd(&up, libc::F_WRLCK, 0, 0), LOCKED);
    drop(holder);
    try_posix(&up, libc::F_WRLCK, 0, 4).unwrap();
    let low = rw(&mount.low("file"));
    assert_errno!(try_ofd(&low, libc::F_WRLCK, 0, 1), LOCKED);
    try_ofd(&low, libc::F_WRLCK, 4, 1).unwrap();
    drop((up, low));
    // Two processes on the mount are two owners.
    let holder = Holder::of(&mount.up("file"));
    let up = rw(&mount.up("file"));
    assert_errno!(try_posix(&up, libc::F_WRLCK, 0, 1), LOCKED);
    drop(holder);
    common::eventually("the lock ends with its process", || {
        try_posix(&up, libc::F_WRLCK, 0, 1).is_ok()
    });
}
