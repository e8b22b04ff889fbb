//! What a newcomer stumbles over, and what idshift says then.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::mount::{free, is_mounted, temp_dir};
use crate::common::program::{Called, idshift};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{self, put_dir, put_file};
use tempfile::TempDir;

crate::common::tests!(
    map_in_a_wrong_place,
    directories_in_the_wrong_order,
    busy_mount_does_not_name_the_command_itself,
    unmount_is_understood,
    demo_says_nothing_besides_its_story,
    probe_and_backend_agree,
    first_mount_of_the_readme,
);

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        needs_idshift();
        let place = Self { dir: temp_dir() };
        put_dir(&place.path("lower"), 0o755, 0, 0);
        put_file(&place.path("lower/file"), b"", 0o644, 0, 0);
        put_dir(&place.path("mnt"), 0o755, 0, 0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&self, options: &str) -> Called {
        idshift(&[&"mount", &"-o", &options, &self.path("lower"), &self.path("mnt")])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in ["mnt", "lower"] {
            free(&self.path(name));
        }
    }
}

fn map_in_a_wrong_place() {
    let place = Place::new();
    let (lower, mnt) = (place.path("lower"), place.path("mnt"));
    let called = idshift(&[&"mount", &"b:0:0:1000", &lower, &mnt]);
    assert_eq!(called.code, 1);
    assert!(called.err.contains("-o map=b:0:0:1000"), "{}", called.err);
    let called = place.mount("map=b:0:0:1000,b:2000:2000:1");
    assert_eq!(called.code, 1);
    assert!(called.err.contains("write 'map=b:2000:2000:1'"), "{}", called.err);
    // Other mistakes bring no such hint.
    let called = idshift(&[&"mount", &"--frobnicate", &lower, &mnt]);
    assert!(called.code == 1 && !called.err.contains("id map"), "{}", called.err);
    assert!(!is_mounted(&mnt));
}

fn directories_in_the_wrong_order() {
    let place = Place::new();
    let (lower, mnt) = (place.path("lower"), place.path("mnt"));
    let called = idshift(&[&"mount", &"-o", &"map=b:0:0:1000,ro", &mnt, &lower]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(called.err.contains("comes first"), "{}", called.err);
    free(&lower);
    let called = place.mount("map=b:0:0:1000,ro");
    assert!(called.code == 0 && called.err.is_empty(), "{}", called.err);
}

fn busy_mount_does_not_name_the_command_itself() {
    let place = Place::new();
    let mnt = place.path("mnt");
    assert_eq!(place.mount("map=b:0:0:1000,ro").code, 0);
    let output = Command::new(&common::machine().binary)
        .arg("umount")
        .arg(&mnt)
        .current_dir(&mnt)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(32), "{said}");
    assert!(said.contains("is busy") && !said.contains("(idshift)"), "{said}");
}

fn unmount_is_understood() {
    let place = Place::new();
    assert_eq!(place.mount("map=b:0:0:1000").code, 0);
    let called = idshift(&[&"unmount", &place.path("mnt")]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(!is_mounted(&place.path("mnt")));
}

fn demo_says_nothing_besides_its_story() {
    drop(Place::new());
    let called = idshift(&[&"demo"]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert_eq!(called.err, "");
    assert!(called.out.contains("All steps went as they should"), "{}", called.out);
}

/// What `idshift probe` says of the kernel's idmapped mount is what a mount then meets.
fn probe_and_backend_agree() {
    needs_real_root("the kernel's idmapped mount");
    let place = Place::new();
    let called = idshift(&[&"probe", &place.path("lower")]);
    let row = called.out.lines().find(|line| line.contains("kernel idmapped mount")).unwrap();
    let says = row.split_whitespace().nth(3).unwrap();
    let mounted = place.mount("map=b:0:100000:65536,backend=kernel").code == 0;
    assert_eq!(says, if mounted { "yes" } else { "no" }, "{}", called.out);
    // One that cannot have it: no file system in /proc has idmapped mounts.
    let called = idshift(&[&"probe", &"/proc/self"]);
    let row = called.out.lines().find(|line| line.contains("kernel idmapped mount")).unwrap();
    assert_eq!(row.split_whitespace().nth(3), Some("no"), "{row}");
    assert!(!fs::exists(place.path("mnt/none")).unwrap());
}

/// The block of commands under "A first mount" does what its comments say.
fn first_mount_of_the_readme() {
    needs_real_root("it is for root");
    needs_program("setpriv");
    let place = Place::new();
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("## A first mount").unwrap();
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    let (commands, _) = rest.split_once("```").unwrap();
    let (dir, program) = (place.dir.path(), &common::machine().binary);
    let bin = place.path("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(program, bin.join("idshift")).unwrap();
    let mut said = Vec::new();
    for command in commands.lines() {
        // Elsewhere than in /tmp, and without what the comment says is refused.
        let here = command.replace("/tmp/", &format!("{}/", dir.display()));
        let mut shell = Command::new("sh");
        shell.args(["-c", &here]).env("LC_ALL", "C").stdin(Stdio::null());
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        let output = shell.env("PATH", path).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match command.split_once("refused: \"").and_then(|(_, rest)| rest.split_once('"')) {
            Some((message, _)) => assert!(text.contains(message), "{command}: {text}"),
            None => assert!(output.status.success(), "{command}: {text}"),
        }
        said.push(text);
    }
    assert!(!is_mounted(&dir.join("shown")));
    let listings: Vec<_> = said.iter().filter(|text| text.contains("total")).collect();
    assert!(listings[0].contains(" 0      0 6") || listings[0].contains(" 0 0 6"), "{said:?}");
    assert!(listings[0].contains("100000 100000 6"), "{said:?}");
    assert!(listings[1].contains(" new") && !listings[1].contains("100000"), "{said:?}");
}
