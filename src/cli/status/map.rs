//! The map of a running mount, which is asked for in parts because it may be long.

use std::path::Path;
use std::time::Instant;

use rustix::io::Errno;

use super::ask::{Answer, Asking, PATIENCE};
use crate::report::{MapPart, Question};
use crate::shift::id::Kind;
use crate::shift::idmap::{Extent, IdMap, Maps};

/// The process that serves a mount, and its maps.
pub(in crate::cli) fn maps(path: &Path, mount: u64) -> Result<(u32, Maps), String> {
    let (pid, uids) = map(path, mount, b'u')?;
    let (_, gids) = map(path, mount, b'g')?;
    Ok((pid, Maps { uids, gids }))
}

fn map<K: Kind>(path: &Path, mount: u64, kind: u8) -> Result<(u32, IdMap<K>), String> {
    let mut extents = Vec::new();
    loop {
        let from = u32::try_from(extents.len()).map_err(|error| error.to_string())?;
        let part = ask(path, mount, &MapPart::question(kind, from))?;
        let MapPart { pid, all, extents: part } = part;
        let is_done = part.is_empty() || extents.len() + part.len() >= all;
        for (lower, upper, count) in part {
            let extent =
                Extent::from_raw(lower, upper, count).map_err(|error| error.to_string())?;
            extents.push(extent);
        }
        if is_done {
            return IdMap::new(extents).map(|map| (pid, map)).map_err(|error| error.to_string());
        }
    }
}

fn ask(path: &Path, mount: u64, question: &[u8]) -> Result<MapPart, String> {
    let answer = Asking::start(path, Question::Map, question)
        .and_then(|mut asking| asking.wait(Instant::now() + PATIENCE))
        .map_err(|error| error.to_string())?;
    match answer {
        Answer::Text(id, _) | Answer::Failed(Some(id), _) if id != mount => {
            Err("another mount covers it".to_owned())
        }
        Answer::Text(_, text) => {
            MapPart::parse(&text).ok_or_else(|| "its server is of another version".to_owned())
        }
        Answer::Hung => Err("its server does not answer".to_owned()),
        Answer::Failed(_, Errno::PERM | Errno::ACCESS) => {
            Err("only root and the user who mounted may ask its server".to_owned())
        }
        Answer::Failed(_, Errno::NOTCONN | Errno::CONNABORTED) => {
            Err("its server has died".to_owned())
        }
        Answer::Failed(_, Errno::INVAL) => Err("its server is of an older version".to_owned()),
        Answer::Failed(_, errno) => Err(errno.to_string()),
    }
}
