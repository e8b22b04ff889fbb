//! A single file as LOWER, mounted on a file: the same as the kernel's own bind mount of one, with its ids shifted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::common::mount::{MAP, Mount, free, is_mounted, lo, temp_dir};
use crate::common::program::{call, copy_program, idshift};
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{Caller, Errno, eventually, machine, owner, put_dir, put_file, raw, set_mode};

crate::common::tests! {
    it_is_read_and_written,
    others_than_its_owner,
    alone_is_shown,
    killed_server_is_replaced,
    by_an_ordinary_user,
    kernel_backend,
    what_is_about_directories_is_refused,
    quiet,
}

/// A mount of a file of the upper user 1000's.
fn mounted(options: &str) -> Mount {
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    put_file(&lower, b"hello\n", 0o644, lo(1000), lo(1000));
    Mount::of(dir, lower, &format!("{MAP}{options}"))
}

fn it_is_read_and_written() {
    for options in ["", ",io=cached", ",cache=none", ",ro"] {
        let mount = mounted(options);
        let stat = fs::metadata(&mount.upper).unwrap();
        assert!(stat.is_file(), "{options}");
        assert_eq!((stat.uid(), stat.gid(), stat.len()), (1000, 1000, 6), "{options}");
        assert_eq!(fs::read(&mount.upper).unwrap(), b"hello\n", "{options}");
        if options == ",ro" {
            let refused = OpenOptions::new().append(true).open(&mount.upper).unwrap_err();
            assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
            continue;
        }
        let mut file = OpenOptions::new().append(true).open(&mount.upper).unwrap();
        file.write_all(b"more\n").unwrap();
        assert_eq!(fs::read(&mount.lower).unwrap(), b"hello\nmore\n", "{options}");
        file.write_all(b"!").unwrap();
        drop(file);
        fs::write(&mount.upper, "new").unwrap();
        assert_eq!(fs::read(&mount.lower).unwrap(), b"new", "{options}");
        set_mode(&mount.upper, 0o600).unwrap();
        crate::common::chown(&mount.upper, Some(7), Some(8)).unwrap();
        assert_eq!(owner(&mount.lower), (lo(7), lo(8)), "{options}");
        assert_eq!(fs::metadata(&mount.lower).unwrap().mode() & 0o777, 0o600, "{options}");
        // What changes below shows.
        fs::write(&mount.lower, "changed below").unwrap();
        eventually("the new size shows", || fs::metadata(&mount.upper).unwrap().len() == 13);
        assert_eq!(fs::read(&mount.upper).unwrap(), b"changed below", "{options}");
        // Neither removed nor replaced: a mount point is busy.
        let busy = fs::remove_file(&mount.upper).unwrap_err();
        assert_eq!(Errno::from_io_error(&busy), Some(Errno::BUSY), "{options}");
    }
}

fn others_than_its_owner() {
    let mount = mounted("");
    set_mode(&mount.lower, 0o640).unwrap();
    let reads = |caller: &Caller| caller.run(|| fs::read(&mount.upper).is_ok());
    eventually("the mode shows", || !reads(&Caller::user(1001)));
    assert!(reads(&Caller::user(1000)));
    assert!(reads(&Caller::user(1001).groups(&[1000])));
    let writes =
        |caller: &Caller| caller.run(|| OpenOptions::new().append(true).open(&mount.upper).is_ok());
    assert!(writes(&Caller::user(1000)) && !writes(&Caller::user(1001).groups(&[1000])));
    // Writing takes set-ID bits away, as below.
    set_mode(&mount.upper, 0o6777).unwrap();
    Caller::user(1001).run(|| {
        OpenOptions::new().write(true).open(&mount.upper).unwrap().write_all(b"x").unwrap();
    });
    assert_eq!(fs::metadata(&mount.lower).unwrap().mode() & 0o7777, 0o777);
}

/// The server cannot reach what lies beside the file, and neither can anybody through the mount.
fn alone_is_shown() {
    needs_idshift();
    needs_real_root("looking into another process");
    let mount = mounted("");
    put_file(&mount.beside().join("secret"), b"x", 0o600, 0, 0);
    let pid = mount.server_pid();
    let room = || fs::read_dir(format!("/proc/{pid}/root")).unwrap().count();
    eventually("an empty room, but for /proc", || room() == 1);
    let seen: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|path| path.starts_with(mount.beside()))
        .collect();
    assert_eq!(seen, [] as [std::path::PathBuf; 0], "only the file itself, on a mount of its own");
    let below = fs::metadata(mount.upper.join("x")).unwrap_err();
    assert_eq!(Errno::from_io_error(&below), Some(Errno::NOTDIR));
}

fn killed_server_is_replaced() {
    needs_real_root("restart=on");
    let mount = mounted(",restart=on");
    eventually("the server is there", || mount.server_pid() != mount.main_pid());
    let file = OpenOptions::new().read(true).write(true).open(&mount.upper).unwrap();
    crate::common::restart::kill(&mount);
    file.write_all_at(b"HELLO", 0).unwrap();
    assert_eq!(fs::read(&mount.upper).unwrap(), b"HELLO\n");
    // And with another program.
    let copy = mount.beside().join("idshift");
    copy_program(&machine().binary, &copy);
    let called = idshift(&[&"upgrade", &mount.upper, &"--binary", &copy]);
    assert_eq!(called.code, 0, "{}", called.err);
    file.write_all_at(b"h", 0).unwrap();
    assert_eq!(fs::read(&mount.lower).unwrap(), b"hELLO\n");
    assert_eq!(owner(&mount.upper), (1000, 1000));
}

/// fusermount3 mounts on files, too.
fn by_an_ordinary_user() {
    needs_program("fusermount3");
    needs_real_root("becoming an ordinary user of the host");
    let dir = temp_dir();
    let home = dir.path().join("home");
    put_dir(&home, 0o755, 1000, 1000);
    let (lower, upper) = (home.join("lower"), home.join("upper"));
    put_file(&lower, b"content", 0o600, 1000, 1000);
    put_file(&upper, b"", 0o600, 1000, 1000);
    let copy = dir.path().join("idshift");
    copy_program(&machine().binary, &copy);
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups"]).arg(&copy);
        call({
            command.args(arguments).arg(&lower).arg(&upper);
            command
        })
    };
    let called = run(&["mount", "-o", "map=b:1000:1000:1"]);
    assert_eq!(called.code, 0, "{}", called.err);
    let seen = Caller::user(1000).run(|| fs::read(&upper));
    let written = Caller::user(1000).run(|| fs::write(&upper, "new"));
    free(&upper);
    assert_eq!(seen.unwrap(), b"content");
    written.unwrap();
    assert_eq!(fs::read(&lower).unwrap(), b"new");
}

fn kernel_backend() {
    needs_idshift();
    needs_real_root("an idmapped mount");
    let mount = mounted("");
    let point = mount.beside().join("kernel");
    put_file(&point, b"", 0o644, 0, 0);
    for backend in ["kernel", "auto"] {
        let options = format!("{MAP},backend={backend}");
        let called = idshift(&[&"mount", &"-o", &options, &mount.lower, &point]);
        let shown = (owner(&point), fs::read(&point).unwrap());
        free(&point);
        assert_eq!(called.code, 0, "{}", called.err);
        assert_eq!(shown, ((1000, 1000), b"hello\n".to_vec()), "{backend}");
    }
}

fn what_is_about_directories_is_refused() {
    needs_idshift();
    let dir = temp_dir();
    let [file, point, missing, directory] =
        ["file", "point", "missing", "directory"].map(|name| dir.path().join(name));
    put_file(&file, b"", 0o644, 0, 0);
    put_file(&point, b"", 0o644, 0, 0);
    put_dir(&directory, 0o755, 0, 0);
    let refused = |options: &str, at: &Path, code: i32, part: &str| {
        let options = format!("{MAP}{options}");
        let called = idshift(&[&"mount", &"-o", &options, &file, &at]);
        assert_eq!(called.code, code, "{options}: {}", called.err);
        assert!(called.err.contains(part), "{options}: {}", called.err);
        assert!(!is_mounted(at));
    };
    for option in ["guard=nosuid", "submounts", "X-mount.mkdir", "cache=coherent"] {
        let name = option.split_inclusive('=').next().unwrap();
        let name = if option.starts_with("cache") { option } else { name };
        refused(&format!(",{option}"), &point, 1, name);
    }
    refused("", &missing, 32, "with touch");
    refused("", &directory, 32, "only be mounted on a file");
    let fifo = dir.path().join("fifo");
    raw::mknod(&fifo, 0o010_644, 0).unwrap();
    let called = idshift(&[&"mount", &"-o", &MAP, &fifo, &point]);
    assert_eq!(called.code, 32);
    assert!(called.err.contains("neither a directory nor a file"), "{}", called.err);
    drop(File::open(&file).unwrap());
}

/// `-q`: warnings are left out, errors are not.
fn quiet() {
    needs_idshift();
    needs_real_root("a mount in the background");
    let dir = temp_dir();
    let [lower, upper] = ["lower", "upper"].map(|name| dir.path().join(name));
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    let said = |words: &[&str]| {
        let mut command = Command::new(&machine().binary);
        command.args(["mount", "-o", &format!("{MAP},backend=auto,cache=none")]).args(words);
        let called = call({
            command.arg(&lower).arg(&upper);
            command
        });
        free(&upper);
        (called.code, called.err)
    };
    assert!(said(&[]).1.contains("backend: "));
    assert_eq!(said(&["-q"]), (0, String::new()));
    assert_eq!(said(&["--quiet", "-o", "backend=fuse"]), (0, String::new()));
    assert!(said(&["-o", "backend=fuse"]).1.contains("set-user-ID"), "what -q leaves out");
    let (code, error) = said(&["-q", "-o", "map=b:0:0"]);
    assert!(code == 1 && error.contains("three numbers"), "{error}");
    assert_eq!(said(&["-q", "-v"]).0, 1, "one or the other");
}
