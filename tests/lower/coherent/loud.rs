//! Files that are written below without end: their writes are not heard of for a while, and what is said
//! of them is right all the same.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, MAP, Mount, lo, put_file, stat};

use super::{MARGIN, PROMISE, coherent, needs_coherence, soon, warm, within};

/// For how long a file is written.
const WRITTEN: Duration = Duration::from_millis(2_500);
/// Much less than a silence takes.
const AT_ONCE: Duration = Duration::from_millis(200);
/// For how long nothing is heard of such a file, and what comes on top on a busy machine.
const SILENCE: Duration = Duration::from_secs(3);

/// Whether a server leaves writes to an inode unheard, as the kernel has it of its group.
fn is_silent(server: u32, ino: u64) -> bool {
    let infos = fs::read_dir(format!("/proc/{server}/fdinfo")).unwrap().flatten();
    let mut texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    let of_file = format!("ino:{ino:x} ");
    let is_it = |line: &str| line.contains(&of_file) && line.contains("ignored_mask:2 ");
    texts.any(|text| text.lines().any(is_it))
}

pub(super) fn is_right_unheard() {
    let mount = coherent(|lower| put_file(&lower.join("log"), b"", 0o644, lo(1), lo(1)));
    let (up, server) = (mount.up("log"), mount.server_pid());
    let log = File::options().write(true).open(mount.low("log")).unwrap();
    let ino = stat(&mount.low("log")).st_ino;
    warm(&up);
    let (written, ends) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut was_silent = false;
    thread::scope(|scope| {
        scope.spawn(|| {
            for at in 0.. {
                log.write_at(b"x", at).unwrap();
                written.store(at + 1, Ordering::SeqCst);
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                if at % 64 == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let start = Instant::now();
        while start.elapsed() < WRITTEN {
            let before = written.load(Ordering::SeqCst);
            // Nothing is remembered then, so that it takes no time; but the machine may be busy.
            let silent = is_silent(server, ino);
            let patience = if silent { AT_ONCE } else { PROMISE + MARGIN };
            was_silent |= silent;
            within(patience, "what has been written", || {
                u64::try_from(stat(&up).st_size).unwrap() >= before
            });
        }
        ends.store(true, Ordering::SeqCst);
    });
    assert!(was_silent, "each write was heard of");
    // The last ones, too, and a single one while nothing is heard of.
    let all = i64::try_from(written.load(Ordering::SeqCst)).unwrap();
    soon("the last write", || stat(&up).st_size == all);
    log.set_len(1).unwrap();
    soon("a truncation", || stat(&up).st_size == 1);
    within(SILENCE, "being listened to", || !is_silent(server, ino));
    warm(&up);
    log.set_len(2).unwrap();
    soon("a truncation that is heard of", || stat(&up).st_size == 2);
}

/// Another server would not know what its group leaves out.
pub(super) fn is_heard_by_followers() {
    needs_coherence();
    crate::common::runner::needs_real_root("restart=on");
    let mount = Mount::with(&format!("{MAP},cache=coherent,restart=on"), |lower| {
        put_file(&lower.join("log"), b"", 0o644, lo(1), lo(1));
    });
    let log = File::options().write(true).open(mount.low("log")).unwrap();
    let ino = stat(&mount.low("log")).st_ino;
    let servers = common::program::servers_of(&mount.upper);
    warm(&mount.up("log"));
    let start = Instant::now();
    while start.elapsed() < PROMISE / 2 {
        log.write_at(b"x", 0).unwrap();
        thread::sleep(Duration::from_micros(50));
    }
    assert_eq!(servers.len(), 1, "a supervisor has one server");
    assert!(!is_silent(servers[0], ino), "writes are left out");
}
