//! Requests about names: lookup, making, moving and removing files.

use super::{Delivery, Done, Outcome, Server, done, place};
use crate::fs::{Call, Entry, Found, NewFile};
use crate::fuse::negotiate::FUSE_EXPORT_SUPPORT;
use crate::fuse::reply::{Payload, entry_out, is_dot, negative_entry};
use crate::fuse::request::Request;
use crate::fuse::root;
use crate::fuse::wire;

impl Server {
    pub(super) fn lookup<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let dots = request.clone().take_str()?;
        if self.agreed.has(FUSE_EXPORT_SUPPORT) && is_dot(dots) {
            return self.lookup_unnamed(call, request, dots == "..", payload);
        }
        let name = request.take_name()?;
        match self.fs.lookup(call, request.nodeid(), name)? {
            Found::Entry(entry) => Self::entry(entry, payload),
            Found::Missing(time) => {
                payload.push(&negative_entry(time));
                done()
            }
        }
    }

    /// For file handles: the inode itself, or the directory above it.
    fn lookup_unnamed<'c>(
        &'c self,
        call: &Call<'c>,
        request: &Request<'_>,
        above: bool,
        payload: &mut Payload,
    ) -> Done<'c> {
        let Entry { lookup, attr, valid } = if above {
            self.fs.lookup_parent(call, request.nodeid())?
        } else {
            self.fs.lookup_self(call, request.nodeid())?
        };
        let nodeid = root::told(lookup.nodeid(), |nodeid| self.device.knows(nodeid));
        payload.push(&entry_out(nodeid, &attr, valid));
        Ok(Outcome::Reply(Delivery { lookup: Some(lookup), ..Delivery::default() }))
    }

    pub(super) fn forget(&self, call: &Call<'_>, request: &mut Request<'_>) -> Outcome<'_> {
        // Nobody waits for an answer, not even to a malformed one.
        let done = self.fs.forgotten(call) > 0;
        if let (Ok(wire::ForgetIn { nlookup }), false) = (request.take(), done) {
            self.forget_one(call, request.nodeid(), nlookup);
        }
        Outcome::Silent
    }

    pub(super) fn batch_forget(&self, call: &Call<'_>, request: &mut Request<'_>) -> Outcome<'_> {
        if let Ok(wire::BatchForgetIn { count, .. }) = request.take() {
            // Another server may have been killed in the middle of them.
            let done = self.fs.forgotten(call);
            for n in 0..u64::from(count) {
                let Ok(wire::ForgetOne { nodeid, nlookup }) = request.take() else { break };
                if n >= done {
                    self.forget_one(call, nodeid, nlookup);
                }
            }
        }
        Outcome::Silent
    }

    fn forget_one(&self, call: &Call<'_>, nodeid: u64, count: u64) {
        if self.fs.forget(call, nodeid, count) {
            self.backings.forget(nodeid);
        }
    }

    pub(super) fn readlink(&self, request: &Request<'_>, payload: &mut Payload) -> Done<'_> {
        payload.bytes = self.fs.readlink(request.nodeid())?;
        done()
    }

    pub(super) fn symlink<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let at = place(request.nodeid(), request)?;
        let target = request.take_str()?;
        Self::entry(self.fs.symlink(call, at, target)?, payload)
    }

    pub(super) fn mknod<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::MknodIn = request.take()?;
        let new = NewFile { mode: args.mode, umask: args.umask };
        let at = place(request.nodeid(), request)?;
        Self::entry(self.fs.mknod(call, at, new, args.rdev)?, payload)
    }

    pub(super) fn mkdir<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::MkdirIn = request.take()?;
        let new = NewFile { mode: args.mode, umask: args.umask };
        let at = place(request.nodeid(), request)?;
        Self::entry(self.fs.mkdir(call, at, new)?, payload)
    }

    pub(super) fn unlink(&self, call: &Call<'_>, request: &mut Request<'_>) -> Done<'_> {
        self.fs.unlink(call, place(request.nodeid(), request)?)?;
        done()
    }

    pub(super) fn rmdir(&self, call: &Call<'_>, request: &mut Request<'_>) -> Done<'_> {
        self.fs.rmdir(call, place(request.nodeid(), request)?)?;
        done()
    }

    pub(super) fn rename(&self, call: &Call<'_>, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::RenameIn = request.take()?;
        self.rename_to(call, request, args.newdir, 0)
    }

    pub(super) fn rename2(&self, call: &Call<'_>, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::Rename2In = request.take()?;
        self.rename_to(call, request, args.newdir, args.flags)
    }

    fn rename_to(
        &self,
        call: &Call<'_>,
        request: &mut Request<'_>,
        newdir: u64,
        flags: u32,
    ) -> Done<'_> {
        let from = place(request.nodeid(), request)?;
        let to = place(root::known(newdir), request)?;
        self.fs.rename(call, from, to, flags)?;
        done()
    }

    pub(super) fn link<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::LinkIn = request.take()?;
        let to = place(request.nodeid(), request)?;
        Self::entry(self.fs.link(call, args.oldnodeid, to)?, payload)
    }
}
