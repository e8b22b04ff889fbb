//! Confining the server (`sandbox=`): once the mount is there, the process that answers requests
//! gives up everything that answering does not need.
//!
//! The callers of a mount choose much of what the server handles, and so does whoever fills the lower tree.
//! Should one of them ever get the server to do what it should not, then what it can do is what
//! this module leaves:
//!
//! | part | what is left |
//! |---|---|
//! | descriptors | those that the server has opened itself |
//! | `namespace`, or `landlock` for an ordinary user | no file but the lower tree's can be opened |
//! | [`capabilities`] | the capabilities that the options need; no others ever |
//! | `filter` | the system calls in [`calls`]; no program, socket, process, mount |
//! | process | `no_new_privs`, no core dump, not to be traced, no environment |
//!
//! What must be done outside ([`super::helper`]) is done by a process that stays there.
//!
//! All of it holds for threads that are started later, and nothing is checked in a request's way.

pub mod calls;
pub mod capabilities;
mod filter;
pub mod landlock;
mod namespace;

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::log;
use calls::Pins;

use crate::host::privilege::Standing;
use crate::lower::Keys;
use crate::mount::config::MountConfig;
use crate::sys;
use crate::sys::apart;

/// Confines this process, which must have one thread: the others would keep what they have. To be
/// called when everything that needs a path, a socket or another process has been done.
///
/// What this kernel or user cannot do is left out, with a line in the log for each part.
pub fn enter(config: &MountConfig, lower: BorrowedFd<'_>, opened: (Keys<'_>, Vec<RawFd>)) {
    let standing = Standing::of_this_process();
    let steps: [(&str, &str, Result<(), String>); 6] = [
        (
            "open descriptors",
            "descriptors of whoever started it stay open",
            said(close_inherited().map(drop)),
        ),
        ("process", "it may be traced and may leave core dumps", shut_memory()),
        ("environment", "its environment stays in memory", said(sys::process::wipe_environment())),
        ("files", "it can open files outside of the lower directory", leave_host(lower, standing)),
        ("capabilities", "it keeps its capabilities", give_up_rights(config, standing)),
        ("system calls", "it may make any system call", filter_calls(&opened.into())),
    ];
    for (part, meaning, result) in steps {
        match result {
            Ok(()) => {}
            // It opens what its user can open anyhow.
            Err(why) if standing == Standing::Ordinary && part == "files" => {
                tracing::debug!("sandbox: {part}: {why}");
            }
            Err(why) => tracing::warn!("sandbox: {part}: {why}; {meaning}"),
        }
    }
}

/// Takes away the standard streams of this process that may lead to a terminal or to a file of the
/// host. What is written there goes to the helper, if anybody is to read it.
pub fn shut_streams() {
    let shut = || {
        let null = apart::open("/dev/null", OFlags::RDWR)?;
        let out = log::through().filter(|_| !log::is_in_background());
        let out = out.unwrap_or_else(|| null.as_fd());
        rustix::stdio::dup2_stdin(&null)?;
        if !leads_nowhere(rustix::stdio::stdout()) {
            rustix::stdio::dup2_stdout(out)?;
        }
        if !leads_nowhere(rustix::stdio::stderr()) {
            rustix::stdio::dup2_stderr(out)?;
        }
        Ok::<(), Errno>(())
    };
    if let Err(errno) = shut() {
        tracing::warn!("sandbox: standard streams: {errno}; they stay what they were");
    }
}

/// Whether it is a pipe or a socket that is on no file system of the host's.
fn leads_nowhere(stream: BorrowedFd<'_>) -> bool {
    const OF_THE_KERNEL: [u64; 2] = [0x5049_5045, 0x534f_434b]; // PIPEFS, SOCKFS (linux/magic.h)
    rustix::fs::fstatfs(stream)
        .is_ok_and(|found| OF_THE_KERNEL.contains(&(found.f_type.cast_unsigned() & 0xffff_ffff)))
}

fn said(result: Result<(), Errno>) -> Result<(), String> {
    result.map_err(|errno| errno.to_string())
}

/// Closes what whoever started this program had open; returns how many descriptors those were.
pub(crate) fn close_inherited() -> Result<usize, Errno> {
    #[allow(unsafe_code)]
    // SAFETY: whatever this program opens is closed by an exec.
    unsafe {
        sys::process::close_inherited()
    }
}

/// No core dump, and no other process of the same user may look inside.
pub(super) fn shut_memory() -> Result<(), String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    said(
        rustix::process::setrlimit(Resource::Core, none)
            .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)),
    )
}

fn leave_host(lower: BorrowedFd<'_>, standing: Standing) -> Result<(), String> {
    if standing == Standing::Ordinary {
        return landlock::keep_beneath(lower);
    }
    let private = namespace::is_private(lower);
    namespace::move_in()?;
    if !private {
        return Err("the lower directory is no private clone of its mount (Linux 5.2)".to_owned());
    }
    namespace::close_devices(lower)
}

fn give_up_rights(config: &MountConfig, standing: Standing) -> Result<(), String> {
    let needs = capabilities::needs(&config.options.ownership, standing == Standing::Root);
    let kept = needs.iter().fold(CapabilitySet::empty(), |set, need| set | need.capability);
    said(capabilities::keep(kept))
}

fn filter_calls(pins: &Pins) -> Result<(), String> {
    said(rustix::thread::set_no_new_privs(true))?;
    filter::install(pins)
}
