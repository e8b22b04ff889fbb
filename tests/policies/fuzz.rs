//! Random policies over random trees: nothing below gains a right, an id or a bit that the caller could
//! not have given it through the kernel's idmapped mount, or by the policy's own table.
//!
//! Each policy has a mount of its own, on which short sequences of calls are made, each in a tree of its
//! own, by five callers. `IDSHIFT_FUZZ_STEPS` and `IDSHIFT_FUZZ_SEED` make it longer and different,
//! `IDSHIFT_FUZZ_MOUNT` makes one mount again;
//! with `IDSHIFT_TEST_BACKEND=kernel` the judgement is tried on the kernel's own mount.

mod birth;
mod crew;
mod judge;
mod outcome;
mod policy;
mod shown;
mod step;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dice::Dice;
use crate::common::mount::temp_dir;
use crate::common::older;
use crate::common::runner::{needs_kernel, unless_skipped};
use crate::common::{
    BASE, Mount, chown, machine, open, put_dir, restart, set_mode, set_xattr, stat,
};

use crew::Crew;
use judge::Trial;
use policy::Policy;
use rustix::fs::OFlags;
use step::{Call, Focus, Gave, SLOTS, Slot, Step};
use tree::{RECORD, Stored, plant};

crate::common::tests!(nothing_gains_by_a_policy);

/// Steps in one tree, and in one mount.
const LENGTH: usize = 40;
const ON_ONE_MOUNT: u64 = 1000;
const SHRINKING: Duration = Duration::from_secs(20);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn nothing_gains_by_a_policy() {
    needs_kernel(
        (5, 2),
        "with suid=deny on an older one, what root writes to keeps set-ID bits set below",
    );
    let default = if machine().real_root { 100_000 } else { 20_000 };
    let steps = number("IDSHIFT_FUZZ_STEPS", default);
    let seed = number("IDSHIFT_FUZZ_SEED", 12);
    let mount = std::env::var("IDSHIFT_FUZZ_MOUNT").map(|text| text.parse().unwrap()).ok();
    let mounts = if mount.is_some() { 1 } else { steps.div_ceil(ON_ONE_MOUNT) };
    let (next, lacking) = (AtomicU64::new(0), AtomicU64::new(0));
    let found = Mutex::new(Vec::new());
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        let crew = Crew::new();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= mounts || !found.lock().unwrap().is_empty() {
                break;
            }
            let seed = mount.unwrap_or_else(|| seed.wrapping_mul(1_000_003).wrapping_add(nth));
            // An older kernel may lack what this policy needs.
            let Some(mut world) = unless_skipped(|| World::new(seed, &crew)) else {
                lacking.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let Some(report) = world.search() {
                found.lock().unwrap().push(report);
            }
            let mut done = done.lock().unwrap();
            for (call, count) in world.succeeded {
                *done.entry(call).or_insert(0) += count;
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "IDSHIFT_FUZZ_SEED={seed}\n{}", found.join("\n\n"));
    let done = done.into_inner().unwrap();
    let lacking = lacking.into_inner();
    println!(
        "fuzz: {steps} steps, seed {seed}, {mounts} mounts, {lacking} left out: the kernel lacks \
         what they need; succeeded: {done:?}"
    );
    assert!(lacking == 0 || older::kernel() < (6, 0), "this kernel has everything");
    assert!(lacking < mounts / 2 || mounts == 1, "{lacking} of {mounts} mounts were left out");
    assert!(done.len() >= 30, "most calls succeed at times: {done:?}");
}

/// A mount with a policy.
struct World<'c> {
    crew: &'c Crew,
    policy: Policy,
    mount: Mount,
    seed: u64,
    dice: Dice,
    trees: u32,
    succeeded: BTreeMap<String, u64>,
}

/// What was found, at this step.
struct Finding {
    at: usize,
    what: String,
}

impl<'c> World<'c> {
    fn new(seed: u64, crew: &'c Crew) -> Self {
        let mut dice = Dice(seed);
        let policy = Policy::random(&mut dice);
        let dir = temp_dir();
        let lower = dir.path().join("lower");
        if policy.recorded {
            put_dir(&lower, 0o755, 0, 0);
            set_xattr(&lower, RECORD, format!("{BASE}:{BASE}:0777:dir").as_bytes()).unwrap();
        } else {
            put_dir(&lower, 0o777, BASE, BASE);
        }
        let mount = Mount::of(dir, lower, &policy.options);
        Self { crew, policy, mount, seed, dice, trees: 0, succeeded: BTreeMap::new() }
    }

    fn search(&mut self) -> Option<String> {
        for _ in 0..ON_ONE_MOUNT / LENGTH as u64 {
            let tree = self.dice.below(u64::MAX);
            let mut steps = Vec::new();
            while steps.len() < LENGTH {
                let focus = Focus::random(&mut self.dice);
                steps.push(Step::hold(&mut self.dice, focus));
                steps.extend((0..7).map(|_| Step::random(&mut self.dice, focus)));
            }
            if let Some(found) = self.run(tree, &steps) {
                return Some(self.shrink(tree, steps, found));
            }
        }
        None
    }

    /// Makes the calls in a new tree, until one of them breaks the rule.
    fn run(&mut self, seed: u64, steps: &[Step]) -> Option<Finding> {
        let name = format!("tree{}", self.trees);
        self.trees += 1;
        let (lower, upper) = (self.mount.low(&name), self.mount.up(&name));
        let mut dice = Dice(seed);
        plant(&lower, &self.policy, &mut dice);
        let mut held: Vec<Option<Slot>> = (0..SLOTS).map(|_| None).collect();
        let mut before = Stored::look(&lower, &held, self.policy.recorded);
        for (at, step) in steps.iter().enumerate() {
            let outcome = match step.call {
                Call::Kill => Ok(self.kill(step)),
                Call::Below => self.change_below(step, &lower),
                _ => self.crew.make(step, &upper, &held, self.policy.gathers),
            };
            // What a refused call has done all the same shows at the next look.
            let looks = step.number % 4 == 0 || step.call == Call::Create || at + 1 == steps.len();
            if outcome.is_err() && !looks {
                continue;
            }
            let after = Stored::look(&lower, &held, self.policy.recorded);
            let slot = held[step.slot].as_ref();
            let trial = Trial { policy: &self.policy, before: &before, step, slot };
            let mut verdict = Ok(());
            if outcome.is_ok() {
                *self.succeeded.entry(format!("{:?}", step.call)).or_insert(0) += 1;
                verdict = trial.may_succeed().map_err(|what| format!("succeeded {what}"));
            }
            let verdict = verdict.and_then(|()| outcome::judge(&trial, &after, outcome.is_ok()));
            if let Err(what) = verdict {
                let outcome = outcome.map(drop);
                return Some(Finding { at, what: format!("{outcome:?}: {what}\n{before}") });
            }
            if let Ok(Gave::Held(upper)) = outcome {
                let at = step.slot;
                let below =
                    open(&lower.join(step.path), OFlags::PATH | OFlags::NOFOLLOW, 0).unwrap();
                let number = rustix::fs::fstat(&below).unwrap().st_ino;
                let writes = step.holds_to_write();
                held[at] = Some(Slot { upper, lower: below, number, writes });
                // What was held before may be gone now.
                before = Stored::look(&lower, &held, self.policy.recorded);
            } else {
                before = after;
            }
        }
        None
    }

    /// Rarely, because it takes a while.
    fn kill(&self, step: &Step) -> Gave {
        if self.policy.restarts && step.number < 8 {
            restart::kill(&self.mount);
        }
        Gave::Nothing
    }

    fn change_below(
        &self,
        step: &Step,
        lower: &std::path::Path,
    ) -> Result<Gave, rustix::io::Errno> {
        let path: PathBuf = lower.join(step.path);
        if !self.policy.changes_below || self.policy.recorded || path.is_symlink() || !path.exists()
        {
            return Ok(Gave::Nothing);
        }
        let mode = stat(&path).st_mode;
        if step.number.is_multiple_of(2) {
            set_mode(&path, step.mode)?;
        } else {
            let (uid, gid) = self.policy.some_owner(5, &mut Dice(step.number.into()));
            chown(&path, Some(uid), Some(gid))?;
            set_mode(&path, mode & 0o7777)?;
        }
        Ok(Gave::Nothing)
    }

    /// Takes steps out as long as something is found.
    fn shrink(&mut self, tree: u64, mut steps: Vec<Step>, mut found: Finding) -> String {
        let end = Instant::now() + SHRINKING;
        steps.truncate(found.at + 1);
        let mut at = 0;
        while at < steps.len() && Instant::now() < end {
            let mut fewer = steps.clone();
            fewer.remove(at);
            match self.run(tree, &fewer) {
                Some(again) => {
                    fewer.truncate(again.at + 1);
                    (steps, found) = (fewer, again);
                }
                None => at += 1,
            }
        }
        let steps: Vec<String> = steps.iter().map(std::string::ToString::to_string).collect();
        let (seed, options) = (self.seed, &self.policy.options);
        format!("IDSHIFT_FUZZ_MOUNT={seed} {options}\n{}\n{}", steps.join("\n"), found.what)
    }
}
