//! The configuration of one mount, as asked for and checked: what the rest of the program sees of what the
//! user typed.

use std::path::PathBuf;

use crate::mount::options::Options;
use crate::shift::describe::describe_with;
use crate::shift::idmap::Maps;

/// One mount.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// The stored directory, absolute and resolved.
    pub lower: PathBuf,
    /// Where it is shown, absolute and resolved.
    pub mountpoint: PathBuf,
    /// The id maps.
    pub maps: Maps,
    /// The source that `/proc/mounts` shows; the lower path unless `fsname=` names another.
    pub source: String,
    /// Stay in the foreground and log to stderr.
    pub foreground: bool,
    /// The options, with what is true of every mount of this user.
    pub options: Options,
}

impl MountConfig {
    /// The configuration of options that have been checked, and of paths and maps that are known.
    pub fn new(lower: PathBuf, mountpoint: PathBuf, maps: Maps, options: Options) -> Self {
        let source = options.fsname.clone().unwrap_or_else(|| lower.to_string_lossy().into_owned());
        Self { lower, mountpoint, maps, source, foreground: false, options }
    }

    /// What the maps do, and what becomes of ids that are not in them.
    pub fn map_in_words(&self) -> String {
        let policies = self.options.policies;
        describe_with(&self.maps, policies.unmapped, policies.creators)
    }
}
