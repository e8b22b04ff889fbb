//! `idshift runtime` in front of crun and runc: what containers see, and that nothing stays behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::mount::{free, temp_dir};
use crate::common::runner::{machine, needs_program};
use crate::common::{eventually, put_dir, put_file, raw};
use crate::recipes::{output, podman, shell, world};

crate::common::tests!(
    mounts_that_ask_are_shifted,
    podman_with_the_wrapper,
    sources_may_be_files,
    everything_else_is_handed_on,
    signals_are_handed_on,
    what_fails_leaves_nothing,
    mistakes_reach_the_caller,
    killed_runtimes_are_cleaned_up_after,
    mounts_outlive_the_control_group,
    what_the_runtimes_alone_do,
    start_up_costs_little,
    a_hundred_containers_leave_nothing,
);

/// Where the mounts of containers lie.
pub(crate) const BASE: &str = "/run/idshift/runtime";

/// A bundle, and things to mount in it.
pub(crate) struct Bundle {
    pub(crate) dir: TempDir,
    pub(crate) config: Value,
    /// All containers' mounts lie in one place, and each test looks at all that is there.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Bundle {
    pub(crate) fn new() -> Self {
        world();
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = temp_dir();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all("/srv/rootfs/work").unwrap();
        fs::write("/srv/rootfs/file", "").unwrap();
        // Podman would make it, as a user who may not.
        if fs::symlink_metadata("/srv/rootfs/etc/mtab").is_err() {
            symlink("/proc/self/mounts", "/srv/rootfs/etc/mtab").unwrap();
        }
        let bundle = Self {
            config: json!({
                "ociVersion": "1.0.2",
                "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/usr/bin:/bin"],
                    "args": ["stat", "-c", "%u:%g", "/work/file"]},
                "root": {"path": "/srv/rootfs", "readonly": true},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                ],
                "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
            }),
            dir,
            _alone: alone,
        };
        put_dir(&bundle.path("source"), 0o755, 1234, 1235);
        put_file(&bundle.path("source/file"), b"hello\n", 0o644, 1234, 1235);
        symlink(&machine().binary, bundle.path("idshift-runtime")).unwrap();
        bundle
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn in_user_namespace(&mut self) {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
    }

    pub(crate) fn mount(&mut self, source: &Path, options: &[&str]) {
        let mount =
            json!({"destination": "/work", "type": "bind", "source": source, "options": options});
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Writes the configuration; a command in front of this runtime.
    pub(crate) fn command(&self, runtime: &str) -> Command {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
        let mut command = Command::new("timeout");
        command.arg("60").arg(self.path("idshift-runtime")).arg("--root").arg(self.path("state"));
        command.env("IDSHIFT_RUNTIME", runtime).stdin(Stdio::null()).current_dir(self.dir.path());
        command
    }

    /// Runs the container to its end; what it says.
    fn run(&self, runtime: &str) -> String {
        let id = format!("idshift-test-{}", std::process::id());
        let said =
            output(self.command(runtime).args(["run", "--bundle"]).arg(self.dir.path()).arg(id));
        self.nothing_is_left();
        said
    }

    /// A runtime that is a script.
    fn script(&self, text: &str) -> String {
        let path = self.path("runtime");
        fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn nothing_is_left(&self) {
        assert!(left().is_empty(), "{:?}", left());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(BASE), "{mounts}");
        let files = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().file_name());
        let files: Vec<_> =
            files.filter(|name| name.to_string_lossy().contains("config.idshift")).collect();
        assert!(files.is_empty(), "{files:?}");
    }
}

pub(crate) fn left() -> Vec<String> {
    let Ok(entries) = fs::read_dir(BASE) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A mount of ours; gone at the end.
pub(crate) struct Mounted(pub(crate) PathBuf);

/// A file system that the kernel cannot idmap.
pub(crate) fn bindfs(bundle: &Bundle) -> Mounted {
    needs_program("bindfs");
    let at = bundle.path("bindfs");
    fs::create_dir(&at).unwrap();
    output(Command::new("bindfs").arg(bundle.path("source")).arg(&at));
    Mounted(at)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        free(&self.0);
    }
}

/// A merged overlay, which the kernel does not idmap either.
fn overlay(bundle: &Bundle) -> Mounted {
    let at = bundle.path("overlay");
    for name in ["overlay", "upper", "over-work"] {
        // The directory itself is the upper layer's.
        put_dir(&bundle.path(name), 0o755, 1234, 1235);
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        bundle.path("source").display(),
        bundle.path("upper").display(),
        bundle.path("over-work").display()
    );
    output(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at));
    Mounted(at)
}

fn mounts_that_ask_are_shifted() {
    for runtime in ["crun", "runc"] {
        needs_program(runtime);
        for user_namespace in [true, false] {
            let mut bundle = Bundle::new();
            let served = bindfs(&bundle);
            let merged = overlay(&bundle);
            if user_namespace {
                bundle.in_user_namespace();
            }
            let plain = bundle.config.clone();
            for source in [&bundle.path("source"), &served.0, &merged.0] {
                let what =
                    format!("{runtime}, user namespace {user_namespace}, {}", source.display());
                let mut seen = |options: &[&str], change: &dyn Fn(&mut Value)| {
                    bundle.config = plain.clone();
                    bundle.mount(source, options);
                    change(&mut bundle.config);
                    bundle.run(runtime)
                };
                // By the annotation: as the container sees its own ids, or as its user.
                let said = seen(&["rbind"], &|c| c["annotations"]["idshift"] = "/work".into());
                assert_eq!(said, "1234:1235\n", "{what}");
                let said = seen(&["rbind"], &|c| {
                    c["annotations"]["idshift"] = "/work=match-user".into();
                    c["process"]["user"] = json!({"uid": 33, "gid": 34});
                });
                assert_eq!(said, "33:34\n", "{what}");
                // By crun's option, absolute and relative, and by the mappings of the specification.
                let first = if user_namespace { 100_000 } else { 0 };
                let option = format!("idmap=uids=1234-{}-1;gids=@1235-8-1", first + 7);
                assert_eq!(seen(&["bind", &option], &|_| ()), "7:8\n", "{what}");
                assert_eq!(seen(&["rbind", "ridmap"], &|_| ()), "1234:1235\n", "{what}");
                let said = seen(&["rbind"], &|c| {
                    let map = json!([{"containerID": 1230, "hostID": first + 10, "size": 10}]);
                    c["mounts"][2]["uidMappings"] = map.clone();
                    c["mounts"][2]["gidMappings"] = map;
                });
                assert_eq!(said, "14:15\n", "{what}");
            }
            drop((served, merged));
        }
    }
}

fn podman_with_the_wrapper() {
    needs_program("podman");
    for runtime in ["crun", "runc"] {
        needs_program(runtime);
        let bundle = Bundle::new();
        let wrapper = bundle.path(&format!("idshift-runtime-{runtime}"));
        symlink(&machine().binary, &wrapper).unwrap();
        let place = bundle.path("podman");
        fs::create_dir(&place).unwrap();
        let source = bundle.path("source");
        let root = Mounted(bundle.path("root"));
        fs::create_dir(&root.0).unwrap();
        let map = "map=b:0:100000:65536,backend=auto";
        output(
            Command::new(&machine().binary).args(["mount", "-o", map, "/srv/rootfs"]).arg(&root.0),
        );
        let mut command = shell(
            "podman",
            &format!(
                "podman run --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 --user 5:6 \
                 --annotation idshift=/work=match-user -v {}:/work --rootfs {} \
                 sh -e -c 'stat -c %u:%g /work/file; echo new > /work/new'",
                source.display(),
                root.0.display()
            ),
        );
        podman(&mut command, wrapper.to_str().unwrap(), place.to_str().unwrap());
        assert_eq!(output(&mut command), "5:6\n", "{runtime}");
        assert_eq!(crate::common::owner(&source.join("new")), (1234, 1235), "{runtime}");
        eventually("the mount has gone", || left().is_empty());
    }
}

fn sources_may_be_files() {
    for runtime in ["crun", "runc"] {
        needs_program(runtime);
        let mut bundle = Bundle::new();
        let served = bindfs(&bundle);
        bundle.in_user_namespace();
        bundle.config["process"]["args"] = json!(["stat", "-c", "%u:%g %s", "/file"]);
        bundle.config["annotations"]["idshift"] = "/file".into();
        for source in [bundle.path("source/file"), served.0.join("file")] {
            let mount = json!({"destination": "/file", "type": "bind", "source": source, "options": ["bind"]});
            bundle.config["mounts"].as_array_mut().unwrap().truncate(2);
            bundle.config["mounts"].as_array_mut().unwrap().push(mount);
            assert_eq!(bundle.run(runtime), "1234:1235 6\n", "{runtime}");
        }
    }
}

fn everything_else_is_handed_on() {
    let bundle = Bundle::new();
    // Arguments, descriptors (3 is open), the working directory, the exit code.
    let script = bundle.script("printf '<%s>' \"$@\"; pwd; cat <&3; exit 7");
    let before = bundle.config.to_string();
    for arguments in [
        vec!["state", "a b"],
        vec!["create", "x"],
        vec!["delete", "--force", "nobody"],
        vec!["features"],
    ] {
        let mut command = bundle.command(&script);
        let out = with_file_open(command.args(&arguments), &bundle.path("source/file"));
        let said = String::from_utf8(out.stdout).unwrap();
        let words = arguments.join("><");
        let here = bundle.dir.path().display();
        let state = bundle.path("state");
        assert_eq!(said, format!("<--root><{}><{words}>{here}\nhello\n", state.display()));
        assert_eq!(out.status.code(), Some(7));
    }
    assert_eq!(fs::read_to_string(bundle.path("config.json")).unwrap(), before);
    bundle.nothing_is_left();
}

/// Runs a command with this file open as descriptor 3.
fn with_file_open(command: &Command, file: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("exec 3<\"$0\"; exec \"$@\"").arg(file);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(command.get_current_dir().unwrap()).output().unwrap()
}

fn signals_are_handed_on() {
    let mut bundle = Bundle::new();
    bundle.mount(&bundle.path("source"), &["bind"]);
    bundle.config["annotations"]["idshift"] = "/work".into();
    let script = bundle.script("trap 'exit 9' USR1; touch ready; while true; do sleep 0.02; done");
    let mut child = KilledAtEnd(without_timeout(&bundle, &script, &["create", "signalled"]));
    eventually("the runtime runs", || bundle.path("ready").exists());
    raw::kill(child.0.id(), libc::SIGUSR1).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(9));
    bundle.nothing_is_left();
}

/// The wrapper itself as our child.
fn without_timeout(bundle: &Bundle, runtime: &str, arguments: &[&str]) -> Child {
    fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
    let mut command = Command::new(bundle.path("idshift-runtime"));
    command.args(arguments).env("IDSHIFT_RUNTIME", runtime).current_dir(bundle.dir.path());
    command.process_group(0).spawn().unwrap()
}

struct KilledAtEnd(Child);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn what_fails_leaves_nothing() {
    let mut bundle = Bundle::new();
    let served = bindfs(&bundle);
    bundle.mount(&served.0, &["bind", "idmap"]);
    bundle.in_user_namespace();
    // It sees a plain bind of ours, and fails.
    let script = bundle.script("cp config.json seen.json; exit 7");
    let out = bundle.command(&script).args(["create", "failing"]).output().unwrap();
    assert_eq!(out.status.code(), Some(7), "{out:?}");
    let seen: Value = serde_json::from_slice(&fs::read(bundle.path("seen.json")).unwrap()).unwrap();
    assert_eq!(seen["mounts"][2]["source"], format!("{BASE}/failing/0"));
    assert_eq!(seen["mounts"][2]["options"], json!(["bind"]));
    assert_eq!(fs::read_to_string(bundle.path("config.json")).unwrap(), bundle.config.to_string());
    bundle.nothing_is_left();
    // What succeeds stays until the container is deleted.
    let script = bundle.script("exit 0");
    let out = bundle.command(&script).args(["create", "lasting"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(left(), ["lasting"]);
    assert!(Path::new(BASE).join("lasting/0/file").exists());
    let private = fs::metadata(Path::new(BASE).join("lasting")).unwrap();
    assert_eq!(private.permissions().mode() & 0o777, 0o700, "others see no more than before");
    // One that cannot be deleted keeps it.
    let refuses = bundle.script("exit 1");
    let out = bundle.command(&refuses).args(["delete", "lasting"]).output().unwrap();
    assert_eq!((out.status.code(), left().len()), (Some(1), 1));
    // Nor does one of this id that another runtime has, with a state of its own, take it away or its place.
    let other = |arguments: &[&str]| {
        fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
        let mut command = Command::new(bundle.path("idshift-runtime"));
        command.args(["--root", "/elsewhere"]).args(arguments).current_dir(bundle.dir.path());
        command.env("IDSHIFT_RUNTIME", bundle.script("exit 0")).output().unwrap()
    };
    assert!(other(&["delete", "lasting"]).status.success());
    let out = other(&["create", "lasting"]);
    assert!(String::from_utf8(out.stderr).unwrap().contains("another id"));
    assert!(Path::new(BASE).join("lasting/0/file").exists());
    let refuses = bundle.script("exit 1");
    let out = bundle.command(&refuses).args(["delete", "--force", "lasting"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    bundle.nothing_is_left();
}

fn mistakes_reach_the_caller() {
    let mut bundle = Bundle::new();
    bundle.mount(&bundle.path("source"), &["bind"]);
    let script = bundle.script("echo it was run");
    for (annotation, part) in [
        ("/nowhere", "no mount at '/nowhere'"),
        ("/work=u:1:2", "three numbers"),
        ("/proc", "only a bind mount"),
    ] {
        bundle.config["annotations"]["idshift"] = annotation.into();
        let log = bundle.path("log");
        let mut command = bundle.command(&script);
        command.arg("--log").arg(&log).args(["--log-format=json", "create", "mistaken"]);
        let out = command.output().unwrap();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0));
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(said.contains(part), "{said}");
        let entry: Value = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
        assert!(entry["msg"].as_str().unwrap().contains(part), "{entry}");
        fs::remove_file(log).unwrap();
        bundle.nothing_is_left();
    }
    let out = bundle.command("no-such-runtime").args(["create", "x"]).output().unwrap();
    assert!(String::from_utf8(out.stderr).unwrap().contains("no-such-runtime"));
    // This program's own help; that of the runtime is behind the other name.
    let said = output(Command::new(&machine().binary).args(["runtime", "--help"]));
    assert!(said.contains("annotation") && said.contains("cleanup"), "{said}");
    // No id leads out of the directory.
    let out = bundle.command(&script).args(["create", "../x"]).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "it was run\n", "the runtime judges it");
}

fn killed_runtimes_are_cleaned_up_after() {
    let mut bundle = Bundle::new();
    let served = bindfs(&bundle);
    bundle.mount(&served.0, &["bind"]);
    bundle.config["annotations"]["idshift"] = "/work".into();
    // The wrapper is killed while its runtime runs; asked for its state, that knows nothing.
    let script = bundle.script("[ \"$1\" = create ] || exit 1; kill -9 $PPID; sleep 0.1");
    let mut child = KilledAtEnd(without_timeout(&bundle, &script, &["create", "killed"]));
    assert_eq!(child.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(left(), ["killed"]);
    let clean = |known: &str| {
        bundle.script(known);
        output(Command::new(&machine().binary).args(["runtime", "cleanup"]))
    };
    // A container that is known keeps its mounts.
    assert_eq!((clean("exit 0").as_str(), left().len()), ("", 1));
    assert!(clean("exit 1").contains("killed"));
    bundle.nothing_is_left();
}

/// A control group of a test, in this hierarchy.
struct Group(PathBuf);

impl Group {
    fn new(hierarchy: &Path) -> Self {
        let group = Self(hierarchy.join(format!("idshift-test-{}", std::process::id())));
        fs::create_dir(&group.0).unwrap();
        group
    }

    fn members(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// As engines do that remove a container's group.
    fn kill(&self) {
        eventually("nobody is left", || {
            for pid in self.members() {
                raw::kill(pid, libc::SIGKILL).ok();
            }
            self.members().is_empty()
        });
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        fs::remove_dir(&self.0).unwrap();
    }
}

/// Engines kill all that is in a container's control group, or in that of conmon or a containerd shim.
fn mounts_outlive_the_control_group() {
    let mut bundle = Bundle::new();
    let served = bindfs(&bundle);
    bundle.mount(&served.0, &["bind"]);
    bundle.config["annotations"]["idshift"] = "/work".into();
    let second = Mounted(bundle.path("cgroup2"));
    fs::create_dir(&second.0).unwrap();
    output(Command::new("mount").args(["-t", "cgroup2", "none"]).arg(&second.0));
    let first = Path::new("/sys/fs/cgroup/pids");
    let hierarchies: Vec<&Path> =
        [&second.0, first].into_iter().filter(|dir| dir.join("cgroup.procs").exists()).collect();
    assert!(!hierarchies.is_empty());
    let groups: Vec<Group> = hierarchies.into_iter().map(Group::new).collect();
    // The runtime itself, and with it the container, stays where the caller is.
    let script =
        bundle.script("cat /proc/self/cgroup > groups; sleep 100 >/dev/null 2>&1 & exit 0");
    fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
    let enter =
        "for dir; do echo $$ > \"$dir/cgroup.procs\"; done; exec ./idshift-runtime create grouped";
    let mut command = Command::new("timeout");
    command.args(["60", "sh", "-e", "-c", enter, "sh"]).args(groups.iter().map(|group| &group.0));
    command.env("IDSHIFT_RUNTIME", &script).current_dir(bundle.dir.path());
    output(&mut command);
    let runtime = fs::read_to_string(bundle.path("groups")).unwrap();
    assert_eq!(runtime.matches("idshift-test-").count(), groups.len(), "{runtime}");
    for group in &groups {
        assert_eq!(group.members().len(), 1, "the container alone, in {}", group.0.display());
    }
    groups.iter().for_each(Group::kill);
    let file = Path::new(BASE).join("grouped/0/file");
    assert_eq!(fs::read(&file).unwrap(), b"hello\n", "the server has not been killed with it");
    let mut command = Command::new(bundle.path("idshift-runtime"));
    output(command.env("IDSHIFT_RUNTIME", &script).args(["delete", "grouped"]));
    bundle.nothing_is_left();
    let left = groups.iter().filter(|group| group.0.with_file_name("idshift").exists());
    assert_eq!(left.count(), 0, "no group of its own is left");
}

fn a_hundred_containers_leave_nothing() {
    let mut bundle = Bundle::new();
    let served = bindfs(&bundle);
    bundle.mount(&served.0, &["bind"]);
    bundle.config["annotations"]["idshift"] = "/work".into();
    let script = bundle.script("exit 0");
    let servers = || {
        let own = |pid: &str| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&format!("{BASE}/many-"))
        };
        let all = fs::read_dir("/proc").unwrap();
        all.filter(|entry| own(&entry.as_ref().unwrap().file_name().to_string_lossy())).count()
    };
    for number in 0..100 {
        let id = format!("many-{number}");
        output(bundle.command(&script).args(["create", &id]));
        if number == 0 {
            assert!(servers() > 0, "the count counts");
        }
        output(bundle.command(&script).args(["delete", &id]));
    }
    bundle.nothing_is_left();
    eventually("all servers have ended", || servers() == 0);
    drop(served);
}

/// What the wrapper is for: crun says no more than EINVAL, and runc 1.1 starts the container all the same and shows 65534. Its own
/// errors name the mount, the directory and what to do.
fn what_the_runtimes_alone_do() {
    let mut bundle = Bundle::new();
    let served = bindfs(&bundle);
    bundle.in_user_namespace();
    bundle.mount(&served.0, &["bind"]);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.config["mounts"][2]["uidMappings"] = map.clone();
    bundle.config["mounts"][2]["gidMappings"] = map;
    fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
    let alone = |runtime: &str| {
        needs_program(runtime);
        let mut command = Command::new("timeout");
        command.args(["60", runtime, "--root"]).arg(bundle.path("alone"));
        command.args(["run", "idshift-alone"]).current_dir(bundle.dir.path());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let out = alone("crun");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("mount_setattr"), "{said}");
    let version = output(Command::new("runc").arg("--version"));
    if version.contains("runc version 1.1") {
        let out = alone("runc");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "65534:65534\n", "{out:?}");
    }
    for runtime in ["crun", "runc"] {
        assert_eq!(bundle.run(runtime), "1234:1235\n", "{runtime}");
    }
    // What cannot be done at all.
    bundle.config["mounts"][2]["source"] = bundle.path("nowhere").to_str().unwrap().into();
    let out = bundle.command("crun").args(["run", "idshift-alone"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let names = ["mount '/work'", "nowhere", "No such file"];
    assert!(!out.status.success() && names.iter().all(|part| said.contains(part)), "{said}");
    bundle.nothing_is_left();
}

/// Side by side: the runtime alone with a plain bind mount, and the wrapper with a mount of the kernel's and of FUSE. What
/// counts is the least of many rounds, because others use this machine too.
fn start_up_costs_little() {
    let mut bundle = Bundle::new();
    let served = bindfs(&bundle);
    let plain = bundle.config.clone();
    let mut least = [std::time::Duration::MAX; 3];
    for _ in 0..15 {
        for (which, source) in
            [(0, bundle.path("source")), (1, bundle.path("source")), (2, served.0.clone())]
        {
            bundle.config = plain.clone();
            bundle.mount(&source, &["bind"]);
            if which > 0 {
                bundle.config["annotations"]["idshift"] = "/work".into();
            }
            fs::write(bundle.path("config.json"), bundle.config.to_string()).unwrap();
            let program = if which == 0 { "crun".into() } else { bundle.path("idshift-runtime") };
            let mut command = Command::new(program);
            command.arg("--root").arg(bundle.path("state")).args(["run", "idshift-timed"]);
            command.env("IDSHIFT_RUNTIME", "crun").current_dir(bundle.dir.path());
            let start = std::time::Instant::now();
            output(&mut command);
            least[which] = least[which].min(start.elapsed());
        }
    }
    let more = |which: usize| least[which].saturating_sub(least[0]).as_secs_f64() * 1e3;
    println!(
        "start-up: crun {:.1} ms; with idshift-runtime {:.1} ms more (the kernel's mount), {:.1} ms more (FUSE)",
        least[0].as_secs_f64() * 1e3,
        more(1),
        more(2)
    );
    // What a debug build takes says nothing.
    assert!(cfg!(debug_assertions) || (more(1) < 20.0 && more(2) < 20.0), "{least:?}");
}
