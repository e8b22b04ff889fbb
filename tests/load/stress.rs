//! Many at once on one mount: the stressors of stress-ng that concern file systems, which check
//! what they get, and several processes that build one tree.

mod trees;

pub(crate) use trees::build as work;
use trees::parallel_trees;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::runner::{needs_program, needs_real_root};
use crate::common::{self, Caller, Mount, lo, put_dir, raw};

crate::common::tests!(
    stressors,
    stressors_as_an_ordinary_user,
    stressors_while_servers_are_killed,
    parallel_trees,
);

/// What this process is started for, when it is one of those that build trees.
pub(crate) fn task() -> Option<String> {
    std::env::var(trees::TASK).ok()
}

/// Which run side by side, with how much they may write. Each group takes [`SECONDS`].
const GROUPS: &[&[&str]] = &[
    &["access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep"],
    &["dirmany", "fallocate", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch"],
    &["fstat", "getdent", "hdd", "inotify", "io", "link", "lease", "lockf"],
    &["lockofd", "locka", "mknod", "mmap", "open", "rename", "seek", "sendfile"],
    &["splice", "symlink", "sync-file", "touch", "utime", "xattr", "chattr", "readahead"],
    &["handle", "revio", "iomix", "mmapmany", "msync", "dup", "fifo", "aiol"],
];
const LIMITS: &[&str] = &[
    "--chdir-dirs=256",
    "--copy-file-bytes=128M",
    "--dentries=256",
    "--dirdeep-inodes=500",
    "--fallocate-bytes=32M",
    "--hdd-bytes=32M",
    "--iomix-bytes=16M",
    "--mmap-bytes=16M",
    "--msync-bytes=16M",
    "--readahead-bytes=32M",
    "--revio-bytes=16M",
    "--seek-size=16M",
    "--sendfile-size=1M",
    "--sync-file-bytes=16M",
];
const SECONDS: &str = "8";

fn stressors() {
    needs_real_root("stress-ng makes device nodes");
    stress(&Caller::user(0), GROUPS);
}

/// What a user may do goes other ways than root: permissions count.
fn stressors_as_an_ordinary_user() {
    needs_real_root("once is enough");
    stress(&Caller::user(1000).umask(0o022), &GROUPS[..2]);
}

/// Those that make, move and remove names, and look at what they find: with `restart=on` none of
/// them is to notice that its server is killed, time and again.
const NAMES: &[&str] = &["dir", "rename", "link", "symlink", "mknod", "xattr", "hdd", "filename"];

fn stressors_while_servers_are_killed() {
    needs_program("stress-ng");
    let mount = common::restart::mounted("");
    fs::create_dir(mount.up("dir")).unwrap();
    let ended = AtomicBool::new(false);
    let kills = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills = 0;
            while !ended.load(Ordering::SeqCst) {
                // One that has just begun is left alone: many early deaths end a mount.
                thread::sleep(Duration::from_millis(400));
                let server = mount.server_pid();
                if server != mount.main_pid() && raw::kill(server, libc::SIGKILL).is_ok() {
                    kills += 1;
                }
            }
            kills
        });
        let stressed =
            catch_unwind(AssertUnwindSafe(|| stress_on(&mount, &Caller::user(0), &[NAMES])));
        ended.store(true, Ordering::SeqCst);
        stressed.map_or_else(|panic| resume_unwind(panic), |()| killer.join().unwrap())
    });
    println!("stress-ng: through {kills} kills of the server");
    assert!(kills > 5, "{kills} kills");
}

fn stress(caller: &Caller, groups: &[&[&str]]) {
    needs_program("stress-ng");
    let mount = Mount::with(common::MAP, |lower| put_dir(&lower.join("dir"), 0o777, lo(0), lo(0)));
    stress_on(&mount, caller, groups);
}

fn stress_on(mount: &Mount, caller: &Caller, groups: &[&[&str]]) {
    let mut reports = Vec::new();
    for group in groups {
        let (status, text) = caller.run(|| run_group(mount, group));
        let said = |what: &str| {
            let lines = text.lines().filter(|line| line.contains(what));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        for line in said("skipp").into_iter().chain(said("not supported")) {
            println!("stress-ng: {line}");
        }
        let failed = said("fail:");
        if !status.success() || !failed.is_empty() {
            reports.push(format!("{group:?}: {status}\n{text}"));
        }
        println!("stress-ng: {}: {status}", group.join(" "));
    }
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

fn run_group(mount: &Mount, group: &[&str]) -> (ExitStatus, String) {
    let mut command = Command::new("stress-ng");
    command.args(["--verify", "--timeout", SECONDS, "--temp-path"]).arg(mount.up("dir"));
    command.args(group.iter().map(|name| format!("--{name}=1"))).args(LIMITS);
    let out = command.current_dir(mount.up("dir")).output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    (out.status, text)
}
