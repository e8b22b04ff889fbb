//! Test suites of others, run on a shifted mount: pjdfstest (what POSIX says of each call) and fsx
//! (random changes of one file, compared with a copy in memory).
//!
//! Found in `$IDSHIFT_SUITES` or in `target/suites/bin`, where `.ci/run` installs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::runner::{needs_program, needs_real_root};
use crate::common::storage::Storage;
use crate::common::{self, Caller, Mount, lo, machine, put_dir, set_mode, skip};

crate::common::tests!(
    pjdfstest_on_ext4,
    pjdfstest_on_xfs,
    pjdfstest_on_btrfs,
    pjdfstest_on_tmpfs,
    pjdfstest_on_overlayfs,
    pjdfstest_read_only,
    fsx_with_mmap,
    fsx_without_mmap,
    fsx_as_an_ordinary_user
);

/// pjdfstest uses ids up to 65535.
const WIDE_MAP: &str = "map=b:100000:0:65536";
const OPERATIONS: &str = "100000";

fn suite(name: &str) -> PathBuf {
    let built = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let places = [
        std::env::var_os("IDSHIFT_SUITES").map(PathBuf::from),
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/suites/bin")),
        Some(built.join("suites/bin")),
    ];
    let found = places.into_iter().flatten().map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| skip(format!("needs {name}: .ci/run installs it in target/suites")))
}

fn settings(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load/suites").join(name)
}

fn without_colours(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut plain = String::new();
    let mut parts = text.split('\u{1b}');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

fn pjdfstest_on_ext4() {
    pjdfstest_on("ext4");
}

fn pjdfstest_on_xfs() {
    pjdfstest_on("xfs");
}

fn pjdfstest_on_btrfs() {
    pjdfstest_on("btrfs");
}

fn pjdfstest_on_tmpfs() {
    pjdfstest_on("tmpfs");
}

fn pjdfstest_on_overlayfs() {
    pjdfstest_on("overlayfs");
}

fn pjdfstest_on(kind: &'static str) {
    // pjdfstest keeps a file open somewhere, so that its tests with a read-only file system fail
    // behind the others, on ext4 too; alone they pass. Hence two runs.
    let (failed, passed) = run_pjdfstest(kind, false, "");
    let most = if kind == "overlayfs" { 340 } else { 380 };
    assert!(passed > most, "{passed} passed");
    assert_eq!(failed, 0);
}

fn pjdfstest_read_only() {
    // On the kernel's idmapped mount this would remount the lower file system.
    common::runner::needs_idshift();
    let (failed, passed) = run_pjdfstest("ext4", true, "erofs");
    assert_eq!((failed, passed), (0, 13));
}

/// Runs the tests whose names contain `pattern` on a lower file system of this kind; how many
/// failed and passed.
fn run_pjdfstest(kind: &'static str, may_remount: bool, pattern: &str) -> (usize, usize) {
    needs_real_root("pjdfstest makes device nodes");
    needs_program("mount");
    let program = suite("pjdfstest");
    let place = common::mount::temp_dir();
    let storage = Storage::make(kind, place.path()).unwrap_or_else(|why| skip(why));
    let lower = storage.root.join("lower");
    put_dir(&lower, 0o755, 100_000, 100_000);
    let mount = Mount::of(common::mount::temp_dir(), lower, WIDE_MAP);
    let beside = mount.beside();
    let second = beside.join("second");
    fs::create_dir(&second).unwrap();
    let expected = expected_failures(kind);
    let config = fs::read_to_string(settings("pjdfstest.toml"))
        .unwrap()
        .replace("@SECONDARY@", second.to_str().unwrap())
        .replace("@REMOUNT@", &may_remount.to_string())
        .replace("@EXPECTED@", &expected.join(", "));
    fs::write(beside.join("config.toml"), config).unwrap();
    let script = format!(
        "set -e; {sbin}mount -t tmpfs tmpfs {second}; exec {program} -c {config} -p {path} {pattern}",
        sbin = if may_remount { helper_in_sbin(beside) } else { String::new() },
        second = second.display(),
        program = program.display(),
        config = beside.join("config.toml").display(),
        path = mount.up("").display(),
    );
    let out = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let text = without_colours(&out);
    let summary = text.lines().find(|line| line.starts_with("Summary")).unwrap_or("no summary");
    println!(
        "pjdfstest {kind} {pattern}: {summary}; {} in the list of expected failures",
        expected.len()
    );
    // A result, or what is said below one that failed.
    let mut failing = false;
    for line in text.lines().take_while(|line| *line != summary) {
        let is_result = line.contains("::") && !line.starts_with(char::is_whitespace);
        if is_result {
            failing = line.contains("FAILED") || line.contains("UNEXPECTEDLY");
        }
        if failing && (is_result || line.starts_with('\t')) {
            println!("{line}");
        }
    }
    assert_eq!(out.status.success(), summary.contains(" 0 failed"), "{text}");
    let count = |what: &str| {
        let (number, _) = summary.split_once(what)?;
        number.trim_end().rsplit(' ').next()?.parse().ok()
    };
    (count("failed").expect("a summary"), count("passed").expect("a summary"))
}

/// The tests that fail on a lower file system of this kind, each in quotes.
fn expected_failures(kind: &str) -> Vec<String> {
    let text = fs::read_to_string(settings("pjdfstest.expected")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    pairs.filter(|(name, _)| *name == kind).map(|(_, test)| format!("{:?}", test.trim())).collect()
}

/// mount(8) looks for the helper of a FUSE file system in /usr/sbin when it remounts one. These
/// words of a script put it there, for the script alone.
fn helper_in_sbin(dir: &Path) -> String {
    for name in ["sbin", "work"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&machine().binary, dir.join("sbin/mount.fuse.idshift")).unwrap();
    format!(
        "mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={0}/sbin,workdir={0}/work /usr/sbin; ",
        dir.display()
    )
}

fn fsx(config: &str, seed: &str, caller: &Caller) {
    let program = suite("fsx");
    let mount = Mount::with(common::MAP, |lower| put_dir(&lower.join("dir"), 0o777, lo(0), lo(0)));
    let artifacts = mount.beside().join("artifacts");
    fs::create_dir(&artifacts).unwrap();
    set_mode(&artifacts, 0o777).unwrap();
    // Where the program may be reached by the caller, whatever the mode of the build directory.
    let copy = mount.beside().join("fsx");
    fs::copy(program, &copy).unwrap();
    let config_copy = mount.beside().join("fsx.toml");
    fs::copy(settings(config), &config_copy).unwrap();
    let file = mount.up("dir/file");
    let out = caller
        .run(|| {
            Command::new(&copy)
                .args(["-N", OPERATIONS, "-S", seed, "-f"])
                .arg(&config_copy)
                .arg("-P")
                .arg(&artifacts)
                .arg(&file)
                .output()
        })
        .unwrap();
    let text = without_colours(&out);
    println!("fsx: {config}, {OPERATIONS} operations, seed {seed}: {}", out.status);
    // What differed comes first, then the operations that led to it.
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("[INFO")).collect();
    let (head, tail) = lines.split_at(lines.len().min(25));
    let tail = &tail[tail.len().saturating_sub(25)..];
    let (head, tail) = (head.join("\n"), tail.join("\n"));
    assert!(out.status.success(), "seed {seed}\n{head}\n…\n{tail}");
    let (above, below) = (fs::read(&file), fs::read(mount.low("dir/file")));
    assert!(above.unwrap() == below.unwrap(), "the lower file is the same");
}

/// The three runs take their time, so each identity has its own.
fn only_as(root: bool) {
    if machine().real_root != root {
        skip("runs as the other identity");
    }
}

fn fsx_with_mmap() {
    only_as(true);
    fsx("fsx.toml", "20240711", &Caller::user(0));
}

fn fsx_without_mmap() {
    only_as(true);
    fsx("fsx-nommap.toml", "20250103", &Caller::user(0));
}

fn fsx_as_an_ordinary_user() {
    only_as(machine().kernel_backend);
    fsx("fsx.toml", "424242", &Caller::user(1000).umask(0o022));
}
