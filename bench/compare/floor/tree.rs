//! The tree in memory, and what each request does to it.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

use super::{FLAGS, Request, VALID, get32, put32, put64};
use crate::stage::OFFSET;

type Answer = std::result::Result<(), Errno>;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const KIND: u32 = 0o170_000;

/// An inode. Times of access and of change are the time of modification here.
struct Inode {
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (u64, u32),
    target: Vec<u8>,
    names: BTreeMap<Vec<u8>, usize>,
}

/// All inodes; a nodeid is an index and one.
pub(super) struct Tree(Vec<Inode>);

impl Tree {
    /// Names and attributes of everything in `lower`, ids shifted.
    pub(super) fn read(lower: &Path) -> std::io::Result<Self> {
        let mut tree = Self(Vec::new());
        tree.read_one(lower)?;
        Ok(tree)
    }

    fn read_one(&mut self, path: &Path) -> std::io::Result<usize> {
        let metadata = path.symlink_metadata()?;
        let number = self.0.len();
        let target = if metadata.is_symlink() {
            std::fs::read_link(path)?.into_os_string().into_vec()
        } else {
            Vec::new()
        };
        self.0.push(Inode {
            mode: metadata.mode(),
            nlink: 1,
            uid: metadata.uid() + OFFSET,
            gid: metadata.gid() + OFFSET,
            size: metadata.size(),
            mtime: (metadata.mtime().unsigned_abs(), 0),
            target,
            names: BTreeMap::new(),
        });
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                let child = self.read_one(&entry.path())?;
                self.0[number].names.insert(entry.file_name().as_bytes().to_vec(), child);
            }
        }
        Ok(number)
    }

    /// Answers a request; `None` if nobody waits for an answer.
    pub(super) fn answer(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> Option<Answer> {
        let node = usize::try_from(request.nodeid).unwrap_or(0).saturating_sub(1);
        match request.opcode {
            2 | 36 | 42 => return None, // FORGET, INTERRUPT, BATCH_FORGET
            1 => self.lookup(node, request.name(0), out),
            3 => self.attributes(node, out),
            4 => self.change(node, request, out),
            5 => out.extend_from_slice(&self.0[node].target),
            14 => open(out),
            15 => {
                let left = self.0[node].size.saturating_sub(request.u64(8));
                let length = left.min(u64::from(request.u32(16)));
                out.resize(usize::try_from(length).unwrap_or(0), 0);
            }
            16 => self.write(node, request, out),
            17 => out.resize(80, 0),
            18 | 20 | 29 | 38 => {} // RELEASE, FSYNC, RELEASEDIR, DESTROY
            26 => init(request, out),
            28 => self.list(node, request, false, out),
            44 => self.list(node, request, true, out),
            _ => return Some(self.answer_change(node, request, out)),
        }
        Some(Ok(()))
    }

    /// Answers what can fail.
    fn answer_change(&mut self, dir: usize, request: &Request<'_>, out: &mut Vec<u8>) -> Answer {
        match request.opcode {
            6 => self.symlink(dir, request, out),
            8 => self.create(dir, request, request.u32(0), request.name(16), out),
            9 => self.create(dir, request, DIRECTORY | request.u32(0), request.name(8), out),
            10 | 11 => self.remove(dir, request.name(0)),
            12 => self.rename(dir, request, 8),
            45 => self.rename(dir, request, 16),
            22 | 24 => Err(Errno::NODATA),
            35 => {
                let mode = REGULAR | (request.u32(4) & !request.u32(8) & 0o7777);
                self.create(dir, request, mode, request.name(16), out)?;
                open(out);
                Ok(())
            }
            // FLUSH and OPENDIR are not sent any more; nor is what this tree does not have.
            _ => Err(Errno::NOSYS),
        }
    }

    fn lookup(&self, dir: usize, name: &[u8], out: &mut Vec<u8>) {
        if let Some(&child) = self.0[dir].names.get(name) {
            return self.entry(child, out);
        }
        // Nodeid 0: the name is missing, and that may be remembered.
        out.resize(16, 0);
        put64(out, VALID);
        out.resize(128, 0);
    }

    fn entry(&self, node: usize, out: &mut Vec<u8>) {
        put64(out, node as u64 + 1);
        put64(out, 0);
        put64(out, VALID);
        put64(out, VALID);
        put64(out, 0);
        self.attr(node, out);
    }

    fn attributes(&self, node: usize, out: &mut Vec<u8>) {
        put64(out, VALID);
        put64(out, 0);
        self.attr(node, out);
    }

    fn attr(&self, node: usize, out: &mut Vec<u8>) {
        let inode = &self.0[node];
        put64(out, node as u64 + 1);
        put64(out, inode.size);
        put64(out, inode.size.div_ceil(512));
        (0..3).for_each(|_| put64(out, inode.mtime.0));
        (0..3).for_each(|_| put32(out, inode.mtime.1));
        for value in [inode.mode, inode.nlink, inode.uid, inode.gid, 0, 4096, 0] {
            put32(out, value);
        }
    }

    fn change(&mut self, node: usize, request: &Request<'_>, out: &mut Vec<u8>) {
        let valid = request.u32(0);
        let inode = &mut self.0[node];
        if valid & 1 != 0 {
            inode.mode = (inode.mode & KIND) | (request.u32(68) & 0o7777);
        }
        if valid & 2 != 0 {
            inode.uid = request.u32(76);
        }
        if valid & 4 != 0 {
            inode.gid = request.u32(80);
        }
        if valid & 8 != 0 {
            inode.size = request.u64(16);
        }
        if valid & 0x20 != 0 {
            inode.mtime = (request.u64(40), request.u32(60));
        }
        self.attributes(node, out);
    }

    fn create(
        &mut self,
        dir: usize,
        request: &Request<'_>,
        mode: u32,
        name: &[u8],
        out: &mut Vec<u8>,
    ) -> Answer {
        if self.0[dir].names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let node = self.0.len();
        self.0.push(Inode {
            mode,
            nlink: 1,
            uid: request.uid,
            gid: request.gid,
            size: 0,
            mtime: self.0[dir].mtime,
            target: Vec::new(),
            names: BTreeMap::new(),
        });
        self.0[dir].names.insert(name.to_vec(), node);
        self.entry(node, out);
        Ok(())
    }

    fn symlink(&mut self, dir: usize, request: &Request<'_>, out: &mut Vec<u8>) -> Answer {
        let name = request.name(0);
        let target = request.name(name.len() + 1);
        let node = self.0.len();
        self.create(dir, request, SYMLINK | 0o777, name, out)?;
        self.0[node].target = target.to_vec();
        self.0[node].size = target.len() as u64;
        out.clear();
        self.entry(node, out);
        Ok(())
    }

    fn remove(&mut self, dir: usize, name: &[u8]) -> Answer {
        let &node = self.0[dir].names.get(name).ok_or(Errno::NOENT)?;
        if !self.0[node].names.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.0[node].nlink = 0;
        self.0[dir].names.remove(name);
        Ok(())
    }

    fn rename(&mut self, dir: usize, request: &Request<'_>, names: usize) -> Answer {
        let to = usize::try_from(request.u64(0)).unwrap_or(0).saturating_sub(1);
        let old = request.name(names);
        let new = request.name(names + old.len() + 1);
        let node = self.0[dir].names.remove(old).ok_or(Errno::NOENT)?;
        self.0[to].names.insert(new.to_vec(), node);
        Ok(())
    }

    fn write(&mut self, node: usize, request: &Request<'_>, out: &mut Vec<u8>) {
        let (offset, length) = (request.u64(8), request.u32(16));
        let inode = &mut self.0[node];
        inode.size = inode.size.max(offset + u64::from(length));
        put32(out, length);
        put32(out, 0);
    }

    fn list(&self, dir: usize, request: &Request<'_>, plus: bool, out: &mut Vec<u8>) {
        let from = usize::try_from(request.u64(8)).unwrap_or(0);
        let room = get32(request.body, 16) as usize;
        for (at, (name, &node)) in self.0[dir].names.iter().enumerate().skip(from) {
            let length = (24 + name.len()).next_multiple_of(8) + if plus { 128 } else { 0 };
            if out.len() + length > room {
                break;
            }
            let end = out.len() + length;
            if plus {
                self.entry(node, out);
            }
            put64(out, node as u64 + 1);
            put64(out, at as u64 + 1);
            put32(out, u32::try_from(name.len()).unwrap_or(0));
            put32(out, self.0[node].mode >> 12);
            out.extend_from_slice(name);
            out.resize(end, 0);
        }
    }
}

/// The answer to INIT.
fn init(request: &Request<'_>, out: &mut Vec<u8>) {
    put32(out, 7);
    put32(out, 36);
    put32(out, request.u32(8));
    put32(out, request.u32(12) & FLAGS);
    put32(out, 16 | 12 << 16); // requests in the background, and when that is congestion
    put32(out, 1 << 20);
    put32(out, 1);
    put32(out, 256); // pages of a request
    out.resize(64, 0);
}

/// What OPEN is answered, and CREATE besides: no handle; the page cache is kept.
fn open(out: &mut Vec<u8>) {
    put64(out, 0);
    put32(out, 1 << 1);
    put32(out, 0);
}
