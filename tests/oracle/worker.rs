//! A caller as a process of its own: this test binary run again, with the caller's ids, groups,
//! capabilities and namespace, that reads calls on its standard input and answers each with a line.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::caller::{Caller, Home};
use crate::calls::Hands;
use crate::maps::MapSpec;

/// The argument that makes the test binary a worker.
pub const MARK: &str = "--oracle-worker";
/// No call takes this long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The harness's end.
pub struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(caller: &Caller, map: &MapSpec) -> Self {
        let (uid, gid, groups) = caller.ids(map);
        let (real_uid, real_gid) = caller.real_ids(map);
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        let home = if caller.home == Home::Namespace { "namespace" } else { "host" };
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([MARK, home, &uid.to_string(), &gid.to_string()])
            .args([groups.join(","), caller.caps.to_string()])
            .args([real_uid.to_string(), real_gid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a worker");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut worker = Self { child, requests, answers };
        if caller.home == Home::Namespace {
            assert_eq!(worker.receive(), "unshared");
            let proc = format!("/proc/{}", worker.child.id());
            for (file, kind) in [("uid_map", 'u'), ("gid_map", 'g')] {
                std::fs::write(format!("{proc}/{file}"), map.namespace(kind)).expect("a map");
            }
            worker.send("mapped");
        }
        assert_eq!(worker.receive(), "ready", "the worker {} did not start", caller.name);
        worker
    }

    pub fn send(&mut self, request: &str) {
        let requests = self.requests.as_mut().expect("open until dropped");
        writeln!(requests, "{request}").expect("a living worker");
    }

    pub fn receive(&mut self) -> String {
        let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let mut poll = [PollFd::from_borrowed_fd(self.answers.get_ref().as_fd(), PollFlags::IN)];
        // Nothing is left in the reader's buffer: each request has one line for an answer.
        let events = rustix::event::poll(&mut poll, Some(&timeout)).expect("poll");
        if events == 0 {
            return "HANGS".to_owned();
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("readable text");
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.receive()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The worker's end: never returns to the test runner.
pub fn main(args: &[String]) {
    let [home, uid, gid, groups, caps, real_uid, real_gid] = args else {
        panic!("seven arguments")
    };
    let mut lines = std::io::stdin().lines();
    let mut next = move || lines.next().map(|line| line.expect("text"));
    let number = |text: &String| text.parse::<u32>().expect("an id");
    if home == "namespace" {
        // SAFETY: no pointers; this process has one thread, which unshare needs.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, 0, "unshare");
        println!("unshared");
        assert_eq!(next().as_deref(), Some("mapped"));
    }
    let groups: Vec<u32> =
        groups.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().expect("id")).collect();
    become_caller(
        [number(real_uid), number(uid)],
        [number(real_gid), number(gid)],
        &groups,
        caps.parse().expect("a mask"),
    );
    println!("ready");
    let mut hands = Hands::default();
    while let Some(request) = next() {
        println!("{}", hands.answer(&request));
    }
}

/// `struct __user_cap_header_struct` and `struct __user_cap_data_struct` of linux/capability.h.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Ids are given as real and effective one.
fn become_caller(uid: [u32; 2], gid: [u32; 2], groups: &[u32], caps: u64) {
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: the pointers are to live values of the layout that the version stands for; the
    // group list is as long as it says. The calls change this process's credentials only, and it
    // has one thread.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()), 0);
        assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), 0);
        assert_eq!(libc::setgroups(groups.len(), groups.as_ptr()), 0, "setgroups");
        assert_eq!(libc::setresgid(gid[0], gid[1], gid[1]), 0, "setresgid {gid:?}");
        assert_eq!(libc::setresuid(uid[0], uid[1], uid[1]), 0, "setresuid {uid:?}");
        let words = [(caps & 0xffff_ffff) as u32, (caps >> 32) as u32];
        for (data, word) in data.iter_mut().zip(words) {
            data.permitted &= word;
            data.effective = data.permitted;
            data.inheritable = 0;
        }
        assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()), 0);
        libc::umask(0o022);
    }
}
