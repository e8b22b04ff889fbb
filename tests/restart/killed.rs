//! The server is killed, again and again, and nobody who uses the mount notices.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::program::{children_of, helper_of, idshift, processes_of};
use crate::common::restart::{Tar, kill, mounted, needs_resending};
use crate::common::runner::needs_real_root;
use crate::common::status::{number, report};
use crate::common::storage::Storage;
use crate::common::{self, Errno, Mount, eventually, lo, put_file, raw, skip};
use rustix::fs::{CWD, FileType, RenameFlags, XattrFlags};
use rustix::mount::UnmountFlags;

crate::common::tests!(
    tar_through_ten_kills,
    open_files_stay_open,
    open_files_without_passthrough,
    removed_files_stay_open,
    open_directories_are_listed_on,
    changes_of_names_happen_once,
    appending_happens_once,
    nothing_is_left_over,
    locks_of_flock_stay,
    waiting_for_locks_goes_on,
    lower_changes_are_still_heard_of,
    report_is_asked_of_the_main_process,
    helper_is_killed,
    supervisor_is_killed,
    server_that_always_dies,
    killed_while_it_tells_the_kernel,
    killed_while_it_tells_and_replaced,
    killed_while_the_lower_file_system_is_slow,
);

/// Runs `round` over and over while the server is killed so many times; returns how often.
fn while_killing(mount: &Mount, kills: usize, mut round: impl FnMut(usize)) -> usize {
    let mut rounds = 0;
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            for _ in 0..kills {
                thread::sleep(Duration::from_millis(70));
                kill(mount);
            }
        });
        while !killer.is_finished() {
            round(rounds);
            rounds += 1;
        }
    });
    rounds
}

/// What the last new server found: inodes and open files.
fn found(mount: &Mount) -> (usize, usize) {
    let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
    let line =
        log.lines().rfind(|line| line.contains("a new server goes on")).expect("a new server");
    let number = |key: &str| {
        let text = line.split_once(&format!("{key}=")).unwrap().1;
        text.split(' ').next().unwrap().parse().unwrap()
    };
    (number("inodes"), number("open"))
}

fn tar_through_ten_kills() {
    let mount = mounted("");
    let start = Instant::now();
    let mut tar = Tar::start(&mount);
    let mut kills = 0;
    while tar.is_running() && kills < 10 {
        thread::sleep(Duration::from_millis(60));
        kill(&mount);
        kills += 1;
    }
    assert_eq!(kills, 10, "tar was too quick");
    tar.finish(&mount);
    println!("killed: tar of 5,050 files through {kills} kills in {:.1?}", start.elapsed());
}

fn stays_open(options: &str, known_as_open: usize) {
    let mount = mounted(options);
    let path = mount.up("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    file.write_all(b"before").unwrap();
    for n in 0..3 {
        kill(&mount);
        file.write_all(b" and after").unwrap();
        let length = 6 + 10 * (n + 1);
        let mut contents = vec![0; length];
        reader.read_exact_at(&mut contents, 0).unwrap();
        assert!(contents.ends_with(b" and after"));
        assert_eq!(file.metadata().unwrap().len(), length as u64);
    }
    file.set_len(3).unwrap();
    kill(&mount);
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"bef");
    file.sync_all().unwrap();
    assert_eq!(found(&mount).1, known_as_open);
    drop((file, reader));
    eventually("closing reaches the new server", || {
        // A server that dies at once, time after time, is given up.
        thread::sleep(Duration::from_millis(300));
        kill(&mount);
        found(&mount).1 == 0
    });
}

fn open_files_stay_open() {
    stays_open("", 2);
}

fn open_files_without_passthrough() {
    stays_open("suid=deny,", 2);
    // The kernel does not say what it has open.
    stays_open("io=cached,cache=none,", 0);
}

fn removed_files_stay_open() {
    let mount = mounted("");
    let mut file =
        File::options().read(true).write(true).create_new(true).open(mount.up("file")).unwrap();
    file.write_all(b"content").unwrap();
    let other = common::open(&mount.up("file"), common::OFlags::PATH, 0).unwrap();
    fs::create_dir(mount.up("dir")).unwrap();
    let dir = common::open(&mount.up("dir"), common::OFlags::PATH, 0).unwrap();
    fs::remove_file(mount.up("file")).unwrap();
    fs::remove_dir(mount.up("dir")).unwrap();
    for _ in 0..2 {
        kill(&mount);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), file.metadata().unwrap().nlink()), ("content", 0));
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(rustix::fs::fstat(&other).unwrap().st_size, 7);
        assert_eq!(rustix::fs::fstat(&dir).unwrap().st_mode & 0o170_000, 0o040_000);
        assert!(!mount.up("file").exists());
    }
}

fn open_directories_are_listed_on() {
    let mount = mounted("");
    for n in 0..2000 {
        put_file(&mount.low(format!("file-{n:04}")), b"", 0o644, lo(0), lo(0));
    }
    let mut names = Vec::new();
    for (n, entry) in fs::read_dir(mount.up("")).unwrap().enumerate() {
        names.push(entry.unwrap().file_name());
        if n % 700 == 0 {
            kill(&mount);
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2000);
}

/// Each call has the result that it has where nothing is killed: none is seen to be done twice.
fn changes_of_names_happen_once() {
    let mount = mounted("");
    fs::create_dir(mount.up("other")).unwrap();
    let rounds = while_killing(&mount, 12, |n| {
        let path = |name: &str| mount.up(format!("{name}-{n}"));
        fs::create_dir(path("dir")).unwrap();
        File::options().write(true).create_new(true).open(path("file")).unwrap();
        symlink("target", path("link")).unwrap();
        let here = rustix::fs::CWD;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(here, path("fifo"), FileType::Fifo, mode, 0).unwrap();
        fs::hard_link(path("file"), path("hard")).unwrap();
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            path("file"),
            rustix::fs::CWD,
            mount.up(format!("other/file-{n}")),
            RenameFlags::NOREPLACE,
        )
        .unwrap();
        assert_eq!(path("hard").metadata().unwrap().nlink(), 2);
        rustix::fs::setxattr(path("hard"), "user.x", b"1", XattrFlags::CREATE).unwrap();
        rustix::fs::removexattr(path("hard"), "user.x").unwrap();
        fs::remove_file(mount.up(format!("other/file-{n}"))).unwrap();
        for name in ["hard", "link", "fifo"] {
            fs::remove_file(path(name)).unwrap();
        }
        fs::remove_dir(path("dir")).unwrap();
    });
    println!("killed: {rounds} rounds of all changes of names through 12 kills");
    assert_eq!(fs::read_dir(mount.low("")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(mount.low("other")).unwrap().count(), 0);
}

fn appending_happens_once() {
    // Through the server: it judges each opening.
    let mount = mounted("suid=deny,");
    let mut file = File::options().append(true).create(true).open(mount.up("file")).unwrap();
    let block = |n: usize| format!("{n:08} ").repeat(4000);
    let rounds = while_killing(&mount, 10, |n| {
        file.write_all(block(n).as_bytes()).unwrap();
        if n % 50 == 49 {
            file.set_len(0).unwrap();
        }
    });
    let first = rounds / 50 * 50;
    let wanted: String = (first..rounds).map(block).collect();
    assert!(fs::read_to_string(mount.low("file")).unwrap() == wanted, "{rounds} rounds");
}

fn nothing_is_left_over() {
    let mount = mounted("");
    needs_real_root("dropping the kernel's caches");
    let descriptors = || {
        // A server that answers has opened all that it needs.
        fs::write(mount.up("first"), "x").unwrap();
        fs::read_dir(format!("/proc/{}/fd", mount.main_pid())).unwrap().count()
    };
    fs::write(mount.up("first"), "").unwrap();
    kill(&mount);
    let before = descriptors();
    while_killing(&mount, 10, |n| {
        let dir = mount.up(format!("dir-{n}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..20 {
            fs::write(dir.join(format!("file-{file}")), "x").unwrap();
        }
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            entry.metadata().unwrap();
            fs::read(entry.path()).unwrap();
        }
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        if n % 2 == 0 {
            fs::remove_dir_all(&dir).unwrap();
        }
    });
    eventually("the kernel has forgotten all but the root, and so have we", || {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        thread::sleep(Duration::from_millis(300));
        kill(&mount);
        found(&mount) == (1, 0)
    });
    let after = descriptors();
    assert!(after <= before + 2, "{before} descriptors before, {after} after");
}

/// A lock belongs to the lower descriptor, which stays.
fn locks_of_flock_stay() {
    use rustix::fs::{FlockOperation, flock};
    let mount = mounted("locks=lower,");
    let file = File::create(mount.up("file")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let below = File::open(mount.low("file")).unwrap();
    kill(&mount);
    assert!(flock(&below, FlockOperation::NonBlockingLockShared).is_err(), "it is still held");
}

/// More callers than there are threads to wait in; the kernel sends their requests again.
fn waiting_for_locks_goes_on() {
    use rustix::fs::{FlockOperation, flock};
    let mount = mounted("locks=lower,");
    File::create(mount.up("file")).unwrap();
    let below = File::open(mount.low("file")).unwrap();
    flock(&below, FlockOperation::LockExclusive).unwrap();
    thread::scope(|scope| {
        let wait = || {
            let file = File::open(mount.up("file")).unwrap();
            flock(&file, FlockOperation::LockExclusive).unwrap();
        };
        let waiting: Vec<_> = (0..24).map(|_| scope.spawn(wait)).collect();
        thread::sleep(Duration::from_millis(500));
        kill(&mount);
        thread::sleep(Duration::from_millis(500));
        assert!(waiting.iter().all(|one| !one.is_finished()));
        flock(&below, FlockOperation::Unlock).unwrap();
        eventually("all have had it", || waiting.iter().all(thread::ScopedJoinHandle::is_finished));
    });
}

fn lower_changes_are_still_heard_of() {
    needs_real_root("hearing of changes below");
    let mount = mounted("cache=coherent,");
    put_file(&mount.low("file"), b"one", 0o644, lo(0), lo(0));
    for content in ["two", "three"] {
        mount.up("file").metadata().unwrap();
        assert!(!mount.up("missing").exists());
        kill(&mount);
        fs::write(mount.low("file"), content).unwrap();
        eventually("it shows", || fs::read_to_string(mount.up("file")).unwrap() == content);
        fs::write(mount.low("missing"), "").unwrap();
        eventually("the new file shows", || mount.up("missing").exists());
        fs::remove_file(mount.low("missing")).unwrap();
        eventually("it is gone", || !mount.up("missing").exists());
    }
}

/// SIGUSR1, as a service manager sends it, ends nobody.
fn report_is_asked_of_the_main_process() {
    let mount = mounted("");
    let told = || {
        let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
        log.matches("the kernel knows").count()
    };
    for reports in 1..3 {
        // Whoever answers also listens.
        fs::write(mount.up("file"), "x").unwrap();
        raw::kill(mount.main_pid(), libc::SIGUSR1).unwrap();
        eventually("the server reports", || told() >= reports);
        kill(&mount);
    }
}

/// The mount goes on without it. What it would have undone stays until somebody undoes it: any other
/// mount or unmount by idshift, too.
fn helper_is_killed() {
    for options in ["", "guard=nosuid,"] {
        let mount = mounted(options);
        fs::write(mount.up("file"), "content").unwrap();
        let main = mount.main_pid();
        raw::kill(helper_of(main).expect("a helper"), libc::SIGKILL).unwrap();
        eventually("it is gone", || helper_of(main).is_none());
        assert_eq!(fs::read(mount.up("file")).unwrap(), b"content");
        fs::write(mount.up("more"), "more").unwrap();
        rustix::mount::unmount(mount.up(""), UnmountFlags::empty()).unwrap();
        eventually("it ends", || !is_alive(main));
        eventually("it says so", || {
            let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
            log.contains("'idshift unguard' undoes it")
        });
        assert_eq!(idshift(&[&"unguard", &mount.low("")]).code, 0);
        assert!(!common::mount::is_mounted(&mount.low("")));
    }
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// In the background the mount goes on without it, and leaves nothing when it is unmounted.
fn supervisor_is_killed() {
    needs_real_root("restart=on");
    needs_resending();
    let dir = common::mount::temp_dir();
    let [lower, upper] = ["lower", "upper"].map(|name| dir.path().join(name));
    for path in [&lower, &upper] {
        common::put_dir(path, 0o755, 0, 0);
    }
    let options = "map=b:0:0:65536,restart=on,guard=nosuid";
    assert_eq!(idshift(&[&"mount", &"-o", &options, &lower, &upper]).code, 0);
    // A busy machine may take longer than 'status' waits.
    let told = || {
        let mut told = None;
        eventually("the server tells", || {
            told = report(&upper);
            told.is_some()
        });
        told.unwrap()
    };
    let server = number(&told(), "pid");
    let server = u32::try_from(server).unwrap();
    let supervisor = processes_of(&upper).into_iter().find(|&pid| pid != server).unwrap();
    raw::kill(supervisor, libc::SIGKILL).unwrap();
    eventually("it is gone", || !is_alive(supervisor));
    fs::write(upper.join("file"), "content").unwrap();
    let report = told();
    assert_eq!(number(&report, "pid"), u64::from(server));
    assert!(number(&report, "memory_bytes") > 1 << 20, "the server's own: {report}");
    assert!(common::mount::is_mounted(&lower));
    rustix::mount::unmount(&upper, UnmountFlags::empty()).unwrap();
    eventually("nothing is left", || {
        !is_alive(server) && !common::mount::is_mounted(&lower) && processes_of(&upper).is_empty()
    });
    assert_eq!(fs::read(lower.join("file")).unwrap(), b"content");
}

/// Callers get an error, not a wait for ever, and no dead mount is left.
fn server_that_always_dies() {
    let mount = mounted("");
    let main = mount.main_pid();
    let file_in_it = mount.up("file");
    fs::write(&file_in_it, "x").unwrap();
    let point = mount.beside().join("upper");
    let start = Instant::now();
    while common::mount::is_mounted(&point) && start.elapsed() < Duration::from_secs(20) {
        for child in children_of(main) {
            raw::kill(child, libc::SIGKILL).ok();
        }
    }
    assert!(!common::mount::is_mounted(&point), "the mount is given up");
    assert!(fs::read(file_in_it).is_err());
    eventually("it says why", || {
        let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
        log.contains("each time as soon as it was started")
    });
}

/// The threads of a process, by name.
fn threads(pid: u32) -> Vec<(u32, String)> {
    let listed = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let named = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap();
        (entry.file_name().to_str().unwrap().parse().unwrap(), name.trim().to_owned())
    };
    listed.map(named).collect()
}

/// Kills the server while its notification about a directory waits for the lock of somebody who
/// waits for the server's answer; returns what that one gets.
fn killed_while_telling(mount: &Mount) -> Result<(), Errno> {
    use common::inject::Held;
    put_file(&mount.up("dir/known"), b"", 0o644, 0, 0);
    fs::metadata(mount.up("dir/known")).unwrap();
    let server = mount.server_pid();
    let (told, others): (Vec<_>, Vec<_>) =
        threads(server).into_iter().partition(|(_, name)| name == "watch");
    assert!(!told.is_empty(), "no thread that watches among {others:?}");
    let others: Vec<u32> = others.into_iter().map(|(thread, _)| thread).collect();
    let held = Held::hold(others).unwrap_or_else(|errno| skip(format!("needs ptrace(2): {errno}")));
    let new = mount.up("dir/new");
    let caller = thread::spawn(move || common::mkdir(&new, 0o755));
    // The caller has the directory's lock when the server's answer is all that it waits for.
    thread::sleep(Duration::from_millis(200));
    fs::remove_file(mount.low("dir/known")).unwrap();
    eventually("the notification waits", || {
        // Names are told by threads that the watching one starts, and that have its name.
        threads(server).into_iter().filter(|(_, name)| name == "watch").any(|(thread, _)| {
            let stat = fs::read_to_string(format!("/proc/{server}/task/{thread}/stat"));
            stat.is_ok_and(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('D'))
        })
    });
    raw::kill(server, libc::SIGKILL).unwrap();
    drop(held);
    eventually("the caller gets an answer", || caller.is_finished());
    caller.join().unwrap()
}

fn watched(options: &str) -> Mount {
    needs_real_root("a file system is watched by root alone");
    needs_resending();
    let options = format!("{},cache=coherent,{options}", common::MAP);
    Mount::with(&options, |lower| common::put_dir(&lower.join("dir"), 0o755, lo(0), lo(0)))
}

fn killed_while_it_tells_the_kernel() {
    let mount = watched("restart=off");
    let answer = killed_while_telling(&mount).unwrap_err();
    assert!([Errno::CONNABORTED, Errno::NOTCONN].contains(&answer), "{answer}");
    assert!(
        common::mount::is_mounted(mount.up("x").parent().unwrap()),
        "nobody is to write below it by mistake"
    );
}

fn killed_while_it_tells_and_replaced() {
    let mount = watched("restart=on");
    killed_while_telling(&mount).unwrap();
    eventually("the file is gone here, too", || !mount.up("dir/known").exists());
    assert!(mount.up("dir/new").is_dir() && mount.low("dir/new").is_dir());
}

/// A lower file system that lets nobody change anything until this is dropped (`FIFREEZE`).
struct Frozen(File);

impl Frozen {
    fn freeze(place: &Path) -> Self {
        let place = File::open(place).unwrap();
        raw::freeze(place.as_fd(), true).unwrap();
        Self(place)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        raw::freeze(self.0.as_fd(), false).unwrap();
    }
}

/// A call, in a directory of its own that holds `file` and `dir`: in one directory the kernel above
/// would let only one of them come at a time.
type Call = fn(&Path) -> std::io::Result<()>;

const CALLS: &[(&str, Call)] = &[
    ("create", |at| File::options().write(true).create_new(true).open(at.join("new")).map(drop)),
    ("mkdir", |at| fs::create_dir(at.join("new"))),
    ("mknod", |at| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        Ok(rustix::fs::mknodat(CWD, at.join("new"), FileType::Fifo, mode, 0)?)
    }),
    ("symlink", |at| symlink("target", at.join("new"))),
    ("link", |at| fs::hard_link(at.join("file"), at.join("new"))),
    ("rename", |at| fs::rename(at.join("file"), at.join("new"))),
    ("exchange", |at| {
        let (from, to) = (at.join("file"), at.join("dir"));
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?)
    }),
    ("unlink", |at| fs::remove_file(at.join("file"))),
    ("rmdir", |at| fs::remove_dir(at.join("dir"))),
    ("append", |at| File::options().append(true).open(at.join("file"))?.write_all(b" and more")),
    ("setxattr", |at| {
        Ok(rustix::fs::setxattr(at.join("file"), "user.new", b"1", XattrFlags::CREATE)?)
    }),
    ("removexattr", |at| Ok(rustix::fs::removexattr(at.join("file"), "user.old")?)),
    ("open", |at| File::open(at.join("file")).map(drop)),
    ("readdir", |at| fs::read_dir(at).map(|all| assert_eq!(all.count(), 2))),
];

/// A thread that changes something below cannot be cut off: the next server waits for it, and does
/// not do the same beside it. Each caller gets the answer of a call that was made once.
fn killed_while_the_lower_file_system_is_slow() {
    needs_real_root("restart=on");
    needs_resending();
    let dir = common::mount::temp_dir();
    let storage = Storage::make("ext4", dir.path()).unwrap_or_else(|why| skip(why));
    let lower = storage.root.join("lower");
    common::put_dir(&lower, 0o777, lo(0), lo(0));
    let options = format!("{},restart=on,suid=deny,threads=24,log=info", common::MAP);
    let mount = Mount::of(common::mount::temp_dir(), lower, &options);
    // The first request that is done again meets the thread that is still at it: so one alone, too.
    call_frozen(&mount, &storage, "alone", &CALLS[1..2]);
    assert!(mount.low("alone/mkdir/new").is_dir());
    call_frozen(&mount, &storage, "all", CALLS);
    for name in ["create", "mkdir", "mknod", "symlink", "link", "rename"] {
        let new = mount.low("all").join(name).join("new");
        assert!(new.symlink_metadata().is_ok(), "{name}");
    }
    let file = |name: &str| mount.low("all").join(name).join("file");
    assert!(!file("unlink").exists() && !file("rename").exists() && file("exchange").is_dir());
    assert!(!mount.low("all/rmdir/dir").exists());
    assert_eq!(file("link").metadata().unwrap().nlink(), 2);
    assert_eq!(fs::read_to_string(file("append")).unwrap(), "file and more");
    assert_eq!(common::get_xattr(&file("setxattr"), "user.new").unwrap(), b"1");
    assert!(common::get_xattr(&file("removexattr"), "user.old").is_err());
}

/// Makes calls, below a new directory, whose server is killed while the lower file system keeps
/// them waiting.
fn call_frozen(mount: &Mount, storage: &Storage, place: &str, calls: &[(&'static str, Call)]) {
    let place = mount.up(place);
    for (name, _) in calls {
        fs::create_dir_all(place.join(name).join("dir")).unwrap();
        let file = place.join(name).join("file");
        fs::write(&file, "file").unwrap();
        rustix::fs::setxattr(&file, "user.old", b"1", XattrFlags::CREATE).unwrap();
    }
    // It has answered, so it is there.
    let server = mount.server_pid();
    assert_ne!(server, mount.main_pid());
    let frozen = Frozen::freeze(&storage.root);
    thread::scope(|scope| {
        let start = |(name, call): &(&'static str, Call)| {
            let (at, call) = (place.join(name), *call);
            (*name, scope.spawn(move || call(&at).map_err(|error| error.to_string())))
        };
        let calls: Vec<_> = calls.iter().map(start).collect();
        thread::sleep(Duration::from_millis(300));
        raw::kill(server, libc::SIGKILL).unwrap();
        // Longer than a supervisor waits for threads that do something else.
        thread::sleep(Duration::from_millis(1800));
        drop(frozen);
        for (name, call) in calls {
            assert_eq!(call.join().unwrap(), Ok(()), "{name}");
        }
    });
    assert_ne!(mount.server_pid(), server);
}
