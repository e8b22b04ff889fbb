//! A small random tree below, and what is stored of it at a moment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, makedev, statat};

use super::policy::Policy;
use super::step::Slot;
use crate::common::dice::Dice;
use crate::common::raw::mknod;
use crate::common::{
    ACL_ACCESS, ACL_DEFAULT, AclEntry, AtFlags, CWD, GROUP, GROUP_OBJ, MASK, NO_ID, OTHER, USER,
    USER_OBJ, acl, get_xattr, list_xattr, lo, machine, parse_acl, put_dir, put_file, set_xattr,
};

pub(super) const CAPABILITY: &str = "security.capability";
pub(super) const MARK: &str = "user.mark";
/// Where `ownership=xattr` keeps owners, and `suid=shadow` set-ID bits.
pub(super) const RECORD: &str = "user.containers.override_stat";
pub(super) const KEPT: &str = "trusted.idshift.suid";

pub(super) const S_IFMT: u32 = 0o170_000;
pub(super) const S_IFREG: u32 = 0o100_000;
pub(super) const S_IFDIR: u32 = 0o040_000;
pub(super) const S_IFLNK: u32 = 0o120_000;
pub(super) const S_IFCHR: u32 = 0o020_000;
pub(super) const S_IFBLK: u32 = 0o060_000;
pub(super) const S_IFIFO: u32 = 0o010_000;

/// What every symbolic link of the tree leads to: the name beside it.
pub(super) const TARGET: &str = "a";

/// What is stored of a file: with `ownership=xattr`, kind, mode and owner are those of its attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u64,
    /// The beginning, and with it the length.
    pub(super) content: (Vec<u8>, i64),
    pub(super) attributes: BTreeMap<String, Vec<u8>>,
    /// Kind and mode, user and group of the lower file itself.
    pub(super) real: (u32, u32, u32),
    pub(super) modified: (i64, u64),
}

impl Object {
    pub(super) fn is_dir(&self) -> bool {
        self.kind == S_IFDIR
    }

    pub(super) fn acl(&self, name: &str) -> Option<Vec<AclEntry>> {
        self.attributes.get(name).map(|value| parse_acl(value))
    }

    /// The capability, if there is one.
    pub(super) fn capability(&self) -> Option<&Vec<u8>> {
        self.attributes.get(CAPABILITY)
    }
}

/// All that is stored: files by their numbers, and names by directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) objects: BTreeMap<u64, Object>,
    pub(super) names: BTreeMap<(u64, String), u64>,
    pub(super) root: u64,
}

impl Stored {
    /// Looks at the whole tree, and at the files without a name that are held open.
    pub(super) fn look(root: &Path, held: &[Option<Slot>], recorded: bool) -> Self {
        let mut stored = Self { root: stat_of(root).st_ino, ..Self::default() };
        stored.add(root, recorded);
        for slot in held.iter().flatten() {
            stored.objects.entry(slot.number).or_insert_with(|| {
                let path = idshift::lower::proc_path(slot.lower.as_fd());
                let path = Path::new(&path);
                let stat = rustix::fs::fstat(&slot.lower).unwrap();
                object(path, &stat, recorded, true)
            });
        }
        stored
    }

    fn add(&mut self, path: &Path, recorded: bool) -> u64 {
        let stat = stat_of(path);
        if self.objects.contains_key(&stat.st_ino) {
            return stat.st_ino;
        }
        self.objects.insert(stat.st_ino, object(path, &stat, recorded, false));
        if stat.st_mode & S_IFMT == S_IFDIR {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let number = self.add(&entry.path(), recorded);
                let name = entry.file_name().to_str().unwrap().to_owned();
                self.names.insert((stat.st_ino, name), number);
            }
        }
        stat.st_ino
    }

    pub(super) fn names_of(&self, number: u64) -> impl Iterator<Item = &(u64, String)> {
        self.names.iter().filter(move |(_, to)| **to == number).map(|(name, _)| name)
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = ((0, String::from("root")), self.root);
        let all = self.names.iter().map(|(name, number)| (name, *number));
        for ((dir, name), number) in std::iter::once((&root.0, root.1)).chain(all) {
            let Object { kind, mode, uid, gid, attributes, .. } = &self.objects[&number];
            let names: Vec<_> = attributes.keys().collect();
            writeln!(f, "{dir}/{name}: {number} {:o} {uid}:{gid} {names:?}", kind | mode)?;
        }
        Ok(())
    }
}

fn stat_of(path: &Path) -> Stat {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|error| panic!("lstat {}: {error}", path.display()))
}

fn object(path: &Path, stat: &Stat, recorded: bool, open: bool) -> Object {
    let kind = stat.st_mode & S_IFMT;
    let content = match kind {
        S_IFREG => {
            let mut bytes = fs::read(path).unwrap();
            bytes.truncate(64);
            (bytes, stat.st_size)
        }
        S_IFLNK => (fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(), 0),
        _ => (Vec::new(), 0),
    };
    let mut attributes = BTreeMap::new();
    // A path below /proc is a link.
    let list = if open { list_following(path) } else { list_xattr(path).unwrap_or_default() };
    for name in list {
        let value = if open { get_following(path, &name) } else { get_xattr(path, &name).unwrap() };
        attributes.insert(name, value);
    }
    let mut object = Object {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: stat.st_rdev,
        content,
        attributes,
        real: (stat.st_mode, stat.st_uid, stat.st_gid),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
    };
    if recorded && let Some(record) = object.attributes.get(RECORD) {
        let record = String::from_utf8(record.clone()).unwrap();
        let words: Vec<&str> = record.split(':').collect();
        (object.uid, object.gid) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        object.mode = u32::from_str_radix(words[2], 8).unwrap() & 0o7777;
        let (kind, device) = kind_of_record(words[3]);
        (object.kind, object.device) = (kind, device);
    }
    object
}

fn kind_of_record(word: &str) -> (u32, u64) {
    let parts: Vec<&str> = word.split('-').collect();
    let device = || makedev(parts[1].parse().unwrap(), parts[2].parse().unwrap());
    match parts[0] {
        "file" => (S_IFREG, 0),
        "dir" => (S_IFDIR, 0),
        "symlink" => (S_IFLNK, 0),
        "pipe" => (S_IFIFO, 0),
        "char" => (S_IFCHR, device()),
        "block" => (S_IFBLK, device()),
        other => panic!("a record of the type {other}"),
    }
}

fn list_following(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(path, names.as_mut_slice()).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn get_following(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, value.as_mut_slice()).unwrap();
    value.truncate(length);
    value
}

const MODES: &[u32] = &[
    0o644, 0o666, 0o666, 0o604, 0o060, 0o755, 0o777, 0o707, 0o664, 0o4755, 0o2755, 0o6755, 0o4777,
    0o2775, 0o2644, 0o666, 0o6777,
];
const DIR_MODES: &[u32] =
    &[0o777, 0o777, 0o755, 0o1777, 0o2777, 0o2777, 0o2777, 0o3777, 0o2775, 0o707];

/// Fills the directory `lower`, which must not be there yet.
pub(super) fn plant(lower: &Path, policy: &Policy, dice: &mut Dice) {
    put(lower, true, policy, dice);
    for (name, is_dir) in
        [("a", false), ("b", false), ("c", false), ("d", true), ("e", true), ("d/a", false)]
            .into_iter()
            .chain([("d/b", false), ("e/a", false)])
    {
        let path: PathBuf = lower.join(name);
        let odd = dice.below(12);
        if is_dir || odd > 2 || policy.recorded {
            put(&path, is_dir, policy, dice);
        } else if odd == 0 {
            std::os::unix::fs::symlink(TARGET, &path).unwrap();
        } else {
            let device = if machine().real_root && odd == 1 { S_IFCHR } else { S_IFIFO };
            mknod(&path, device | 0o666, makedev(1, 3)).unwrap();
        }
    }
}

fn put(path: &Path, is_dir: bool, policy: &Policy, dice: &mut Dice) {
    // Below a directory of nobody's little can be done, unless others own it in his place.
    let odd = if is_dir && !policy.squashes() { 12 } else { 3 };
    let (uid, gid) = policy.some_owner(odd, dice);
    let mode = dice.of(if is_dir { DIR_MODES } else { MODES });
    if policy.recorded {
        let kind = if is_dir { "dir" } else { "file" };
        if is_dir {
            put_dir(path, 0o700, 0, 0);
        } else {
            put_file(path, b"old", 0o600, 0, 0);
        }
        set_xattr(path, RECORD, format!("{uid}:{gid}:{mode:04o}:{kind}").as_bytes()).unwrap();
        return;
    }
    if is_dir {
        put_dir(path, mode, uid, gid);
    } else {
        put_file(path, b"old", mode, uid, gid);
    }
    if dice.below(4) == 0 {
        set_xattr(path, ACL_ACCESS, &random_acl(dice, |id| policy.stored_user(id).unwrap_or(id)))
            .unwrap();
    }
    if is_dir && dice.below(4) == 0 {
        set_xattr(path, ACL_DEFAULT, &random_acl(dice, lo)).unwrap();
    }
    if !is_dir && dice.below(6) == 0 {
        set_xattr(path, CAPABILITY, &capability(None)).unwrap();
    }
}

/// `CAP_CHOWN`, of version 2 or, with a root id, 3.
pub(super) fn capability(root: Option<u32>) -> Vec<u8> {
    let version: u32 = if root.is_some() { 0x0300_0001 } else { 0x0200_0001 };
    let words = [version, 1, 0, 0, 0];
    words.into_iter().chain(root).flat_map(u32::to_le_bytes).collect()
}

/// An ACL that names callers, by the ids that `down` makes of theirs.
pub(super) fn random_acl(dice: &mut Dice, down: impl Fn(u32) -> u32) -> Vec<u8> {
    let mut rights = || u16::try_from(dice.below(8)).unwrap();
    let mut entries = vec![(USER_OBJ, rights() | 4, NO_ID)];
    entries.push((USER, rights(), down(1001)));
    entries.push((GROUP_OBJ, rights(), NO_ID));
    entries.push((GROUP, rights(), down(1002)));
    entries.push((MASK, rights(), NO_ID));
    entries.push((OTHER, rights(), NO_ID));
    acl(&entries)
}
