//! Container engines in front of `idshift runtime` and `idshift volumes`: containerd's own client, and Podman of an ordinary user.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::runner::{machine, needs_program};
use crate::common::{eventually, owner, put_dir, put_file, raw};
use crate::oci::{Bundle, bindfs, left};
use crate::recipes::{output, podman, shell, world};

crate::common::tests!(
    ctr_runs_it,
    podman_of_an_ordinary_user_runs_it,
    podman_of_an_ordinary_user_has_volumes
);

/// A containerd of our own; it and what it has started are gone at the end.
struct Containerd {
    dir: PathBuf,
    child: Child,
}

impl Containerd {
    fn start(dir: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\"]\n\
             [grpc]\naddress = \"{0}/socket\"\n[ttrpc]\naddress = \"{0}/ttrpc\"\n",
            dir.display()
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(dir.join("config.toml")).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        raw::die_with_parent(&mut command);
        let it = Self { dir: dir.to_owned(), child: command.spawn().unwrap() };
        eventually("containerd answers", || it.ctr("version").output().unwrap().status.success());
        it
    }

    fn ctr(&self, words: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["60", "ctr", "--address"]).arg(self.dir.join("socket"));
        command.args(words.split_whitespace()).stdin(Stdio::null());
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        raw::kill(self.child.id(), libc::SIGTERM).ok();
        self.child.wait().ok();
    }
}

fn ctr_runs_it() {
    for program in ["containerd", "ctr", "containerd-shim-runc-v2"] {
        needs_program(program);
    }
    let bundle = Bundle::new();
    let served = bindfs(&bundle);
    let containerd = Containerd::start(&bundle.path("containerd"));
    for runtime in ["runc", "crun"] {
        needs_program(runtime);
        let wrapper = bundle.path(&format!("idshift-runtime-{runtime}"));
        symlink(&machine().binary, &wrapper).unwrap();
        for source in [&bundle.path("source"), &served.0] {
            let run = format!(
                "run --rm --runc-binary {} --annotation idshift=/work=match-user \
                 --mount type=bind,src={},dst=/work,options=rbind:rw \
                 --rootfs /srv/rootfs idshift-test-{} /bin/sh -c",
                wrapper.display(),
                source.display(),
                std::process::id()
            );
            let mut command = containerd.ctr(&run);
            command.arg("/usr/bin/stat -c %u:%g /work/file; echo new > /work/new");
            let what = format!("{runtime}, {}", source.display());
            assert_eq!(output(&mut command), "0:0\n", "{what}");
            assert_eq!(owner(&bundle.path("source/new")), (1234, 1235), "{what}");
            fs::remove_file(bundle.path("source/new")).unwrap();
            eventually("the mount has gone", || left().is_empty());
        }
    }
    drop(containerd);
    bundle.nothing_is_left();
}

/// An ordinary user with a home for Podman, and the processes of Podman's that stay.
pub(crate) struct Ann {
    pub(crate) home: PathBuf,
}

impl Ann {
    pub(crate) fn new(name: &str) -> Self {
        for program in ["podman", "crun", "newuidmap"] {
            needs_program(program);
        }
        world();
        let home = Path::new("/srv").join(name);
        put_dir(&home, 0o755, 7001, 7001);
        for name in ["project", "runtime"] {
            put_dir(&home.join(name), 0o700, 7001, 7001);
        }
        put_file(&home.join("project/letter"), b"dear ann\n", 0o600, 7001, 7001);
        // What Podman itself would make in the image, as somebody who may not.
        for file in ["etc/hosts", "etc/resolv.conf", "etc/hostname", "run/.containerenv"] {
            let file = Path::new("/srv/rootfs").join(file);
            fs::File::options().create(true).append(true).open(file).unwrap();
        }
        if fs::symlink_metadata("/srv/rootfs/etc/mtab").is_err() {
            symlink("/proc/self/mounts", "/srv/rootfs/etc/mtab").unwrap();
        }
        fs::create_dir_all("/srv/rootfs/run/secrets").unwrap();
        fs::create_dir_all("/srv/rootfs/work").unwrap();
        // Whatever the mode of the machine's own.
        let device = machine().base.join("fuse");
        if !device.exists() {
            output(Command::new("mknod").args(["-m", "666"]).arg(&device).args(["c", "10", "229"]));
            output(Command::new("mount").arg("--bind").arg(&device).arg("/dev/fuse"));
        }
        Self { home }
    }

    /// Runs a script with Podman; what it says.
    pub(crate) fn runs(&self, runtime: &str, (engine, more): (&str, &str), script: &str) -> String {
        let mut command = shell(
            "podman",
            "cd /; exec setpriv --reuid 7001 --regid 7001 --clear-groups sh -e -c \"$0\"",
        );
        podman(&mut command, runtime, self.home.to_str().unwrap());
        let settings = self.home.join("containers.conf");
        let text = fs::read_to_string(&settings).unwrap();
        let text = text.replace("[engine]\n", &format!("[engine]\n{engine}"));
        fs::write(settings, text + more).unwrap();
        command.env("HOME", &self.home).env("XDG_RUNTIME_DIR", self.home.join("runtime"));
        command.env_remove("XDG_DATA_HOME");
        output(command.arg(script))
    }
}

impl Drop for Ann {
    /// A process of Podman's holds its user namespace, and what is mounted there.
    fn drop(&mut self) {
        let pause = fs::read_to_string(self.home.join("runtime/libpod/tmp/pause.pid"));
        if let Some(pid) = pause.ok().and_then(|text| text.trim().parse().ok()) {
            raw::kill(pid, libc::SIGKILL).ok();
        }
        fs::remove_dir_all(&self.home).ok();
    }
}

fn podman_of_an_ordinary_user_runs_it() {
    let ann = Ann::new("ann-runtime");
    // runc takes no containers without control groups, and without systemd an ordinary user has none.
    let wrapper = ann.home.join("idshift-runtime");
    symlink(&machine().binary, &wrapper).unwrap();
    let engine = "runtime_supports_nocgroup = [\"idshift-runtime\"]\n";
    let more = format!("[engine.runtimes]\nidshift-runtime = [\"{}\"]\n", wrapper.display());
    let said = ann.runs(
        "idshift-runtime",
        (engine, &more),
        &format!(
            "podman run --rm --cgroups=disabled --no-hosts --user 5:6 \
             --annotation idshift=/work=match-user -v {}:/work --rootfs /srv/rootfs:O \
             sh -e -c 'stat -c %u:%g /work/letter; cat /work/letter; echo new > /work/new'\n\
             podman unshare ls {}",
            ann.home.join("project").display(),
            ann.home.join("runtime/idshift/runtime").display(),
        ),
    );
    assert_eq!(said, "5:6\ndear ann\n", "and no mount is left");
    assert_eq!(owner(&ann.home.join("project/new")), (7001, 7001));
}

fn podman_of_an_ordinary_user_has_volumes() {
    let ann = Ann::new("ann-volumes");
    let socket = ann.home.join("runtime/idshift.sock");
    let more = format!("[engine.volume_plugins]\nidshift = \"{}\"\n", socket.display());
    let said = ann.runs(
        "crun",
        ("", &more),
        &format!(
            "podman unshare sh -c 'echo $$ > {0}.pid; exec idshift volumes --socket {0}' >{0}.log 2>&1 &\n\
             for try in $(seq 200); do test -S {0} && break; sleep 0.05; done\n\
             podman volume create --driver idshift -o lower={1} -o map=b:0:5:1 data\n\
             podman run --rm --cgroups=disabled --no-hosts --user 5:5 -v data:/work --rootfs /srv/rootfs:O \
             sh -e -c 'stat -c %u:%g /work/letter; cat /work/letter; echo new > /work/new'\n\
             podman volume rm data\n\
             podman unshare ls $XDG_RUNTIME_DIR/idshift/volumes\n\
             podman unshare kill $(cat {0}.pid)",
            socket.display(),
            ann.home.join("project").display(),
        ),
    );
    assert_eq!(said, "data\n5:5\ndear ann\ndata\n");
    assert_eq!(owner(&ann.home.join("project/new")), (7001, 7001));
}
