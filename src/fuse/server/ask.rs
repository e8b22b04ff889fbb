//! Questions to the server itself, which come as an ioctl on the mount ([`crate::report`]): so
//! there is no socket and no file beside the mount, and whoever can reach the mount, from whichever
//! mount namespace, can ask if he may.

use super::{Done, Server, done};
use crate::error::FsError;
use crate::fs::{RightsOf, Want};
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::wire;
use crate::report::{Question, ROOM};
use crate::shift::access::Person;
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
            Question::Rights => self.rights(input.get(1..).unwrap_or_default())?,
        };
        let result = i32::try_from(answer.len()).map_err(|_| TOO_LONG)?;
        if answer.len() > ROOM {
            return Err(TOO_LONG);
        }
        payload.push(&wire::IoctlOut { result, ..wire::IoctlOut::default() });
        payload.bytes.extend_from_slice(answer.as_bytes());
        done()
    }

    /// Answers whose rights somebody has: lines `UID`, `GID,GID…`, the word for what is wanted or
    /// nothing, the flags of the mount, and the path, which may hold newlines.
    fn rights(&self, text: &[u8]) -> Result<String, FsError> {
        let malformed = FsError::Refused(Errno::INVAL);
        let mut parts = text.splitn(5, |byte| *byte == b'\n');
        let mut line = || parts.next().ok_or(malformed);
        let word = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).ok();
        let uid = word(line()?).and_then(|uid| uid.parse().ok()).ok_or(malformed)?;
        let groups = word(line()?).ok_or(malformed)?;
        let groups: Result<Vec<u32>, _> = groups.split(',').map(str::parse).collect();
        let want = word(line()?).ok_or(malformed)?;
        let flags = word(line()?).ok_or(malformed)?;
        // The rest of the argument's room is zeros.
        let path = line()?.split(|byte| *byte == 0).next().unwrap_or_default();
        let has = |flag: &str| flags.split(',').any(|other| other == flag);
        let mut told = self.fs.rights_of(&RightsOf {
            person: Person { uid, groups: groups.map_err(|_| malformed)? },
            path,
            want: if want.is_empty() { None } else { Want::from_name(&want) },
            read_only: has("ro"),
            noexec: has("noexec"),
            only: (!self.about.for_all).then_some(self.about.owner),
        })?;
        let lower = self.about.fact("lower");
        told.extend(["lower   ", lower, "/", &String::from_utf8_lossy(path), "\n"]);
        Ok(told)
    }
}

const TOO_LONG: FsError = FsError::Refused(Errno::MSGSIZE);
