//! Whether both mounts show what is stored, translated.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{COUNT, FIRST};
use crate::common::{self, OFlags, list_xattr, open, parse_acl, stat};

/// What an unmapped owner is shown as.
const OVERFLOW: u32 = 65_534;

/// In place of contents that may not be read.
const UNREADABLE: &str = "unreadable";

/// How a side shows ids: the upper id of the first mapped lower one, or none for the lower side.
pub(crate) type Shown = Option<u32>;

/// Everything below `root`, by path; the ids of the lower side are translated to those of `like`.
pub(crate) fn tree(root: &Path, like: Shown) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut places = vec![root.to_path_buf()];
    while let Some(path) = places.pop() {
        let seen = stat(&path);
        let content = match seen.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                places.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            libc::S_IFLNK => fs::read_link(&path).unwrap().display().to_string(),
            libc::S_IFREG => hash(&path).map_or(UNREADABLE.to_owned(), |hash| format!("{hash:x}")),
            _ => format!("{:x}", seen.st_rdev),
        };
        // Who owns it, as `like` shows it; an owner without a name there hides the other, too, in
        // nothing: each id stands for itself.
        let id = |id: u32| like.map_or(id, |first| up(id, first));
        let told = format!(
            "mode={:o} owner={}:{} links={} size={} inode={} |{} {content}",
            seen.st_mode,
            id(seen.st_uid),
            id(seen.st_gid),
            seen.st_nlink,
            if seen.st_mode & libc::S_IFMT == libc::S_IFDIR { 0 } else { seen.st_size },
            seen.st_ino,
            attributes(&path, like),
        );
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), told);
    }
    found
}

fn up(id: u32, first: u32) -> u32 {
    if (FIRST..FIRST + COUNT).contains(&id) { id - FIRST + first } else { OVERFLOW }
}

fn attributes(path: &Path, like: Shown) -> String {
    let mut text = Vec::new();
    for name in list_xattr(path).unwrap_or_default() {
        let Ok(value) = common::get_xattr(path, &name) else {
            text.push(format!("{name}=?"));
            continue;
        };
        if name.starts_with("system.posix_acl") {
            let entries = parse_acl(&value).into_iter().map(|(tag, rights, id)| {
                match like.filter(|_| id != common::NO_ID).map(|first| up(id, first)) {
                    None => (tag, rights, id),
                    // Nobody, who may do nothing: `docs/semantics.md`.
                    Some(OVERFLOW) => (tag, 0, u32::MAX - 1),
                    Some(shown) => (tag, rights, shown),
                }
            });
            text.push(format!("{name}={:?}", entries.collect::<Vec<_>>()));
        } else {
            text.push(format!("{name}={value:?}"));
        }
    }
    text.join(" ")
}

/// FNV-1a.
fn hash(path: &Path) -> Option<u64> {
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0).ok()?;
    let mut bytes = Vec::new();
    fs::File::from(file).read_to_end(&mut bytes).unwrap();
    Some(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// Lets all attributes run out that a mount with `cache=ttl:1` has remembered. The kernel forgets an
/// ACL with them, but not when it finds a file by name again (`fuse_iget`): until a second after that
/// it may be older than the rest.
pub(crate) fn let_run_out(upper: &Path) {
    tree(upper, None);
    std::thread::sleep(std::time::Duration::from_millis(1200));
}

/// Compares one mount with the lower side; the number of names.
pub(crate) fn agree(lower: &Path, upper: &Path, shown: u32, failures: &mut Vec<String>) -> usize {
    let stored = tree(lower, Some(shown));
    let seen = tree(upper, None);
    for (path, line) in &stored {
        let other = seen.get(path).map_or("nothing", |line| line);
        // Root may read what has no owner here only if others may: then what it is counts.
        let unreadable = other.ends_with(UNREADABLE) && other.contains(&OVERFLOW.to_string());
        let what = |line: &str| line.split('|').next().map(str::to_owned);
        let same = if unreadable { what(line) == what(other) } else { line == other };
        if !same {
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            failures
                .push(format!("{name} at {}:\n  stored {line}\n  shown  {other}", upper.display()));
        }
    }
    for path in seen.keys().filter(|path| !stored.contains_key(*path)) {
        failures.push(format!("{} is at {} alone", path.display(), upper.display()));
    }
    stored.len()
}
