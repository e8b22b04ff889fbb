//! Idmapped mounts of a mount of idshift, as container tools ask for them (Linux 6.12): the commands
//! of `contrib/`, over file systems that the kernel itself makes no idmapped mounts of.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::common::mount::free;
use crate::common::runner::needs_program;
use crate::common::{exists, machine, owner, put_dir, put_file, raw, skip};
use crate::kinds;
use crate::recipes::{MAPPED, Point, blocks, output, podman, shell, world};

crate::common::tests!(
    podman_of_root,
    podman_of_root_over_sshfs,
    podman_of_an_ordinary_user,
    lxc_mount_entry,
    nspawn_bind_mounts,
    nspawn_whole_container,
);

/// The recipes use the same mount points: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The places of the recipes: a directory, and mount points.
fn share() -> (Point, Point, MutexGuard<'static, ()>) {
    for program in ["bindfs", "crun"] {
        needs_program(program);
    }
    world();
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (parts.next().unwrap(), parts.next().unwrap());
    if version < (6, 12) {
        skip(format!("needs Linux 6.12 (FUSE_ALLOW_IDMAP), not {release}"));
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let share = Path::new("/srv/share");
    if share.exists() {
        fs::remove_dir_all(share).unwrap();
    }
    put_dir(share, 0o755, 0, 0);
    put_file(&share.join("letter"), b"dear all\n", 0o644, 33, 33);
    // Podman looks after it before it takes the container's ids.
    if !exists(Path::new("/srv/rootfs/etc/mtab")) {
        std::os::unix::fs::symlink("/proc/self/mounts", "/srv/rootfs/etc/mtab").unwrap();
    }
    // Nobody in a container may make a mount point in an image that is another's.
    fs::create_dir_all("/srv/rootfs/data").unwrap();
    (Point::new("/mnt/share"), Point::new("/mnt/fuse"), turn)
}

/// The ids that `ls -ln` shows of a file.
fn shown(said: &str, file: &str) -> (u32, u32) {
    let line = said.lines().find(|line| line.ends_with(&format!(" {file}")));
    let line = line.unwrap_or_else(|| panic!("no {file} in {said}"));
    let mut words = line.split_whitespace().skip(2).map(|word| word.parse().unwrap());
    (words.next().unwrap(), words.next().unwrap())
}

fn podman_of_root() {
    needs_program("podman");
    let places = share();
    let _point = Point::new("/mnt/podman");
    fs::create_dir_all("/run/root-idmap").unwrap();
    let mut command = shell("podman", &blocks("podman")[2]);
    podman(&mut command, "crun", "/run/root-idmap");
    let said = output(&mut command);
    assert_eq!(shown(&said, "letter"), (33, 33));
    assert_eq!(shown(&said, "new"), (33, 0));
    assert_eq!(owner(Path::new("/srv/share/new")), (33, 0));
    drop(places);
}

/// The same over a network file system: an sshd of our own, and sshfs through it.
fn podman_of_root_over_sshfs() {
    needs_program("podman");
    let places = share();
    let lower = kinds::sshfs();
    put_file(&lower.behind.join("letter"), b"dear all\n", 0o644, 33, 33);
    crate::common::chown(&lower.behind, Some(0), Some(0)).unwrap();
    let _point = Point::new("/mnt/podman");
    fs::create_dir_all("/run/root-sshfs").unwrap();
    let commands = &blocks("podman")[2];
    let below = format!("mount --bind {} /mnt/fuse", lower.root.display());
    let mut command = shell("podman", &commands.replace("bindfs /srv/share /mnt/fuse", &below));
    podman(&mut command, "crun", "/run/root-sshfs");
    let said = output(&mut command);
    assert_eq!(shown(&said, "letter"), (33, 33));
    assert_eq!(shown(&said, "new"), (33, 0));
    assert_eq!(owner(&lower.behind.join("new")), (33, 0));
    // By itself the kernel makes no idmapped mount of it.
    let mut alone = shell(
        "podman",
        &format!(
            "podman run --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 \
             -v {}:/data:idmap --rootfs /srv/rootfs true",
            lower.root.display()
        ),
    );
    podman(&mut alone, "crun", "/run/root-sshfs");
    let refused = alone.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("mount_setattr"), "{said}");
    drop(places);
}

/// The kernel lets an ordinary user idmap nothing that the user has not mounted: neither ext4 nor
/// another's FUSE.
fn podman_of_an_ordinary_user() {
    for program in ["podman", "newuidmap", "bindfs"] {
        needs_program(program);
    }
    let places = share();
    let home = Path::new("/srv/ann-idmap");
    put_dir(home, 0o755, 7001, 7001);
    for name in ["data", "files", "view", "runtime"] {
        put_dir(&home.join(name), 0o700, 7001, 7001);
    }
    put_file(&home.join("files/letter"), b"dear ann\n", 0o600, 7001, 7001);
    // What Podman itself would make in the image, as somebody who may not.
    for file in ["etc/hosts", "etc/resolv.conf", "etc/hostname", "run/.containerenv"] {
        fs::File::options()
            .create(true)
            .append(true)
            .open(Path::new("/srv/rootfs").join(file))
            .unwrap();
    }
    fs::create_dir_all("/srv/rootfs/run/secrets").unwrap();
    // Whatever the mode of the machine's own.
    let device = machine().base.join("fuse");
    if !device.exists() {
        output(Command::new("mknod").args(["-m", "666"]).arg(&device).args(["c", "10", "229"]));
        output(Command::new("mount").arg("--bind").arg(&device).arg("/dev/fuse"));
    }
    let data = home.join("data").display().to_string();
    for lower in ["mount --bind", "bindfs"] {
        let below = format!("podman unshare {lower} /srv/ann-idmap/files {data}\n");
        let away = format!("\npodman unshare umount {data}");
        let script = below + &blocks("podman")[3] + &away;
        let mut command = shell(
            "podman",
            "cd /; exec setpriv --reuid 7001 --regid 7001 --clear-groups sh -e -c \"$0\"",
        );
        podman(&mut command, "crun", "/srv/ann-idmap");
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home.join("runtime")).arg(script);
        let said = command.output().unwrap();
        // A process of Podman's stays, to hold its user namespace and what is mounted there.
        let pause = fs::read_to_string(home.join("runtime/libpod/tmp/pause.pid")).unwrap();
        raw::kill(pause.trim().parse().unwrap(), libc::SIGKILL).unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success(), "{lower}: {text}{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(shown(&text, "letter"), (0, 0), "{lower}");
        assert_eq!(shown(&text, "new"), (0, 0), "{lower}");
        assert_eq!(owner(&home.join("files/new")), (7001, 7001), "{lower}");
        fs::remove_file(home.join("files/new")).unwrap();
    }
    drop(places);
}

fn lxc_mount_entry() {
    needs_program("lxc-execute");
    let places = share();
    let _one = Point::new("/var/lib/lxc/one/rootfs");
    output(&mut shell("lxc", &blocks("lxc")[0]));
    let said = output(&mut shell("lxc", &blocks("lxc")[1]));
    assert_eq!(shown(&said, "letter"), (33, 33));
    assert_eq!(owner(Path::new("/srv/share/lxc")), (33, 0));
    drop(places);
}

fn nspawn_bind_mounts() {
    needs_program("systemd-nspawn");
    let places = share();
    let _point = Point::new("/mnt/nspawn");
    let said = output(&mut shell("nspawn", &blocks("nspawn")[1]));
    let (first, second) = said.split_at(said.rfind("total").unwrap());
    assert_eq!(shown(first, "letter"), (33, 33));
    assert_eq!(shown(second, "letter"), (65_534, 65_534), "only root is mapped");
    assert_eq!(shown(second, "rootidmap"), (0, 0));
    for name in ["idmap", "rootidmap"] {
        assert_eq!(owner(&Path::new("/srv/share").join(name)), (0, 0));
    }
    drop(places);
}

fn nspawn_whole_container() {
    needs_program("systemd-nspawn");
    let places = share();
    let _point = Point::new("/mnt/nspawn");
    let said = output(&mut shell("nspawn", &blocks("nspawn")[2]));
    assert!(said.contains(MAPPED), "{said}");
    assert_eq!(owner(Path::new("/srv/rootfs/srv/nspawn-map")), (33, 0));
    free(Path::new("/mnt/fuse"));
    drop(places);
}
