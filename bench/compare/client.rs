//! The parent's side of a worker.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::failure::{Result, Say};
use crate::mounted::Mounted;
use crate::results::Sample;
use crate::stage::{OFFSET, Stage};
use crate::subject::{Role, Subject};
use crate::usage;
use crate::worker::Order;
use crate::workload::Workload;

/// No measure takes this long; what does hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// What one run of a workload gave.
pub(crate) struct Run {
    /// Each measure, in the order in which they were taken.
    pub(crate) samples: Vec<(String, Sample)>,
    /// The server's memory at its peak, in KiB.
    pub(crate) memory: Option<u64>,
}

/// How a workload is to be run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) window: u64,
    pub(crate) data: u64,
    /// The measures that are wanted; all, if empty.
    pub(crate) only: Vec<String>,
}

/// Mounts the subject, runs the workload on it, unmounts it, and removes what was left.
pub(crate) fn run(
    stage: &Stage,
    subject: &Subject,
    workload: &Workload,
    settings: &Settings,
) -> Result<Run> {
    if let Some(prepare) = workload.prepare {
        prepare(stage)?;
    }
    rustix::fs::sync();
    let mounted = Mounted::new(stage, subject)?;
    let outcome = work(stage, subject, workload.name, settings, &mounted);
    drop(mounted);
    stage.clean()?;
    // Where the tree is differs from run to run and tells nobody anything.
    outcome.map_err(|why| why.replace(&*stage.base().to_string_lossy(), "…"))
}

/// Whether the subject does what all are compared by: it shows shifted ids, and what mapped root
/// makes belongs to root on the lower side.
pub(crate) fn check(stage: &Stage, subject: &Subject) -> Result<()> {
    let settings = Settings { window: 1, data: 0, only: Vec::new() };
    let mounted = Mounted::new(stage, subject)?;
    let shown = std::fs::metadata(mounted.point.join("many")).say("many")?.uid();
    let expected = if subject.shifts() { OFFSET } else { 0 };
    if shown != expected {
        return Err(format!("shows owner {shown} in place of {expected}"));
    }
    let outcome = work(stage, subject, "check", &settings, &mounted);
    drop(mounted);
    let made = std::fs::metadata(stage.lower().join("scratch/made"));
    stage.clean()?;
    outcome?;
    if subject.role() == Role::Floor {
        return Ok(());
    }
    match made.say("the new file")?.uid() {
        0 => Ok(()),
        other => Err(format!("what mapped root makes belongs to {other} on the lower side")),
    }
}

fn work(
    stage: &Stage,
    subject: &Subject,
    workload: &str,
    settings: &Settings,
    mounted: &Mounted,
) -> Result<Run> {
    let order = Order {
        workload,
        namespace: &stage.namespace(subject.shifts()),
        point: &mounted.point,
        base: stage.base(),
        window: settings.window,
        data: settings.data,
        only: &settings.only,
    };
    let mut child = order.command()?.spawn().say("starting a worker")?;
    let samples = converse(&mut child, mounted.pid());
    // Whatever went wrong, it is not to go on while the next subject is measured.
    if samples.is_err() {
        child.kill().ok();
        if let Some(pid) = mounted.pid() {
            // Calls that hang on the mount end only with its server.
            kill(pid);
        }
    }
    child.wait().say("the worker")?;
    Ok(Run { samples: samples?, memory: usage::peak_memory(mounted.pid()) })
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}

fn converse(child: &mut Child, server: Option<u32>) -> Result<Vec<(String, Sample)>> {
    let lines = lines(child)?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let mut go = || writeln!(stdin, "go").and_then(|()| stdin.flush()).say("the worker");
    let mut samples = Vec::new();
    let mut before = 0;
    loop {
        let line = lines.recv_timeout(LIMIT).map_err(|_| "the worker hangs or has died")?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["drop"] => {
                Stage::drop_caches()?;
                go()?;
            }
            ["begin", _] => {
                before = usage::cpu(server);
                go()?;
            }
            ["end", measure, operations, nanos] => {
                let server_nanos = usage::cpu(server).saturating_sub(before);
                let operations: u64 = operations.parse().say("count")?;
                let nanos: u64 = nanos.parse().say("time")?;
                let sample = Sample::new(operations, nanos, server_nanos);
                samples.push((measure.to_owned(), sample));
            }
            ["done"] => return Ok(samples),
            _ => return Err(line.strip_prefix("fail ").unwrap_or(&line).to_owned()),
        }
    }
}

/// The worker's lines, read by a thread, so that waiting for them can end.
fn lines(child: &mut Child) -> Result<Receiver<String>> {
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
