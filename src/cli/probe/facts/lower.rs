//! What a lower directory's file system can do, for this user.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

use super::{Answer, Row, Section};
use crate::config::Backend;
use crate::error::StartError;
use crate::fuse::notify;
use crate::host::mountinfo;
use crate::host::privilege::Standing;
use crate::lower::LowerTree;
use crate::lower::watch::Who;
use crate::mount::acting;
use crate::mount::config::MountConfig;
use crate::mount::dirs::Dir;
use crate::mount::kernel_backend::{self, Choice};
use crate::mount::options::Options;
use crate::shift::idmap::Maps;

/// What was found out about a lower directory.
#[derive(Debug)]
pub struct Found {
    /// For the table.
    pub rows: Vec<Row>,
    /// Whether file handles can be opened; `None` if the directory cannot.
    pub handles: Option<bool>,
    /// Whether somebody else answers for the file system.
    pub remote: bool,
    /// What `backend=auto` takes and why, in one line.
    pub backend: String,
}

const COHERENT: &str = "cache=coherent";

/// Looks at the lower directory `path`. Only reads.
pub fn look_at(path: &Path, standing: Standing) -> Found {
    let mut section = Section::new("Lower directory");
    let choice = choice(path);
    let (handles, remote) = fill(&mut section, path, standing, &choice);
    let backend = match choice {
        Ok(choice) => choice.to_string(),
        Err(error) => error.to_string(),
    };
    Found { rows: section.rows, handles, remote, backend }
}

/// Adds the rows; returns whether file handles can be opened, and whether somebody else answers for
/// the file system.
fn fill(
    section: &mut Section,
    path: &Path,
    standing: Standing,
    choice: &Result<Choice, StartError>,
) -> (Option<bool>, bool) {
    let lower = match path.canonicalize() {
        Ok(lower) => lower,
        Err(error) => {
            section.add("path", false, format!("{}: {error}", path.display()));
            return (None, false);
        }
    };
    section.add("path", Answer::Fact, lower.display().to_string());
    match mountinfo::holding(&lower) {
        Ok(Some(mount)) => {
            let text = format!("{}, mounted {}", mount.fs_type, mount.options);
            section.add("file system", Answer::Fact, text);
        }
        _ => section.add("file system", Answer::Unknown, "not found in /proc/self/mountinfo"),
    }
    if let Err(error) = File::open(&lower) {
        section.add("readable", false, error.to_string());
        return (None, false);
    }
    section.add("readable", true, "");
    attributes(section, &lower, standing);
    let (answer, why) = match choice {
        Ok(Choice::Kernel { .. }) => (Answer::Yes, "tried".to_owned()),
        Ok(Choice::Fuse(why)) if standing == Standing::Root => {
            (Answer::No, why.clone().unwrap_or_default())
        }
        Ok(Choice::Fuse(_)) => (Answer::Unknown, "only root can try it".to_owned()),
        Err(error) => (Answer::Unknown, error.to_string()),
    };
    section.add("kernel idmapped mount", answer, why);
    match LowerTree::open(&lower, false, 16) {
        Ok(mut tree) => {
            section.add("file handles", tree.uses_handles(), "opening one was tried");
            let (possible, why) = coherence(&mut tree);
            section.add(COHERENT, possible, why);
            let remote = tree.is_remote();
            if remote && standing == Standing::Root {
                section.add("root", Answer::Fact, acting::says(tree.try_root()));
            }
            (Some(tree.uses_handles()), remote)
        }
        Err(error) => {
            section.add("file handles", Answer::Unknown, error.to_string());
            (None, false)
        }
    }
}

/// Whether changes below can be heard of, and of what; tried.
fn coherence(tree: &mut LowerTree) -> (bool, String) {
    let mut listen = |who| notify::supported().and_then(|()| tree.start_watching(who));
    if listen(Who::Root).is_ok() {
        return (true, "the default here; tried".to_owned());
    }
    match listen(Who::Anybody) {
        Ok(()) => (true, "tried; cache=ttl:1 unless asked for".to_owned()),
        Err(why) => (false, format!("{why}; cache=ttl:1 instead")),
    }
}

/// Whether the kernel makes an idmapped mount of it: tried on a clone that is never put anywhere.
fn choice(lower: &Path) -> Result<Choice, StartError> {
    let options = Options { backend: Backend::Auto, allow_other: true, ..Options::default() };
    let config = MountConfig::new(lower.to_owned(), lower.to_owned(), example(), options);
    let failed = |source| StartError::System { what: "cannot open it".to_owned(), source };
    kernel_backend::choose(&config, &Dir::open(lower).map_err(failed)?)
}

/// A map to try with.
fn example() -> Maps {
    let none = |_: &Path| Ok(String::new());
    Maps::from_specs(&["b:0:100000:65536"], &none).unwrap_or_else(|_| Maps::identity())
}

/// Asks for attributes that are not there: `ENODATA` means that they could be.
fn attributes(section: &mut Section, lower: &Path, standing: Standing) {
    let ask = |name: &str| match rustix::fs::getxattr(lower, name, &mut [0_u8; 0]) {
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => (Answer::Yes, String::new()),
        Err(Errno::OPNOTSUPP) => (Answer::No, "this file system has none".to_owned()),
        Err(errno) => (Answer::Unknown, errno.to_string()),
    };
    let (answer, why) = ask("user.idshift.probe");
    section.add("xattrs user.*", answer, why);
    let (answer, why) = match (standing, ask("trusted.idshift.probe")) {
        // The kernel answers everybody else as if there were none (xattr(7)).
        (Standing::Root, found) => found,
        _ => (Answer::No, "root only".to_owned()),
    };
    section.add("xattrs trusted.*", answer, why);
    let (answer, why) = ask("system.posix_acl_access");
    section.add("POSIX ACLs", answer, why);
}
