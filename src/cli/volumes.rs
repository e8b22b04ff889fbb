//! `idshift volumes`: the volume plugin of Docker and Podman.

use std::path::PathBuf;

use crate::containers::Problem;
use crate::containers::shifted::{runtime_dir, state_dir};
use crate::containers::volumes::mounted::Mounted;
use crate::containers::volumes::protocol::Plugin;
use crate::containers::volumes::server;
use crate::containers::volumes::store::Store;
use crate::error::StartError;

/// Where Docker looks for plugins.
const SOCKET: &str = "/run/docker/plugins/idshift.sock";

/// Serve volumes to Docker and Podman, each a mount of idshift
#[derive(Debug, clap::Args)]
#[command(long_about = "\
A volume plugin: 'docker volume create -d idshift -o lower=/srv/data -o map=b:0:100000:65536 data', and then 'docker run -v data:/data …'. \
The option lower names the directory; all others are those of 'idshift mount'. A volume is mounted while a container uses it.

Podman needs a line in containers.conf, under [engine.volume_plugins]: idshift = \"/run/docker/plugins/idshift.sock\". Rootless, run \
'podman unshare idshift volumes --socket PATH' and name that path there.

Volumes are kept in /var/lib/idshift/volumes, and mounted below /run/idshift/volumes; an ordinary user's are in $XDG_DATA_HOME and \
$XDG_RUNTIME_DIR. Mounts go on when this server ends. With systemd, idshift-volumes.socket starts it when it is needed.")]
pub struct Args {
    /// The socket to listen at, if systemd gives none
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    let failed = |problem: Problem| StartError::Mount(problem.to_string());
    let dir = |dir: Result<PathBuf, Problem>| dir.map(|dir| dir.join("volumes")).map_err(failed);
    let store = Store::open(dir(state_dir())?).map_err(failed)?;
    let plugin = Plugin { store, mounted: Mounted::new(dir(runtime_dir())?) };
    let listener = match server::activated().map_err(failed)? {
        Some(listener) => listener,
        None => server::listen(&args.socket).map_err(failed)?,
    };
    server::serve(&plugin, listener).map_err(failed)?;
    Ok(0)
}
