//! Many files, few descriptors: the whole tree is walked while the server may hold only 256.
//! `IDSHIFT_TEST_FILES` sets the number of files.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::common::{self, Caller, Mount, lo};

crate::common::tests!(
    a_big_tree_with_few_descriptors,
    a_big_tree_made_and_removed,
    a_deep_tree_with_few_descriptors,
);

/// What the server may hold in memory beyond what it held when it had just begun, which is as much as it
/// was compiled to: so many KiB, and so many bytes for each file that the kernel knows.
const MORE_KIB: u64 = 1024;
const BYTES_EACH: u64 = 200;
const PER_DIRECTORY: usize = 1_000;

fn wanted_files() -> usize {
    if let Ok(number) = std::env::var("IDSHIFT_TEST_FILES") {
        return number.parse().expect("IDSHIFT_TEST_FILES is a number");
    }
    // In a user namespace files are found again by walking, which is the slower way.
    if common::machine().real_root { 200_000 } else { 20_000 }
}

fn fill(lower: &Path, files: usize) {
    // Made by the stored id of upper root: cheaper than to chown them all.
    Caller::user(lo(0)).run(|| {
        for directory in 0..files.div_ceil(PER_DIRECTORY) {
            let path = lower.join(format!("tree/d{directory:04}"));
            fs::create_dir_all(&path).unwrap();
            for file in 0..PER_DIRECTORY.min(files - directory * PER_DIRECTORY) {
                fs::File::create(path.join(format!("file-{file:05}"))).unwrap();
            }
        }
    });
}

/// Looks up and stats everything; the number of files and the sum of their inode numbers.
fn walk(root: &Path) -> (usize, u64) {
    let (mut files, mut inodes) = (0, 0_u64);
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let stat = common::stat(&path);
        inodes = inodes.wrapping_add(stat.st_ino);
        if stat.st_mode & 0o170_000 == 0o040_000 {
            let (more, sum) = walk(&path);
            files += more;
            inodes = inodes.wrapping_add(sum);
        } else {
            files += 1;
        }
    }
    (files, inodes)
}

fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn with_few_descriptors(fill: impl FnOnce(&Path)) -> Mount {
    common::runner::needs_idshift();
    let mount = Mount::with_descriptors(256, &format!("{},cache=exclusive", common::MAP), fill);
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.server_pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(line.split_whitespace().any(|word| word == "256"), "{line}");
    mount
}

fn a_big_tree_with_few_descriptors() {
    let files = wanted_files();
    let mount = with_few_descriptors(|lower| fill(lower, files));
    let pid = mount.server_pid();
    let before = status(pid, "VmHWM");
    let below = walk(&mount.low("tree"));
    assert_eq!(below.0, files);
    let start = Instant::now();
    assert_eq!(walk(&mount.up("tree")), below);
    let first = start.elapsed();
    let (held, memory) = (descriptors(pid), status(pid, "VmHWM"));
    println!(
        "scale: {files} files walked in {first:.1?} under ulimit -n 256; the server holds {held} descriptors, peak memory {memory} kB"
    );
    assert!(held <= 256);
    let allowed = before + MORE_KIB + BYTES_EACH * files as u64 / 1024;
    assert!(memory < allowed, "peak memory {memory} kB of {allowed}");
    if common::machine().real_root {
        // The kernel forgets, the server must too.
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let start = Instant::now();
        assert_eq!(walk(&mount.up("tree")), below);
        let memory = status(pid, "VmHWM");
        println!(
            "scale: again after drop_caches in {:.1?}, peak memory {memory} kB",
            start.elapsed()
        );
        assert!(memory < allowed, "peak memory {memory} kB of {allowed}");
    }
    // Each is still good for more than a stat, long after its descriptor was closed.
    for directory in (0..files / PER_DIRECTORY).step_by(17) {
        let file = format!("tree/d{directory:04}/file-00500");
        fs::write(mount.up(&file), &file).unwrap();
        assert_eq!(fs::read(mount.low(&file)).unwrap(), file.as_bytes());
    }
}

/// Through the mount from its first file to its last; `IDSHIFT_TEST_MADE` sets their number.
fn a_big_tree_made_and_removed() {
    let files: usize = match std::env::var("IDSHIFT_TEST_MADE") {
        Ok(number) => number.parse().expect("IDSHIFT_TEST_MADE is a number"),
        Err(_) if common::machine().real_root => 5_000,
        Err(_) => 1_000,
    };
    let mount = with_few_descriptors(|_| ());
    let pid = mount.server_pid();
    let report = || common::status::report(&mount.up("")).expect("the mount answers");
    let before = common::status::number(&report(), "memory_bytes");
    let start = Instant::now();
    let step = |what: &str, work: &mut dyn FnMut(&Path)| {
        let start = Instant::now();
        for directory in 0..files.div_ceil(PER_DIRECTORY) {
            work(&mount.up(format!("d{directory:04}")));
        }
        format!("{what} in {:.1?}", start.elapsed())
    };
    let count = |directory: &Path| {
        let number: usize = directory.file_name().unwrap().to_str().unwrap()[1..].parse().unwrap();
        PER_DIRECTORY.min(files - number * PER_DIRECTORY)
    };
    let made = step("made", &mut |directory| {
        common::mkdir(directory, 0o755).unwrap();
        for file in 0..count(directory) {
            common::create(&directory.join(format!("file-{file:05}")), 0o644).unwrap();
        }
    });
    let walked = step("listed and looked at", &mut |directory| {
        assert_eq!(walk(directory).0, count(directory));
    });
    let peak = status(pid, "VmHWM");
    let known = common::status::number(&report(), "inodes");
    let removed = step("removed", &mut |directory| {
        for file in 0..count(directory) {
            fs::remove_file(directory.join(format!("file-{file:05}"))).unwrap();
        }
        fs::remove_dir(directory).unwrap();
    });
    let allowed = before / 1024 + MORE_KIB + BYTES_EACH * files as u64 / 1024;
    assert!(descriptors(pid) <= 256);
    assert!(status(pid, "VmHWM") < allowed, "peak {} kB of {allowed}", status(pid, "VmHWM"));
    assert_eq!(fs::read_dir(mount.low("")).unwrap().count(), 0);
    let left = ["inodes", "lookups", "open_files", "unlinked_descriptors", "cached_descriptors"];
    common::eventually("the server has forgotten everything", || {
        let report = report();
        left.iter().all(|name| common::status::number(&report, name) == 0)
    });
    // The server gives memory back when it has nothing to do.
    common::eventually("the memory is given back", || {
        common::status::number(&report(), "memory_bytes") < before + (4 << 20)
    });
    let after = common::status::number(&report(), "memory_bytes");
    println!(
        "scale: {files} files {made}, {walked} ({known} inodes known, peak memory {peak} kB), {removed}; \
         then 0 inodes, 0 lookups, memory {} kB (before: {} kB), {:.1?} in all",
        after / 1024,
        before / 1024,
        start.elapsed()
    );
}

/// Found again by a walk from the parent, where handles are not allowed, this is the worst case.
fn a_deep_tree_with_few_descriptors() {
    let mount = with_few_descriptors(|_| ());
    let mut path = mount.up("");
    let mut directories = Vec::new();
    for depth in 0..400 {
        path.push(format!("d{depth}"));
        common::mkdir(&path, 0o755).unwrap();
        directories.push(common::open(&path, common::OFlags::PATH, 0).unwrap());
    }
    for (depth, directory) in directories.iter().enumerate() {
        let name = format!("file-{depth}");
        let flags = common::OFlags::CREATE | common::OFlags::WRONLY;
        let mode = common::Mode::from_raw_mode(0o600);
        rustix::fs::openat(directory, &name, flags, mode).unwrap();
    }
    assert!(path.join("file-399").exists());
    assert!(descriptors(mount.server_pid()) <= 256);
    drop(directories);
    // From below, with one directory open at a time: what clients hold open, the server must too.
    for depth in (0..400).rev() {
        fs::remove_file(path.join(format!("file-{depth}"))).unwrap();
        fs::remove_dir(&path).unwrap();
        path.pop();
    }
    assert!(!mount.low("d0").exists());
}
