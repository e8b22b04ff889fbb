//! Requests about locks, where they are held on the lower files.

use rustix::io::Errno;

use super::{Done, Outcome, Server, done};
use crate::error::FsError;
use crate::fs::LockRequest;
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::wire;
use crate::sys::lock::{Hold, RangeLock};
pub(in crate::fuse) use waiting::LockWaiters;
use waiting::Waiter;

mod waiting;

impl Server {
    pub(super) fn getlk(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let lock = lock_request(request)?;
        let found = self.fs.getlk(&lock)?;
        let free = RangeLock { hold: Hold::Nothing, ..lock.range };
        let RangeLock { hold, start, end } = found.unwrap_or(free);
        // Whose lock it is cannot be known: fcntl(2) says -1 for such, which FUSE cannot carry.
        payload.push(&wire::LkOut { start, end, kind: hold.raw(), pid: 0 });
        done()
    }

    pub(super) fn setlk(&self, request: &mut Request<'_>, wait: bool) -> Done<'_> {
        let lock = lock_request(request)?;
        let attempt = self.fs.setlk(&lock)?;
        match (attempt.try_now(), &self.lock_waiters) {
            (Err(FsError::Os { errno: Errno::AGAIN, .. }), Some(waiters)) if wait => {
                let user = self.fs.person(request.caller());
                let (unique, nodeid) = (request.unique(), lock.nodeid);
                waiters.wait(Waiter { unique, nodeid, user, attempt })?;
                Ok(Outcome::Silent)
            }
            (result, _) => {
                result?;
                // In place of a lock for writing there may be one for reading now.
                if lock.range.hold != Hold::Exclusive {
                    self.locks_released(lock.nodeid)?;
                }
                done()
            }
        }
    }

    /// Locks on this file have been released.
    pub(super) fn locks_released(&self, nodeid: u64) -> Result<(), FsError> {
        self.lock_waiters.as_ref().map_or(Ok(()), |waiters| waiters.released(nodeid))
    }

    /// Only callers that wait for a lock can be interrupted; all else is over soon.
    pub(super) fn interrupt(&self, request: &mut Request<'_>) -> Done<'_> {
        let wire::InterruptIn { unique } = request.take()?;
        let Some(waiters) = &self.lock_waiters else { return Err(super::NOT_OFFERED) };
        waiters.interrupt(unique)?;
        Ok(Outcome::Silent)
    }
}

fn lock_request(request: &mut Request<'_>) -> Result<LockRequest, FsError> {
    let args: wire::LkIn = request.take()?;
    let hold = Hold::from_raw(args.kind).ok_or(FsError::Refused(Errno::INVAL))?;
    Ok(LockRequest {
        caller: request.caller(),
        nodeid: request.nodeid(),
        handle: args.fh,
        owner: args.owner,
        range: RangeLock { hold, start: args.start, end: args.end },
        whole_file: args.lk_flags & wire::LK_FLOCK != 0,
    })
}
