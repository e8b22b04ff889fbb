//! Questions to the server itself, which come as an ioctl on the mount ([`crate::report`]): so
//! there is no socket and no file beside the mount, and whoever can reach the mount, from whichever
//! mount namespace, can ask if he may.

use super::{Done, Server, done};
use crate::error::FsError;
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::wire;
use crate::report::{Question, ROOM};
use crate::shift::id::Id;
use rustix::io::Errno;

impl Server {
    /// Answers a question: `EPERM` but for root and the user who runs the server, `EMSGSIZE` if the
    /// answer is too long.
    pub(super) fn asked(
        &self,
        request: &mut Request<'_>,
        args: wire::IoctlIn,
        payload: &mut Payload,
    ) -> Done<'_> {
        let asker = request.caller().uid.map(Id::raw);
        if !asker.is_some_and(|uid| uid == 0 || uid == self.about.owner) {
            return Err(FsError::Refused(Errno::PERM));
        }
        let input = request.take_bytes(args.in_size)?;
        let code = input.first().copied().and_then(Question::from_code);
        let answer = match code.ok_or(FsError::Refused(Errno::INVAL))? {
            Question::Report => {
                let mut report = self.report();
                // What is open only for this question is not counted.
                if self.fs.lower.open_files.get(args.fh).is_ok() {
                    report.take_one_off("open_files");
                }
                report.to_string()
            }
            Question::Rights => return Err(FsError::Refused(Errno::INVAL)),
        };
        let result = i32::try_from(answer.len()).map_err(|_| TOO_LONG)?;
        if answer.len() > ROOM {
            return Err(TOO_LONG);
        }
        payload.push(&wire::IoctlOut { result, ..wire::IoctlOut::default() });
        payload.bytes.extend_from_slice(answer.as_bytes());
        done()
    }
}

const TOO_LONG: FsError = FsError::Refused(Errno::MSGSIZE);
