//! The kernel's rules for sticky directories (`fs.protected_*`), which judge ids too: on while the
//! trials run.
//!
//! They are the whole machine's, so a process of its own keeps what they were before. It sets them
//! again when its standard input ends, however the run ended, and when no other run needs them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, flock};

/// The argument that makes the test binary a keeper.
pub const MARK: &str = "--oracle-keeper";

const NAMES: &[&str] =
    &["protected_symlinks", "protected_hardlinks", "protected_regular", "protected_fifos"];

/// The rules are on until this is dropped, or this process is gone.
pub struct Protected(Child);

impl Protected {
    pub fn on() -> Self {
        Self::at(Path::new("/proc/sys/fs"), Path::new("/run"))
    }

    fn at(rules: &Path, state: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg(MARK).args([rules, state]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: setsid is a bare system call without pointers, safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // What ends the run's group of processes, such as Ctrl-C, must not end the keeper.
                libc::setsid();
                Ok(())
            });
        }
        let mut keeper = command.spawn().expect("a keeper");
        let mut line = String::new();
        let output = keeper.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("text");
        assert_eq!(line.trim(), "on", "the keeper of fs.protected_*");
        Self(keeper)
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _done = self.0.wait();
    }
}

/// The keeper's end.
pub fn keep(args: &[String]) {
    let [rules, state] = args else { panic!("two arguments") };
    let (rules, state) = (PathBuf::from(rules), PathBuf::from(state));
    let open = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(state.join(name)).expect("a file for locks")
    };
    // Coming and going is one at a time. Who is there holds the second lock, shared.
    let (gate, mut users) = (open("idshift-oracle.gate"), open("idshift-oracle.users"));
    flock(&gate, FlockOperation::LockExclusive).expect("a lock");
    if flock(&users, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let mut saved = String::new();
        users.read_to_string(&mut saved).expect("what was before");
        // Something there is from a keeper that was killed.
        if saved.is_empty() {
            users.write_all(values(&rules).as_bytes()).expect("room for a line");
        }
    }
    flock(&users, FlockOperation::LockShared).expect("a lock");
    for name in NAMES {
        set(&rules, name, "1");
    }
    flock(&gate, FlockOperation::Unlock).expect("a lock");
    println!("on");
    let _ended = std::io::stdin().read_to_end(&mut Vec::new());
    flock(&gate, FlockOperation::LockExclusive).expect("a lock");
    if flock(&users, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let mut saved = String::new();
        users.rewind().expect("a file");
        users.read_to_string(&mut saved).expect("what was before");
        saved.lines().filter_map(|l| l.split_once('=')).for_each(|(n, v)| set(&rules, n, v));
        users.set_len(0).expect("a file");
    }
}

/// The rules as they are: `name=value` lines. An older kernel lacks some.
fn values(rules: &Path) -> String {
    let line = |name: &&str| {
        let value = fs::read_to_string(rules.join(name)).ok()?;
        Some(format!("{name}={}\n", value.trim()))
    };
    NAMES.iter().filter_map(line).collect()
}

fn set(rules: &Path, name: &str, value: &str) {
    let path = rules.join(name);
    if path.exists() {
        fs::write(path, value).expect("root may set it");
    }
}

/// Two runs at once, of which the first ends first; and one whose keeper was killed.
pub fn test() {
    let place = tempfile::tempdir().expect("a directory");
    let (rules, state) = (place.path().join("rules"), place.path());
    fs::create_dir(&rules).expect("a directory");
    let before = "protected_symlinks=0\nprotected_regular=2\n";
    before.lines().filter_map(|l| l.split_once('=')).for_each(|(name, value)| {
        fs::write(rules.join(name), value).expect("a file");
    });
    let on = "protected_symlinks=1\nprotected_regular=1\n";
    let one = Protected::at(&rules, state);
    let other = Protected::at(&rules, state);
    assert_eq!(values(&rules), on);
    drop(one);
    assert_eq!(values(&rules), on, "the other still needs them");
    drop(other);
    assert_eq!(values(&rules), before);
    let mut killed = Protected::at(&rules, state);
    killed.0.kill().expect("it runs");
    drop(killed);
    assert_eq!(values(&rules), on, "nobody is left to set them");
    drop(Protected::at(&rules, state));
    assert_eq!(values(&rules), before, "the next one does");
}
