//! Many locks, and many callers that wait for them (`locks=lower`): others go on, and waiting costs
//! nothing.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::common::mount::MAP;
use crate::common::raw::{self, lock};
use crate::common::runner::needs_program;
use crate::common::{self, Caller, Errno, Mount, OFlags, eventually, lo, open, put_file};

crate::common::tests!(
    one_user_leaves_locks_to_others,
    waiting_costs_nothing,
    release_through_the_mount_is_noticed_at_once,
    release_below_is_noticed_by_all_who_wait,
    everybody_who_waits_can_be_interrupted,
    lock_that_is_waited_for_outlives_another_descriptor,
    running_programs_can_be_locked_for_reading,
);

/// Who has many locks, and who goes on.
const GREEDY: u32 = 1000;
const OTHER: u32 = 1001;
/// More than have a thread to wait in.
const MANY: usize = 100;
/// On a machine that does much else.
const LONG: Duration = Duration::from_secs(20);

fn mount_with_files(descriptors: u64) -> Mount {
    let options = format!("{MAP},locks=lower");
    Mount::with_descriptors(descriptors, &options, |lower| {
        for name in ["file", "other"] {
            put_file(&lower.join(name), b"x", 0o666, lo(0), lo(0));
        }
    })
}

fn rw(path: &Path) -> OwnedFd {
    open(path, OFlags::RDWR, 0).unwrap()
}

/// A lock whose owner is the open file; each opening makes another owner.
fn lock_all(file: &OwnedFd, command: i32) -> Result<(), Errno> {
    lock(file.as_fd(), command, libc::F_WRLCK, 0, 0).map(drop)
}

fn release_all(file: &OwnedFd) {
    lock(file.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK, 0, 0).unwrap();
}

/// So many callers that wait for a lock on the file as this user; each says when it has it, and gives
/// it back.
fn wait(user: u32, path: &Path, count: usize) -> Receiver<Result<(), Errno>> {
    let (sender, receiver) = channel();
    for _ in 0..count {
        let (sender, path) = (sender.clone(), path.to_path_buf());
        let call = move || {
            Caller::user(user).run(|| {
                let file = rw(&path);
                let locked = lock_all(&file, libc::F_OFD_SETLKW);
                sender.send(locked).ok();
            });
        };
        thread::Builder::new().stack_size(128 * 1024).spawn(call).unwrap();
    }
    thread::sleep(Duration::from_millis(700));
    receiver
}

/// The processor time that a process has used.
fn used(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks = after_name.split_whitespace().skip(11).take(2); // utime and stime (proc(5))
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn one_user_leaves_locks_to_others() {
    let mount = mount_with_files(512);
    let path = mount.up("file");
    let take = |nth: i64, file: &OwnedFd| {
        lock(file.as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, nth, 1).map(drop)
    };
    for _ in 0..2 {
        let files: Vec<_> = Caller::user(GREEDY).run(|| {
            let files: Vec<_> = (0..150).map(|_| rw(&path)).collect();
            let results: Vec<_> = (0..).zip(&files).map(|(nth, file)| take(nth, file)).collect();
            let got = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(got, 128, "a quarter of what the server may have open");
            assert!(results.iter().skip(128).all(|result| *result == Err(Errno::NOLCK)));
            // Whoever has locks already can have more, and test for others'.
            take(1000, &files[0]).unwrap();
            lock(files[149].as_fd(), libc::F_OFD_GETLK, libc::F_WRLCK, 0, 1).unwrap();
            files
        });
        Caller::user(OTHER).run(|| {
            assert_eq!(common::stat(&mount.up("other")).st_size, 1);
            take(2000, &rw(&path)).unwrap();
            flock(rw(&path), FlockOperation::NonBlockingLockExclusive).unwrap();
        });
        drop(files);
        // They have been given back.
        eventually("no lock is left", || {
            lock(rw(&mount.low("file")).as_fd(), libc::F_OFD_SETLK, libc::F_WRLCK, 0, 0).is_ok()
        });
    }
}

fn waiting_costs_nothing() {
    let mount = mount_with_files(4096);
    let held = rw(&mount.low("file"));
    lock_all(&held, libc::F_OFD_SETLK).unwrap();
    let waiters = wait(GREEDY, &mount.up("file"), 4 * MANY);
    let server = mount.server_pid();
    let before = used(server);
    thread::sleep(Duration::from_secs(3));
    let took = used(server).saturating_sub(before);
    assert!(took <= Duration::from_millis(90), "{took:?} in 3 s");
    release_all(&held);
    for _ in 0..4 * MANY {
        waiters.recv_timeout(LONG).unwrap().unwrap();
    }
}

/// What is done with a file that is locked.
type Release = fn(OwnedFd);

/// While more wait for another file than are given threads: who waits for this one has none.
fn release_through_the_mount_is_noticed_at_once() {
    let mount = mount_with_files(4096);
    let file = rw(&mount.up("file"));
    lock_all(&file, libc::F_OFD_SETLK).unwrap();
    let many = wait(GREEDY, &mount.up("file"), 4 * MANY);
    let ways: [(&str, i32, Release); 3] = [
        ("unlocked", libc::F_OFD_SETLK, |file| release_all(&file)),
        ("closed", libc::F_OFD_SETLK, drop),
        ("closed by its process", libc::F_SETLK, drop),
    ];
    for (way, command, release) in ways {
        let held = rw(&mount.up("other"));
        eventually("nobody has it", || lock_all(&held, command).is_ok());
        let one = wait(GREEDY, &mount.up("other"), 1);
        assert!(one.try_recv().is_err(), "{way}");
        let start = Instant::now();
        release(held);
        one.recv_timeout(LONG).unwrap().unwrap();
        assert!(start.elapsed() < Duration::from_millis(800), "{way}: {:?}", start.elapsed());
    }
    assert!(many.try_recv().is_err());
    drop(file);
    (0..4 * MANY).for_each(|_| many.recv_timeout(LONG).unwrap().unwrap());
}

fn release_below_is_noticed_by_all_who_wait() {
    let mount = mount_with_files(4096);
    let (file, other) = (rw(&mount.low("file")), rw(&mount.low("other")));
    lock_all(&file, libc::F_OFD_SETLK).unwrap();
    lock_all(&other, libc::F_OFD_SETLK).unwrap();
    let many = wait(GREEDY, &mount.up("file"), MANY);
    let without_thread = wait(GREEDY, &mount.up("other"), 1);
    let with_thread = wait(OTHER, &mount.up("other"), 1);
    let start = Instant::now();
    release_all(&other);
    with_thread.recv_timeout(LONG).unwrap().unwrap();
    let took = start.elapsed();
    without_thread.recv_timeout(LONG).unwrap().unwrap();
    assert!(took < Duration::from_millis(500), "{took:?}");
    release_all(&file);
    (0..MANY).for_each(|_| many.recv_timeout(LONG).unwrap().unwrap());
}

/// A process that waits for a lock of fcntl(2) or flock(2), and whether a signal got it out.
struct Waiting(Child);

impl Waiting {
    fn start(path: &Path, call: &str) -> Self {
        needs_program("python3");
        let program = format!(
            "import fcntl,signal,sys\n\
             class Out(Exception): pass\n\
             def out(*_): raise Out\n\
             signal.signal(signal.SIGTERM,out)\n\
             f=open(sys.argv[1],'r+')\n\
             try: fcntl.{call}(f,fcntl.LOCK_EX)\n\
             except Out: sys.exit(7)\n"
        );
        Self(Command::new("python3").args(["-c", &program]).arg(path).spawn().unwrap())
    }

    fn interrupted(mut self) -> Option<i32> {
        raw::kill(self.0.id(), libc::SIGTERM).unwrap();
        let start = Instant::now();
        while start.elapsed() < LONG {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn everybody_who_waits_can_be_interrupted() {
    let mount = mount_with_files(4096);
    let held = rw(&mount.low("file"));
    for call in ["lockf", "flock"] {
        lock_all(&held, libc::F_OFD_SETLK).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        // Root has threads for 16.
        let waiting: Vec<_> = (0..20).map(|_| Waiting::start(&mount.up("file"), call)).collect();
        thread::sleep(Duration::from_secs(2));
        for one in waiting {
            assert_eq!(one.interrupted(), Some(7), "{call}");
        }
        release_all(&held);
        flock(&held, FlockOperation::Unlock).unwrap();
        // None of them has got it.
        let again = rw(&mount.up("file"));
        lock_all(&again, libc::F_OFD_SETLK).unwrap();
        flock(&again, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(again);
        eventually("the lock ends with its descriptor", || {
            lock_all(&held, libc::F_OFD_SETLK).is_ok()
                && flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok()
        });
    }
}

/// Closing any descriptor of a file drops the locks of fcntl(2) that the process has on it, and not
/// the one that it is going to have.
fn lock_that_is_waited_for_outlives_another_descriptor() {
    let mount = mount_with_files(4096);
    let held = rw(&mount.low("file"));
    lock_all(&held, libc::F_OFD_SETLK).unwrap();
    let (file, path) = (rw(&mount.up("file")), mount.up("file"));
    let (sender, receiver) = channel();
    let waiter = file.try_clone().unwrap();
    thread::spawn(move || {
        let result = lock_all(&waiter, libc::F_SETLKW);
        // Closed later: that drops the lock.
        sender.send((result, waiter)).unwrap();
    });
    thread::sleep(Duration::from_millis(500));
    drop(rw(&path));
    thread::sleep(Duration::from_millis(200));
    release_all(&held);
    let (result, waiter) = receiver.recv_timeout(LONG).unwrap();
    result.unwrap();
    assert_eq!(lock_all(&held, libc::F_OFD_SETLK), Err(Errno::AGAIN), "the lock is held");
    drop((file, waiter));
    lock_all(&held, libc::F_OFD_SETLK).unwrap();
}

/// The lower file cannot be opened for writing then.
fn running_programs_can_be_locked_for_reading() {
    let mount = mount_with_files(4096);
    std::fs::copy("/bin/sleep", mount.low("sleep")).unwrap();
    let mut program = Command::new(mount.low("sleep")).arg("60").spawn().unwrap();
    let busy = || open(&mount.low("sleep"), OFlags::WRONLY, 0).err() == Some(Errno::TXTBSY);
    eventually("it runs", busy);
    let file = File::open(mount.up("sleep")).unwrap();
    let locked = lock(file.as_fd(), libc::F_OFD_SETLK, libc::F_RDLCK, 0, 0).map(drop);
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(locked, Ok(()));
}
