//! What the lower file system says to it, where it judges callers itself (`act_as=`).

use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::error::FsError;
use crate::fs::{FileSystem, Role};
use crate::lower::cred::{self, Actor};
use crate::lower::proc_path;
use crate::lower::remote::Root;
use crate::shift::access::Person;
use crate::shift::id::{Id, UpperGid};

use super::{Step, Verdict, Want};

impl FileSystem {
    /// Looks at something with whatever ids let it be seen: only root is told of others' rights.
    pub(super) fn looking<T>(
        &self,
        nodeid: u64,
        mut look: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        if self.acting.is_none() {
            return look();
        }
        cred::act_as(None)?;
        match look() {
            Err(FsError::Os { errno: Errno::ACCESS | Errno::PERM, .. }) => {}
            done => return done,
        }
        cred::act_as(self.owner_of(nodeid).as_ref())?;
        let seen = look();
        cred::act_as(None)?;
        seen
    }

    /// Has the lower file system judge what the kernel above grants, as it will be asked: by the ids of
    /// the call. `object` is what is wanted, or the directory whose names are to change.
    pub(super) fn below(
        &self,
        granted: String,
        want: Want,
        object: &Step,
        person: &Person,
    ) -> Verdict {
        let Some(acting) = &self.acting else { return Ok(granted) };
        let caller = self.person_below(person);
        let owner = object.stored.uid.zip(object.stored.gid);
        let owner = owner.map(|(uid, gid)| Actor { uid, gid, groups: [].into() });
        let actors = match acting.role() {
            Role::Owner => vec![owner, caller, None],
            Role::Caller if person.uid == 0 => vec![caller, None, owner],
            Role::Caller => vec![caller],
        };
        if want == Want::Chown && acting.root() == Root::Squashed {
            return Err((Errno::PERM, format!("{granted}; but {NOBODY}")));
        }
        let wanted = match want {
            Want::Chown => return Ok(granted),
            Want::Chmod => None,
            Want::Read => Some(Access::READ_OK),
            Want::Write => Some(Access::WRITE_OK),
            Want::Execute => Some(Access::EXEC_OK),
            Want::Create | Want::Delete => Some(Access::WRITE_OK | Access::EXEC_OK),
        };
        let may = |actor: &Option<Actor>| match wanted {
            Some(wanted) => asked_as(actor.as_ref(), &object.fd, wanted),
            None => match actor {
                Some(actor) => Some(actor.uid) == object.stored.uid,
                None => acting.root() != Root::Squashed,
            },
        };
        if actors.iter().any(may) {
            return Ok(format!("{granted}; the lower file system agrees"));
        }
        let who = match actors.first() {
            Some(Some(actor)) => format!("its user {}, group {}", actor.uid, actor.gid),
            _ => "root".to_owned(),
        };
        let errno = if want == Want::Chmod { Errno::PERM } else { Errno::ACCESS };
        Err((errno, format!("{granted}; but the lower file system itself refuses {who}")))
    }

    fn person_below(&self, person: &Person) -> Option<Actor> {
        let down = |gid: &u32| UpperGid::new(*gid).and_then(|gid| self.maps.down_gid(gid));
        let uid = Id::new(person.uid).and_then(|uid| self.maps.down_uid(uid))?;
        let (first, others) = person.groups.split_first()?;
        Some(Actor { uid, gid: down(first)?, groups: others.iter().filter_map(down).collect() })
    }
}

const NOBODY: &str = "the lower file system takes root for nobody (root_squash), and lets nobody else give files away";

fn asked_as(actor: Option<&Actor>, fd: &OwnedFd, wanted: Access) -> bool {
    let asked = cred::act_as(actor).is_ok()
        && rustix::fs::accessat(CWD, proc_path(fd), wanted, AtFlags::EACCESS).is_ok();
    cred::act_as(None).is_ok() && asked
}
