//! Requests that are stuck below for long: those of others go on.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::mount::MAP;
use crate::common::raw;
use crate::common::runner::{needs_program, needs_real_root};
use crate::common::{Caller, Errno, Mount, OFlags, lo, mode, open, put_dir, put_file, set_mode};

crate::common::tests!(
    leases_on_a_few_files,
    leases_on_more_files_than_one_user_may_wait_for,
    changes_behind_the_lock_of_an_inode,
    opening_without_waiting,
    changes_are_told_while_a_directory_is_held,
    changes_are_told_while_contents_are_held,
    threads_end_when_they_are_not_needed,
);

/// How soon the calls of others must be over, on a machine that does much else.
const SOON: Duration = Duration::from_secs(5);
/// Whose requests are stuck, and who goes on.
const STUCK: u32 = 1000;
const OTHER: u32 = 1001;

/// A program in Python that does something, says so, and waits for a line before it goes on.
pub(crate) struct Helper(Child);

impl Helper {
    fn run(program: &str, paths: &[PathBuf]) -> Self {
        needs_program("python3");
        let mut child = Command::new("python3")
            .args(["-c", program])
            .args(paths)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self(child)
    }

    fn go_on(&mut self) {
        writeln!(self.0.stdin.as_mut().unwrap()).unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Somebody who holds a read lease on each of the files, and does not mind that others want them.
pub(crate) fn lessee(files: &[PathBuf]) -> Helper {
    let program = "import fcntl,os,signal,sys\n\
         signal.signal(signal.SIGIO,signal.SIG_IGN)\n\
         held=[os.open(p,os.O_RDONLY) for p in sys.argv[1:]]\n\
         for fd in held: fcntl.fcntl(fd,fcntl.F_SETLEASE,fcntl.F_RDLCK)\n\
         print('ready',flush=True)\n\
         sys.stdin.read()\n";
    Helper::run(program, files)
}

/// A mount with so many files of the user whose requests will be stuck, and some of another.
fn with_files(count: usize, options: &str) -> (Mount, Vec<PathBuf>) {
    needs_real_root("leases on others' files");
    let mount = Mount::with(&format!("{MAP},{options}"), |lower| {
        for n in 0..count {
            put_file(&lower.join(format!("file{n}")), b"x", 0o644, lo(STUCK), lo(STUCK));
            put_file(&lower.join(format!("other{n}")), b"x", 0o644, lo(OTHER), lo(OTHER));
        }
    });
    let files = (0..count).map(|n| mount.low(format!("file{n}"))).collect();
    (mount, files)
}

/// Starts a call on each of the paths as this user, none of which comes back soon.
fn start<T: Send + 'static>(
    uid: u32,
    paths: impl Iterator<Item = PathBuf>,
    call: impl Fn(&Path) -> T + Copy + Send + Sync + 'static,
) -> Receiver<T> {
    let (sender, receiver) = channel();
    for path in paths {
        let sender = sender.clone();
        thread::spawn(move || {
            sender.send(Caller::user(uid).run(|| call(&path))).ok();
        });
    }
    thread::sleep(Duration::from_millis(500));
    receiver
}

/// What another user does, file by file: each call is over soon.
fn others_go_on(mount: &Mount, count: usize) {
    for n in 0..count {
        let path = mount.up(format!("other{n}"));
        let start = Instant::now();
        Caller::user(OTHER).run(|| {
            drop(open(&path, OFlags::WRONLY, 0).unwrap());
            set_mode(&path, 0o600).unwrap();
        });
        assert!(start.elapsed() < SOON, "{n}: {:?}", start.elapsed());
    }
}

fn open_for_writing(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::WRONLY, 0)
}

fn with_leases(count: usize) {
    let (mount, files) = with_files(count, "");
    let lessee = lessee(&files);
    let paths = (0..count).map(|n| mount.up(format!("file{n}")));
    let stuck = start(STUCK, paths.collect::<Vec<_>>().into_iter(), open_for_writing);
    assert!(stuck.try_recv().is_err(), "the leases hold");
    others_go_on(&mount, 3);
    drop(lessee);
    for _ in 0..count {
        stuck.recv_timeout(SOON * 4).unwrap().unwrap();
    }
}

fn leases_on_a_few_files() {
    with_leases(20);
}

fn leases_on_more_files_than_one_user_may_wait_for() {
    with_leases(300);
}

/// A write that takes its data from a mount whose server has stopped holds the inode's lock.
fn changes_behind_the_lock_of_an_inode() {
    let source = Mount::with(&format!("{MAP},io=cached"), |lower| {
        put_file(&lower.join("data"), &[7; 4096], 0o644, lo(0), lo(0));
    });
    let (mount, files) = with_files(3, "");
    let program = "import mmap,os,sys\n\
         source=os.open(sys.argv[1],os.O_RDONLY)\n\
         data=mmap.mmap(source,4096,prot=mmap.PROT_READ)\n\
         target=os.open(sys.argv[2],os.O_WRONLY)\n\
         print('ready',flush=True)\n\
         sys.stdin.readline()\n\
         os.write(target,data)\n";
    let mut writer = Helper::run(program, &[source.up("data"), files[0].clone()]);
    let server = source.main_pid();
    raw::kill(server, libc::SIGSTOP).unwrap();
    writer.go_on();
    thread::sleep(Duration::from_millis(300));
    let path = mount.up("file0");
    let stuck = start(STUCK, (0..20).map(move |_| path.clone()), |path| set_mode(path, 0o640));
    let waits = stuck.try_recv().is_err();
    others_go_on(&mount, 3);
    raw::kill(server, libc::SIGCONT).unwrap();
    assert!(waits, "the lock is held");
    for _ in 0..20 {
        stuck.recv_timeout(SOON * 4).unwrap().unwrap();
    }
    assert_eq!(mode(&files[0]), 0o640);
}

/// With `O_NONBLOCK` open(2) does not wait for a lease to end (`EWOULDBLOCK`).
fn opening_without_waiting() {
    let (mount, files) = with_files(1, "");
    let _lessee = lessee(&files);
    let start = Instant::now();
    let opened = Caller::user(STUCK)
        .run(|| open(&mount.up("file0"), OFlags::WRONLY | OFlags::NONBLOCK, 0).map(drop));
    assert_eq!(opened, Err(Errno::AGAIN));
    assert!(start.elapsed() < SOON);
}

/// Reading a directory into memory that does not come keeps the directory's lock, for which the kernel
/// waits when it is told of a new name there.
fn changes_are_told_while_a_directory_is_held() {
    let source = Mount::with(&format!("{MAP},io=cached"), |lower| {
        put_file(&lower.join("data"), &[7; 4096], 0o644, lo(0), lo(0));
    });
    let (mount, files) = with_files(1, "cache=coherent");
    put_dir(&mount.low("held"), 0o755, lo(STUCK), lo(STUCK));
    put_file(&mount.low("held/old"), b"x", 0o644, lo(STUCK), lo(STUCK));
    let program = "import ctypes,mmap,os,sys\n\
         libc=ctypes.CDLL(None)\n\
         source=os.open(sys.argv[1],os.O_RDONLY)\n\
         page=mmap.mmap(source,4096,flags=mmap.MAP_PRIVATE,prot=mmap.PROT_READ|mmap.PROT_WRITE)\n\
         place=ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n\
         held=os.open(sys.argv[2],os.O_RDONLY|os.O_DIRECTORY)\n\
         print('ready',flush=True)\n\
         sys.stdin.readline()\n\
         libc.syscall(int(sys.argv[3]),held,place,4096)\n\
         print('listed',flush=True)\n\
         sys.stdin.read()\n";
    let number = PathBuf::from(libc::SYS_getdents64.to_string());
    let mut reader = Helper::run(program, &[source.up("data"), mount.up("held"), number]);
    let can_read =
        || Caller::user(OTHER).run(|| open(&mount.up("file0"), OFlags::RDONLY, 0).is_ok());
    assert!(can_read());
    // What the kernel remembers of a listing has a lock of its own.
    assert_eq!(std::fs::read_dir(mount.up("held")).unwrap().count(), 1);
    raw::kill(source.main_pid(), libc::SIGSTOP).unwrap();
    reader.go_on();
    thread::sleep(Duration::from_millis(300));
    put_file(&mount.low("held/new"), b"x", 0o644, lo(STUCK), lo(STUCK));
    thread::sleep(Duration::from_millis(300));
    set_mode(&files[0], 0o600).unwrap();
    let start = Instant::now();
    while can_read() && start.elapsed() < SOON {
        thread::sleep(Duration::from_millis(10));
    }
    let took = start.elapsed();
    raw::kill(source.main_pid(), libc::SIGCONT).unwrap();
    assert!(took < SOON / 2, "{took:?}");
    crate::common::eventually("the new name is seen", || mount.up("held/new").exists());
}

/// The kernel forgets what it has read of a file when no more of it is being read, and a read waits
/// here for the lease of somebody who writes.
fn changes_are_told_while_contents_are_held() {
    let (mount, files) = with_files(1, "cache=coherent,io=cached");
    let program = "import fcntl,os,signal,sys\n\
         signal.signal(signal.SIGIO,signal.SIG_IGN)\n\
         held=os.open(sys.argv[1],os.O_RDWR)\n\
         fcntl.fcntl(held,fcntl.F_SETLEASE,fcntl.F_WRLCK)\n\
         print('ready',flush=True)\n\
         sys.stdin.readline()\n\
         os.write(held,b'changed')\n\
         sys.stdin.read()\n";
    let can_read =
        || Caller::user(OTHER).run(|| open(&mount.up("other0"), OFlags::RDONLY, 0).is_ok());
    assert!(can_read() && mount.up("file0").exists());
    let mut lessee = Helper::run(program, &files);
    let reading = start(STUCK, [mount.up("file0")].into_iter(), |path| std::fs::read(path));
    assert!(reading.try_recv().is_err(), "the lease holds");
    lessee.go_on();
    thread::sleep(Duration::from_millis(300));
    set_mode(&mount.low("other0"), 0o600).unwrap();
    crate::common::chown(&mount.low("other0"), Some(lo(STUCK)), None).unwrap();
    let start = Instant::now();
    while can_read() && start.elapsed() < SOON {
        thread::sleep(Duration::from_millis(10));
    }
    let (took, waits) = (start.elapsed(), reading.try_recv().is_err());
    drop(lessee);
    assert!(waits, "it is read all the time");
    assert!(took < SOON / 2, "{took:?}");
    assert_eq!(reading.recv_timeout(SOON * 4).unwrap().unwrap(), b"changed");
}

fn threads_end_when_they_are_not_needed() {
    let (mount, files) = with_files(60, "");
    let server = mount.server_pid();
    let threads = || std::fs::read_dir(format!("/proc/{server}/task")).unwrap().count();
    let lessee = lessee(&files);
    let paths: Vec<_> = (0..60).map(|n| mount.up(format!("file{n}"))).collect();
    let stuck = start(STUCK, paths.into_iter(), open_for_writing);
    let many = threads();
    drop(lessee);
    (0..60).for_each(|_| drop(stuck.recv_timeout(SOON * 4).unwrap().unwrap()));
    crate::common::eventually("threads have ended", || {
        others_go_on(&mount, 1);
        threads() < 24
    });
    assert!(many > 24, "{many}");
}
