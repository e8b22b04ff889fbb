//! `suid=`: what becomes of set-user-ID programs and file capabilities, inside the mount and on
//! the lower side.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::program::{copy_program, idshift};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{
    self, ACL_ACCESS, Caller, Errno, GROUP_OBJ, MAP, Mount, NO_ID, OFlags, OTHER, USER_OBJ, acl,
    assert_errno, chown, get_xattr, list_xattr, lo, mode, open, put_dir, put_file, set_mode,
    set_xattr, stat,
};
use rustix::fs::{AtFlags, CWD, Mode, chmod};

crate::common::tests!(
    attack_passes,
    attack_is_denied,
    attack_is_inert_in_the_shadow,
    root_of_the_mount_overwrites_a_program,
    append_only_files_are_appended_to,
    reading_asks_for_no_more,
    denied_in_every_way,
    denied_but_honoured,
    shadow_needs_root,
    shadow_needs_trusted_attributes,
    shadow_modes,
    shadow_of_new_files,
    shadow_goes_as_real_bits_go,
    shadow_stays_as_real_bits_stay,
    shadow_ends_with_a_write_below,
    shadow_capabilities,
    shadow_takes_real_bits_in,
    shadow_in_listings,
    shadow_is_not_to_be_touched,
    export_and_import,
    the_warning_at_mount_time,
);

const CAPABILITY: &str = "security.capability";
const KEPT: &str = "trusted.idshift.suid";

fn shadowed(fill: impl FnOnce(&Path)) -> Mount {
    needs_idshift();
    needs_real_root("trusted.* attributes");
    Mount::with(&format!("{MAP},suid=shadow"), fill)
}

/// The attack that Serge Hallyn warned of: upper 1000 makes a program set-user-ID through the mount,
/// and somebody else runs it. The uids with which it runs by the mount and by the lower path, or
/// the errno with which the mode is refused.
fn attack(mount: &Mount) -> Result<(String, String), Errno> {
    needs_program("id");
    let (up, low) = (mount.up("id"), mount.low("id"));
    Caller::user(1000).run(|| {
        // Written by another process: a fork elsewhere would keep it busy.
        assert!(
            Command::new("cp").args([Path::new("/usr/bin/id"), &up]).status().unwrap().success()
        );
        chmod(&up, Mode::from_raw_mode(0o4755))
    })?;
    let run = |program: &Path| {
        let out = Caller::user(7).run(|| Command::new(program).arg("-u").output()).unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    Ok((run(&up), run(&low)))
}

fn attack_passes() {
    let mount = Mount::with(&format!("{MAP},suid=pass"), |_| ());
    // This is what natively happens, and what the warning at mount time is about.
    assert_eq!(attack(&mount), Ok(("1000".into(), lo(1000).to_string())));
}

fn attack_is_denied() {
    needs_idshift();
    let mount = Mount::with(&format!("{MAP},suid=deny"), |_| ());
    assert_eq!(attack(&mount), Err(Errno::PERM));
    assert_eq!(mode(&mount.low("id")) & 0o6000, 0);
}

fn attack_is_inert_in_the_shadow() {
    let mount = shadowed(|_| ());
    assert_eq!(attack(&mount), Ok(("1000".into(), "7".into())));
    assert_eq!((mode(&mount.low("id")), mode(&mount.up("id"))), (0o755, 0o4755));
}

/// Root of a container needs no chmod where there is a set-user-ID program already: natively its
/// own writes leave the bit.
fn root_of_the_mount_overwrites_a_program() {
    needs_idshift();
    let policies: &[&str] =
        if common::machine().real_root { &["deny", "shadow"] } else { &["deny"] };
    for policy in policies {
        for io in ["passthrough", "cached", "cached,cache=exclusive"] {
            overwrite(&format!("{MAP},suid={policy},io={io}"));
        }
    }
}

fn overwrite(options: &str) {
    let mount = Mount::with(options, |lower| {
        for name in ["su", "cut", "emptied"] {
            put_file(&lower.join(name), b"program", 0o4755, lo(0), lo(0));
        }
    });
    assert_eq!(mode(&mount.up("su")), 0o4755);
    let fd = open(&mount.up("su"), OFlags::WRONLY, 0).unwrap();
    assert_eq!(mode(&mount.low("su")), 0o755, "{options}: gone before anything is written");
    rustix::io::pwrite(&fd, b"payload", 0).unwrap();
    common::raw::truncate(&mount.up("cut"), 1).unwrap();
    fs::write(mount.up("emptied"), "payload").unwrap();
    for name in ["su", "cut", "emptied"] {
        assert_eq!(mode(&mount.low(name)), 0o755, "{options}: {name}");
    }
}

/// What is opened for reading is opened for reading below: else a program that runs there could
/// not be read here, and one that is read here could not be run there.
fn reading_asks_for_no_more() {
    needs_idshift();
    for io in ["passthrough", "cached", "cached,cache=exclusive"] {
        let mount = Mount::with(&format!("{MAP},suid=deny,io={io}"), |lower| {
            copy_program("/bin/sleep", lower.join("program"));
        });
        let mut below = Command::new(mount.low("program")).arg("60").spawn().unwrap();
        let read = open(&mount.up("program"), OFlags::RDONLY, 0);
        let run = Command::new(mount.up("program")).arg("0").status();
        below.kill().unwrap();
        below.wait().unwrap();
        let read = read.unwrap_or_else(|errno| panic!("{io}: {errno} while it runs below"));
        assert!(run.unwrap_or_else(|error| panic!("{io}: {error}")).success());
        let run_below = Command::new(mount.low("program")).arg("0").status();
        assert!(run_below.unwrap_or_else(|error| panic!("{io}: {error}")).success());
        drop(read);
    }
}

/// Of such a file nothing can be taken away, and nothing needs to be.
fn append_only_files_are_appended_to() {
    needs_idshift();
    needs_real_root("append-only files");
    needs_program("chattr");
    for policy in ["deny", "shadow"] {
        let mount = Mount::with(&format!("{MAP},suid={policy}"), |lower| {
            put_file(&lower.join("log"), b"one\n", 0o666, lo(0), lo(0));
        });
        let chattr = |flag: &str| {
            let done = Command::new("chattr").arg(flag).arg(mount.low("log")).status().unwrap();
            done.success()
        };
        if !chattr("+a") {
            common::skip("needs a file system with append-only files");
        }
        let append = || {
            let fd = open(&mount.up("log"), OFlags::WRONLY | OFlags::APPEND, 0)?;
            rustix::io::write(&fd, b"two\n")
        };
        let appended = Caller::user(7).run(append);
        assert!(chattr("-a"));
        assert_eq!(appended, Ok(4), "{policy}");
        assert_eq!(fs::read(mount.low("log")).unwrap(), b"one\ntwo\n");
    }
}

fn denied_in_every_way() {
    needs_idshift();
    let mount = Mount::with(&format!("{MAP},suid=deny"), |lower| {
        put_file(&lower.join("file"), b"", 0o755, lo(1000), lo(1000));
    });
    let file = mount.up("file");
    for caller in [Caller::user(0), Caller::user(1000)] {
        caller.run(|| {
            for bits in [0o4755, 0o2755, 0o6755, 0o2644] {
                assert_eq!(chmod(&file, Mode::from_raw_mode(bits)), Err(Errno::PERM), "{bits:o}");
                let fd = open(&file, OFlags::RDONLY, 0).unwrap();
                let by_fd = rustix::fs::fchmod(&fd, Mode::from_raw_mode(bits));
                assert_eq!(by_fd, Err(Errno::PERM), "{bits:o}");
            }
            let new = mount.up("new");
            assert_errno!(common::create(&new, 0o4755), Errno::PERM);
            assert_errno!(common::raw::mknod(&new, 0o104_755, 0), Errno::PERM);
            assert_errno!(open(&mount.up(""), OFlags::TMPFILE | OFlags::RDWR, 0o4755), Errno::PERM);
        });
    }
    assert_errno!(set_xattr(&file, CAPABILITY, &net_raw()), Errno::PERM);
    assert_eq!(fs::read_dir(mount.low("")).unwrap().count(), 1);
    // Of a directory the bit says whose group new files get; and plain modes are as ever.
    common::mkdir(&mount.up("dir"), 0o755).unwrap();
    set_mode(&mount.up("dir"), 0o2775).unwrap();
    assert_eq!(mode(&mount.low("dir")), 0o2775);
    set_mode(&file, 0o1700).unwrap();
    assert_eq!(mode(&mount.low("file")), 0o1700);
}

fn denied_but_honoured() {
    needs_idshift();
    needs_program("id");
    let mount = Mount::with(&format!("{MAP},suid=deny"), |lower| {
        let copied = Command::new("cp").arg("/usr/bin/id").arg(lower.join("id")).status().unwrap();
        assert!(copied.success());
        chown(&lower.join("id"), Some(lo(5)), Some(lo(5))).unwrap();
        set_mode(&lower.join("id"), 0o4755).unwrap();
    });
    let out = Caller::user(7).run(|| Command::new(mount.up("id")).arg("-u").output()).unwrap();
    assert_eq!(out.stdout, b"5\n");
    set_mode(&mount.up("id"), 0o755).unwrap();
    assert_eq!(mode(&mount.low("id")), 0o755, "taking a bit away is nobody's harm");
}

fn shadow_needs_root() {
    needs_idshift();
    if common::machine().real_root {
        common::skip("is about an ordinary user's namespace");
    }
    let dir = common::mount::temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    let called = idshift(&[&"mount", &"-o", &format!("{MAP},suid=shadow"), &lower, &upper]);
    assert_eq!(called.code, 32, "{}", called.err);
    for part in ["suid=shadow", "trusted.*", "suid=deny"] {
        assert!(called.err.contains(part), "{}", called.err);
    }
}

fn shadow_needs_trusted_attributes() {
    needs_idshift();
    needs_real_root("a ramfs");
    let dir = common::mount::temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, 0, 0);
    put_dir(&upper, 0o755, 0, 0);
    assert!(
        Command::new("mount").args(["-t", "ramfs", "none"]).arg(&lower).status().unwrap().success()
    );
    let called = idshift(&[&"mount", &"-o", &"map=offset:1000,suid=shadow", &lower, &upper]);
    let moved = idshift(&[&"shadow", &"import", &lower]);
    common::mount::free(&lower);
    assert_eq!(called.code, 32, "{}", called.err);
    assert!(called.err.contains("suid=shadow") && called.err.contains("none"), "{}", called.err);
    assert_eq!(moved.code, 32, "{}", moved.err);
}

fn shadow_modes() {
    let mount = shadowed(|lower| {
        put_file(&lower.join("file"), b"", 0o755, lo(1000), lo(1000));
        put_dir(&lower.join("dir"), 0o755, lo(1000), lo(1000));
    });
    let (up, low) = (mount.up("file"), mount.low("file"));
    Caller::user(1000).run(|| {
        for bits in [0o4755, 0o6711, 0o2755, 0o2644, 0o755, 0o6777, 0o1600] {
            set_mode(&up, bits).unwrap();
            assert_eq!((mode(&up), mode(&low)), (bits, bits & !0o6000), "{bits:o}");
            let fd = open(&up, OFlags::RDONLY, 0).unwrap();
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(bits ^ 0o4000)).unwrap();
            assert_eq!((mode(&up), mode(&low) & 0o6000), (bits ^ 0o4000, 0), "{bits:o}");
        }
        set_mode(&mount.up("dir"), 0o2775).unwrap();
    });
    set_mode(&up, 0o644).unwrap();
    assert_errno!(get_xattr(&low, KEPT), Errno::NODATA);
    assert_eq!(mode(&mount.low("dir")), 0o2775, "directories have their own");
}

fn shadow_of_new_files() {
    let mount = shadowed(|_| ());
    Caller::user(1000).umask(0o022).run(|| {
        drop(common::create(&mount.up("created"), 0o4777).unwrap());
        common::raw::mknod(&mount.up("made"), 0o104_777, 0).unwrap();
        let fd = open(&mount.up(""), OFlags::TMPFILE | OFlags::RDWR, 0o4777).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let linked = mount.up("linked");
        rustix::fs::linkat(CWD, path, CWD, linked, AtFlags::SYMLINK_FOLLOW).unwrap();
    });
    for name in ["created", "made", "linked"] {
        assert_eq!(mode(&mount.up(name)), 0o4755, "{name}");
        assert_eq!(mode(&mount.low(name)), 0o755, "{name}");
        assert_eq!(common::owner(&mount.low(name)), (lo(1000), lo(1000)), "{name}");
    }
}

/// What takes real bits away takes kept ones away, and reports it at once.
fn shadow_goes_as_real_bits_go() {
    let mount = shadowed(|_| ());
    let file = mount.up("file");
    let stranger = Caller::user(7);
    let write = || {
        let fd = open(&file, OFlags::WRONLY, 0).unwrap();
        rustix::io::pwrite(&fd, b"x", 0).unwrap();
    };
    let by_stranger: [(&str, &(dyn Fn() + Sync)); 4] = [
        ("write", &write),
        ("truncate", &|| common::raw::truncate(&file, 1).unwrap()),
        ("O_TRUNC", &|| drop(open(&file, OFlags::WRONLY | OFlags::TRUNC, 0).unwrap())),
        ("fallocate", &|| {
            let fd = open(&file, OFlags::WRONLY, 0).unwrap();
            rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, 10).unwrap();
        }),
    ];
    let by_root: [(&str, &(dyn Fn() + Sync)); 2] = [
        ("chown", &|| chown(&file, Some(1001), None).unwrap()),
        ("chgrp", &|| chown(&file, None, Some(1001)).unwrap()),
    ];
    for (what, change) in by_stranger.iter().chain(&by_root) {
        fs::remove_file(&file).ok();
        put_file(&file, b"content", 0o6777, 1000, 1000);
        assert_eq!(mode(&file), 0o6777);
        if by_root.iter().any(|(name, _)| name == what) {
            change();
        } else {
            stranger.run(change);
        }
        assert_eq!((mode(&file), mode(&mount.low("file"))), (0o777, 0o777), "{what}");
        assert_errno!(get_xattr(&mount.low("file"), KEPT), Errno::NODATA);
    }
    // An ACL from outside the group takes S_ISGID alone.
    put_file(&mount.up("acl"), b"", 0o6755, 1000, 3000);
    let entries = [(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 4, NO_ID)];
    let set = || set_xattr(&mount.up("acl"), ACL_ACCESS, &acl(&entries));
    Caller::user(1000).run(set).unwrap();
    assert_eq!(mode(&mount.up("acl")), 0o4754);
}

fn shadow_stays_as_real_bits_stay() {
    let mount = shadowed(|_| ());
    let file = mount.up("file");
    put_file(&file, b"content", 0o4755, 1000, 1000);
    Caller::user(1000).run(|| {
        fs::File::options()
            .append(true)
            .open(&file)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    });
    assert_eq!(mode(&file), 0o4755, "new times");
    common::raw::truncate(&file, 3).unwrap(); // by root
    assert_eq!(mode(&file), 0o4755, "cut by root");
    fs::rename(&file, mount.up("moved")).unwrap();
    fs::hard_link(mount.up("moved"), &file).unwrap();
    set_xattr(&file, "user.x", b"y").unwrap();
    assert_eq!(mode(&file), 0o4755, "moved, linked, named");
    assert!(
        Command::new("cp").arg("-a").arg(&file).arg(mount.up("copy")).status().unwrap().success()
    );
    assert_eq!((mode(&mount.up("copy")), mode(&mount.low("copy"))), (0o4755, 0o755), "copied");
}

fn shadow_ends_with_a_write_below() {
    let mount = shadowed(|_| ());
    let (up, low) = (mount.up("file"), mount.low("file"));
    put_file(&up, b"content", 0o6775, 1000, 1000);
    assert_eq!(mode(&up), 0o6775);
    // A member of the group, on the lower side.
    let member = Caller::user(lo(7)).groups(&[lo(1000)]);
    member.run(|| fs::write(&low, "payload").unwrap());
    common::eventually("the bits end", || mode(&up) == 0o775);
    // Setting them anew is for whoever sees what is there now.
    set_mode(&up, 0o4775).unwrap();
    assert_eq!(mode(&up), 0o4775);
}

/// `cap_net_raw` permitted and effective, version 2.
fn net_raw() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn shadow_capabilities() {
    needs_program("grep");
    let mount = shadowed(|lower| {
        let grep = lower.join("grep");
        assert!(Command::new("cp").arg("/usr/bin/grep").arg(&grep).status().unwrap().success());
        chown(&grep, Some(lo(0)), Some(lo(0))).unwrap();
        set_mode(&grep, 0o777).unwrap();
    });
    let (up, low) = (mount.up("grep"), mount.low("grep"));
    let effective = |program: &Path| {
        let call = || Command::new(program).args(["CapEff", "/proc/self/status"]).output();
        let out = Caller::user(7).run(call).unwrap();
        u64::from_str_radix(String::from_utf8(out.stdout).unwrap()[8..].trim(), 16).unwrap()
    };
    assert_eq!(effective(&up), 0);
    set_xattr(&up, CAPABILITY, &net_raw()).unwrap();
    assert_eq!(get_xattr(&up, CAPABILITY).unwrap(), net_raw());
    assert_eq!(list_xattr(&up).unwrap(), [CAPABILITY]);
    assert_errno!(get_xattr(&low, CAPABILITY), Errno::NODATA);
    assert_eq!((effective(&up), effective(&low)), (1 << 13, 0));
    // They live beside set-ID bits, and each goes without the other.
    set_mode(&up, 0o4777).unwrap();
    assert_eq!((mode(&up), get_xattr(&up, CAPABILITY).unwrap()), (0o4777, net_raw()));
    rustix::fs::removexattr(&up, CAPABILITY).unwrap();
    assert_errno!(rustix::fs::removexattr(&up, CAPABILITY), Errno::NODATA);
    assert_eq!(mode(&up), 0o4777);
    let set = |flags| rustix::fs::setxattr(&up, CAPABILITY, &net_raw(), flags);
    assert_errno!(set(rustix::fs::XattrFlags::REPLACE), Errno::NODATA);
    set(rustix::fs::XattrFlags::CREATE).unwrap();
    assert_errno!(set(rustix::fs::XattrFlags::CREATE), Errno::EXIST);
    // A write takes both.
    Caller::user(7).run(|| {
        let fd = open(&up, OFlags::WRONLY, 0).unwrap();
        rustix::io::pwrite(&fd, b"\x7f", 0).unwrap();
    });
    assert_eq!(mode(&up), 0o777);
    assert_errno!(get_xattr(&up, CAPABILITY), Errno::NODATA);
    assert_errno!(get_xattr(&low, KEPT), Errno::NODATA);
}

fn shadow_takes_real_bits_in() {
    let mount = shadowed(|lower| {
        put_file(&lower.join("su"), b"content", 0o4755, lo(0), lo(0));
        let root = lo(0).to_le_bytes();
        let revision_3 = [&0x0300_0001_u32.to_le_bytes(), &net_raw()[4..], &root].concat();
        set_xattr(&lower.join("su"), CAPABILITY, &revision_3).unwrap();
        put_file(&lower.join("changed"), b"content", 0o4755, lo(0), lo(0));
        put_file(&lower.join("cut"), b"content", 0o4755, lo(0), lo(0));
    });
    let (up, low) = (mount.up("su"), mount.low("su"));
    assert_eq!(mode(&up), 0o4755, "what is there is honoured");
    drop(open(&up, OFlags::RDWR, 0).unwrap());
    assert_eq!((mode(&up), mode(&low)), (0o4755, 0o755), "inert below before anybody writes");
    assert_errno!(get_xattr(&low, CAPABILITY), Errno::NODATA);
    assert_eq!(get_xattr(&up, CAPABILITY).unwrap(), net_raw());
    common::raw::truncate(&mount.up("cut"), 3).unwrap();
    assert_eq!((mode(&mount.up("cut")), mode(&mount.low("cut"))), (0o4755, 0o755), "by root");
    set_mode(&mount.up("changed"), 0o4711).unwrap();
    assert_eq!((mode(&mount.up("changed")), mode(&mount.low("changed"))), (0o4711, 0o711));
}

fn shadow_in_listings() {
    let mount = shadowed(|_| ());
    for (name, bits) in [("a", 0o4755), ("b", 0o755), ("\u{e4} \n", 0o2755)] {
        put_file(&mount.up(name), b"", bits, 1000, 1000);
    }
    let lower = mount.low("");
    let dir = common::mount::temp_dir();
    let again = Mount::of(dir, lower, &format!("{MAP},suid=shadow,cache=exclusive"));
    // The attributes come with the names.
    let listed = fs::read_dir(again.up("")).unwrap();
    let mut modes: Vec<u32> = listed.map(|entry| mode(&entry.unwrap().path())).collect();
    modes.sort_unstable();
    assert_eq!(modes, [0o755, 0o2755, 0o4755]);
}

fn shadow_is_not_to_be_touched() {
    let mount = shadowed(|_| ());
    let file = mount.up("file");
    put_file(&file, b"", 0o4755, 1000, 1000);
    let value = get_xattr(&mount.low("file"), KEPT).unwrap();
    for caller in [Caller::user(0), Caller::user(1000)] {
        caller.run(|| {
            assert_eq!(list_xattr(&file).unwrap(), Vec::<String>::new());
            assert_errno!(get_xattr(&file, KEPT), Errno::NODATA);
            assert_errno!(set_xattr(&file, KEPT, &value), Errno::PERM);
            assert!(rustix::fs::removexattr(&file, KEPT).is_err());
        });
    }
    assert_eq!(get_xattr(&mount.low("file"), KEPT).unwrap(), value);
    // Noise in its place gives no rights.
    for noise in [b"1 4000".as_slice(), b"", &[0xff; 300]] {
        set_xattr(&mount.low("file"), KEPT, noise).unwrap();
        common::eventually("noise is nothing", || mode(&file) == 0o755);
    }
}

fn export_and_import() {
    needs_idshift();
    needs_real_root("trusted.* attributes");
    let dir = common::mount::temp_dir();
    let tree = dir.path().join("tree");
    put_dir(&tree, 0o755, 0, 0);
    put_dir(&tree.join("deep"), 0o2755, 0, 0);
    let files = [("su", 0o4755, 5), ("deep/wall", 0o2755, 6), ("deep/plain", 0o755, 7)];
    for (name, bits, id) in files {
        put_file(&tree.join(name), b"content", bits, id, id);
    }
    set_xattr(&tree.join("deep/plain"), CAPABILITY, &net_raw()).unwrap();
    let look = || files.map(|(name, ..)| (mode(&tree.join(name)), stat(&tree.join(name)).st_mtime));
    let real = look();

    let said = idshift(&[&"shadow", &"import", &"--dry-run", &tree]);
    assert_eq!((said.code, look()), (0, real), "{}", said.err);
    assert!(said.out.contains("su: mode 4755 to 0755"), "{}", said.out);
    assert!(said.out.contains("plain: file capabilities"), "{}", said.out);
    assert!(said.out.ends_with("3 files would be imported\n"), "{}", said.out);
    assert_errno!(get_xattr(&tree.join("su"), KEPT), Errno::NODATA);

    let said = idshift(&[&"shadow", &"import", &tree]);
    assert!(said.out.ends_with("3 files imported\n"), "{} {}", said.out, said.err);
    assert_eq!(look().map(|(mode, _)| mode), [0o755; 3]);
    assert_errno!(get_xattr(&tree.join("deep/plain"), CAPABILITY), Errno::NODATA);
    assert_eq!(mode(&tree.join("deep")), 0o2755);
    let again = idshift(&[&"shadow", &"import", &tree]);
    assert_eq!(again.out, "0 files imported\n");

    let said = idshift(&[&"shadow", &"export", &"-n", &tree]);
    assert!(said.out.contains("su: mode 0755 to 4755"), "{}", said.out);
    assert_eq!(look().map(|(mode, _)| mode), [0o755; 3]);
    let said = idshift(&[&"shadow", &"export", &tree]);
    assert!(said.out.ends_with("3 files exported\n"), "{} {}", said.out, said.err);
    assert_eq!(look(), real);
    assert_eq!(get_xattr(&tree.join("deep/plain"), CAPABILITY).unwrap(), net_raw());
    assert_errno!(get_xattr(&tree.join("su"), KEPT), Errno::NODATA);

    // What was written since is not made set-user-ID.
    idshift(&[&"shadow", &"import", &tree]);
    fs::write(tree.join("su"), "payload").unwrap();
    let said = idshift(&[&"shadow", &"export", &tree]);
    assert!(said.out.contains("count no more"), "{}", said.out);
    assert_eq!(mode(&tree.join("su")), 0o755);
    assert_eq!(idshift(&[&"shadow", &"export", &dir.path().join("missing")]).code, 32);
}

fn the_warning_at_mount_time() {
    needs_idshift();
    let warned = |options: &str, lower_mode: u32| {
        let mount = Mount::with(&format!("{MAP},{options}"), |lower| {
            chown(lower, Some(0), Some(0)).unwrap();
            set_mode(lower, lower_mode).unwrap();
        });
        let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
        assert!(!log.contains("set-user-ID") || log.contains("suid=shadow"), "{log}");
        log.contains("suid=deny")
    };
    assert!(warned("suid=pass", 0o755));
    assert!(!warned("suid=deny", 0o755));
    assert!(!warned("ro", 0o755), "nothing can be set");
    assert!(!warned("suid=pass", 0o700), "nobody gets there");
    if common::machine().real_root {
        assert!(!warned("suid=shadow", 0o755));
    }
}
