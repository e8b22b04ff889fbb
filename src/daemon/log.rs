//! Where the log goes: to stderr in the foreground, to syslog (which systemd's journal answers
//! too) in the background.
//!
//! The level comes from `log=`, else from `IDSHIFT_LOG`, else it is `info`. It is either one word
//! (`warn`) or a filter as `tracing-subscriber` reads it (`info,idshift::fs=trace`).

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::StartError;

/// Overrides the default level.
pub const VARIABLE: &str = "IDSHIFT_LOG";

const SYSLOG: &str = "/dev/log";
/// The facility `daemon` of syslog(3), shifted to its place.
const DAEMON: u8 = 3 << 3;

/// Where the log is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To stderr, everything.
    Foreground,
    /// To syslog; warnings also to stderr, as long as that leads anywhere.
    Background,
}

/// Whether `level` is a level or filter; if not, what is wrong, for the person who typed it.
pub fn check(level: &str) -> Result<(), String> {
    filter(level).map(drop)
}

/// Starts logging for the rest of the process. `level` is what `log=` said; with `quiet` stderr gets
/// errors alone.
pub fn start(level: Option<&str>, place: Destination, quiet: bool) -> Result<(), StartError> {
    let loudest = if quiet { LevelFilter::ERROR } else { LevelFilter::TRACE };
    let filter = match (level, std::env::var(VARIABLE)) {
        (Some(level), _) => filter(level).map_err(|why| format!("option 'log={level}': {why}")),
        (None, Ok(level)) => filter(&level).map_err(|why| format!("{VARIABLE}={level}: {why}")),
        (None, Err(_)) => filter("info"),
    }
    .map_err(StartError::Usage)?;
    let registry = tracing_subscriber::registry();
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(|| Stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    // The filter comes last, over layers with a filter of their own: only then does `tracing` know the
    // most detailed level, and pass over the others (one or more for each request) without asking.
    let started = match place {
        // Under systemd each line gets its time from the journal.
        Destination::Foreground if std::env::var_os("JOURNAL_STREAM").is_some() => {
            registry.with(terminal.without_time().with_filter(loudest)).with(filter).try_init()
        }
        Destination::Foreground => {
            registry.with(terminal.with_filter(loudest)).with(filter).try_init()
        }
        Destination::Background => {
            IN_BACKGROUND.store(true, Ordering::Relaxed);
            let syslog = tracing_subscriber::fmt::layer()
                .with_writer(Syslog::new().map_err(|source| StartError::System {
                    what: "cannot make a socket for the system log".to_owned(),
                    source,
                })?)
                .with_ansi(false)
                .with_target(false)
                .with_level(false)
                .without_time();
            let warnings = terminal.without_time().with_filter(loudest.min(LevelFilter::WARN));
            let started = registry.with(warnings).with(syslog).with(filter).try_init();
            log_panics();
            started
        }
    };
    started.map_err(|error| StartError::System {
        what: "cannot start the log".to_owned(),
        source: io::Error::other(error),
    })
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let one_word = matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace");
    let text = match level {
        "off" => "off".to_owned(),
        "error" => "error".to_owned(),
        other => other.to_owned(),
    };
    let looks_like_filter = one_word || text.contains('=');
    EnvFilter::builder()
        .parse(text)
        .ok()
        .filter(|_| looks_like_filter)
        .ok_or_else(|| "the levels are off, error, warn, info, debug, trace".to_owned())
}

/// A panic message would go to `/dev/null`.
fn log_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        previous(panic);
    }));
}

/// Whether the log goes to the system's alone, since nobody sees what is written to stderr.
pub(super) fn is_in_background() -> bool {
    IN_BACKGROUND.load(Ordering::Relaxed)
}

static IN_BACKGROUND: AtomicBool = AtomicBool::new(false);

/// Where a process without `/dev/log` writes its lines.
static THROUGH: OnceLock<OwnedFd> = OnceLock::new();

/// From now on lines for the system log go to this socket. Whoever reads them there hands them to
/// [`pass_on`].
pub(super) fn send_through(socket: OwnedFd) {
    if THROUGH.set(socket).is_err() {
        tracing::debug!("the log has its way already");
    }
}

/// Where that is.
pub(super) fn through() -> Option<BorrowedFd<'static>> {
    THROUGH.get().map(AsFd::as_fd)
}

/// Passes on what another process has written for the log: a line for the system's, or whatever it
/// had for stderr.
pub(super) fn pass_on(line: &[u8]) {
    static SOCKET: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    if !is_in_background() {
        Stderr.write_all(line).ok(); // always `Ok`
        return;
    }
    let socket = SOCKET.get_or_init(|| Syslog::new().ok().map(|syslog| syslog.socket));
    // A line that cannot be delivered has nowhere else to go.
    socket.as_ref().and_then(|socket| socket.send_to(line, SYSLOG).ok());
}

/// Stderr. What cannot be written is lost: a terminal that has gone, or a reader that does not keep
/// up with a server, must not stop it.
#[derive(Debug, Clone, Copy)]
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(text).ok();
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends each line as one datagram to `/dev/log`. The address is given with each line, so that a
/// restarted logger gets the next one; a full or missing logger loses lines and never blocks.
#[derive(Debug)]
struct Syslog {
    socket: UnixDatagram,
}

impl Syslog {
    fn new() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { socket: &self.socket, priority: priority(Level::INFO) }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { socket: &self.socket, priority: priority(*meta.level()) }
    }
}

/// The severity of syslog(3), with the facility.
fn priority(level: Level) -> u8 {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    DAEMON | severity
}

/// One line on its way: `<PRIORITY>idshift[PID]: text`, the form that syslog(3) sends, without the
/// time, which the logger fills in.
#[derive(Debug)]
struct Line<'a> {
    socket: &'a UnixDatagram,
    priority: u8,
}

impl io::Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut line = format!("<{}>idshift[{}]: ", self.priority, std::process::id()).into_bytes();
        line.extend_from_slice(text.trim_ascii_end());
        // A line that cannot be delivered has nowhere else to go.
        match THROUGH.get() {
            Some(through) => rustix::io::write(through, &line).ok(),
            None => self.socket.send_to(&line, SYSLOG).ok(),
        };
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_told_from_typos() {
        for good in ["off", "error", "warn", "info", "debug", "trace", "info,idshift::fs=trace"] {
            check(good).unwrap();
        }
        for wrong in ["", "loud", "7x", "verbose", "idshift=loud"] {
            assert!(check(wrong).unwrap_err().contains("warn, info"), "{wrong}");
        }
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        assert_eq!(priority(Level::ERROR), 27);
        assert_eq!(priority(Level::INFO), 30);
    }
}
