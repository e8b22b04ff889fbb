//! Many mounts on one machine: what they cost while nobody uses them, and that all can be asked and taken
//! away. `IDSHIFT_TEST_MOUNTS` sets their number; more than the user may have fanotify groups
//! (`fs.fanotify.max_user_groups`) are possible too: the later ones say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::common::program::{Called, helper_of, idshift, servers_of};
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{self, MAP, eventually, machine};

crate::common::tests!(many_mounts_cost_little_and_can_all_be_asked);

/// How many file systems the lower trees are on, and how many trees there are at most.
const FILE_SYSTEMS: usize = 5;
const TREES: usize = 200;
/// What a mount may take of memory that nobody shares, in KiB: the server and its helper.
const MEMORY: u64 = if cfg!(debug_assertions) { 1_024 } else { 480 };
/// How long it is watched that nothing happens.
const REST: Duration = Duration::from_secs(4);

fn wanted() -> usize {
    std::env::var("IDSHIFT_TEST_MOUNTS").map_or(60, |text| text.parse().unwrap())
}

/// Unmounts everything at the end, whatever happens before.
struct Stage {
    dir: tempfile::TempDir,
    mounts: usize,
}

impl Stage {
    fn new(mounts: usize) -> Self {
        let stage = Self { dir: common::mount::temp_dir(), mounts };
        for number in 0..FILE_SYSTEMS {
            let place = stage.dir.path().join(format!("fs{number}"));
            fs::create_dir(&place).unwrap();
            mount("none", &place, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        for number in 0..mounts {
            fs::create_dir_all(stage.lower(number).join("dir")).unwrap();
            fs::write(stage.lower(number).join("dir/file"), "x").unwrap();
            fs::create_dir(stage.upper(number)).unwrap();
        }
        stage
    }

    fn lower(&self, number: usize) -> PathBuf {
        let tree = number % TREES;
        self.dir.path().join(format!("fs{}/tree{tree}", tree % FILE_SYSTEMS))
    }

    fn upper(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("upper{number}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for number in 0..self.mounts {
            unmount(self.upper(number), UnmountFlags::DETACH).ok();
        }
        for number in 0..FILE_SYSTEMS {
            let place = self.dir.path().join(format!("fs{number}"));
            unmount(place, UnmountFlags::DETACH).ok();
        }
    }
}

/// How often all threads of these processes have gone to sleep, and the CPU time that they took.
fn activity(pids: &[u32]) -> (u64, u64) {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap());
    let (mut sleeps, mut ticks) = (0, 0);
    for task in tasks.map(|task| task.unwrap().path()) {
        let status = fs::read_to_string(task.join("status")).unwrap();
        sleeps += number_after(&status, "voluntary_ctxt_switches:");
        let stat = fs::read_to_string(task.join("stat")).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        ticks += fields.map(|field| field.parse::<u64>().unwrap()).sum::<u64>();
    }
    (sleeps, ticks)
}

fn private_memory(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    number_after(&rollup, "Private_Clean:") + number_after(&rollup, "Private_Dirty:")
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn look(upper: &Path) {
    assert_eq!(fs::read_dir(upper.join("dir")).unwrap().count(), 1);
    common::stat(&upper.join("dir/file"));
}

fn many_mounts_cost_little_and_can_all_be_asked() {
    needs_idshift();
    needs_real_root("file systems are mounted");
    let mounts = wanted();
    let stage = Stage::new(mounts);
    let groups = fs::read_to_string("/proc/sys/fs/fanotify/max_user_groups").unwrap();
    let groups: usize = groups.trim().parse().unwrap();

    let (start, mut warned) = (Instant::now(), 0);
    for number in 0..mounts {
        let Called { code, err, .. } =
            idshift(&[&"mount", &"-o", &MAP, &stage.lower(number), &stage.upper(number)]);
        assert_eq!(code, 0, "mount {number}: {err}");
        warned += usize::from(err.contains("sysctl fs.fanotify.max_user_groups"));
    }
    let mounting = start.elapsed() / u32::try_from(mounts).unwrap();
    assert!(warned >= mounts.saturating_sub(groups), "{warned} have said what has run out");
    assert!(groups < mounts || warned == 0, "{warned} of {mounts} have no group of {groups}");
    (0..mounts).for_each(|number| look(&stage.upper(number)));

    let servers = (0..mounts).flat_map(|number| servers_of(&stage.upper(number)));
    let servers: Vec<u32> = servers.collect();
    assert_eq!(servers.len(), mounts);
    let helpers = servers.iter().filter_map(|&server| helper_of(server));
    let all: Vec<u32> = servers.iter().copied().chain(helpers).collect();
    assert_eq!(all.len(), 2 * mounts, "each has a helper");
    let memory = all.iter().map(|&pid| private_memory(pid)).sum::<u64>() / mounts as u64;
    assert!(memory <= MEMORY, "{memory} KiB each");

    // Threads that nobody needs any more end within a second.
    sleep(Duration::from_secs(3));
    let before = activity(&all);
    sleep(REST);
    let after = activity(&all);
    let (sleeps, ticks) = (after.0 - before.0, after.1 - before.1);
    assert!(sleeps < mounts as u64 && ticks <= 2, "{sleeps} times awake, {ticks} ticks");

    let start = Instant::now();
    let Called { code, out, err } = idshift(&[&"status"]);
    let asking = start.elapsed();
    assert_eq!(code, 0, "{err}");
    for number in 0..mounts {
        assert!(out.contains(&format!("upper{number}")), "mount {number} is not in the status");
    }
    if !cfg!(debug_assertions) {
        assert!(asking < Duration::from_secs(1), "{asking:?}");
    }

    let start = Instant::now();
    for number in 0..mounts {
        let Called { code, err, .. } = idshift(&[&"umount", &stage.upper(number)]);
        assert_eq!(code, 0, "{err}");
    }
    let unmounting = start.elapsed() / u32::try_from(mounts).unwrap();
    let lives = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !text.is_empty() && !text.contains(") Z ")
    };
    eventually("all processes have ended", || !all.iter().any(lives));
    println!(
        "many: {mounts} mounts of {}: {mounting:.1?} each to mount, {unmounting:.1?} to unmount, \
         {memory} KiB; status of all in {asking:.0?}; awake {sleeps} times in {REST:?}",
        machine().binary.display()
    );
}
