//! The recipes of `docs/recipes.md` for containers, run as they stand there. In place of IMAGE stands the root file system
//! `/srv/rootfs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::mount::is_mounted;
use crate::common::runner::{machine, needs_program};
use crate::common::{eventually, owner, put_dir, put_file};
use crate::engines::Ann;
use crate::recipes::{Point, output, podman, shell, world};

crate::common::tests!(
    local_driver_of_podman,
    keep_id_without_a_copy,
    lxc_bind_mount,
    dev_container,
    build_jobs,
);

/// The first block of commands below this heading.
fn block(heading: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let block = section.split("```").nth(1).unwrap();
    block.split_once('\n').unwrap().1.to_owned()
}

/// Runs a recipe as root, with Podman's settings in a place of its own.
fn by_root(commands: &str, name: &str) -> String {
    let place = format!("/run/root-{name}");
    fs::create_dir_all(&place).unwrap();
    if fs::symlink_metadata("/srv/rootfs/etc/mtab").is_err() {
        symlink("/proc/self/mounts", "/srv/rootfs/etc/mtab").unwrap();
    }
    let mut command = shell("podman", &commands.replace("IMAGE", "--rootfs /srv/rootfs"));
    podman(&mut command, "crun", &place);
    output(&mut command)
}

fn directory(path: &str, id: u32) {
    put_dir(Path::new(path), 0o755, id, id);
    put_file(&Path::new(path).join("letter"), b"dear all\n", 0o644, id, id);
}

fn local_driver_of_podman() {
    for program in ["podman", "crun"] {
        needs_program(program);
    }
    world();
    fs::remove_dir_all("/srv/data").ok();
    directory("/srv/data", 1000);
    let said = by_root(&block("A volume of Podman's own"), "local");
    let line = said.lines().find(|line| line.ends_with(" letter")).unwrap();
    assert!(line.split_whitespace().nth(2) == Some("0"), "{said}");
    assert_eq!(owner(Path::new("/srv/data/new")), (1000, 1000));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/srv/data"), "{mounts}");
    fs::remove_dir_all("/srv/data").unwrap();
}

fn keep_id_without_a_copy() {
    let ann = Ann::new("ann-keep-id");
    put_dir(&ann.home.join("view"), 0o755, 7001, 7001);
    let image = "--cgroups=disabled --no-hosts --passwd=false --rootfs /srv/rootfs:O";
    let said = ann.runs("crun", ("", ""), &block("Your files as").replace("IMAGE", image));
    let line = said.lines().find(|line| line.ends_with(" letter")).unwrap();
    assert!(line.split_whitespace().nth(2) == Some("1000"), "{said}");
    assert_eq!(owner(&ann.home.join("project/new")), (7001, 7001));
}

fn lxc_bind_mount() {
    needs_program("lxc-execute");
    world();
    directory("/srv/nas", 1000);
    let _rootfs = Point::new("/var/lib/lxc/one/rootfs");
    let view = Path::new("/mnt/nas-one");
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/lxc");
    output(&mut shell("lxc", "install -D -m 755 idshift-hook /usr/local/share/idshift/lxc-hook"));
    let config = fs::read_to_string(contrib.join("config")).unwrap();
    let four = block("A directory of the host in an LXC");
    assert_eq!(four.lines().count(), 4);
    fs::write("/var/lib/lxc/one/config", config + &four).unwrap();
    let script = "stat -c %u:%g /srv/media/letter; setpriv --reuid 1000 --regid 1000 --clear-groups touch /srv/media/new";
    let said = output(shell("lxc", "exec lxc-execute -n one -- sh -e -c \"$0\"").arg(script));
    assert_eq!(said, "1000:1000\n");
    assert_eq!(owner(Path::new("/srv/nas/new")), (1000, 1000));
    eventually("the hook has unmounted it", || !is_mounted(view));
    fs::remove_dir_all("/srv/nas").unwrap();
}

fn dev_container() {
    for program in ["podman", "crun"] {
        needs_program(program);
    }
    world();
    directory("/srv/project", 1234);
    fs::create_dir_all("/srv/rootfs/work").unwrap();
    let link = Path::new("/usr/local/bin/idshift-runtime");
    fs::remove_file(link).ok();
    symlink(&machine().binary, link).unwrap();
    let settings: Value = serde_json::from_str(&block("Dev containers")).unwrap();
    let text = |key: &str| settings[key].as_str().unwrap();
    let words: Vec<&str> =
        settings["runArgs"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    // As the dev containers' program makes them options.
    let mount = text("workspaceMount").replace("${localWorkspaceFolder}", "/srv/project");
    let command = format!(
        "podman run --rm {} --mount '{mount}' --user {} -w {} IMAGE sh -e -c 'stat -c %u:%g letter; touch new'",
        words
            .join(" ")
            .replace("--runtime=idshift-runtime", "--runtime=/usr/local/bin/idshift-runtime"),
        text("containerUser"),
        text("workspaceFolder"),
    );
    assert_eq!(by_root(&command, "dev"), "1000:0\n");
    assert_eq!(owner(Path::new("/srv/project/new")), (1234, 1234));
    fs::remove_dir_all("/srv/project").unwrap();
}

fn build_jobs() {
    for program in ["podman", "crun"] {
        needs_program(program);
    }
    world();
    directory("/srv/builds", 998);
    fs::create_dir_all("/srv/rootfs/builds").unwrap();
    let said = by_root(&block("Build jobs whose files"), "jobs");
    assert_eq!(said, "0:0\n");
    assert_eq!(owner(Path::new("/srv/builds/result")), (998, 998));
    // The runner can delete it.
    output(
        Command::new("setpriv")
            .args(["--reuid", "998", "--regid", "998", "--clear-groups"])
            .args(["rm", "/srv/builds/result"]),
    );
    assert!(!is_mounted(Path::new("/srv/builds-view")));
    fs::remove_dir_all("/srv/builds").unwrap();
}
