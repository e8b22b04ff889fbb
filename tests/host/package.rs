//! The Debian package: built, installed in a fresh root file system, used, and removed without a
//! trace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::debian::{pristine, run};
use crate::common::mount::temp_dir;
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::skip;

crate::common::tests!(package_installs_works_and_leaves_nothing);

/// Where cargo-deb is: in PATH, or where `.ci/run` has put it.
fn with_cargo_deb(command: &mut Command) -> &mut Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(here.join("target"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::iter::once(target.join("suites/bin"))
        .chain(std::iter::once(here.join("target/suites/bin")))
        .chain(std::env::split_paths(&path))
        .collect();
    if !places.iter().any(|place| place.join("cargo-deb").exists()) {
        skip("needs cargo-deb: .ci/run installs it in target/suites");
    }
    command.env("PATH", std::env::join_paths(places).unwrap()).current_dir(here)
}

/// Every file below `root` with its type, mode, owner, and size or target. What dpkg writes into
/// its own books is left out, and what changes by being looked at.
fn everything(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(root).unwrap().to_path_buf();
            if ["var/lib/dpkg", "var/log", "proc", "dev"].iter().any(|own| inside.starts_with(own))
            {
                continue;
            }
            let stat = fs::symlink_metadata(&path).unwrap();
            let what = if stat.is_dir() {
                left.push(path);
                String::new()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                stat.len().to_string()
            };
            let shown = format!("{:o} {}:{} {what}", stat.mode(), stat.uid(), stat.gid());
            found.insert(inside, shown);
        }
    }
    found
}

/// Runs a script in the root file system, with /proc and /dev, in namespaces of its own.
fn inside(root: &Path, script: &str) -> String {
    let root = root.display();
    let outer = format!(
        "set -e; mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev; \
         exec chroot {root} /bin/sh -e -c \"$0\""
    );
    run(Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--propagation",
            "private",
            "sh",
            "-c",
            &outer,
            script,
        ])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C"))
}

const USE: &str = "\
    idshift --version --verbose | grep -q '^  build'\n\
    idshift demo\n\
    mkdir -p /tmp/stored /tmp/shown; touch /tmp/stored/file\n\
    test \"$(readlink -f /sbin/mount.fuse.idshift)\" = /usr/bin/idshift\n\
    mount -t fuse.idshift -o map=b:0:100000:65536,ro /tmp/stored /tmp/shown\n\
    stat -c %u:%g /tmp/shown/file\n\
    umount /tmp/shown\n\
    rm -r /tmp/stored /tmp/shown\n\
    for page in man1/idshift.1 man5/idshift-map.5 man8/mount.fuse.idshift.8; do\n\
        zcat /usr/share/man/$page.gz | grep -q '^.SH NAME'\n\
    done\n\
    ls /usr/share/doc/idshift/examples/systemd /usr/share/zsh/vendor-completions \
        /usr/share/fish/vendor_completions.d /usr/share/bash-completion/completions\n\
    grep '^ExecStart=/usr/bin/idshift ' /usr/lib/systemd/system/idshift@.service\n\
    grep '^ExecStart=/usr/bin/idshift volumes' /usr/lib/systemd/system/idshift-volumes.service\n\
    grep '^ListenStream=/run/docker/plugins/idshift.sock' /usr/lib/systemd/system/idshift-volumes.socket\n\
    test \"$(readlink -f /usr/bin/idshift-runtime)\" = /usr/bin/idshift\n\
    idshift-runtime --version 2>&1 | grep -q 'no OCI runtime'\n\
    ls /usr/share/doc/idshift/examples/oci/README.md /usr/share/doc/idshift/examples/volumes/README.md\n\
    test -x /usr/share/doc/idshift/examples/lxc/idshift-hook\n\
    test ! -e /usr/share/doc/idshift/examples/debian\n\
    dpkg --verify idshift\n";

fn package_installs_works_and_leaves_nothing() {
    needs_idshift();
    needs_real_root("a root file system");
    for program in ["dpkg-deb", "dpkg-shlibdeps", "cp", "unshare", "gzip"] {
        needs_program(program);
    }
    let built = run(with_cargo_deb(Command::new("contrib/debian/build").arg("dev")));
    let package = Path::new(built.trim());
    let dir = temp_dir();
    let root = dir.path().join("root");
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(pristine()).arg(&root));
    let before = everything(&root);
    assert!(before.len() > 1000);

    fs::copy(package, root.join("package.deb")).unwrap();
    inside(&root, "dpkg --install /package.deb");
    fs::remove_file(root.join("package.deb")).unwrap();
    assert!(everything(&root).len() > before.len() + 10);
    let said = inside(&root, USE);
    assert!(said.contains("All steps went as they should"), "{said}");
    assert!(said.contains("\n100000:100000\n"), "{said}");
    for name in ["_idshift", "idshift.fish", "mnt-rootfs.mount"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    inside(&root, "dpkg --purge idshift");
    let after = everything(&root);
    let differing: Vec<_> = before
        .iter()
        .filter(|(path, what)| after.get(*path) != Some(what))
        .chain(after.iter().filter(|(path, _)| !before.contains_key(*path)))
        .collect();
    assert!(differing.is_empty(), "{differing:?}");
    println!("package: {} kB", fs::metadata(package).unwrap().len() / 1000);
}
