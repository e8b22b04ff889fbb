//! For every system call that a confined server can make, and every descriptor that it has: what that
//! reaches. It is tried in a running server, and the outcome is docs/sandbox-audit.md; with
//! `IDSHIFT_WRITE_AUDIT=1` the document is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::{self, File};

use idshift::daemon::sandbox::calls::{FEATURES, Pins, When, narrow};

use crate::common::inject::Arg::N;
use crate::common::inject::{Arg, Stopped};
use tempfile::TempDir;

use crate::common::mount::{Mount, temp_dir};
use crate::common::runner::needs_real_root;
use crate::common::storage::Storage;
use crate::common::{eventually, restart, skip};
use calls::{NAME, OTHERS, Probe, Then, probes};
use descriptors::{Descriptor, Kind};
use filter::Filters;

mod calls;
mod descriptors;
mod filter;

crate::common::tests! {
    document_says_what_calls_reach,
    filter_is_what_is_listed,
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sandbox-audit.md");

/// What came of the probes, by name and by kind of descriptor.
type Outcome = BTreeMap<(&'static str, Kind), bool>;

/// A server with something of every kind, and one of its threads.
struct Scene {
    server: u32,
    all: Vec<Descriptor>,
    filters: Filters,
    // Dropped in this order: the mount last.
    inside: Stopped,
    _opened: File,
    _mount: Mount,
    _lower: Storage,
    _place: TempDir,
}

impl Scene {
    /// With these options, over tmpfs: what works does not depend on the machine then.
    fn with(options: &str) -> Self {
        needs_real_root("a server that is root's");
        restart::needs_resending();
        let place = temp_dir();
        let lower = Storage::make("tmpfs", place.path()).unwrap_or_else(|why| skip(why));
        let options = format!("map=identity,cache=coherent,locks=lower,{options}");
        let mount = Mount::of(temp_dir(), lower.root.clone(), &options);
        if options.contains("restart=on") {
            eventually("the server is there", || mount.server_pid() != mount.main_pid());
        }
        fs::write(mount.up("file"), vec![7; 4096]).unwrap();
        let opened = File::options().read(true).write(true).open(mount.up("file")).unwrap();
        // A lock opens the lower file.
        rustix::fs::flock(&opened, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let server = mount.server_pid();
        let inside = match Stopped::stop(server) {
            Ok(inside) => inside,
            Err(errno) => skip(format!("needs ptrace(2): {errno}")),
        };
        let all = descriptors::of(server, &mount);
        let filters = Filters::of(&inside);
        Self {
            server,
            all,
            filters,
            inside,
            _opened: opened,
            _mount: mount,
            _lower: lower,
            _place: place,
        }
    }

    fn try_all(&self, outcome: &mut Outcome) {
        for probe in probes() {
            for descriptor in &self.all {
                let works = self.works(&probe, descriptor);
                *outcome.entry((probe.name, descriptor.kind)).or_default() |= works;
            }
        }
    }

    fn works(&self, probe: &Probe, descriptor: &Descriptor) -> bool {
        let args = probe.args(descriptor);
        if probe.call == libc::SYS_close {
            return self.allows(probe.call, &args);
        }
        let result = self.inside.call(probe.call, &args);
        if let Ok(made) = result {
            self.undo(probe, descriptor, made);
        }
        probe.passes(result)
    }

    fn undo(&self, probe: &Probe, descriptor: &Descriptor, made: u64) {
        let number = N(made.cast_signed());
        match probe.then {
            Then::Nothing => {}
            Then::Close => {
                let leads_to = descriptors::leads_to(self.server, made);
                assert_eq!(
                    leads_to, descriptor.file,
                    "{} of {descriptor:?} leads away",
                    probe.name
                );
                self.inside.call(libc::SYS_close, &[number]).unwrap();
            }
            Then::Remove(flags) => self.remove(descriptor.number, flags),
            Then::Unlink => self.remove(descriptor.root, 0),
            Then::Unmap => drop(self.inside.call(libc::SYS_munmap, &[number, N(4096)]).unwrap()),
        }
    }

    fn remove(&self, dir: i64, flags: i64) {
        self.inside.call(libc::SYS_unlinkat, &[N(dir), Arg::At(NAME), N(flags)]).unwrap();
    }

    fn allows(&self, call: i64, args: &[Arg<'_>]) -> bool {
        let mut values = [0; 6];
        for (value, arg) in values.iter_mut().zip(args) {
            *value = if let N(number) = arg { number.cast_unsigned() } else { 1 };
        }
        self.filters.allow(call, values)
    }

    fn pins(&self) -> Pins {
        let number = |descriptor: &Descriptor| i32::try_from(descriptor.number).unwrap();
        let of = |kind| self.all.iter().filter(move |one| one.kind == kind).map(number);
        Pins {
            mounts: of(Kind::Handles).collect(),
            group: of(Kind::Group).next(),
            rings: Vec::new(),
        }
    }
}

fn document_says_what_calls_reach() {
    let mut outcome = Outcome::new();
    let scene = Scene::with("");
    scene.try_all(&mut outcome);
    let pins = scene.pins();
    drop(scene);
    let restarting = Scene::with("restart=on");
    restarting.try_all(&mut outcome);
    drop(restarting);
    let found = document(&pins, &outcome);
    if std::env::var_os("IDSHIFT_WRITE_AUDIT").is_some() {
        fs::write(DOCUMENT, &found).unwrap();
    }
    let written = fs::read_to_string(DOCUMENT).unwrap_or_default();
    for (nth, (found, written)) in found.lines().zip(written.lines()).enumerate() {
        assert_eq!(
            found,
            written,
            "line {} of {DOCUMENT}: what is found, and what is written",
            nth + 1
        );
    }
    assert_eq!(found.len(), written.len(), "{DOCUMENT} is older than the program");
}

/// The filter of the running server, instruction by instruction, against the list in the source.
fn filter_is_what_is_listed() {
    let scene = Scene::with("");
    let always: BTreeSet<i64> = FEATURES.iter().flat_map(|one| one.calls).copied().collect();
    let listed = narrow(&scene.pins());
    let mut some =
        [0, 1, 7, 0x2_0000, u64::from(u32::MAX), u64::MAX].map(|value| [value; 6]).to_vec();
    for one in &listed {
        some.push(holding(&one.when, scene.server));
    }
    for call in 0..600 {
        for args in &some {
            let pid = scene.server;
            let by_list =
                || listed.iter().any(|one| one.call == call && hold(&one.when, *args, pid));
            let expected = call != libc::SYS_clone3 && (always.contains(&call) || by_list());
            assert_eq!(scene.filters.allow(call, *args), expected, "call {call} with {args:x?}");
        }
    }
    drop(scene);
}

/// Arguments of which all this is true.
fn holding(when: &[When], server: u32) -> [u64; 6] {
    let mut args = [0x7000_0000; 6];
    for one in when {
        match *one {
            When::Is(at, value) => args[usize::from(at)] = of_server(value, server).into(),
            When::Bits(at, _, value) => args[usize::from(at)] = value.into(),
            When::Null(at) => args[usize::from(at)] = 0,
            When::Not(..) => {}
        }
    }
    args
}

fn hold(when: &[When], args: [u64; 6], server: u32) -> bool {
    let low = |at: u8| u32::try_from(args[usize::from(at)] & u64::from(u32::MAX)).unwrap();
    when.iter().all(|one| match *one {
        When::Is(at, value) => low(at) == of_server(value, server),
        When::Not(at, value) => low(at) != value,
        When::Bits(at, mask, value) => low(at) & mask == value,
        When::Null(at) => args[usize::from(at)] == 0,
    })
}

/// Where the list has its own process, this test's, the filter has the server.
fn of_server(value: u32, server: u32) -> u32 {
    if value == std::process::id() { server } else { value }
}

fn document(pins: &Pins, outcome: &Outcome) -> String {
    let mut text = String::from(HEAD);
    let kinds: Vec<Kind> = Kind::ALL.to_vec();
    for kind in &kinds {
        let found = outcome.keys().any(|(_, found)| found == kind);
        assert!(found, "no server has a descriptor of kind {kind:?}");
        let [name, what, reach] = kind.words();
        writeln!(text, "| {name} | {what} | {reach} |").unwrap();
    }
    text.push_str(CALLS);
    let head: Vec<_> = kinds.iter().map(|kind| kind.words()[0]).collect();
    writeln!(text, "| call | {} |", head.join(" | ")).unwrap();
    writeln!(text, "|---|{}", "---|".repeat(kinds.len())).unwrap();
    let mut known = BTreeSet::new();
    for probe in probes() {
        known.insert(probe.call);
        let cell = |kind: &Kind| if outcome[&(probe.name, *kind)] { "×" } else { "" };
        let cells: Vec<_> = kinds.iter().map(cell).collect();
        writeln!(text, "| {} | {} |", probe.name, cells.join(" | ")).unwrap();
    }
    text.push_str(REST);
    let conditions: BTreeSet<i64> = narrow(pins).iter().map(|one| one.call).collect();
    for (reach, calls) in OTHERS {
        known.extend(calls.iter().map(|(_, call)| *call));
        let name = |(name, call): &(&str, i64)| {
            let name = name.trim_start_matches("SYS_");
            if conditions.contains(call) { format!("{name}*") } else { name.to_owned() }
        };
        let names: Vec<_> = calls.iter().map(name).collect();
        writeln!(text, "| {} | {reach} |", names.join(", ")).unwrap();
    }
    let all: BTreeSet<i64> =
        FEATURES.iter().flat_map(|one| one.calls).copied().chain(conditions).collect();
    let missing: Vec<_> = all.difference(&known).collect();
    assert!(missing.is_empty(), "calls that are allowed and not tried here: {missing:?}");
    let more: Vec<_> = known.difference(&all).collect();
    assert!(more.is_empty(), "calls that are tried here and not allowed: {more:?}");
    text
}

const HEAD: &str = "# What a confined server's calls reach

The test `harm audit` writes this down: it has running servers (root's, over tmpfs, Linux 6.9 or newer, `cache=coherent,locks=lower`, without and with `restart=on`) make every system
call that their filter allows, with every descriptor that they have. What this means is in [security.md](security.md#what-the-server-could-be-made-to-do).

## Descriptors

| | what it is | what is reached by it |
|---|---|---|
";

const CALLS: &str = "
A pipe or socket on which it was started as its standard output or error stays, too, and reaches whoever reads that.

## Calls with a descriptor

× works: it reaches what the table above says, and nothing else. Each `openat` was seen to lead back to the same file. Everything else fails.

";

const REST: &str = "
## Other calls

Those with a star are allowed with some arguments only (`src/daemon/sandbox/calls.rs`).

| calls | what they reach |
|---|---|
";
