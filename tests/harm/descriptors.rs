//! What the descriptors of a confined server are good for: nothing but the lower tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::inject::Arg::{At, N};
use crate::common::inject::{self, Arg, Stopped};
use crate::common::mount::{free, is_mounted, temp_dir};
use crate::common::runner::needs_real_root;
use crate::common::{Errno, MAP, Mount, eventually, machine, restart, skip};

crate::common::tests! {
    none_is_on_a_mount_of_the_host,
    none_leads_to_another_file_system,
    those_that_count_stay_where_they_are,
    helper_does_not_believe_that_the_mount_has_ended,
    guard_does_not_outlive_its_line,
}

fn stopped(server: u32) -> Stopped {
    match Stopped::stop(server) {
        Ok(stopped) => stopped,
        Err(errno) => skip(format!("needs ptrace(2): {errno}")),
    }
}

/// A mount with these options, and its server, which has begun to serve.
fn serving(options: &str) -> (Mount, u32) {
    needs_real_root("handles and fanotify");
    let mount = if options.contains("restart=on") {
        restart::mounted(&options.replace("restart=on", ""))
    } else {
        Mount::with(&format!("{MAP},{options}"), |_| ())
    };
    fs::write(mount.up("inside"), "in").unwrap();
    let server = mount.server_pid();
    (mount, server)
}

/// What a server has open: by number, where it leads and on which mount it is.
fn descriptors(server: u32) -> BTreeMap<i64, (PathBuf, u64)> {
    let fds = fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten();
    let one = |fd: fs::DirEntry| {
        let number = fd.file_name().to_str()?.parse().ok()?;
        let leads_to = fs::read_link(fd.path()).ok()?;
        let info = fs::read_to_string(format!("/proc/{server}/fdinfo/{number}")).ok()?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        Some((number, (leads_to, mount.parse().ok()?)))
    };
    fds.filter_map(one).collect()
}

fn mounts_of_the_host() -> BTreeSet<u64> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

const OPTIONS: [&str; 6] = [
    "log=info",
    "cache=coherent",
    "guard=hide",
    "locks=lower,cache=none",
    "restart=on,",
    "restart=on,guard=hide,locks=lower,",
];

/// By such a one a mode can be changed, a device or file opened once more, and by a directory's `..`
/// everything is reached that is mounted.
fn none_is_on_a_mount_of_the_host() {
    for options in OPTIONS {
        let (_mount, server) = serving(options);
        let host = mounts_of_the_host();
        for (number, (leads_to, on)) in descriptors(server) {
            assert!(!host.contains(&on), "{options}: {number} is {}", leads_to.display());
        }
    }
    // A terminal, or a file to which the log is written, is the helper's.
    let dir = temp_dir();
    let [lower, upper, log] = ["lower", "upper", "log"].map(|name| dir.path().join(name));
    fs::create_dir(&lower).unwrap();
    fs::create_dir(&upper).unwrap();
    let out = File::create(&log).unwrap();
    let mut command = Command::new(&machine().binary);
    command.args(["mount", "-f", "-o", "map=identity"]).args([&lower, &upper]);
    command.stdin(File::open("/etc/passwd").unwrap()).stdout(out.try_clone().unwrap()).stderr(out);
    let mut server = command.spawn().unwrap();
    eventually("it is mounted", || is_mounted(&upper));
    fs::write(upper.join("file"), "x").unwrap();
    let (open, host) = (descriptors(server.id()), mounts_of_the_host());
    free(&upper);
    server.wait().unwrap();
    let bad: Vec<_> = open.iter().filter(|(_, (_, on))| host.contains(on)).collect();
    assert!(bad.is_empty(), "{bad:?}");
    let told = fs::read_to_string(&log).unwrap();
    assert!(told.contains("is shown at") && told.contains("unmounted"), "{told}");
}

fn handle(path: &Path) -> Vec<u8> {
    inject::file_handle(File::open(path).unwrap().as_fd()).unwrap()
}

/// Whoever has any file of a file system can open all others of it by their handles, and listen for
/// these handles.
fn none_leads_to_another_file_system() {
    let paths = ["/dev", "/run", "/"];
    let elsewhere = paths.map(|path| handle(Path::new(path)));
    for options in OPTIONS {
        let (mount, server) = serving(options);
        let (inside, all) = (stopped(server), descriptors(server));
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        // The lower directory, which may be covered, is on the file system of the one that holds it.
        let is_lower = |path: &str| device(Path::new(path)) == device(mount.beside());
        assert!(!is_lower("/dev"));
        for fd in all.keys().copied().chain([libc::AT_FDCWD.into()]) {
            for (handle, path) in elsewhere.iter().zip(paths) {
                let open = [N(fd), At(handle), N(libc::O_RDONLY.into())];
                let opened = inside.call(libc::SYS_open_by_handle_at, &open);
                assert!(opened.is_err() || is_lower(path), "{options}: {fd} to {path}");
            }
            for group in all.keys() {
                let flags = i64::from(libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM);
                let events = i64::try_from(libc::FAN_CREATE | libc::FAN_ONDIR).unwrap();
                for path in [N(0), At(b".\0")] {
                    let mark = [N(*group), N(flags), N(events), N(fd), path];
                    let marked = inside.call(libc::SYS_fanotify_mark, &mark);
                    assert_eq!(marked, Err(Errno::PERM), "{options}: {group} listens to {fd}");
                }
            }
        }
    }
}

/// The filter knows them by their numbers.
fn those_that_count_stay_where_they_are() {
    for options in OPTIONS {
        let (mount, server) = serving(options);
        let own = handle(mount.beside());
        let (inside, all) = (stopped(server), descriptors(server));
        let opens = |fd: i64| {
            inside.call(libc::SYS_open_by_handle_at, &[N(fd), At(&own), N(libc::O_RDONLY.into())])
        };
        let pinned: Vec<i64> = all.keys().copied().filter(|fd| opens(*fd).is_ok()).collect();
        assert!(!pinned.is_empty(), "{options}: its own files");
        let groups = all.iter().filter(|(_, (to, _))| to.to_string_lossy().contains("[fanotify]"));
        for fd in pinned.iter().copied().chain(groups.map(|(fd, _)| *fd)) {
            let calls: [(&str, i64, &[Arg<'_>]); 4] = [
                ("close", libc::SYS_close, &[N(fd)]),
                ("dup2", libc::SYS_dup2, &[N(0), N(fd)]),
                ("dup3", libc::SYS_dup3, &[N(0), N(fd), N(0)]),
                ("close_range", libc::SYS_close_range, &[N(fd), N(fd), N(0)]),
            ];
            for (name, number, args) in calls {
                assert_eq!(inside.call(number, args), Err(Errno::PERM), "{options}: {name} {fd}");
            }
        }
    }
}

fn sockets(server: u32) -> impl Iterator<Item = i64> {
    let is_socket = |path: &Path| path.to_string_lossy().starts_with("socket:");
    descriptors(server).into_iter().filter(move |(_, (to, _))| is_socket(to)).map(|(fd, _)| fd)
}

/// Whether the lower directory is covered.
fn is_guarded(mount: &Mount) -> bool {
    is_mounted(&mount.low("").canonicalize().unwrap())
}

/// A server that was taken over tells the helper that the mount has ended, so that the guard be
/// undone while it goes on.
fn helper_does_not_believe_that_the_mount_has_ended() {
    for options in ["guard=hide", "restart=on,guard=hide,"] {
        let (mount, server) = serving(options);
        assert!(is_guarded(&mount));
        let inside = stopped(server);
        for socket in sockets(server) {
            inside.call(libc::SYS_write, &[N(socket), At(b"F\0\0\0\0\0\0\0\0"), N(9)]).ok();
        }
        drop(inside);
        eventually("it is undone, or was not", || !is_guarded(&mount));
        // In vain, where the mount had gone on.
        assert!(fs::read(mount.up("inside")).is_err(), "{options}: the mount has ended with it");
    }
}

/// It closes what leads to the helper, with which the lock of the guard would end.
fn guard_does_not_outlive_its_line() {
    let (mount, server) = serving("restart=on,guard=hide,");
    let inside = stopped(server);
    for socket in sockets(server) {
        inside.call(libc::SYS_close, &[N(socket)]).ok();
    }
    drop(inside);
    eventually("the mount has ended", || fs::read(mount.up("inside")).is_err());
    assert!(is_guarded(&mount), "until somebody undoes it");
    rustix::mount::unmount(mount.up(""), rustix::mount::UnmountFlags::DETACH).unwrap();
    let low = mount.low("");
    eventually("it can be undone", || {
        crate::common::program::idshift(&[&"unguard", &low]).code == 0 && !is_guarded(&mount)
    });
}
