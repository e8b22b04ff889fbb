//! What a mount tells of itself.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use crate::common::program::{Called, idshift};
use crate::common::runner::needs_real_root;
use crate::common::status::{count, errors, number, report};
use crate::common::{Caller, Mount, eventually, machine, raw};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

crate::common::tests!(
    requests_and_errors_are_counted,
    nothing_is_left_when_the_kernel_has_forgotten,
    only_root_and_the_servers_user_may_ask,
    a_stopped_server_is_named_within_a_second,
    a_killed_server_is_named,
    a_covered_mount_is_named,
    sigusr1_writes_the_report_into_the_log,
    watching_shows_rates,
    prometheus_gets_a_whole_file,
    paths_outside_are_refused,
);

fn status(mount: &Mount) -> String {
    report(&mount.up("")).expect("the mount answers")
}

fn requests_and_errors_are_counted() {
    let mount = Mount::new();
    mount.server_pid();
    let before = status(&mount);
    let open: Vec<_> = (0..10).map(|n| File::create(mount.up(format!("f{n}"))).unwrap()).collect();
    assert!(!mount.up("missing").exists());
    assert_eq!(fs::read_dir(mount.up("")).unwrap().count(), 10);
    Caller::user(1000).run(|| File::create(mount.up("f0/below")).unwrap_err());
    rustix::fs::removexattr(mount.up("f0"), "user.none").unwrap_err();
    let after = status(&mount);
    let more = |operation: &str| count(&after, operation) - count(&before, operation);
    assert_eq!(more("create"), 10);
    assert!(more("lookup") >= 11, "{after}");
    assert!(more("readdirplus") + more("readdir") >= 1, "{after}");
    assert_eq!(errors(&after, "removexattr") - errors(&before, "removexattr"), 1);
    assert_eq!(errors(&after, "create"), 0);
    assert!(number(&after, "requests") > number(&before, "requests") + 20);
    // What others have closed may still be on its way to be released.
    eventually("ten files are open", || number(&status(&mount), "open_files") == 10);
    assert!(number(&after, "inodes") >= 10 && number(&after, "lookups") >= 10);
    assert_eq!(number(&after, "pid"), u64::from(mount.server_pid()));
    assert!(number(&after, "memory_bytes") > 1 << 20);
    assert!(number(&after, "p99_ns") > 0);
    assert!(after.contains(mount.low("").display().to_string().trim_end_matches('/')), "{after}");
    drop(open);
    eventually("the files are released", || number(&status(&mount), "open_files") == 0);
}

fn nothing_is_left_when_the_kernel_has_forgotten() {
    needs_real_root("makes the kernel forget");
    let mount = Mount::new();
    mount.server_pid();
    for n in 0..300 {
        fs::write(mount.up(format!("f{n}")), "x").unwrap();
        if n % 3 == 0 {
            fs::remove_file(mount.up(format!("f{n}"))).unwrap();
        }
    }
    assert!(number(&status(&mount), "inodes") >= 200);
    eventually("everything is forgotten", || {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let report = status(&mount);
        let left = ["inodes", "lookups", "open_files", "unlinked_descriptors", "backing_files"];
        left.iter().all(|name| number(&report, name) == 0)
    });
    assert_eq!(number(&status(&mount), "cached_descriptors"), 0);
}

fn asked_by(uid: u32, mount: &Mount) -> Called {
    Caller::user(uid).run(|| idshift(&[&"status", &"--json", &mount.up("")]))
}

fn only_root_and_the_servers_user_may_ask() {
    let mount = Mount::new();
    mount.server_pid();
    let called = asked_by(1000, &mount);
    assert_eq!(called.code, 32, "{}", called.err);
    assert!(called.out.contains("\"state\": \"refused\""), "{}", called.out);
    assert!(!called.out.contains("pid"), "{}", called.out);
    assert_eq!(asked_by(0, &mount).code, 0);
}

fn a_stopped_server_is_named_within_a_second() {
    let mount = Mount::new();
    let pid = mount.server_pid();
    raw::kill(pid, libc::SIGSTOP).unwrap();
    let start = Instant::now();
    let all = idshift(&[&"status"]);
    let one = idshift(&[&"status", &"--json", &mount.up("")]);
    let took = start.elapsed();
    raw::kill(pid, libc::SIGCONT).unwrap();
    assert!(took < Duration::from_secs(4), "two looks took {took:?}");
    assert_eq!((all.code, one.code), (32, 32));
    let line = format!("{}: hung", mount.up("").display().to_string().trim_end_matches('/'));
    assert!(all.out.contains(&line), "{}", all.out);
    assert!(one.out.contains("\"state\": \"hung\""), "{}", one.out);
    assert!(status(&mount).contains("\"state\": \"alive\""));
}

fn a_killed_server_is_named() {
    let mount = Mount::new();
    raw::kill(mount.server_pid(), libc::SIGKILL).unwrap();
    eventually("the mount is dead", || {
        let called = idshift(&[&"status", &mount.up("")]);
        called.code == 32 && called.out.contains("dead") && called.out.contains("idshift umount")
    });
}

fn a_covered_mount_is_named() {
    needs_real_root("mounts over the mount");
    let mount = Mount::new();
    mount.server_pid();
    let point = mount.up("");
    mount_bind(mount.beside(), &point).unwrap();
    mount_change(&point, MountPropagationFlags::PRIVATE).unwrap();
    let called = idshift(&[&"status"]);
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(called.out.contains("covered by another mount"), "{}", called.out);
}

fn sigusr1_writes_the_report_into_the_log() {
    let mount = Mount::new();
    fs::write(mount.up("file"), "x").unwrap();
    raw::kill(mount.server_pid(), libc::SIGUSR1).unwrap();
    let log = mount.beside().join("server.log");
    eventually("the report is in the log", || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("the kernel knows 1 inodes") && log.contains("create")
    });
    assert_eq!(fs::read(mount.up("file")).unwrap(), b"x");
}

fn watching_shows_rates() {
    let mount = Mount::new();
    mount.server_pid();
    let called = idshift(&[&"status", &mount.up(""), &"--watch=0.2", &"--count", &"3"]);
    assert_eq!(called.code, 0, "{}", called.err);
    let rows: Vec<Vec<&str>> = called
        .out
        .lines()
        .filter(|line| line.trim_start().starts_with("ioctl"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    // The question itself is an ioctl, which counts from the next one on.
    let rates: Vec<f64> = rows.iter().map(|row| row[2].parse().unwrap()).collect();
    assert_eq!(rates.len(), 2, "{}", called.out);
    assert!(rates.iter().all(|rate| *rate > 0.2 && *rate < 100.0), "{rates:?}");
    assert!(!called.out.contains('\x1b'), "no terminal, so nothing is redrawn");
    let wrong = idshift(&[&"status", &"--watch=0"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("--watch=0"), "{}", wrong.err);
    let wrong = idshift(&[&"status", &"--watch", &"5"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("'--watch=5'"), "{}", wrong.err);
}

fn prometheus_gets_a_whole_file() {
    let mount = Mount::new();
    mount.server_pid();
    fs::write(mount.up("file"), "x").unwrap();
    let file = mount.beside().join("idshift.prom");
    let called = idshift(&[&"status", &"--prometheus", &"-o", &file, &mount.up("")]);
    assert_eq!((called.code, called.out.as_str()), (0, ""), "{}", called.err);
    let text = fs::read_to_string(&file).unwrap();
    let point = mount.up("").display().to_string();
    let up = format!("idshift_up{{mountpoint=\"{}\"}} 1\n", point.trim_end_matches('/'));
    assert!(text.contains(&up), "{text}");
    assert!(text.contains("operation=\"create\",le=\"+Inf\"} 1\n"), "{text}");
    let names: Vec<_> =
        fs::read_dir(mount.beside()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
    let nowhere = mount.beside().join("none/x.prom");
    let called = idshift(&[&"status", &"--prometheus", &"-o", &nowhere]);
    assert_eq!(called.code, 32);
    assert!(called.err.contains("output file"), "{}", called.err);
}

fn paths_outside_are_refused() {
    let mount = Mount::new();
    mount.server_pid();
    fs::write(mount.up("file"), "x").unwrap();
    // Any path inside will do.
    assert!(report(&mount.up("file")).unwrap().contains("\"state\": \"alive\""));
    let called = idshift(&[&"status", &mount.low("")]);
    assert_eq!(called.code, 32);
    assert!(called.err.contains("in no idshift mount"), "{}", called.err);
    let called = idshift(&[&"status", &mount.up("none")]);
    assert_eq!(called.code, 32);
    assert!(machine().binary.exists() && called.err.contains("No such file"), "{}", called.err);
}
