//! What a server can still do, and reach, when it serves (`sandbox=`).

use crate::common::{
    self, BASE, Caller, MAP, Mount, chown, eventually, lo, machine, mode, put_file, raw, runner,
    set_mode, tests,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

tests! {
    rights_that_are_kept,
    rights_by_options,
    nothing_in_reach,
    nothing_from_inside,
    only_its_own_files_from_inside,
    without_a_sandbox,
    threads_do_not_outlive_the_first,
    memory_keeps_its_length,
    ordinary_user_opens_the_lower_tree_alone,
    no_environment_and_no_dumps,
    nothing_inherited,
    work_outside_goes_on,
    helper_ends_with_its_server,
    helper_is_waited_for,
    helper_stays_when_everybody_is_to_report,
}

// capabilities(7)
const FOR_EVERYBODY: [u32; 9] = [0, 1, 2, 3, 4, 6, 7, 21, 31];
const LINUX_IMMUTABLE: u32 = 9;
const MKNOD: u32 = 27;

/// A mount whose lower tree holds a file, and its server, which has begun to serve.
fn serving(options: &str) -> (Mount, u32) {
    runner::needs_idshift();
    let mount = Mount::with(options, |low| put_file(&low.join("inside"), b"in", 0o644, BASE, BASE));
    assert_eq!(fs::read(mount.up("inside")).unwrap(), b"in");
    let server = mount.server_pid();
    (mount, server)
}

fn status(pid: u32, thread: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
}

fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.map(|task| task.file_name().into_string().unwrap()).collect()
}

fn set(capabilities: impl IntoIterator<Item = u32>) -> String {
    let bits = capabilities.into_iter().fold(0_u64, |all, one| all | 1 << one);
    format!("{bits:016x}")
}

/// Every thread has exactly the capabilities that the options need, can get no others, and makes
/// the listed system calls only.
fn rights_that_are_kept() {
    let (mount, server) = serving(MAP);
    // Several callers at once have it start more threads.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let path = mount.up(format!("file{n}"));
            scope.spawn(move || (0..50).for_each(|_| fs::write(&path, vec![0; 100_000]).unwrap()));
        }
    });
    let of_root = machine().real_root.then_some([LINUX_IMMUTABLE, MKNOD]);
    let expected = set(FOR_EVERYBODY.into_iter().chain(of_root.into_iter().flatten()));
    let all = threads(server);
    assert!(all.len() >= 3, "{all:?}");
    for thread in &all {
        let is = |key: &str, value: &str| {
            assert_eq!(status(server, thread, key), value, "{key} of thread {thread}");
        };
        is("CapPrm", &expected);
        is("CapEff", &expected);
        for empty in ["CapInh", "CapBnd", "CapAmb"] {
            is(empty, &set([]));
        }
        is("NoNewPrivs", "1");
        is("Seccomp", "2");
    }
    // The process's threads share what the first one has.
    assert!(status(server, &server.to_string(), "Groups").is_empty());
}

/// Where owners are kept in attributes, no device node is ever made.
fn rights_by_options() {
    runner::needs_real_root("only root of the machine makes device nodes");
    let own = |low: &Path| {
        chown(low, Some(0), Some(0)).unwrap();
        set_mode(low, 0o755).unwrap();
    };
    let mount = Mount::with(&format!("{MAP},ownership=xattr"), own);
    fs::read_dir(mount.up("")).unwrap(); // it has begun to serve
    let server = mount.server_pid();
    let expected = set(FOR_EVERYBODY.into_iter().chain([LINUX_IMMUTABLE]));
    assert_eq!(status(server, &server.to_string(), "CapEff"), expected);
}

/// In the server's mount namespace there is an empty directory, and its own descriptors.
fn nothing_in_reach() {
    let (_mount, server) = serving(MAP);
    let mounts = fs::read_to_string(format!("/proc/{server}/mounts")).unwrap();
    let points: BTreeSet<&str> =
        mounts.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(points, BTreeSet::from(["/", "/proc/self/fd"]), "{mounts}");
    assert_eq!(mounts.lines().count(), 2, "{mounts}");
    let mut found = Vec::new();
    list(Path::new(&format!("/proc/{server}/root")), &mut found);
    assert_eq!(found, ["proc", "proc/self", "proc/self/fd"]);
}

fn list(root: &Path, found: &mut Vec<String>) {
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        if dir == Path::new("proc/self/fd") {
            continue; // the descriptors themselves
        }
        for entry in fs::read_dir(root.join(&dir)).unwrap().flatten() {
            let path = dir.join(entry.file_name());
            found.push(path.to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                waiting.push(path);
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn nothing_from_inside() {
    common::skip("the calls of another process are made by hand on x86_64 only");
}

#[cfg(not(target_arch = "x86_64"))]
fn only_its_own_files_from_inside() {
    nothing_from_inside();
}

#[cfg(not(target_arch = "x86_64"))]
fn without_a_sandbox() {
    nothing_from_inside();
}

#[cfg(not(target_arch = "x86_64"))]
fn threads_do_not_outlive_the_first() {
    nothing_from_inside();
}

#[cfg(not(target_arch = "x86_64"))]
fn memory_keeps_its_length() {
    nothing_from_inside();
}

#[cfg(not(target_arch = "x86_64"))]
fn ordinary_user_opens_the_lower_tree_alone() {
    nothing_from_inside();
}

#[cfg(target_arch = "x86_64")]
use from_inside::{
    memory_keeps_its_length, nothing_from_inside, only_its_own_files_from_inside,
    ordinary_user_opens_the_lower_tree_alone, threads_do_not_outlive_the_first, without_a_sandbox,
};

/// The server's own thread is made to call.
#[cfg(target_arch = "x86_64")]
mod from_inside {
    use super::common::inject::Arg::{At, N};
    use std::fs;
    use std::path::Path;

    use super::common::inject::{self, Arg, Stopped};
    use super::common::mount::{free, temp_dir};
    use super::common::program::{copy_program, program, servers_of};
    use super::common::runner::{needs_program, needs_real_root};
    use super::common::{
        Caller, Errno, MAP, Mount, eventually, machine, put_dir, put_file, raw, restart, skip,
    };
    use super::{serving, status};

    const CWD: Arg<'static> = N(libc::AT_FDCWD as i64);
    const READ: Arg<'static> = N(libc::O_RDONLY as i64);

    fn stopped(server: u32) -> Stopped {
        match Stopped::stop(server) {
            Ok(stopped) => stopped,
            Err(errno) => skip(format!("needs ptrace(2): {errno}")),
        }
    }

    fn descriptors(server: u32) -> Vec<i64> {
        let fds = fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten();
        fds.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect()
    }

    /// No program, process, socket, mount, namespace, module, signal to others, executable memory.
    pub(super) fn nothing_from_inside() {
        let (mount, server) = serving(MAP);
        let inside = stopped(server);
        let exec = i64::from(libc::PROT_READ | libc::PROT_EXEC);
        let private = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let new_user = i64::from(libc::CLONE_NEWUSER);
        let calls: &[(&str, i64, &[Arg<'_>])] = &[
            ("execve", libc::SYS_execve, &[At(b"/proc/self/exe\0"), N(0), N(0)]),
            ("execveat", libc::SYS_execveat, &[N(0), At(b"\0"), N(0), N(0), N(0x1000)]),
            ("fork", libc::SYS_fork, &[]),
            ("vfork", libc::SYS_vfork, &[]),
            ("clone, as fork", libc::SYS_clone, &[N(libc::SIGCHLD.into()), N(0)]),
            ("clone, of a namespace", libc::SYS_clone, &[N(new_user | i64::from(libc::SIGCHLD))]),
            ("socket", libc::SYS_socket, &[N(libc::AF_INET.into()), N(1), N(0)]),
            ("socket, local", libc::SYS_socket, &[N(libc::AF_UNIX.into()), N(1), N(0)]),
            ("socketpair", libc::SYS_socketpair, &[N(1), N(1), N(0), At(&[0; 8])]),
            ("connect", libc::SYS_connect, &[N(3), At(&[0; 16]), N(16)]),
            ("sendto somebody", libc::SYS_sendto, &[N(3), N(0), N(0), N(0), At(&[1]), N(16)]),
            ("ptrace", libc::SYS_ptrace, &[N(16), N(1), N(0), N(0)]),
            ("process_vm_readv", libc::SYS_process_vm_readv, &[N(1), N(0), N(0), N(0), N(0), N(0)]),
            ("kill", libc::SYS_kill, &[N(1), N(0)]),
            ("tgkill another", libc::SYS_tgkill, &[N(1), N(1), N(0)]),
            ("mount", libc::SYS_mount, &[At(b"x\0"), At(b"/\0"), At(b"tmpfs\0"), N(0), N(0)]),
            ("umount", libc::SYS_umount2, &[At(b"/\0"), N(2)]),
            ("open_tree", libc::SYS_open_tree, &[CWD, At(b"/\0"), N(1)]),
            ("fsopen", libc::SYS_fsopen, &[At(b"proc\0"), N(0)]),
            ("chroot", libc::SYS_chroot, &[At(b"/\0")]),
            ("setns", libc::SYS_setns, &[N(3), N(0)]),
            ("unshare", libc::SYS_unshare, &[N(new_user)]),
            ("bpf", libc::SYS_bpf, &[N(0), N(0), N(0)]),
            ("init_module", libc::SYS_init_module, &[N(0), N(0), At(b"\0")]),
            ("kexec_load", libc::SYS_kexec_load, &[N(0), N(0), N(0), N(0)]),
            ("io_uring_setup", libc::SYS_io_uring_setup, &[N(1), N(0)]),
            ("perf_event_open", libc::SYS_perf_event_open, &[N(0), N(0), N(0), N(0), N(0)]),
            ("setuid", libc::SYS_setuid, &[N(1000)]),
            ("quotactl", libc::SYS_quotactl, &[N(0), N(0), N(0), N(0)]),
            ("seccomp", libc::SYS_seccomp, &[N(0), N(0), N(0)]),
            ("prctl, dumpable", libc::SYS_prctl, &[N(4), N(1)]),
            ("mmap to run", libc::SYS_mmap, &[N(0), N(4096), N(exec), N(private), N(-1), N(0)]),
            ("ioctl, of a terminal", libc::SYS_ioctl, &[N(0), N(0x5412), At(b"x")]),
            ("fcntl, signals", libc::SYS_fcntl, &[N(0), N(libc::F_SETOWN.into()), N(1)]),
            ("limits of others", libc::SYS_prlimit64, &[N(1), N(7), N(0), N(0)]),
        ];
        for (name, number, args) in calls {
            assert_eq!(inside.call(*number, args), Err(Errno::PERM), "{name}");
        }
        assert_eq!(inside.call(libc::SYS_clone3, &[N(0), N(0)]), Err(Errno::NOSYS), "clone3");
        assert_eq!(inside.call(libc::SYS_getpid, &[]), Ok(server.into()), "it could call");
        drop(inside);
        assert_eq!(fs::read(mount.up("inside")).unwrap(), b"in", "and it goes on");
    }

    /// No path, no descriptor, no handle leads to a file that is not in the lower tree; and what is
    /// in it is opened if it is a file.
    pub(super) fn only_its_own_files_from_inside() {
        let (mount, server) = serving(MAP);
        fs::write(mount.beside().join("secret"), "secret").unwrap();
        fs::write(mount.low("mine"), "mine").unwrap();
        let up = "../".repeat(20);
        let inside = stopped(server);
        let open = |dir: Arg<'_>, path: &str, flags: Arg<'_>| {
            inside.call(libc::SYS_openat, &[dir, At(format!("{path}\0").as_bytes()), flags])
        };
        let secret = mount.beside().join("secret");
        let secret = secret.to_str().unwrap();
        for path in ["/etc/passwd", "/dev/null", "/proc/1/root", "/proc/self/root", secret] {
            assert_eq!(open(CWD, path, READ), Err(Errno::NOENT), "{path}");
        }
        for path in ["/proc/self/fd/../../1/root/etc", "/proc/self/fd/../status"] {
            assert_eq!(open(CWD, path, READ), Err(Errno::NOENT), "{path}");
        }
        let mut lower = None;
        for fd in descriptors(server) {
            for path in ["etc/passwd", secret.trim_start_matches('/')] {
                let led = open(N(fd), &format!("{up}{path}"), READ);
                assert!(matches!(led, Err(Errno::NOENT | Errno::NOTDIR)), "{fd}: {led:?}");
            }
            if open(N(fd), "mine", READ).is_ok() {
                lower = Some(fd);
            }
        }
        let lower = lower.expect("it can open its own files");
        let none = open(N(lower), "../secret", READ);
        assert_eq!(none, Err(Errno::NOENT), "beside the lower directory");
        if machine().real_root {
            let device = i64::try_from(rustix::fs::makedev(1, 3)).unwrap();
            let kind = i64::from(libc::S_IFCHR | 0o666);
            let args = [N(lower), At(b"null\0"), N(kind), N(device)];
            assert_eq!(inside.call(libc::SYS_mknodat, &args), Ok(0));
            assert_eq!(open(N(lower), "null", READ), Err(Errno::ACCESS), "a device");
        }
        let handle = handle_elsewhere(&mount);
        let by_handle =
            |mount: i64| inside.call(libc::SYS_open_by_handle_at, &[N(mount), At(&handle), READ]);
        for fd in descriptors(server).into_iter().chain([libc::AT_FDCWD.into()]) {
            assert!(by_handle(fd).is_err(), "a file of another file system, by {fd}");
        }
    }

    /// A server that goes through fusermount3 has no mount namespace of its own.
    pub(super) fn ordinary_user_opens_the_lower_tree_alone() {
        needs_program("fusermount3");
        needs_real_root("becoming an ordinary user of the host");
        if raw::landlock_version() < 2 {
            skip("needs Landlock's second version (Linux 5.19)");
        }
        let dir = temp_dir();
        let [lower, upper, beside] = ["lower", "upper", "beside"].map(|name| dir.path().join(name));
        for path in [&lower, &upper, &beside] {
            put_dir(path, 0o755, 1000, 1000);
        }
        put_file(&beside.join("diary"), b"secret", 0o600, 1000, 1000);
        let copy = dir.path().join("idshift");
        copy_program(&machine().binary, &copy);
        let called = Caller::user(1000).run(|| {
            let map = "map=b:1000:1000:1";
            let called = program(&copy, &[&"mount", &"-o", &map, &lower, &upper]);
            if called.code == 0 {
                works_in(&upper);
            }
            called
        });
        let tried = (called.code == 0).then(|| from_inside_of(servers_of(&upper)[0], &beside));
        free(&upper);
        assert_eq!(called.code, 0, "{}", called.err);
        let (opened, made, listed) = tried.unwrap();
        let no = Err(Errno::ACCESS);
        assert_eq!((opened, made, listed), (no, no, no), "a file, a new one, a directory beside");
    }

    /// All that needs a right of its own of Landlock.
    fn works_in(dir: &Path) {
        let at = |name: &str| dir.join(name);
        for name in ["a", "b"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("a/file"), "a longer content").unwrap();
        fs::rename(at("a/file"), at("b/file")).unwrap();
        fs::hard_link(at("b/file"), at("a/link")).unwrap();
        fs::OpenOptions::new().write(true).open(at("b/file")).unwrap().set_len(8).unwrap();
        raw::truncate(&at("b/file"), 1).unwrap();
        assert_eq!(fs::read(at("a/link")).unwrap(), b"a");
        std::os::unix::fs::symlink("to", at("a/symlink")).unwrap();
        for (name, kind) in [("a/fifo", libc::S_IFIFO), ("a/socket", libc::S_IFSOCK)] {
            raw::mknod(&at(name), kind | 0o600, 0).unwrap();
        }
        assert_eq!(fs::read_dir(at("a")).unwrap().count(), 4);
        fs::remove_dir_all(at("a")).unwrap();
    }

    /// What opening, making and listing is answered beside the lower directory.
    fn from_inside_of(
        server: u32,
        beside: &Path,
    ) -> (Result<u64, Errno>, Result<u64, Errno>, Result<u64, Errno>) {
        let inside = stopped(server);
        let open = |path: &Path, flags: i32| {
            let path = format!("{}\0", path.display());
            let args = [CWD, At(path.as_bytes()), N(flags.into()), N(0o600)];
            inside.call(libc::SYS_openat, &args)
        };
        (
            open(&beside.join("diary"), libc::O_RDONLY),
            open(&beside.join("new"), libc::O_WRONLY | libc::O_CREAT),
            open(beside, libc::O_RDONLY | libc::O_DIRECTORY),
        )
    }

    /// The handle of a file that is on no file system that the server has anything open on.
    fn handle_elsewhere(mount: &Mount) -> Vec<u8> {
        let other = mount.beside().join("other");
        fs::create_dir(&other).unwrap();
        rustix::mount::mount("other", &other, "tmpfs", rustix::mount::MountFlags::empty(), None)
            .unwrap();
        fs::write(other.join("file"), "x").unwrap();
        let file = fs::File::open(other.join("file")).unwrap();
        let handle = inject::file_handle(std::os::fd::AsFd::as_fd(&file));
        rustix::mount::unmount(&other, rustix::mount::UnmountFlags::DETACH).unwrap();
        handle.unwrap()
    }

    /// A server whose first thread ends by itself shows as dead, and others of its threads would
    /// share their descriptors with the next server before that is confined.
    pub(super) fn threads_do_not_outlive_the_first() {
        let mount = restarting();
        let server = mount.server_pid();
        stopped(server).end_thread().unwrap();
        eventually("all of it has ended", || !Path::new(&format!("/proc/{server}/task")).exists());
        eventually("a new server serves", || {
            mount.server_pid() != server && fs::read(mount.up("inside")).is_ok()
        });
    }

    fn restarting() -> Mount {
        let mount = restart::mounted("");
        fs::write(mount.up("inside"), "in").unwrap();
        mount
    }

    /// Whoever maps the memory that servers and supervisor share must not be killed by its end.
    pub(super) fn memory_keeps_its_length() {
        let mount = restarting();
        let server = mount.server_pid();
        let is_memory = |fd: &i64| {
            let leads_to = fs::read_link(format!("/proc/{server}/fd/{fd}")).unwrap_or_default();
            leads_to.to_string_lossy().starts_with("/memfd:idshift")
        };
        let memory = descriptors(server).into_iter().find(is_memory).expect("the memory");
        let inside = stopped(server);
        for length in [0, 1 << 50] {
            let cut = inside.call(libc::SYS_ftruncate, &[N(memory), N(length)]);
            assert_eq!(cut, Err(Errno::PERM), "{length}");
        }
    }

    /// The same calls, where nothing stops them: so the tests above can fail.
    pub(super) fn without_a_sandbox() {
        let (_mount, server) = serving(&format!("{MAP},sandbox=off"));
        assert_eq!(status(server, &server.to_string(), "Seccomp"), "0");
        let inside = stopped(server);
        assert!(inside.call(libc::SYS_openat, &[CWD, At(b"/etc/passwd\0"), READ]).is_ok());
        let socket = [N(libc::AF_UNIX.into()), N(1), N(0)];
        assert!(inside.call(libc::SYS_socket, &socket).is_ok());
        let exec = i64::from(libc::PROT_READ | libc::PROT_EXEC);
        let private = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let map = [N(0), N(4096), N(exec), N(private), N(-1), N(0)];
        assert!(inside.call(libc::SYS_mmap, &map).is_ok());
    }
}

/// What was in its environment is not in its memory; it leaves no core dump.
fn no_environment_and_no_dumps() {
    let (_mount, server) = serving(MAP);
    let environment = fs::read(format!("/proc/{server}/environ")).unwrap();
    assert!(environment.iter().all(|byte| *byte == 0), "{}", environment.escape_ascii());
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
}

/// A directory that whoever started the server had open is not open in it.
fn nothing_inherited() {
    runner::needs_idshift();
    let leaked = fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let (_mount, server) = serving(MAP);
    drop(leaked);
    for entry in fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten() {
        let leads_to = fs::read_link(entry.path()).unwrap_or_default();
        assert_ne!(leads_to, Path::new("/etc"), "{}", entry.path().display());
    }
}

/// Callers are looked up for the server, and SIGTERM still unmounts.
fn work_outside_goes_on() {
    let (mount, server) = serving(MAP);
    let file = mount.up("inside");
    // A member of the file's group keeps its set-group-ID bit; the server has to know the groups.
    chown(&mount.low("inside"), Some(lo(1000)), Some(lo(2000))).unwrap();
    set_mode(&mount.low("inside"), 0o2640).unwrap();
    eventually("what changed below shows", || mode(&file) == 0o2640);
    Caller::user(1000).groups(&[2000]).run(|| fs::write(&file, "member").unwrap());
    assert_eq!(mode(&mount.low("inside")), 0o2640, "a member's write keeps the bit");
    let point = mount.up("").canonicalize().unwrap();
    raw::kill(server, libc::SIGTERM).unwrap();
    eventually("it has gone", || !common::mount::is_mounted(&point));
}

/// No zombie is left where nobody waits for the children of others.
fn helper_is_waited_for() {
    let (mount, server) = serving(MAP);
    let helper = helper_of(server);
    mount.unmount();
    assert!(!Path::new(&format!("/proc/{helper}")).exists(), "it is gone when the server is");
}

fn helper_of(server: u32) -> u32 {
    let children = format!("/proc/{server}/task/{server}/children");
    let Ok(children) = fs::read_to_string(children) else {
        common::skip("needs /proc/PID/task/TID/children")
    };
    let helpers: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(helpers.len(), 1, "one process works for it outside");
    helpers[0].parse().unwrap()
}

/// A server that is killed takes its helper with it.
fn helper_ends_with_its_server() {
    let (mount, server) = serving(MAP);
    let helper = helper_of(server);
    let comm = format!("/proc/{helper}/comm");
    assert_eq!(fs::read_to_string(&comm).unwrap(), "idshift-helper\n");
    raw::kill(server, libc::SIGKILL).unwrap();
    let state = format!("/proc/{helper}/stat");
    eventually("the helper has ended", || {
        // A zombie has ended too.
        fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "))
    });
    rustix::mount::unmount(mount.up(""), rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// `pkill -USR1 idshift` asks the server for its report, and finds the helper too.
fn helper_stays_when_everybody_is_to_report() {
    let (mount, server) = serving(MAP);
    let helper = helper_of(server);
    for pid in [server, helper] {
        raw::kill(pid, libc::SIGUSR1).unwrap();
    }
    let log = mount.beside().join("server.log");
    let told = || fs::read_to_string(&log).unwrap().contains("is shown at");
    eventually("the server has told", told);
    // It unmounts, which only a helper that is there can do.
    let point = mount.up("").canonicalize().unwrap();
    raw::kill(server, libc::SIGTERM).unwrap();
    eventually("it has gone", || !common::mount::is_mounted(&point));
}
