//! Requests through io_uring. The module parameter that allows it is switched on for the length of a
//! test.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::common::mount::{MAP, server_command, temp_dir};
use crate::common::runner::needs_real_root;
use crate::common::{Caller, Errno, Mount, OFlags, lo, open, put_file, set_mode, skip};

crate::common::tests!(
    requests_come_through_rings,
    what_cannot_be_had_is_refused,
    a_stuck_call_does_not_stop_its_cpu,
    an_abort_ends_the_server,
    long_names_and_contents,
);

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// As long as it lives, the kernel offers io_uring to servers that ask for it.
struct Allowed {
    before: String,
    _alone: MutexGuard<'static, ()>,
}

/// Whoever changes the parameter.
static CHANGING: Mutex<()> = Mutex::new(());

impl Allowed {
    fn new() -> Self {
        needs_real_root("a parameter of the kernel");
        let alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(before) = fs::read_to_string(PARAMETER) else { skip("needs Linux 6.14") };
        Self::set("Y");
        Self { before, _alone: alone }
    }

    fn set(value: &str) {
        fs::OpenOptions::new()
            .write(true)
            .open(PARAMETER)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .unwrap_or_else(|error| skip(format!("needs to write {PARAMETER}: {error}")));
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        Self::set(self.before.trim());
    }
}

fn over_rings(fill: impl FnOnce(&Path)) -> Mount {
    Mount::with(&format!("{MAP},transport=uring"), fill)
}

/// The names of the server's threads.
fn threads(mount: &Mount) -> Vec<String> {
    fs::read_dir(format!("/proc/{}/task", mount.server_pid()))
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Lets the calling thread run on one CPU, which it returns.
fn stay_here() -> usize {
    let allowed = sched_getaffinity(None).unwrap();
    let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).unwrap();
    cpu
}

fn requests_come_through_rings() {
    let _allowed = Allowed::new();
    let mount = over_rings(|_| ());
    let cpu = thread::spawn({
        let path = mount.up("file");
        move || {
            let cpu = stay_here();
            fs::write(path, "text").unwrap();
            cpu
        }
    });
    let cpu = cpu.join().unwrap();
    let threads = threads(&mount);
    assert!(threads.contains(&format!("fuse-cpu{cpu}")), "{threads:?}");
    assert_eq!(fs::read_to_string(mount.low("file")).unwrap(), "text");
}

fn what_cannot_be_had_is_refused() {
    let allowed = Allowed::new();
    Allowed::set("N");
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    fs::create_dir(&lower).unwrap();
    fs::create_dir(&upper).unwrap();
    for (more, why) in [
        ("", "fuse/parameters/enable_uring"),
        (",restart=on", "'restart=on'"),
        (",locks=lower", "'locks=lower'"),
        (",threads=2", "'threads='"),
    ] {
        let options = format!("{MAP},transport=uring{more}");
        let output = server_command(&options, &lower, &upper).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{more}");
        assert!(said.contains("transport=uring") && said.contains(why), "{said}");
    }
    drop(allowed);
}

/// Callers on one CPU, one of whose requests is stuck behind a lease.
fn a_stuck_call_does_not_stop_its_cpu() {
    let _allowed = Allowed::new();
    let mount = over_rings(|lower| {
        for n in 0..8 {
            put_file(&lower.join(format!("leased{n}")), b"x", 0o666, lo(1000), lo(1000));
        }
        put_file(&lower.join("free"), b"x", 0o666, lo(1001), lo(1001));
    });
    let leased: Vec<_> = (0..8).map(|n| mount.low(format!("leased{n}"))).collect();
    let lessee = super::blocked::lessee(&leased);
    let (sender, opened) = channel();
    for n in 0..8 {
        let (sender, path) = (sender.clone(), mount.up(format!("leased{n}")));
        thread::spawn(move || {
            stay_here();
            let result = Caller::user(1000).run(|| open(&path, OFlags::WRONLY, 0).map(drop));
            sender.send(result).ok();
        });
    }
    thread::sleep(Duration::from_millis(300));
    let early = opened.try_recv();
    assert!(early.is_err(), "the leases hold: {early:?}");
    let path = mount.up("free");
    let others = thread::spawn(move || {
        stay_here();
        let start = Instant::now();
        for n in 0..100 {
            Caller::user(1001).run(|| set_mode(&path, 0o600 + n % 8).unwrap());
        }
        start.elapsed()
    });
    let took = others.join().unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(opened.try_recv().is_err(), "the leases still hold");
    drop(lessee);
    for _ in 0..8 {
        opened.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    }
}

fn an_abort_ends_the_server() {
    let _allowed = Allowed::new();
    let mount = over_rings(|lower| put_file(&lower.join("file"), b"x", 0o666, lo(0), lo(0)));
    fs::read(mount.up("file")).unwrap();
    let device = rustix::fs::stat(&mount.upper).unwrap().st_dev;
    let minor = rustix::fs::minor(device);
    fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").unwrap();
    assert_eq!(open(&mount.up("file"), OFlags::RDONLY, 0).unwrap_err(), Errno::NOTCONN);
    mount.unmount();
}

/// What needs all three parts of a room, and all of it.
fn long_names_and_contents() {
    let _allowed = Allowed::new();
    let mount = over_rings(|_| ());
    let name = "n".repeat(255);
    let target = "t".repeat(4095);
    std::os::unix::fs::symlink(&target, mount.up(&name)).unwrap();
    assert_eq!(fs::read_link(mount.low(&name)).unwrap().to_str().unwrap(), target);
    assert_eq!(fs::read_link(mount.up(&name)).unwrap().to_str().unwrap(), target);
    let renamed = "r".repeat(255);
    fs::rename(mount.up(&name), mount.up(&renamed)).unwrap();
    for n in 0..2000 {
        fs::write(mount.up(format!("file{n}")), "").unwrap();
    }
    assert_eq!(fs::read_dir(&mount.upper).unwrap().count(), 2001);
    let content: Vec<u8> = (0..3_u32 << 20).map(|n| (n % 251) as u8).collect();
    fs::write(mount.up("big"), &content).unwrap();
    assert_eq!(fs::read(mount.up("big")).unwrap(), content);
    let value = vec![7; 60_000];
    let set = crate::common::set_xattr(&mount.up("big"), "user.long", &value);
    if set.is_ok() {
        assert_eq!(crate::common::get_xattr(&mount.up("big"), "user.long").unwrap(), value);
    }
    // Without passthrough the contents come through the rings too.
    let mount = Mount::with(&format!("{MAP},transport=uring,io=cached"), |_| ());
    fs::write(mount.up("big"), &content).unwrap();
    let file = fs::File::open(mount.up("big")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut read = vec![0; content.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!((read == content, fs::read(mount.low("big")).unwrap() == content), (true, true));
}
