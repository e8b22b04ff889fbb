//! Runs the tests of one family: as root, and again as an ordinary user in a user namespace.
//!
//! `IDSHIFT_TEST_IDENTITY=root` or `=userns` runs only one of the two. `IDSHIFT_TEST_BACKEND=kernel`
//! takes the kernel's idmapped mount in place of idshift, to test the tests. `IDSHIFT_TEST_KERNEL=5.4`
//! takes from idshift what is newer than that kernel.
//! `IDSHIFT_TEST_TRANSPORT=uring` has requests come through io_uring, where that is on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Gid, Uid, geteuid, getpid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::raw;

/// The first host id of the namespace that root makes for the second run, and how many.
const SUB_FIRST: u32 = 3_000_000;
const SUB_COUNT: u32 = 65_536;

/// What the tests of this process can count on.
pub(crate) struct Machine {
    /// Root of the initial user namespace, not only of one of its own.
    pub(crate) real_root: bool,
    /// Whether the ids that the usual map needs are there (0 to 65535).
    pub(crate) has_ids: bool,
    /// The tests run on the kernel's own idmapped mount.
    pub(crate) kernel_backend: bool,
    /// Where temporary directories are made.
    pub(crate) base: PathBuf,
    /// The program under test.
    pub(crate) binary: PathBuf,
}

/// Tells the program that it runs in the namespace that was made for it, and where its files are.
const BASE_VARIABLE: &str = "IDSHIFT_TEST_BASE";

static MACHINE: OnceLock<Machine> = OnceLock::new();

/// What the tests of this process can count on.
pub(crate) fn machine() -> &'static Machine {
    MACHINE.get().expect("the runner has looked at the machine")
}

/// The tests of one file.
pub(crate) struct Module {
    /// The file's name, which the names of its tests begin with.
    pub(crate) name: &'static str,
    pub(crate) tests: &'static [(&'static str, fn())],
    /// Whether no tests of other modules may run beside these: they change what belongs to the whole
    /// process or machine, or measure it.
    pub(crate) alone: bool,
}

struct Skip(String);

thread_local! {
    static SKIPPING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether this thread unwinds from a failure; being skipped is none.
pub(crate) fn failing() -> bool {
    std::thread::panicking() && !SKIPPING.get()
}

/// Ends the test as ignored, for this reason.
pub(crate) fn skip(reason: impl Into<String>) -> ! {
    SKIPPING.set(true);
    panic_any(Skip(reason.into()))
}

/// What `run` gives; `None` where the machine lacks what it needs.
pub(crate) fn unless_skipped<T>(run: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(run));
    SKIPPING.set(false);
    match result {
        Ok(given) => Some(given),
        Err(payload) if payload.is::<Skip>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Skips a test unless it runs as root of the initial user namespace.
pub(crate) fn needs_real_root(why: &str) {
    if !machine().real_root {
        skip(format!("needs real root: {why}"));
    }
}

/// Skips a test where idshift sees an older kernel than this.
pub(crate) fn needs_kernel(version: (u32, u32), why: &str) {
    if super::older::kernel() < version {
        skip(format!("needs Linux {}.{}: {why}", version.0, version.1));
    }
}

/// Skips a test where idshift sees an older kernel than it asks for in its own words: `Linux 5.17`.
pub(crate) fn skip_if_too_old(words: &str) {
    let Some((_, after)) = words.split_once("Linux ") else { return };
    let number: String = after.chars().take_while(|it| it.is_ascii_digit() || *it == '.').collect();
    let Some((major, minor)) = number.split_once('.') else { return };
    if let (Ok(major), Ok(minor)) = (major.parse(), minor.trim_end_matches('.').parse()) {
        needs_kernel((major, minor), words.lines().last().unwrap_or_default());
    }
}

/// Skips a test of ordinary users where they have had to give up set-user-ID programs for the filter that
/// shows an older kernel.
pub(crate) fn needs_set_user_id_programs() {
    if super::older::asked_for().is_some() {
        skip("needs set-user-ID programs, which IDSHIFT_TEST_KERNEL takes from users");
    }
}

/// Skips a test that is about idshift's own doings when it runs on the kernel's mount.
pub(crate) fn needs_idshift() {
    if machine().kernel_backend {
        skip("is about idshift itself");
    }
}

/// Skips a test unless this program is installed.
pub(crate) fn needs_program(name: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let standard = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = path.split(':').chain(standard).any(|dir| Path::new(dir).join(name).exists());
    if !found {
        skip(format!("needs the program {name}"));
    }
}

/// Runs the tests of these modules and returns the exit code of the whole.
pub(crate) fn main(modules: &[Module]) -> ExitCode {
    super::older::stand_in();
    let arguments = Arguments::from_args();
    let wanted = std::env::var("IDSHIFT_TEST_IDENTITY").unwrap_or_else(|_| "both".into());
    if arguments.list {
        let all: Vec<&Module> = modules.iter().collect();
        return run(&arguments, &all, "root");
    }
    if !is_real_root() {
        // As an ordinary user (or as root of a namespace that somebody else made) there is only
        // the second run.
        return match std::env::var_os(BASE_VARIABLE).map(PathBuf::from) {
            Some(base) => {
                prepare(false, base.join("idshift"), Some(base));
                run_all(&arguments, modules, "userns")
            }
            None if getuid().is_root() => {
                prepare(false, program(), None);
                run_all(&arguments, modules, "userns")
            }
            None => in_user_namespace(),
        };
    }
    let mut failed = false;
    if wanted != "root" && !kernel_backend() {
        failed |= in_user_namespace() != ExitCode::SUCCESS;
    }
    if wanted != "userns" {
        raw::unshare(libc::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        prepare(true, program(), None);
        open_fuse_to_all(&machine().base);
        failed |= run_all(&arguments, modules, "root") != ExitCode::SUCCESS;
    }
    fs::remove_dir_all(machine_base()).ok();
    if failed { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

fn machine_base() -> PathBuf {
    MACHINE.get().map_or_else(PathBuf::new, |machine| machine.base.clone())
}

/// Runs the modules that may run beside each other, then each of the others.
fn run_all(arguments: &Arguments, modules: &[Module], kind: &str) -> ExitCode {
    silence_skips();
    let (alone, beside): (Vec<&Module>, Vec<&Module>) =
        modules.iter().partition(|module| module.alone);
    let groups = std::iter::once(beside).chain(alone.into_iter().map(|module| vec![module]));
    let mut code = ExitCode::SUCCESS;
    for group in groups.filter(|group| has_wanted(arguments, group)) {
        if run(arguments, &group, kind) != ExitCode::SUCCESS {
            code = ExitCode::from(101);
        }
    }
    print_slowest(kind);
    code
}

/// Whether the arguments choose any test of these modules.
fn has_wanted(arguments: &Arguments, modules: &[&Module]) -> bool {
    let is_wanted = |name: &str| match &arguments.filter {
        Some(filter) if arguments.exact => name == filter,
        Some(filter) => name.contains(filter.as_str()),
        None => true,
    };
    let mut tests = modules
        .iter()
        .flat_map(|module| module.tests.iter().map(|(test, _)| format!("{}::{test}", module.name)));
    tests.any(|name| is_wanted(&name))
}

fn run(arguments: &Arguments, modules: &[&Module], kind: &str) -> ExitCode {
    let trials = modules
        .iter()
        .flat_map(|module| {
            module.tests.iter().map(|(test, body)| (format!("{}::{test}", module.name), *body))
        })
        .map(|(name, body)| {
            let title = name.clone();
            Trial::ignorable_test(name, move || timed(&title, body)).with_kind(kind)
        })
        .collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    if conclusion.has_failed() { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

/// How long each test took.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn timed(name: &str, test: fn()) -> Result<Completion, Failed> {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(test));
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.push((start.elapsed(), name.to_owned()));
    drop(times);
    match outcome {
        Ok(()) => Ok(Completion::Completed),
        Err(payload) => match payload.downcast::<Skip>() {
            Ok(skip) => {
                SKIPPING.set(false);
                Ok(Completion::ignored_with(skip.0))
            }
            Err(payload) => resume_unwind(payload),
        },
    }
}

/// Says which tests to look at when the whole takes too long.
fn print_slowest(kind: &str) {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort_unstable_by(|one, other| other.cmp(one));
    for (time, name) in times.iter().take(10).filter(|(time, _)| time.as_secs() >= 1) {
        println!("slow: {:5.1} s [{kind}] {name}", time.as_secs_f64());
    }
}

/// A skip travels as a panic; it is no failure, so nothing is printed for it.
fn silence_skips() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Skip>() {
            usual(info);
        }
    }));
}

fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    geteuid().is_root() && whole
}

/// The program under test: the one that cargo built, or the one named in `IDSHIFT_TEST_BINARY`.
fn program() -> PathBuf {
    std::env::var_os("IDSHIFT_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_idshift")), PathBuf::from)
}

fn kernel_backend() -> bool {
    std::env::var("IDSHIFT_TEST_BACKEND").is_ok_and(|backend| backend == "kernel")
}

fn prepare(real_root: bool, binary: PathBuf, base: Option<PathBuf>) {
    let base = base.unwrap_or_else(new_base);
    let binary = match super::older::asked_for() {
        Some(kernel) => super::older::wrap(&binary, &kernel, &base),
        None => binary,
    };
    let machine = Machine {
        real_root,
        has_ids: has_ids("uid_map") && has_ids("gid_map"),
        kernel_backend: kernel_backend(),
        base,
        binary,
    };
    assert!(MACHINE.set(machine).is_ok());
}

fn new_base() -> PathBuf {
    let base = tempfile::Builder::new().prefix("idshift-tests-").tempdir().unwrap().keep();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    base
}

fn has_ids(file: &str) -> bool {
    let map = fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    let mut extents: Vec<(u64, u64)> = map
        .lines()
        .map(|line| {
            let numbers: Vec<u64> =
                line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            (numbers[0], numbers[2])
        })
        .collect();
    extents.sort_unstable();
    let reach = extents
        .iter()
        .fold(0, |reach, (first, count)| if *first <= reach { first + count } else { reach });
    reach >= u64::from(SUB_COUNT)
}

/// Forks, and runs the tests in the child: an ordinary user in a user and a mount namespace.
/// The program under test is copied to where that user can reach it.
fn in_user_namespace() -> ExitCode {
    let root = getuid().is_root();
    let base = new_base();
    let binary = base.join("idshift");
    fs::copy(program(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    if root {
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&base, Some(SUB_FIRST), Some(SUB_FIRST)).unwrap();
    }
    let (ready_in, ready_out) = rustix::pipe::pipe().unwrap();
    let (mapped_in, mapped_out) = rustix::pipe::pipe().unwrap();
    let child = raw::fork().unwrap();
    if child == 0 {
        drop((ready_in, mapped_out));
        if root {
            open_fuse_to_all(&base);
            let (uid, gid) = (Uid::from_raw(SUB_FIRST), Gid::from_raw(SUB_FIRST));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
        }
        let made = raw::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
        rustix::io::write(&ready_out, &[u8::from(made.is_ok())]).unwrap();
        rustix::io::read(&mapped_in, &mut [0_u8; 1]).unwrap();
        if let Err(error) = made {
            println!("SKIP all tests in a user namespace: unshare: {error}");
            std::process::exit(0);
        }
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // Executed anew, this process belongs to the namespace entirely: before, its memory would
        // count as the host's, and nobody in the namespace could look at it in /proc.
        let error = Command::new("/proc/self/exe")
            .args(std::env::args_os().skip(1))
            .env(BASE_VARIABLE, base)
            .exec();
        panic!("exec of the test program: {error}");
    }
    drop((ready_out, mapped_in));
    let mut made = [0_u8; 1];
    rustix::io::read(&ready_in, &mut made).unwrap();
    if made == [1] {
        write_maps(child, root);
    }
    rustix::io::write(&mapped_out, &[0]).unwrap();
    let code = raw::wait(child);
    fs::remove_dir_all(&base).ok();
    ExitCode::from(code)
}

/// Where /dev/fuse is closed to users, puts an open device node over it, in a mount namespace of
/// this process alone.
fn open_fuse_to_all(base: &Path) {
    let device = Path::new("/dev/fuse");
    let open = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o666 == 0o666)
    };
    if !device.exists() || open(device) {
        return;
    }
    let node = base.join("fuse");
    raw::mknod(&node, 0o020_666, rustix::fs::makedev(10, 229)).unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o666)).unwrap();
    raw::unshare(libc::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    rustix::mount::mount_bind(&node, device).unwrap();
}

fn write_maps(child: libc::pid_t, root: bool) {
    let proc = Path::new("/proc").join(child.to_string());
    if root {
        let map = format!("0 {SUB_FIRST} {SUB_COUNT}\n");
        fs::write(proc.join("uid_map"), &map).unwrap();
        fs::write(proc.join("gid_map"), &map).unwrap();
        return;
    }
    let (uid, gid) = (getuid().as_raw(), rustix::process::getgid().as_raw());
    if map_by_helper(child, "newuidmap", "/etc/subuid", uid)
        && map_by_helper(child, "newgidmap", "/etc/subgid", gid)
    {
        return;
    }
    // Without a range of ids: only the own one. The tests that need more are skipped.
    fs::write(proc.join("setgroups"), "deny").ok();
    fs::write(proc.join("uid_map"), format!("0 {uid} 1\n")).ok();
    fs::write(proc.join("gid_map"), format!("0 {gid} 1\n")).ok();
}

fn map_by_helper(child: libc::pid_t, helper: &str, file: &str, own: u32) -> bool {
    let name = std::env::var("USER").unwrap_or_default();
    let uid = getuid().as_raw().to_string();
    let ranges = fs::read_to_string(file).unwrap_or_default();
    let range = ranges.lines().find_map(|line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let (first, count) = (fields.next()?.to_owned(), fields.next()?.parse::<u32>().ok()?);
        ((who == name || who == uid) && count >= SUB_COUNT - 1).then_some(first)
    });
    let Some(first) = range else { return false };
    Command::new(helper)
        .args([child.to_string().as_str(), "0", &own.to_string(), "1", "1", &first])
        .arg((SUB_COUNT - 1).to_string())
        .status()
        .is_ok_and(|status| status.success())
}

/// The process id as the tests print it.
pub(crate) fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}
