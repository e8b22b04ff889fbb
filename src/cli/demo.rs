//! `idshift demo`: the main job on a small tree, told step by step, each step checked.

mod inside;
mod scene;
mod stage;

use crate::error::StartError;
use crate::host::privilege::Standing;
use crate::host::userns;
use crate::mount::check;

use scene::Cast;

/// Show on a small tree what idshift does; takes a second and leaves nothing behind
#[derive(Debug, clap::Args)]
#[command(long_about = "\
Makes a small directory in the temporary directory, mounts it with its ids shifted, shows both \
sides next to each other as the two users see them, creates files and changes owners through the \
mount, checks what is stored, and unmounts. Works as root; as an ordinary user it works inside a \
user namespace that it makes itself. It leaves nothing behind.")]
pub struct Args {
    /// The second process, inside the user namespace
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    if args.inside {
        inside::settle()?;
        return play(true);
    }
    let standing = Standing::of_this_process();
    // In the namespace nobody else opens the device for us.
    check::fuse_is_here(if standing == Standing::Ordinary {
        Standing::NamespaceRoot
    } else {
        standing
    })?;
    match standing {
        Standing::Root => play(false),
        Standing::NamespaceRoot => play(true),
        Standing::Ordinary => inside::start(),
    }
}

fn play(in_namespace: bool) -> Result<u8, StartError> {
    let ids = userns::ids_from_root();
    if in_namespace {
        say!("idshift demo, as root of a user namespace in which {ids} ids exist\n");
    } else {
        say!("idshift demo, as root\n");
    }
    scene::play(&Cast::for_ids(ids))?;
    say!("\nAll steps went as they should. Nothing is left behind.");
    Ok(0)
}
