//! A FUSE connection that is being served.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};

use super::adapter::Adapter;
use super::backing::Backings;
use crate::fs::FileSystem;

/// How a connection is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long the kernel may remember names and attributes.
    pub timeout: Duration,
    /// Whether the lower file system reports errors on close(2) that callers must see.
    pub flush: bool,
    /// How deep the lower file system is stacked already, plus one: how much the kernel must allow
    /// for passthrough.
    pub stack_depth: u32,
    /// Worker threads.
    pub threads: usize,
}

/// A connection that has shaken hands and can be served.
pub struct Connection(Session<Adapter>);

impl Connection {
    /// Shakes hands with the kernel on an open `/dev/fuse` that has been mounted.
    pub fn on_device(fs: FileSystem, device: OwnedFd, settings: &Settings) -> io::Result<Self> {
        let adapter = adapter(fs, settings);
        // Whom the kernel lets in, the mount's own options say.
        Session::from_fd(adapter, device, SessionACL::All, config(settings)).map(Self)
    }

    /// Mounts through `fusermount3`, for users who may not mount, and shakes hands.
    pub fn with_helper(
        fs: FileSystem,
        mountpoint: &Path,
        options: Vec<MountOption>,
        settings: &Settings,
    ) -> io::Result<Self> {
        let mut config = config(settings);
        // The library adds `allow_other` by itself for everything but the owner alone.
        let for_others = options.contains(&MountOption::CUSTOM("allow_other".to_owned()));
        config.acl = if for_others { SessionACL::All } else { SessionACL::Owner };
        config.mount_options = options;
        Session::new(adapter(fs, settings), mountpoint, &config).map(Self)
    }

    /// Serves requests until the file system is unmounted.
    pub fn serve(self) -> io::Result<()> {
        self.0.run()
    }
}

fn adapter(fs: FileSystem, settings: &Settings) -> Adapter {
    Adapter {
        fs,
        timeout: settings.timeout,
        flush: settings.flush,
        stack_depth: settings.stack_depth,
        backings: Backings::new(),
    }
}

fn config(settings: &Settings) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(settings.threads);
    config.acl = SessionACL::All;
    config
}

/// A mount option for the helper.
pub fn helper_option(option: &str) -> MountOption {
    match option {
        "default_permissions" => MountOption::DefaultPermissions,
        "nosuid" => MountOption::NoSuid,
        "nodev" => MountOption::NoDev,
        "noexec" => MountOption::NoExec,
        "noatime" => MountOption::NoAtime,
        "ro" => MountOption::RO,
        "sync" => MountOption::Sync,
        "dirsync" => MountOption::DirSync,
        other => match other.split_once('=') {
            Some(("fsname", name)) => MountOption::FSName(name.to_owned()),
            Some(("subtype", name)) => MountOption::Subtype(name.to_owned()),
            _ => MountOption::CUSTOM(other.to_owned()),
        },
    }
}
