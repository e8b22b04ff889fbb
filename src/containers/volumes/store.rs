//! The volumes that have been created: one file each, `NAME.json`, written so that a crash leaves the old file or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::containers::Problem;
use crate::containers::shifted::escaped;
use crate::plain;

/// The option that names the lower directory; all others are those of a mount.
pub const LOWER: &str = "lower";

/// The layout of the files.
const VERSION: u64 = 1;

/// A volume, as `docker volume create -d idshift -o …` asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What is shown.
    pub lower: PathBuf,
    /// The options of the mount.
    pub options: BTreeMap<String, String>,
}

impl Volume {
    /// Takes the options apart. What the mount's options mean is judged by the mount.
    pub fn of_options(options: BTreeMap<String, String>) -> Result<Self, Problem> {
        let mut options = options;
        let lower = options.remove(LOWER).ok_or_else(|| {
            Problem::new("the option lower is missing; give the directory with -o lower=/DIRECTORY, and a map with -o map=SPEC")
        })?;
        let lower = PathBuf::from(lower);
        if !lower.is_absolute() {
            return Err(Problem::new(format!(
                "option lower={}: give the whole path of a directory",
                plain::path(&lower)
            )));
        }
        Ok(Self { lower, options })
    }

    /// The options as a mount takes them.
    pub fn option_string(&self) -> String {
        let word = |(name, value): (&String, &String)| {
            if value.is_empty() { name.clone() } else { format!("{name}={}", escaped(value)) }
        };
        self.options.iter().map(word).collect::<Vec<_>>().join(",")
    }

    fn to_json(&self) -> Value {
        json!({ "version": VERSION, "lower": self.lower, "options": self.options })
    }

    fn of_json(value: &Value) -> Option<Self> {
        if value.get("version")?.as_u64()? != VERSION {
            return None;
        }
        let options = value.get("options")?.as_object()?.iter();
        let options = options.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        Some(Self {
            lower: value.get("lower")?.as_str()?.into(),
            options: options.collect::<Option<_>>()?,
        })
    }
}

/// The directory of the files.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it if need be.
    pub fn open(dir: PathBuf) -> Result<Self, Problem> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&dir).map_err(|error| failed("make", &dir, &error))?;
        Ok(Self { dir })
    }

    /// The volume of this name.
    pub fn get(&self, name: &str) -> Result<Option<Volume>, Problem> {
        let path = self.path(name)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let volume = serde_json::from_slice(&text).ok().as_ref().and_then(Volume::of_json);
        volume.map(Some).ok_or_else(|| {
            Problem::new(format!(
                "'{}' is not what this version writes; move it away, or use the version that wrote it",
                plain::path(&path)
            ))
        })
    }

    /// The names of all, sorted.
    pub fn names(&self) -> Result<Vec<String>, Problem> {
        let entries = fs::read_dir(&self.dir).map_err(|error| failed("read", &self.dir, &error))?;
        let name = |entry: fs::DirEntry| {
            Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned())
        };
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Writes a volume down: when this returns, it is on the disk.
    pub fn put(&self, name: &str, volume: &Volume) -> Result<(), Problem> {
        let path = self.path(name)?;
        let new = path.with_extension("new");
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(volume.to_json().to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| failed("write", &path, &error))
    }

    /// Forgets a volume.
    pub fn remove(&self, name: &str) -> Result<(), Problem> {
        let path = self.path(name)?;
        fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))
    }

    fn path(&self, name: &str) -> Result<PathBuf, Problem> {
        check_name(name)?;
        Ok(self.dir.join(format!("{name}.json")))
    }
}

/// Docker's rule for names of volumes, so that a name is a file's name and nothing else.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let first = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    let all = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter));
    if first && all && name.len() <= 200 {
        return Ok(());
    }
    Err(Problem::new(format!(
        "'{}' cannot be a volume's name: letters, digits, and _.- behind the first are allowed",
        plain::line(name)
    )))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot {what} '{}': {error}", plain::path(path)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn options(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        words.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn volumes_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("a/b")).unwrap();
        assert_eq!(store.get("v").unwrap(), None);
        let volume =
            Volume::of_options(options(&[("lower", "/srv/a,b"), ("map", "b:0:1:1"), ("ro", "")]))
                .unwrap();
        assert_eq!(volume.option_string(), "map=b:0:1:1,ro");
        store.put("v", &volume).unwrap();
        store.put("w.2_-", &volume).unwrap();
        assert_eq!(store.get("v").unwrap(), Some(volume));
        assert_eq!(store.names().unwrap(), ["v", "w.2_-"]);
        store.remove("v").unwrap();
        assert_eq!(store.names().unwrap(), ["w.2_-"]);
        // What a crash has cut off is no volume; what another version wrote is not misread.
        fs::write(dir.path().join("a/b/half.new"), "{").unwrap();
        fs::write(dir.path().join("a/b/later.json"), r#"{"version":2,"lower":"/x","options":{}}"#)
            .unwrap();
        assert!(!store.names().unwrap().contains(&"half".to_owned()));
        assert!(store.get("later").unwrap_err().to_string().contains("later.json"));
    }

    #[test]
    fn names_lead_nowhere() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\nb", "é", &"x".repeat(201)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_lower_directory_is_needed() {
        assert!(
            Volume::of_options(options(&[("map", "identity")]))
                .unwrap_err()
                .to_string()
                .contains("-o lower=")
        );
        let relative = Volume::of_options(options(&[("lower", "srv")]));
        assert!(relative.unwrap_err().to_string().contains("lower=srv"));
    }
}
