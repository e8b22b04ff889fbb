//! What a lower directory's file system can do, for this user.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

use super::{Answer, Row, Section};
use crate::host::mountinfo;
use crate::host::privilege::Standing;

/// Looks at the lower directory `path`. Only reads.
pub fn look_at(path: &Path, standing: Standing) -> Vec<Row> {
    let mut section = Section::new("Lower directory");
    let lower = match path.canonicalize() {
        Ok(lower) => lower,
        Err(error) => {
            section.add("path", false, format!("{}: {error}", path.display()));
            return section.rows;
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
        return section.rows;
    }
    section.add("readable", true, "");
    attributes(&mut section, &lower, standing);
    section.rows
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
