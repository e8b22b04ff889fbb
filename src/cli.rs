//! The commands, one file each, and the choice between them.

pub mod demo;
pub mod explain;
pub mod help;
pub mod json;
pub mod map;
pub mod mount;
pub mod mount_helper;
pub mod probe;
pub mod progress;
pub mod ranges;
pub mod runtime;
pub mod shadow;
pub mod status;
pub mod umount;
pub mod unguard;
pub mod upgrade;
pub mod version;
pub mod volumes;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand};

use crate::containers::runtime::wrapper;
use crate::error::StartError;
use crate::plain;
use crate::shift::parse::looks_like_a_spec;

/// Show a directory with its user and group ids shifted.
#[derive(Debug, Parser)]
#[command(name = "idshift", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = FIRST_STEPS, disable_version_flag = true)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Print the version; with --verbose also the build, and what it uses of the kernel
    #[arg(short = 'V', long)]
    version: bool,
    /// With --version: say more
    #[arg(short, long, requires = "version")]
    verbose: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

const FIRST_STEPS: &str = "\
First steps:
  idshift demo                            see what it does, on a small tree of its own
  idshift probe DIRECTORY                 see what is possible here
  idshift mount -o map=b:0:100000:65536 DIRECTORY MOUNTPOINT
                                          stored 0, 1, 2, … are shown as 100000, 100001, …
  idshift umount MOUNTPOINT
Each command has --help; 'idshift mount --help' describes maps and options.";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_long_help = help::mount_options())]
    Mount(mount::Args),
    #[command(alias = "unmount")]
    Umount(umount::Args),
    Unguard(unguard::Args),
    Upgrade(upgrade::Args),
    Map(map::Args),
    Ranges(ranges::Args),
    Probe(probe::Args),
    Demo(demo::Args),
    Shadow(shadow::Args),
    Status(status::Args),
    Explain(explain::Args),
    Runtime(runtime::Args),
    Volumes(volumes::Args),
}

/// The command line as clap has it, for whoever makes pages and completions of it.
pub fn command() -> clap::Command {
    use clap::CommandFactory;
    Cli::command()
}

/// Runs the command that `args` name, where `args[0]` is the program's name. The exit codes are
/// those of mount(8): 0 done, 1 wrong usage, 2 system error, 32 mount failure.
///
/// Under the name `mount.fuse.idshift` it is the helper that mount(8) calls; the same syntax is
/// understood when the first argument is a path, which is how `mount.fuse3` calls
/// `idshift LOWER MOUNTPOINT -o …` where no such name is installed.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(runtime) = args.first().and_then(|program| wrapper::called_as(program)) {
        return ExitCode::from(runtime::stand_in_front(runtime.as_deref(), &args[1..]));
    }
    let outcome = if is_helper_call(&args) {
        mount_helper::run(&args[1..])
    } else {
        match parse(&args) {
            Ok(Cli { command: Some(command), .. }) => dispatch(command),
            Ok(cli) => {
                tell!("{}", if cli.verbose { version::long() } else { version::short() });
                Ok(0)
            }
            Err(error) => return explain_usage(error, &args),
        }
    };
    match outcome {
        Ok(0) if plain::is_lost() => {
            complain!("idshift: what was to be printed could not be written");
            ExitCode::from(2)
        }
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // What another program said may end in a newline.
            complain!("idshift: {}", plain::lines(error.to_string().trim_end()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    // Describing all commands takes longer than all else that comes before a mount's processes. Where
    // something is to be said, all of them are needed.
    let alone = args.get(1).filter(|name| *name == "mount").and_then(|_| {
        let Mount { args } = Mount::try_parse_from(&args[1..]).ok()?;
        Some(Cli { version: false, verbose: false, command: Some(Command::Mount(args)) })
    });
    alone.map_or_else(|| Cli::try_parse_from(args), Ok)
}

/// The command line of `idshift mount`, without the other commands.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Mount {
    #[command(flatten)]
    args: mount::Args,
}

/// Prints what clap has to say: help and version are no errors, and what is one is usage.
fn explain_usage(mut error: clap::Error, args: &[OsString]) -> ExitCode {
    if error.kind() == ErrorKind::UnknownArgument {
        // It would say how the flag is given as a path.
        error.remove(ContextKind::Suggested);
    }
    let shown = error.print();
    let is_mount = args.get(1).is_some_and(|command| command == "mount");
    let spec = args.iter().filter_map(|arg| arg.to_str()).find(|arg| looks_like_a_spec(arg));
    if let (true, true, Some(spec)) = (error.use_stderr(), is_mount, spec) {
        let spec = plain::line(spec);
        complain!("\nIs '{spec}' an id map? It is given with '-o map={spec}' or '--map {spec}'.");
    } else if is_mount && error.kind() == ErrorKind::UnknownArgument {
        complain!(
            "\nOptions of a mount are given with -o, as in '-o map=b:0:100000:65536,ro'. Flags of \
             bindfs are none here: what its --map, --force-user and --mirror do, maps and the \
             options unmapped= and ownership= do ('idshift mount --help')."
        );
    }
    if error.use_stderr() || shown.is_err() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn dispatch(command: Command) -> Result<u8, StartError> {
    match command {
        Command::Mount(args) => mount::run(args),
        Command::Umount(args) => umount::run(&args),
        Command::Unguard(args) => unguard::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Ranges(args) => ranges::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Shadow(args) => shadow::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Runtime(args) => runtime::run(&args),
        Command::Volumes(args) => volumes::run(&args),
    }
}

fn is_helper_call(args: &[OsString]) -> bool {
    let name = args.first().and_then(|name| Path::new(name).file_name());
    let by_name = name.is_some_and(|name| {
        [OsStr::new("mount.fuse.idshift"), OsStr::new("mount.idshift")].contains(&name)
    });
    by_name || args.get(1).is_some_and(|first| first.as_encoded_bytes().starts_with(b"/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    #[allow(clippy::use_debug)] // two values of one type are compared that has no other way
    fn a_mount_is_understood_as_among_all_commands() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let both = |text: &str| {
            let args = words(text);
            let all = Cli::try_parse_from(&args).map(|cli| format!("{cli:?}"));
            assert_eq!(parse(&args).map(|cli| format!("{cli:?}")).ok(), all.ok(), "{text}");
            Mount::try_parse_from(&args[1..]).is_ok()
        };
        <Mount as clap::CommandFactory>::command().debug_assert();
        for understood in [
            "idshift mount -o map=b:0:1:1,ro -o -x --map u:0:1:1 /lower /upper",
            "idshift mount -fv -m identity lower upper",
            "idshift mount lower -- -upper",
            "idshift mount -fv a b",
        ] {
            assert!(both(understood), "{understood}");
        }
        for left in [
            "idshift mount",
            "idshift mount --help",
            "idshift mount -h a b",
            "idshift mount --version",
            "idshift mount -V",
            "idshift mount a b c",
            "idshift mount help",
            "idshift umount mount",
        ] {
            assert!(!both(left), "{left}");
        }
    }

    #[test]
    fn the_name_or_a_path_makes_a_helper_call() {
        let call =
            |words: &[&str]| is_helper_call(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(call(&["/sbin/mount.fuse.idshift"]));
        assert!(call(&["mount.idshift", "-h"]));
        assert!(call(&["idshift", "/lower", "/mnt"]));
        assert!(!call(&["/sbin/idshift", "mount", "/lower"]));
        assert!(!call(&[]));
    }
}
