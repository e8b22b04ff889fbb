//! `idshift volumes`: the plugin protocol as Docker's documentation has it, and volumes of Podman.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::mount::{is_mounted, temp_dir};
use crate::common::runner::{machine, needs_program};
use crate::common::{eventually, owner, put_dir, put_file, raw};
use crate::recipes::{output, podman, shell, world};

crate::common::tests!(
    what_docker_sends_is_answered,
    volumes_are_mounted_while_somebody_uses_them,
    a_killed_plugin_loses_nothing,
    a_killed_server_is_replaced,
    mistakes_are_named_when_the_volume_is_created,
    the_socket_is_its_owners,
    podman_uses_volumes,
    podman_fills_volumes_and_gives_them_away,
    podman_shares_and_loses_them,
    what_was_answered_outlives_a_crash,
    a_machine_that_starts_anew,
);

const MOUNTS: &str = "/run/idshift/volumes";

/// A plugin, and a directory for its volumes; both are gone at the end.
struct Plugin {
    dir: TempDir,
    child: Option<Child>,
    /// All plugins' volumes lie in one place.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Plugin {
    fn new() -> Self {
        world();
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut plugin = Self { dir: temp_dir(), child: None, _alone: alone };
        put_dir(&plugin.path("lower"), 0o755, 1000, 1000);
        put_file(&plugin.path("lower/file"), b"hello\n", 0o644, 1000, 1000);
        plugin.start();
        plugin
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self) {
        let mut command = Command::new(&machine().binary);
        command.args(["volumes", "--socket"]).arg(self.path("socket")).stdin(Stdio::null());
        raw::die_with_parent(&mut command);
        self.child = Some(command.spawn().unwrap());
        eventually("the plugin answers", || UnixStream::connect(self.path("socket")).is_ok());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What Docker's client of plugins sends, and the status and the answer.
    fn post(&self, call: &str, body: &Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.path("socket")).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST /{call} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
             Accept-Encoding: gzip\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let json = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(json).unwrap_or_default())
    }

    /// A call that must succeed.
    fn call(&self, call: &str, body: &Value) -> Value {
        let (status, answer) = self.post(&format!("VolumeDriver.{call}"), body);
        assert_eq!((status, &answer["Err"]), (200, &json!("")), "{call} {body}: {answer}");
        answer
    }

    /// The error of a call that must fail.
    fn refused(&self, call: &str, body: &Value) -> String {
        let (status, answer) = self.post(&format!("VolumeDriver.{call}"), body);
        assert_eq!(status, 500, "{call} {body}: {answer}");
        answer["Err"].as_str().unwrap().to_owned()
    }

    fn create(&self, name: &str) {
        let lower = self.path("lower");
        let options = json!({"lower": lower, "map": "b:1000:7:1", "nosuid": ""});
        self.call("Create", &json!({"Name": name, "Opts": options}));
    }

    fn is_served(name: &str) -> bool {
        let at = Path::new(MOUNTS).join(name).join("mnt");
        is_mounted(&at) && owner(&at.join("file")) == (7, 7)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.kill();
        for entry in fs::read_dir(MOUNTS).into_iter().flatten().flatten() {
            crate::common::mount::free(&entry.path().join("mnt"));
            fs::remove_dir_all(entry.path()).ok();
        }
        for entry in fs::read_dir("/var/lib/idshift/volumes").into_iter().flatten().flatten() {
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn what_docker_sends_is_answered() {
    let plugin = Plugin::new();
    let (status, answer) = plugin.post("Plugin.Activate", &json!({}));
    assert_eq!((status, answer), (200, json!({"Implements": ["VolumeDriver"]})));
    let answer = plugin.call("Capabilities", &json!({}));
    assert_eq!(answer["Capabilities"]["Scope"], "local");
    assert_eq!(plugin.call("List", &json!({}))["Volumes"], json!([]));
    plugin.create("data");
    plugin.create("data"); // Docker asks again for what it has
    let volume = plugin.call("Get", &json!({"Name": "data"}))["Volume"].clone();
    assert_eq!((&volume["Name"], &volume["Mountpoint"]), (&json!("data"), &json!("")));
    assert_eq!(volume["Status"]["options"], "map=b:1000:7:1,nosuid");
    let at = plugin.call("Mount", &json!({"Name": "data", "ID": "b87d7442"}))["Mountpoint"].clone();
    assert_eq!(at, format!("{MOUNTS}/data/mnt"));
    assert_eq!(plugin.call("Path", &json!({"Name": "data"}))["Mountpoint"], at);
    assert_eq!(
        plugin.call("List", &json!({}))["Volumes"],
        json!([{"Name": "data", "Mountpoint": at}])
    );
    plugin.call("Unmount", &json!({"Name": "data", "ID": "b87d7442"}));
    plugin.call("Remove", &json!({"Name": "data"}));
    assert!(plugin.refused("Get", &json!({"Name": "data"})).contains("no volume 'data'"));
    let (status, _) = plugin.post("VolumeDriver.Fly", &json!({}));
    assert_eq!(status, 404);
}

fn volumes_are_mounted_while_somebody_uses_them() {
    let plugin = Plugin::new();
    plugin.create("shared");
    for id in ["one", "two", "two"] {
        plugin.call("Mount", &json!({"Name": "shared", "ID": id}));
    }
    assert!(Plugin::is_served("shared"));
    let in_use = plugin.refused("Remove", &json!({"Name": "shared"}));
    assert!(in_use.contains("in use by 2"), "{in_use}");
    plugin.call("Unmount", &json!({"Name": "shared", "ID": "two"}));
    assert!(Plugin::is_served("shared"), "one of two is left");
    plugin.call("Unmount", &json!({"Name": "shared", "ID": "one"}));
    assert!(!Path::new(MOUNTS).join("shared").exists());
    plugin.call("Remove", &json!({"Name": "shared"}));
    assert_eq!(fs::read(plugin.path("lower/file")).unwrap(), b"hello\n", "the directory stays");
}

fn a_killed_plugin_loses_nothing() {
    let mut plugin = Plugin::new();
    plugin.create("kept");
    plugin.call("Mount", &json!({"Name": "kept", "ID": "one"}));
    plugin.kill();
    assert!(Plugin::is_served("kept"), "the mount goes on");
    plugin.start();
    assert_eq!(plugin.call("Get", &json!({"Name": "kept"}))["Volume"]["Status"]["containers"], 1);
    plugin.call("Mount", &json!({"Name": "kept", "ID": "two"}));
    plugin.call("Unmount", &json!({"Name": "kept", "ID": "one"}));
    assert!(Plugin::is_served("kept"));
    plugin.call("Unmount", &json!({"Name": "kept", "ID": "two"}));
    assert!(!Path::new(MOUNTS).join("kept").exists());
    // A new start of the machine empties /run.
    plugin.call("Mount", &json!({"Name": "kept", "ID": "three"}));
    assert!(Plugin::is_served("kept"));
}

fn a_killed_server_is_replaced() {
    let plugin = Plugin::new();
    plugin.create("dead");
    plugin.call("Mount", &json!({"Name": "dead", "ID": "one"}));
    let at = Path::new(MOUNTS).join("dead/mnt");
    let report = output(Command::new(&machine().binary).args(["status", "--json"]).arg(&at));
    let report: Value = serde_json::from_str(&report).unwrap();
    let pid = report["numbers"]["pid"].as_u64().unwrap();
    raw::kill(u32::try_from(pid).unwrap(), libc::SIGKILL).unwrap();
    eventually("the server is dead", || fs::metadata(&at).is_err());
    plugin.call("Mount", &json!({"Name": "dead", "ID": "two"}));
    assert!(Plugin::is_served("dead"));
}

fn mistakes_are_named_when_the_volume_is_created() {
    let plugin = Plugin::new();
    let lower = plugin.path("lower");
    for (options, part) in [
        (json!({"map": "identity"}), "-o lower="),
        (json!({"lower": "relative", "map": "identity"}), "whole path"),
        (json!({"lower": plugin.path("nowhere"), "map": "identity"}), "does not exist"),
        (json!({"lower": lower, "mapp": "identity"}), "did you mean 'map'"),
        (json!({"lower": lower, "map": "b:0:0"}), "three numbers"),
        (json!({"lower": lower}), "map"),
    ] {
        let error = plugin.refused("Create", &json!({"Name": "wrong", "Opts": options}));
        assert!(error.contains(part), "{options}: {error}");
    }
    assert_eq!(plugin.call("List", &json!({}))["Volumes"], json!([]), "none is half there");
    // A directory that goes away later is named when it is used, and nothing is left of the attempt.
    plugin.create("gone");
    fs::remove_dir_all(&lower).unwrap();
    let error = plugin.refused("Mount", &json!({"Name": "gone", "ID": "x"}));
    assert!(error.contains("does not exist"), "{error}");
    assert!(!Path::new(MOUNTS).join("gone").exists());
    plugin.call("Remove", &json!({"Name": "gone"}));
}

fn the_socket_is_its_owners() {
    let plugin = Plugin::new();
    let mode = fs::metadata(plugin.path("socket")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut second = Command::new("timeout");
    second
        .arg("20")
        .arg(&machine().binary)
        .args(["volumes", "--socket"])
        .arg(plugin.path("socket"));
    let out = second.output().unwrap();
    assert_eq!(out.status.code(), Some(32));
    assert!(String::from_utf8(out.stderr).unwrap().contains("another server answers"));
    plugin.call("List", &json!({}));
}

fn podman_uses_volumes() {
    for program in ["podman", "crun"] {
        needs_program(program);
    }
    let plugin = Plugin::new();
    let script = format!(
        "podman volume create --driver idshift -o lower={} -o map=b:1000:0:1 data >/dev/null\n\
         podman run --rm -v data:/work --rootfs /srv/rootfs sh -e -c 'cat /work/file; echo new > /work/new'\n\
         podman volume rm data >/dev/null",
        plugin.path("lower").display()
    );
    let mut command = engine(&plugin, &script);
    assert_eq!(output(&mut command), "hello\n");
    assert_eq!(owner(&plugin.path("lower/new")), (1000, 1000));
    assert!(!Path::new(MOUNTS).join("data").exists());
}

/// A script with Podman, to which the plugin is known.
fn engine(plugin: &Plugin, script: &str) -> Command {
    let place = plugin.path("podman");
    fs::create_dir_all(&place).unwrap();
    if fs::symlink_metadata("/srv/rootfs/etc/mtab").is_err() {
        std::os::unix::fs::symlink("/proc/self/mounts", "/srv/rootfs/etc/mtab").unwrap();
    }
    let mut command = shell("podman", script);
    podman(&mut command, "crun", place.to_str().unwrap());
    let settings = place.join("containers.conf");
    let text = fs::read_to_string(&settings).unwrap();
    let socket = plugin.path("socket");
    let line = format!("{text}[engine.volume_plugins]\nidshift = \"{}\"\n", socket.display());
    fs::write(settings, line).unwrap();
    command
}

/// Names, and the owners that are stored.
type Owners<'o> = &'o [(&'o str, (u32, u32))];

/// What is in the image at the place of an empty volume is copied into it (unless `:nocopy`), and `:U` gives
/// all of it to the container's user.
fn podman_fills_volumes_and_gives_them_away() {
    for program in ["podman", "crun"] {
        needs_program(program);
    }
    let plugin = Plugin::new();
    let seed = Path::new("/srv/rootfs/opt/seed");
    put_dir(seed, 0o755, 0, 0);
    put_file(&seed.join("roots"), b"0", 0o644, 0, 0);
    put_file(&seed.join("others"), b"33", 0o644, 33, 33);
    // Name, owner of the directory, options, how it is mounted; who owns what afterwards, by what is stored.
    let shifted = "-o map=b:100000:0:65536";
    let of_one = "-o owned-by=0";
    let copied: Owners<'_> = &[("roots", (100_000, 100_000)), ("others", (100_033, 100_033))];
    let given: Owners<'_> = &[("roots", (100_033, 100_033)), ("others", (100_033, 100_033))];
    let one: Owners<'_> = &[("roots", (1000, 1000)), ("others", (1000, 1000))];
    for (name, first, options, how, user, expected) in [
        ("copied", 100_000, shifted, "", 0, copied),
        ("empty", 100_000, shifted, ":nocopy", 0, &[] as Owners<'_>),
        ("given", 100_000, shifted, ":U", 33, given),
        ("one", 1000, of_one, "", 0, one),
        ("one-given", 1000, of_one, ":U", 33, one),
    ] {
        let lower = plugin.path(name);
        put_dir(&lower, 0o755, first, first);
        let script = format!(
            "podman volume create --driver idshift -o lower={} {options} {name} >/dev/null\n\
             podman run --rm --user {user} -v {name}:/opt/seed{how} --rootfs /srv/rootfs ls /opt/seed\n\
             podman volume rm {name} >/dev/null",
            lower.display()
        );
        let said = output(&mut engine(&plugin, &script));
        let names = if expected.is_empty() { "" } else { "others\nroots\n" };
        assert_eq!(said, names, "{name}");
        for (file, stored) in expected {
            assert_eq!(owner(&lower.join(file)), *stored, "{name}: {file}");
        }
        assert!(!Path::new(MOUNTS).join(name).exists(), "{name}");
    }
    fs::remove_dir_all(seed).unwrap();
}

/// Two containers at once; one is killed; a volume in use, an unknown option and a directory that has gone
/// are named.
fn podman_shares_and_loses_them() {
    for program in ["podman", "crun"] {
        needs_program(program);
    }
    let plugin = Plugin::new();
    let lower = plugin.path("lower");
    let script = format!(
        "podman volume create --driver idshift -o lower={0} -o map=b:1000:0:1 data >/dev/null\n\
         for name in one two; do podman run -d --name $name -v data:/work --rootfs /srv/rootfs sleep 100 >/dev/null; done\n\
         podman exec one sh -c 'echo from one > /work/shared'; podman exec two cat /work/shared\n\
         podman volume rm data 2>&1 >/dev/null | grep -o 'being used' | head -1\n\
         podman kill -s KILL one >/dev/null; podman rm -f one >/dev/null\n\
         podman exec two cat /work/shared\n\
         kill -9 $(podman inspect -f '{{{{.State.ConmonPid}}}}' two)\n\
         podman rm -f two >/dev/null 2>&1; podman ps -aq\n\
         podman volume rm data >/dev/null\n\
         podman volume create --driver idshift -o lower={0} -o map=identity -o frobnicate=1 x 2>&1 | grep -o \"frobnicate\" | head -1\n\
         podman volume create --driver idshift -o lower={0}/gone -o map=identity x 2>&1 | grep -o 'does not exist'",
        lower.display()
    );
    let said = output(&mut engine(&plugin, &script));
    assert_eq!(said, "from one\nbeing used\nfrom one\nfrobnicate\ndoes not exist\n");
    assert_eq!(owner(&lower.join("shared")), (1000, 1000));
    assert!(!Path::new(MOUNTS).join("data").exists(), "nobody uses it");
}

/// The plugin is killed over and over while volumes are created: what was answered is there, and whole.
fn what_was_answered_outlives_a_crash() {
    let mut plugin = Plugin::new();
    let lower = plugin.path("lower");
    let mut answered = Vec::new();
    for round in 0..8 {
        let socket = plugin.path("socket");
        let pid = plugin.child.as_ref().unwrap().id();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20 + 13 * round));
            raw::kill(pid, libc::SIGKILL).unwrap();
        });
        for number in 0.. {
            let name = format!("v-{round}-{number}");
            let options = json!({"lower": lower, "map": format!("b:1000:{number}:1")});
            let body = json!({"Name": name, "Opts": options}).to_string();
            let Ok(mut stream) = UnixStream::connect(&socket) else { break };
            let sent = write!(
                stream,
                "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            if sent.is_err() || read.is_err() || !answer.contains("200 OK") {
                break;
            }
            answered.push((name, number));
        }
        killer.join().unwrap();
        plugin.kill();
        plugin.start();
    }
    assert!(answered.len() > 8, "{}", answered.len());
    for (name, number) in &answered {
        let volume = plugin.call("Get", &json!({"Name": name}))["Volume"].clone();
        assert_eq!(volume["Status"]["options"], format!("map=b:1000:{number}:1"), "{name}");
    }
    // What was not answered is whole, or not there.
    for volume in plugin.call("List", &json!({}))["Volumes"].as_array().unwrap() {
        plugin.call("Get", &json!({"Name": volume["Name"]}));
    }
}

/// Mounts and containers have gone with the machine; volumes have not, and are mounted when an engine asks again.
fn a_machine_that_starts_anew() {
    let mut plugin = Plugin::new();
    plugin.create("lasting");
    plugin.call("Mount", &json!({"Name": "lasting", "ID": "one"}));
    plugin.kill();
    crate::common::mount::free(&Path::new(MOUNTS).join("lasting/mnt"));
    fs::remove_dir_all(MOUNTS).unwrap();
    plugin.start();
    let volume = plugin.call("Get", &json!({"Name": "lasting"}))["Volume"].clone();
    assert_eq!((&volume["Mountpoint"], &volume["Status"]["containers"]), (&json!(""), &json!(0)));
    plugin.call("Mount", &json!({"Name": "lasting", "ID": "one"}));
    assert!(Plugin::is_served("lasting"));
    plugin.call("Unmount", &json!({"Name": "lasting", "ID": "one"}));
    plugin.call("Remove", &json!({"Name": "lasting"}));
}
