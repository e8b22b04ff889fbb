//! Questions to the server itself, which come as an ioctl on the mount ([`crate::report`]): so
//! there is no socket and no file beside the mount, and whoever can reach the mount, from whichever
//! mount namespace, can ask if he may.

use super::{Done, Server, done};
use crate::error::FsError;
use crate::fs::{Call, RightsOf, Want};
use crate::fuse::reply::Payload;
use crate::fuse::request::Request;
use crate::fuse::wire;
use crate::plain;
use crate::report::{MapPart, Question, ROOM, RawExtent};
use crate::shift::access::Person;
use crate::shift::id::Kind;
use crate::shift::idmap::{Extent, IdMap};
use rustix::io::Errno;

impl Server {
    /// Answers a question: `EPERM` but for root and the user who runs the server, `EMSGSIZE` if the
    /// answer is too long.
    pub(super) fn asked(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        args: wire::IoctlIn,
        payload: &mut Payload,
    ) -> Done<'_> {
        // Who is asked for here is a person of this machine, not the owner of a file.
        let asker = self.fs.person(call.caller);
        if !asker.is_some_and(|uid| uid == 0 || uid == self.about.owner) {
            return Err(FsError::Refused(Errno::PERM));
        }
        let input = request.take_bytes(args.in_size)?;
        let code = input.first().copied().and_then(Question::from_code);
        let answer = match code.ok_or(FsError::Refused(Errno::INVAL))? {
            Question::Report => {
                let mut report = self.report();
                // What is open only for this question is not counted.
                if self.fs.is_open(args.fh) {
                    report.take_one_off("open_files");
                }
                report.to_string()
            }
            Question::Times => {
                let bits = input.get(1..9).and_then(|bits| bits.try_into().ok());
                let bits = bits.map(u64::from_ne_bytes).ok_or(FsError::Refused(Errno::INVAL))?;
                self.about.change_times(bits).map_err(FsError::Refused)?;
                String::new()
            }
            Question::Map => self.map(input.get(1..).unwrap_or_default())?,
            Question::Rights => self.rights(call, input.get(1..).unwrap_or_default())?,
        };
        let result = i32::try_from(answer.len()).map_err(|_| TOO_LONG)?;
        if answer.len() > ROOM {
            return Err(TOO_LONG);
        }
        payload.push(&wire::IoctlOut { result, ..wire::IoctlOut::default() });
        payload.bytes.extend_from_slice(answer.as_bytes());
        done()
    }

    /// Answers with extents of the map.
    fn map(&self, text: &[u8]) -> Result<String, FsError> {
        let maps = self.fs.maps();
        match MapPart::understood(text).ok_or(FsError::Refused(Errno::INVAL))? {
            (b'u', from) => Ok(MapPart::answer(&numbers(&maps.uids), from)),
            (b'g', from) => Ok(MapPart::answer(&numbers(&maps.gids), from)),
            _ => Err(FsError::Refused(Errno::INVAL)),
        }
    }

    /// Answers whose rights somebody has: lines `UID`, `GID,GID…`, the word for what is wanted or
    /// nothing, the flags of the mount, and the path, which may hold newlines.
    fn rights(&self, call: &Call<'_>, text: &[u8]) -> Result<String, FsError> {
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
        let mut told = self.fs.rights_of(
            call,
            &RightsOf {
                person: Person { uid, groups: groups.map_err(|_| malformed)? },
                path,
                want: if want.is_empty() { None } else { Want::from_name(&want) },
                read_only: has("ro"),
                noexec: has("noexec"),
                only: (!self.about.facts.allow_other).then_some(self.about.owner),
            },
        )?;
        let lower = format!("{}/{}", self.about.facts.lower, String::from_utf8_lossy(path));
        told.extend(["lower   ", &plain::line(&lower), "\n"]);
        Ok(told)
    }
}

/// The extents of a map: stored, shown, count.
fn numbers<K: Kind>(map: &IdMap<K>) -> Vec<RawExtent> {
    let numbers = |it: &Extent<K>| (it.lower_first().raw(), it.upper_first().raw(), it.count());
    map.extents().iter().map(numbers).collect()
}

const TOO_LONG: FsError = FsError::Refused(Errno::MSGSIZE);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::fuse::driver::{Driver, GID, UID};
    use crate::lower::table::ROOT_ID;
    use crate::report::{IOCTL, Report};

    const ROOT: (u32, u32) = (0, 0);

    fn ask(server: &mut Driver, by: (u32, u32), question: &[u8]) -> Result<String, i32> {
        let words =
            |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>();
        let size = u32::try_from(question.len()).unwrap();
        // fh, flags, cmd, arg, in_size, out_size
        let head = words(&[0, 0, 0, IOCTL, 0, 0, size, size]);
        let opcode = wire::Opcode::Ioctl as u32;
        let answer = server.ask_as(by, opcode, ROOT_ID, &[&head, question].concat()).unwrap();
        match answer.errno {
            0 => Ok(String::from_utf8(answer.payload[16..].to_vec()).unwrap()),
            errno => Err(errno),
        }
    }

    #[test]
    fn root_and_the_servers_user_get_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Driver::on(dir.path());
        let told = ask(&mut server, ROOT, b"R").unwrap();
        assert_eq!(Report::parse(&told).unwrap().number("inodes"), 0);
        let own = (rustix::process::geteuid().as_raw(), 7);
        assert!(ask(&mut server, own, b"R").is_ok());
        let refused = Err(Errno::PERM.raw_os_error());
        for other in [(UID, GID), (u32::MAX, 0), (65_534, 0)] {
            assert_eq!(ask(&mut server, other, b"R"), refused);
            assert_eq!(ask(&mut server, other, b"E0\n0\n\n\n"), refused);
        }
    }

    #[test]
    fn questions_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Driver::on(dir.path());
        let invalid = Err(Errno::INVAL.raw_os_error());
        let long = [&b"E0\n0\nr\n\n"[..], &[b'a'; 16_000]].concat();
        for question in
            [&b""[..], b"x", b"\xff", b"E", b"E0", b"E0\n\n\n\n", b"E-1\n0\n\n\n", b"E0\n0,\n\n\n"]
        {
            assert_eq!(ask(&mut server, ROOT, question), invalid, "{question:?}");
        }
        for question in [&b"E0\n0\nr\n\n.."[..], b"E0\n0\nr\n\na/../b", b"E0\n0\n\n\n\xff/.", &long]
        {
            assert!(ask(&mut server, ROOT, question).is_err(), "{question:?}");
        }
        assert_eq!(server.held(), (1, 0));
    }

    #[test]
    fn explaining_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), "x").unwrap();
        let mut server = Driver::on(dir.path());
        let question = format!("E{UID}\n{GID}\nr\nrw\nd/file");
        let told = ask(&mut server, ROOT, question.as_bytes()).unwrap();
        // The driver's server has no allow_other, and another user runs it.
        assert!(told.starts_with("denied EACCES\n") && told.contains("may enter"), "{told}");
        assert_eq!(server.held(), (1, 0));
        let none = ask(&mut server, ROOT, b"E0\n0\nr\nrw\nd/none").unwrap();
        assert!(none.starts_with("denied ENOENT\n"), "{none}");
        assert_eq!(server.held(), (1, 0));
    }
}
