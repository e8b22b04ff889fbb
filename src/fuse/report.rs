//! What the server tells of itself when it is asked (`idshift status`, SIGUSR1). Everything is
//! gathered at that moment; requests pay for counting alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Resource;

use super::negotiate::{FEATURES, FUSE_ALLOW_IDMAP, FUSE_PASSTHROUGH, Feature, WITHOUT_IDMAP};
use super::server::Server;
use crate::report::{Facts, Possible, Report};
use crate::sys::apart;

type ChangeTimes = dyn Fn(u64) -> Result<(), Errno> + Send + Sync;

/// What does not change while the mount is there, and what only the notifier counts.
pub(super) struct About {
    /// What the mount was made with.
    pub(super) facts: Facts,
    started: Instant,
    /// The user who runs the server, who may ask.
    pub(super) owner: u32,
    /// Notifications to the kernel about changes below.
    pub(super) notices: AtomicU64,
    /// Who changes the mount that the server reads through, which may not do that itself.
    times: OnceLock<Box<ChangeTimes>>,
    /// Unset until the process that serves is there: it is about that one, and one that takes over must
    /// not close what it has inherited, whose number may be another file's by now.
    memory: OnceLock<Memory>,
}

impl About {
    pub(super) fn new(facts: Facts) -> Self {
        let owner = rustix::process::geteuid().as_raw();
        Self {
            facts,
            started: Instant::now(),
            owner,
            notices: AtomicU64::new(0),
            times: OnceLock::new(),
            memory: OnceLock::new(),
        }
    }

    /// The process that would start another server; 0 if none would.
    fn supervisor(&self) -> u64 {
        let parent = rustix::process::getppid().filter(|_| self.facts.restart);
        parent.and_then(|pid| u64::try_from(pid.as_raw_nonzero().get()).ok()).unwrap_or(0)
    }

    /// From now on this is asked to have access times kept otherwise; the first one stays.
    pub(super) fn change_times_by(
        &self,
        change: impl Fn(u64) -> Result<(), Errno> + Send + Sync + 'static,
    ) {
        if self.times.set(Box::new(change)).is_err() {
            tracing::debug!("somebody else changes access times already");
        }
    }

    pub(super) fn change_times(&self, bits: u64) -> Result<(), Errno> {
        self.times.get().map_or(Err(Errno::NOTSUP), |change| change(bits))
    }

    /// From now on it is about this process.
    pub(super) fn serves_here(&self) {
        self.memory.get_or_init(Memory::open);
    }
}

impl Server {
    /// How things stand now.
    pub(super) fn report(&self) -> Report {
        let sum = self.counters.sum();
        let [trusted_long, trusted_short, trusted_not] = sum.trusted;
        let usage = self.fs.usage();
        let (passthrough, backing_files, backing_idle) = self.backings.usage();
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let uptime = u64::try_from(self.about.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut numbers = vec![
            ("pid", std::process::id().into()),
            ("supervisor", self.about.supervisor()),
            ("uptime_ms", uptime),
            ("workers", number(sum.workers)),
            ("in_progress", number(sum.busy)),
            // The kernel never forgets the root.
            ("inodes", number(usage.inodes.saturating_sub(1))),
            ("lookups", usage.lookups),
            ("open_files", number(usage.open_files)),
            ("cached_descriptors", number(usage.cached_descriptors)),
            ("unlinked_descriptors", number(usage.unlinked_descriptors)),
            ("descriptor_hits", usage.descriptor_hits),
            ("descriptor_misses", usage.descriptor_misses),
            ("backing_files", number(backing_files)),
            ("backing_idle", number(backing_idle)),
            ("notifications", self.about.notices.load(Ordering::Relaxed)),
            ("trusted_long", trusted_long),
            ("trusted_short", trusted_short),
            ("trusted_not", trusted_not),
        ];
        numbers.extend(open_descriptors().map(|count| ("descriptors", count)));
        numbers.extend(descriptor_limit().map(|limit| ("descriptor_limit", limit)));
        numbers.extend(
            self.about.memory.get().and_then(Memory::resident).map(|bytes| ("memory_bytes", bytes)),
        );
        let mut facts = self.about.facts.clone();
        facts.features = self.features(passthrough);
        facts.idmapped_mounts = self.idmapped_mounts(facts.idmapped_mounts.why.take());
        Report {
            facts,
            numbers: numbers.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            operations: sum.operations,
        }
    }

    /// Whether the kernel makes idmapped mounts of this one; `refused` is why the options refuse it.
    fn idmapped_mounts(&self, refused: Option<String>) -> Possible {
        if self.agreed.has(FUSE_ALLOW_IDMAP) {
            return Possible { possible: true, why: None };
        }
        let why = refused.unwrap_or_else(|| {
            let acting =
                "refused (act_as=caller, the default where root is squashed; write act_as=owner)";
            if self.fs.acts_as_callers() { acting } else { WITHOUT_IDMAP }.to_owned()
        });
        Possible { possible: false, why: Some(why) }
    }

    /// What has been agreed on with the kernel and is in use.
    fn features(&self, passthrough: bool) -> Vec<String> {
        let is_on = |feature: &&Feature| {
            self.agreed.has(feature.bits) && (feature.bits != FUSE_PASSTHROUGH || passthrough)
        };
        let on = FEATURES.iter().filter(is_on);
        on.map(|feature| feature.name.trim_start_matches("FUSE_").to_lowercase()).collect()
    }
}

/// What this process has open; the one for looking is not counted.
fn open_descriptors() -> Option<u64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count).ok()?.checked_sub(1)
}

fn descriptor_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).current
}

/// Where memory is looked up (`statm` in proc(5)). Opened at the start: a server in its sandbox has no
/// `/proc`.
struct Memory {
    statm: Option<File>,
    page: usize,
}

impl Memory {
    fn open() -> Self {
        let statm = apart::open("/proc/self/statm", OFlags::RDONLY).ok().map(File::from);
        Self { statm, page: rustix::param::page_size() }
    }

    /// Resident, in bytes.
    fn resident(&self) -> Option<u64> {
        let mut text = [0; 256];
        let length = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(&text[..length]).ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        pages.checked_mul(u64::try_from(self.page).ok()?)
    }
}
