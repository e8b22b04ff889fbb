//! What one program leaves to the next, in words: `key=value`, each ended by a zero byte, in a file
//! without a name whose descriptor stays open across the exec.
//!
//! The rest stays where it is: descriptors keep their numbers, which stand here, and what servers
//! know is in [`crate::state`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::report::Cache;
use crate::shift::idmap::{IdMap, Maps};
use crate::state;

/// What a program says that could go on.
pub const READY: &str = "ready";

/// Whatever another program must know that cannot be read off the command line, which is the same:
/// what was found out when the mount was made, and numbers of descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handover {
    /// The version of what servers leave ([`state::VERSION`]).
    pub version: u64,
    /// The stored directory, as in the configuration.
    pub lower: PathBuf,
    /// Where it is shown.
    pub mountpoint: PathBuf,
    /// The maps: what they were made from may have changed, or be gone.
    pub maps: Vec<String>,
    /// How what the kernel caches is kept true.
    pub cache: Cache,
    /// Whether the log goes to the system's.
    pub background: bool,
    /// The features that were agreed on with the kernel.
    pub agreed: u64,
    /// The number of the mount.
    pub mount: u64,
    /// `/dev/fuse`.
    pub device: RawFd,
    /// The lower directory.
    pub root: RawFd,
    /// What servers write down.
    pub memory: RawFd,
    /// What tells of changes below.
    pub group: Option<RawFd>,
    /// The helper, what leads to it, and to the log through it.
    pub helper: (i32, RawFd, RawFd),
    /// Where whoever has asked waits for an answer.
    pub answer: RawFd,
}

impl Handover {
    /// The descriptors that it names.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let named =
            [self.device, self.root, self.memory, self.helper.1, self.helper.2, self.answer];
        named.into_iter().chain(self.group).collect()
    }

    /// Writes it down. The descriptor is closed by an exec, unless it is told not to be.
    pub fn write(&self) -> Result<File, Errno> {
        let file = rustix::fs::memfd_create("idshift-handover", MemfdFlags::CLOEXEC)?;
        let mut file = File::from(file);
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        file.write_all(&self.to_bytes()).map_err(failed)?;
        Ok(file)
    }

    /// Reads what another program has written. The error says what is wrong with it.
    pub fn read(file: &mut File) -> Result<Self, String> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(|error| format!("what the other program has left cannot be read: {error}"))?;
        Self::from_bytes(&bytes)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |key: &str, value: &[u8]| {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value);
            bytes.push(0);
        };
        let mut number = |key: &str, value: u64| add(key, value.to_string().as_bytes());
        number("version", self.version);
        number("agreed", self.agreed);
        number("mount", self.mount);
        number("background", self.background.into());
        let (helper, line, log) = self.helper;
        let descriptors = [
            ("device", Some(self.device)),
            ("root", Some(self.root)),
            ("memory", Some(self.memory)),
            ("group", self.group),
            ("keeper", Some(helper)),
            ("line", Some(line)),
            ("log", Some(log)),
            ("answer", Some(self.answer)),
        ];
        for (key, value) in descriptors {
            if let Some(value) = value {
                number(key, u64::from(value.unsigned_abs()));
            }
        }
        add("lower", self.lower.as_os_str().as_bytes());
        add("mountpoint", self.mountpoint.as_os_str().as_bytes());
        add("cache", serde_json::to_string(&self.cache).unwrap_or_default().as_bytes());
        self.maps.iter().for_each(|map| add("map", map.as_bytes()));
        add("end", b"");
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let mut read = Self { version: 0, ..Self::default() };
        let mut is_whole = false;
        let missing = || "what the other program has left is not whole".to_owned();
        for entry in bytes.split_inclusive(|byte| *byte == 0) {
            let entry = entry.strip_suffix(&[0]).ok_or_else(missing)?;
            let at = entry.iter().position(|byte| *byte == b'=').ok_or_else(missing)?;
            let (key, value) = (&entry[..at], &entry[at + 1..]);
            let text = || String::from_utf8(value.to_vec()).map_err(|_| missing());
            let number = || text()?.parse::<u64>().map_err(|_| missing());
            let descriptor = || i32::try_from(number()?).map_err(|_| missing());
            let path = || PathBuf::from(OsString::from_vec(value.to_vec()));
            match key {
                b"version" => read.version = number()?,
                // Of another version the rest may mean anything.
                _ if read.version != state::VERSION => break,
                b"agreed" => read.agreed = number()?,
                b"mount" => read.mount = number()?,
                b"background" => read.background = number()? != 0,
                b"device" => read.device = descriptor()?,
                b"root" => read.root = descriptor()?,
                b"memory" => read.memory = descriptor()?,
                b"group" => read.group = Some(descriptor()?),
                b"keeper" => read.helper.0 = descriptor()?,
                b"line" => read.helper.1 = descriptor()?,
                b"log" => read.helper.2 = descriptor()?,
                b"answer" => read.answer = descriptor()?,
                b"lower" => read.lower = path(),
                b"mountpoint" => read.mountpoint = path(),
                b"cache" => read.cache = cache(&text()?),
                b"map" => read.maps.push(text()?),
                b"end" => is_whole = true,
                // Something that counts, for a program that is newer or older than this one.
                _ => {
                    return Err(format!(
                        "the program that runs leaves '{}', which this one does not understand",
                        String::from_utf8_lossy(key)
                    ));
                }
            }
        }
        if read.version != state::VERSION {
            return Err(format!(
                "the servers of this mount write down what they know in version {}, and this \
                 program in version {}; unmount and mount again to use it",
                read.version,
                state::VERSION
            ));
        }
        let has_all = read.descriptors().iter().all(|fd| *fd > 2) && read.helper.0 > 0;
        if is_whole && has_all { Ok(read) } else { Err(missing()) }
    }
}

/// Programs from before these were two facts left words.
fn cache(text: &str) -> Cache {
    serde_json::from_str(text).unwrap_or_else(|_| Cache { mode: text.to_owned(), why: None })
}

/// The maps in the words that make them again.
pub(super) fn specs(maps: &Maps) -> Vec<String> {
    fn of<K>(kind: char, map: &IdMap<K>) -> impl Iterator<Item = String> {
        map.extents().iter().map(move |extent| {
            let raw = extent.raw();
            format!("{kind}:{}:{}:{}", raw.lower, raw.upper, raw.count)
        })
    }
    of('u', &maps.uids).chain(of('g', &maps.gids)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::host::sources::Host;

    fn some() -> Handover {
        Handover {
            version: state::VERSION,
            lower: OsString::from_vec(b"/a b\n=\xff".to_vec()).into(),
            mountpoint: "/mnt".into(),
            maps: vec!["u:0:100000:65536".into(), "g:0:1:2".into()],
            cache: Cache { mode: "ttl:1".into(), why: Some("it is an NFS\n".into()) },
            background: true,
            agreed: 1 << 39 | 5,
            mount: 77,
            device: 3,
            root: 4,
            memory: 5,
            group: Some(6),
            helper: (4711, 8, 9),
            answer: 10,
        }
    }

    #[test]
    fn what_is_left_is_read_as_it_was_written() {
        for handover in [some(), Handover { group: None, ..some() }] {
            let mut file = handover.write().unwrap();
            assert_eq!(Handover::read(&mut file), Ok(handover));
        }
    }

    #[test]
    fn another_version_says_so_whatever_follows() {
        let other = format!("version={}\0unheard=of\0", state::VERSION + 1);
        let why = Handover::from_bytes(other.as_bytes()).unwrap_err();
        assert!(why.contains(&format!("version {}", state::VERSION + 1)), "{why}");
        let own = format!("version={}\0unheard=of\0", state::VERSION);
        assert!(Handover::from_bytes(own.as_bytes()).unwrap_err().contains("'unheard'"));
    }

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        let whole = some().to_bytes();
        assert!(Handover::from_bytes(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(Handover::from_bytes(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn maps_are_made_again_from_their_words() {
        for specs_given in [&["b:0:100000:65536", "u:70000:5:1"][..], &["identity"], &["offset:7"]]
        {
            let maps = Maps::from_specs(specs_given, &Host).unwrap();
            assert_eq!(Maps::from_specs(&specs(&maps), &Host).unwrap(), maps);
        }
    }
}
