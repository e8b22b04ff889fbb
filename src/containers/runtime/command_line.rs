//! The command line of an OCI runtime, as far as the wrapper has to know it: which command it is, for which container, and
//! where the bundle is. crun, runc and youki share it (runtime-tools' command-line interface, and the `--help` of each).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Options before the command that take a value.
const GLOBAL: &[&str] =
    &["--log", "--log-format", "--log-level", "--root", "--criu", "--rootless", "--cgroup-manager"];

/// Options behind the command that take a value.
const OF_COMMAND: &[&str] =
    &["--bundle", "-b", "--config", "-f", "--console-socket", "--pid-file", "--preserve-fds"];

/// What the runtime is asked to do, where that concerns mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Make a container; it goes on after the command.
    Create,
    /// Make a container, and (without `--detach`) wait for its end.
    Run {
        /// The container goes on after the command.
        detach: bool,
    },
    /// Remove a container.
    Delete {
        /// Also one that runs, or that is not there.
        force: bool,
    },
    /// Anything else.
    Other,
}

/// A command line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// What to do.
    pub command: Command,
    /// The container's id.
    pub id: Option<String>,
    /// The bundle's directory; the working directory if not given.
    pub bundle: PathBuf,
    /// The name of the configuration in it (crun: `--config`).
    pub config: PathBuf,
    /// The arguments before the command that say where the runtime keeps its state (`--root`): ids of containers
    /// are of that place.
    pub state: Vec<OsString>,
    /// Where the runtime would write errors, which its caller reads; and whether as JSON.
    pub log: Option<(PathBuf, bool)>,
}

impl CommandLine {
    /// Takes the arguments apart, without the program's name. What is not understood is the runtime's to judge.
    pub fn parse(args: &[OsString]) -> Self {
        let (mut log, mut json, mut state) = (None, false, Vec::new());
        let mut at = 0;
        while let Some(argument) = args.get(at).filter(|a| a.as_bytes().starts_with(b"-")) {
            let (name, value, used) = option(argument, args.get(at + 1), GLOBAL);
            match (name.as_str(), value) {
                ("--log", Some(path)) => log = Some(PathBuf::from(path)),
                ("--log-format", Some(format)) => json = format == "json",
                ("--root", Some(root)) => state = vec![OsString::from("--root"), root],
                _ => {}
            }
            at += used;
        }
        let command = args.get(at).and_then(|command| command.to_str()).unwrap_or_default();
        let mut line = Self {
            command: Command::Other,
            id: None,
            bundle: PathBuf::from("."),
            config: PathBuf::from("config.json"),
            state,
            log: log.map(|path| (path, json)),
        };
        let creates = matches!(command, "create" | "run");
        let (mut detach, mut force) = (false, false);
        at += 1;
        while let Some(argument) = args.get(at) {
            if !argument.as_bytes().starts_with(b"-") {
                line.id = line.id.or_else(|| argument.to_str().map(str::to_owned));
                at += 1;
                continue;
            }
            // `delete -f` is --force; only what makes a container has options with values.
            let valued = if creates { OF_COMMAND } else { &[] };
            let (name, value, used) = option(argument, args.get(at + 1), valued);
            match (name.as_str(), value) {
                ("--bundle" | "-b", Some(path)) => line.bundle = path.into(),
                ("--config" | "-f", Some(path)) if creates => line.config = path.into(),
                ("--detach" | "-d", _) => detach = true,
                ("--force" | "-f", _) => force = true,
                _ => {}
            }
            at += used;
        }
        line.command = match command {
            "create" => Command::Create,
            "run" => Command::Run { detach },
            "delete" => Command::Delete { force },
            _ => Command::Other,
        };
        line
    }
}

/// An option's name, its value, and how many arguments that takes.
fn option(
    argument: &OsString,
    next: Option<&OsString>,
    valued: &[&str],
) -> (String, Option<OsString>, usize) {
    use std::os::unix::ffi::OsStringExt;
    let bytes = argument.as_bytes();
    if let Some(equals) = bytes.iter().position(|&byte| byte == b'=') {
        let name = String::from_utf8_lossy(&bytes[..equals]).into_owned();
        return (name, Some(OsString::from_vec(bytes[equals + 1..].to_vec())), 1);
    }
    let name = argument.to_string_lossy().into_owned();
    match next {
        Some(value) if valued.contains(&name.as_str()) => (name, Some(value.clone()), 2),
        _ => (name, None, 1),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn parse(line: &str) -> CommandLine {
        CommandLine::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn as_conmon_calls_crun() {
        let line = parse(
            "--systemd-cgroup --root=/run/crun --log-format=json --log /b/oci-log create --bundle /b/userdata \
             --pid-file /b/pidfile 0123abc",
        );
        assert_eq!(line.command, Command::Create);
        assert_eq!(line.id.as_deref(), Some("0123abc"));
        assert_eq!(line.bundle, PathBuf::from("/b/userdata"));
        assert_eq!(line.log, Some((PathBuf::from("/b/oci-log"), true)));
        assert_eq!(line.state, ["--root", "/run/crun"]);
    }

    #[test]
    fn as_containerd_calls_runc() {
        let line = parse("--root /run/runc/default --log /l --log-format json delete --force t1");
        assert_eq!(line.command, Command::Delete { force: true });
        assert_eq!(line.id.as_deref(), Some("t1"));
        let line = parse("run -b /bundle -d name");
        assert_eq!(line.command, Command::Run { detach: true });
        assert_eq!((line.bundle, line.id), (PathBuf::from("/bundle"), Some("name".to_owned())));
        let line = parse("create --config=other.json name");
        assert_eq!(line.config, PathBuf::from("other.json"));
    }

    #[test]
    fn what_is_not_about_mounts_is_other() {
        for line in
            ["--version", "features", "state x", "kill x 9", "", "--root", "exec -t x sh -c create"]
        {
            assert_eq!(parse(line).command, Command::Other, "{line}");
        }
        assert_eq!(parse("delete -f x").command, Command::Delete { force: true });
    }
}
