//! What is wrong is said before anything is mounted: with the right exit code, and naming it.

use std::path::PathBuf;

use crate::common::mount::{free, is_mounted, mount_line, temp_dir};
use crate::common::program::{Called, idshift};
use crate::common::{self, lo, put_dir, put_file};
use tempfile::TempDir;

crate::common::tests!(
    wrong_options_are_named,
    slips_are_answered_with_the_nearest_name,
    wrong_maps_are_explained,
    wrong_paths_are_explained,
    wrong_command_lines,
    generic_options_reach_the_kernel,
    options_for_others_are_passed_over,
    later_options_win,
    source_and_type,
    odd_paths,
    remount_changes_flags,
    help_and_version,
    map_explain,
    probe_says_what_is_here,
);

/// A lower directory and a place to mount it.
struct Place {
    dir: TempDir,
    lower: PathBuf,
    upper: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = temp_dir();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        put_dir(&lower, 0o755, lo(0), lo(0));
        put_dir(&upper, 0o755, 0, 0);
        put_file(&lower.join("file"), b"content", 0o644, lo(0), lo(0));
        Self { dir, lower, upper }
    }

    fn mount(&self, options: &str) -> Called {
        idshift(&[&"mount", &"-o", &options, &self.lower, &self.upper])
    }

    /// The options that `/proc/mounts` shows of a mount with these and the usual map.
    fn shown(&self, options: &str) -> Vec<String> {
        let called = self.mount(&format!("{},{options}", common::MAP));
        assert_eq!(called.code, 0, "{options}: {}", called.err);
        let shown = mount_line(&self.upper).unwrap()[3].split(',').map(str::to_owned).collect();
        free(&self.upper);
        shown
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        free(&self.upper);
    }
}

fn wrong_options_are_named() {
    let place = Place::new();
    for (option, named) in [
        ("nosuchthing", "nosuchthing"),
        ("nosuchthing=5", "nosuchthing"),
        ("cache=sometimes", "cache"),
        ("cache=ttl:-1", "cache"),
        ("cache=ttl:soon", "cache"),
        ("cache", "cache"),
        ("locks=maybe", "locks"),
        ("act_as=somebody", "act_as"),
        ("backend=none", "backend"),
        ("threads=0", "threads"),
        ("threads=many", "threads"),
        ("threads=-4", "threads"),
        ("log=shout", "log"),
        ("fsname=", "fsname"),
        ("ro=yes", "ro"),
        ("subtype=other", "subtype"),
        ("allow_root", "allow_root"),
        ("uid=5", "uid"),
        ("auto_unmount", "auto_unmount"),
    ] {
        let called = place.mount(&format!("{},{option}", common::MAP));
        assert_eq!(called.code, 1, "{option}: {}", called.err);
        assert!(called.err.contains(named), "{option}: {}", called.err);
        assert!(called.out.is_empty(), "{option}: {}", called.out);
        assert!(!is_mounted(&place.upper), "{option}");
    }
}

fn slips_are_answered_with_the_nearest_name() {
    let place = Place::new();
    for (slip, meant) in [
        ("nosiud", "nosuid"),
        ("noexce", "noexec"),
        ("read_only", "'idshift mount --help'"),
        ("thread=4", "threads"),
        ("catche=none", "cache"),
        ("alow_other", "allow_other"),
        ("maps=identity", "map"),
    ] {
        let called = place.mount(&format!("{},{slip}", common::MAP));
        assert_eq!(called.code, 1, "{slip}: {}", called.err);
        assert!(called.err.contains(meant), "{slip}: {}", called.err);
    }
}

fn wrong_maps_are_explained() {
    let place = Place::new();
    for (map, named) in [
        ("map=b:0:100000:0", "count"),
        ("map=b:0:100000", "b:0:100000"),
        ("map=b:0:100000:65536:9", "b:0:100000:65536:9"),
        ("map=b:zero:100000:1", "zero"),
        ("map=x:0:100000:1", "x:0:100000:1"),
        ("map=b:0:4294967290:10", "4294967290"),
        ("map=b:4294967295:0:1", "4294967295"),
        ("map=b:0:100000:10,map=b:5:200000:10", "5:200000:10"),
        ("map=b:0:100000:10,map=b:50:100005:10", "50:100005:10"),
        ("map=offset:many", "many"),
        ("map=file:/nonexistent/map", "/nonexistent/map"),
        ("map=b:-1:0:1", "-1"),
        ("map=", "map"),
        ("map", "map"),
        ("ro", "map"),
    ] {
        let called = place.mount(map);
        assert_eq!(called.code, 1, "{map}: {}", called.err);
        assert!(called.err.contains(named), "{map}: {}", called.err);
        assert!(!is_mounted(&place.upper), "{map}");
    }
}

fn wrong_paths_are_explained() {
    let place = Place::new();
    let (lower, upper, dir) = (&place.lower, &place.upper, place.dir.path());
    put_dir(&lower.join("inside"), 0o755, 0, 0);
    let missing = dir.join("missing");
    let file = lower.join("file");
    let inside = lower.join("inside");
    std::os::unix::fs::symlink(&inside, dir.join("link")).unwrap();
    let link = dir.join("link");
    for (from, to, named) in [
        (&missing, upper, &missing),
        (&file, upper, upper), // a file is shown at a file
        (lower, &missing, &missing),
        (lower, &file, &file),
        (lower, &inside, &inside),
        (lower, &link, &inside),
    ] {
        // Without submounts a server of root's never meets what lies inside.
        // Of a single file it is refused for a reason of its own (`one_file`).
        let submounts = if from == &file { "" } else { ",submounts" };
        let options = format!("{}{submounts}", common::MAP);
        let called = idshift(&[&"mount", &"-o", &options, from, to]);
        let said = format!("{} at {}: {}", from.display(), to.display(), called.err);
        assert_eq!(called.code, 32, "{said}");
        assert!(called.err.contains(&*named.to_string_lossy()), "{said}");
        assert!(!is_mounted(to), "{said}");
    }
    // A mount point that is taken already.
    assert_eq!(place.mount(common::MAP).code, 0);
    let again = place.mount(common::MAP);
    assert_eq!(again.code, 32);
    assert!(again.err.contains("busy"), "{}", again.err);
}

fn wrong_command_lines() {
    for arguments in [
        &[][..],
        &["mount"],
        &["mount", "/tmp"],
        &["mount", "-x", "/tmp", "/mnt"],
        &["mount", "/tmp", "/mnt", "/more"],
        &["nosuchcommand"],
        &["map"],
        &["map", "explain"],
        &["umount"],
    ] {
        let words: Vec<&dyn AsRef<std::ffi::OsStr>> =
            arguments.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>).collect();
        let called = idshift(&words);
        assert_eq!(called.code, 1, "{arguments:?}: {}", called.err);
        assert!(!called.err.is_empty(), "{arguments:?}");
    }
    let called = idshift(&[&"umount", &"/nonexistent/mount"]);
    assert_eq!(called.code, 32, "{}", called.err);
    assert!(called.err.contains("/nonexistent/mount"), "{}", called.err);
    let called = idshift(&[&"umount", &"/"]);
    assert_ne!(called.code, 0, "not every mount is ours to take away");
    assert!(is_mounted(std::path::Path::new("/")));
}

fn generic_options_reach_the_kernel() {
    let place = Place::new();
    for option in
        ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "dirsync", "lazytime"]
    {
        assert!(place.shown(option).contains(&option.to_owned()), "{option}");
    }
    let plain = place.shown("rw");
    assert!(plain.contains(&"rw".to_owned()));
    assert!(plain.contains(&"default_permissions".to_owned()), "{plain:?}");
    assert!(plain.contains(&"allow_other".to_owned()), "{plain:?}");
    assert!(!plain.contains(&"noexec".to_owned()));
}

fn options_for_others_are_passed_over() {
    let place = Place::new();
    let options = "_netdev,nofail,noauto,x-systemd.automount,x-gvfs-show,comment=hello";
    place.shown(options);
    place.shown("x-systemd.requires=/some/path,auto,defaults,silent");
    let shown = place.shown("user");
    for implied in ["nosuid", "nodev", "noexec"] {
        assert!(shown.contains(&implied.to_owned()), "{shown:?}");
    }
    assert!(!place.shown("users,exec").contains(&"noexec".to_owned()));
}

fn later_options_win() {
    let place = Place::new();
    assert!(place.shown("ro,rw").contains(&"rw".to_owned()));
    assert!(place.shown("rw,ro").contains(&"ro".to_owned()));
    assert!(!place.shown("noexec,exec").contains(&"noexec".to_owned()));
}

fn source_and_type() {
    let place = Place::new();
    assert_eq!(place.mount(common::MAP).code, 0);
    let line = mount_line(&place.upper).unwrap();
    assert_eq!(line[0], place.lower.to_str().unwrap());
    assert_eq!(line[2], "fuse.idshift");
    free(&place.upper);
    assert_eq!(place.mount(&format!("{},fsname=my-files", common::MAP)).code, 0);
    assert_eq!(mount_line(&place.upper).unwrap()[0], "my-files");
}

fn odd_paths() {
    let dir = temp_dir();
    for name in ["with a blank", "comma,comma", "-dash", "back\\slash", "\u{fc}ml\u{e4}ut"] {
        let (lower, upper) = (dir.path().join(format!("{name}.l")), dir.path().join(name));
        put_dir(&lower, 0o755, lo(0), lo(0));
        put_dir(&upper, 0o755, 0, 0);
        std::fs::write(lower.join("file"), name).unwrap();
        let called = idshift(&[&"mount", &"-o", &common::MAP, &lower, &upper]);
        assert_eq!(called.code, 0, "{name}: {}", called.err);
        assert_eq!(std::fs::read(upper.join("file")).unwrap(), name.as_bytes());
        let called = idshift(&[&"umount", &upper]);
        assert_eq!(called.code, 0, "{name}: {}", called.err);
        assert!(!upper.join("file").exists());
    }
}

fn remount_changes_flags() {
    let place = Place::new();
    assert_eq!(place.mount(common::MAP).code, 0);
    let called = place.mount("remount,ro");
    assert_eq!(called.code, 0, "{}", called.err);
    let shown = || mount_line(&place.upper).unwrap()[3].clone();
    assert!(shown().split(',').any(|option| option == "ro"), "{}", shown());
    assert!(std::fs::write(place.upper.join("new"), "").is_err());
    assert_eq!(std::fs::read(place.upper.join("file")).unwrap(), b"content");
    assert_eq!(place.mount("remount,rw").code, 0);
    std::fs::write(place.upper.join("new"), "").unwrap();
    free(&place.upper);
    assert_ne!(place.mount("remount,ro").code, 0, "nothing is mounted there");
}

fn help_and_version() {
    for arguments in [&["--help"][..], &["mount", "--help"], &["map", "--help"], &["--version"]] {
        let words: Vec<&dyn AsRef<std::ffi::OsStr>> =
            arguments.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>).collect();
        let called = idshift(&words);
        assert_eq!(called.code, 0, "{arguments:?}");
        assert!(!called.out.is_empty());
    }
    let help = idshift(&[&"mount", &"--help"]).out;
    for word in ["map=", "cache=", "nosuid", "threads", "Exit codes"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    let version = idshift(&[&"--version"]).out;
    assert_eq!(version, format!("idshift {}\n", env!("CARGO_PKG_VERSION")));
    let more = idshift(&[&"--version", &"--verbose"]).out;
    for part in [version.as_str(), "release", "debug", "FUSE_PASSTHROUGH"] {
        let is_other_profile = part == if cfg!(debug_assertions) { "release" } else { "debug" };
        assert_eq!(more.contains(part), !is_other_profile, "{part}: {more}");
    }
    for wrong in [&["--verbose"][..], &["--version", "demo"], &[]] {
        let words: Vec<&dyn AsRef<std::ffi::OsStr>> =
            wrong.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>).collect();
        assert_eq!(idshift(&words).code, 1, "{wrong:?}");
    }
}

fn map_explain() {
    let called = idshift(&[&"map", &"explain", &"b:0:100000:65536"]);
    assert_eq!(called.code, 0, "{}", called.err);
    for number in ["0", "65535", "100000", "165535"] {
        assert!(called.out.contains(number), "{number}: {}", called.out);
    }
    let called = idshift(&[&"map", &"explain", &"u:5:6:1", &"g:7:8:1"]);
    assert_eq!(called.code, 0);
    assert!(called.out.contains('5') && called.out.contains('8'), "{}", called.out);
    let called = idshift(&[&"map", &"explain", &"b:0:100000"]);
    assert_eq!(called.code, 1);
    assert!(called.err.contains("b:0:100000"), "{}", called.err);
}

fn probe_says_what_is_here() {
    let place = Place::new();
    let called = idshift(&[&"probe", &place.lower]);
    assert_eq!(called.code, 0, "{}", called.err);
    for word in ["FUSE", "passthrough", "xattr", "idmapped"] {
        let found = called.out.to_lowercase().contains(&word.to_lowercase());
        assert!(found, "{word} is missing in:\n{}", called.out);
    }
    assert!(!is_mounted(&place.upper));
}
