//! The process that does the work: root of a user namespace whose ids are the shown ones, as in a
//! container. It tells the parent when a measure begins and ends, so that caches are dropped and
//! the server's use is read outside of what is timed.

use std::fs::File;
use std::io::{BufRead, StdinLock, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Gid, Uid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::failure::{Result, Say};
use crate::workload;

/// The hidden command that makes this program a worker.
pub(crate) const COMMAND: &str = "--worker";

/// What a worker is told, as words of its command line.
pub(crate) struct Order<'a> {
    pub(crate) workload: &'a str,
    pub(crate) namespace: &'a Path,
    pub(crate) point: &'a Path,
    pub(crate) base: &'a Path,
    pub(crate) window: u64,
    pub(crate) data: u64,
    pub(crate) only: &'a [String],
}

impl Order<'_> {
    /// The command that carries it out.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().say("where this program is")?);
        command.args([COMMAND, self.workload]).args([self.namespace, self.point, self.base]);
        command.args([self.window.to_string(), self.data.to_string()]).args(self.only);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("HOME", self.base.join("home")).env("LC_ALL", "C");
        Ok(command)
    }
}

/// Carries out the order on the command line.
pub(crate) fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let [name, namespace, point, base, window, data, only @ ..] = &words[..] else {
        return Err("a worker is started by the benchmark alone".into());
    };
    become_root_of(Path::new(namespace))?;
    let mut context = Context {
        point: point.into(),
        base: base.into(),
        window: Duration::from_millis(window.parse().say("window")?),
        data: data.parse().say("size")?,
        only: only.to_vec(),
        answers: std::io::stdin().lock(),
    };
    let workload = workload::find(name).ok_or_else(|| format!("no workload {name}"))?;
    let outcome = (workload.run)(&mut context);
    tell(&match &outcome {
        Ok(()) => "done".to_owned(),
        Err(why) => format!("fail {}", why.replace('\n', "; ")),
    })?;
    Ok(())
}

fn become_root_of(namespace: &Path) -> Result<()> {
    let file = File::open(namespace).say("the user namespace")?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::User)).say("setns")?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    set_thread_groups(&[]).say("setgroups")?;
    set_thread_res_gid(gid, gid, gid).say("setresgid")?;
    set_thread_res_uid(uid, uid, uid).say("setresuid")?;
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    Ok(())
}

fn tell(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).say("telling the parent")
}

/// What a workload works with.
pub(crate) struct Context {
    point: PathBuf,
    base: PathBuf,
    /// How long a measure of single operations lasts.
    pub(crate) window: Duration,
    /// Size of the file of the data workloads, in bytes.
    pub(crate) data: u64,
    only: Vec<String>,
    answers: StdinLock<'static>,
}

impl Context {
    /// Something in the mount.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Something beside it, shown by no subject.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Whether this measure is asked for.
    pub(crate) fn wants(&self, measure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| measure.contains(only.as_str()))
    }

    fn ask(&mut self, line: &str) -> Result<()> {
        tell(line)?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer).say("the parent's answer")? {
            0 => Err("the parent has gone".into()),
            _ => Ok(()),
        }
    }

    /// Has the kernel's caches dropped: by root, which a worker is not.
    pub(crate) fn drop_caches(&mut self) -> Result<()> {
        self.ask("drop")
    }

    /// Times one run that does `operations` of what is counted.
    pub(crate) fn once(
        &mut self,
        measure: &str,
        operations: u64,
        run: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.ask(&format!("begin {measure}"))?;
        let start = Instant::now();
        run().say(measure)?;
        let nanos = start.elapsed().as_nanos();
        tell(&format!("end {measure} {operations} {nanos}"))
    }

    /// Repeats an operation for as long as the window lasts. `batch` operations are done between
    /// two looks at the clock: as many as make it negligible. They are numbered from 0.
    pub(crate) fn repeat(
        &mut self,
        measure: &str,
        batch: u64,
        mut operation: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        if !self.wants(measure) {
            return Ok(());
        }
        // The first ones fill caches.
        let mut number = 0;
        for _ in 0..batch {
            operation(number).say(measure)?;
            number += 1;
        }
        self.ask(&format!("begin {measure}"))?;
        let first = number;
        let start = Instant::now();
        let nanos = loop {
            for _ in 0..batch {
                operation(number).say(measure)?;
                number += 1;
            }
            let elapsed = start.elapsed();
            if elapsed >= self.window {
                break elapsed.as_nanos();
            }
        };
        tell(&format!("end {measure} {} {nanos}", number - first))
    }
}
