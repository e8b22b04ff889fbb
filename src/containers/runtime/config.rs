//! A bundle's `config.json` (OCI runtime-spec, config.md): which mounts ask for an idmap, and the same file with plain bind
//! mounts in their place. What is not about these mounts stays as it was, key by key and digit by digit.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use idmap::map::Maps;
use serde_json::Value;

use super::request::{self, Container, MapRequest};
use crate::containers::Problem;

/// The annotation that asks for a mount of idshift.
const ANNOTATION: &str = "idshift";

/// A bundle's configuration.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    text: Vec<u8>,
    value: Value,
}

/// A mount that asks for an idmap.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which of `mounts` it is.
    at: usize,
    /// Where the container sees it.
    pub destination: String,
    /// What is mounted there.
    pub source: PathBuf,
    /// With which map.
    pub request: MapRequest,
}

impl Config {
    /// Reads the configuration `name` of a bundle. `None` if there is none: the runtime says so.
    pub fn read(bundle: &Path, name: &Path) -> Result<Option<Self>, Problem> {
        let path = bundle.join(name);
        let Ok(text) = fs::read(&path) else { return Ok(None) };
        match serde_json::from_slice(&text) {
            Ok(value) => Ok(Some(Self { path, text, value })),
            Err(error) => Err(Problem::new(format!("'{}': {error}", path.display()))),
        }
    }

    /// The container's ids.
    pub fn container(&self) -> Result<Container, Problem> {
        let linux = &self.value["linux"];
        let uids = request::mappings(linux.get("uidMappings"), "linux.uidMappings")?;
        let gids = request::mappings(linux.get("gidMappings"), "linux.gidMappings")?;
        let id = |name: &str| {
            let id = self.value["process"]["user"].get(name).and_then(Value::as_u64).unwrap_or(0);
            u32::try_from(id)
                .map_err(|_| Problem::new(format!("process.user.{name}: {id} is not an id")))
        };
        let maps =
            Maps { uids: request::identity_if_empty(uids), gids: request::identity_if_empty(gids) };
        Ok(Container { maps, user: (id("uid")?, id("gid")?) })
    }

    /// The mounts that ask for an idmap, in the order of the file. Where the annotation and the mount itself both ask, the
    /// annotation is what the user said last.
    pub fn asked(&self, container: &Container) -> Result<Vec<Asked>, Problem> {
        let annotation = self.value["annotations"].get(ANNOTATION).and_then(Value::as_str);
        let mut named = request::of_annotation(annotation.unwrap_or_default(), container);
        let mut asked = Vec::new();
        for (at, mount) in self.value["mounts"].as_array().into_iter().flatten().enumerate() {
            let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
            let destination = text("destination").to_owned();
            let of_mount =
                |problem: Problem| Problem::new(format!("mount '{destination}': {problem}"));
            let is_named =
                |(name, _): &(String, MapRequest)| Path::new(name) == Path::new(&destination);
            let request = match named.iter().position(is_named) {
                Some(found) => Some(named.swap_remove(found).1),
                None => of_mount_entry(mount, container).map_err(of_mount)?,
            };
            let Some(request) = request else { continue };
            if !is_bind(mount) {
                return Err(Problem::new(format!(
                    "mount '{destination}': only a bind mount can be shifted, and this one is of type '{}'",
                    text("type")
                )));
            }
            let source = self.source(text("source"));
            asked.push(Asked { at, destination, source, request });
        }
        match named.first() {
            None => Ok(asked),
            Some((destination, _)) => Err(Problem::new(format!(
                "annotation '{ANNOTATION}': the container has no mount at '{destination}'; give it one, such as \
                 -v DIRECTORY:{destination}"
            ))),
        }
    }

    /// A source is relative to the bundle.
    fn source(&self, source: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).join(source)
    }

    /// Writes the file anew, with these sources for what was asked.
    pub fn replace(&mut self, mounted: &[(&Asked, PathBuf)]) -> Result<(), Problem> {
        for (asked, source) in mounted {
            let Some(mount) = self.value["mounts"].get_mut(asked.at).and_then(Value::as_object_mut)
            else {
                continue;
            };
            mount.shift_remove("uidMappings");
            mount.shift_remove("gidMappings");
            let source = source.to_str().ok_or_else(|| {
                Problem::new(format!("'{}' is not valid UTF-8", source.display()))
            })?;
            mount.insert("source".to_owned(), source.into());
            if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
                options.retain(|option| !option.as_str().is_some_and(is_about_ids));
            }
        }
        let text = serde_json::to_vec(&self.value)
            .map_err(|error| Problem::new(format!("'{}': {error}", self.path.display())))?;
        self.write(&text)
    }

    /// Puts the file back as it was.
    pub fn restore(&self) -> Result<(), Problem> {
        self.write(&self.text)
    }

    /// In one step, so that whoever reads it sees one or the other.
    fn write(&self, text: &[u8]) -> Result<(), Problem> {
        let new = self.path.with_extension(format!("idshift-{}", std::process::id()));
        let write = || {
            let mode = fs::metadata(&self.path)?.permissions().mode() & 0o7777;
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&new)?;
            file.write_all(text)?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| {
            // It may not be there.
            drop(fs::remove_file(&new));
            Problem::new(format!("cannot write '{}': {error}", self.path.display()))
        })
    }
}

fn is_bind(mount: &Value) -> bool {
    let options = mount.get("options").and_then(Value::as_array);
    let has = |option: &Value| matches!(option.as_str(), Some("bind" | "rbind"));
    mount.get("type").and_then(Value::as_str) == Some("bind")
        || options.is_some_and(|options| options.iter().any(has))
}

fn is_about_ids(option: &str) -> bool {
    ["idmap", "ridmap"].into_iter().any(|name| {
        option.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

fn of_mount_entry(mount: &Value, container: &Container) -> Result<Option<MapRequest>, Problem> {
    let list =
        |key: &str| mount.get(key).filter(|list| list.as_array().is_some_and(|l| !l.is_empty()));
    if let (uids @ Some(_), gids) | (uids, gids @ Some(_)) =
        (list("uidMappings"), list("gidMappings"))
    {
        let uids = request::mappings(uids, "uidMappings")?;
        let gids = request::mappings(gids, "gidMappings")?;
        if uids.is_empty() || gids.is_empty() {
            return Err(Problem::new("uidMappings and gidMappings belong together"));
        }
        return Ok(Some(MapRequest::Maps(Maps { uids, gids })));
    }
    for option in mount.get("options").and_then(Value::as_array).into_iter().flatten() {
        if let Some(request) = request::of_option(option.as_str().unwrap_or_default(), container)? {
            return Ok(Some(request));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    const TEXT: &str = r#"{"ociVersion":"1.0.2","z":184467440737095516161.10,"process":{"user":{"uid":5,"gid":0}},
        "annotations":{"idshift":"/w=match-user"},
        "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
          {"destination":"/w","type":"bind","source":"here","options":["rbind","idmap","ro"]},
          {"destination":"/v","source":"/v","options":["bind"],
           "uidMappings":[{"containerID":0,"hostID":9,"size":1}],"gidMappings":[{"containerID":0,"hostID":9,"size":1}]}],
        "linux":{"uidMappings":[{"containerID":0,"hostID":1000,"size":10}],
                 "gidMappings":[{"containerID":0,"hostID":1000,"size":10}]}}"#;

    fn bundle(text: &str) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), text).unwrap();
        let config = Config::read(dir.path(), Path::new("config.json")).unwrap().unwrap();
        (dir, config)
    }

    #[test]
    fn mounts_are_found_and_replaced() {
        let (dir, mut config) = bundle(TEXT);
        let container = config.container().unwrap();
        let asked = config.asked(&container).unwrap();
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0].source, dir.path().join("here"));
        assert_eq!(
            asked[0].request.specs(&container, (7, 8)).unwrap(),
            ["u:7:1005:1", "g:8:1000:1"]
        );
        assert_eq!(asked[1].request.specs(&container, (7, 8)).unwrap(), ["u:0:9:1", "g:0:9:1"]);
        let mounted: Vec<_> = asked.iter().map(|asked| (asked, PathBuf::from("/run/x"))).collect();
        config.replace(&mounted).unwrap();
        let written = fs::read_to_string(dir.path().join("config.json")).unwrap();
        let wanted: String = TEXT
            .split_whitespace()
            .collect::<String>()
            .replace(r#""source":"here","options":["rbind","idmap","ro"]"#, r#""source":"/run/x","options":["rbind","ro"]"#)
            .replace(r#""source":"/v","options":["bind"],"uidMappings":[{"containerID":0,"hostID":9,"size":1}],"gidMappings":[{"containerID":0,"hostID":9,"size":1}]"#, r#""source":"/run/x","options":["bind"]"#);
        assert_eq!(written, wanted, "everything else is as it was");
        config.restore().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("config.json")).unwrap(), TEXT);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        let (_dir, config) = bundle(&TEXT.replace("/w=match-user", "/nowhere"));
        let problem = config.asked(&config.container().unwrap()).unwrap_err().to_string();
        assert!(problem.contains("no mount at '/nowhere'"), "{problem}");
        let (_dir, config) = bundle(&TEXT.replace("/w=match-user", "/proc"));
        let problem = config.asked(&config.container().unwrap()).unwrap_err().to_string();
        assert!(problem.contains("'/proc'") && problem.contains("bind mount"), "{problem}");
        let (_dir, config) =
            bundle(r#"{"mounts":[{"destination":"/x","options":["bind","idmap=7"]}]}"#);
        assert!(
            config.asked(&config.container().unwrap()).unwrap_err().to_string().contains("idmap=7")
        );
    }

    #[test]
    fn without_a_user_namespace_ids_are_the_hosts() {
        let (_dir, config) = bundle(r#"{"process":{"user":{"uid":33,"gid":33}}}"#);
        let container = config.container().unwrap();
        assert!(container.maps.is_identity());
        assert_eq!(
            MapRequest::MatchUser.specs(&container, (1, 2)).unwrap(),
            ["u:1:33:1", "g:2:33:1"]
        );
        assert!(config.asked(&container).unwrap().is_empty());
    }
}
