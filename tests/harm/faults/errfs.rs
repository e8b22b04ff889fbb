//! A lower file system that fails on demand: a FUSE mount that this process serves with the library,
//! and between the kernel and the server somebody who answers chosen requests with an errno.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use idshift::config::{IoMode, Policies};
use idshift::fs::{FileSystem, Keeping, Options};
use idshift::fuse::connection::{Connection, Facts, Machine, Settings};
use idshift::lower::LowerTree;
use idshift::lower::cred::{self, Keep};
use idshift::shift::acl::Unmapped;
use idshift::shift::idmap::Maps;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use crate::common::{Mode, OFlags, put_dir};

/// Room for the largest message, and for several in the socket.
const MESSAGE: usize = (1 << 20) + 4096;

/// The mount. It shows the directory `store`, with nothing remembered.
pub(crate) struct ErrFs {
    root: PathBuf,
    pub(crate) store: PathBuf,
    faults: Faults,
    threads: Vec<JoinHandle<()>>,
}

/// What becomes of requests, by opcode (`enum fuse_opcode`).
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<HashMap<u32, Fault>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Errno(Errno),
    /// It waits until the fault is taken away.
    Stall,
}

impl ErrFs {
    /// Mounts it in `place`.
    pub(crate) fn mount(place: &Path) -> Self {
        let (root, store) = (place.join("errfs"), place.join("store"));
        put_dir(&root, 0o777, 0, 0);
        put_dir(&store, 0o777, 0, 0);
        mount("none", &store, "tmpfs", MountFlags::empty(), c"mode=0777,size=256m").unwrap();
        let device = crate::common::open(Path::new("/dev/fuse"), OFlags::RDWR, 0).unwrap();
        let options = format!(
            "fd={},rootmode=40777,user_id=0,group_id=0,allow_other,default_permissions\0",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::from_vec_with_nul(options.into_bytes()).unwrap();
        mount("errfs", &root, "fuse", MountFlags::empty(), &*options).unwrap();
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        for end in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size_force(end, 4 * MESSAGE).unwrap();
        }
        let faults = Faults::default();
        let (device, ours) = (Arc::new(device), Arc::new(ours));
        let mut threads = Vec::new();
        {
            let (device, ours, faults) = (Arc::clone(&device), Arc::clone(&ours), faults.clone());
            threads.push(thread::spawn(move || faults.pass_down(&device, &ours)));
        }
        threads.push(thread::spawn(move || pass_up(&ours, &device)));
        let lower = store.clone();
        threads.push(thread::spawn(move || serve(&lower, theirs)));
        Self { root, store, faults, threads }
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// From now on such requests fail.
    pub(crate) fn fail(&self, opcode: u32, errno: Errno) {
        self.faults.0.lock().unwrap().insert(opcode, Fault::Errno(errno));
    }

    /// From now on such requests wait.
    pub(crate) fn stall(&self, opcode: u32) {
        self.faults.0.lock().unwrap().insert(opcode, Fault::Stall);
    }

    /// Nothing fails or waits any more.
    pub(crate) fn heal(&self) {
        self.faults.0.lock().unwrap().clear();
    }
}

impl Drop for ErrFs {
    fn drop(&mut self) {
        self.heal();
        unmount(&self.root, UnmountFlags::FORCE | UnmountFlags::DETACH).ok();
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(joined.is_ok() || thread::panicking(), "errfs has failed");
        }
        unmount(&self.store, UnmountFlags::DETACH).ok();
    }
}

impl Faults {
    fn of(&self, opcode: u32) -> Option<Fault> {
        self.0.lock().unwrap().get(&opcode).copied()
    }

    /// From the kernel to the server, but what fails.
    fn pass_down(&self, device: &Arc<OwnedFd>, server: &Arc<OwnedFd>) {
        let mut buffer = vec![0; MESSAGE];
        loop {
            let length = match rustix::io::read(device, buffer.as_mut_slice()) {
                Ok(length) => length,
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                Err(_) => break, // unmounted
            };
            let message = &buffer[..length];
            let opcode = u32::from_ne_bytes(message[4..8].try_into().unwrap());
            match self.of(opcode) {
                None => drop(rustix::io::write(server, message)),
                Some(Fault::Errno(errno)) => {
                    let unique = &message[8..16];
                    let error = (-errno.raw_os_error()).to_ne_bytes();
                    let answer = [&16_u32.to_ne_bytes()[..], &error, unique].concat();
                    rustix::io::write(device, &answer).ok();
                }
                Some(Fault::Stall) => {
                    let (faults, message, server) =
                        (self.clone(), message.to_vec(), Arc::clone(server));
                    thread::spawn(move || {
                        while faults.of(opcode) == Some(Fault::Stall) {
                            thread::sleep(Duration::from_millis(1));
                        }
                        rustix::io::write(&server, &message).ok();
                    });
                }
            }
        }
        rustix::net::shutdown(server, rustix::net::Shutdown::Both).ok();
    }
}

/// From the server to the kernel.
fn pass_up(server: &OwnedFd, device: &OwnedFd) {
    let mut buffer = vec![0; MESSAGE];
    loop {
        match rustix::io::read(server, buffer.as_mut_slice()) {
            Ok(0) => return,
            Ok(length) => drop(rustix::io::write(device, &buffer[..length])),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn serve(store: &Path, device: OwnedFd) {
    rustix::process::umask(Mode::empty());
    cred::keep_capabilities().unwrap();
    let options = Options {
        maps: Maps::identity(),
        unmapped_acl: Unmapped::Placeholder,
        policies: Policies::default(),
        io: IoMode::Passthrough,
        owners: None,
        keeping: Keeping::For(Duration::ZERO),
        ids: Keep::default(),
        acting: None,
    };
    let fs = FileSystem::new(LowerTree::open(store, false, 256).unwrap(), options);
    let settings = Settings {
        acls: true,
        judged_below: false,
        exports: false,
        flush: true,
        stack_depth: 1,
        lower_locks: false,
        io: IoMode::Passthrough,
        judges_opening: false,
        gather_writes: false,
        idmap: false,
        uring: false,
        threads: 4,
        threads_if_stuck: 4,
        facts: Facts::default(),
        read_only: false,
        machine: Machine::look(),
    };
    Connection::establish(fs, device, settings).unwrap().serve().unwrap();
}
