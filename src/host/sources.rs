//! What map specs refer to, looked up on this machine.

use std::io;
use std::path::Path;

use crate::host::{namespaces, subids};
use crate::shift::sources::{Namespace, NamespaceMaps, OwnIds, Sources};
use crate::sys::users;

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Sources for Host {
    fn file(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn namespace(&self, namespace: &Namespace) -> Result<NamespaceMaps, String> {
        namespaces::maps(namespace)
    }

    fn own_ids(&self, user: &str) -> Result<OwnIds, String> {
        subids::own_ids(user)
    }

    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        let found = users::user_by_name(name).map_err(|errno| failed("user", name, errno))?;
        Ok(found.map(|user| user.uid))
    }

    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        users::gid_by_name(name).map_err(|errno| failed("group", name, errno))
    }
}

fn failed(what: &str, name: &str, errno: rustix::io::Errno) -> String {
    format!("cannot look up {what} '{}': {errno}", name.escape_debug())
}
