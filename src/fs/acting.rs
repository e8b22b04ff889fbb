//! Whose ids a request's calls have on the lower file system (`act_as=`).
//!
//! A local file system asks for capabilities, which the server has: it makes all calls but births with
//! its own ids, because the kernel above has judged already. A file server elsewhere knows nothing of
//! capabilities. It judges each call by its ids, and root it often takes for nobody (`root_squash`).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::io::Errno;

use crate::error::FsError;
use crate::lower::caller::{Capability, ProcCaller};
use crate::lower::cred::{self, Actor};
use crate::lower::remote::Root;
use crate::shift::id::LowerGid;

use super::attr::Of;
use super::{Caller, FileSystem};

/// With whose ids calls are made first, where the lower file system judges by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The caller's, so that the lower file system judges the caller as it would without a mount between.
    Caller,
    /// Those of the stored owner of what the request is about: of the object, or of the directory whose
    /// names it changes. The kernel above alone judges. For mounts that the kernel idmaps, whose
    /// requests do not say who makes them.
    Owner,
}

/// What is needed to act as others do.
pub struct Acting {
    role: Role,
    root: Root,
    groups: Mutex<LruCache<Asked, Known>>,
}

/// A thread, with the ids that it had: another that gets its number later has others, or is judged anew.
type Asked = (u32, u32, u32);
type Known = (Instant, Arc<[LowerGid]>);

const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// For how long a thread's groups are taken to be what they were. The kernel above judges by those
/// of the moment, and a refusal is looked into with them.
const LASTS: Duration = Duration::from_secs(1);

impl Acting {
    /// Acts in this role; `root` is what root is to the lower file system.
    pub fn new(role: Role, root: Root) -> Self {
        Self { role, root, groups: Mutex::new(LruCache::new(MAX_KNOWN)) }
    }

    /// In which.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What root is to the lower file system.
    pub fn root(&self) -> Root {
        self.root
    }
}

impl FileSystem {
    /// Runs a request with the ids that may do it: it is tried again only if the lower file system has
    /// refused it, and only for whom the kernel above has let do it by a right that the lower file
    /// system does not know of.
    pub fn acting<T>(
        &self,
        caller: Caller,
        nodeid: u64,
        mut request: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let Some(acting) = &self.acting else { return request() };
        let mut attempt = |actor: Option<&Actor>| {
            cred::act_as(actor)?;
            request()
        };
        let known = self.actor(caller, |asked| acting.groups(asked, || self.groups_of(caller)));
        match acting.role {
            Role::Owner => {
                let owner = self.owner_of(nodeid);
                let mut last = attempt(owner.as_ref());
                for other in [known, None] {
                    if !is_refusal(&last) || other == owner {
                        continue;
                    }
                    last = attempt(other.as_ref());
                }
                last
            }
            Role::Caller => {
                let first = attempt(known.as_ref());
                if !is_refusal(&first) {
                    return first;
                }
                let process = self.callers.read(caller.tid);
                let now = self.actor(caller, |_| self.groups_below(&process).into());
                let second = if now == known { first } else { attempt(now.as_ref()) };
                if !is_refusal(&second) || !self.is_above_modes(&process, nodeid) {
                    return second;
                }
                let third = if now.is_none() { second } else { attempt(None) };
                match self.owner_of(nodeid) {
                    Some(owner) if is_refusal(&third) => attempt(Some(&owner)),
                    _ => third,
                }
            }
        }
    }

    /// Whether requests are served with other ids than the server's.
    pub fn acts_as_others(&self) -> bool {
        self.acting.is_some()
    }

    /// In which role, if so.
    pub fn role(&self) -> Option<Role> {
        self.acting.as_ref().map(|acting| acting.role)
    }

    /// Whether it has to be known who makes a request.
    pub fn acts_as_callers(&self) -> bool {
        self.acting.as_ref().is_some_and(|acting| acting.role == Role::Caller)
    }

    /// Makes calls with the server's own ids: for what nobody's rights decide, because it is done
    /// through files that are open already.
    pub fn acting_for_nobody(&self) -> Result<(), FsError> {
        if self.acting.is_some() { cred::act_as(None) } else { Ok(()) }
    }

    /// The caller below; `None` for one outside the map, for whom the server acts as itself.
    fn actor(
        &self,
        caller: Caller,
        groups: impl FnOnce(Asked) -> Arc<[LowerGid]>,
    ) -> Option<Actor> {
        let (uid, gid) = (self.maps.down_uid(caller.uid?)?, self.maps.down_gid(caller.gid?)?);
        let groups = groups((caller.tid, uid.raw(), gid.raw()));
        Some(Actor { uid, gid, groups })
    }

    fn groups_of(&self, caller: Caller) -> Arc<[LowerGid]> {
        self.groups_below(&self.callers.read(caller.tid)).into()
    }

    /// The stored owner of what a request is about; `None` where the file system has none that is
    /// valid, or it is gone.
    pub(super) fn owner_of(&self, nodeid: u64) -> Option<Actor> {
        let stat = self.lower.stat(&self.lower.inode(nodeid).ok()?).ok()?;
        Some(Actor { uid: stat.uid?, gid: stat.gid?, groups: [].into() })
    }

    /// Whether the caller has capabilities by which the kernel above has let do more than modes give.
    fn is_above_modes(&self, process: &ProcCaller<'_>, nodeid: u64) -> bool {
        let shown = || {
            let inode = self.lower.inode(nodeid)?;
            self.shown(Of::Inode(&inode), &self.lower.stat(&inode)?)
        };
        let above = [Capability::DacOverride, Capability::Fowner, Capability::Chown];
        shown().is_ok_and(|shown| {
            above.into_iter().any(|capability| process.has_over(capability, shown.uid, shown.gid))
        })
    }
}

impl Acting {
    fn groups(&self, asked: Asked, read: impl FnOnce() -> Arc<[LowerGid]>) -> Arc<[LowerGid]> {
        let known = || self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, groups)) = known().get(&asked)
            && since.elapsed() < LASTS
        {
            return Arc::clone(groups);
        }
        let groups = read();
        known().put(asked, (Instant::now(), Arc::clone(&groups)));
        groups
    }
}

fn is_refusal<T>(result: &Result<T, FsError>) -> bool {
    matches!(result, Err(FsError::Os { errno: Errno::ACCESS | Errno::PERM, .. }))
}
