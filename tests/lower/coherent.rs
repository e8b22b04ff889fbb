//! `cache=coherent`: what is remembered for long is forgotten when something changes below.
//!
//! Each test looks until the kernel remembers, changes the lower tree, and looks again: at first
//! nothing may have been seen, after [`PROMISE`] it must have been.

mod loss;
mod loud;
mod race;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{
    self, ACL_ACCESS, GROUP_OBJ, MAP, MASK, Mount, NO_ID, OTHER, USER, USER_OBJ, acl, chown,
    exists, get_xattr, lo, mode, owner, put_dir, put_file, set_mode, set_xattr, skip, stat,
};

crate::common::tests!(
    attributes_changed_below_are_seen,
    contents_changed_below_are_seen,
    names_changed_below_are_seen,
    listings_changed_below_are_seen,
    directories_moved_below_are_seen,
    directories_replaced_below_are_seen,
    links_made_below_are_seen,
    what_is_moved_out_of_sight_is_seen,
    links_out_of_sight_are_seen,
    what_callers_write_is_not_news,
    watches_of_removed_files_are_given_back,
    acls_changed_below_are_enforced,
    a_file_that_is_written_without_end_is_seen_to_grow,
    what_is_written_without_end_is_right_unheard,
    where_servers_follow_each_other_everything_is_heard,
    two_mounts_see_each_other,
    what_the_mount_itself_changes_is_seen_at_once,
    lost_events_make_everything_be_asked_anew,
    mounts_above_stay_when_events_are_lost,
    changes_elsewhere_cost_little,
    where_it_is_not_possible_the_reason_is_told,
    race_of_attributes,
    race_of_names,
    race_of_replaced_files,
    race_of_first_looks,
);

/// Within this time a change is seen. It takes some milliseconds; a busy machine takes longer.
const PROMISE: Duration = Duration::from_secs(1);
/// What measuring adds where the promise is that of an answer's time: the kernel's clock ticks.
const MARGIN: Duration = Duration::from_millis(100);
/// A mount that must be coherent.
fn coherent(fill: impl FnOnce(&Path)) -> Mount {
    needs_coherence();
    Mount::with(&format!("{MAP},cache=coherent"), fill)
}

/// A mount of a file system of its own, where nobody else's changes are heard of. The second part
/// is to be dropped after the first.
fn alone(fill: impl FnOnce(&Path)) -> (Mount, Tmpfs) {
    needs_coherence();
    let dir = common::mount::temp_dir();
    let tmpfs = Tmpfs(dir.path().join("lower"));
    put_dir(&tmpfs.0, 0o755, 0, 0);
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &tmpfs.0, "tmpfs", flags, None).unwrap();
    chown(&tmpfs.0, Some(lo(0)), Some(lo(0))).unwrap();
    fill(&tmpfs.0);
    (Mount::of(dir, tmpfs.0.clone(), &format!("{MAP},cache=coherent")), tmpfs)
}

/// A mounted tmpfs.
struct Tmpfs(std::path::PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
        fs::remove_dir(&self.0).ok();
    }
}

fn needs_coherence() {
    needs_idshift();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (6, 2) {
        skip(format!("needs Linux 6.2, this is {release}"));
    }
}

/// Waits until it is so, for no longer than was promised.
fn soon(what: &str, is_so: impl FnMut() -> bool) {
    within(PROMISE + MARGIN, what, is_so);
}

fn within(time: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < time, "not seen after {time:?}: {what}");
        sleep(Duration::from_millis(1));
    }
}

/// Looks at a path until the kernel answers from memory, for long.
fn warm(path: &Path) {
    for _ in 0..3 {
        rustix::fs::lstat(path).ok();
    }
}

fn attributes_changed_below_are_seen() {
    let mount = coherent(|lower| {
        put_file(&lower.join("file"), b"content", 0o644, lo(1), lo(1));
        put_dir(&lower.join("dir"), 0o755, lo(1), lo(1));
    });
    for name in ["file", "dir"] {
        let (up, low) = (mount.up(name), mount.low(name));
        warm(&up);
        set_mode(&low, 0o600).unwrap();
        soon("the mode", || mode(&up) == 0o600);
        chown(&low, Some(lo(7)), Some(lo(8))).unwrap();
        soon("the owner", || owner(&up) == (7, 8));
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 11, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 12, tv_nsec: 0 },
        };
        rustix::fs::utimensat(rustix::fs::CWD, &low, &times, rustix::fs::AtFlags::empty()).unwrap();
        soon("the times", || (stat(&up).st_atime, stat(&up).st_mtime) == (11, 12));
    }
}

fn contents_changed_below_are_seen() {
    let mount = coherent(|lower| put_file(&lower.join("file"), b"before", 0o644, lo(1), lo(1)));
    let (up, low) = (mount.up("file"), mount.low("file"));
    let reader = File::open(&up).unwrap();
    let read = || {
        let mut buffer = [0; 100];
        let length = reader.read_at(&mut buffer, 0).unwrap();
        buffer[..length].to_vec()
    };
    assert_eq!(read(), b"before");
    warm(&up);
    // Kept open: nothing is closed before it is seen.
    let writer = File::options().write(true).open(&low).unwrap();
    writer.write_at(b"changed below", 0).unwrap();
    soon("the size", || stat(&up).st_size == 13);
    soon("the content, in an open file", || read() == b"changed below");
    warm(&up);
    writer.set_len(3).unwrap();
    soon("a truncation", || stat(&up).st_size == 3 && fs::read(&up).unwrap() == b"cha");
}

fn names_changed_below_are_seen() {
    let mount = coherent(|lower| {
        put_file(&lower.join("file"), b"file", 0o644, lo(1), lo(1));
        put_file(&lower.join("other"), b"other one", 0o644, lo(1), lo(1));
        symlink("file", lower.join("link")).unwrap();
    });
    let size = |name: &str| fs::metadata(mount.up(name)).map(|data| data.len()).ok();
    warm(&mount.up("new"));
    assert_eq!((size("file"), size("link"), size("new")), (Some(4), Some(4), None));
    fs::write(mount.low("new"), "is there").unwrap();
    soon("a new name", || size("new") == Some(8));
    warm(&mount.up("new"));
    fs::rename(mount.low("other"), mount.low("file")).unwrap();
    soon("a replaced file", || size("file") == Some(9) && size("link") == Some(9));
    soon("the old name", || size("other").is_none());
    warm(&mount.up("file"));
    fs::remove_file(mount.low("file")).unwrap();
    soon("a removed name", || size("file").is_none());
    fs::remove_file(mount.low("link")).unwrap();
    symlink("new", mount.low("link")).unwrap();
    soon("where a link leads", || size("link") == Some(8));
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        mount.low("new"),
        rustix::fs::CWD,
        mount.low("link"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    soon("an exchange", || fs::read_link(mount.up("new")).is_ok());
}

fn listings_changed_below_are_seen() {
    let mount = coherent(|lower| {
        put_dir(&lower.join("dir"), 0o755, lo(1), lo(1));
        put_file(&lower.join("dir/one"), b"", 0o644, lo(1), lo(1));
    });
    let list = || {
        let entries = fs::read_dir(mount.up("dir")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for _ in 0..20 {
        for _ in 0..3 {
            assert_eq!(list(), ["one"]);
        }
        fs::write(mount.low("dir/two"), "").unwrap();
        soon("a new name", || list() == ["one", "two"]);
        fs::rename(mount.low("dir/two"), mount.low("dir/three")).unwrap();
        soon("a new name for the file", || list() == ["one", "three"]);
        fs::remove_file(mount.low("dir/three")).unwrap();
        soon("a removed name", || list() == ["one"]);
    }
}

fn directories_moved_below_are_seen() {
    let mount = coherent(|lower| {
        for dir in ["a", "a/b", "a/b/c", "z"] {
            put_dir(&lower.join(dir), 0o755, lo(1), lo(1));
        }
        put_file(&lower.join("a/b/c/file"), b"deep", 0o644, lo(1), lo(1));
    });
    let file = File::open(mount.up("a/b/c/file")).unwrap();
    let number = stat(&mount.up("a/b/c/file")).st_ino;
    warm(&mount.up("z/b/c/file"));
    fs::rename(mount.low("a/b"), mount.low("z/b")).unwrap();
    soon("the new place", || exists(&mount.up("z/b/c/file")));
    soon("the old place", || !exists(&mount.up("a/b")));
    assert_eq!(stat(&mount.up("z/b/c/file")).st_ino, number);
    soon("the links of its parents", || {
        (stat(&mount.up("a")).st_nlink, stat(&mount.up("z")).st_nlink) == (2, 3)
    });
    assert_eq!(file.metadata().unwrap().len(), 4, "the open file is the same");
    fs::remove_dir_all(mount.low("z/b")).unwrap();
    soon("the removed tree", || !exists(&mount.up("z/b")));
    soon("the links of the open file", || {
        use std::os::unix::fs::MetadataExt;
        file.metadata().unwrap().nlink() == 0
    });
}

fn directories_replaced_below_are_seen() {
    let mount = coherent(|lower| {
        for (dir, file) in [("dir", "old"), ("next", "new")] {
            put_dir(&lower.join(dir), 0o755, lo(1), lo(1));
            put_file(&lower.join(dir).join(file), b"", 0o644, lo(1), lo(1));
        }
    });
    let (dir, old) = (mount.up("dir"), mount.up("dir/old"));
    let open = File::open(&dir).unwrap();
    let (before, after) = (stat(&dir).st_ino, stat(&mount.up("next")).st_ino);
    fs::rename(mount.low("dir"), mount.low("was")).unwrap();
    fs::rename(mount.low("next"), mount.low("dir")).unwrap();
    soon("another directory", || stat(&dir).st_ino == after);
    soon("what is in it", || exists(&mount.up("dir/new")) && !exists(&old));
    // The old one goes on being itself.
    assert_eq!(rustix::fs::fstat(&open).unwrap().st_ino, before);
    let names = || rustix::fs::Dir::read_from(&open).unwrap().count();
    assert_eq!(names(), 3);
    fs::remove_file(mount.low("was/old")).unwrap();
    soon("a name that has gone from it", || names() == 2);
    set_mode(&mount.low("was"), 0o700).unwrap();
    soon("its mode", || rustix::fs::fstat(&open).unwrap().st_mode & 0o777 == 0o700);
    fs::remove_dir(mount.low("was")).unwrap();
    soon("its end", || rustix::fs::fstat(&open).unwrap().st_nlink == 0);
}

fn links_made_below_are_seen() {
    let mount = coherent(|lower| put_file(&lower.join("file"), b"", 0o644, lo(1), lo(1)));
    let links = || stat(&mount.up("file")).st_nlink;
    warm(&mount.up("file"));
    fs::hard_link(mount.low("file"), mount.low("second")).unwrap();
    soon("two links", || links() == 2);
    // No directory hears of what happens through a name that nobody has looked at there.
    warm(&mount.up("file"));
    let through = File::options().append(true).open(mount.low("second")).unwrap();
    for size in 1..=10 {
        (&through).write_all(b"x").unwrap();
        soon("what is written through the other name", || stat(&mount.up("file")).st_size == size);
        set_mode(&mount.low("second"), 0o600 | u32::try_from(size).unwrap()).unwrap();
        soon("its mode", || mode(&mount.up("file")) == 0o600 | u32::try_from(size).unwrap());
    }
    drop(through);
    warm(&mount.up("file"));
    fs::remove_file(mount.low("second")).unwrap();
    soon("one link", || links() == 1);
    fs::hard_link(mount.low("file"), mount.low("second")).unwrap();
    warm(&mount.up("second"));
    fs::write(mount.low("new"), "").unwrap();
    fs::rename(mount.low("new"), mount.low("second")).unwrap();
    soon("one link, because the other was replaced", || links() == 1);
}

/// A file that is open here and goes where nobody looks.
fn what_is_moved_out_of_sight_is_seen() {
    let mount = coherent(|lower| {
        put_dir(&lower.join("unseen"), 0o755, lo(1), lo(1));
        put_file(&lower.join("moved"), b"", 0o644, lo(1), lo(1));
        put_file(&lower.join("unlinked"), b"", 0o644, lo(1), lo(1));
        fs::hard_link(lower.join("unlinked"), lower.join("unseen/unlinked")).unwrap();
    });
    let [moved, unlinked] = ["moved", "unlinked"].map(|name| {
        warm(&mount.up(name));
        File::open(mount.up(name)).unwrap()
    });
    fs::rename(mount.low("moved"), mount.low("unseen/moved")).unwrap();
    // Here: what the server does itself is no news.
    fs::remove_file(mount.up("unlinked")).unwrap();
    let mode = |file: &File| rustix::fs::fstat(file).unwrap().st_mode & 0o777;
    for (name, file) in [("moved", &moved), ("unlinked", &unlinked)] {
        let low = mount.low(format!("unseen/{name}"));
        for bits in [0o600, 0o640, 0o644] {
            assert_eq!(mode(file), mode(file));
            set_mode(&low, bits).unwrap();
            soon(name, || mode(file) == bits);
        }
    }
}

/// What is heard of through a file's directory alone is asked for again, after half a minute.
fn links_out_of_sight_are_seen() {
    const NEAR: Duration = Duration::from_secs(30);
    needs_real_root("takes long, and is the same elsewhere");
    let mount = coherent(|lower| {
        put_dir(&lower.join("unseen"), 0o755, lo(1), lo(1));
        put_file(&lower.join("file"), b"", 0o644, lo(1), lo(1));
    });
    let up = mount.up("file");
    warm(&up);
    fs::hard_link(mount.low("file"), mount.low("unseen/link")).unwrap();
    set_mode(&mount.low("unseen/link"), 0o600).unwrap();
    within(NEAR + MARGIN, "a first link elsewhere", || {
        let stat = stat(&up);
        (stat.st_nlink, stat.st_mode & 0o777) == (2, 0o600)
    });
    set_mode(&mount.low("unseen/link"), 0o640).unwrap();
    soon("what is done through it from then on", || mode(&up) == 0o640);
    // By then it is watched itself.
    (0..2).for_each(|_| {
        sleep(PROMISE + MARGIN);
        warm(&up);
    });
    set_mode(&mount.low("unseen/link"), 0o644).unwrap();
    within(Duration::from_millis(500), "what is done through it later", || mode(&up) == 0o644);
}

/// Writes through the mount, which the kernel knows of, cause no notification.
fn what_callers_write_is_not_news() {
    needs_real_root("passthrough");
    let mount = coherent(|lower| put_file(&lower.join("file"), b"", 0o644, lo(0), lo(0)));
    let notices = || {
        let report = common::status::report(&mount.up("")).unwrap();
        common::status::number(&report, "notifications")
    };
    let file = File::options().write(true).open(mount.up("file")).unwrap();
    let before = notices();
    for at in 0..200 {
        file.write_at(b"x", at).unwrap();
        sleep(Duration::from_micros(200));
    }
    sleep(Duration::from_millis(50));
    assert_eq!(notices() - before, 0);
    // What others write is.
    fs::write(mount.low("file"), "others").unwrap();
    soon("what others write", || notices() > before);
}

fn acls_changed_below_are_enforced() {
    let mount = coherent(|lower| put_file(&lower.join("file"), b"", 0o640, lo(1), lo(1)));
    let up = mount.up("file");
    let may_read = || common::Caller::user(1_000).run(|| File::open(&up).is_ok());
    assert!(!may_read() && !may_read());
    let entries = [
        (USER_OBJ, 6, NO_ID),
        (USER, 4, lo(1_000)),
        (GROUP_OBJ, 4, NO_ID),
        (MASK, 4, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    set_xattr(&mount.low("file"), ACL_ACCESS, &acl(&entries)).unwrap();
    soon("what an ACL allows", may_read);
    assert!(get_xattr(&up, ACL_ACCESS).is_ok());
    warm(&up);
    rustix::fs::lremovexattr(mount.low("file"), ACL_ACCESS).unwrap();
    soon("what it allows no more", || !may_read());
}

fn a_file_that_is_written_without_end_is_seen_to_grow() {
    let mount = coherent(|lower| put_file(&lower.join("log"), b"", 0o644, lo(1), lo(1)));
    let up = mount.up("log");
    let mut log = File::options().append(true).open(mount.low("log")).unwrap();
    // Slowly; then often; then slowly again.
    for (count, pause) in [(20, 5_000), (2_000, 1_000), (20, 5_000)] {
        for _ in 0..count {
            log.write_all(b"line\n").unwrap();
            sleep(Duration::from_micros(pause));
            warm(&up);
        }
        let size = i64::try_from(log.metadata().unwrap().len()).unwrap();
        let start = Instant::now();
        while stat(&up).st_size < size {
            assert!(start.elapsed() < PROMISE + Duration::from_millis(100), "not {size}");
            sleep(Duration::from_millis(1));
        }
    }
}

fn two_mounts_see_each_other() {
    let first = coherent(|lower| {
        put_file(&lower.join("file"), b"one", 0o666, lo(5), lo(5));
        put_dir(&lower.join("dir"), 0o777, lo(5), lo(5));
    });
    let options = "map=b:20000:0:1,map=b:20001:1001:999,cache=coherent";
    let second = Mount::of(common::mount::temp_dir(), first.low(""), options);
    let rounds = 5;
    for (here, there, base) in [(&first, &second, 1_000), (&second, &first, 0)] {
        for _ in 0..rounds {
            warm(&there.up("file"));
            warm(&there.up("dir/new"));
            let file = File::options().write(true).open(here.up("file")).unwrap();
            file.set_len(0).unwrap();
            file.write_at(b"not closed yet", 0).unwrap();
            soon("what is written", || fs::read(there.up("file")).unwrap() == b"not closed yet");
            set_mode(&here.up("file"), 0o600).unwrap();
            soon("the mode", || mode(&there.up("file")) == 0o600);
            set_mode(&here.up("file"), 0o666).unwrap();
            fs::write(here.up("dir/new"), "x").unwrap();
            soon("a new name", || exists(&there.up("dir/new")));
            chown(&here.up("dir/new"), Some(if base == 0 { 1_009 } else { 9 }), None).unwrap();
            soon("its owner", || owner(&there.up("dir/new")).0 == 9 + base);
            fs::rename(here.up("dir/new"), here.up("dir/moved")).unwrap();
            soon("its new name", || exists(&there.up("dir/moved")));
            fs::remove_file(here.up("dir/moved")).unwrap();
            soon("its end", || fs::read_dir(there.up("dir")).unwrap().next().is_none());
            soon("the end of its name", || !exists(&there.up("dir/new")));
        }
    }
}

fn what_the_mount_itself_changes_is_seen_at_once() {
    let mount = coherent(|_| ());
    let up = mount.up("file");
    for round in 0..200_u32 {
        assert!(!exists(&up));
        let file = File::create_new(&up).unwrap();
        assert_eq!(stat(&up).st_size, 0);
        file.write_at(b"12345", u64::from(round)).unwrap();
        assert_eq!(stat(&up).st_size, i64::from(round) + 5);
        set_mode(&up, round & 0o777).unwrap();
        assert_eq!(mode(&up), round & 0o777);
        drop(file);
        assert_eq!(stat(&up).st_size, i64::from(round) + 5);
        fs::rename(&up, mount.up("other")).unwrap();
        assert!(!exists(&up) && exists(&mount.up("other")));
        fs::remove_file(mount.up("other")).unwrap();
        assert!(!exists(&mount.up("other")));
        assert_eq!(fs::read_dir(mount.up("")).unwrap().count(), 0);
    }
}

/// The time that a process has spent on a CPU.
fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = tasks.map(|task| {
        let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn changes_elsewhere_cost_little() {
    const FILES: u32 = 10_000;
    let (mount, _tmpfs) = alone(|lower| {
        put_dir(&lower.join("seen"), 0o755, lo(1), lo(1));
        put_dir(&lower.join("unseen"), 0o755, lo(1), lo(1));
    });
    assert_eq!(fs::read_dir(mount.up("seen")).unwrap().count(), 0);
    let server = mount.server_pid();
    sleep(Duration::from_millis(200));
    let idle = cpu_time(server);
    sleep(Duration::from_secs(1));
    let idle = cpu_time(server).saturating_sub(idle);
    assert!(idle < Duration::from_millis(5), "{idle:?} of CPU time in a second without changes");
    // Where nobody looks nothing is heard of; where somebody has looked, some 15 µs each would be a
    // wake-up and a call for each event. A debug build is slower.
    for (place, most) in [("unseen", 5), ("seen", 150)] {
        let before = cpu_time(server);
        for number in 0..FILES {
            symlink("x", mount.low(place).join(number.to_string())).unwrap();
        }
        sleep(Duration::from_millis(50));
        let spent = cpu_time(server).saturating_sub(before);
        println!("coherent: {FILES} changes, {place}, cost {spent:?} of CPU time");
        assert!(spent < Duration::from_millis(most), "{spent:?} for {FILES} changes, {place}");
    }
}

fn where_it_is_not_possible_the_reason_is_told() {
    needs_idshift();
    // On a file system whose changes may come from elsewhere.
    let dir = common::mount::temp_dir();
    let upper = dir.path().join("upper");
    put_dir(&upper, 0o755, 0, 0);
    let options = "map=identity,cache=coherent";
    let called = common::program::idshift(&[&"mount", &"-o", &options, &"/sys", &upper]);
    assert_eq!(called.code, 32, "{called:?}");
    assert!(called.err.contains("cache=coherent") && called.err.contains("ttl:1"), "{called:?}");
}

fn lost_events_make_everything_be_asked_anew() {
    loss::of_events();
}

fn mounts_above_stay_when_events_are_lost() {
    loss::below_mounts();
}

fn watches_of_removed_files_are_given_back() {
    loss::of_watches();
}

fn race_of_attributes() {
    race::attributes();
}

fn race_of_names() {
    race::names();
}

fn race_of_replaced_files() {
    race::replaced_files();
}

fn race_of_first_looks() {
    race::first_looks();
}

fn what_is_written_without_end_is_right_unheard() {
    loud::is_right_unheard();
}

fn where_servers_follow_each_other_everything_is_heard() {
    loud::is_heard_by_followers();
}
