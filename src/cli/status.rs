//! `idshift status`: what the mounts of this machine are doing.

pub(super) mod ask;
pub(super) mod map;
mod show;

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::cli::json;
use crate::error::StartError;
use crate::host::mountinfo;
use crate::plain;
use crate::report::{Extents, Question, Report};
use ask::{Answer, Asking, PATIENCE};

/// Show what idshift's mounts are doing: requests, times, errors, what they hold
///
/// Only root and the user who runs a mount's server may ask it. A mount that does not answer is
/// named after a second, and the exit code is 32 then.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print text for Prometheus, as node_exporter's textfile collector reads it
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
    /// Write into this file, which is replaced at once
    #[arg(short, long, value_name = "FILE", conflicts_with = "watch")]
    output: Option<PathBuf>,
    /// Show it anew every so many seconds (1 if left out), with rates and times since the last time
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", conflicts_with = "json")]
    watch: Option<f64>,
    /// With --watch: end after so many times
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// Ask and tell the process that has started this one
    #[arg(long, hide = true)]
    ask: bool,
    /// The mount point, or any directory or file in the mount; all mounts if left out
    mountpoint: Option<PathBuf>,
}

/// What is known of one mount.
#[derive(Debug)]
struct Seen {
    mountpoint: PathBuf,
    source: String,
    state: State,
}

/// How a mount is.
#[derive(Debug)]
enum State {
    /// It answers.
    Alive(Box<Report>),
    /// Its server has gone.
    Dead,
    /// It has not answered in time.
    Hung,
    /// It does not answer to this user.
    Refused,
    /// Something else is mounted over it.
    Covered,
    /// It cannot be asked.
    Failed(Errno),
}

impl State {
    fn word(&self) -> &'static str {
        match self {
            State::Alive(_) => "alive",
            State::Dead => "dead",
            State::Hung => "hung",
            State::Refused => "refused",
            State::Covered => "covered",
            State::Failed(_) => "failed",
        }
    }

    fn in_words(&self, mountpoint: &Path) -> String {
        match self {
            State::Alive(_) => "answers".to_owned(),
            State::Dead => format!(
                "dead: its server has gone; take it away with 'idshift umount {}'",
                quoted(mountpoint)
            ),
            State::Hung => "hung: no answer within a second; its server is stopped, or waits for \
                            the lower file system"
                .to_owned(),
            State::Refused => "only root and the user who runs its server may ask it".to_owned(),
            State::Covered => "covered by another mount".to_owned(),
            State::Failed(Errno::NOTTY) => {
                "its server is of a version that does not report".to_owned()
            }
            State::Failed(errno) => format!("cannot be asked: {errno}"),
        }
    }
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%".contains(letter);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    if let (true, Some(path)) = (args.ask, &args.mountpoint) {
        return ask::ask_and_tell(path).map(|()| 0).map_err(system("cannot tell what was asked"));
    }
    let interval = match args.watch {
        None => None,
        Some(seconds) if (0.1..=86_400.0).contains(&seconds) => {
            Some(Duration::from_secs_f64(seconds))
        }
        Some(seconds) => {
            return Err(StartError::Usage(format!(
                "option '--watch={seconds}': give the seconds between two looks, from 0.1 to 86400"
            )));
        }
    };
    if let (Some(_), Some(path)) = (interval, &args.mountpoint)
        && path.to_str().is_some_and(|text| text.parse::<f64>().is_ok())
        && !path.exists()
    {
        let path = plain::path(path);
        return Err(StartError::Usage(format!(
            "option '--watch {path}': seconds are given as '--watch={path}', without a blank"
        )));
    }
    let mut asker = Asker::default();
    let Some(interval) = interval else {
        let seen = asker.look(args.mountpoint.as_deref())?;
        put_out(args.output.as_deref(), &shown(args, &seen, None)?)?;
        return Ok(code(&seen));
    };
    watch(args, interval, &mut asker)
}

fn code(seen: &[Seen]) -> u8 {
    let answers = |one: &Seen| matches!(one.state, State::Alive(_) | State::Covered);
    if seen.iter().all(answers) { 0 } else { 32 }
}

/// Shows it again and again: on a terminal in the same place, else one below the other.
fn watch(args: &Args, interval: Duration, asker: &mut Asker) -> Result<u8, StartError> {
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
    let mut before: HashMap<PathBuf, Report> = HashMap::new();
    let mut rounds = 0;
    loop {
        let began = Instant::now();
        let seen = asker.look(args.mountpoint.as_deref())?;
        put_out(None, &format!("{clear}{}", shown(args, &seen, Some(&before))?))?;
        rounds += 1;
        if args.count.is_some_and(|count| rounds >= count) {
            return Ok(code(&seen));
        }
        before = seen
            .into_iter()
            .filter_map(|one| match one.state {
                State::Alive(report) => Some((one.mountpoint, *report)),
                _ => None,
            })
            .collect();
        thread::sleep(interval.saturating_sub(began.elapsed()));
    }
}

fn shown(
    args: &Args,
    seen: &[Seen],
    before: Option<&HashMap<PathBuf, Report>>,
) -> Result<String, StartError> {
    if args.prometheus {
        return Ok(show::prometheus(seen));
    }
    Ok(match (args.json, seen, &args.mountpoint) {
        (true, [one], Some(_)) => json::text(show::Mount::from(one))? + "\n",
        (true, ..) => json::text(show::Mounts::from(seen))? + "\n",
        (false, [one], Some(_)) => {
            show::words(one, before.and_then(|before| before.get(&one.mountpoint)))
        }
        (false, ..) => show::table(seen),
    })
}

fn put_out(file: Option<&Path>, text: &str) -> Result<(), StartError> {
    if let Some(path) = file {
        return ask::write_atomically(path, text).map_err(|error| StartError::Path {
            role: "output file",
            path: path.to_owned(),
            why: format!("cannot be written: {error}"),
        });
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(system("cannot write to stdout")),
    }
}

fn system(what: &str) -> impl FnOnce(io::Error) -> StartError {
    let what = what.to_owned();
    move |source| StartError::System { what, source }
}

/// Asks mounts; keeps the questions that have not been answered yet, so that a hung mount gets one
/// at a time.
#[derive(Debug, Default)]
struct Asker {
    open: HashMap<PathBuf, Asking>,
}

impl Asker {
    /// Looks at one mount, or at all.
    fn look(&mut self, wanted: Option<&Path>) -> Result<Vec<Seen>, StartError> {
        let mounts = mountinfo::read().map_err(system("cannot read /proc/self/mountinfo"))?;
        let all = mounts.iter().filter(|mount| mount.is_idshift());
        let Some(wanted) = wanted else {
            return self.ask_all(all.collect::<Vec<_>>().as_slice());
        };
        // By its name alone first: a hung mount must not be touched.
        let absolute = std::path::absolute(wanted).map_err(system("no working directory"))?;
        if let Some(mount) = all.clone().rfind(|mount| mount.mountpoint == absolute) {
            return self.ask_all(&[mount]);
        }
        let answer = self.ask(&absolute, Instant::now() + PATIENCE)?;
        let id = match answer {
            Answer::Text(id, _) | Answer::Failed(Some(id), _) => Some(id),
            Answer::Hung | Answer::Failed(None, _) => None,
        };
        let mount = all.clone().find(|mount| Some(mount.id) == id);
        match (&answer, mount) {
            (_, Some(mount)) => Ok(vec![seen(mount, answer)]),
            (Answer::Hung, None) => {
                Ok(vec![Seen { mountpoint: absolute, source: String::new(), state: State::Hung }])
            }
            (Answer::Failed(None, errno), None) if *errno != Errno::NOTTY => {
                Err(wrong(wanted, errno.to_string()))
            }
            _ => Err(wrong(
                wanted,
                "is in no idshift mount that this process can see; 'idshift status' lists them"
                    .to_owned(),
            )),
        }
    }

    fn ask_all(&mut self, mounts: &[&mountinfo::Mount]) -> Result<Vec<Seen>, StartError> {
        for mount in mounts {
            self.start(&mount.mountpoint)?;
        }
        let until = Instant::now() + PATIENCE;
        let ask = |mount: &&mountinfo::Mount| Ok(seen(mount, self.ask(&mount.mountpoint, until)?));
        mounts.iter().map(ask).collect()
    }

    fn start(&mut self, path: &Path) -> Result<(), StartError> {
        if !self.open.contains_key(path) {
            let asking = Asking::start(path, Question::Report, &[])
                .map_err(system("cannot start a process that asks"))?;
            self.open.insert(path.to_owned(), asking);
        }
        Ok(())
    }

    fn ask(&mut self, path: &Path, until: Instant) -> Result<Answer, StartError> {
        self.start(path)?;
        let Some(asking) = self.open.get_mut(path) else { return Ok(Answer::Hung) };
        let answer = asking.wait(until).map_err(system("cannot wait for an answer"))?;
        if answer != Answer::Hung {
            self.open.remove(path);
        }
        Ok(answer)
    }
}

fn wrong(path: &Path, why: String) -> StartError {
    StartError::Path { role: "mount point", path: path.to_owned(), why }
}

fn seen(mount: &mountinfo::Mount, answer: Answer) -> Seen {
    let state = match answer {
        Answer::Text(id, _) | Answer::Failed(Some(id), _) if id != mount.id => State::Covered,
        Answer::Text(_, text) => match Report::parse(&text) {
            Some(mut report) => {
                // A long one is asked for apart.
                if report.facts.map.is_none() {
                    let maps = map::maps(&mount.mountpoint, mount.id);
                    report.facts.map = maps.ok().map(|(_, maps)| Extents::from(&maps));
                }
                State::Alive(Box::new(report))
            }
            None => State::Failed(Errno::NOTTY),
        },
        Answer::Hung => State::Hung,
        Answer::Failed(_, Errno::NOTCONN | Errno::CONNABORTED) => State::Dead,
        Answer::Failed(_, Errno::PERM | Errno::ACCESS) => State::Refused,
        Answer::Failed(_, errno) => State::Failed(errno),
    };
    Seen {
        mountpoint: mount.mountpoint.clone(),
        source: mount.source.to_string_lossy().into_owned(),
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/mnt/a-b")), "/mnt/a-b");
        assert_eq!(quoted(Path::new("/m n/it's")), "'/m n/it'\\''s'");
    }
}
