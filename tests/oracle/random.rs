//! Random sequences of all calls by all callers, and the search for the shortest one that shows
//! the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::step::Step;
use crate::world::{Difference, Watch, World};

/// Steps of one sequence: enough for state to build up, few enough to be read.
const LENGTH: usize = 40;
/// A found sequence is made shorter for at most this long.
const SHRINKING: Duration = Duration::from_secs(60);

/// A small generator of numbers (splitmix64): the seed alone decides a sequence.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).expect("below a usize")
    }

    pub fn of<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// Runs sequences until `steps` steps are done, or `most` kinds of difference are found. The error
/// is a report of them.
pub fn run(world: &mut World, seed: u64, steps: usize, most: usize) -> Result<usize, String> {
    let mut dice = Dice(seed);
    let mut count = 0;
    let mut reports: BTreeMap<(String, String, String), String> = BTreeMap::new();
    while count < steps && reports.len() < most {
        let sequence_seed = dice.roll();
        let (sequence, watch) = sequence(sequence_seed);
        count += sequence.len();
        if let Some(found) = world.run(&sequence, watch) {
            let (short, found) = shrink(world, sequence, watch, found);
            let call = short.last().map(|step| step.call.clone()).unwrap_or_default();
            let kind = (call, found.left.clone(), found.right.clone());
            reports.entry(kind).or_insert_with(|| report(world, sequence_seed, &short, &found));
        }
    }
    if reports.is_empty() {
        return Ok(count);
    }
    Err(reports.into_values().collect::<Vec<_>>().join("\n\n"))
}

/// A sequence and how it is watched, from its seed.
pub fn sequence(seed: u64) -> (Vec<Step>, Watch) {
    let mut dice = Dice(seed);
    let watch = [Watch::Touched, Watch::AtEnd, Watch::Touched, Watch::Everything][dice.below(4)];
    let mut steps = prepare(&mut dice);
    // A few callers at a time get to meet each other's files.
    let count = 2 + dice.below(4);
    let callers: Vec<&str> = (0..count).map(|_| dice.of(CALLERS)).collect();
    steps.extend((0..LENGTH).map(|_| step(&mut dice, &callers)));
    (steps, watch)
}

fn report(world: &World, seed: u64, steps: &[Step], found: &Difference) -> String {
    let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
    let place = std::env::temp_dir().join(format!("oracle-{seed:016x}.steps"));
    let heading = format!(
        "== seed {seed:#x}\nmap {}\nstorage {}\n{text}",
        world.map.name, world.storage.kind
    );
    let saved = match std::fs::write(&place, &heading) {
        Ok(()) => format!("saved: IDSHIFT_ORACLE_REPLAY={}", place.display()),
        Err(error) => format!("not saved: {error}"),
    };
    format!("{heading}{found}\n{saved}\nserver's log:\n{}", world.log())
}

/// Whether two differences are likely one: the same call, and answers to it that are as unlike.
fn same_kind(fewer: &[Step], again: &Difference, steps: &[Step], found: &Difference) -> bool {
    let kind = |steps: &[Step], found: &Difference| {
        let answers = |text: &str| text.split([' ', '=']).next().unwrap_or_default().to_owned();
        (steps[found.step].call.clone(), answers(&found.left), answers(&found.right))
    };
    kind(fewer, again) == kind(steps, found)
}

/// Takes steps out as long as the difference stays: halves first, then smaller parts, then one.
fn shrink(
    world: &mut World,
    mut steps: Vec<Step>,
    watch: Watch,
    mut found: Difference,
) -> (Vec<Step>, Difference) {
    let end = Instant::now() + SHRINKING;
    steps.truncate(found.step + 1);
    let mut part = steps.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        let mut shorter = false;
        while from < steps.len() && Instant::now() < end {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + part).min(steps.len()));
            let again = world.run(&fewer, watch);
            if let Some(again) = again.filter(|again| same_kind(&fewer, again, &steps, &found)) {
                fewer.truncate(again.step + 1);
                (steps, found, shorter) = (fewer, again, true);
            } else {
                from += part;
            }
        }
        if !shorter || Instant::now() >= end {
            part = if part == 1 || Instant::now() >= end { 0 } else { part.div_ceil(2) };
        }
    }
    (steps, found)
}

const CALLERS: &[&str] = &[
    "host",
    "root",
    "bareroot",
    "alice",
    "alice",
    "bob",
    "bob",
    "carol",
    "carol",
    "dave",
    "alien",
    "nobody",
    "halfling",
    "chowner",
    "overrider",
    "fowner",
    "fsetid",
    "nsroot",
    "nsalice",
];
const FILES: &[&str] = &["a", "b", "c", "d/a", "d/b", "e/a", "e/b", "l", "d/l"];
const DIRECTORIES: &[&str] = &["d", "e", "d/s", "."];
const UIDS: &[&str] =
    &["@u0", "@u1000", "@u1000", "@u1001", "@u1002", "@u1003", "-1", "-1", "900000", "65534", "0"];
const GIDS: &[&str] =
    &["@g0", "@g1000", "@g1001", "@g2000", "@g2000", "@g1003", "-1", "-1", "900000", "65534", "0"];
const MODES: &[&str] = &[
    "0644", "0600", "0755", "0777", "0666", "4755", "2755", "6777", "2775", "1777", "0000", "2644",
    "0640", "7777", "4711", "2070",
];
const SLOTS: &[&str] = &["1", "2", "3"];
const ACLS: &[&str] = &[
    "acl:u::7,g::5,o::5",
    "acl:u::7,u:@u1001:7,g::5,m::7,o::0",
    "acl:u::6,g::4,g:@g2000:6,m::6,o::0",
    "acl:u::7,u:@u1000:0,g::7,m::7,o::7",
    "acl:u::6,u:900000:7,g::4,m::7,o::4",
    "acl:u::7,g::7,g:@g1003:7,m::4,o::1",
];

fn path<'a>(dice: &mut Dice) -> &'a str {
    if dice.below(5) == 0 { dice.of(DIRECTORIES) } else { dice.of(FILES) }
}

/// A lower tree, by the lower caller: files of several owners, one that no map may cover.
fn prepare(dice: &mut Dice) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lower = |call: &str, args: &[&str]| steps.push(Step::new("lower", call, args));
    lower("umask", &["0000"]);
    for name in ["d", "e"] {
        lower("mkdir", &[name, dice.of(&["0777", "2777", "1777", "0755", "2775"])]);
    }
    for name in ["a", "b", "d/a", "e/a"] {
        lower("open", &["1", name, "CREAT|WRONLY", "0666"]);
        lower("write", &["1", dice.of(&["0", "5", "5000"]), "1"]);
        lower("close", &["1"]);
    }
    lower("symlink", &[dice.of(&["a", "d/a", "nowhere", "d"]), "l"]);
    for name in ["d", "e", "a", "b", "d/a", "e/a"] {
        let uid = dice.of(&["0", "1000", "1000", "1001", "1002", "500000"]);
        let gid = dice.of(&["0", "1000", "1001", "2000", "2000", "500000"]);
        lower("chown", &[name, uid, gid]);
        if !name.contains(['d', 'e']) || name.contains('/') {
            lower("chmod", &[name, dice.of(MODES)]);
        } else {
            lower("chmod", &[name, dice.of(&["0777", "2777", "1777", "0755", "2775"])]);
        }
        if dice.below(4) == 0 {
            lower("setx", &[name, "system.posix_acl_access", dice.of(ACLS)]);
        }
    }
    for name in ["d", "e"] {
        if dice.below(4) == 0 {
            lower("setx", &[name, "system.posix_acl_default", dice.of(ACLS)]);
        }
    }
    steps
}

#[rustfmt::skip] // a table
fn step(dice: &mut Dice, callers: &[&str]) -> Step {
    let caller = callers[dice.below(callers.len())];
    let slot = dice.of(SLOTS);
    let number = |dice: &mut Dice| dice.of(&["0", "1", "10", "4096", "5000", "70000", "300000"]);
    let size = |dice: &mut Dice| dice.of(&["1", "7", "100", "4096", "20000"]);
    let seed = dice.below(1000).to_string();
    let time = |dice: &mut Dice| dice.of(&["now", "omit", "1.5", "1000.999999999", "123456.1"]);
    let make = |call: &str, args: &[&str]| Step::new(caller, call, args);
    match dice.below(100) {
        0..=13 => open(dice, caller, slot),
        14..=16 => make("close", &[slot]),
        17..=18 => make("read", &[slot, size(dice)]),
        19 => make("pread", &[slot, number(dice), size(dice)]),
        20..=22 => make("write", &[slot, size(dice), &seed]),
        23..=24 => make("pwrite", &[slot, number(dice), size(dice), &seed]),
        25 => make("ftruncate", &[slot, number(dice)]),
        26 => make("truncate", &[path(dice), number(dice)]),
        27 => make("fallocate", &[slot, dice.of(&["0", "KEEP", "KEEP|PUNCH", "ZERO", "COLLAPSE", "INSERT"]), number(dice), dice.of(&["1", "4096", "8192"])]),
        28 => make("copy", &[slot, number(dice), dice.of(SLOTS), number(dice), size(dice)]),
        29 => make("seek", &[slot, dice.of(&["SET", "END", "DATA", "HOLE"]), number(dice)]),
        30 => make(dice.of(&["fsync", "fdatasync"]), &[slot]),
        31..=34 => make("mkdir", &[dice.of(&["d/s", "e/s", "d", "c", "d/s/t"]), dice.of(MODES)]),
        35..=37 => make("mknod", &[path(dice), dice.of(&["fifo", "file", "char", "sock", "block"]), dice.of(MODES), "1:3"]),
        38..=39 => make("symlink", &[dice.of(&["a", "../a", "d", "nowhere", "l"]), path(dice)]),
        40 => make("readlink", &[path(dice)]),
        41..=44 => make("link", &[path(dice), path(dice), dice.of(&["0", "0", "FOLLOW"])]),
        45 => make("link", &[&format!("fd:{slot}"), path(dice), "FOLLOW"]),
        46..=48 => make("unlink", &[path(dice)]),
        49 => make("rmdir", &[dice.of(&["d/s", "e/s", "d", "e", "a"])]),
        50..=54 => make("rename", &[path(dice), path(dice), dice.of(&["0", "0", "0", "NOREPLACE", "EXCHANGE", "WHITEOUT", "NOREPLACE|EXCHANGE"])]),
        55..=60 => make("chmod", &[path(dice), dice.of(MODES)]),
        61 => make("chmod", &[path(dice), dice.of(MODES), "NOFOLLOW"]),
        62 => make("fchmod", &[slot, dice.of(MODES)]),
        63..=68 => make(dice.of(&["chown", "lchown"]), &[path(dice), dice.of(UIDS), dice.of(GIDS)]),
        69 => make("fchown", &[slot, dice.of(UIDS), dice.of(GIDS)]),
        70..=71 => make("utime", &[path(dice), time(dice), time(dice), dice.of(&["0", "NOFOLLOW"])]),
        72 => make("utime", &[path(dice), "null"]),
        73 => make("futime", &[slot, time(dice), time(dice)]),
        74..=75 => make("access", &[path(dice), dice.of(&["F", "R", "W", "X", "R|W", "R|W|X"]), dice.of(&["0", "EACCESS", "NOFOLLOW"])]),
        76..=78 => make(dice.of(&["stat", "lstat"]), &[path(dice)]),
        79 => make("fstat", &[slot]),
        80 => make("list", &[dice.of(DIRECTORIES)]),
        81..=86 => set_xattr(dice, caller),
        87..=88 => make("getx", &[path(dice), dice.of(XATTRS)]),
        89 => make("listx", &[path(dice)]),
        90..=91 => make("rmx", &[path(dice), dice.of(XATTRS)]),
        92 => make("flock", &[slot, dice.of(&["SH", "EX", "UN"])]),
        93 => make(dice.of(&["lock", "getlk"]), &[slot, dice.of(&["posix", "ofd"]), dice.of(&["RD", "WR", "UN"]), number(dice), size(dice)]),
        94 => make("mmapw", &[slot, number(dice), size(dice), &seed]),
        95 => make("mmapr", &[slot, number(dice), size(dice)]),
        96 => make("umask", &[dice.of(&["0000", "0022", "0077", "0007"])]),
        97 => make("getflags", &[slot]),
        98 => make("statfs", &[path(dice)]),
        _ => make("exec", &[path(dice)]),
    }
}

const XATTRS: &[&str] = &[
    "user.one",
    "user.two",
    "trusted.one",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "security.other",
    "unknown.one",
];

fn open(dice: &mut Dice, caller: &str, slot: &str) -> Step {
    let access = dice.of(&["RDONLY", "WRONLY", "RDWR", "RDWR"]);
    let more = dice.of(&[
        "0",
        "0",
        "CREAT",
        "CREAT",
        "CREAT",
        "CREAT|EXCL",
        "TRUNC",
        "CREAT|TRUNC",
        "APPEND",
        "CREAT|APPEND",
        "NOFOLLOW",
        "CREAT|NOFOLLOW",
        "PATH",
        "PATH|NOFOLLOW",
        "DIRECTORY",
        "NOATIME",
        "SYNC",
        "DIRECT",
        "CREAT|DIRECTORY",
    ]);
    let mode = dice.of(MODES);
    if dice.below(12) == 0 {
        let flags = dice.of(&["TMPFILE|RDWR", "TMPFILE|WRONLY", "TMPFILE|RDWR|EXCL", "TMPFILE"]);
        return Step::new(caller, "open", &[slot, dice.of(DIRECTORIES), flags, mode]);
    }
    let file = path(dice);
    Step::new(caller, "open", &[slot, file, &format!("{access}|{more}"), mode])
}

fn set_xattr(dice: &mut Dice, caller: &str) -> Step {
    let name = dice.of(XATTRS);
    let value = match name {
        "system.posix_acl_access" | "system.posix_acl_default" => dice.of(ACLS),
        "security.capability" => dice.of(&[
            "cap2:400",
            "cap3:400:@u0",
            "cap3:400:@u1000",
            "cap3:400:900000",
            "cap3:400:0",
        ]),
        _ => dice.of(&["one", "%", "len:300"]),
    };
    let target = path(dice);
    let flags = dice.of(&["0", "0", "CREATE", "REPLACE"]);
    Step::new(caller, dice.of(&["setx", "setx", "lsetx"]), &[target, name, value, flags])
}
