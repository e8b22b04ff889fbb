//! Everything is to be asked anew: events were lost, or nothing is listened to any more.

use std::fs;
use std::time::Duration;

use super::{alone, soon, warm, within};
use crate::common::{self, MAP, Mount, exists, lo, mode, put_dir, put_file, raw, set_mode, skip};

/// Reading thousands of events first takes longer.
const AFTER_LOSS: Duration = Duration::from_secs(5);

/// Stops the server, makes more changes than the kernel keeps events of, then those in `last`, and
/// lets the server go on.
fn overflow(mount: &Mount, last: impl FnOnce()) {
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit > 100_000 {
        skip(format!("needs fs.fanotify.max_queued_events of no more than 100000, not {limit}"));
    }
    // What nobody looks at is not listened to.
    assert_eq!(fs::read_dir(mount.up("elsewhere")).unwrap().count(), 0);
    let server = mount.server_pid();
    raw::kill(server, libc::SIGSTOP).unwrap();
    common::eventually("all threads of the server are stopped", || {
        let tasks = fs::read_dir(format!("/proc/{server}/task")).unwrap();
        let stats =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
        stats.into_iter().all(|stat| stat.contains(") T "))
    });
    for number in 0..=limit {
        // Each name is an event of its own.
        let path = mount.low(format!("elsewhere/{number}"));
        fs::write(path, "").unwrap();
    }
    last();
    raw::kill(server, libc::SIGCONT).unwrap();
}

pub(crate) fn of_events() {
    let (mount, _tmpfs) = alone(|lower| {
        put_dir(&lower.join("elsewhere"), 0o755, lo(1), lo(1));
        put_dir(&lower.join("dir"), 0o755, lo(1), lo(1));
        for file in ["dir/kept", "dir/gone"] {
            put_file(&lower.join(file), b"", 0o644, lo(1), lo(1));
        }
        put_dir(&lower.join("links"), 0o755, lo(1), lo(1));
        fs::hard_link(lower.join("dir/kept"), lower.join("links/one")).unwrap();
        fs::hard_link(lower.join("dir/kept"), lower.join("links/two")).unwrap();
    });
    let [kept, gone, new] = ["dir/kept", "dir/gone", "dir/new"].map(|name| mount.up(name));
    let links = ["links/one", "links/two"].map(|name| mount.up(name));
    // Listed, each has been told for long.
    for _ in 0..3 {
        assert_eq!(fs::read_dir(mount.up("links")).unwrap().count(), 2);
        for link in &links {
            warm(link);
        }
    }
    let list = || fs::read_dir(mount.up("dir")).unwrap().count();
    for path in [&kept, &gone, &new] {
        warm(path);
    }
    assert_eq!((list(), list()), (2, 2));
    overflow(&mount, || {
        fs::remove_file(mount.low("dir/gone")).unwrap();
        fs::write(mount.low("dir/new"), "new").unwrap();
        fs::write(mount.low("dir/newer"), "newer").unwrap();
        set_mode(&mount.low("dir/kept"), 0o600).unwrap();
        fs::rename(mount.low("links/one"), mount.low("dir/newest")).unwrap();
        fs::remove_file(mount.low("links/two")).unwrap();
    });
    within(AFTER_LOSS, "names of links whose events were lost", || {
        links.iter().all(|link| !exists(link))
    });
    within(AFTER_LOSS, "a name whose event was lost", || exists(&new));
    within(AFTER_LOSS, "a removal whose event was lost", || !exists(&gone));
    within(AFTER_LOSS, "a mode whose event was lost", || mode(&kept) == 0o600);
    within(AFTER_LOSS, "a listing whose events were lost", || list() == 4);
    // Whatever made the kernel ask before.
    let log = || fs::read_to_string(mount.beside().join("server.log")).unwrap();
    within(AFTER_LOSS, "the loss", || log().contains("too many changes"));
}

pub(crate) fn below_mounts() {
    let (mount, _tmpfs) = alone(|lower| {
        put_dir(&lower.join("elsewhere"), 0o755, lo(1), lo(1));
        put_dir(&lower.join("dir"), 0o755, lo(1), lo(1));
        put_dir(&lower.join("dir/point"), 0o755, lo(1), lo(1));
    });
    let point = mount.up("dir/point");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &point, "tmpfs", flags, None).unwrap();
    fs::write(point.join("inside"), "").unwrap();
    overflow(&mount, || ());
    let log = || fs::read_to_string(mount.beside().join("server.log")).unwrap();
    within(AFTER_LOSS, "the loss", || log().contains("too many changes"));
    std::thread::sleep(Duration::from_millis(50));
    let there = exists(&point.join("inside"));
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).ok();
    assert!(there, "what was mounted in the mount has gone");
}

/// Watches that are not needed any more are taken away all at once, and what is looked at then is
/// watched anew.
pub(crate) fn of_watches() {
    const DIRS: usize = 1_200;
    let name = |n: usize| format!("dir/{n}");
    let mount = Mount::with(&format!("{MAP},cache=coherent,log=idshift=debug"), |lower| {
        put_dir(&lower.join("dir"), 0o755, lo(1), lo(1));
        (0..DIRS).for_each(|n| put_dir(&lower.join(name(n)), 0o755, lo(1), lo(1)));
        put_file(&lower.join("kept"), b"", 0o644, lo(1), lo(1));
    });
    let paths: Vec<_> = (0..DIRS).map(|n| mount.up(name(n))).collect();
    let kept = mount.up("kept");
    paths.iter().chain([&kept]).for_each(|path| warm(path));
    let log = || fs::read_to_string(mount.beside().join("server.log")).unwrap();
    let given_back = || log().contains("are taken away");
    assert!(!given_back());
    for path in &paths {
        fs::remove_dir(path).unwrap();
    }
    within(AFTER_LOSS, "the watches are taken away", given_back);
    soon("what was watched", || mode(&kept) == 0o644);
    warm(&kept);
    set_mode(&mount.low("kept"), 0o640).unwrap();
    soon("a mode", || mode(&kept) == 0o640);
}
