//! The volume plugin protocol (Docker Engine documentation, "Docker volume plugins"): a POST to `/VolumeDriver.WHAT` with a
//! JSON object, answered by one in which `Err` is empty if all went well.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::mounted::Mounted;
use super::store::{Store, Volume, check_name};
use crate::containers::Problem;
use crate::plain;

/// All that is answered with.
#[derive(Debug)]
pub struct Plugin {
    /// What has been created.
    pub store: Store,
    /// What is in use.
    pub mounted: Mounted,
}

impl Plugin {
    /// The answer to a request; `None` if there is no such call.
    pub fn answer(&self, path: &str, body: &[u8]) -> Option<Value> {
        let request: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let result = match path {
            "/Plugin.Activate" => return Some(json!({ "Implements": ["VolumeDriver"] })),
            "/VolumeDriver.Capabilities" => Ok(json!({ "Capabilities": { "Scope": "local" } })),
            "/VolumeDriver.List" => self.list(),
            "/VolumeDriver.Create" => self.create(&request),
            "/VolumeDriver.Get" => self.get(&request),
            "/VolumeDriver.Remove" => self.remove(&request),
            "/VolumeDriver.Path" => self.path(&request),
            "/VolumeDriver.Mount" => self.mount(&request),
            "/VolumeDriver.Unmount" => self.unmount(&request),
            _ => return None,
        };
        Some(match result {
            Ok(mut answer) => {
                answer["Err"] = "".into();
                answer
            }
            Err(problem) => {
                let words = plain::lines(&problem.to_string());
                // Engines ask this way whether a name is free.
                if path != "/VolumeDriver.Get" {
                    complain!("idshift volumes: {path}: {words}");
                }
                json!({ "Err": words })
            }
        })
    }

    fn create(&self, request: &Value) -> Result<Value, Problem> {
        let name = name(request)?;
        check_name(name)?;
        let volume = Volume::of_options(options(request)?)?;
        match self.store.get(name)? {
            // Asked for again, as Docker does.
            Some(present) if present == volume => return Ok(json!({})),
            Some(_) => {
                return Err(Problem::new(format!(
                    "there is a volume '{name}' with other options; remove it first"
                )));
            }
            None => {}
        }
        self.mounted.check(&volume)?;
        self.store.put(name, &volume)?;
        Ok(json!({}))
    }

    fn remove(&self, request: &Value) -> Result<Value, Problem> {
        let (name, _) = self.known(request)?;
        match self.mounted.users(name) {
            0 => {}
            users => {
                return Err(Problem::new(format!(
                    "volume '{name}' is in use by {users} container(s)"
                )));
            }
        }
        self.mounted.forget(name)?;
        self.store.remove(name)?;
        Ok(json!({}))
    }

    fn mount(&self, request: &Value) -> Result<Value, Problem> {
        let (name, volume) = self.known(request)?;
        let at = self.mounted.add(name, &volume, id(request))?;
        Ok(json!({ "Mountpoint": at }))
    }

    fn unmount(&self, request: &Value) -> Result<Value, Problem> {
        let (name, _) = self.known(request)?;
        self.mounted.remove(name, id(request))?;
        Ok(json!({}))
    }

    fn path(&self, request: &Value) -> Result<Value, Problem> {
        let (name, _) = self.known(request)?;
        Ok(json!({ "Mountpoint": self.shown_mountpoint(name) }))
    }

    fn get(&self, request: &Value) -> Result<Value, Problem> {
        let (name, volume) = self.known(request)?;
        Ok(json!({ "Volume": {
            "Name": name,
            "Mountpoint": self.shown_mountpoint(name),
            "Status": {
                "lower": volume.lower,
                "options": volume.option_string(),
                "containers": self.mounted.users(name),
            },
        } }))
    }

    fn list(&self) -> Result<Value, Problem> {
        let names = self.store.names()?;
        let volume =
            |name: &String| json!({ "Name": name, "Mountpoint": self.shown_mountpoint(name) });
        Ok(json!({ "Volumes": names.iter().map(volume).collect::<Vec<_>>() }))
    }

    /// Empty, if it is not mounted.
    fn shown_mountpoint(&self, name: &str) -> String {
        let at = self.mounted.in_use(name);
        at.map(|at| at.display().to_string()).unwrap_or_default()
    }

    fn known<'r>(&self, request: &'r Value) -> Result<(&'r str, Volume), Problem> {
        let name = name(request)?;
        let volume = self.store.get(name)?;
        volume
            .map(|volume| (name, volume))
            .ok_or_else(|| Problem::new(format!("there is no volume '{}'", plain::line(name))))
    }
}

/// Whether an answer says that the request failed.
pub fn is_refusal(answer: &Value) -> bool {
    answer.get("Err").and_then(Value::as_str).is_some_and(|error| !error.is_empty())
}

fn name(request: &Value) -> Result<&str, Problem> {
    let name = request.get("Name").and_then(Value::as_str);
    name.ok_or_else(|| Problem::new("the request names no volume"))
}

/// Who mounts: older engines say nothing.
fn id(request: &Value) -> &str {
    request.get("ID").and_then(Value::as_str).filter(|id| !id.is_empty()).unwrap_or("unnamed")
}

fn options(request: &Value) -> Result<BTreeMap<String, String>, Problem> {
    let options = request.get("Opts").and_then(Value::as_object);
    let option = |(name, value): (&String, &Value)| {
        let value = value.as_str().ok_or_else(|| {
            Problem::new(format!("option {}: its value is not a text", plain::line(name)))
        })?;
        if name.is_empty() || name.contains([',', '=']) {
            return Err(Problem::new(format!("'{}' is not an option", plain::line(name))));
        }
        Ok((name.clone(), value.to_owned()))
    };
    options.into_iter().flatten().map(option).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_wrong_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("state")).unwrap();
        let plugin = Plugin { store, mounted: Mounted::new(dir.path().join("run")) };
        let error = |path: &str, body: &str| {
            plugin.answer(path, body.as_bytes()).unwrap()["Err"].as_str().unwrap().to_owned()
        };
        assert_eq!(
            plugin.answer("/Plugin.Activate", b"").unwrap()["Implements"][0],
            "VolumeDriver"
        );
        assert!(plugin.answer("/VolumeDriver.Fly", b"{}").is_none());
        assert_eq!(
            plugin.answer("/VolumeDriver.List", b"{}").unwrap(),
            json!({"Volumes": [], "Err": ""})
        );
        assert!(error("/VolumeDriver.Get", "not json").contains("names no volume"));
        assert!(error("/VolumeDriver.Mount", r#"{"Name":"v","ID":"1"}"#).contains("no volume 'v'"));
        assert!(
            error("/VolumeDriver.Create", r#"{"Name":"../v","Opts":{"lower":"/"}}"#)
                .contains("cannot be")
        );
        assert!(
            error("/VolumeDriver.Create", r#"{"Name":"v","Opts":{"lower":7}}"#)
                .contains("not a text")
        );
        assert!(
            error("/VolumeDriver.Create", r#"{"Name":"v","Opts":{"a,ro":"x"}}"#)
                .contains("not an option")
        );
        assert!(error("/VolumeDriver.Create", r#"{"Name":"v","Opts":{}}"#).contains("-o lower="));
    }
}
