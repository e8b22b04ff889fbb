//! What the kernel's FUSE offers: a mount is made in a private mount namespace, and the kernel's
//! first message (`FUSE_INIT`) is read from it and never answered. Done in a child process, which
//! takes namespace and mount with it when it ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;

use crate::host::privilege::Standing;
use crate::host::userns;
use crate::mount::check::DEVICE;
use crate::sys::namespace;

/// The kernel's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init {
    /// The protocol's major version: 7.
    pub major: u32,
    /// Its minor version.
    pub minor: u32,
    /// All flags of the kernel's `fuse_init_in`, the second word above the first.
    pub flags: u64,
}

impl Init {
    /// Whether the kernel offers all of these flags.
    pub fn has(&self, flags: u64) -> bool {
        self.flags & flags == flags
    }
}

/// What the child is told to do, in the hidden argument of `idshift probe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Errand {
    /// Print the kernel's offer.
    Init,
    /// Make a user namespace.
    UserNamespace,
}

/// Asks the kernel. The error says why that was not possible.
pub fn ask() -> Result<Init, String> {
    let answer = send(Errand::Init)?;
    let mut words = answer.split_whitespace().map(str::parse::<u64>);
    let mut next = || words.next().and_then(Result::ok);
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(flags)) => Ok(Init {
            major: u32::try_from(major).unwrap_or_default(),
            minor: u32::try_from(minor).unwrap_or_default(),
            flags,
        }),
        _ => Err(format!("the kernel's answer '{answer}' is not understood")),
    }
}

/// Tries to make a user namespace.
pub fn try_user_namespace() -> Result<(), String> {
    send(Errand::UserNamespace).map(drop)
}

/// Runs an errand in a child process; returns what it prints.
fn send(errand: Errand) -> Result<String, String> {
    let word = match errand {
        Errand::Init => "init",
        Errand::UserNamespace => "user-namespace",
    };
    let output = std::env::current_exe()
        .and_then(|program| {
            Command::new(program).args(["probe", "--errand", word]).stdin(Stdio::null()).output()
        })
        .map_err(|error| format!("cannot start a process to try it: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The child's side of `send`. The process must have one thread, and ends afterwards.
pub fn run(errand: Errand) -> Result<(), String> {
    match errand {
        Errand::Init => {
            let offer = read_offer()?;
            say!("{} {} {}", offer.major, offer.minor, offer.flags);
        }
        Errand::UserNamespace => {
            userns::enter_alone().map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn read_offer() -> Result<Init, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    if Standing::of_this_process().mounts_itself() {
        namespace::unshare_mounts()
            .map_err(io::Error::from)
            .and_then(|()| userns::keep_mounts_private())
            .map_err(failed("no private mount namespace to ask the kernel in"))?;
    } else {
        userns::enter_alone().map_err(failed("no user namespace to ask the kernel in"))?;
    }
    // Opened inside: the kernel refuses a device that was opened in another user namespace.
    let mut device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(failed("/dev/fuse cannot be opened to ask the kernel"))?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    // Any directory will do: nobody else sees this namespace.
    rustix::mount::mount(
        "idshift-probe",
        "/dev",
        "fuse",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )
    .map_err(|errno| failed("the kernel refuses a FUSE mount")(errno.into()))?;
    // FUSE_MIN_READ_BUFFER: the kernel refuses to write into less.
    let mut message = [0; 8192];
    let length = device.read(&mut message).map_err(failed("no message from the kernel"))?;
    decode(&message[..length]).ok_or_else(|| "the kernel's message is too short".to_owned())
}

fn decode(message: &[u8]) -> Option<Init> {
    let (major, minor, flags) = crate::fuse::connection::offered(message)?;
    Some(Init { major, minor, flags })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn message(flags: u32, more: u32) -> Vec<u8> {
        let mut message = vec![0; 104];
        for (at, word) in [(0, 104), (4, 26), (40, 7), (44, 45), (52, flags), (56, more)] {
            message[at..at + 4].copy_from_slice(&u32::to_ne_bytes(word));
        }
        message
    }

    #[test]
    fn the_first_message_is_decoded() {
        let passthrough = 1 << 37;
        let init = decode(&message(1 << 30 | 1 << 20, 1 << 5)).unwrap();
        assert_eq!((init.major, init.minor), (7, 45));
        assert!(init.has(passthrough));
        // Without FUSE_INIT_EXT the second word is not flags.
        assert!(!decode(&message(1 << 20, 1 << 5)).unwrap().has(passthrough));
    }

    #[test]
    fn short_or_foreign_messages_are_refused() {
        assert_eq!(decode(&message(0, 0)[..50]), None);
        assert_eq!(decode(&[0; 104]), None);
        assert_eq!(decode(&[]), None);
    }
}
