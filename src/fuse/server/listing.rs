//! Requests about open directories.

use super::{Delivery, Done, NOT_OFFERED, Outcome, Server, done};
use crate::fs::Call;
use crate::fuse::negotiate::FUSE_NO_OPENDIR_SUPPORT;
use crate::fuse::reply::{Payload, entry_out, is_dot};
use crate::fuse::request::Request;
use crate::fuse::wire::{self, fopen};

impl Server {
    pub(super) fn opendir<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        // The kernel may keep the listing as long as the directory's attributes do not change. It
        // pays where it may keep what is listed as well; else a fresh listing with attributes
        // saves a lookup per file.
        let keep = self.fs.keeps_listings();
        if keep && self.agreed.has(FUSE_NO_OPENDIR_SUPPORT) {
            return Err(NOT_OFFERED); // from now on directories are listed without being opened
        }
        let opened = self.fs.opendir(call, request.nodeid())?;
        let open_flags = if keep { fopen::CACHE_DIR | fopen::KEEP_CACHE } else { 0 };
        payload.push(&wire::OpenOut { fh: opened.handle(), open_flags, backing_id: 0 });
        Ok(Outcome::Reply(Delivery { opened: Some(opened), ..Delivery::default() }))
    }

    pub(super) fn readdir(&self, request: &mut Request<'_>, payload: &mut Payload) -> Done<'_> {
        let args: wire::ReadIn = request.take()?;
        let limit = args.size as usize;
        let dir = self.fs.open_dir(request.nodeid(), args.fh)?;
        self.fs.readdir(&dir, args.offset, |entry| payload.push_dirent(&entry, None, limit))?;
        done()
    }

    pub(super) fn readdirplus<'c>(
        &'c self,
        call: &Call<'c>,
        request: &mut Request<'_>,
        payload: &mut Payload,
    ) -> Done<'c> {
        let args: wire::ReadIn = request.take()?;
        let limit = args.size as usize;
        let mut listed = Vec::new();
        let dir = self.fs.open_dir(request.nodeid(), args.fh)?;
        self.fs.readdirplus(call, &dir, args.offset, |dirent, entry| {
            let Some(entry) = entry else {
                // A nodeid of zero: the name alone.
                return payload.push_dirent(&dirent, Some(&wire::EntryOut::default()), limit);
            };
            let plus = entry_out(entry.lookup.nodeid(), &entry.attr, entry.valid);
            let fits = payload.push_dirent(&dirent, Some(&plus), limit);
            if fits && !is_dot(dirent.name) {
                listed.push(entry.lookup);
            }
            fits
        })?;
        Ok(Outcome::Reply(Delivery { listed, ..Delivery::default() }))
    }

    pub(super) fn releasedir(&self, request: &mut Request<'_>) -> Done<'_> {
        let args: wire::ReleaseIn = request.take()?;
        self.fs.release(args.fh);
        done()
    }
}
