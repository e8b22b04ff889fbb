//! Who may show whose files shifted: two ordinary users of the host, Ann (1000) and Bob (1001).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::common::mount::{free, is_mounted, mount_line, temp_dir};
use crate::common::program::{Called, copy_program, program};
use crate::common::runner::{
    needs_idshift, needs_program, needs_real_root, needs_set_user_id_programs,
};
use crate::common::{
    self, Caller, Errno, chown, machine, owner, put_dir, put_file, set_mode, stat,
};
use tempfile::TempDir;

crate::common::tests!(
    what_cannot_be_reached_cannot_be_shown,
    own_and_granted_ids_only,
    root_may_map_any,
    always_without_set_user_id_and_devices,
    flags_that_cannot_be_given_are_named,
    ids_outside_the_map_are_never_shown,
    numbers_in_own_attributes_are_free,
    rights_below_stay_those_of_the_user,
    the_owner_may_think_again,
);

const ANN: u32 = 1000;
const BOB: u32 = 1001;

/// Ann's tree, a mount point of Bob's, and the program where both can run it.
struct Place {
    dir: TempDir,
    lower: PathBuf,
    upper: PathBuf,
    program: PathBuf,
}

impl Place {
    fn new() -> Self {
        needs_idshift();
        needs_program("fusermount3");
        needs_set_user_id_programs();
        needs_real_root("becoming two ordinary users of the host");
        grant();
        let dir = temp_dir();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        put_dir(&lower, 0o755, ANN, ANN);
        put_dir(&upper, 0o755, BOB, BOB);
        put_file(&lower.join("anns"), b"public", 0o644, ANN, ANN);
        put_file(&lower.join("diary"), b"secret", 0o600, ANN, ANN);
        put_file(&lower.join("bobs"), b"a present", 0o644, BOB, BOB);
        let program = dir.path().join("idshift");
        copy_program(&machine().binary, &program);
        Self { dir, lower, upper, program }
    }

    fn mount(&self, user: u32, options: &str) -> Called {
        Caller::user(user)
            .run(|| program(&self.program, &[&"mount", &"-o", &options, &self.lower, &self.upper]))
    }

    /// Mounts as Bob, who may.
    fn bobs(&self, options: &str) {
        let called = self.mount(BOB, options);
        assert_eq!(called.code, 0, "{}", called.err);
        assert!(is_mounted(&self.upper));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        free(&self.upper);
    }
}

/// Ann and Bob get names and Bob gets ids, in files that only this test program's mount namespace
/// has in place of the host's.
fn grant() {
    static GRANTED: OnceLock<()> = OnceLock::new();
    GRANTED.get_or_init(|| {
        let names = "ann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n";
        let accounts = format!("{names}{}", fs::read_to_string("/etc/passwd").unwrap());
        for (file, text) in [
            ("passwd", accounts.as_str()),
            ("subuid", "bob:200000:100\n"),
            ("subgid", "1001:300000:100\n"),
        ] {
            let ours = machine().base.join(file);
            fs::write(&ours, text).unwrap();
            let theirs = Path::new("/etc").join(file);
            if !theirs.exists() {
                common::skip(format!("needs {} (package uidmap)", theirs.display()));
            }
            rustix::mount::mount_bind(&ours, &theirs).unwrap();
        }
    });
}

fn what_cannot_be_reached_cannot_be_shown() {
    let place = Place::new();
    let map = "map=u:1001:200000:1,map=g:1001:1001:1";
    let refused = || {
        let called = place.mount(BOB, map);
        assert_eq!(called.code, 32, "{}", called.err);
        assert!(called.err.contains(place.lower.to_str().unwrap()), "{}", called.err);
        assert!(called.err.contains("may not"), "{}", called.err);
        assert!(!is_mounted(&place.upper));
    };
    set_mode(&place.lower, 0o700).unwrap();
    refused();
    set_mode(&place.lower, 0o711).unwrap();
    refused();
    set_mode(&place.lower, 0o755).unwrap();
    let above = place.dir.path().join("above");
    put_dir(&above, 0o700, ANN, ANN);
    fs::rename(&place.lower, above.join("lower")).unwrap();
    let lower = above.join("lower");
    let called = Caller::user(BOB)
        .run(|| program(&place.program, &[&"mount", &"-o", &map, &lower, &place.upper]));
    assert_eq!(called.code, 32, "{}", called.err);
    fs::rename(lower, &place.lower).unwrap();
    place.bobs(map);
}

fn own_and_granted_ids_only() {
    let place = Place::new();
    for (map, named) in [
        // Ann's files as Bob's own.
        ("map=b:1000:1001:1", "stored uid 1000"),
        ("map=u:1001:1001:1,map=g:1000:1001:1", "stored gid 1000"),
        // Bob's own as somebody else's.
        ("map=b:1001:1000:1", "shown uid 1000"),
        ("map=b:1001:0:1", "shown uid 0"),
        ("map=offset:100000", "stored uid 0"),
        // One more than is granted.
        ("map=u:200000:200001:100,map=g:1001:1001:1", "shown uid 200100"),
        // Granted as a uid, not as a gid.
        ("map=u:1001:1001:1,map=g:1001:200000:1", "shown gid 200000"),
    ] {
        let called = place.mount(BOB, map);
        assert_eq!(called.code, 1, "{map}: {}", called.err);
        assert!(called.err.contains(named), "{map}: {}", called.err);
        assert!(called.err.contains("/etc/sub") && called.err.contains("'bob'"), "{}", called.err);
        assert!(!is_mounted(&place.upper), "{map}");
    }
    for map in [
        "map=u:1001:1001:1,map=g:1001:1001:1",
        "map=u:1001:200000:1,map=u:200000:1001:1,map=g:1001:300099:1",
        "map=u:200000:200001:99,map=g:300000:300000:100",
        "map=identity",
    ] {
        place.bobs(map);
        free(&place.upper);
    }
    // Ann is granted nothing but herself.
    chown(&place.upper, Some(ANN), Some(ANN)).unwrap();
    assert_eq!(place.mount(ANN, "map=u:1000:200000:1,map=g:1000:1000:1").code, 1);
    assert_eq!(place.mount(ANN, "map=b:1000:1000:1").code, 0);
}

fn root_may_map_any() {
    let place = Place::new();
    let options = "map=b:1000:1001:1";
    let called = program(&place.program, &[&"mount", &"-o", &options, &place.lower, &place.upper]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert_eq!(owner(&place.upper.join("anns")), (BOB, BOB));
    let read = Caller::user(BOB).run(|| fs::read(place.upper.join("diary")));
    assert_eq!(read.unwrap(), b"secret", "root has shown it as Bob's");
}

fn always_without_set_user_id_and_devices() {
    let place = Place::new();
    place.bobs("map=u:1001:200000:1,map=g:1001:1001:1,suid,dev");
    let line = mount_line(&place.upper).unwrap();
    let flags: Vec<&str> = line[3].split(',').collect();
    assert!(flags.contains(&"nosuid") && flags.contains(&"nodev"), "{flags:?}");
    let called = place.mount(BOB, "remount,suid,dev");
    let line = mount_line(&place.upper).unwrap();
    assert!(line[3].contains("nosuid") && line[3].contains("nodev"), "{}: {line:?}", called.err);
}

fn flags_that_cannot_be_given_are_named() {
    const MAP: &str = "map=u:1001:200000:1,map=g:1001:1001:1";
    let place = Place::new();
    let refused = place.mount(BOB, &format!("{MAP},nosymfollow"));
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("'nosymfollow'") && refused.err.contains("fusermount3"));
    assert!(!is_mounted(&place.upper));
    let noted = place.mount(BOB, &format!("{MAP},strictatime,lazytime"));
    assert_eq!(noted.code, 0, "{}", noted.err);
    for name in ["strictatime", "lazytime"] {
        assert!(noted.err.contains(&format!("'{name}' is left out")), "{}", noted.err);
    }
}

fn ids_outside_the_map_are_never_shown() {
    let place = Place::new();
    place.bobs("map=u:1001:200000:1,map=g:1001:300000:1");
    Caller::user(BOB).run(|| {
        assert_eq!(owner(&place.upper.join("bobs")), (200_000, 300_000));
        assert_eq!(owner(&place.upper.join("anns")), (65_534, 65_534));
        assert_eq!(owner(&place.upper), (65_534, 65_534));
    });
    // It is Bob's alone: nobody else is shown anything.
    let seen = Caller::user(ANN).run(|| fs::metadata(place.upper.join("anns")));
    assert_eq!(Errno::from_io_error(&seen.unwrap_err()), Some(Errno::ACCESS));
}

/// With `ownership=xattr` the stored ids are only numbers in Bob's own files.
fn numbers_in_own_attributes_are_free() {
    let place = Place::new();
    chown(&place.lower, Some(BOB), Some(BOB)).unwrap();
    put_file(&place.lower.join("shared"), b"everybody's", 0o666, BOB, BOB);
    for (map, named) in [
        ("map=b:0:0:1,ownership=xattr", "shown uid 0"),
        ("map=b:1001:1000:1,ownership=xattr", "shown uid 1000"),
    ] {
        let called = place.mount(BOB, map);
        assert_eq!(called.code, 1, "{map}: {}", called.err);
        assert!(called.err.contains(named), "{map}: {}", called.err);
    }
    place.bobs(
        "map=u:0:1001:1,map=u:1:200000:100,map=g:0:1001:1,map=g:1:300000:100,ownership=xattr",
    );
    let made = place.upper.join("made");
    Caller::user(BOB).run(|| {
        fs::write(&made, "Bob's").unwrap();
        std::os::unix::fs::symlink("made", place.upper.join("link")).unwrap();
        assert_eq!(owner(&made), (BOB, BOB));
        assert_eq!(owner(&place.upper.join("link")), (BOB, BOB));
        assert_eq!(fs::read(place.upper.join("link")).unwrap(), b"Bob's");
        assert_eq!(owner(&place.upper.join("anns")), (65_534, 65_534));
        // His server cannot take it through other hands, and need not.
        set_mode(&place.upper.join("shared"), 0o664).unwrap();
        assert!(set_mode(&place.upper.join("anns"), 0o600).is_err());
    });
    assert_eq!(stat(&place.lower.join("shared")).st_mode & 0o7777, 0o644);
    let below = place.lower.join("made");
    assert_eq!(owner(&below), (BOB, BOB));
    let stored = common::get_xattr(&below, "user.containers.override_stat").unwrap();
    assert!(stored.starts_with(b"0:0:0"), "root's, by the numbers below");
}

fn rights_below_stay_those_of_the_user() {
    let place = Place::new();
    put_dir(&place.lower.join("common"), 0o777, ANN, ANN);
    // The identity is no shift, so it may name Ann's ids; it gives Bob nothing.
    place.bobs("map=identity");
    let up = |name: &str| place.upper.join(name);
    Caller::user(BOB).run(|| {
        assert_eq!(fs::read(up("anns")).unwrap(), b"public");
        let denied = |result: std::io::Result<()>| {
            let error = Errno::from_io_error(&result.unwrap_err());
            assert!(matches!(error, Some(Errno::ACCESS | Errno::PERM)), "{error:?}");
        };
        denied(fs::read(up("diary")).map(drop));
        denied(fs::write(up("anns"), "no"));
        denied(fs::remove_file(up("anns")));
        denied(chown(&up("bobs"), Some(ANN), None).map_err(Into::into));
        denied(chown(&up("anns"), Some(BOB), None).map_err(Into::into));
        denied(set_mode(&up("anns"), 0o666).map_err(Into::into));
        fs::write(up("common/new"), "Bob's").unwrap();
    });
    let made = place.lower.join("common/new");
    assert_eq!(owner(&made), (BOB, BOB));
    assert_eq!(stat(&place.lower.join("anns")).st_mode & 0o777, 0o644);
    assert_eq!(fs::read(place.lower.join("anns")).unwrap(), b"public");
}

/// What Ann closes is closed to a mount that is there already.
fn the_owner_may_think_again() {
    let place = Place::new();
    place.bobs("map=u:1001:200000:1,map=g:1001:300000:1,cache=none");
    let reach = || Caller::user(BOB).run(|| fs::read(place.upper.join("anns")));
    assert_eq!(reach().unwrap(), b"public");
    set_mode(&place.lower, 0o700).unwrap();
    assert_eq!(Errno::from_io_error(&reach().unwrap_err()), Some(Errno::ACCESS));
    set_mode(&place.lower, 0o755).unwrap();
    assert_eq!(reach().unwrap(), b"public");
}
