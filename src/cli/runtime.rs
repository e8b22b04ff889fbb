//! `idshift runtime`, also under the name `idshift-runtime`: an OCI runtime in front of another.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

use crate::containers::Problem;
use crate::containers::runtime::command_line::{Command, CommandLine};
use crate::containers::runtime::config::Config;
use crate::containers::runtime::mounts::ContainerDir;
use crate::containers::runtime::wrapper;
use crate::error::StartError;
use crate::plain;

/// Run an OCI runtime, and give each mount that asks for an idmap a mount of idshift
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    long_about = "\
Stands in front of crun, runc or youki: 'podman run --runtime idshift-runtime …', where idshift-runtime is a link to idshift. \
The real runtime is the one in $IDSHIFT_RUNTIME, or NAME where the link is called idshift-runtime-NAME, or the first in PATH of \
crun, runc and youki.

When a container is created, each of its bind mounts that asks for an idmap gets a mount of idshift: those with uidMappings and \
gidMappings in the bundle's config.json, with the option idmap or ridmap, also as idmap=uids=A-B-N;gids=A-B-N (crun(1)), and those that the \
annotation idshift names: idshift=DESTINATION (the map of the container's user namespace), DESTINATION=match-user (the source's owner is \
shown as the container's user) or DESTINATION=SPEC (a map; the shown ids are the host's); several are separated by ';'. It is the \
kernel's idmapped mount where that is possible, and else FUSE. The mounts go when the container is deleted.

Everything else goes to the runtime as it is: arguments, descriptors, signals, exit code.

'idshift runtime cleanup' takes away the mounts of containers that their runtimes do not know any more."
)]
pub struct Args {
    /// The runtime's arguments; or cleanup
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    args: Vec<OsString>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    match args.args.first().and_then(|first| first.to_str()) {
        Some("cleanup") if args.args.len() == 1 => {
            clean_up().map_err(|problem| StartError::Mount(problem.to_string()))
        }
        Some("--help" | "-h") if args.args.len() == 1 => {
            let mut all = super::command();
            // Under the name idshift-runtime the real runtime is asked.
            let help = all.find_subcommand_mut("runtime").map(clap::Command::render_long_help);
            tell!("{}", help.unwrap_or_default());
            Ok(0)
        }
        _ => Ok(stand_in_front(None, &args.args)),
    }
}

/// Runs as a runtime; `named` is the real one, if the name of the program says that.
pub fn stand_in_front(named: Option<&str>, args: &[OsString]) -> u8 {
    let line = CommandLine::parse(args);
    match serve(named, args, &line) {
        Ok(code) => code,
        Err(problem) => {
            complain!("idshift-runtime: {}", plain::lines(&problem.to_string()));
            log(&line, &problem);
            1
        }
    }
}

fn serve(named: Option<&str>, args: &[OsString], line: &CommandLine) -> Result<u8, Problem> {
    let runtime = wrapper::find(named)?;
    let place = match (&line.id, line.command) {
        (None, _) | (_, Command::Other) => None,
        (Some(id), _) => ContainerDir::of(id)?,
    };
    let Some(place) = place else { return Err(wrapper::become_it(&runtime, args)) };
    let known: Vec<&OsStr> = std::iter::once(runtime.as_os_str())
        .chain(line.state.iter().map(OsString::as_os_str))
        .collect();
    let kept_after = match line.command {
        Command::Delete { force } => {
            let status = wrapper::run(&runtime, args)?;
            if status.success() || force {
                place.remove(&known)?;
            }
            return Ok(wrapper::exit_code(status));
        }
        Command::Create | Command::Run { detach: true } => true,
        Command::Run { detach: false } | Command::Other => false,
    };
    let Some(mut config) = Config::read(&line.bundle, &line.config)? else {
        return Err(wrapper::become_it(&runtime, args));
    };
    let container = config.container()?;
    let asked = config.asked(&container)?;
    if asked.is_empty() {
        return Err(wrapper::become_it(&runtime, args));
    }
    let outcome = place.make(&container, &known).and_then(|()| {
        let mount = |(number, asked)| Ok((asked, place.mount(number, asked, &container)?));
        let mounted: Result<Vec<_>, Problem> = asked.iter().enumerate().map(mount).collect();
        config.replace(&mounted?)?;
        wrapper::run(&runtime, args)
    });
    let stays = kept_after && outcome.as_ref().is_ok_and(std::process::ExitStatus::success);
    if !stays {
        // What failed first is what the caller has to hear of.
        let undone = place.remove(&known).and_then(|()| config.restore());
        if outcome.is_ok() {
            undone?;
        }
    }
    outcome.map(wrapper::exit_code)
}

/// Where the caller of a runtime looks for what went wrong.
fn log(line: &CommandLine, problem: &Problem) {
    let Some((path, json)) = &line.log else { return };
    let text = problem.to_string();
    let entry = if *json {
        serde_json::json!({ "msg": text, "level": "error" }).to_string()
    } else {
        plain::line(&text)
    };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    // stderr has said it already.
    drop(file.and_then(|mut file| writeln!(file, "{entry}")));
}

/// Takes the mounts of containers away that have gone.
fn clean_up() -> Result<u8, Problem> {
    for left in ContainerDir::all()? {
        let known = left.runtime.split_first().is_some_and(|(program, global)| {
            let mut state = std::process::Command::new(Path::new(program));
            state.args(global).arg("state").arg(&left.id);
            state.output().is_ok_and(|output| output.status.success())
        });
        if !known {
            left.place.take_away()?;
            say!("{}: its mounts are gone", plain::line(&left.id));
        }
    }
    Ok(0)
}
