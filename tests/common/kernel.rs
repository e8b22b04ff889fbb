//! The kernel's own idmapped mount, made by system calls: the specification that idshift is
//! measured against. `IDSHIFT_TEST_BACKEND=kernel` runs the tests on it, which checks the tests.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::raw;

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// Shows `lower` at `mountpoint` with the maps of the option string, as
/// `mount --bind -o X-mount.idmap` does.
pub(crate) fn mount(options: &str, lower: &Path, mountpoint: &Path) {
    let mut attributes = 0;
    let (mut users, mut groups) = (String::new(), String::new());
    for option in options.split(',') {
        match option {
            "ro" => attributes |= MOUNT_ATTR_RDONLY,
            "nosuid" => attributes |= MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= MOUNT_ATTR_NODEV,
            "noexec" => attributes |= MOUNT_ATTR_NOEXEC,
            _ => {
                if let Some(spec) = option.strip_prefix("map=") {
                    add_extent(spec, &mut users, &mut groups);
                }
            }
        }
    }
    let (mut helper, namespace) = user_namespace(&users, &groups);
    let tree =
        open_tree(CWD, lower, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .unwrap();
    raw::mount_setattr(tree.as_fd(), attributes, Some(namespace.as_fd())).unwrap();
    move_mount(tree, "", CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
    helper.kill().unwrap();
    helper.wait().unwrap();
}

fn add_extent(spec: &str, users: &mut String, groups: &mut String) {
    let parts: Vec<&str> = spec.split(':').collect();
    let [kind, lower, upper, count] = parts[..] else {
        super::skip(format!("the kernel fixture reads no map like {spec}"));
    };
    let line = format!("{lower} {upper} {count}\n");
    if kind != "g" {
        users.push_str(&line);
    }
    if kind != "u" {
        groups.push_str(&line);
    }
}

/// A sleeping process in a new user namespace with these maps, and the namespace itself.
pub(crate) fn user_namespace(users: &str, groups: &str) -> (Child, File) {
    let helper = Command::new("unshare")
        .args(["--user", "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare of util-linux");
    let proc = Path::new("/proc").join(helper.id().to_string());
    let ours = fs::read_link("/proc/self/ns/user").unwrap();
    let start = Instant::now();
    while fs::read_link(proc.join("ns/user")).unwrap() == ours {
        assert!(start.elapsed() < Duration::from_secs(10), "unshare made no namespace");
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::write(proc.join("uid_map"), users).unwrap();
    fs::write(proc.join("gid_map"), groups).unwrap();
    let namespace = File::open(proc.join("ns/user")).unwrap();
    (helper, namespace)
}
