//! Trees of several devices, files without sizes, directories with long offsets: what is shown of
//! them must be right for programs that know nothing of a mount in between.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::common::mount::temp_dir;
use crate::common::program::idshift;
use crate::common::raw::{self, Mapping};
use crate::common::restart::kill;
use crate::common::runner::{needs_idshift, needs_program, needs_real_root, skip};
use crate::common::storage::Storage;
use crate::common::{CWD, Errno, Mode, Mount, OFlags, assert_errno, eventually, mkdir};

const IDENTITY: &str = "map=identity";

crate::common::tests!(
    subvolumes_have_numbers_of_their_own,
    copies_of_one_file_system_as_submounts,
    submounts_are_devices_of_their_own,
    parts_that_cannot_be_mounted,
    layers_on_two_file_systems,
    numbers_stay_when_the_server_is_killed,
    numbers_stay_with_another_program_and_another_mount,
    offsets_fit_into_31_bits,
    offsets_outlive_a_killed_server,
    handles_outlive_what_the_kernel_remembers,
    files_without_a_size,
    access_times_are_kept_as_asked_for,
    access_times_after_a_remount,
    what_fuse_does_not_pass_on,
    the_root_directory_can_be_shown,
    what_is_mounted_is_found_by_mount_all,
);

fn run(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

fn storage(kind: &'static str, place: &Path) -> Storage {
    needs_real_root("loop devices");
    Storage::make(kind, place).unwrap_or_else(|why| skip(why))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mount that lies below, taken away at the end.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// The number of everything below `dir`, by path; checks that listings, mappings and stat(2) agree, and
/// that no two have one number but those that are links of one file.
fn numbers(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        // The kernel asks for attributes the first time only: both kinds of listing are looked at.
        for _ in 0..3 {
            for entry in fs::read_dir(&dir).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.path().symlink_metadata().unwrap();
                assert_eq!(entry.ino(), meta.ino(), "{}", entry.path().display());
                all.insert(entry.path().strip_prefix(root).unwrap().to_owned(), meta.ino());
            }
        }
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() && meta.len() > 0 {
                // Of what is passed through twice the kernel shows the file in the middle.
                if let Some(number) = mapped_number(&path) {
                    assert_eq!(number, meta.ino(), "/proc/self/maps");
                }
            }
        }
    }
    let mut seen: BTreeMap<u64, &Path> = BTreeMap::from([(stat_number(root), root)]);
    for (path, number) in &all {
        if let Some(other) = seen.insert(*number, path) {
            assert_eq!(other.parent(), path.parent(), "{} and {}", other.display(), path.display());
            assert!(text(path).ends_with("link"), "{}", path.display());
        }
    }
    all
}

fn stat_number(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

fn mapped_number(path: &Path) -> Option<u64> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY, Mode::empty()).unwrap();
    let _mapping = Mapping::shared(file.as_fd(), 1, false).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with(text(path)))?;
    Some(line.split_whitespace().nth(4).unwrap().parse().unwrap())
}

/// A directory with a file that has two names, and another directory.
fn fill(dir: &Path, what: &str) {
    fs::write(dir.join("a"), what).unwrap();
    fs::hard_link(dir.join("a"), dir.join("link")).unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("dir/b"), what).unwrap();
}

fn with_subvolumes(place: &TempDir) -> Storage {
    let btrfs = storage("btrfs", place.path());
    let at = |name: &str| btrfs.root.join(name);
    fs::create_dir(at("d")).unwrap();
    for name in ["d/one", "d/two", "d/one/inner"] {
        run("btrfs", &["subvolume", "create", text(&at(name))]);
        fill(&at(name), name);
    }
    run("btrfs", &["subvolume", "snapshot", text(&at("d/two")), text(&at("snap"))]);
    btrfs
}

fn subvolumes_have_numbers_of_their_own() {
    needs_idshift(); // natively each subvolume has a device number of its own
    let dir = temp_dir();
    let btrfs = with_subvolumes(&dir);
    let look = |options: &str| {
        let dir = temp_dir();
        let mount = Mount::of(dir, btrfs.root.clone(), options);
        let seen = numbers(&mount.up(""));
        let copy = mount.beside().join("copy");
        fs::create_dir(&copy).unwrap();
        let tar = format!("tar -C '{}' -c . | tar -C '{}' -x", text(&mount.up("")), text(&copy));
        run("sh", &["-c", &tar]);
        for name in ["d/one", "d/two", "d/one/inner"] {
            assert_eq!(fs::read_to_string(copy.join(name).join("link")).unwrap(), name);
        }
        mount.unmount();
        seen
    };
    let first = look(IDENTITY);
    assert_eq!(first.len(), 21, "{first:?}");
    // The devices get other numbers when the file system is mounted anew: the next ones that are free.
    let number = || btrfs.root.join("snap").metadata().unwrap().dev();
    let (before, image) = (number(), dir.path().join("btrfs.img"));
    let (mut places, mut taken) = (Vec::new(), Vec::new());
    while number() == before {
        assert!(taken.len() < 50, "the device's number never changes");
        unmount(&btrfs.root, UnmountFlags::empty()).unwrap();
        let place = temp_dir();
        run("mount", &["-t", "tmpfs", "none", text(place.path())]);
        taken.push(Below(place.path().to_owned()));
        places.push(place);
        run("mount", &["-o", "loop", text(&image), text(&btrfs.root)]);
    }
    assert_eq!(look(IDENTITY), first);
    assert_eq!(look("map=identity,submounts").len(), first.len());
}

/// Parts are mounted once the mount answers, in the foreground a moment later.
fn parts_are_there(mount: &Mount, names: &[&str]) {
    let device = |name: &str| mount.up(name).metadata().unwrap().dev();
    eventually("what is mounted below is mounted", || {
        names.iter().all(|name| device(name) != device(""))
    });
}

/// Two copies of one image, which say the same of themselves.
fn with_copies(place: &Path) -> (PathBuf, Vec<Below>) {
    needs_idshift();
    needs_real_root("loop devices");
    let lower = place.join("tree");
    fs::create_dir(&lower).unwrap();
    let image = place.join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run("mkfs.ext4", &["-q", text(&image)]);
    let mut below = Vec::new();
    for name in ["first", "second"] {
        let (copy, point) = (place.join(name), lower.join(name));
        fs::copy(&image, &copy).unwrap();
        fs::create_dir(&point).unwrap();
        run("mount", &["-o", "loop", text(&copy), text(&point)]);
        below.push(Below(point.clone()));
        fs::remove_dir(point.join("lost+found")).unwrap();
        fill(&point, name);
    }
    (lower, below)
}

fn copies_of_one_file_system_as_submounts() {
    let place = temp_dir();
    let (lower, _below) = with_copies(place.path());
    let look = |reverse: bool| {
        let mount = Mount::of(temp_dir(), lower.clone(), "map=identity,submounts");
        if reverse {
            // Whichever is looked at first.
            stat_number(&mount.up("second/a"));
        }
        parts_are_there(&mount, &["first", "second"]);
        let seen = numbers(&mount.up("first"));
        assert_eq!(numbers(&mount.up("second")).len(), seen.len());
        for name in ["first", "second"] {
            assert_eq!(fs::read_to_string(mount.up(name).join("link")).unwrap(), name);
        }
        seen
    };
    let first = look(false);
    assert_eq!(first.len(), 4);
    assert_eq!(look(true), first);
}

fn numbers_stay_when_the_server_is_killed() {
    let place = temp_dir();
    let (lower, _below) = with_copies(place.path());
    let mount = Mount::of(temp_dir(), lower, "map=identity,submounts,restart=on,cache=none");
    eventually("the server is there", || mount.server_pid() != mount.main_pid());
    parts_are_there(&mount, &["first", "second"]);
    let all = || ["", "first", "second"].map(|name| numbers_of_one(&mount.up(name)));
    let before = all();
    kill(&mount);
    assert_eq!(all(), before);
}

fn numbers_stay_with_another_program_and_another_mount() {
    needs_idshift();
    let place = temp_dir();
    let btrfs = with_subvolumes(&place);
    let mount = || Mount::of(temp_dir(), btrfs.root.clone(), "map=identity,restart=on");
    let first = mount();
    eventually("the server is there", || first.server_pid() != first.main_pid());
    let before = numbers(&first.up(""));
    for file in before.keys().filter(|name| first.up(name).is_file()) {
        let number = before[file];
        let held = rustix::fs::openat(CWD, first.up(file), OFlags::RDWR, Mode::empty()).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let own = format!(" {} ", std::process::id());
        let shown = locks
            .lines()
            .any(|line| line.contains(&own) && line.contains(&format!(":{number} 0 EOF")));
        assert!(shown, "{} is not {number} in {locks}", file.display());
    }
    let upgraded = idshift(&[&"upgrade", &first.up("")]);
    assert_eq!(upgraded.code, 0, "{}", upgraded.err);
    assert_eq!(numbers(&first.up("")), before);
    first.unmount();
    assert_eq!(numbers(&mount().up("")), before);
}

/// Of what is on the device of this directory alone.
fn numbers_of_one(dir: &Path) -> Vec<String> {
    let found = Command::new("find").arg(dir).args(["-xdev", "-printf", "%i %P\\n"]).output();
    let mut lines: Vec<_> =
        String::from_utf8(found.unwrap().stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// As a recursive mount of the kernel's: programs that stay on one file system stop at what is mounted below.
fn submounts_are_devices_of_their_own() {
    needs_idshift();
    needs_real_root("mounts below");
    for options in ["", ",io=cached", ",restart=on", ",ro"] {
        let place = temp_dir();
        let [lower, upper] = ["tree", "shown"].map(|name| place.path().join(name));
        for dir in [&lower, &upper] {
            fs::create_dir(dir).unwrap();
        }
        fs::create_dir_all(lower.join("one/inner")).unwrap();
        let mut below = Vec::new();
        for name in ["one", "one/inner"] {
            fs::create_dir_all(lower.join(name)).unwrap();
            run("mount", &["-t", "tmpfs", "below", text(&lower.join(name))]);
            below.push(Below(lower.join(name)));
            fs::create_dir_all(lower.join(name).join("inner")).unwrap();
            fs::write(lower.join(name).join("file"), name).unwrap();
        }
        let options = format!("{IDENTITY},submounts{options}");
        let done = idshift(&[&"mount", &"-o", &options, &lower, &upper]);
        assert_eq!(done.code, 0, "{}", done.err);
        let names = |args: &[&str]| {
            let found = Command::new("find").current_dir(&upper).args(args).output().unwrap();
            let mut names: Vec<_> =
                String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(names(&[".", "-xdev"]), [".", "./one"], "{options}");
        assert_eq!(names(&[".", "-type", "f"]), ["./one/file", "./one/inner/file"], "{options}");
        assert_eq!(names(&["one", "-xdev", "-type", "f"]), ["one/file"], "{options}");
        let tar = |more: &[&str]| {
            let mut command = Command::new("tar");
            let out = command.args(["c", "-C", text(&upper)]).args(more).arg(".").output().unwrap();
            out.stdout.windows(4).filter(|bytes| *bytes == b"file").count()
        };
        assert_eq!(tar(&["--one-file-system"]), 0, "{options}");
        assert_eq!(tar(&[]), 2, "{options}");
        for name in ["one", "one/inner"] {
            assert_eq!(fs::read_to_string(upper.join(name).join("file")).unwrap(), name);
        }
        let done = idshift(&[&"umount", &upper]);
        assert_eq!(done.code, 0, "{}", done.err);
        eventually("all servers have ended", || {
            crate::common::program::processes_of(&upper).is_empty()
        });
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
    }
}

/// A file on which one is mounted, and what a server cannot reach, is shown where it is.
fn parts_that_cannot_be_mounted() {
    needs_idshift();
    needs_real_root("mounts below");
    let place = temp_dir();
    let [lower, upper] = ["tree", "shown"].map(|name| place.path().join(name));
    for dir in [&lower, &upper] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(lower.join("file"), "").unwrap();
    run("mount", &["--bind", "/proc/version", text(&lower.join("file"))]);
    let _below = Below(lower.join("file"));
    let done = idshift(&[&"mount", &"-o", &"map=identity,submounts", &lower, &upper]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(fs::read_to_string(upper.join("file")).unwrap().starts_with("Linux"));
    let done = idshift(&[&"umount", &upper]);
    assert_eq!(done.code, 0, "{}", done.err);
}

fn layers_on_two_file_systems() {
    needs_idshift();
    let place = temp_dir();
    let (ext4, tmpfs) = (storage("ext4", place.path()), storage("tmpfs", place.path()));
    let layers = ["upper", "work"].map(|name| tmpfs.root.join(name));
    for dir in &layers {
        fs::create_dir(dir).unwrap();
    }
    let below = ext4.root.join("below");
    fs::create_dir(&below).unwrap();
    fill(&below, "below");
    let lower = place.path().join("merged");
    fs::create_dir(&lower).unwrap();
    let options = format!(
        "xino=off,lowerdir={},upperdir={},workdir={}",
        text(&below),
        text(&layers[0]),
        text(&layers[1])
    );
    run("mount", &["-t", "overlay", "-o", &options, "none", text(&lower)]);
    let merged = Below(lower);
    // As many numbers as an ext4 gives first are taken by the upper layer's files.
    for n in 0..40 {
        fs::write(merged.0.join(format!("upper-{n}")), "upper").unwrap();
    }
    let mount = Mount::of(temp_dir(), merged.0.clone(), IDENTITY);
    assert_eq!(numbers(&mount.up("")).len(), 44);
}

/// Names with the offsets behind them.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let fd = rustix::fs::openat(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    rest(fd.unwrap().as_fd())
}

fn rest(fd: std::os::fd::BorrowedFd<'_>) -> Vec<(String, u64)> {
    let mut room = [std::mem::MaybeUninit::uninit(); 4096];
    let mut dir = RawDir::new(fd, &mut room);
    let mut names = Vec::new();
    while let Some(entry) = dir.next() {
        let entry = entry.unwrap();
        names.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
    }
    names
}

fn with_names(count: usize) -> (TempDir, Storage) {
    needs_idshift();
    let dir = temp_dir();
    let ext4 = storage("ext4", dir.path());
    for n in 0..count {
        fs::write(ext4.root.join(format!("file-{n}")), "").unwrap();
    }
    (dir, ext4)
}

fn offsets_fit_into_31_bits() {
    let (_dir, ext4) = with_names(3_000);
    for options in ["cache=coherent", "cache=exclusive", "cache=none"] {
        let options = format!("{IDENTITY},{options}");
        let mount = Mount::of(temp_dir(), ext4.root.clone(), &options);
        let names = listing(&mount.up(""));
        assert_eq!(names.len(), 3_003);
        assert!(names.iter().all(|(_, next)| i32::try_from(*next).is_ok()), "{options}");
        // Two readers, in any order, by descriptors that know nothing of what has been read.
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            rustix::fs::openat(CWD, mount.up(""), flags, Mode::empty()).unwrap()
        };
        let (one, other) = (open(), open());
        for at in [2_900, 7, 1_500, 3_001, 0] {
            for fd in [&one, &other, &open()] {
                seek(fd, SeekFrom::Start(names[at].1)).unwrap();
                assert_eq!(rest(fd.as_fd()), names[at + 1..], "{options} at {at}");
            }
        }
        seek(&one, SeekFrom::Start(names[3_002].1)).unwrap();
        assert_eq!(rest(one.as_fd()), [], "the end");
    }
}

fn offsets_outlive_a_killed_server() {
    let (_dir, ext4) = with_names(500);
    let mount = Mount::of(temp_dir(), ext4.root.clone(), "map=identity,restart=on");
    eventually("the server is there", || mount.server_pid() != mount.main_pid());
    let names = listing(&mount.up(""));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = rustix::fs::openat(CWD, mount.up(""), flags, Mode::empty()).unwrap();
    seek(&dir, SeekFrom::Start(names[250].1)).unwrap();
    kill(&mount);
    assert_eq!(rest(dir.as_fd()), names[251..]);
}

fn handles_outlive_what_the_kernel_remembers() {
    needs_idshift();
    let place = temp_dir();
    for kind in ["ext4", "btrfs"] {
        let storage = storage(kind, place.path());
        fill(&storage.root, "what is stored");
        let mount = || Mount::of(temp_dir(), storage.root.clone(), IDENTITY);
        let names = ["a", "dir/b", "dir", ""];
        let first = mount();
        let mut handles = names.map(|name| raw::name_to_handle(&first.up(name)).unwrap());
        // Another mount's kernel side has seen none of them; an NFS client has its handles still.
        first.unmount();
        let second = mount();
        let root = rustix::fs::openat(CWD, second.up(""), OFlags::RDONLY, Mode::empty()).unwrap();
        for (name, handle) in names.iter().zip(&mut handles) {
            let opened = raw::open_by_handle(root.as_fd(), handle).unwrap();
            assert_eq!(rustix::fs::fstat(&opened).unwrap().st_ino, stat_number(&second.up(name)));
        }
        fs::remove_file(second.up("a")).unwrap();
        fs::remove_file(second.up("link")).unwrap();
        // One of these has the number of the removed one.
        for n in 0..100 {
            fs::write(second.low(format!("new-{n}")), "another").unwrap();
        }
        // The kernel's own inode goes when the answer to the last close is there.
        eventually("the removed file's handle is stale", || {
            let opened = raw::open_by_handle(root.as_fd(), &mut handles[0]);
            opened.is_err_and(|errno| errno == Errno::STALE)
        });
    }
}

fn files_without_a_size() {
    needs_idshift();
    for options in ["", ",io=cached", ",submounts"] {
        let options = format!("{IDENTITY}{options}");
        let mount = Mount::of(temp_dir(), "/proc".into(), &options);
        let same = |name: &str| {
            let name = Path::new(name);
            assert_eq!(
                fs::read_to_string(mount.up(name)).unwrap(),
                fs::read_to_string(Path::new("/proc").join(name)).unwrap(),
                "{} with {options}",
                name.display()
            );
        };
        ["sys/kernel/ostype", "cpuinfo", "filesystems", "1/comm"].into_iter().for_each(same);
        let up = || fs::read_to_string(mount.up("uptime")).unwrap();
        let first = up();
        std::thread::sleep(Duration::from_millis(30));
        assert_ne!(up(), first, "nothing is remembered");
    }
}

/// Whether looking moves the access time of what was last read long ago, or since it was changed.
fn moves(mount: &Mount, what: &str, long_ago: bool) -> bool {
    let (below, above) = (mount.low(what), mount.up(what));
    let flag = if long_ago { "@1000" } else { "now" };
    run("touch", &["-h", "-a", "-d", flag, text(&below)]);
    // Seen by the mount before it is looked at.
    let atime = || {
        let meta = below.symlink_metadata().unwrap();
        (meta.atime(), meta.atime_nsec())
    };
    let before = atime();
    std::thread::sleep(Duration::from_millis(30));
    match what {
        "file" => drop(fs::read(&above).unwrap()),
        "dir" => assert_eq!(fs::read_dir(&above).unwrap().count(), 1),
        _ => drop(fs::read_link(&above).unwrap()),
    }
    std::thread::sleep(Duration::from_millis(30));
    atime() != before
}

fn with_times(options: &str) -> Mount {
    needs_real_root("the flags of mounts that another user namespace has made are settled");
    Mount::with(&format!("{IDENTITY},cache=none{options}"), |lower| {
        fs::write(lower.join("file"), "x").unwrap();
        mkdir(&lower.join("dir"), 0o755).unwrap();
        fs::write(lower.join("dir/a"), "").unwrap();
        std::os::unix::fs::symlink("file", lower.join("link")).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    })
}

/// What the kernel's mount does: file, directory and link last looked at long ago; a file read since.
fn check_times(mount: &Mount, what: &str, expected: [bool; 4]) {
    let seen = [("file", true), ("dir", true), ("link", true), ("file", false)];
    assert_eq!(seen.map(|(name, long_ago)| moves(mount, name, long_ago)), expected, "{what}");
}

fn access_times_are_kept_as_asked_for() {
    for (options, expected) in [
        (",noatime", [false; 4]),
        (",relatime", [true, true, true, false]),
        (",strictatime", [true; 4]),
        (",nodiratime,relatime", [true, false, true, false]),
        (",nodiratime,strictatime", [true, false, true, true]),
    ] {
        check_times(&with_times(options), options, expected);
    }
}

fn access_times_after_a_remount() {
    needs_idshift();
    let mount = with_times("");
    for (options, expected) in [
        ("noatime", [false; 4]),
        ("ro", [false; 4]),
        ("rw,strictatime", [true; 4]),
        ("ro", [true; 4]),
        ("nodiratime", [true, false, true, true]),
        ("diratime,relatime", [true, true, true, false]),
    ] {
        let options = format!("remount,{options}");
        let lower = mount.low("");
        let done = idshift(&[&"mount", &"-o", &options, &lower, &mount.up("")]);
        assert_eq!(done.code, 0, "{}", done.err);
        check_times(&mount, &options, expected);
    }
}

const FIBMAP: u64 = 1;
const FIEMAP: u64 = 0xc020_660b;

/// The rows of docs/semantics.md of that name: if one of them changes, the row has to.
fn what_fuse_does_not_pass_on() {
    needs_idshift();
    let place = temp_dir();
    let ext4 = storage("ext4", place.path());
    let mount = Mount::of(temp_dir(), ext4.root.clone(), IDENTITY);
    fs::write(mount.up("file"), vec![1; 1 << 16]).unwrap();
    let open = |path: PathBuf| rustix::fs::openat(CWD, path, OFlags::RDWR, Mode::empty()).unwrap();
    let (above, below) = (open(mount.up("file")), open(mount.low("file")));
    rustix::fs::fsync(&above).unwrap();
    let ask = |request: u64| {
        [&above, &below].map(|fd| {
            let mut room = [0_u8; 1024];
            // FIEMAP: all of the file, and no room for extents.
            if request == FIEMAP {
                room[8..16].fill(0x7f);
            }
            raw::ioctl(fd.as_fd(), request, &mut room).map(|_| room[..4].to_vec())
        })
    };
    let [shown, stored] = ask(FIBMAP);
    assert!(shown == Ok(vec![0; 4]) && stored.is_ok_and(|block| block != [0; 4]), "FIBMAP");
    for (request, errno) in [
        (FIEMAP, Errno::OPNOTSUPP),
        (0x8011_1500, Errno::NOTTY), // FS_IOC_GETFSUUID
        (0x8100_9431, Errno::NOTTY), // FS_IOC_GETFSLABEL
    ] {
        assert_eq!(ask(request)[0], Err(errno), "{request:#x}");
    }
    let mut byte = [0];
    let mut read = [std::io::IoSliceMut::new(&mut byte)];
    let nowait = rustix::io::ReadWriteFlags::NOWAIT;
    assert_errno!(rustix::io::preadv2(&above, &mut read, 0, nowait), Errno::OPNOTSUPP);

    run("chattr", &["+d", text(&mount.low("file"))]);
    let attributes = |path: &Path| {
        let flags = rustix::fs::StatxFlags::BASIC_STATS;
        rustix::fs::statx(CWD, path, rustix::fs::AtFlags::empty(), flags).unwrap().stx_attributes
    };
    let nodump = rustix::fs::StatxAttributes::NODUMP;
    assert!(attributes(&mount.low("file")).contains(nodump));
    assert!(!attributes(&mount.up("file")).contains(nodump), "statx");

    let _listener = std::os::unix::net::UnixListener::bind(mount.low("socket")).unwrap();
    let refused = std::os::unix::net::UnixStream::connect(mount.up("socket")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    fs::create_dir_all(mount.up("dir/inner")).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = rustix::fs::openat(CWD, mount.up("dir/inner"), flags, Mode::empty()).unwrap();
    let path = || rustix::fs::readlinkat(CWD, magic_link(&dir), Vec::new()).unwrap();
    fs::rename(mount.low("dir/inner"), mount.low("moved")).unwrap();
    assert!(path().to_str().unwrap().contains("dir/inner"), "until somebody looks");
    stat_number(&mount.up("moved"));
    assert!(path().to_str().unwrap().ends_with("moved"));
}

fn magic_link(fd: &std::os::fd::OwnedFd) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd))
}

fn the_root_directory_can_be_shown() {
    needs_idshift();
    let mount = Mount::of(temp_dir(), "/".into(), "map=identity,ro");
    for name in ["etc", "usr"] {
        assert!(mount.up(name).is_dir());
    }
    let inside = mount.up(mount.up("").strip_prefix("/").unwrap());
    if let Ok(mut inside) = fs::read_dir(&inside) {
        assert!(inside.next().is_none(), "the mount does not contain itself");
    }
}

fn what_is_mounted_is_found_by_mount_all() {
    needs_idshift();
    needs_real_root("mount(8)");
    needs_program("unshare");
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    for name in ["lower", "upper", "bin"] {
        fs::create_dir(at(name)).unwrap();
    }
    let line =
        format!("{} {} fuse.idshift map=identity 0 0\n", text(&at("lower")), text(&at("upper")));
    fs::write(at("fstab"), line).unwrap();
    // mount(8) looks for its helpers in these directories alone.
    let script = format!(
        "set -e; mount --make-rprivate /; mount -t tmpfs none /usr/sbin
         ln -s '{}' /usr/sbin/mount.fuse.idshift
         trap 'umount {point}' EXIT
         mount -T {fstab} -a; mount -T {fstab} -a
         test $(grep -c ' {point} ' /proc/self/mountinfo) = 1",
        crate::common::machine().binary.display(),
        point = text(&at("upper")),
        fstab = text(&at("fstab")),
    );
    run("unshare", &["-m", "--", "sh", "-c", &script]);
}
