//! Requests about names: lookup, making, moving and removing files.

use super::{Done, Outcome, Server, done, new_file, place};
use crate::error::FsError;
use crate::fuse::reply::{Payload, negative_entry};
use crate::fuse::request::Request;
use crate::fuse::root;
use crate::fuse::trust::How;
use crate::fuse::wire;
use crate::state::slot;
use rustix::io::Errno;

impl Server {
    pub(super) fn lookup(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let name = request.take_name()?;
        let begun = self.begin(request.nodeid());
        match self.fs.lookup(request.nodeid(), name) {
            Ok(entry) => self.entry(begun, How::LookedUp, entry, payload),
            // That a name is not there is remembered like one that is.
            Err(error @ FsError::Os { errno: Errno::NOENT, .. }) => {
                let time = self.valid_missing(begun, request.nodeid(), name);
                if time.is_zero() {
                    return Err(error);
                }
                payload.push(&negative_entry(time));
                done()
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn forget(&self, request: &mut Request<'_>) -> Outcome<'_> {
        // Nobody waits for an answer, not even to a malformed one.
        let done = slot::forgotten() > 0;
        if let (Ok(wire::ForgetIn { nlookup }), false) = (request.take(), done) {
            self.forget_one(request.nodeid(), nlookup);
        }
        Outcome::Silent
    }

    pub(super) fn batch_forget(&self, request: &mut Request<'_>) -> Outcome<'_> {
        if let Ok(wire::BatchForgetIn { count, .. }) = request.take() {
            // Another server may have been killed in the middle of them.
            let done = slot::forgotten();
            for n in 0..u64::from(count) {
                let Ok(wire::ForgetOne { nodeid, nlookup }) = request.take() else { break };
                if n >= done {
                    self.forget_one(nodeid, nlookup);
                }
            }
        }
        Outcome::Silent
    }

    fn forget_one(&self, nodeid: u64, count: u64) {
        if self.fs.forget(nodeid, count) {
            self.backings.forget(nodeid);
        }
    }

    pub(super) fn readlink(&self, request: &Request<'_>, payload: &mut Payload) -> Done<'_> {
        payload.bytes = self.fs.readlink(request.nodeid())?;
        done()
    }

    pub(super) fn symlink(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let name = request.take_name()?;
        let target = request.take_str()?;
        let begun = self.begin(request.nodeid());
        let entry = self.fs.symlink(request.nodeid(), name, request.caller(), target)?;
        self.entry(begun, How::Made, entry, payload)
    }

    pub(super) fn mknod(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::MknodIn = request.take()?;
        let new = new_file(request, args.mode, args.umask);
        let name = request.take_name()?;
        let begun = self.begin(request.nodeid());
        let entry = self.fs.mknod(request.nodeid(), name, new, args.rdev)?;
        self.entry(begun, How::Made, entry, payload)
    }

    pub(super) fn mkdir(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::MkdirIn = request.take()?;
        let new = new_file(request, args.mode, args.umask);
        let name = request.take_name()?;
        let begun = self.begin(request.nodeid());
        let entry = self.fs.mkdir(request.nodeid(), name, new)?;
        self.entry(begun, How::Made, entry, payload)
    }

    pub(super) fn unlink(&self, request: &mut Request<'_>) -> Done<'_> {
        self.fs.unlink(place(request.nodeid(), request)?)?;
        done()
    }

    pub(super) fn rmdir(&self, request: &mut Request<'_>) -> Done<'_> {
        self.fs.rmdir(place(request.nodeid(), request)?)?;
        done()
    }

    pub(super) fn rename(&self, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::RenameIn = request.take()?;
        self.rename_to(request, args.newdir, 0)
    }

    pub(super) fn rename2(&self, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::Rename2In = request.take()?;
        self.rename_to(request, args.newdir, args.flags)
    }

    fn rename_to(&self, request: &mut Request<'_>, newdir: u64, flags: u32) -> Done<'_> {
        let from = place(request.nodeid(), request)?;
        let to = place(root::known(newdir), request)?;
        self.fs.rename(request.caller(), from, to, flags)?;
        done()
    }

    pub(super) fn link(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::LinkIn = request.take()?;
        let to = place(request.nodeid(), request)?;
        let begun = self.begin(request.nodeid());
        let entry = self.fs.link(request.caller(), args.oldnodeid, to)?;
        self.entry(begun, How::Made, entry, payload)
    }
}
