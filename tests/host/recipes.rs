//! The set-ups in `contrib/`, run as they stand: the commands of their READMEs with the paths that
//! are written there. The tests have a mount namespace of their own, in which those places are
//! theirs alone: `/srv/rootfs` is a Debian root file system, stored with the owners 0, 1, 2, …

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::common::debian::{pristine, run};
use crate::common::mount::{free, is_mounted, temp_dir, wait_for};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    self, eventually, exists, machine, owner, put_dir, put_file, raw, set_mode, skip,
};

crate::common::tests!(
    lxc_containers_of_one_image,
    podman_with_two_runtimes,
    podman_volume_of_another_user,
    nspawn,
    overlayfs,
    bubblewrap,
    fstab,
    systemd_units_are_valid,
    systemd_service_runs,
);

/// The directories that the recipes write to, covered here by overlays.
const COVERED: [&str; 4] = ["/etc", "/usr/local", "/usr/sbin", "/var/lib"];
/// Those that are empty here.
const EMPTY: [&str; 2] = ["/srv", "/mnt"];
/// What a container with the ids from 100000 on says of its map.
pub(super) const MAPPED: &str = "0     100000      65536";

/// Makes the places that the recipes name, once.
pub(super) fn world() {
    static WORLD: OnceLock<Result<(), String>> = OnceLock::new();
    needs_real_root("containers, and mounts over /etc and /srv");
    needs_idshift();
    let image = pristine();
    drop(temp_dir()); // says what else is missing
    WORLD.get_or_init(|| make_world(&image)).clone().unwrap_or_else(|why| skip(why));
}

fn make_world(image: &Path) -> Result<(), String> {
    let base = &machine().base;
    for place in COVERED {
        let layer = base.join(place[1..].replace('/', "-"));
        let work = layer.with_extension("work");
        for path in [&layer, &work] {
            fs::create_dir(path).map_err(|error| error.to_string())?;
            set_mode(path, 0o755).map_err(|error| error.to_string())?;
        }
        let options =
            format!("lowerdir={place},upperdir={},workdir={}", layer.display(), work.display());
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options, place])
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return Err(format!("needs an overlay over {place}"));
        }
    }
    for place in EMPTY {
        let new = base.join(&place[1..]);
        put_dir(&new, 0o755, 0, 0);
        run(Command::new("mount").arg("--bind").arg(new).arg(place));
    }
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "none", "/run"]));
    // crun takes no mixture of both versions of cgroups.
    let second = Path::new("/sys/fs/cgroup/unified");
    if is_mounted(second) {
        free(second);
    }
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(image).arg("/srv/rootfs"));
    for program in ["/usr/local/bin/idshift", "/usr/sbin/mount.fuse.idshift"] {
        fs::remove_file(program).ok();
        std::os::unix::fs::symlink(&machine().binary, program).unwrap();
    }
    for name in ["/etc/subuid", "/etc/subgid"] {
        fs::write(name, "root:100000:900000\nann:2000000:65536\n").unwrap();
    }
    for (file, line) in
        [("/etc/passwd", "ann:x:7001:7001::/srv/ann:/bin/sh\n"), ("/etc/group", "ann:x:7001:\n")]
    {
        let with_ann = fs::read_to_string(file).unwrap() + line;
        fs::write(file, with_ann).unwrap();
    }
    Ok(())
}

fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// The commands of a recipe's README: what stands between ```` ```sh ```` and ```` ``` ````.
pub(super) fn blocks(name: &str) -> Vec<String> {
    let text = fs::read_to_string(recipe(name).join("README.md")).unwrap();
    let parts = text.split("```sh\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// A shell command in a recipe's directory.
pub(super) fn shell(name: &str, commands: &str) -> Command {
    let mut shell = Command::new("timeout");
    shell.args(["90", "sh", "-e", "-c", commands]).current_dir(recipe(name)).env("LC_ALL", "C");
    shell.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    shell
}

/// Runs a command that must succeed; what it says.
pub(super) fn output(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{text}\n{errors}", out.status);
    text
}

/// A mount point of a recipe; it is free again at the end, also of a failed test.
pub(super) struct Point(pub(super) &'static str);

impl Point {
    pub(super) fn new(path: &'static str) -> Self {
        fs::create_dir_all(path).unwrap();
        Self(path)
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        free(Path::new(self.0));
    }
}

/// What a container does with the image, and the traces that it leaves there.
fn job(name: &str) -> String {
    format!(
        "test \"$(stat -c %u:%g /etc/shadow)\" = 0:42; cat /proc/self/uid_map; \
         mkdir /srv/{name}; echo mine > /srv/{name}/file; chown 33:33 /srv/{name}/file"
    )
}

fn left_by(name: &str) {
    let place = Path::new("/srv/rootfs/srv").join(name);
    assert_eq!(owner(&place), (0, 0), "{name}");
    assert_eq!(owner(&place.join("file")), (33, 33), "{name}");
}

fn lxc_containers_of_one_image() {
    needs_program("lxc-execute");
    world();
    let (_one, _two) =
        (Point::new("/var/lib/lxc/one/rootfs"), Point::new("/var/lib/lxc/two/rootfs"));
    let said = output(&mut shell("lxc", &blocks("lxc")[0]));
    assert!(said.contains(MAPPED), "{said}");
    let config = fs::read_to_string(recipe("lxc/config")).unwrap();
    let second = config.replace("one", "two").replace("100000", "300000");
    fs::write("/var/lib/lxc/two/config", second).unwrap();
    // Each waits for the other: they run at the same time.
    let containers = [("one", "two", 100_000_u32), ("two", "one", 300_000)];
    std::thread::scope(|scope| {
        for (name, other, first) in containers {
            scope.spawn(move || {
                let script = format!(
                    "{}; for i in $(seq 300); do test -e /srv/{other}/file && exit 0; sleep 0.1; \
                     done; exit 9",
                    job(name)
                );
                let said = output(
                    shell("lxc", "exec lxc-execute -n \"$0\" -- sh -e -c \"$1\"")
                        .args([name, &script]),
                );
                assert!(said.contains(&format!("{first}      65536")), "{said}");
            });
        }
    });
    for (name, ..) in containers {
        left_by(name);
        let point = Path::new("/var/lib/lxc").join(name).join("rootfs");
        eventually("the hook has unmounted it", || !is_mounted(&point));
    }
}

/// Settings for a machine without systemd, networks and much else.
pub(super) fn podman(command: &mut Command, runtime: &str, place: &str) {
    let (settings, storage) = (format!("{place}/containers.conf"), format!("{place}/storage.conf"));
    fs::write(
        &settings,
        format!(
            "[engine]\nruntime = \"{runtime}\"\ncgroup_manager = \"cgroupfs\"\n\
             events_logger = \"none\"\n[containers]\nnetns = \"none\"\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"
        ),
    )
    .unwrap();
    let storage_text = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{place}/storage\"\nrunroot = \"{place}/run\"\n"
    );
    fs::write(&storage, storage_text).unwrap();
    command.env("CONTAINERS_CONF", settings).env("CONTAINERS_STORAGE_CONF", storage);
}

fn podman_with_two_runtimes() {
    needs_program("podman");
    world();
    let _point = Point::new("/mnt/podman");
    fs::create_dir_all("/run/root-pods").unwrap();
    for runtime in ["crun", "runc"] {
        needs_program(runtime);
        let mut command = shell("podman", &blocks("podman")[0]);
        podman(&mut command, runtime, "/run/root-pods");
        let said = output(&mut command);
        assert!(said.contains(MAPPED), "{runtime}: {said}");
        assert!(!is_mounted(Path::new("/mnt/podman")));
        // The same with something to do.
        let script = job(runtime);
        let commands = blocks("podman")[0].replace("cat /proc/self/uid_map", "sh -e -c \"$0\"");
        let mut command = shell("podman", &commands);
        podman(command.arg(script), runtime, "/run/root-pods");
        assert!(output(&mut command).contains(MAPPED));
        left_by(runtime);
    }
}

fn podman_volume_of_another_user() {
    for program in ["podman", "crun", "newuidmap"] {
        needs_program(program);
    }
    world();
    let _point = Point::new("/mnt/data");
    put_dir(Path::new("/srv/data"), 0o700, 7002, 7002);
    put_file(Path::new("/srv/data/letter"), b"dear ann\n", 0o600, 7002, 7002);
    put_dir(Path::new("/srv/ann"), 0o700, 7001, 7001);
    output(&mut shell("podman", &blocks("podman")[1]));
    let script = "id -u; cat /data/letter; echo answer > /data/answer; stat -c %u:%g /data/answer";
    let mut command = shell(
        "podman",
        "cd /; exec setpriv --reuid 7001 --regid 7001 --clear-groups podman run --rm \
         --cgroups=disabled -v /mnt/data:/data --rootfs /srv/rootfs:O sh -e -c \"$0\"",
    );
    podman(&mut command, "crun", "/srv/ann");
    put_dir(Path::new("/srv/ann/runtime"), 0o700, 7001, 7001);
    command.env("HOME", "/srv/ann").env("XDG_RUNTIME_DIR", "/srv/ann/runtime").arg(script);
    let said = output(&mut command);
    // A process of Podman's stays, to hold its user namespace.
    let pause = fs::read_to_string("/srv/ann/runtime/libpod/tmp/pause.pid").unwrap();
    raw::kill(pause.trim().parse().unwrap(), libc::SIGKILL).unwrap();
    assert_eq!(said, "0\ndear ann\n0:0\n");
    assert_eq!(owner(Path::new("/srv/data/answer")), (7002, 7002));
    assert!(!exists(Path::new("/srv/rootfs/data")), "the image is as it was");
}

fn nspawn() {
    needs_program("systemd-nspawn");
    world();
    let _point = Point::new("/mnt/nspawn");
    let commands = &blocks("nspawn")[0];
    assert!(output(&mut shell("nspawn", commands)).contains(MAPPED));
    let commands = commands.replace("cat /proc/self/uid_map", "sh -e -c \"$0\"");
    let said = output(shell("nspawn", &commands).arg(job("nspawn")));
    assert!(said.contains(MAPPED), "{said}");
    left_by("nspawn");
    assert!(!is_mounted(Path::new("/mnt/nspawn")));
}

fn overlayfs() {
    world();
    let (layer, merged) = (Point::new("/mnt/layer"), Point::new("/mnt/one"));
    output(&mut shell("overlayfs", &blocks("overlayfs")[0]));
    assert_eq!(owner(Path::new("/mnt/one/etc/shadow")), (100_000, 100_042));
    let script = "cd /mnt/one; echo changed >> etc/motd; rm etc/debian_version; mkdir srv/overlay";
    let root = ["--reuid", "100000", "--regid", "100000", "--clear-groups", "sh", "-e", "-c"];
    output(Command::new("setpriv").args(root).arg(script));
    let changes = Path::new("/srv/one/changes");
    assert_eq!(owner(&changes.join("etc/motd")), (100_000, 100_000));
    assert_eq!(owner(&changes.join("srv/overlay")), (100_000, 100_000));
    assert!(!exists(Path::new("/mnt/one/etc/debian_version")));
    assert!(exists(Path::new("/srv/rootfs/etc/debian_version")));
    assert!(!fs::read_to_string("/srv/rootfs/etc/motd").unwrap().contains("changed"));
    output(&mut shell("overlayfs", "umount /mnt/one && idshift umount /mnt/layer"));
    assert!(!is_mounted(Path::new(layer.0)) && !is_mounted(Path::new(merged.0)));
}

fn bubblewrap() {
    for program in ["bwrap", "unshare", "newuidmap"] {
        needs_program(program);
    }
    world();
    let _point = Point::new("/mnt/bwrap");
    let version = output(Command::new("unshare").arg("--version"));
    let newer = version.contains("2.39") || version.contains("2.4");
    let order = |commands: &str| {
        if newer { commands.replace("100000,0,65536", "0,100000,65536") } else { commands.into() }
    };
    let blocks = blocks("bubblewrap");
    let said = output(&mut shell("bubblewrap", &order(&blocks[0])));
    assert!(said.contains(MAPPED), "{said}");
    let work = blocks[1].replace("cat /proc/self/uid_map", "sh -e -c \"$0\"");
    let script = "cat /proc/self/uid_map; mkdir /srv/bwrap; stat -c %u /srv/bwrap";
    let said = output(shell("bubblewrap", &work).arg(script));
    assert!(said.contains("0     100000          1\n0\n"), "{said}");
    assert_eq!(owner(Path::new("/srv/rootfs/srv/bwrap")), (0, 0));
}

fn fstab() {
    world();
    let point = Point::new("/mnt/fstab");
    fs::copy(recipe("fstab/fstab"), "/etc/fstab").unwrap();
    output(&mut shell("fstab", "mount /mnt/fstab"));
    assert_eq!(owner(Path::new("/mnt/fstab/etc/shadow")), (100_000, 100_042));
    output(&mut shell("fstab", "umount /mnt/fstab"));
    assert!(!is_mounted(Path::new(point.0)));
    // What systemd makes of the lines.
    let generator = "/usr/lib/systemd/system-generators/systemd-fstab-generator";
    if !Path::new(generator).exists() {
        return;
    }
    let units = temp_dir();
    output(Command::new(generator).args([units.path(); 3]));
    let unit = |name: &str| fs::read_to_string(units.path().join(name)).unwrap();
    let near = unit("mnt-fstab.mount");
    assert!(near.contains("RequiresMountsFor=/srv/rootfs"), "{near}");
    assert!(
        near.contains("Type=fuse.idshift") && near.contains("Before=local-fs.target"),
        "{near}"
    );
    let far = unit("mnt-share.mount");
    assert!(far.contains("RequiresMountsFor=/net/share"), "{far}");
    assert!(exists(&units.path().join("remote-fs.target.wants/mnt-share.mount")), "{far}");
}

fn systemd_units_are_valid() {
    needs_program("systemd-analyze");
    world();
    let mut command = shell("systemd", &blocks("systemd")[0]);
    let out = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && !said.contains("idshift"), "{said}");
    for unit in ["mnt-rootfs.mount", "idshift-rootfs.service"] {
        let path = Path::new("/etc/systemd/system").join(unit);
        let out = Command::new("systemd-analyze").arg("verify").arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && !said.contains(unit), "{said}");
    }
}

/// A setting of the template service.
fn setting(name: &str) -> String {
    let unit = fs::read_to_string(recipe("systemd/idshift@.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    line.unwrap_or_else(|| panic!("the service says nothing of {name}")).to_owned()
}

/// The service's command with the service's rights, as systemd would start it: it says when it is
/// ready, works, and unmounts when it is told to end.
fn systemd_service_runs() {
    needs_program("setpriv");
    world();
    let point = Point::new("/mnt/rootfs");
    let capabilities = setting("CapabilityBoundingSet").to_lowercase();
    let capabilities = capabilities.replace(' ', ",+").replace("cap_", "");
    let mut words = vec![format!("--bounding-set=-all,+{capabilities}")];
    words.extend(["--inh-caps=-all".to_owned(), "--no-new-privs".to_owned(), "--".to_owned()]);
    let settings = fs::read_to_string(recipe("systemd/rootfs.conf")).unwrap();
    for word in setting("ExecStart").split(' ') {
        let variable = word.strip_prefix("${").and_then(|word| word.strip_suffix('}'));
        let value = variable.map(|name| {
            let line = settings.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
            line.unwrap_or_else(|| panic!("rootfs.conf does not set {name}"))
        });
        words.push(value.unwrap_or(word).to_owned());
    }
    let socket = UnixDatagram::bind("/run/notify").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = Command::new("setpriv");
    command.args(words).env("NOTIFY_SOCKET", "/run/notify").stdin(Stdio::null());
    raw::die_with_parent(&mut command);
    let mut server: Child = command.spawn().unwrap();
    let mut state = [0; 256];
    let length = socket.recv(&mut state).expect("READY=1 from the service");
    let state = String::from_utf8_lossy(&state[..length]);
    assert!(state.lines().any(|line| line == "READY=1"), "{state}");
    let work = "cd /mnt/rootfs/srv; mkdir unit; echo x > unit/file; chown 33:33 unit/file 2>&1 || echo refused";
    let root = ["--reuid", "100000", "--regid", "100000", "--clear-groups", "sh", "-e", "-c"];
    assert_eq!(
        output(Command::new("setpriv").args(root).arg(work)).lines().last(),
        Some("refused")
    );
    assert_eq!(owner(Path::new("/srv/rootfs/srv/unit/file")), (0, 0));
    common::chown(Path::new("/mnt/rootfs/srv/unit/file"), Some(100_033), None).unwrap();
    assert_eq!(owner(Path::new("/srv/rootfs/srv/unit/file")), (33, 0));
    raw::kill(server.id(), libc::SIGTERM).unwrap();
    let status = wait_for(&mut server).expect("SIGTERM ends the service");
    assert!(status.success() && !is_mounted(Path::new(point.0)), "{status}");
}
