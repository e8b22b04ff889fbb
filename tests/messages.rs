//! How many messages the kernel sends for an operation, exactly: a message that comes back into a
//! warm path costs more than anything the server could save elsewhere.
//!
//! The server logs one line for each message. It runs with one thread here, so that the order is
//! the kernel's; messages that only take back what was given (FORGET) are left out, because the
//! kernel sends them when it likes. The sequences are those of Linux 6.18.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed test panics

mod common;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{
    Caller, Errno, MAP, Mount, OFlags, chown, create, lo, mkdir, open, put_dir, put_file, set_mode,
    skip, stat,
};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, fchmod, fchown, fstatfs, futimens};
use rustix::io::{pread, pwrite};

common::tests!(
    stat_warm,
    stat_warm_by_others,
    time_of_birth_is_asked_once,
    missing_name_warm,
    without_a_cache_each_stat_asks,
    readlink_warm,
    open_and_close,
    nothing_is_opened_with_io_cached,
    flush_is_asked_once,
    reading,
    small_writes,
    listing,
    walking,
    warm_while_nothing_changes_below,
    warm_with_several_names,
    no_more_inodes_are_watched_than_allowed,
    a_file_as_tar_makes_it,
    a_directory_and_its_end,
    a_symbolic_link,
    removing,
    renaming,
    changing_the_mode,
    deny_groups_sends_nothing_more,
);

fn main() -> std::process::ExitCode {
    let messages = common::runner::Module { name: "messages", tests: TESTS, alone: true };
    common::runner::main(&[messages])
}

/// The kernel whose sequences these are. Later ones may need fewer, and then the test is to say so.
const KERNEL: (u32, u32) = (6, 18);

/// One test at a time: a server that another test starts begins as a fork of this process, and
/// shares the files that are open here until it is executed.
static ALONE: Mutex<()> = Mutex::new(());

/// A mount whose messages are counted.
struct Counted {
    /// Its root: asking for the file system's size is a message of its own that marks the end.
    /// It has to be closed before the mount goes.
    root: OwnedFd,
    mount: Mount,
    _alone: MutexGuard<'static, ()>,
}

impl Counted {
    /// A mount that remembers names and attributes for good, of the tree that `fill` makes.
    fn new(fill: impl FnOnce(&Path)) -> Self {
        Self::with("cache=exclusive", fill)
    }

    fn with(options: &str, fill: impl FnOnce(&Path)) -> Self {
        common::runner::needs_idshift();
        needs_kernel();
        let options = format!("{MAP},threads=1,log=idshift=trace,{options}");
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mount = Mount::with(&options, fill);
        let root = open(&mount.up(""), OFlags::PATH, 0).unwrap();
        let counted = Self { root, mount, _alone: alone };
        counted.messages(|| look(&counted.up("")));
        counted
    }

    fn up(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mount.up(path)
    }

    /// The messages that the calls in `work` cause.
    fn messages(&self, work: impl FnOnce()) -> Vec<String> {
        let log = self.mount.beside().join("server.log");
        let before = fs::metadata(&log).unwrap().len();
        work();
        // Each message is logged before it is answered, so this one comes last.
        fstatfs(&self.root).unwrap();
        let mut messages = Vec::new();
        common::eventually("the log tells of the last message", || {
            let text = fs::read(&log).unwrap();
            let text = String::from_utf8_lossy(&text[usize::try_from(before).unwrap()..]);
            messages = text.lines().filter_map(opcode).collect();
            messages.retain(|message| !message.ends_with("Forget"));
            messages.pop().as_deref() == Some("Statfs")
        });
        messages
    }
}

/// The opcode of a line like `… request opcode=Some(Lookup) nodeid=1`.
fn opcode(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("request opcode=Some(")?;
    Some(rest.split_once(')')?.0.to_owned())
}

fn needs_kernel() {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < KERNEL {
        skip(format!("the sequences are those of Linux 6.18, this is {release}"));
    }
}

/// Asserts that calls cause exactly these messages.
macro_rules! assert_messages {
    ($counted:expr, [$($message:ident),* $(,)?], $work:expr) => {
        assert_eq!($counted.messages(|| $work), [$(stringify!($message)),*] as [&str; _])
    };
}

fn look(path: &Path) {
    stat(path);
}

fn plain(path: &Path) {
    put_file(path, b"content", 0o644, lo(0), lo(0));
}

fn stat_warm() {
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = c.up("file");
    assert_messages!(c, [Lookup], look(&file));
    assert_messages!(c, [], (0..100).for_each(|_| look(&file)));
}

/// Those who do not own the root directory, too, ask for its ACL only once.
fn stat_warm_by_others() {
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = c.up("file");
    let by_other = || Caller::user(1000).run(|| look(&file));
    assert_messages!(c, [Getxattr, Lookup], by_other());
    assert_messages!(c, [], (0..100).for_each(|_| by_other()));
}

/// No other answer can carry it.
fn time_of_birth_is_asked_once() {
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = c.up("file");
    look(&file);
    let born = || assert!(fs::metadata(&file).unwrap().created().is_ok());
    assert_messages!(c, [Statx], born());
    assert_messages!(c, [], (0..100).for_each(|_| born()));
}

fn missing_name_warm() {
    let c = Counted::new(|_| ());
    let missing = c.up("missing");
    let try_it = || assert_eq!(open(&missing, OFlags::PATH, 0).err(), Some(Errno::NOENT));
    assert_messages!(c, [Lookup], try_it());
    assert_messages!(c, [], (0..100).for_each(|_| try_it()));
}

fn without_a_cache_each_stat_asks() {
    let c = Counted::with("cache=none", |lower| plain(&lower.join("file")));
    let file = c.up("file");
    look(&file);
    // May the directory be searched, is the name still there, what are its attributes. The kernel begins a path
    // anew, and asks about its start again, where the mount table changes meanwhile: another process may do that.
    let shortest = (0..5).map(|_| c.messages(|| look(&file))).min_by_key(Vec::len);
    assert_eq!(shortest.unwrap(), ["Getattr", "Lookup", "Getattr"]);
}

fn readlink_warm() {
    let c = Counted::new(|lower| {
        std::os::unix::fs::symlink("target", lower.join("link")).unwrap();
        chown(&lower.join("link"), Some(lo(0)), Some(lo(0))).unwrap();
    });
    let link = c.up("link");
    look(&link);
    assert_messages!(c, [Readlink], drop(fs::read_link(&link).unwrap()));
    assert_messages!(c, [], (0..100).for_each(|_| drop(fs::read_link(&link).unwrap())));
}

fn open_and_close() {
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = c.up("file");
    c.messages(|| drop(open(&file, OFlags::RDONLY, 0).unwrap()));
    assert_messages!(c, [Open, Release], drop(open(&file, OFlags::RDONLY, 0).unwrap()));
}

/// Only the kernel's first question, whether it is to ask, and what fills the cache.
fn nothing_is_opened_with_io_cached() {
    let c = Counted::with("cache=exclusive,io=cached", |lower| plain(&lower.join("file")));
    let file = c.up("file");
    let read = || {
        let file = open(&file, OFlags::RDONLY, 0).unwrap();
        assert_eq!(pread(&file, &mut [0; 16], 0).unwrap(), 7);
    };
    assert_messages!(c, [Lookup, Open, Read, Flush], read());
    assert_messages!(c, [], (0..10).for_each(|_| read()));
    let open = open(&file, OFlags::RDWR, 0).unwrap();
    assert_messages!(c, [Getxattr], assert_eq!(pwrite(&open, b"C", 0).unwrap(), 1));
    assert_messages!(c, [], assert_eq!(pwrite(&open, b"O", 1).unwrap(), 1));
    assert_messages!(c, [Write, Setattr, Fsync], rustix::fs::fsync(&open).unwrap());
    assert_eq!(fs::read(c.mount.low("file")).unwrap(), b"COntent");
}

fn flush_is_asked_once() {
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = c.up("file");
    look(&file);
    assert_messages!(c, [Open, Flush, Release], drop(open(&file, OFlags::RDONLY, 0).unwrap()));
    assert_messages!(c, [Open, Release], drop(open(&file, OFlags::RDONLY, 0).unwrap()));
}

fn reading() {
    common::runner::needs_real_root("passthrough");
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = open(&c.up("file"), OFlags::RDONLY, 0).unwrap();
    let read = || assert_eq!(pread(&file, &mut [0; 16], 0).unwrap(), 7);
    assert_messages!(c, [], (0..100).for_each(|_| read()));
    // The lower file system has changed the time of access.
    let fstat = || assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 7);
    assert_messages!(c, [Getattr], fstat());
    assert_messages!(c, [], fstat());
}

fn small_writes() {
    common::runner::needs_real_root("passthrough");
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = open(&c.up("file"), OFlags::WRONLY, 0).unwrap();
    let write = || assert_eq!(pwrite(&file, b"12345678", 0).unwrap(), 8);
    // Are there file capabilities to be taken away? Then never again.
    assert_messages!(c, [Getxattr], write());
    assert_messages!(c, [], (0..100).for_each(|_| write()));
}

fn listing() {
    let c = Counted::new(|lower| {
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        (0..20).for_each(|number| plain(&lower.join(format!("dir/file{number}"))));
    });
    let dir = c.up("dir");
    let list = || assert_eq!(fs::read_dir(&dir).unwrap().count(), 20);
    look(&dir);
    // That directories need not be opened is answered once, for the whole mount.
    assert_messages!(c, [Opendir, Readdirplus, Readdir], list());
    // The listing has changed the directory's time of access. What the kernel keeps of the listing
    // counts only as long as the directory is unchanged, so it asks.
    assert_messages!(c, [Getattr], list());
    assert_messages!(c, [], (0..100).for_each(|_| list()));
    // The attributes came with the names.
    assert_messages!(c, [], (0..20).for_each(|n| look(&dir.join(format!("file{n}")))));
}

/// Stats everything below, as find(1) does; returns how much there is.
fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if stat(&path).st_mode & 0o170_000 == 0o040_000 { walk(&path) } else { 0 } + 1)
        .sum()
}

fn walking() {
    const DIRS: usize = 5;
    let c = Counted::new(|lower| {
        for dir in 0..DIRS {
            let dir = lower.join(format!("dir{dir}"));
            put_dir(&dir, 0o755, lo(0), lo(0));
            (0..10).for_each(|number| plain(&dir.join(format!("file{number}"))));
        }
    });
    let root = c.up("");
    let count = |messages: &[String], wanted: &str| {
        messages.iter().filter(|message| *message == wanted).count()
    };
    let all = DIRS * 11;
    let first = c.messages(|| assert_eq!(walk(&root), all));
    assert_eq!(
        count(&first, "Readdirplus") + count(&first, "Readdir"),
        2 * (DIRS + 1),
        "{first:?}"
    );
    // The attributes come with the names, and that directories need not be opened is said once.
    assert_eq!(count(&first, "Opendir"), 1, "{first:?}");
    assert_eq!(first.len(), 1 + 2 * (DIRS + 1), "{first:?}");
    let second = c.messages(|| assert_eq!(walk(&root), all));
    // Each directory's time of access has changed; nothing else is asked again.
    assert_eq!(second, vec!["Getattr"; DIRS + 1]);
    assert_messages!(c, [], assert_eq!(walk(&root), all));
}

fn warm_while_nothing_changes_below() {
    let c = Counted::with("cache=coherent", |lower| {
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        (0..20).for_each(|number| plain(&lower.join(format!("dir/file{number}"))));
    });
    let (file, missing) = (c.up("dir/file7"), c.up("dir/missing"));
    let all = || {
        assert_eq!(fs::read_dir(c.up("dir")).unwrap().count(), 20);
        (0..20).for_each(|n| look(&c.up(format!("dir/file{n}"))));
        assert_eq!(open(&missing, OFlags::PATH, 0).err(), Some(Errno::NOENT));
    };
    // The listing moves the directory's time of access.
    (0..2).for_each(|_| all());
    later();
    assert_messages!(c, [], (0..10).for_each(|_| all()));
    // After a change below, what has changed is asked for once.
    set_mode(&c.mount.low("dir/file7"), 0o600).unwrap();
    let seen = || common::eventually("the mode", || stat(&file).st_mode & 0o777 == 0o600);
    assert_messages!(c, [Getattr], seen());
    later();
    assert_messages!(c, [], (0..10).for_each(|_| all()));
}

/// A file with a further name, of which its directory does not hear, is watched once it is asked for
/// again.
fn warm_with_several_names() {
    let c = settled();
    let file = c.up("file");
    assert_messages!(c, [Lookup], look(&file));
    later();
    assert_messages!(c, [Getattr], look(&file));
    later();
    assert_messages!(c, [], (0..100).for_each(|_| look(&file)));
    // After a change through the other name, what has changed is asked for once.
    set_mode(&c.mount.low("unseen/link"), 0o600).unwrap();
    let seen = || common::eventually("the mode", || stat(&file).st_mode & 0o777 == 0o600);
    assert_messages!(c, [Getattr], seen());
    later();
    assert_messages!(c, [], (0..100).for_each(|_| look(&file)));
}

/// What cannot be watched any more is asked for again after a second.
fn no_more_inodes_are_watched_than_allowed() {
    const LIMIT: &str = "/proc/sys/user/max_fanotify_marks";
    if common::machine().real_root {
        skip("this machine's limit is everybody's");
    }
    let c = settled();
    let file = c.up("dir/file");
    let before = fs::read_to_string(LIMIT).unwrap();
    if let Err(error) = fs::write(LIMIT, "0") {
        skip(format!("{LIMIT} cannot be changed: {error}"));
    }
    assert_messages!(c, [Lookup, Lookup], look(&file));
    for mode in [0o600, 0o640] {
        later();
        // What may be searched, is the name still there: nobody listens even to names.
        assert_messages!(c, [Getattr, Lookup], look(&file));
        set_mode(&c.mount.low("dir/file"), mode).unwrap();
        later();
        assert_eq!(stat(&file).st_mode & 0o777, mode);
    }
    fs::write(LIMIT, before).unwrap();
}

/// A mount of files that have not changed for a while.
fn settled() -> Counted {
    Counted::with("cache=coherent", |lower| {
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        put_dir(&lower.join("unseen"), 0o755, lo(0), lo(0));
        plain(&lower.join("file"));
        fs::hard_link(lower.join("file"), lower.join("unseen/link")).unwrap();
        plain(&lower.join("dir/file"));
        std::thread::sleep(std::time::Duration::from_millis(2_100));
    })
}

/// Past the time for which answers are remembered that could miss a change.
fn later() {
    std::thread::sleep(std::time::Duration::from_millis(1_100));
}

fn a_file_as_tar_makes_it() {
    common::runner::needs_real_root("passthrough");
    let c = Counted::new(|_| ());
    let make = |name: &str| {
        let file = create(&c.up(name), 0o600).unwrap();
        assert_eq!(pwrite(&file, b"content", 0).unwrap(), 7);
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let then = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: omit, last_modification: then };
        futimens(&file, &times).unwrap();
        fchown(&file, Some(rustix::fs::Uid::from_raw(1000)), None).unwrap();
        fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    };
    c.messages(|| make("first"));
    // The directory's attributes, because the file before changed them; the name; the file; whether
    // it has capabilities, before the write and before the change of owner; times, owner, mode.
    assert_messages!(
        c,
        [Getattr, Lookup, Create, Getxattr, Setattr, Getxattr, Setattr, Setattr, Release],
        make("second")
    );
}

fn a_directory_and_its_end() {
    let c = Counted::new(|_| ());
    let dir = c.up("dir");
    assert_messages!(c, [Lookup, Mkdir], mkdir(&dir, 0o755).unwrap());
    assert_messages!(c, [Getattr, Rmdir], fs::remove_dir(&dir).unwrap());
}

fn a_symbolic_link() {
    let c = Counted::new(|_| ());
    let link = c.up("link");
    assert_messages!(c, [Lookup, Symlink], std::os::unix::fs::symlink("target", &link).unwrap());
    // Of the directory; the link's own attributes came with the answer.
    assert_messages!(c, [Getattr], look(&link));
}

fn removing() {
    let c = Counted::new(|lower| {
        plain(&lower.join("one"));
        plain(&lower.join("two"));
    });
    look(&c.up("one"));
    look(&c.up("two"));
    assert_messages!(c, [Unlink], fs::remove_file(c.up("one")).unwrap());
    // The directory's attributes have changed.
    assert_messages!(c, [Getattr, Unlink], fs::remove_file(c.up("two")).unwrap());
}

fn renaming() {
    let c = Counted::new(|lower| plain(&lower.join("old")));
    look(&c.up("old"));
    assert_messages!(c, [Lookup, Rename], fs::rename(c.up("old"), c.up("new")).unwrap());
    assert_messages!(c, [Getattr, Getattr], look(&c.up("new")));
}

fn changing_the_mode() {
    let c = Counted::new(|lower| plain(&lower.join("file")));
    let file = c.up("file");
    look(&file);
    assert_messages!(c, [Setattr], set_mode(&file, 0o600).unwrap());
    assert_messages!(c, [], look(&file));
    // Of a stranger the kernel has to know whether an ACL lets him in. It makes sure of a refusal,
    // and with the new attributes forgets the ACL again.
    let stranger = || assert!(File::open(&file).is_err());
    assert_messages!(c, [Getxattr, Getattr], Caller::user(1000).run(stranger));
    assert_messages!(c, [Getattr], Caller::user(1000).run(stranger));
}

/// What is reported is already cut: the kernel judges by it as it does anyway.
fn deny_groups_sends_nothing_more() {
    let messages = |policy: &str| {
        let c = Counted::with(&format!("cache=exclusive,deny_groups={policy}"), |lower| {
            plain(&lower.join("file"));
            plain(&lower.join("acl"));
            let mut entries = vec![(common::USER_OBJ, 7, common::NO_ID)];
            entries.push((common::GROUP_OBJ, 7, common::NO_ID));
            entries.push((common::GROUP, 7, lo(7)));
            entries.push((common::MASK, 7, common::NO_ID));
            entries.push((common::OTHER, 7, common::NO_ID));
            let value = common::acl(&entries);
            common::set_xattr(&lower.join("acl"), common::ACL_ACCESS, &value).unwrap();
        });
        let all = ["file", "acl"].map(|name| c.up(name));
        c.messages(|| {
            for caller in [Caller::user(0), Caller::user(1000), Caller::user(1000).groups(&[7])] {
                caller.run(|| {
                    for path in &all {
                        look(path);
                        drop(open(path, OFlags::RDONLY, 0).unwrap());
                        rustix::fs::access(path, rustix::fs::Access::READ_OK).unwrap();
                    }
                });
            }
            set_mode(&all[0], 0o604).unwrap();
            look(&all[0]);
            assert_eq!(fs::read_dir(c.up("")).unwrap().count(), 2);
        })
    };
    let off = messages("off");
    assert!(off.contains(&"Getxattr".to_owned()), "{off:?}");
    for policy in ["group", "all"] {
        assert_eq!(messages(policy), off, "deny_groups={policy}");
    }
}
