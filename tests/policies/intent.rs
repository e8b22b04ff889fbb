//! Whose a tree is, said in words: `creators=`, `chown=`, `owned-by=`.

use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::program::{call, idshift};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    self, BASE, Caller, Errno, MAP, Mount, OFlags, UNMAPPED, assert_errno, chown, create, exists,
    lo, mkdir, mode, open, owner, put_dir, put_file, set_mode, set_xattr, stat,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, rename};

crate::common::tests!(
    callers_outside_the_map_make_files_of_the_squash_id,
    squashed_callers_need_the_rights_that_they_have,
    squashed_callers_make_no_programs_and_no_devices,
    changes_of_owner_to_outside_are_ignored,
    ignored_changes_of_owner_leave_no_set_id_programs,
    tools_end_well_where_changes_are_ignored,
    owned_by_shows_and_stores_one_owner,
    owned_by_gives_no_rights_to_others,
    owned_by_leaves_stored_owners_alone,
    owned_by_with_a_map,
    owned_by_of_others_is_refused,
);

const UID: u32 = 1000;
const GID: u32 = 1001;

fn mounted(options: &str, fill: impl FnOnce(&Path)) -> Mount {
    needs_idshift();
    Mount::with(options, fill)
}

fn squashing() -> Mount {
    mounted(&format!("{MAP},unmapped=squash:{UID}:{GID},creators=squash"), |_| ())
}

fn node(path: &Path, kind: FileType, device: (u32, u32)) -> rustix::io::Result<()> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), makedev(device.0, device.1))
}

fn callers_outside_the_map_make_files_of_the_squash_id() {
    needs_real_root("callers outside the map");
    let mount = squashing();
    let make_all = |name: &str| {
        drop(create(&mount.up(format!("{name}-file")), 0o640).unwrap());
        mkdir(&mount.up(format!("{name}-dir")), 0o750).unwrap();
        symlink("target", mount.up(format!("{name}-link"))).unwrap();
        node(&mount.up(format!("{name}-fifo")), FileType::Fifo, (0, 0)).unwrap();
        rename(mount.up(format!("{name}-fifo")), mount.up(format!("{name}-pipe"))).unwrap();
    };
    let all = ["file", "dir", "link", "pipe"];
    for (name, caller, stored) in [
        ("outside", Caller::user(UNMAPPED), (lo(UID), lo(GID))),
        ("half", Caller::user(7).gid(UNMAPPED), (lo(7), lo(GID))),
        ("inside", Caller::user(7).gid(8), (lo(7), lo(8))),
    ] {
        caller.run(|| make_all(name));
        for what in all {
            assert_eq!(owner(&mount.low(format!("{name}-{what}"))), stored, "{name} {what}");
        }
    }
    assert_eq!(mode(&mount.low("outside-file")), 0o640);
    let unnamed = Caller::user(UNMAPPED)
        .run(|| open(&mount.up("."), OFlags::RDWR | OFlags::TMPFILE, 0o600))
        .unwrap();
    assert_eq!(rustix::fs::fstat(&unnamed).unwrap().st_uid, UID);
}

fn squashed_callers_need_the_rights_that_they_have() {
    needs_real_root("callers outside the map");
    let fill = |lower: &Path| {
        put_dir(&lower.join("squash"), 0o755, lo(UID), lo(GID));
        put_dir(&lower.join("member"), 0o775, lo(0), lo(GID));
        put_file(&lower.join("file"), b"", 0o644, lo(UID), lo(GID));
    };
    let options = format!("{MAP},unmapped=squash:{UID}:{GID},creators=squash");
    let mount = mounted(&options, fill);
    Caller::user(UNMAPPED).run(|| {
        for dir in ["squash", "member"] {
            let made = create(&mount.up(dir).join("x"), 0o644);
            assert_errno!(made, Errno::ACCESS);
        }
        assert_errno!(open(&mount.up("file"), OFlags::WRONLY, 0), Errno::ACCESS);
        assert_errno!(set_mode(&mount.up("file"), 0o666), Errno::PERM);
        // What they made is the squash id's, not theirs.
        drop(create(&mount.up("made"), 0o644).unwrap());
        assert_errno!(open(&mount.up("made"), OFlags::WRONLY, 0), Errno::ACCESS);
        assert_errno!(set_mode(&mount.up("made"), 0o666), Errno::PERM);
    });
    Caller::user(UID).run(|| set_mode(&mount.up("made"), 0o600)).unwrap();
}

fn squashed_callers_make_no_programs_and_no_devices() {
    needs_real_root("callers outside the map");
    // Root of the machine is outside of this map.
    let options = format!("map=b:{}:1000:10,unmapped=squash:{UID}:{GID},creators=squash", lo(1000));
    let mount = mounted(&options, |lower| set_mode(lower, 0o777).unwrap());
    for bits in [0o4755, 0o2755, 0o6711] {
        assert_errno!(create(&mount.up("program"), bits), Errno::PERM);
        let flags = OFlags::RDWR | OFlags::TMPFILE;
        assert_errno!(open(&mount.up("."), flags, bits), Errno::PERM);
    }
    for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
        assert_errno!(node(&mount.up("device"), kind, (1, 3)), Errno::PERM);
    }
    assert!(!exists(&mount.low("program")) && !exists(&mount.low("device")));
    node(&mount.up("whiteout"), FileType::CharacterDevice, (0, 0)).unwrap();
    assert_eq!(owner(&mount.low("whiteout")), (lo(UID), lo(GID)));
    assert!(mount.low("whiteout").symlink_metadata().unwrap().file_type().is_char_device());
    drop(create(&mount.up("plain"), 0o1755).unwrap());
    assert_eq!(owner(&mount.low("plain")), (lo(UID), lo(GID)));
}

fn changes_of_owner_to_outside_are_ignored() {
    let fill = |lower: &Path| {
        put_file(&lower.join("file"), b"", 0o644, lo(UID), lo(GID));
        put_file(&lower.join("other"), b"", 0o644, lo(7), lo(7));
    };
    let mount = mounted(&format!("{MAP},chown=ignore"), fill);
    for (uid, gid, now) in [
        (Some(UNMAPPED), None, (UID, GID)),
        (None, Some(UNMAPPED), (UID, GID)),
        (Some(UNMAPPED), Some(UNMAPPED), (UID, GID)),
        (Some(5), Some(UNMAPPED), (5, GID)),
        (Some(UNMAPPED), Some(6), (5, 6)),
        (Some(UID), Some(GID), (UID, GID)),
    ] {
        match chown(&mount.up("file"), uid, gid) {
            // In a user namespace its ids are judged before anybody is asked.
            Err(Errno::INVAL) if !common::machine().real_root => return,
            done => done.unwrap(),
        }
        assert_eq!(owner(&mount.up("file")), now);
        assert_eq!(owner(&mount.low("file")), (lo(now.0), lo(now.1)));
    }
    // Who may not give a file away, may not here either.
    Caller::user(UID).run(|| {
        assert_errno!(chown(&mount.up("other"), Some(UNMAPPED), None), Errno::PERM);
        assert_errno!(chown(&mount.up("file"), Some(UNMAPPED), None), Errno::PERM);
        assert_errno!(chown(&mount.up("file"), None, Some(UNMAPPED)), Errno::PERM);
    });
    // Without the option nothing is ignored.
    let mount = mounted(MAP, |lower| put_file(&lower.join("file"), b"", 0o644, lo(UID), lo(GID)));
    assert_errno!(chown(&mount.up("file"), Some(UNMAPPED), None), Errno::OVERFLOW);
}

fn ignored_changes_of_owner_leave_no_set_id_programs() {
    needs_real_root("capabilities and ids outside the map");
    let fill = |lower: &Path| {
        put_file(&lower.join("program"), b"x", 0o4755, lo(UID), lo(GID));
        put_file(&lower.join("plain"), b"x", 0o755, lo(UID), lo(GID));
    };
    let mount = mounted(&format!("{MAP},chown=ignore"), fill);
    chown(&mount.up("program"), Some(UNMAPPED), None).unwrap();
    assert_eq!(mode(&mount.low("program")), 0o755, "the bit goes as by any chown");
    // The archive said that the program was to be somebody else's.
    for bits in [0o4755, 0o2755] {
        assert_errno!(set_mode(&mount.up("program"), bits), Errno::PERM);
        assert_errno!(set_mode(&mount.up("plain"), bits), Errno::PERM);
        assert_errno!(create(&mount.up("new"), bits), Errno::PERM);
    }
    let capability = [1_u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_errno!(set_xattr(&mount.up("plain"), "security.capability", &capability), Errno::PERM);
}

fn tools_end_well_where_changes_are_ignored() {
    needs_real_root("ids outside the map");
    let mount = mounted(&format!("{MAP},chown=ignore"), |_| ());
    let source = mount.beside().join("source");
    put_dir(&source, 0o755, 0, 0);
    put_file(&source.join("a"), b"a", 0o644, UNMAPPED, UNMAPPED);
    put_file(&source.join("b"), b"b", 0o640, 5, UNMAPPED);
    let archive = mount.beside().join("archive");
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        needs_program(program);
        let mut command = Command::new(program);
        command.args(arguments);
        let called = call(command);
        assert_eq!(called.code, 0, "{program}: {}", called.err);
    };
    let (up, from) = (mount.up(""), source.clone().into_os_string());
    run("cp", &["-a".as_ref(), &from, mount.up("copy").as_ref()]);
    run("tar", &["cf".as_ref(), archive.as_ref(), "-C".as_ref(), &from, ".".as_ref()]);
    run("tar", &["xpf".as_ref(), archive.as_ref(), "-C".as_ref(), up.as_ref()]);
    for path in ["copy/a", "a"] {
        assert_eq!(owner(&mount.low(path)), (lo(0), lo(0)), "{path} is whose it was made");
    }
    assert_eq!(owner(&mount.low("copy/b")).0, lo(5), "ids inside the map are set");
}

/// The lower directory is user and group BASE's.
fn owned_by(fill: impl FnOnce(&Path)) -> Mount {
    needs_real_root("ids outside the map");
    mounted(&format!("owned-by={UID}:{GID}"), fill)
}

fn owned_by_shows_and_stores_one_owner() {
    let mount = owned_by(|lower| {
        put_file(&lower.join("own"), b"x", 0o644, BASE, BASE);
        put_file(&lower.join("roots"), b"x", 0o600, 0, 0);
        put_file(&lower.join("mixed"), b"x", 0o640, 33, BASE);
        put_dir(&lower.join("dir"), 0o700, 12_345, 99);
        put_file(&lower.join("program"), b"x", 0o6755, 0, 0);
    });
    for name in ["", "own", "roots", "mixed", "dir"] {
        assert_eq!(owner(&mount.up(name)), (UID, GID), "{name:?}");
    }
    assert_eq!(mode(&mount.up("program")), 0o755, "no program of others is set-user-ID");
    let callers =
        [Caller::user(UID).gid(GID), Caller::user(UID), Caller::user(0), Caller::user(UNMAPPED)];
    for (number, caller) in callers.into_iter().enumerate() {
        let (file, dir) = (format!("file{number}"), format!("dir{number}"));
        caller.run(|| {
            drop(create(&mount.up(&file), 0o644).unwrap());
            mkdir(&mount.up(&dir), 0o755).unwrap();
        });
        for made in [file, dir] {
            assert_eq!(owner(&mount.low(&made)), (BASE, BASE), "{made}");
            assert_eq!(owner(&mount.up(&made)), (UID, GID), "{made}");
        }
    }
    // Everything is UID's: to read, write, change and remove.
    Caller::user(UID).run(|| {
        std::fs::write(mount.up("roots"), "y").unwrap();
        drop(create(&mount.up("dir/new"), 0o644).unwrap());
        set_mode(&mount.up("mixed"), 0o600).unwrap();
        std::fs::remove_file(mount.up("mixed")).unwrap();
    });
    assert_eq!(owner(&mount.low("dir/new")), (BASE, BASE));
    assert_eq!(owner(&mount.low("roots")), (0, 0), "what was there stays whose it is");
}

fn owned_by_gives_no_rights_to_others() {
    let mount = owned_by(|lower| {
        set_mode(lower, 0o755).unwrap();
        put_file(&lower.join("secret"), b"x", 0o600, 7, 7);
        put_file(&lower.join("shared"), b"x", 0o640, 0, 0);
        put_file(&lower.join("plain"), b"x", 0o755, BASE, BASE);
    });
    // 7 owns the stored file, and is nobody here.
    Caller::user(7).run(|| {
        assert_errno!(open(&mount.up("secret"), OFlags::RDONLY, 0), Errno::ACCESS);
        assert_errno!(create(&mount.up("new"), 0o644), Errno::ACCESS);
        assert_errno!(set_mode(&mount.up("secret"), 0o666), Errno::PERM);
        assert_errno!(chown(&mount.up("secret"), Some(7), None), Errno::PERM);
    });
    Caller::user(8).gid(GID).run(|| {
        drop(open(&mount.up("shared"), OFlags::RDONLY, 0).unwrap());
        assert_errno!(open(&mount.up("shared"), OFlags::WRONLY, 0), Errno::ACCESS);
    });
    for caller in [Caller::user(UID).gid(GID), Caller::user(0)] {
        caller.run(|| assert_errno!(set_mode(&mount.up("plain"), 0o4755), Errno::PERM));
    }
    assert_errno!(node(&mount.up("null"), FileType::CharacterDevice, (1, 3)), Errno::PERM);
    let options = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = mount.up("").to_string_lossy().trim_end_matches('/').to_owned();
    let line = options.lines().find(|line| line.split(' ').nth(4) == Some(&here)).unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
}

fn owned_by_leaves_stored_owners_alone() {
    let mount = owned_by(|lower| put_file(&lower.join("file"), b"x", 0o644, 33, 44));
    for (uid, gid) in [(UID, GID), (0, 0), (33, 44), (UNMAPPED, UID), (BASE, BASE)] {
        chown(&mount.up("file"), Some(uid), Some(gid)).unwrap();
        assert_eq!(owner(&mount.low("file")), (33, 44), "chown to {uid}:{gid}");
        assert_eq!(owner(&mount.up("file")), (UID, GID));
    }
    assert_eq!(stat(&mount.up("file")).st_mode & 0o777, 0o644);
}

/// Ids that a map names are shown and stored by it, and only the others are UID's.
fn owned_by_with_a_map() {
    needs_real_root("ids outside the map");
    let options = format!("map=b:{}:7:1,owned-by={UID}:{GID}", lo(7));
    let mount = mounted(&options, |lower| {
        put_file(&lower.join("sevens"), b"", 0o644, lo(7), lo(7));
        put_file(&lower.join("nines"), b"", 0o644, lo(9), lo(9));
    });
    assert_eq!(owner(&mount.up("sevens")), (7, 7));
    assert_eq!(owner(&mount.up("nines")), (UID, GID));
    Caller::user(7).run(|| create(&mount.up("new"), 0o644)).unwrap();
    assert_eq!(owner(&mount.low("new")), (lo(7), lo(7)));
    chown(&mount.up("new"), Some(UID), None).unwrap();
    assert_eq!(owner(&mount.low("new")), (BASE, lo(7)), "inside the map nothing is ignored");
}

/// Consent: an ordinary user maps no owner but the own ids.
fn owned_by_of_others_is_refused() {
    needs_real_root("to be an ordinary user");
    needs_idshift();
    needs_program("fusermount3");
    let place = Mount::with(MAP, |_| ());
    let (lower, point) = (place.beside().join("roots"), place.beside().join("point"));
    put_dir(&lower, 0o755, 0, 0);
    put_dir(&point, 0o755, 4321, 4321);
    let asked =
        Caller::user(4321).run(|| idshift(&[&"mount", &"-o", &"owned-by=4321", &lower, &point]));
    assert_eq!(asked.code, 1, "{}", asked.err);
    for part in ["owned-by=4321", "stored uid 0", "/etc/subuid"] {
        assert!(asked.err.contains(part), "{}", asked.err);
    }
}
