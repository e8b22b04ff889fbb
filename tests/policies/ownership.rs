//! `ownership=xattr`: owners kept in attributes of files that are all the server's own.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::mount::{free, is_mounted, temp_dir};
use crate::common::program::{copy_program, idshift};
use crate::common::runner::{needs_idshift, needs_program};
use crate::common::{
    self, CWD, Caller, Errno, Mode, Mount, OFlags, assert_errno, chown, create, get_xattr,
    list_xattr, machine, mkdir, mode, open, owner, put_dir, put_file, raw, set_mode, set_xattr,
    stat,
};
use rustix::fs::{FileType, mknodat};

crate::common::tests!(
    everything_below_is_the_servers,
    what_is_stored_is_what_the_tools_store,
    what_the_tools_stored_is_shown,
    links_and_nodes_are_files_below,
    device_nodes,
    changes_stay,
    rights_follow_the_attribute,
    set_gid_directories_are_inherited,
    set_id_bits_go_as_natively,
    set_user_id_program_runs_inside,
    policies_look_at_the_attribute,
    two_labels_show_two_owners,
    attributes_cannot_be_forged,
    files_without_an_attribute,
    forged_attributes_do_not_count_while_files_change_hands,
    broken_attributes_give_no_rights,
    acls_are_refused,
    listings_know_the_types,
    what_cannot_be_is_said_before,
    read_only_mounts_write_nothing,
    nobody_is_warned_of_programs_below,
);

const ATTRIBUTE: &str = "user.containers.override_stat";
/// The attributes' ids are shown as they are.
const OPTIONS: &str = "map=b:0:0:60000,ownership=xattr,cache=none";

fn empty() -> Mount {
    with(OPTIONS, |_| ())
}

/// A mount whose lower directory belongs to whoever serves it.
fn with(options: &str, fill: impl FnOnce(&Path)) -> Mount {
    needs_idshift();
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o755, 0, 0);
    fill(&lower);
    let mount = Mount::of(dir, lower, options);
    set_mode(&mount.up(""), 0o777).unwrap();
    mount
}

fn attribute(path: &Path) -> String {
    String::from_utf8(get_xattr(path, ATTRIBUTE).unwrap()).unwrap()
}

fn label(path: &Path, value: &str) {
    set_xattr(path, ATTRIBUTE, value.as_bytes()).unwrap();
}

fn everything_below_is_the_servers() {
    let mount = empty();
    Caller::user(1000).gid(100).run(|| {
        create(&mount.up("file"), 0o640).unwrap();
        mkdir(&mount.up("dir"), 0o750).unwrap();
        symlink("target", mount.up("link")).unwrap();
        mknodat(CWD, mount.up("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        mknodat(CWD, mount.up("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::write(mount.up("dir/inner"), "content").unwrap();
    });
    chown(&mount.up("file"), Some(7), Some(8)).unwrap();
    set_mode(&mount.up("file"), 0o4711).unwrap();
    assert_eq!((owner(&mount.up("file")), mode(&mount.up("file"))), ((7, 8), 0o4711));
    for name in ["dir", "link", "pipe", "socket", "dir/inner"] {
        assert_eq!(owner(&mount.up(name)), (1000, 100), "{name}");
    }
    assert_eq!(mode(&mount.up("dir")), 0o750);
    for name in ["", "file", "dir", "link", "pipe", "socket", "dir/inner"] {
        let below = stat(&mount.low(name));
        assert_eq!((below.st_uid, below.st_gid), (0, 0), "{name}");
        assert_eq!(below.st_mode & 0o7022, 0, "{name} is nobody else's");
    }
    assert_eq!(fs::read(mount.low("dir/inner")).unwrap(), b"content");
}

/// The values, character by character, as containers/storage writes them.
fn what_is_stored_is_what_the_tools_store() {
    let mount = empty();
    Caller::user(1000).gid(100).umask(0o022).run(|| {
        create(&mount.up("file"), 0o666).unwrap();
        mkdir(&mount.up("dir"), 0o777).unwrap();
        symlink("target", mount.up("link")).unwrap();
        mknodat(CWD, mount.up("pipe"), FileType::Fifo, Mode::from_raw_mode(0o660), 0).unwrap();
        mknodat(CWD, mount.up("socket"), FileType::Socket, Mode::from_raw_mode(0o777), 0).unwrap();
    });
    assert_eq!(attribute(&mount.low("")), "0:0:0777:dir");
    for (name, value) in [
        ("file", "1000:100:0644:file"),
        ("dir", "1000:100:0755:dir"),
        ("link", "1000:100:0777:symlink"),
        ("pipe", "1000:100:0640:pipe"),
        ("socket", "1000:100:0755:socket"),
    ] {
        assert_eq!(attribute(&mount.low(name)), value);
    }
    set_mode(&mount.up("file"), 0o4755).unwrap();
    assert_eq!(attribute(&mount.low("file")), "1000:100:4755:file");
    chown(&mount.up("link"), Some(5), Some(6)).unwrap();
    assert_eq!(attribute(&mount.low("link")), "5:6:0777:symlink");
    assert_eq!(owner(&mount.up("link")), (5, 6));
}

fn what_the_tools_stored_is_shown() {
    let mount = with(OPTIONS, |lower| {
        let file = |name: &str, content: &str, value: &str| {
            put_file(&lower.join(name), content.as_bytes(), 0o700, 0, 0);
            label(&lower.join(name), value);
        };
        label(lower, "0:0:0755:dir");
        file("shadow", "secret", "0:42:0640:file");
        file("su", "program", "0:0:4755:file");
        file("overlay", "without a type", "33:33:640");
        file("later", "of a later version", "33:33:0640:file:more");
        file("link", "shadow", "0:0:0777:symlink");
        file("null", "", "0:0:0666:char-1-3");
        file("disk", "", "0:6:0660:block-8-1");
        file("wide", "", "0:6:0660:block-259-1000");
        file("pipe", "", "0:0:0600:pipe");
        file("socket", "", "0:0:0600:socket");
        put_dir(&lower.join("tmp"), 0o700, 0, 0);
        label(&lower.join("tmp"), "0:0:1777:dir");
    });
    let seen = |name: &str| {
        let stat = stat(&mount.up(name));
        let kind = FileType::from_raw_mode(stat.st_mode);
        (kind, stat.st_uid, stat.st_gid, stat.st_mode & 0o7777, stat.st_rdev)
    };
    let device = rustix::fs::makedev;
    assert_eq!(seen("shadow"), (FileType::RegularFile, 0, 42, 0o640, 0));
    assert_eq!(seen("su"), (FileType::RegularFile, 0, 0, 0o4755, 0));
    assert_eq!(seen("overlay"), (FileType::RegularFile, 33, 33, 0o640, 0));
    assert_eq!(seen("later"), (FileType::RegularFile, 33, 33, 0o640, 0));
    assert_eq!(seen("link"), (FileType::Symlink, 0, 0, 0o777, 0));
    assert_eq!(seen("null"), (FileType::CharacterDevice, 0, 0, 0o666, device(1, 3)));
    assert_eq!(seen("disk"), (FileType::BlockDevice, 0, 6, 0o660, device(8, 1)));
    assert_eq!(seen("wide"), (FileType::BlockDevice, 0, 6, 0o660, device(259, 1000)));
    assert_eq!(seen("pipe"), (FileType::Fifo, 0, 0, 0o600, 0));
    assert_eq!(seen("socket"), (FileType::Socket, 0, 0, 0o600, 0));
    assert_eq!(seen("tmp"), (FileType::Directory, 0, 0, 0o1777, 0));
    assert_eq!(fs::read_link(mount.up("link")).unwrap(), Path::new("shadow"));
    assert_eq!(fs::read(mount.up("link")).unwrap(), b"secret", "the kernel follows it");
}

fn links_and_nodes_are_files_below() {
    let mount = empty();
    let long = "d/".repeat(2000);
    symlink(&long, mount.up("long")).unwrap();
    assert_eq!(fs::read_link(mount.up("long")).unwrap(), Path::new(&long));
    assert_eq!(stat(&mount.up("long")).st_size, 4000);
    assert_eq!(fs::read_to_string(mount.low("long")).unwrap(), long);
    mknodat(CWD, mount.up("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let through = mount.up("pipe");
    let reader = std::thread::spawn(move || fs::read(through).unwrap());
    fs::write(mount.up("pipe"), "through the fifo").unwrap();
    assert_eq!(reader.join().unwrap(), b"through the fifo");
    assert_eq!(fs::metadata(mount.low("pipe")).unwrap().len(), 0);
    let listener = std::os::unix::net::UnixListener::bind(mount.up("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(mount.up("socket")).unwrap();
    drop(listener);
    fs::hard_link(mount.up("pipe"), mount.up("pipe2")).unwrap();
    assert_eq!(stat(&mount.up("pipe")).st_nlink, 2);
    for name in ["long", "pipe", "pipe2", "socket"] {
        assert!(fs::symlink_metadata(mount.low(name)).unwrap().is_file(), "{name}");
        fs::rename(mount.up(name), mount.up("moved")).unwrap();
        fs::remove_file(mount.up("moved")).unwrap();
    }
    assert_eq!(fs::read_dir(mount.low("")).unwrap().count(), 0);
}

fn device_nodes() {
    let mount = empty();
    let device = rustix::fs::makedev(1, 3);
    let node = mount.up("null");
    let made = raw::mknod(&node, 0o020_666, device);
    if !machine().real_root {
        assert_errno!(made, Errno::PERM);
        common::skip("needs real root: the kernel asks for CAP_MKNOD before the mount is asked");
    }
    made.unwrap();
    assert!(fs::metadata(mount.low("null")).unwrap().is_file());
    assert_eq!(attribute(&mount.low("null")), "0:0:0644:char-1-3");
    assert_eq!(stat(&node).st_rdev, device);
    fs::write(&node, "into the device").unwrap();
    assert_eq!(fs::metadata(mount.low("null")).unwrap().len(), 0);
    assert!(fs::metadata(&node).unwrap().file_type().is_char_device());
}

fn changes_stay() {
    let (dir, lower);
    {
        let mount = empty();
        fs::write(mount.up("file"), "x").unwrap();
        chown(&mount.up("file"), Some(12), Some(34)).unwrap();
        set_mode(&mount.up("file"), 0o2640).unwrap();
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 },
            last_modification: rustix::fs::Timespec { tv_sec: 7, tv_nsec: 8 },
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        symlink("x", mount.up("link")).unwrap();
        rustix::fs::utimensat(CWD, mount.up("link"), &times, flags).unwrap();
        dir = temp_dir();
        lower = dir.path().join("kept");
        fs::rename(mount.low(""), &lower).unwrap();
    }
    let mount = Mount::of(dir, lower, OPTIONS);
    assert_eq!((owner(&mount.up("file")), mode(&mount.up("file"))), ((12, 34), 0o2640));
    let link = stat(&mount.up("link"));
    assert_eq!((link.st_mtime, link.st_mtime_nsec), (7, 8));
}

fn rights_follow_the_attribute() {
    let mount = empty();
    fs::write(mount.up("private"), "secret").unwrap();
    chown(&mount.up("private"), Some(1000), Some(1000)).unwrap();
    set_mode(&mount.up("private"), 0o600).unwrap();
    let read =
        |caller: Caller| caller.run(|| fs::read(mount.up("private")).map_err(|it| it.kind()));
    let write =
        |caller: Caller| caller.run(|| open(&mount.up("private"), OFlags::WRONLY, 0).map(drop));
    assert_eq!(read(Caller::user(1000)).unwrap(), b"secret");
    assert!(read(Caller::user(1001)).is_err());
    assert_errno!(write(Caller::user(1001)), Errno::ACCESS);
    set_mode(&mount.up("private"), 0o640).unwrap();
    assert_eq!(read(Caller::user(1001).groups(&[1000])).unwrap(), b"secret");
    assert_errno!(write(Caller::user(1001).groups(&[1000])), Errno::ACCESS);
    Caller::user(1001).run(|| {
        assert_errno!(set_mode(&mount.up("private"), 0o777), Errno::PERM);
        assert_errno!(chown(&mount.up("private"), Some(1001), None), Errno::PERM);
    });
    Caller::user(1000).groups(&[50]).run(|| {
        assert_errno!(chown(&mount.up("private"), Some(1001), None), Errno::PERM);
        chown(&mount.up("private"), None, Some(50)).unwrap();
        assert_errno!(chown(&mount.up("private"), None, Some(51)), Errno::PERM);
    });
    assert_eq!(owner(&mount.up("private")), (1000, 50));
    // An id without a number in the map can neither own nor make anything.
    assert_errno!(chown(&mount.up("private"), Some(60_000), None), Errno::OVERFLOW);
    Caller::user(60_001).run(|| {
        assert_errno!(create(&mount.up("new"), 0o600), Errno::OVERFLOW);
        assert_errno!(mkdir(&mount.up("new"), 0o700), Errno::OVERFLOW);
    });
    assert!(!mount.low("new").exists());
}

fn set_gid_directories_are_inherited() {
    let mount = empty();
    mkdir(&mount.up("dir"), 0o777).unwrap();
    chown(&mount.up("dir"), Some(5), Some(50)).unwrap();
    set_mode(&mount.up("dir"), 0o2777).unwrap();
    Caller::user(1000).run(|| {
        create(&mount.up("dir/file"), 0o664).unwrap();
        mkdir(&mount.up("dir/dir"), 0o755).unwrap();
        symlink("x", mount.up("dir/link")).unwrap();
        create(&mount.up("dir/sgid"), 0o2775).unwrap();
    });
    assert_eq!(owner(&mount.up("dir/file")), (1000, 50));
    assert_eq!(owner(&mount.up("dir/link")), (1000, 50));
    assert_eq!((owner(&mount.up("dir/dir")), mode(&mount.up("dir/dir"))), ((1000, 50), 0o2755));
    assert_eq!(mode(&mount.up("dir/sgid")), 0o775, "not a member of the group");
}

fn set_id_bits_go_as_natively() {
    let mount = empty();
    let native = mount.beside().join("native");
    put_dir(&native, 0o777, 0, 0);
    let outcomes = |dir: &Path| -> Vec<String> {
        let file = dir.join("file");
        let mut seen = Vec::new();
        for bits in [0o6777, 0o6767, 0o4777, 0o2777, 0o2767] {
            for caller in
                [Caller::user(0), Caller::user(7), Caller::user(9), Caller::user(9).groups(&[7])]
            {
                for action in ["write", "truncate", "open", "chown", "chgrp", "append"] {
                    fs::write(&file, "content").unwrap();
                    chown(&file, Some(7), Some(7)).unwrap();
                    set_mode(&file, bits).unwrap();
                    let result = caller.run(|| match action {
                        "write" => open(&file, OFlags::WRONLY, 0)
                            .and_then(|fd| rustix::io::write(&fd, b"x").map(drop)),
                        "append" => open(&file, OFlags::WRONLY | OFlags::APPEND, 0)
                            .and_then(|fd| rustix::io::write(&fd, b"x").map(drop)),
                        "truncate" => open(&file, OFlags::WRONLY, 0)
                            .and_then(|fd| rustix::fs::ftruncate(&fd, 3)),
                        "open" => open(&file, OFlags::WRONLY | OFlags::TRUNC, 0).map(drop),
                        "chown" => chown(&file, Some(8), None),
                        _ => chown(&file, None, Some(7)),
                    });
                    let after = mode(&file);
                    seen.push(format!("{bits:o} {caller:?} {action}: {result:?} {after:o}"));
                    fs::remove_file(&file).unwrap();
                }
            }
        }
        seen
    };
    for (ours, theirs) in outcomes(&mount.up("")).iter().zip(outcomes(&native)) {
        assert_eq!(*ours, theirs);
    }
}

fn set_user_id_program_runs_inside() {
    needs_program("id");
    let mount = with(OPTIONS, |lower| {
        copy_program("/usr/bin/id", lower.join("id"));
        set_mode(&lower.join("id"), 0o700).unwrap();
        label(&lower.join("id"), "5:5:4755:file");
    });
    let out = Caller::user(1000).run(|| Command::new(mount.up("id")).arg("-u").output()).unwrap();
    assert_eq!(out.stdout, b"5\n");
    assert_eq!(mode(&mount.low("id")), 0o700, "below it is nothing");
}

/// `deny_groups=` and `unmapped=restrict` cut the mode that the attribute says.
fn policies_look_at_the_attribute() {
    let options = "map=b:0:0:1000,ownership=xattr,cache=none,deny_groups=group,unmapped=restrict";
    let mount = with(options, |lower| {
        for (name, value) in [("club", "0:50:0604:file"), ("theirs", "5000:50:0754:file")] {
            put_file(&lower.join(name), b"x", 0o600, 0, 0);
            label(&lower.join(name), value);
        }
    });
    assert_eq!((owner(&mount.up("club")), mode(&mount.up("club"))), ((0, 50), 0o600));
    let theirs = &mount.up("theirs");
    assert_eq!((owner(theirs), mode(theirs)), ((65_534, 50), 0o444));
    assert_eq!(attribute(&mount.low("club")), "0:50:0604:file", "it is only shown so");
}

fn two_labels_show_two_owners() {
    let one = with("map=b:0:0:60000,ownership=xattr:web,cache=none", |lower| {
        put_file(&lower.join("both"), b"shared bytes", 0o600, 0, 0);
    });
    let other =
        Mount::of(temp_dir(), one.low(""), "map=b:0:0:60000,ownership=xattr:mail,cache=none");
    chown(&one.up("both"), Some(33), Some(33)).unwrap();
    set_mode(&one.up("both"), 0o644).unwrap();
    chown(&other.up("both"), Some(8), Some(12)).unwrap();
    set_mode(&other.up("both"), 0o600).unwrap();
    assert_eq!((owner(&one.up("both")), mode(&one.up("both"))), ((33, 33), 0o644));
    assert_eq!((owner(&other.up("both")), mode(&other.up("both"))), ((8, 12), 0o600));
    assert_eq!(fs::read(other.up("both")).unwrap(), fs::read(one.up("both")).unwrap());
    let below = list_xattr(&one.low("both")).unwrap();
    assert!(below.contains(&"user.idshift.web".into()), "{below:?}");
    assert!(below.contains(&"user.idshift.mail".into()), "{below:?}");
    // What one makes is root's for the other, and private, until it says otherwise.
    Caller::user(33).run(|| fs::write(one.up("webs"), "x").unwrap());
    assert_eq!((owner(&other.up("webs")), mode(&other.up("webs"))), ((0, 0), 0o600));
}

/// Nobody says through the mount who owns what, under any label, nor sees it said.
fn attributes_cannot_be_forged() {
    let mount = empty();
    fs::write(mount.up("file"), "x").unwrap();
    chown(&mount.up("file"), Some(1000), Some(1000)).unwrap();
    for caller in [Caller::user(0), Caller::user(1000)] {
        caller.run(|| {
            for name in [ATTRIBUTE, "user.idshift.web", "user.idshift."] {
                let forged = set_xattr(&mount.up("file"), name, b"0:0:4777:file");
                assert_errno!(forged, Errno::PERM);
                assert_errno!(get_xattr(&mount.up("file"), name), Errno::NODATA);
                let removed = rustix::fs::lremovexattr(mount.up("file"), name);
                assert_errno!(removed, Errno::PERM);
            }
            set_xattr(&mount.up("file"), "user.other", b"fine").unwrap();
            assert_eq!(list_xattr(&mount.up("file")).unwrap(), ["user.other"]);
        });
    }
    // Below, it counts on nothing that anybody else could have written to.
    let forge = |name: &str, mode: u32, uid: u32| {
        put_file(&mount.low(name), b"x", 0o600, 0, 0);
        label(&mount.low(name), "1000:1000:4755:file");
        chown(&mount.low(name), Some(uid), Some(uid)).unwrap();
        set_mode(&mount.low(name), mode).unwrap();
    };
    forge("group", 0o620, 0);
    forge("others", 0o602, 0);
    forge("foreign", 0o600, 77);
    forge("good", 0o644, 0);
    assert_eq!((owner(&mount.up("group")), mode(&mount.up("group"))), ((0, 0), 0o620));
    assert_eq!((owner(&mount.up("others")), mode(&mount.up("others"))), ((0, 0), 0o602));
    assert_eq!((owner(&mount.up("foreign")), mode(&mount.up("foreign"))), ((77, 77), 0o600));
    assert_eq!((owner(&mount.up("good")), mode(&mount.up("good"))), ((1000, 1000), 0o4755));
    // Once the mount says whose it is, it is the server's, and believed.
    chown(&mount.up("foreign"), Some(5), Some(5)).unwrap();
    assert_eq!(owner(&mount.up("foreign")), (5, 5));
    assert_eq!(owner(&mount.low("foreign")), (0, 0));
}

fn files_without_an_attribute() {
    let mount = with(OPTIONS, |lower| {
        put_file(&lower.join("mine"), b"x", 0o664, 0, 0);
        put_file(&lower.join("theirs"), b"x", 0o644, 77, 88);
        symlink("mine", lower.join("link")).unwrap();
    });
    assert_eq!((owner(&mount.up("mine")), mode(&mount.up("mine"))), ((0, 0), 0o664));
    assert_eq!(owner(&mount.up("theirs")), (77, 88), "the server is root");
    assert_eq!(fs::read_link(mount.up("link")).unwrap(), Path::new("mine"));
    assert_errno!(chown(&mount.up("link"), Some(5), None), Errno::PERM);
    chown(&mount.up("mine"), Some(5), Some(6)).unwrap();
    assert_eq!((owner(&mount.up("mine")), mode(&mount.up("mine"))), ((5, 6), 0o664));
    assert_eq!(attribute(&mount.low("mine")), "5:6:0664:file");
    assert_eq!(mode(&mount.low("mine")) & 0o022, 0, "nobody else can write the attribute");
}

/// The first change through the mount makes the file the server's. There must be no moment in
/// which it is that already and still has the attribute that its former owner has written.
fn forged_attributes_do_not_count_while_files_change_hands() {
    const FORGED: &str = "0:0:4755:file";
    const FILES: usize = 300;
    let mount = with(OPTIONS, |lower| {
        for number in 0..FILES {
            let path = lower.join(number.to_string());
            put_file(&path, b"x", 0o644, 1000, 1000);
            label(&path, FORGED);
        }
    });
    let now = AtomicUsize::new(0);
    let forged = || {
        let mut found = 0;
        loop {
            let number = now.load(Ordering::Relaxed);
            if number == FILES {
                return found;
            }
            let path = mount.low(number.to_string());
            let believed = || stat(&path).st_uid == 0 && attribute(&path) == FORGED;
            // The two are not looked at in one moment, but what is believed once stays so.
            found += usize::from(believed());
        }
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(forged);
        for number in 0..FILES {
            now.store(number, Ordering::Relaxed);
            let path = mount.up(number.to_string());
            Caller::user(1000).run(|| set_mode(&path, 0o600).unwrap());
        }
        now.store(FILES, Ordering::Relaxed);
        assert_eq!(watcher.join().unwrap(), 0, "moments in which a forged attribute counts");
    });
    assert_eq!(attribute(&mount.low("0")), "1000:1000:0600:file");
    assert_eq!(owner(&mount.low("0")), (0, 0));
}

fn broken_attributes_give_no_rights() {
    let mount = with(OPTIONS, |lower| {
        for (name, value) in [
            ("words", "root:root:755"),
            ("empty", ""),
            ("huge", "4294967296:0:755"),
            ("long", &"0".repeat(300)),
            ("device", "0:0:0666:char-5000-1"),
        ] {
            put_file(&lower.join(name), b"x", 0o600, 0, 0);
            label(&lower.join(name), value);
        }
    });
    for name in ["words", "empty", "huge", "long", "device"] {
        let seen = stat(&mount.up(name));
        assert_eq!((seen.st_uid, seen.st_gid), (65_534, 65_534), "{name}");
        assert_eq!(seen.st_mode, 0o100_000, "{name}");
        Caller::user(65_534).run(|| {
            assert_errno!(open(&mount.up(name), OFlags::RDONLY, 0), Errno::ACCESS);
        });
        assert_errno!(set_mode(&mount.up(name), 0o644), Errno::OVERFLOW);
    }
}

fn acls_are_refused() {
    let mount = empty();
    fs::write(mount.up("file"), "x").unwrap();
    let acl = common::acl(&[
        (common::USER_OBJ, 6, common::NO_ID),
        (common::USER, 4, 1000),
        (common::GROUP_OBJ, 4, common::NO_ID),
        (common::MASK, 4, common::NO_ID),
        (common::OTHER, 0, common::NO_ID),
    ]);
    let set = set_xattr(&mount.up("file"), common::ACL_ACCESS, &acl);
    assert_errno!(set, Errno::OPNOTSUPP);
    assert_eq!(get_xattr(&mount.low("file"), common::ACL_ACCESS), Err(Errno::NODATA));
}

fn listings_know_the_types() {
    let mount = empty();
    symlink("x", mount.up("link")).unwrap();
    mknodat(CWD, mount.up("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    mkdir(&mount.up("dir"), 0o700).unwrap();
    fs::write(mount.up("file"), "").unwrap();
    for _ in 0..2 {
        for entry in fs::read_dir(mount.up("")).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let name = entry.file_name().into_string().unwrap();
            match name.as_str() {
                "link" => assert!(kind.is_symlink()),
                "pipe" => assert!(kind.is_fifo()),
                "dir" => assert!(kind.is_dir()),
                _ => assert!(kind.is_file()),
            }
        }
    }
    let found = Command::new("find").arg(mount.up("")).args(["-type", "l"]).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap().lines().count(), 1);
}

fn what_cannot_be_is_said_before() {
    needs_idshift();
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, 0, 0);
    put_dir(&upper, 0o755, 0, 0);
    let refused = |lower: &Path, options: &str, code: i32, parts: &[&str]| {
        let options = format!("map=b:0:0:1000,{options}");
        let called = idshift(&[&"mount", &"-o", &options, &lower, &upper]);
        assert_eq!(called.code, code, "{options}: {}", called.err);
        for part in parts {
            assert!(called.err.contains(part), "{options}: {}", called.err);
        }
        assert!(!is_mounted(&upper), "{options}");
    };
    // A file system without attributes.
    let bare = dir.path().join("bare");
    put_dir(&bare, 0o755, 0, 0);
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("ramfs", &bare, "ramfs", flags, None).is_ok() {
        set_mode(&bare, 0o755).unwrap();
        let bare_path = bare.to_str().unwrap();
        refused(&bare, "ownership=xattr", 32, &["ownership=xattr", "user.*", bare_path]);
        refused(&bare, "ownership=xattr,ro", 32, &["ownership=xattr", "user.*"]);
        free(&bare);
    }
    refused(&lower, "ownership=inode", 1, &["ownership=inode", "xattr:LABEL"]);
    refused(&lower, "ownership=xattr:", 1, &["64 letters"]);
    refused(&lower, "ownership=xattr:a b", 1, &["64 letters"]);
    refused(&lower, "ownership=xattr,backend=kernel", 1, &["ownership=xattr"]);
    refused(&lower, "ownership=xattr,unmapped=squash:5", 1, &["unmapped=", "ownership=xattr"]);
    refused(&lower, "ownership=xattr,unmapped=deny", 1, &["unmapped=", "overflow and restrict"]);
    refused(&lower, "ownership=xattr,suid=deny", 1, &["suid=deny", "nosuid"]);
    refused(&lower, "ownership=xattr,suid=shadow", 1, &["suid=shadow", "attribute"]);
    set_mode(&lower, 0o775).unwrap();
    refused(&lower, "ownership=xattr", 32, &["0775", "chmod go-w"]);
    set_mode(&lower, 0o755).unwrap();
    chown(&lower, Some(5), Some(5)).unwrap();
    refused(&lower, "ownership=xattr", 32, &["must belong", "uid 0"]);
    assert_eq!(list_xattr(&lower).unwrap(), [""; 0]);
}

fn read_only_mounts_write_nothing() {
    needs_idshift();
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o755, 0, 0);
    put_file(&lower.join("file"), b"x", 0o600, 0, 0);
    label(&lower.join("file"), "5:6:0644:file");
    let mount = Mount::of(dir, lower, &format!("{OPTIONS},ro"));
    assert_eq!((owner(&mount.up("file")), mode(&mount.up("file"))), ((5, 6), 0o644));
    assert_errno!(get_xattr(&mount.low(""), ATTRIBUTE), Errno::NODATA);
}

/// Set-ID bits are never in the lower mode, so there is nothing to warn of.
fn nobody_is_warned_of_programs_below() {
    needs_idshift();
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, 0, 0);
    put_dir(&upper, 0o755, 0, 0);
    let said = |options: &str| {
        let options = format!("map=b:0:1000:10,{options}");
        let called = idshift(&[&"mount", &"-o", &options, &lower, &upper]);
        assert_eq!(called.code, 0, "{}", called.err);
        free(&upper);
        called.err
    };
    assert_eq!(said("ownership=xattr"), "");
    if !said("ownership=chown").contains("suid=") {
        common::skip("needs a temporary directory that is not nosuid");
    }
}
