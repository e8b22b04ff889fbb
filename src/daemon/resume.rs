//! The new program's side of an upgrade: resuming a mount that another program has left.

use std::time::Duration;

use rustix::io::Errno;

use super::adopt::{Adopted, AdoptedConnection, nothing_left};
use super::helper::Helper;
use super::log::{self, Destination};
use super::serve::{FOR_GOOD, Running, file_system, mounts_below, prepare_limits, run, settings};
use super::supervise;
use super::upgrade::handover::READY;
use crate::config::{CacheMode, DEFAULT_TTL};
use crate::error::StartError;
use crate::fs::Keeping;
use crate::fuse::connection::Connection;
use crate::fuse::notify;
use crate::lower::LowerTree;
use crate::mount::config::MountConfig;
use crate::mount::options::Options;
use crate::state::State;

/// Goes on with a mount, until it is unmounted; `how` is the value of [`super::upgrade::OPTION`], `options`
/// those of the command line, which is the one by which the mount was made. To be called before
/// anything opens a descriptor.
pub fn resume(how: &str, options: Options) -> Result<(), StartError> {
    let (number, checks) = match how.strip_suffix(",check") {
        Some(number) => (number, true),
        None => (how, false),
    };
    let number = number.parse().ok().filter(|number| *number > 2).ok_or_else(nothing_left)?;
    let mut adopted = Adopted::take(number)?;
    let background = adopted.handover.background;
    let config = adopted.configuration(options)?;
    if checks {
        could_resume(&config, &mut adopted)?;
        say!("{READY}");
        return Ok(());
    }
    let place = if background { Destination::Background } else { Destination::Foreground };
    log::start(config.options.log.as_deref(), place, false)?;
    // It was executed by a descriptor.
    if let Err(errno) = rustix::thread::set_name(c"idshift") {
        tracing::debug!(%errno, "no name");
    }
    serve_adopted(&config, adopted)
}

/// Whether [`serve_adopted`] would succeed, as far as that can be found out beside a server that runs.
/// Takes what was left, for good.
fn could_resume(config: &MountConfig, adopted: &mut Adopted) -> Result<(), StartError> {
    let connection = adopt_connection(config, adopted)?;
    // Not even what dropping it would do.
    std::mem::forget(connection);
    Ok(())
}

/// Goes on with a mount whose server has ended, in the place of the program that made it, as
/// [`serve::serve`] does with a new one.
fn serve_adopted(config: &MountConfig, mut adopted: Adopted) -> Result<(), StartError> {
    let connection = match adopt_connection(config, &mut adopted) {
        Ok(connection) => connection,
        Err(error) => {
            // Nobody will answer: callers get an error, and no dead mount is left.
            supervise::Unmounter::new(config, adopted.handover.mount).detach();
            return Err(error);
        }
    };
    let helper = Helper::adopt(adopted.helper()?);
    let mount = adopted.handover.mount;
    let adopted = Some(adopted);
    let running =
        Running { connection, helper, mount, notifies: false, adopted, to_close: Vec::new() };
    run(config, running, Box::new(|_: &MountConfig| ()))
}

fn adopt_connection(config: &MountConfig, adopted: &mut Adopted) -> Result<Connection, StartError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| StartError::System { what, source: errno.into() }
    };
    let cached = prepare_limits()?;
    let AdoptedConnection { device, root, memory, group } = adopted.connection()?;
    let state = State::adopt(memory).map_err(failed("cannot use what the servers know"))?;
    let mut lower =
        LowerTree::with_state(root, &config.lower, config.options.submounts, cached, state)?;
    lower.know_mounts(mounts_below(config));
    let keeping = match (group, config.options.cache) {
        (Some(group), _) => {
            lower.adopt_watch(group).map_err(failed("cannot go on listening"))?;
            Keeping::Notified(notify::abilities())
        }
        (None, CacheMode::None) => Keeping::For(Duration::ZERO),
        (None, CacheMode::Ttl(time)) => Keeping::For(time),
        (None, CacheMode::Exclusive) => Keeping::For(FOR_GOOD),
        (None, CacheMode::Auto | CacheMode::Coherent) => Keeping::For(DEFAULT_TTL),
    };
    let fs = file_system(config, lower, keeping)?;
    let settings = settings(&fs, config, adopted.handover.cache.clone());
    Connection::adopt(fs, device, settings, adopted.handover.agreed)
        .map_err(failed("what was agreed with the kernel is not what this program knows"))
}
