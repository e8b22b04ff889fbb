//! Whose ids the server's calls have (`act_as=`), read off its threads: they keep those of their last
//! request.

use std::fs;

use crate::common::mount::temp_dir;
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::status::{number, report};
use crate::common::{self, Caller, MAP, Mount, lo, put_dir, put_file, set_mode, stat};

crate::common::tests!(
    calls_have_their_callers_ids_and_groups,
    calls_have_the_stored_owners_ids,
    calls_have_the_servers_ids,
    what_a_caller_may_by_capability_is_done_at_once,
    where_all_is_the_servers_there_is_nobody_to_act_as,
);

/// A mount with a directory of 1000's in which a file is 1001's.
fn mounted(options: &str) -> (Mount, u64) {
    needs_idshift();
    needs_real_root("acts as others");
    let mount = Mount::with(&format!("{MAP},cache=none,{options}"), |lower| {
        put_dir(&lower.join("dir"), 0o777, lo(1000), lo(1000));
        put_file(&lower.join("dir/file"), b"content", 0o666, lo(1001), lo(1001));
    });
    let pid = number(&report(&mount.up("")).unwrap(), "pid");
    (mount, pid)
}

/// The last fields of `Uid` and `Gid`, and the groups, of each thread of the server.
fn acting(pid: u64) -> Vec<(u32, u32, Vec<u32>)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
        };
        (field("Uid:")[3], field("Gid:")[3], field("Groups:"))
    };
    tasks.map(|task| read(task.unwrap())).collect()
}

fn calls_have_their_callers_ids_and_groups() {
    let (mount, pid) = mounted("act_as=caller");
    let caller = Caller::user(1005).gid(1006).groups(&[1007, 1008]);
    caller.run(|| stat(&mount.up("dir/file")));
    let as_caller = (lo(1005), lo(1006), vec![lo(1007), lo(1008)]);
    assert!(acting(pid).contains(&as_caller), "{:?}", acting(pid));
    // Another one's are another one's.
    Caller::user(1009).run(|| stat(&mount.up("dir/file")));
    let now = acting(pid);
    assert!(now.contains(&(lo(1009), lo(1009), vec![])), "{now:?}");
}

fn calls_have_the_stored_owners_ids() {
    let (mount, pid) = mounted("act_as=owner");
    set_mode(&mount.up("dir/file"), 0o600).unwrap();
    let as_owner = (lo(1001), lo(1001), vec![]);
    assert!(acting(pid).contains(&as_owner), "{:?}", acting(pid));
    Caller::user(1005).run(|| common::create(&mount.up("dir/new"), 0o644).unwrap());
    let made = fs::symlink_metadata(mount.low("dir/new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), lo(1005), "births are the creator's");
}

fn calls_have_the_servers_ids() {
    let (mount, pid) = mounted("act_as=server");
    Caller::user(1005).run(|| stat(&mount.up("dir/file")));
    assert!(acting(pid).iter().all(|(uid, gid, _)| (*uid, *gid) == (0, 0)), "{:?}", acting(pid));
}

/// All answers are those of a mount without the option: a local file system asks for capabilities.
fn what_a_caller_may_by_capability_is_done_at_once() {
    for options in ["act_as=caller", "act_as=owner"] {
        let (mount, _) = mounted(options);
        let file = mount.up("dir/file");
        Caller::user(0).run(|| common::chown(&file, Some(1000), Some(1002)).unwrap());
        assert_eq!(common::owner(&mount.low("dir/file")), (lo(1000), lo(1002)), "{options}");
        Caller::user(1000).run(|| set_mode(&file, 0o640).unwrap());
        common::assert_errno!(
            Caller::user(1001).run(|| set_mode(&file, 0o666)),
            common::Errno::PERM
        );
        Caller::user(1000).run(|| fs::rename(&file, mount.up("dir/moved")).unwrap());
        Caller::user(0).run(|| fs::remove_file(mount.up("dir/moved")).unwrap());
    }
}

fn where_all_is_the_servers_there_is_nobody_to_act_as() {
    needs_idshift();
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o700, 0, 0);
    put_dir(&upper, 0o755, 0, 0);
    let options = "map=b:0:0:1,ownership=xattr,act_as=caller";
    let called = common::program::idshift(&[&"mount", &"-o", &options, &lower, &upper]);
    assert_eq!(called.code, 1, "{}", called.err);
    assert!(called.err.contains("act_as"), "{}", called.err);
}
