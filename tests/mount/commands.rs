//! The commands, as a person or mount(8) calls them: what they say, how they end, and that nothing
//! is mounted after a mistake.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::mount::{free, is_mounted, mount_line, temp_dir};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{machine, put_dir, put_file, skip};
use tempfile::TempDir;

crate::common::tests!(
    demo,
    mount_answers_when_the_command_returns,
    mount_helper_syntax,
    mount_program_uses_the_helper,
    mistakes_are_named_and_mount_nothing,
    busy_mount_names_who_uses_it,
    dead_server,
    lower_directory_as_its_own_mount_point,
    signal_unmounts,
    remount_changes_flags,
    flags_reach_the_mount,
    umount_takes_only_its_own,
    probe,
    map_explain,
    busy_for_a_moment_is_waited_for,
    hostile_names_stay_off_the_terminal,
    nobody_reads_on,
);

/// A lower tree and a mount point, which is free again at the end.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        needs_idshift();
        if !Path::new("/dev/fuse").exists() {
            skip("needs /dev/fuse");
        }
        let place = Self { dir: temp_dir() };
        put_dir(&place.path("lower"), 0o755, 1000, 1000);
        put_file(&place.path("lower/file"), b"", 0o644, 1000, 1000);
        put_dir(&place.path("lower/inside"), 0o755, 0, 0);
        put_dir(&place.path("mnt"), 0o755, 0, 0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program in this place. The words `LOWER` and `MNT` stand for the paths.
    fn idshift(&self, words: &[&str]) -> Ended {
        self.named("idshift", words)
    }

    fn named(&self, name: &str, words: &[&str]) -> Ended {
        let mut command = Command::new(&machine().binary);
        command.arg0(name);
        self.run(command, words)
    }

    fn run(&self, mut command: Command, words: &[&str]) -> Ended {
        for word in words {
            match *word {
                "LOWER" => command.arg(self.path("lower")),
                "MNT" => command.arg(self.path("mnt")),
                other => command.arg(other),
            };
        }
        Ended(command.current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap())
    }

    fn mount(&self, options: &str) {
        self.idshift(&["mount", "-o", options, "LOWER", "MNT"]).with_code(0);
    }

    fn mounted(&self) -> bool {
        is_mounted(&self.path("mnt"))
    }

    fn flags(&self) -> String {
        mount_line(&self.path("mnt")).unwrap()[3].clone()
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let it = fs::symlink_metadata(self.path(name)).unwrap();
        (it.uid(), it.gid())
    }

    /// The process that serves the mount: the one whose command line holds the mount point.
    fn server(&self) -> rustix::process::Pid {
        let point = self.path("mnt");
        let point = point.to_str().unwrap();
        let serves = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(point)
        };
        let found = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .find(serves);
        rustix::process::Pid::from_raw(found.expect("a server process")).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        free(&self.path("mnt"));
        free(&self.path("lower"));
    }
}

/// A command that has ended.
struct Ended(Output);

impl Ended {
    fn text(&self) -> String {
        let bytes = [self.0.stdout.as_slice(), self.0.stderr.as_slice()].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn with_code(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{}", self.text());
        self
    }

    fn saying(self, parts: &[&str]) -> Self {
        let text = self.text();
        for part in parts {
            assert!(text.contains(part), "'{part}' is missing in:\n{text}");
        }
        self
    }
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(10), "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const MAP: &str = "map=b:0:10000:5000";

fn demo() {
    let place = Place::new();
    let mut command = Command::new(&machine().binary);
    command.env("TMPDIR", place.dir.path());
    place.run(command, &["demo"]).with_code(0).saying(&[
        "All steps went as they should",
        "Permission denied",
        "1000:1000",
    ]);
    let left = fs::read_dir(place.dir.path()).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().starts_with("idshift-demo-")
    });
    assert!(!left, "the demo has left something behind");
}

fn mount_answers_when_the_command_returns() {
    let place = Place::new();
    place.mount(MAP);
    let line = mount_line(&place.path("mnt")).unwrap();
    assert_eq!(
        (line[0].as_str(), line[2].as_str()),
        (place.path("lower").to_str().unwrap(), "fuse.idshift")
    );
    assert_eq!(place.owner("mnt/file"), (11_000, 11_000));
    assert_eq!(place.owner("lower/file"), (1000, 1000));
    place.idshift(&["umount", "MNT"]).with_code(0);
    assert!(!place.mounted());
}

fn mount_helper_syntax() {
    let place = Place::new();
    let words =
        ["LOWER", "MNT", "-n", "-v", "-o", "rw,nosuid,map=b:0:10000:5000", "-t", "fuse.idshift"];
    place.named("/sbin/mount.fuse.idshift", &words).with_code(0).saying(&["is shown at"]);
    assert_eq!(place.owner("mnt/file"), (11_000, 11_000));
    assert!(place.flags().contains("nosuid"));
    place.idshift(&["umount", "MNT"]).with_code(0);

    // As mount.fuse3 calls `idshift`; with -f nothing is mounted.
    place.idshift(&["LOWER", "MNT", "-f", "-o", "map=identity"]).with_code(0);
    assert!(!place.mounted());
    place.named("mount.fuse.idshift", &["LOWER"]).with_code(1).saying(&["usage:"]);
}

/// mount(8) looks for `mount.fuse` where there is no `mount.fuse.idshift`; in this test's own
/// mount namespace the program stands in its place.
fn mount_program_uses_the_helper() {
    needs_real_root("puts the program over a helper of the system");
    needs_program("mount.fuse");
    let place = Place::new();
    let helper = fs::canonicalize("/sbin/mount.fuse").unwrap();
    rustix::mount::mount_bind(&machine().binary, &helper).unwrap();
    let words = ["-t", "fuse.idshift", "LOWER", "MNT", "-o"];
    let options = "map=b:0:10000:5000,nosuid,noatime,nofail,_netdev,x-systemd.automount,user";
    let mounted = place.run(Command::new("mount"), &[&words[..], &[options]].concat());
    let line = mount_line(&place.path("mnt"));
    let remounted = place.run(Command::new("mount"), &["-o", "remount,ro", "MNT"]);
    let read_only = place.flags();
    let unmounted = place.run(Command::new("umount"), &["MNT"]);
    let wrong = place.run(Command::new("mount"), &[&words[..], &["mpa=identity"]].concat());
    rustix::mount::unmount(&helper, rustix::mount::UnmountFlags::DETACH).unwrap();

    mounted.with_code(0);
    let line = line.unwrap();
    assert_eq!(line[2], "fuse.idshift");
    for flag in ["rw", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(line[3].split(',').any(|it| it == flag), "{flag} in {}", line[3]);
    }
    remounted.with_code(0);
    assert!(read_only.starts_with("ro,"), "{read_only}");
    unmounted.with_code(0);
    wrong.with_code(1).saying(&["mpa", "did you mean 'map'"]);
    assert!(!place.mounted());
}

fn mistakes_are_named_and_mount_nothing() {
    let place = Place::new();
    let inside = place.path("lower/inside");
    let file = place.path("lower/file");
    let (inside, file) = (inside.to_str().unwrap(), file.to_str().unwrap());
    for (words, code, parts) in [
        (&["mount", "LOWER", "MNT"][..], 1, &["no id map", "map=identity"][..]),
        (&["mount", "-o", "map=b:0:1", "LOWER", "MNT"], 1, &["b:0:1", "b:0:100000:65536"]),
        (
            &["mount", "-o", "map=b:0:0:5 b:4:9:1", "LOWER", "MNT"],
            1,
            &["overlap", "0:0:5", "4:9:1"],
        ),
        (&["mount", "-o", "map=identity,nosuit", "LOWER", "MNT"], 1, &["did you mean 'nosuid'"]),
        (
            &["mount", "-m", "identity", "nowhere", "MNT"],
            32,
            &["lower directory", "does not exist"],
        ),
        (&["mount", "-m", "identity", file, "MNT"], 32, &["mount point", "not a file"]),
        (&["mount", "-m", "identity", "LOWER", "nowhere"], 32, &["mount point", "mkdir"]),
        (&["mount", "-m", "identity", "LOWER", file], 32, &["mount point", "not a directory"]),
        (
            &["mount", "-m", "identity", "-o", "submounts", "LOWER", inside],
            32,
            &["inside the lower directory"],
        ),
        (&["mount", "LOWER"], 1, &["MOUNTPOINT"]),
        (&["frobnicate"], 1, &["frobnicate"]),
        (&["umount", "MNT"], 32, &["nothing is mounted"]),
    ] {
        place.idshift(words).with_code(code).saying(parts);
        assert!(!place.mounted() && !is_mounted(&place.path("lower/inside")), "{words:?}");
    }
    place.mount("map=identity");
    place
        .idshift(&["mount", "-m", "identity", "LOWER", "MNT"])
        .with_code(32)
        .saying(&["is busy", "idshift umount"]);
    place.idshift(&["--help"]).with_code(0).saying(&["mount", "umount", "probe", "demo"]);
    place.idshift(&["--version"]).with_code(0);
}

fn busy_mount_names_who_uses_it() {
    let place = Place::new();
    place.mount("map=identity");
    let open = fs::File::open(place.path("mnt/file")).unwrap();
    let me = std::process::id().to_string();
    place.idshift(&["umount", "MNT"]).with_code(32).saying(&["is busy", &me, "open file"]);
    // What no process holds.
    let busy = |what: &str| {
        place.idshift(&["umount", "MNT"]).with_code(32).saying(&["is busy", what]);
    };
    let listener = std::os::unix::net::UnixListener::bind(place.path("mnt/socket")).unwrap();
    busy("a socket is bound to");
    drop(listener);
    if machine().real_root {
        let dir = place.path("mnt/covered");
        fs::create_dir(&dir).unwrap();
        place.run(Command::new("mount"), &["-t", "tmpfs", "none", dir.to_str().unwrap()]);
        busy("a mount of type tmpfs is inside");
        rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::empty()).unwrap();
    }
    assert!(place.mounted());
    place.idshift(&["umount", "-l", "MNT"]).with_code(0);
    assert!(!place.mounted());
    drop(open);
}

fn dead_server() {
    let place = Place::new();
    place.mount("map=identity,restart=off");
    rustix::process::kill_process(place.server(), rustix::process::Signal::KILL).unwrap();
    eventually("the mount is dead", || fs::read_dir(place.path("mnt")).is_err());
    place
        .idshift(&["mount", "-m", "identity", "LOWER", "MNT"])
        .with_code(32)
        .saying(&["server has died", "idshift umount"]);
    place.idshift(&["umount", "MNT"]).with_code(0);
    assert!(!place.mounted());
}

fn lower_directory_as_its_own_mount_point() {
    let place = Place::new();
    place.idshift(&["mount", "-o", MAP, "LOWER", "LOWER"]).with_code(0);
    assert_eq!(place.owner("lower/file"), (11_000, 11_000));
    place.idshift(&["umount", "LOWER"]).with_code(0);
    assert_eq!(place.owner("lower/file"), (1000, 1000));
}

fn signal_unmounts() {
    let place = Place::new();
    place.mount("map=identity");
    rustix::process::kill_process(place.server(), rustix::process::Signal::TERM).unwrap();
    eventually("unmounted", || !place.mounted());
}

fn remount_changes_flags() {
    let place = Place::new();
    place.mount("map=identity,nosuid");
    place.idshift(&["mount", "-o", "remount,ro,noexec", "LOWER", "MNT"]).with_code(0);
    let flags = place.flags();
    for flag in ["ro", "nosuid", "noexec"] {
        assert!(flags.split(',').any(|it| it == flag), "{flag} in {flags}");
    }
    place.idshift(&["mount", "-o", "remount,rw", "LOWER", "MNT"]).with_code(0);
    assert!(place.flags().starts_with("rw,"));
    // What cannot be changed is not passed over in silence.
    let noted = place.idshift(&["mount", "-o", "remount,rw,suid=deny", "LOWER", "MNT"]);
    noted.with_code(0).saying(&["suid=", "stays as"]);
    let given = "remount,rw,cache=none,io=cached,locks=lower,guard=hide,ownership=xattr,\
                 unmapped=deny,deny_groups=all,submounts,threads=3,backend=kernel,map=identity";
    let noted = place.idshift(&["mount", "-o", given, "LOWER", "MNT"]);
    noted.with_code(0).saying(&[
        "cache=",
        "io=",
        "locks=",
        "guard=",
        "ownership=",
        "unmapped=",
        "deny_groups=",
        "submounts",
        "threads=",
        "backend=",
        "map=",
    ]);
}

fn flags_reach_the_mount() {
    let place = Place::new();
    place.mount("map=identity,ro,nosuid,nodev,noexec,noatime,dirsync,nosymfollow,fsname=a disk");
    let line = mount_line(&place.path("mnt")).unwrap();
    for flag in ["ro", "nosuid", "nodev", "noexec", "noatime", "dirsync", "nosymfollow"] {
        assert!(line[3].split(',').any(|it| it == flag), "{flag} in {}", line[3]);
    }
    assert_eq!(line[0], "a\\040disk");
}

fn umount_takes_only_its_own() {
    let place = Place::new();
    place.idshift(&["umount", "/proc"]).with_code(32).saying(&["not an idshift mount", "proc"]);
    assert!(Path::new("/proc/self").exists());
}

fn probe() {
    let place = Place::new();
    place.idshift(&["probe", "LOWER"]).with_code(0).saying(&[
        "kernel",
        "FUSE_POSIX_ACL",
        "User namespaces",
        "file handles",
        "to mount",
    ]);
    let json = place.idshift(&["probe", "--json"]).with_code(0).text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["facts"].as_array().unwrap().len() > 20, "{json}");
}

fn map_explain() {
    let place = Place::new();
    place
        .idshift(&["map", "explain", "b:0:100000:65536"])
        .with_code(0)
        .saying(&["lower 0–65535 ⇒ shown as 100000–165535"]);
    place.idshift(&["map", "explain", "b:0:100000"]).with_code(1).saying(&["b:0:100000:65536"]);
}

/// A question to the mount, as 'idshift status' asks one, makes no unmount fail.
fn busy_for_a_moment_is_waited_for() {
    let place = Place::new();
    let upper = place.path("mnt");
    let _freed = Freed(&upper);
    place.idshift(&["mount", "-o", "map=b:0:0:1000,nosuid", "LOWER", "MNT"]).with_code(0);
    let held = fs::File::open(&upper).unwrap();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(held);
    });
    place.idshift(&["umount", "MNT"]).with_code(0);
    holder.join().unwrap();
}

/// Names of files, directories and mounts that others have chosen: they neither move the cursor nor
/// look like a line of ours, whatever the command says of them.
fn hostile_names_stay_off_the_terminal() {
    needs_real_root("sets attributes of trusted.*, and sees all mounts");
    let place = Place::new();
    let name = OsStr::from_bytes(b"e\x1b[2Jvil\nidshift: all is well\r\x07\xff");
    let lower = place.path("lower").join(name);
    fs::create_dir(&lower).unwrap();
    put_file(&lower.join(name), b"", 0o4755, 1000, 1000);
    let upper = place.path("mnt").join(name);
    fs::create_dir(&upper).unwrap();
    let hostile = |words: &[&OsStr]| {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let mut command = Command::new(&machine().binary);
        let text = Ended(command.args(&words).stdin(Stdio::null()).output().unwrap()).text();
        let strange = text.find(|letter: char| letter.is_control() && letter != '\n');
        assert_eq!(strange, None, "{words:?}: {text:?}");
        assert!(!text.contains("\nidshift: all is well"), "{words:?}: {text:?}");
        text
    };
    let [lower_arg, upper_arg] = [lower.as_os_str(), upper.as_os_str()];
    let _freed = Freed(&upper);
    let word = OsStr::new;
    let mount = ["mount", "-o", "map=b:1000:0:1,nosuid"].map(word);
    hostile(&[&mount[..], &[lower_arg, upper_arg]].concat());
    assert_eq!(fs::metadata(upper.join(name)).unwrap().uid(), 0, "shown");
    let seen = hostile(&[word("ranges")]);
    assert!(seen.contains(r"e\u{1b}[2Jvil\nidshift: all is well\r"), "{seen}");
    for command in ["probe", "unguard", "explain", "status"] {
        hostile(&[word(command), if command == "status" { upper_arg } else { lower_arg }]);
    }
    hostile(&[word("status")]);
    hostile(&[word("status"), word("--json")]);
    hostile(&[word("status"), word("--prometheus")]);
    hostile(&[word("explain"), upper.join(name).as_os_str()]);
    hostile(&[word("umount"), upper_arg]);
    assert!(hostile(&[word("umount"), upper_arg]).contains("nothing is mounted there"));
    for command in ["import", "export"] {
        let said = hostile(&[word("shadow"), word(command), lower_arg]);
        assert!(said.contains("1 file "), "{said}");
    }
    hostile(&[word("mount"), word("-o"), name, lower_arg, upper_arg]);
    hostile(&[word("mount"), lower.join(name).as_os_str(), upper_arg]);
    hostile(&[word("mount"), word("-o"), word("map=\x1b[2J"), lower_arg, upper_arg]);
    hostile(&[word("explain"), word("--user=\x1b[2J"), lower_arg]);
}

/// Takes a mount away that a failed test has left.
struct Freed<'a>(&'a Path);

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

/// `| head` ends no command in the middle of its work; a full disk is an error.
fn nobody_reads_on() {
    needs_real_root("sets attributes of trusted.*");
    let place = Place::new();
    for nth in 0..40 {
        put_file(&place.path(&format!("lower/{nth}")), b"", 0o4755, 0, 0);
    }
    let unread = |words: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(&machine().binary);
        command.args(words).arg(place.path("lower")).env("TMPDIR", place.dir.path());
        let stderr = writer.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(writer).stderr(stderr).status().unwrap().code()
    };
    assert_eq!(unread(&["shadow", "import"]), Some(0));
    for nth in 0..40 {
        assert_eq!(fs::metadata(place.path(&format!("lower/{nth}"))).unwrap().mode(), 0o100_755);
    }
    assert_eq!(unread(&["probe"]), Some(0));
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for words in [["map", "explain", "identity"].as_slice(), &["ranges"], &["--version"]] {
        let mut command = Command::new(&machine().binary);
        let ended = command.args(words).stdout(full()).output().unwrap();
        assert_eq!(ended.status.code(), Some(2), "{words:?}");
        assert!(String::from_utf8(ended.stderr).unwrap().contains("could not be written"));
    }
}
