//! The trials: what is run, and what is left out and why.

use std::process::ExitCode;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::cases::{self, Case};
use crate::deviations;
use crate::maps;
use crate::pool::Pool;
use crate::random;
use crate::side::Shown;
use crate::step::Step;
use crate::storage;
use crate::sysctl::Protected;
use crate::tape::{Archive, Tape};
use crate::world::Difference;

/// How idshift may be told to work otherwise than by default: the hand-written cases are tried with
/// each of these options too, on one file system with one map. More of them by
/// `IDSHIFT_ORACLE_OPTIONS`, which counts for all trials.
const MODES: &[&str] = &[
    "cache=none",
    "cache=ttl:1",
    "cache=exclusive",
    "locks=lower",
    "io=cached",
    "io=cached,cache=exclusive",
    "restart=on",
    "idmap=deny",
    // The kernel's idmap on top of idshift's mount.
    "stack=identity",
    "stack=composed",
    "stack=wider",
];
/// Each so-manieth sequence of a case is tried in each mode.
const MODES_EVERY: usize = 5;

/// Reports of one case are cut after this many worlds.
const REPORTS: usize = 3;

pub fn run() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = missing();
    if missing.is_none() {
        private_mounts();
    }
    let against = against();
    let archive = Arc::new(Mutex::new(match against {
        Shown::Recorded => Archive::read(&Archive::place()).expect("the recording"),
        _ => Archive::default(),
    }));
    let pool = Arc::new(Pool::new([against, tested()]));
    let of_case = |case| of_case(&pool, &archive, case);
    let mut trials = Vec::new();
    if let Some(file) = std::env::var_os("IDSHIFT_ORACLE_REPLAY") {
        let text = std::fs::read_to_string(&file).expect("the saved sequences");
        trials.extend(cases::read("replay", &text).into_iter().map(of_case));
    } else {
        trials.extend(cases::all().into_iter().map(of_case));
        trials.push(Trial::test("what the machine had comes back", || {
            crate::sysctl::test();
            Ok(())
        }));
        trials.push(Trial::test("deviations are in docs/semantics.md", deviations_are_documented));
        if against == Shown::Kernel && !recording() {
            trials.extend(MODES.iter().map(|options| of_mode(&pool, options)));
            trials.extend(random_trials(&pool));
            trials.push(self_test(&pool, Shown::Kernel));
            trials.push(self_test(&pool, Shown::Bind));
        }
    }
    if let Some(why) = missing {
        println!("all trials are ignored: {why}");
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    let protected = missing.is_none().then(Protected::on);
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(protected);
    pool.close();
    if recording() {
        let place = Archive::place();
        let archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        archive.write(&place).expect("the recording is written");
        println!("recorded: {}", place.display());
    }
    conclusion.exit_code()
}

/// What this machine lacks for any trial.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("idmapped mounts and callers of many ids need root");
    }
    (!std::path::Path::new("/dev/fuse").exists()).then_some("/dev/fuse is missing")
}

/// A mount namespace of our own: what a crash leaves mounted goes with the last process in it.
fn private_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    // SAFETY: no threads have been started yet, and no file system state is shared with others.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(done, 0, "unshare");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .expect("private");
}

/// The oracle: the kernel's mount, or where there is none, what one said elsewhere.
fn against() -> Shown {
    if std::env::var("IDSHIFT_ORACLE_AGAINST").as_deref() == Ok("recorded") {
        return Shown::Recorded;
    }
    match idshift::mount::kernel_backend::supported(&std::env::temp_dir()) {
        Ok(()) => Shown::Kernel,
        Err(why) => {
            println!("against the recording: {why}");
            Shown::Recorded
        }
    }
}

/// Only each so-manieth sequence of a case, for machines that are slow.
fn every() -> usize {
    std::env::var("IDSHIFT_ORACLE_EVERY").map_or(1, |text| text.parse().expect("a number"))
}

/// The options that idshift gets in all trials, besides the map.
fn options() -> &'static str {
    static OPTIONS: LazyLock<String> =
        LazyLock::new(|| std::env::var("IDSHIFT_ORACLE_OPTIONS").unwrap_or_default());
    &OPTIONS
}

fn recording() -> bool {
    std::env::var_os("IDSHIFT_ORACLE_RECORD").is_some()
}

fn tested() -> Shown {
    match std::env::var("IDSHIFT_ORACLE_TESTED").as_deref() {
        _ if recording() => Shown::Kernel,
        Ok("kernel") => Shown::Kernel,
        Ok("bind") => Shown::Bind,
        _ => Shown::Idshift,
    }
}

fn of_case(pool: &Arc<Pool>, archive: &Arc<Mutex<Archive>>, case: Case) -> Trial {
    let (pool, archive) = (pool.clone(), archive.clone());
    Trial::test(case.name.clone(), move || {
        let mut reports = Vec::new();
        let worlds = if case.suits(options()) { worlds(&case, pool.shown()) } else { Vec::new() };
        for (turn, (kind, map)) in worlds.into_iter().enumerate() {
            let turn = (turn > 0).then_some(turn);
            let found = pool.with(kind, map, options(), |world| {
                let sequences = case.sequences(turn).into_iter();
                sequences.enumerate().step_by(every()).find_map(|(number, steps)| {
                    let key = format!("{}, {kind}, {}, {number}", case.name, map.name);
                    let found = taped(&archive, pool.shown(), &key, |tape| {
                        world.run_taped(&steps, case.watch, tape)
                    })?;
                    let ran: Vec<String> = steps.iter().map(Step::to_string).collect();
                    Some(format!("sequence {number}, {found}\n  {}", ran.join("\n  ")))
                })
            })?;
            reports.extend(found.map(|found| format!("on {kind}, map {}: {found}", map.name)));
            if reports.len() == REPORTS {
                break;
            }
        }
        if reports.is_empty() { Ok(()) } else { Err(Failed::from(reports.join("\n"))) }
    })
}

/// The hand-written cases once more, with other options.
fn of_mode(pool: &Arc<Pool>, mode: &'static str) -> Trial {
    let pool = pool.clone();
    Trial::test(format!("mode: {mode}"), move || {
        let options = [options(), mode].into_iter().filter(|part| !part.is_empty());
        let options: &'static str = options.collect::<Vec<_>>().join(",").leak();
        let mut reports = Vec::new();
        let mut count = 0;
        for case in cases::all().into_iter().filter(|case| case.suits(options)) {
            let Some((&kind, &map)) = case.storage.first().zip(case.maps.first()) else { continue };
            let found = pool.with(kind, map, options, |world| {
                let sequences = case.sequences(None).into_iter().step_by(MODES_EVERY);
                sequences.inspect(|_| count += 1).find_map(|steps| {
                    let found = world.run(&steps, case.watch)?;
                    let ran: Vec<String> = steps.iter().map(Step::to_string).collect();
                    Some(format!("{}: {found}\n  {}", case.name, ran.join("\n  ")))
                })
            })?;
            reports.extend(found);
        }
        println!("{mode}: {count} sequences");
        if reports.is_empty() { Ok(()) } else { Err(Failed::from(reports.join("\n"))) }
    })
}

/// Runs a sequence with the tape that the oracle needs.
fn taped(
    archive: &Mutex<Archive>,
    against: Shown,
    key: &str,
    run: impl FnOnce(&mut Tape) -> Option<Difference>,
) -> Option<Difference> {
    let archive = || archive.lock().unwrap_or_else(PoisonError::into_inner);
    if against == Shown::Recorded {
        let tape = archive().tape(key);
        return run(&mut tape.unwrap_or_else(|| panic!("not recorded: {key}")));
    }
    let mut tape = if recording() { Tape::Recording(Vec::new()) } else { Tape::Live };
    let found = run(&mut tape);
    if let Tape::Recording(said) = tape {
        archive().add(key.to_owned(), said);
    }
    found
}

/// Where a case runs: on one file system with every map, on the others with one. What depends on
/// both at once is left to the random sequences. The first world gets all callers and values.
/// A recording has that one only.
fn worlds(case: &Case, against: Shown) -> Vec<(&'static str, maps::MapSpec)> {
    let (Some(&first), Some(&map)) = (case.storage.first(), case.maps.first()) else {
        return Vec::new();
    };
    if against == Shown::Recorded || recording() {
        return if case.live { Vec::new() } else { vec![(first, map)] };
    }
    let maps = case.maps.iter().map(|&map| (first, map));
    maps.chain(case.storage[1..].iter().map(|&kind| (kind, map))).collect()
}

fn random_trials(pool: &Arc<Pool>) -> Vec<Trial> {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |text| {
            let hex = text.strip_prefix("0x").map(|hex| u64::from_str_radix(hex, 16));
            hex.unwrap_or_else(|| text.parse()).unwrap_or_else(|_| panic!("{name}={text}"))
        })
    };
    let steps = number("IDSHIFT_ORACLE_STEPS", 10_000);
    let most = usize::try_from(number("IDSHIFT_ORACLE_FINDINGS", 1)).expect("a number");
    let seed = number("IDSHIFT_ORACLE_SEED", 0x1d5_41f7);
    let worlds: Vec<_> = storage::KINDS
        .iter()
        .flat_map(|&kind| maps::ALL.iter().map(move |&map| (kind, map)))
        .collect();
    let share = usize::try_from(steps).expect("steps").div_ceil(worlds.len());
    let trial = |(number, (kind, map)): (u64, (&'static str, maps::MapSpec))| {
        let pool = pool.clone();
        Trial::test(format!("random: {kind} {}", map.name), move || {
            let seed = seed.wrapping_add(number);
            let count =
                pool.with(kind, map, options(), |world| random::run(world, seed, share, most))?;
            let count = count.map_err(Failed::from)?;
            println!("{kind} {}: {count} steps from seed {seed:#x}, no difference", map.name);
            Ok(())
        })
    };
    (0..).zip(worlds).map(trial).collect()
}

/// Each known deviation has a row in the document that users read.
fn deviations_are_documented() -> Result<(), Failed> {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md");
    let text = std::fs::read_to_string(document).unwrap_or_default();
    let missing: Vec<&str> = deviations::KNOWN
        .iter()
        .chain(deviations::OLDER.iter().map(|(_, known)| known))
        .chain(deviations::OF_OPTIONS.iter().map(|(_, known)| known))
        .map(|known| known.id)
        .filter(|id| !text.contains(&format!("`{id}`")))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("not in {document}: {missing:?}").into()) }
}

/// The comparison itself: two idmapped mounts are equal, a bind mount is not.
fn self_test(pool: &Arc<Pool>, shown: Shown) -> Trial {
    let pool = pool.clone();
    Trial::test(format!("the comparison against {shown:?}"), move || {
        let storage = pool.storage("tmpfs")?;
        let place = pool.place().join(format!("self-{shown:?}"));
        let mut world =
            crate::world::World::new(storage, maps::OFFSET, "", [Shown::Kernel, shown], &place)?;
        let outcome = random::run(&mut world, 1, 1000, 1);
        match (shown, outcome) {
            (Shown::Bind, Ok(_)) => Err("a bind mount passed for an idmapped one".into()),
            (Shown::Bind, Err(_)) | (_, Ok(_)) => Ok(()),
            (_, Err(report)) => Err(report.into()),
        }
    })
}
