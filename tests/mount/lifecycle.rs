//! A mount from its beginning to its end, however it ends.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use crate::common::mount::{free, is_mounted, mount_line, server_command, temp_dir, wait_for};
use crate::common::program::{Called, call, idshift, processes_of, program, servers_of};
use crate::common::runner::{needs_program, needs_real_root, needs_set_user_id_programs};
use crate::common::{
    self, Caller, Mount, OFlags, eventually, lo, machine, open, put_dir, put_file, raw,
};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

crate::common::tests!(
    mount_returns_when_it_answers,
    idshift_umount_ends_the_server,
    umount_ends_the_server,
    fusermount_ends_the_server,
    busy_mount_is_not_taken_away,
    lazy_umount,
    sigterm_unmounts,
    sigint_unmounts_in_the_foreground,
    killed_server_leaves_a_mount_that_can_be_replaced,
    background_server_holds_nothing_of_its_caller,
    log_in_the_foreground,
    helper_by_its_name,
    mount_program_with_the_helper,
    mount_program_keeps_no_option_to_itself,
    remounting_on_the_same_place,
    lower_directory_may_be_unmounted_from_sight,
    mount_over_the_lower_directory_itself,
    many_mounts_at_once,
    ends_cleanly_under_load,
    limit_of_file_sizes,
    user_who_mounts_gets_no_suid,
);

struct Place {
    dir: TempDir,
    lower: PathBuf,
    upper: PathBuf,
}

impl Place {
    fn new() -> Self {
        common::runner::needs_idshift();
        let dir = temp_dir();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        put_dir(&lower, 0o777, lo(0), lo(0));
        put_dir(&upper, 0o755, 0, 0);
        put_file(&lower.join("file"), b"content", 0o644, lo(7), lo(7));
        Self { dir, lower, upper }
    }

    fn mount(&self) -> Called {
        self.mount_with(common::MAP)
    }

    fn mount_with(&self, options: &str) -> Called {
        idshift(&[&"mount", &"-o", &options, &self.lower, &self.upper])
    }

    fn mounted() -> Self {
        let place = Self::new();
        let called = place.mount();
        assert_eq!(called.code, 0, "{}", called.err);
        place
    }

    fn server(&self) -> u32 {
        let servers = servers_of(&self.upper);
        assert_eq!(servers.len(), 1, "one server: {servers:?}");
        servers[0]
    }

    fn answers(&self) -> bool {
        std::fs::read(self.upper.join("file")).is_ok_and(|content| content == b"content")
    }

    fn is_gone(&self) -> bool {
        !is_mounted(&self.upper) && servers_of(&self.upper).is_empty()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        free(&self.upper);
        for pid in processes_of(&self.upper) {
            raw::kill(pid, libc::SIGKILL).ok();
        }
    }
}

fn mount_returns_when_it_answers() {
    for _ in 0..5 {
        let place = Place::mounted();
        // No waiting here: the command has returned, so the mount answers.
        assert!(place.answers());
        assert_eq!(common::owner(&place.upper.join("file")), (7, 7));
        assert_eq!(mount_line(&place.upper).unwrap()[2], "fuse.idshift");
        assert!(place.server() > 0);
    }
}

fn idshift_umount_ends_the_server() {
    let place = Place::mounted();
    std::fs::write(place.upper.join("new"), "written").unwrap();
    let called = idshift(&[&"umount", &place.upper]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(!is_mounted(&place.upper));
    eventually("the server ends", || place.is_gone());
    assert_eq!(std::fs::read(place.lower.join("new")).unwrap(), b"written");
    let again = idshift(&[&"umount", &place.upper]);
    assert_eq!(again.code, 32, "nothing is mounted any more: {}", again.err);
}

fn umount_ends_the_server() {
    let mount = Mount::new();
    // A mount is there before it answers, and one that never answered ends with an error.
    assert!(mount.up("").is_dir());
    let status = mount.unmount().map(|status| status.code());
    if !machine().kernel_backend {
        assert_eq!(status, Some(Some(0)), "and with success");
    }
    let place = Place::mounted();
    unmount(&place.upper, UnmountFlags::empty()).unwrap();
    eventually("the server ends", || place.is_gone());
}

fn fusermount_ends_the_server() {
    needs_program("fusermount3");
    let place = Place::mounted();
    let mut command = Command::new("fusermount3");
    command.arg("-u").arg(&place.upper);
    let called = call(command);
    if !machine().real_root && called.code != 0 {
        common::skip("needs a fusermount3 that works in a user namespace");
    }
    assert_eq!(called.code, 0, "{}", called.err);
    eventually("the server ends", || place.is_gone());
}

fn busy_mount_is_not_taken_away() {
    let place = Place::mounted();
    let file = open(&place.upper.join("file"), OFlags::RDONLY, 0).unwrap();
    let called = idshift(&[&"umount", &place.upper]);
    assert_ne!(called.code, 0);
    assert!(called.err.contains("busy") || called.err.contains("use"), "{}", called.err);
    assert!(place.answers());
    drop(file);
    eventually("it is no longer busy", || idshift(&[&"umount", &place.upper]).code == 0);
    eventually("the server ends", || place.is_gone());
}

fn lazy_umount() {
    let place = Place::mounted();
    let file = open(&place.upper.join("file"), OFlags::RDONLY, 0).unwrap();
    let called = idshift(&[&"umount", &"--lazy", &place.upper]);
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(!is_mounted(&place.upper));
    // Who has a file open keeps it until he closes it.
    let mut content = [0; 7];
    rustix::io::read(&file, &mut content).unwrap();
    assert_eq!(&content, b"content");
    assert_eq!(servers_of(&place.upper).len(), 1);
    drop(file);
    eventually("the server ends", || place.is_gone());
}

fn sigterm_unmounts() {
    let place = Place::mounted();
    raw::kill(place.server(), libc::SIGTERM).unwrap();
    eventually("it unmounts and ends", || place.is_gone());
    // And may be mounted again at once.
    assert_eq!(place.mount().code, 0);
    assert!(place.answers());
}

fn sigint_unmounts_in_the_foreground() {
    let place = Place::new();
    let mut command = server_command(common::MAP, &place.lower, &place.upper);
    raw::die_with_parent(&mut command);
    let mut server = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually("it mounts", || is_mounted(&place.upper));
    assert!(place.answers());
    raw::kill(server.id(), libc::SIGINT).unwrap();
    let status = wait_for(&mut server).expect("SIGINT ends it");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!is_mounted(&place.upper));
}

fn killed_server_leaves_a_mount_that_can_be_replaced() {
    let place = Place::new();
    assert_eq!(place.mount_with(&format!("{},restart=off", common::MAP)).code, 0);
    raw::kill(place.server(), libc::SIGKILL).unwrap();
    eventually("the server is gone", || servers_of(&place.upper).is_empty());
    assert!(!place.answers(), "nobody serves it");
    // A helpful message, not a hang; and idshift umount clears it away.
    let blocked = place.mount();
    if blocked.code != 0 {
        assert!(blocked.err.contains("umount"), "{}", blocked.err);
        let called = idshift(&[&"umount", &place.upper]);
        assert_eq!(called.code, 0, "{}", called.err);
        assert_eq!(place.mount().code, 0);
    }
    assert!(place.answers());
    assert_eq!(std::fs::read(place.lower.join("file")).unwrap(), b"content");
}

fn background_server_holds_nothing_of_its_caller() {
    let place = Place::mounted();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", place.server())).unwrap();
    for fd in fds.flatten() {
        let name = fd.file_name();
        if ["0", "1", "2"].contains(&&*name.to_string_lossy()) {
            // By its number: what a confined server holds lies in a mount without a place.
            let device = std::fs::metadata(fd.path()).unwrap().rdev();
            let null = std::fs::metadata("/dev/null").unwrap().rdev();
            assert_eq!(device, null, "standard descriptor {}", name.display());
        }
    }
    let session = session_of(&place.server().to_string());
    assert_ne!(session, session_of("self"), "a session of its own");
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", place.server())).unwrap();
    assert_eq!(cwd, PathBuf::from("/"), "it keeps no directory busy");
}

/// The session id of a process. It is 0 where the leader is outside of this pid namespace, which
/// getsid(2) wrappers that promise a real pid cannot say.
fn session_of(process: &str) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(3).unwrap().parse().unwrap()
}

fn log_in_the_foreground() {
    let place = Place::new();
    let log = place.dir.path().join("log");
    let options = format!("{},log=info", common::MAP);
    let mut command = server_command(&options, &place.lower, &place.upper);
    raw::die_with_parent(&mut command);
    let mut server = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    // Attached is not yet ready: for a moment the server itself holds what it attaches.
    let logged = || std::fs::read_to_string(&log).unwrap();
    eventually("it says that it is ready", || logged().contains("is shown at"));
    unmount(&place.upper, UnmountFlags::empty()).unwrap();
    assert!(wait_for(&mut server).is_some());
    let log = logged();
    assert!(log.contains("20000") && log.contains("shown as"), "the map in words:\n{log}");
}

fn helper_by_its_name() {
    let place = Place::new();
    let link = place.dir.path().join("mount.fuse.idshift");
    std::os::unix::fs::symlink(&machine().binary, &link).unwrap();
    let mut command = Command::new(&link);
    command.arg(&place.lower).arg(&place.upper).args(["-o", &format!("rw,{}", common::MAP)]);
    let called = call(command);
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(place.answers());
    assert_eq!(mount_line(&place.upper).unwrap()[2], "fuse.idshift");
    // The helper does not take over the type of another program.
    let mut command = Command::new(&link);
    command.arg(&place.lower).arg(&place.upper).args(["-t", "ext4", "-o", common::MAP]);
    assert_eq!(call(command).code, 1);
}

/// `mount -t fuse.idshift` and an fstab line, with the helper put into /sbin by an overlay that
/// only the commands of this test see.
fn mount_program_with_the_helper() {
    needs_real_root("an overlay over /usr/sbin");
    let place = Place::new();
    let dir = place.dir.path();
    for name in ["sbin", "work", "mnt"] {
        put_dir(&dir.join(name), 0o755, 0, 0);
    }
    let helper = dir.join("sbin/mount.fuse.idshift");
    std::os::unix::fs::symlink(&machine().binary, helper).unwrap();
    let fstab = dir.join("fstab");
    let (lower, upper) = (place.lower.display(), place.upper.display());
    let line = format!("{lower} {upper} fuse.idshift {},noauto,nofail,_netdev 0 0\n", common::MAP);
    std::fs::write(&fstab, line).unwrap();
    let map = common::MAP;
    let script = format!(
        "set -e\n\
         mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={0}/sbin,workdir={0}/work /usr/sbin\n\
         mount -t fuse.idshift {lower} {upper} -o {map},nosuid\n\
         grep ' {upper} fuse.idshift .*nosuid' /proc/self/mounts >/dev/null\n\
         test \"$(stat -c %u {upper}/file)\" = 7\n\
         mount -o remount,ro {upper}\n\
         grep ' {upper} fuse.idshift ro' /proc/self/mounts >/dev/null\n\
         umount {upper}\n\
         mount -T {0}/fstab {upper}\n\
         test \"$(stat -c %u {upper}/file)\" = 7\n\
         umount {upper}\n\
         if mount -t fuse.idshift {lower} {upper} -o {map},nosuchoption; then exit 99; fi\n\
         mount -t fuse.idshift {lower} {upper} -o {map},nosuchoption || code=$?\n\
         test $code = 1\n",
        dir.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let called = call(command);
    assert_eq!(called.code, 0, "{}", called.err);
    assert!(called.err.contains("nosuchoption"), "{}", called.err);
    eventually("all servers end", || servers_of(&place.upper).is_empty());
}

fn remounting_on_the_same_place() {
    let place = Place::new();
    for _ in 0..10 {
        assert_eq!(place.mount().code, 0);
        assert!(place.answers());
        assert_eq!(idshift(&[&"umount", &place.upper]).code, 0);
    }
    eventually("all servers end", || place.is_gone());
}

/// The server has its own view of the lower directory: what is mounted over it later is no matter.
fn lower_directory_may_be_unmounted_from_sight() {
    let place = Place::mounted();
    let other = place.dir.path().join("other");
    put_dir(&other, 0o755, 0, 0);
    rustix::mount::mount_bind(&other, &place.lower).unwrap();
    let answers = place.answers();
    let written = std::fs::write(place.upper.join("new"), "x");
    free(&place.lower);
    assert!(answers);
    written.unwrap();
    assert!(place.lower.join("new").exists());
}

fn mount_over_the_lower_directory_itself() {
    let place = Place::new();
    let called = idshift(&[&"mount", &"-o", &common::MAP, &place.lower, &place.lower]);
    assert_eq!(called.code, 0, "{}", called.err);
    let seen = common::owner(&place.lower.join("file"));
    let ended = idshift(&[&"umount", &place.lower]);
    free(&place.lower);
    assert_eq!(seen, (7, 7));
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(common::owner(&place.lower.join("file")), (lo(7), lo(7)));
}

fn many_mounts_at_once() {
    let places: Vec<Place> = (0..12).map(|_| Place::mounted()).collect();
    assert!(places.iter().all(Place::answers));
    for place in &places {
        assert_eq!(idshift(&[&"umount", &place.upper]).code, 0);
    }
    for place in &places {
        eventually("the server ends", || place.is_gone());
    }
}

/// SIGTERM while four threads work: they get errors, nobody hangs, and the mount is gone.
fn ends_cleanly_under_load() {
    let place = Place::mounted();
    let server = place.server();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let upper = &place.upper;
            scope.spawn(move || {
                for step in 0..100_000 {
                    let file = upper.join(format!("w{worker}-{step}"));
                    if std::fs::write(&file, "x").is_err() || std::fs::remove_file(&file).is_err() {
                        return;
                    }
                    if !is_mounted(upper) {
                        return;
                    }
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        raw::kill(server, libc::SIGTERM).unwrap();
    });
    eventually("it is gone", || place.is_gone());
}

/// Whoever mounts without root's rights on the host gets no set-user-ID programs and no devices
/// out of it.
fn user_who_mounts_gets_no_suid() {
    needs_set_user_id_programs();
    needs_program("fusermount3");
    needs_real_root("becoming an ordinary user of the host");
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, 1000, 1000);
    put_dir(&upper, 0o755, 1000, 1000);
    put_file(&lower.join("file"), b"content", 0o644, 1000, 1000);
    // The build directory may be closed to that user.
    let copy = dir.path().join("idshift");
    // By another process: see `io: exec_a_program`.
    let mut cp = Command::new("cp");
    assert!(cp.arg(&machine().binary).arg(&copy).status().unwrap().success());
    let called = Caller::user(1000).run(|| {
        let options = "map=b:1000:1000:1,suid,dev";
        let called = program(&copy, &[&"mount", &"-o", &options, &lower, &upper]);
        if called.code == 0 {
            let line = mount_line(&upper).unwrap();
            let flags: Vec<&str> = line[3].split(',').collect();
            assert!(flags.contains(&"nosuid") && flags.contains(&"nodev"), "{flags:?}");
            assert_eq!(std::fs::read(upper.join("file")).unwrap(), b"content");
            assert_eq!(program(&copy, &[&"umount", &upper]).code, 0);
        }
        called
    });
    free(&upper);
    assert_eq!(called.code, 0, "{}", called.err);
}

/// `ulimit -f` where the mount is made says nothing about callers, and must not end the server.
fn limit_of_file_sizes() {
    let place = Place::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 8; exec \"$@\"", "sh"]).arg(&common::machine().binary);
    let options = format!("{},io=cached", common::MAP);
    command.args(["mount", "-o", &options]).args([&place.lower, &place.upper]);
    let called = call(command);
    // Lifting a hard limit takes CAP_SYS_RESOURCE, which also root need not have.
    let sys_resource = rustix::thread::CapabilitySet::SYS_RESOURCE;
    let capabilities = rustix::thread::capabilities(None).unwrap();
    if !(machine().real_root && capabilities.effective.contains(sys_resource)) {
        assert!(called.code == 2 && called.err.contains("'ulimit -f'"), "{}", called.err);
        return;
    }
    assert_eq!(called.code, 0, "{}", called.err);
    let written =
        Caller::user(1000).run(|| std::fs::write(place.upper.join("long"), vec![b'x'; 300_000]));
    written.unwrap();
    assert_eq!(std::fs::read(place.upper.join("file")).unwrap(), b"content");
}

/// What mount(8) keeps to itself is carried out by it, or refused: an older one forgets it, and without
/// the map, or with the whole tree in place of a part, too much would be shown.
fn mount_program_keeps_no_option_to_itself() {
    needs_program("mount");
    needs_real_root("the helper's place in /usr/sbin");
    let dir = temp_dir();
    let lower = dir.path().join("lower");
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_dir(&lower.join("part"), 0o755, lo(0), lo(0));
    let upper = dir.path().join("new/upper");
    let table = dir.path().join("fstab");
    // The table is looked into with the point as it is written there.
    let run = |option: &str, by_table: bool| {
        if option != "X-mount.mkdir" {
            std::fs::create_dir_all(&upper).unwrap();
        }
        let options = format!("{},{option}", common::MAP);
        let line = format!("{} {} fuse.idshift {options} 0 0\n", lower.display(), upper.display());
        std::fs::write(&table, line).unwrap();
        let words = if by_table {
            format!("mount -T '{}' '{}'", table.display(), upper.display())
        } else {
            format!(
                "mount -t fuse.idshift -o '{options}' '{}' '{}'",
                lower.display(),
                upper.display()
            )
        };
        let script = format!(
            "mount -t tmpfs none /usr/sbin && ln -s \"$0\" /usr/sbin/mount.fuse.idshift && {words} && ls '{}'; \
             code=$?; umount '{}' 2>/dev/null; exit $code",
            upper.display(),
            upper.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let called = call({
            command.arg(&machine().binary);
            command
        });
        std::fs::remove_dir_all(dir.path().join("new")).ok();
        called
    };
    for by_table in [false, true] {
        let called = run("X-mount.mkdir", by_table);
        assert_eq!((called.code, &*called.out), (0, "part\n"), "{}", called.err);
        let called = run("X-mount.subdir=part", by_table);
        let carried_out = called.code == 0 && called.out.is_empty();
        let refused = called.code != 0 && called.err.contains("X-mount.subdir=part");
        assert!(carried_out || refused, "{}{}", called.out, called.err);
        let called = run("X-mount.idmap=u:0:100000:65536", by_table);
        let refused = called.code != 0 && called.err.contains("X-mount.idmap=u:0:100000:65536");
        assert!(called.code == 0 || refused, "{}{}", called.out, called.err);
        if called.code == 0 {
            let version = call({
                let mut command = Command::new("mount");
                command.arg("--version");
                command
            });
            assert!(!version.out.contains("libmount 2.38"), "it forgets the map: {}", version.out);
        }
    }
}
