//! Times of modification: however a file is written, and whatever is set before or after, the mount shows what
//! is stored, and a time that was set stays where it does on the lower file system itself.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, Timespec, Timestamps, fallocate, fsync, ftruncate, futimens};

use crate::common::mount::temp_dir;
use crate::common::raw::Mapping;
use crate::common::runner::{needs_real_root, skip};
use crate::common::storage::Storage;
use crate::common::{self, AtFlags, CWD, Errno, Mount, machine};

crate::common::tests!(
    shown_as_stored_in_every_mode,
    what_a_full_disk_refuses,
    mappings_outlive_their_descriptors,
);

/// The last one keeps times above: the time of change cannot be stored by anybody.
const MODES: [&str; 6] = [
    "",
    ",cache=exclusive",
    ",cache=ttl:60",
    ",cache=none",
    ",io=cached",
    ",io=cached,cache=exclusive",
];

fn modes() -> &'static [&'static str] {
    if machine().kernel_backend { &MODES[..1] } else { &MODES }
}

const SIZE: usize = 64 * 1024;
/// Longer than a tick of the clock by which files get their times.
const TICK: Duration = Duration::from_millis(20);
const LONG_AGO: i64 = 1_000_000_000;

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn made(path: &Path) -> File {
    let file = open(path);
    file.write_all_at(&vec![b'x'; SIZE], 0).unwrap();
    file
}

fn long_ago() -> Timestamps {
    let time = Timespec { tv_sec: LONG_AGO, tv_nsec: 123_456_789 };
    Timestamps { last_access: time, last_modification: time }
}

fn set(path: &Path) {
    rustix::fs::utimensat(CWD, path, &long_ago(), AtFlags::empty()).unwrap();
}

fn wait() {
    std::thread::sleep(TICK);
}

fn map(file: &File) -> Mapping {
    Mapping::shared(file.as_fd(), SIZE, true).unwrap()
}

type Way = (&'static str, fn(&Path));

/// Each ends with fsync(2) and close(2).
const WAYS: [Way; 22] = [
    ("written, closed later", |path| {
        let file = made(path);
        std::thread::sleep(8 * TICK);
        fsync(&file).unwrap();
    }),
    ("written, set", |path| {
        let file = made(path);
        set(path);
        wait();
        fsync(&file).unwrap();
    }),
    ("set, written", |path| {
        let file = made(path);
        set(path);
        wait();
        file.write_all_at(b"y", 5).unwrap();
        fsync(&file).unwrap();
    }),
    ("written by another descriptor", |path| {
        let (file, other) = (made(path), open(path));
        set(path);
        wait();
        other.write_all_at(b"y", 5).unwrap();
        fsync(&file).unwrap();
    }),
    ("mapped, set by name", |path| {
        let file = made(path);
        let mapping = map(&file);
        mapping.set(0, 1);
        set(path);
        wait();
        drop(mapping);
        fsync(&file).unwrap();
    }),
    ("mapped, set by the descriptor", |path| {
        let file = made(path);
        let mapping = map(&file);
        mapping.set(0, 1);
        futimens(&file, &long_ago()).unwrap();
        wait();
        mapping.sync().unwrap();
        fsync(&file).unwrap();
    }),
    ("mapped, set by another descriptor", |path| {
        let file = made(path);
        let mapping = map(&file);
        mapping.set(0, 1);
        futimens(File::open(path).unwrap(), &long_ago()).unwrap();
        wait();
        fsync(&file).unwrap();
        drop(mapping);
    }),
    ("mapped, set by another name", |path| {
        let file = made(path);
        let mapping = map(&file);
        mapping.set(0, 1);
        let other = path.with_extension("other");
        std::fs::hard_link(path, &other).unwrap();
        set(&other);
        wait();
        drop(mapping);
        fsync(&file).unwrap();
    }),
    ("grown, mapped, set", |path| {
        let file = open(path);
        ftruncate(&file, SIZE as u64).unwrap();
        let mapping = map(&file);
        mapping.set(0, 1);
        set(path);
        wait();
        drop(mapping);
        fsync(&file).unwrap();
    }),
    ("set, mapped", |path| {
        let file = made(path);
        fsync(&file).unwrap();
        let mapping = map(&file);
        set(path);
        wait();
        mapping.set(0, 1);
        mapping.sync().unwrap();
        drop(mapping);
        fsync(&file).unwrap();
    }),
    ("mapped, set, written", |path| {
        let file = made(path);
        let mapping = map(&file);
        mapping.set(0, 1);
        set(path);
        wait();
        file.write_all_at(b"y", 5).unwrap();
        drop(mapping);
        fsync(&file).unwrap();
    }),
    ("looked at, mapped", |path| {
        drop(made(path));
        set(path);
        assert_eq!(path.metadata().unwrap().mtime(), LONG_AGO);
        let file = open(path);
        let mapping = map(&file);
        mapping.set(0, 1);
        mapping.sync().unwrap();
        drop(mapping);
        fsync(&file).unwrap();
    }),
    ("direct", |path| {
        let file = made(path);
        fsync(&file).unwrap();
        set(path);
        wait();
        direct(path);
        fsync(&file).unwrap();
    }),
    ("direct, set", |path| {
        let file = made(path);
        direct(path);
        set(path);
        wait();
        fsync(&file).unwrap();
    }),
    ("truncated", |path| {
        let file = made(path);
        set(path);
        wait();
        ftruncate(&file, 100).unwrap();
        fsync(&file).unwrap();
    }),
    ("truncated by name, set", |path| {
        let file = made(path);
        common::raw::truncate(path, 100).unwrap();
        set(path);
        wait();
        fsync(&file).unwrap();
    }),
    ("truncated by opening", |path| {
        let file = made(path);
        set(path);
        wait();
        File::create(path).unwrap();
        fsync(&file).unwrap();
    }),
    ("allocated", |path| {
        let file = made(path);
        set(path);
        wait();
        fallocate(&file, FallocateFlags::empty(), 0, 2 * SIZE as u64).unwrap();
        fsync(&file).unwrap();
    }),
    ("a hole", |path| {
        let file = made(path);
        set(path);
        wait();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, 0, 4096).unwrap();
        fsync(&file).unwrap();
    }),
    ("copied", |path| {
        let (file, from) = (made(path), made(&path.with_extension("from")));
        fsync(&from).unwrap();
        set(path);
        wait();
        rustix::fs::copy_file_range(&from, Some(&mut 0), &file, Some(&mut 4096), 4096).unwrap();
        fsync(&file).unwrap();
    }),
    ("copied, set", |path| {
        let (file, from) = (made(path), made(&path.with_extension("from")));
        fsync(&from).unwrap();
        rustix::fs::copy_file_range(&from, Some(&mut 0), &file, Some(&mut 4096), 4096).unwrap();
        set(path);
        wait();
        fsync(&file).unwrap();
    }),
    ("appended with O_SYNC", |path| {
        drop(made(path));
        set(path);
        wait();
        let file = File::options().append(true).custom_flags(libc::O_SYNC).open(path).unwrap();
        std::io::Write::write_all(&mut &file, b"y").unwrap();
    }),
];

#[repr(align(4096))]
struct Page([u8; 4096]);

fn direct(path: &Path) {
    let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    match file.write_at(&Page([7; 4096]).0, 0) {
        Ok(count) => assert_eq!(count, 4096),
        Err(error) => skip(format!("direct writes: {error}")),
    }
}

/// What is shown is what is stored.
fn check(mount: &Mount, name: &str, mode: &str, what: &str) {
    let [up, low] = [mount.up(name), mount.low(name)].map(|path| path.metadata().unwrap());
    assert_eq!((up.mtime(), up.mtime_nsec()), (low.mtime(), low.mtime_nsec()), "{what}{mode}");
    assert_eq!(up.size(), low.size(), "{what}{mode}");
    if mode != MODES[5] {
        assert_eq!((up.ctime(), up.ctime_nsec()), (low.ctime(), low.ctime_nsec()), "{what}{mode}");
    }
}

fn shown_as_stored_in_every_mode() {
    let natively = temp_dir();
    let is_set = |path: &Path| path.metadata().unwrap().mtime() == LONG_AGO;
    for mode in modes() {
        let mount = Mount::with(&format!("{}{mode}", common::MAP), |_| ());
        for (number, (what, way)) in WAYS.iter().enumerate() {
            let native = natively.path().join(format!("{number}{mode}"));
            way(&native);
            let name = number.to_string();
            way(&mount.up(&name));
            check(&mount, &name, mode, what);
            assert_eq!(is_set(&mount.up(&name)), is_set(&native), "{what}{mode}");
        }
    }
}

/// What was allocated before the disk was full stays allocated, on some file systems also as size.
fn what_a_full_disk_refuses() {
    needs_real_root("loop devices");
    for mode in modes() {
        let place = temp_dir();
        let ext4 = Storage::make("ext4", place.path()).unwrap_or_else(|why| skip(why));
        let mount = Mount::of(temp_dir(), ext4.root.clone(), &format!("map=identity{mode}"));
        for (name, flags) in
            [("grown", FallocateFlags::empty()), ("kept", FallocateFlags::KEEP_SIZE)]
        {
            let file = made(&mount.up(name));
            fsync(&file).unwrap();
            wait();
            file.metadata().unwrap();
            let refused = fallocate(&file, flags, 0, 1 << 40).unwrap_err();
            assert_eq!(refused, Errno::NOSPC, "{mode}");
            check(&mount, name, mode, name);
            ftruncate(&file, 0).unwrap();
        }
    }
}

/// Then nobody hears of a change, and what is remembered is remembered for a moment only.
fn mappings_outlive_their_descriptors() {
    for mode in modes() {
        let mount = Mount::with(&format!("{}{mode}", common::MAP), |_| ());
        let mapping = map(&made(&mount.up("file")));
        set(&mount.up("file"));
        assert_eq!(mount.up("file").metadata().unwrap().mtime(), LONG_AGO);
        mapping.set(0, 1);
        mapping.sync().unwrap();
        let stored = mount.low("file").metadata().unwrap();
        assert_ne!(stored.mtime(), LONG_AGO, "{mode}");
        common::eventually("the change is seen", || {
            mount.up("file").metadata().unwrap().mtime() == stored.mtime()
        });
        drop(mapping);
    }
}
