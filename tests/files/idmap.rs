//! Idmapped mounts of the mount (`idmap=`, Linux 6.12).
//!
//! The oracle compares them call by call (`stack=` in `tests/oracle`); here is what it has no
//! counterpart for.

use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Timespec, Timestamps, fchmod, fchown, futimens, linkat, renameat};
use rustix::mount::{UnmountFlags, unmount};

use crate::common::program::idshift;
use crate::common::runner::{needs_idshift, needs_kernel, needs_program, needs_real_root, skip};
use crate::common::{
    self, AtFlags, CWD, Caller, Errno, Mode, Mount, OFlags, UNMAPPED, assert_errno, chown, kernel,
    lo, mode, open, owner, put_dir, put_file, restart, stat,
};

crate::common::tests!(
    owners_names_groups_and_flags,
    protections_hold_through_it,
    ids_in_proc_own_nothing,
    owners_that_changed_below_are_not_looked_up_in_proc,
    status_through_it,
    goes_on_after_a_kill,
    goes_on_after_an_upgrade,
    stays_refused_after_an_upgrade,
    everything_is_one_users,
    names_by_unmapped_callers,
    refused_where_it_is_denied,
);

/// What the kernel's map adds to an id that idshift shows.
const MORE: u32 = 100_000;

/// An idmapped mount of a mount; unmounted when it is dropped.
struct Idmapped {
    point: PathBuf,
}

impl Idmapped {
    fn of(mount: &Mount) -> Self {
        Self::adding(MORE, mount)
    }

    fn adding(more: u32, mount: &Mount) -> Self {
        needs_idshift();
        needs_real_root("idmapped mounts");
        let name = rustix::system::uname();
        let release = name.release().to_string_lossy().into_owned();
        let mut parts = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let version: (u32, u32) = (parts.next().unwrap(), parts.next().unwrap());
        if version < (6, 12) {
            skip(format!("needs Linux 6.12 (FUSE_ALLOW_IDMAP), not {release}"));
        }
        let point = mount.beside().join("idmapped");
        put_dir(&point, 0o755, 0, 0);
        kernel::mount(&format!("map=b:0:{more}:10000"), &mount.up(""), &point);
        Self { point }
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.point.join(path)
    }
}

impl Drop for Idmapped {
    fn drop(&mut self) {
        let _gone = unmount(&self.point, UnmountFlags::DETACH);
        std::fs::remove_dir(&self.point).ok();
    }
}

fn chmod(path: &Path, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::chmod(path, Mode::from_bits_truncate(mode))
}

fn link(from: &Path, to: &Path) -> rustix::io::Result<()> {
    linkat(CWD, from, CWD, to, AtFlags::empty())
}

/// All that needs the caller's ids where the mount cannot be idmapped.
fn owners_names_groups_and_flags() {
    let mount = Mount::new();
    let shown = Idmapped::of(&mount);
    let alice = Caller::user(MORE + 1000);
    alice.run(|| {
        std::fs::write(shown.at("file"), "x").unwrap();
        link(&shown.at("file"), &shown.at("link")).unwrap();
        renameat(CWD, shown.at("link"), CWD, shown.at("moved")).unwrap();
        std::fs::create_dir(shown.at("dir")).unwrap();
        chmod(&shown.at("file"), 0o4755).unwrap();
        chown(&shown.at("file"), None, Some(MORE + 1000)).unwrap();
    });
    assert_eq!(owner(&mount.low("file")), (lo(1000), lo(1000)));
    assert_eq!(owner(&mount.low("dir")), (lo(1000), lo(1000)));
    assert_eq!(owner(&shown.at("moved")), (MORE + 1000, MORE + 1000));
    assert_eq!(mode(&mount.low("file")), 0o755, "chown takes the bit away");
    // In neither map.
    let unmapped = Caller::user(UNMAPPED);
    assert_errno!(
        unmapped
            .run(|| std::fs::write(shown.at("none"), ""))
            .map_err(|e| Errno::from_io_error(&e).unwrap()),
        Errno::OVERFLOW
    );
    needs_program("chattr");
    let chattr = |caller: &Caller| {
        let mut command = std::process::Command::new("chattr");
        command.args(["+d".as_ref(), shown.at("file").as_os_str()]);
        caller.run(|| common::program::call(command).code)
    };
    assert_eq!(chattr(&alice), 0);
    assert_ne!(chattr(&Caller::user(MORE + 1001)), 0);
}

fn protections_hold_through_it() {
    needs_real_root("idmapped mounts");
    let fill = |lower: &Path| {
        put_file(&lower.join("denies"), b"x", 0o604, lo(1), lo(50));
        put_file(&lower.join("strange"), b"x", 0o4755, 70_000, 70_000);
    };
    let options = "deny_groups=group,unmapped=squash:7:7,suid=deny";
    let mount = Mount::with(&format!("{},{options}", common::MAP), fill);
    let shown = Idmapped::of(&mount);
    assert_eq!(mode(&shown.at("denies")), 0o600);
    let stranger = Caller::user(MORE + 9);
    assert!(stranger.run(|| std::fs::read(shown.at("denies"))).is_err());
    // Shown as 7's, and his: without the bit, and with no way to give it back.
    assert_eq!(owner(&shown.at("strange")), (MORE + 7, MORE + 7));
    assert_eq!(mode(&shown.at("strange")), 0o755);
    let seven = Caller::user(MORE + 7);
    assert_errno!(seven.run(|| chmod(&shown.at("strange"), 0o4755)), Errno::PERM);
    seven.run(|| std::fs::write(shown.at("strange"), "y")).unwrap();
    assert_eq!(mode(&mount.low("strange")), 0o755);
    // The number of the stand-in is one of idshift's side, and means nothing on the kernel's.
    assert!(Caller::user(7).run(|| std::fs::write(shown.at("strange"), "z")).is_err());
}

/// A user of the machine has the number that idshift shows as a file's owner, but not the one that
/// the idmapped mount shows.
fn ids_in_proc_own_nothing() {
    let fill = |lower: &Path| put_file(&lower.join("program"), b"x", 0o6755, lo(1000), lo(1000));
    let mount = Mount::with(common::MAP, fill);
    let shown = Idmapped::of(&mount);
    let same_number = Caller::user(1000);
    assert_errno!(same_number.run(|| chown(&shown.at("program"), None, None)), Errno::PERM);
    assert_errno!(same_number.run(|| chmod(&shown.at("program"), 0o755)), Errno::PERM);
    assert_eq!(mode(&mount.low("program")), 0o6755);
    chown(&shown.at("program"), None, None).unwrap();
    assert_eq!(mode(&mount.low("program")), 0o755, "root of the machine may");
}

/// The id of a process may be the number of somebody else in idshift's map.
fn owners_that_changed_below_are_not_looked_up_in_proc() {
    for options in ["cache=none", "cache=none,io=cached", "cache=none,restart=on"] {
        let fill = |lower: &Path| {
            for name in ["given", "regrouped", "reset"] {
                put_file(&lower.join(name), b"x", 0o644, lo(1000), lo(1000));
            }
        };
        let mount = Mount::with(&format!("{},{options}", common::MAP), fill);
        let shown = Idmapped::adding(1000, &mount);
        let owner = Caller::user(2000);
        let open = |name: &str| owner.run(|| open(&shown.at(name), OFlags::RDONLY, 0)).unwrap();
        let [given, regrouped, reset] = ["given", "regrouped", "reset"].map(open);
        // 2000 is the new owner's number in idshift's map, and the former one's of processes.
        chown(&mount.low("given"), Some(lo(2000)), Some(lo(2000))).unwrap();
        chown(&mount.low("regrouped"), None, Some(lo(3))).unwrap();
        chmod(&mount.low("reset"), 0o4755).unwrap();
        owner.run(|| {
            let mode = Mode::from_raw_mode;
            assert_errno!(fchmod(&given, mode(0o4755)), Errno::PERM);
            assert_errno!(futimens(&given, &EARLY), Errno::PERM);
            assert_errno!(fchown(&given, None, Some(Gid::from_raw(2000))), Errno::PERM);
            fchmod(&regrouped, mode(0o600)).unwrap();
            futimens(&regrouped, &EARLY).unwrap();
            fchmod(&reset, mode(0o600)).unwrap();
        });
        assert_eq!(mode(&mount.low("given")), 0o644, "{options}");
        // By a name the kernel asks anew.
        assert_errno!(owner.run(|| chmod(&shown.at("given"), 0o600)), Errno::PERM);
        Caller::user(3000).run(|| chmod(&shown.at("given"), 0o600)).unwrap();
        assert_eq!(mode(&mount.low("given")), 0o600, "{options}");
    }
}

const EARLY: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 7, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 7, tv_nsec: 0 },
};

fn status_through_it() {
    let mount = Mount::new();
    let shown = Idmapped::of(&mount);
    let told = idshift(&[&"status", &shown.point]);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(told.out.contains("idmapped mounts of it: possible"), "{}", told.out);
    let asked = Caller::user(MORE).run(|| idshift(&[&"status", &shown.point]));
    assert_ne!(asked.code, 0, "root of the idmap is not root of the machine: {}", asked.out);
}

fn goes_on_after_a_kill() {
    let mount = restart::mounted("");
    let shown = Idmapped::of(&mount);
    let alice = Caller::user(MORE + 1000);
    alice.run(|| std::fs::write(shown.at("before"), "x")).unwrap();
    restart::kill(&mount);
    alice.run(|| link(&shown.at("before"), &shown.at("after"))).unwrap();
    alice.run(|| std::fs::write(shown.at("new"), "x")).unwrap();
    assert_eq!(owner(&mount.low("new")), (lo(1000), lo(1000)));
    assert_eq!(stat(&shown.at("after")).st_nlink, 2);
}

/// Has the same program, as another file, go on with a mount.
fn upgrade(mount: &Mount) {
    let second = mount.beside().join("second");
    common::program::copy_program(&common::machine().binary, &second);
    common::set_mode(&second, 0o755).unwrap();
    let before = mount.server_pid();
    let called = idshift(&[&"upgrade", &mount.up(""), &"--binary", &second]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert_ne!(mount.server_pid(), before);
}

/// What is idmapped stays so, and what is made later is told the same.
fn goes_on_after_an_upgrade() {
    for options in ["", "deny_groups=group,", "cache=none,"] {
        let mount = restart::mounted(options);
        let shown = Idmapped::of(&mount);
        let alice = Caller::user(MORE + 1000);
        alice.run(|| std::fs::write(shown.at("before"), "x")).unwrap();
        upgrade(&mount);
        let works = |shown: &Idmapped, name: &str| {
            alice.run(|| link(&shown.at("before"), &shown.at(name))).unwrap();
            alice.run(|| chmod(&shown.at(name), 0o600)).unwrap();
            let new = format!("{name}-new");
            alice.run(|| std::fs::write(shown.at(&new), "x")).unwrap();
            assert_eq!(owner(&mount.low(&new)), (lo(1000), lo(1000)), "{options}");
        };
        works(&shown, "after");
        let told = idshift(&[&"status", &mount.up("")]).out;
        assert!(told.contains("idmapped mounts of it: possible"), "{told}");
        drop(shown);
        // The mount itself has not lost it, either; nor after one more kill.
        works(&Idmapped::of(&mount), "another");
        restart::kill(&mount);
        works(&Idmapped::of(&mount), "a-third");
    }
}

fn stays_refused_after_an_upgrade() {
    let mount = restart::mounted("idmap=deny,");
    upgrade(&mount);
    let told = idshift(&[&"status", &mount.up("")]).out;
    assert!(told.contains("idmapped mounts of it: refused (idmap=deny)"), "{told}");
}

/// `owned-by=` below the kernel's idmap, before and after another program goes on.
fn everything_is_one_users() {
    needs_real_root("restart=on");
    restart::needs_resending();
    let dir = common::mount::temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o755, 500, 501);
    put_file(&lower.join("strange"), b"x", 0o644, 4242, 4242);
    let mount = Mount::of(dir, lower, "owned-by=1000:1000,restart=on");
    common::eventually("the server is there", || mount.server_pid() != mount.main_pid());
    let shown = Idmapped::of(&mount);
    let user = Caller::user(MORE + 1000);
    let works = |name: &str| {
        assert_eq!(owner(&shown.at("strange")), (MORE + 1000, MORE + 1000), "{name}");
        user.run(|| std::fs::write(shown.at(name), "x")).unwrap();
        assert_eq!(owner(&mount.low(name)), (500, 501), "{name}");
        // A change of owner is ignored, and so is that of whoever has the right to any.
        chown(&shown.at(name), Some(MORE + 7), Some(MORE + 7)).unwrap();
        assert_eq!(owner(&mount.low(name)), (500, 501), "{name}");
        assert_errno!(chmod(&shown.at(name), 0o4755), Errno::PERM);
        let other = Caller::user(MORE + 1001);
        assert!(other.run(|| std::fs::write(shown.at("strange"), "y")).is_err(), "{name}");
    };
    works("one");
    upgrade(&mount);
    works("two");
    restart::kill(&mount);
    works("three");
}

/// The price of it, for mounts that nobody idmaps: a caller whom the map has not gives names by
/// the rights of the directories alone, and stores nothing as anybody.
fn names_by_unmapped_callers() {
    let fill = |lower: &Path| {
        put_file(&lower.join("file"), b"x", 0o666, lo(1), lo(1));
        put_dir(&lower.join("closed"), 0o755, lo(1), lo(1));
    };
    let mount = Mount::with(common::MAP, fill);
    drop(Idmapped::of(&mount));
    let stranger = Caller::user(UNMAPPED);
    let go = |to: &str| stranger.run(|| renameat(CWD, mount.up("file"), CWD, mount.up(to)));
    assert_errno!(go("closed/file"), Errno::ACCESS);
    go("moved").unwrap();
    assert_eq!(owner(&mount.low("moved")), (lo(1), lo(1)));
}

fn refused_where_it_is_denied() {
    needs_real_root("idmapped mounts");
    needs_kernel((5, 12), "idmapped mounts");
    let mount = Mount::with(&format!("{},idmap=deny", common::MAP), |_| ());
    needs_idshift();
    let point = mount.beside().join("idmapped");
    put_dir(&point, 0o755, 0, 0);
    let options = "map=b:0:5000:10,backend=kernel";
    let called = idshift(&[&"mount", &"-o", &options, &mount.up(""), &point]);
    assert_eq!(called.code, 32);
    assert!(called.err.contains("idmap=deny"), "{}", called.err);
    let told = idshift(&[&"status", &mount.up("")]);
    assert!(told.out.contains("idmapped mounts of it: refused (idmap=deny)"), "{}", told.out);
}
