//! Maps that come from the system (user namespaces, granted ranges, names), the commands that
//! compute with maps, and who uses which ids.
//!
//! The accounts and grants are the tests' own: files bind-mounted over those in /etc, in the mount
//! namespace of this process.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::mount::temp_dir;
use crate::common::runner::{needs_idshift, needs_program, needs_real_root};
use crate::common::{self, Mount, lo, machine, owner, put_dir, put_file, skip};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

crate::common::tests!(
    granted_ranges_become_a_map,
    names_become_a_map,
    mount_by_granted_ranges,
    map_of_a_process,
    map_of_a_namespace_without_process,
    mount_by_namespace,
    namespace_that_may_not_be_entered,
    split_is_what_the_kernel_takes,
    split_says_what_it_does,
    compose_and_invert,
    check_knows_the_limits,
    recipe_of_a_namespace,
    ranges_in_use,
    ranges_are_what_the_servers_use,
    free_ranges,
);

const ALICE: u32 = 1234;
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1234:1235::/:/bin/sh\n\
                      bob:x:1300:1300::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nalice:x:1235:\nbob:x:1300:\nstaff:x:1400:alice\n";
const SUBUID: &str = "alice:20000:1000\n# no:1:2\n1234:40000:500\nbob:20500:1000\n";
const SUBGID: &str = "alice:30000:2000\n";
/// What the two lines of alice and her own id are as a map from inside.
const ALICES_UIDS: &str = "0 1234 1\n1 20000 1000\n1001 40000 500\n";
const ALICES_GIDS: &str = "0 1235 1\n1 30000 2000\n";

/// Puts the tests' own accounts over those of the machine.
fn accounts() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let files = [("passwd", PASSWD), ("group", GROUP), ("subuid", SUBUID), ("subgid", SUBGID)];
        for (name, text) in files {
            let target = Path::new("/etc").join(name);
            if !target.exists() {
                skip(format!("needs the file {}", target.display()));
            }
            let source = machine().base.join(name);
            fs::write(&source, text).unwrap();
            mount_bind(&source, &target).unwrap();
        }
    });
}

struct Ended(Output);

impl Ended {
    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    fn with_code(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{}{}", self.out(), self.err());
        self
    }

    /// Fails as a usage error that says all of this.
    #[track_caller]
    fn refuses(self, parts: &[&str]) {
        let ended = self.with_code(1);
        for part in parts {
            assert!(ended.err().contains(part), "no '{part}' in: {}", ended.err());
        }
    }
}

fn idshift(words: &[&str]) -> Ended {
    needs_idshift();
    Ended(Command::new(&machine().binary).args(words).stdin(Stdio::null()).output().unwrap())
}

/// The program where every user can run it.
fn binary_for_all(directory: &Path) -> PathBuf {
    let copy = directory.join("idshift");
    fs::copy(&machine().binary, &copy).unwrap();
    copy
}

/// A user namespace with one process, which waits for a line on its stdin.
struct Inside {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Inside {
    /// Made by alice, without a map.
    fn without_map(script: &str) -> Self {
        needs_program("unshare");
        let mut child = Command::new("unshare")
            .args(["--user", "sh", "-c", script])
            .uid(ALICE)
            .gid(1235)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut inside = Self { child, stdin };
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let start = Instant::now();
        // The name changes last: then the shell runs, inside.
        while fs::read_link(inside.proc("ns/user")).is_ok_and(|link| link == own)
            || fs::read_to_string(inside.proc("comm")).unwrap() != "sh\n"
        {
            if inside.child.try_wait().unwrap().is_some() {
                skip("users may not make user namespaces here");
            }
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(2));
        }
        inside
    }

    /// The same with the map of alice's ids.
    fn with(script: &str) -> Self {
        let inside = Self::without_map(script);
        fs::write(inside.proc("uid_map"), ALICES_UIDS).unwrap();
        fs::write(inside.proc("gid_map"), ALICES_GIDS).unwrap();
        inside
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid()))
    }

    /// The spec that names it by its process.
    fn spec(&self) -> String {
        format!("userns:{}", self.pid())
    }

    /// Keeps the namespace by a bind mount of its file, and ends its process.
    fn bind(mut self, place: &Path) {
        fs::write(place, "").unwrap();
        mount_bind(self.proc("ns/user"), place).unwrap();
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }

    /// Lets the script go on and returns what it says.
    fn go(mut self) -> Output {
        writeln!(self.stdin.take().unwrap(), "go").unwrap();
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        let mut out = Vec::new();
        std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut out).unwrap();
        Output { status: child.wait().unwrap(), stdout: out, stderr: Vec::new() }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().ok();
    }
}

fn needs_ids() {
    if !machine().has_ids {
        skip("needs a range of subordinate ids (/etc/subuid and newuidmap)");
    }
}

const WORDS: &[&str] = &[
    "uid: lower 1234 ⇒ shown as 0",
    "uid: lower 20000–20999 ⇒ shown as 1–1000",
    "uid: lower 40000–40499 ⇒ shown as 1001–1500",
    "gid: lower 1235 ⇒ shown as 0",
    "gid: lower 30000–31999 ⇒ shown as 1–2000",
];

fn granted_ranges_become_a_map() {
    accounts();
    for spec in ["subuid:alice", "subuid:1234"] {
        let text = idshift(&["map", "explain", spec]).with_code(0).out();
        for line in WORDS {
            assert!(text.lines().any(|told| told == *line), "no '{line}' in: {text}");
        }
    }
    let text = idshift(&["map", "explain", "subuid:alice:1002"]).with_code(0).out();
    assert!(text.contains("lower 40000 ⇒ shown as 1001\n"), "{text}");
    let refused = |spec: &str, parts: &[&str]| idshift(&["map", "explain", spec]).refuses(parts);
    refused("subuid:alice:1502", &["subuid:alice:1502", "alice has 1501 uids in all"]);
    refused("subuid:bob", &["/etc/subgid grants no gids to bob", "ranges free"]);
    refused("subuid:carol", &["there is no user 'carol'"]);
    refused("subuid:4321", &["there is no user '4321'"]);
}

fn names_become_a_map() {
    accounts();
    let specs = ["name:u:alice=bob", "name:g:staff=1", "name:b:root=root"];
    let text = idshift(&[&["map", "explain"][..], &specs].concat()).with_code(0).out();
    for line in ["uid: lower 1234 ⇒ shown as 1300", "gid: lower 1400 ⇒ shown as 1"] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(text.matches("lower 0 ⇒ shown as 0").count(), 2);
    let refused = |spec: &str, parts: &[&str]| idshift(&["map", "explain", spec]).refuses(parts);
    refused("name:u:alice=carol", &["name:u:alice=carol", "no user 'carol'"]);
    refused("name:g:staff=nosuch", &["no group 'nosuch'"]);
}

fn mount_by_granted_ranges() {
    needs_ids();
    accounts();
    let mount = Mount::with("map=subuid:alice", |lower| {
        for (name, uid, gid) in [("own", 1234, 1235), ("first", 20_000, 30_000), ("no", 7, 7)] {
            put_file(&lower.join(name), b"", 0o644, uid, gid);
        }
    });
    assert_eq!(owner(&mount.up("own")), (0, 0));
    assert_eq!(owner(&mount.up("first")), (1, 1));
    assert_eq!(owner(&mount.up("no")), (65_534, 65_534));
    common::chown(&mount.up("own"), Some(1001), Some(2000)).unwrap();
    assert_eq!(owner(&mount.low("own")), (40_000, 31_999));
}

fn map_of_a_process() {
    needs_ids();
    let inside = Inside::without_map("read go");
    idshift(&["map", "explain", &inside.spec()]).refuses(&["no uid map yet", "newuidmap"]);
    drop(inside);
    let inside = Inside::with("read go");
    let lines = idshift(&["map", "compose", "--lines", "uid", &inside.spec(), "identity"]);
    assert_eq!(lines.with_code(0).out(), ALICES_UIDS);
    let lines = idshift(&["map", "compose", "--lines", "gid", &inside.spec(), "identity"]);
    assert_eq!(lines.with_code(0).out(), ALICES_GIDS);
    // The same by the file of the process.
    let by_file = format!("userns:/proc/{}/ns/user", inside.pid());
    let words = |spec: &str| idshift(&["map", "explain", spec]).with_code(0).out();
    assert_eq!(words(&by_file), words(&inside.spec()));
    let spec = inside.spec();
    drop(inside);
    idshift(&["map", "explain", &spec]).refuses(&[&spec, "there is no process"]);
}

fn map_of_a_namespace_without_process() {
    needs_ids();
    let dir = temp_dir();
    let place = dir.path().join("a namespace");
    Inside::with("read go").bind(&place);
    let spec = format!("userns:{}", place.to_str().unwrap().replace(' ', "\\040"));
    for (kind, lines) in [("uid", ALICES_UIDS), ("gid", ALICES_GIDS)] {
        let told = idshift(&["map", "compose", "--lines", kind, &spec, "identity"]);
        assert_eq!(told.with_code(0).out(), lines);
    }
    // It is also found by looking around, and its ids are not free.
    let json = idshift(&["ranges", "--json"]).with_code(0).out();
    let number = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&place).unwrap());
    assert!(json.contains(&format!("\"namespace\": {number}")), "{json}");
    unmount(&place, UnmountFlags::empty()).unwrap();
    idshift(&["map", "explain", &spec]).refuses(&["this is no user namespace"]);
}

fn mount_by_namespace() {
    needs_ids();
    let inside = Inside::with("read go");
    let mount = Mount::with(&format!("map={}", inside.spec()), |lower| {
        put_file(&lower.join("file"), b"", 0o644, 1001, 5);
    });
    assert_eq!(owner(&mount.up("file")), (40_000, 30_004));
    common::chown(&mount.up("file"), Some(20_000), Some(1235)).unwrap();
    assert_eq!(owner(&mount.low("file")), (1, 0));
}

fn namespace_that_may_not_be_entered() {
    needs_ids();
    let dir = temp_dir();
    let place = dir.path().join("ns");
    let binary = binary_for_all(dir.path());
    // Made by alice; bob asks.
    let inside = Inside::with("read go");
    let by_pid = inside.spec();
    let as_user = |uid: u32, spec: &str| {
        let mut command = Command::new(&binary);
        command.args(["map", "explain", spec]).uid(uid).gid(uid).current_dir("/");
        Ended(command.output().unwrap())
    };
    let words = as_user(1300, &by_pid).with_code(0).out();
    assert!(words.contains("uid: lower 0 ⇒ shown as 1234"), "{words}");
    let by_file = format!("userns:/proc/{}/ns/user", inside.pid());
    as_user(1300, &by_file).refuses(&["may not look at the namespace", "userns:PID"]);
    inside.bind(&place);
    let spec = format!("userns:{}", place.display());
    as_user(1300, &spec).refuses(&["only root, or the user who made it", "userns:PID"]);
    let words = as_user(ALICE, &spec).with_code(0).out();
    assert!(words.contains("uid: lower 0 ⇒ shown as 1234"), "{words}");
    unmount(&place, UnmountFlags::empty()).unwrap();
}

/// In a namespace with alice's ids, the kernel refuses a line over two extents, and takes what
/// 'map split' makes of it.
fn split_is_what_the_kernel_takes() {
    needs_ids();
    let dir = temp_dir();
    let binary = binary_for_all(dir.path());
    let script = dir.path().join("script");
    let text = format!(
        "unshare --user sh -c 'read go' <{fifo} & exec 3>{fifo}\n\
         map=$({binary} map split --lines uid --parent userns:$$ u:0:0:100 u:500:900:200)\n\
         test -z \"$map\" && map=$({binary} map split --lines uid --parent \
         'u:0:0:1 u:1:1:1000 u:1001:1001:500' u:0:0:100 u:500:900:200)\n\
         sleep 1\n\
         (printf '0 0 100\\n500 900 200\\n' >/proc/$!/uid_map) 2>/dev/null && echo taken\n\
         printf '%s\\n' \"$map\" >/proc/$!/uid_map && cat /proc/$!/uid_map\n\
         exec 3>&-\n",
        fifo = dir.path().join("fifo").display(),
        binary = binary.display(),
    );
    fs::write(&script, text).unwrap();
    let fifo = dir.path().join("fifo");
    common::raw::mknod(&fifo, 0o010_666, 0).unwrap();
    common::set_mode(&fifo, 0o666).unwrap();
    // Executed anew once it has ids, the shell is root in the namespace.
    let inside = Inside::with(&format!("read go; exec sh {}", script.display()));
    let said = String::from_utf8(inside.go().stdout).unwrap();
    let numbers: Vec<&str> = said.split_ascii_whitespace().collect();
    assert_eq!(numbers.join(" "), "0 0 1 1 1 99 500 900 101 601 1001 99", "{said}");
}

fn split_says_what_it_does() {
    let parent = ["--parent", "u:0:1000:1", "--parent", "u:1:100000:65536"];
    let split = |words: &[&str]| idshift(&[&["map", "split"], words, &parent[..]].concat());
    let text = split(&["u:0:0:100"]).with_code(0).out();
    assert_eq!(
        text,
        "uid map: split: 1 line is asked, 2 are written\n\
         asked    can be written\n\
         0 0 100  0 0 1\n         1 1 99\n"
    );
    let text = split(&["u:5:1:100"]).with_code(0).out();
    assert!(text.starts_with("uid map: can be written as asked\n"), "{text}");
    let json = split(&["--json", "u:0:0:100"]).with_code(0).out();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["uids"]["split"], true);
    assert_eq!(json["uids"]["parts"][0]["written"][1]["lower"], 1, "{json}");
    split(&["--exact", "u:5:1:100"]).with_code(0);
    split(&["--exact", "u:0:0:100"]).refuses(&["uid extent 0 0 100 lies in 2 extents"]);
    split(&["u:0:65530:100"]).refuses(&["extent 0 65530 100", "does not map uid 65537"]);
    split(&["b:0:0:5"]).refuses(&["does not map gid 0"]);

    // Many borders: more lines than the kernel takes, or more than a page of them.
    let dir = temp_dir();
    let file = |name: &str, step: u32, count: u32| {
        let lines = (0..count).map(|at| format!("u {} {} 1\n", at * step, at * 7 + at % 2));
        let path = dir.path().join(name);
        fs::write(&path, lines.collect::<String>()).unwrap();
        format!("file:{}", path.display())
    };
    let split = |parent: &str, wanted: &str| idshift(&["map", "split", "--parent", parent, wanted]);
    split(&file("a", 1, 340), "u:0:0:340").with_code(0);
    let refused = split(&file("b", 1, 341), "u:0:0:341");
    refused.refuses(&["the uid map has 341 lines", "at most 340 lines"]);
    let wide = split(&file("c", 1, 300), "u:4000000000:0:300");
    wide.refuses(&["the uid map has 300 lines", "bytes"]);
}

fn compose_and_invert() {
    let said = |words: &[&str]| idshift(words).with_code(0).out();
    let inverse = said(&["map", "invert", "u:0:1000:1", "u:1:100000:9", "g:5:6:7"]);
    assert_eq!(inverse, "u:1000:0:1\nu:100000:1:9\ng:6:5:7\n");
    assert_eq!(said(&["map", "invert", &inverse]), "u:0:1000:1\nu:1:100000:9\ng:5:6:7\n");
    let json = said(&["map", "invert", "--json", "b:1:2:3"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let extents = serde_json::json!([{"lower": 2, "upper": 1, "count": 3}]);
    assert_eq!((&json["uids"], &json["gids"]), (&extents, &extents));

    assert_eq!(said(&["map", "compose", "b:0:10:5", "b:10:20:5", "b:20:30:5"]), "b:0:30:5\n");
    let cut = idshift(&["map", "compose", "b:0:0:100", "b:0:1000:1 b:1:100000:50"]).with_code(0);
    assert_eq!(cut.out(), "b:0:1000:1\nb:1:100000:50\n");
    assert!(cut.err().contains("49 of 100 uids are left out"), "{}", cut.err());
    idshift(&["map", "compose", "b:0:10:5", "b:15:0:5"]).refuses(&["nothing is left", "invert"]);
    idshift(&["map", "compose", "b:0:10:5"]).with_code(1);
    idshift(&["map", "invert", "--lines", "gid", "u:0:0:1"]).refuses(&["no extents of that kind"]);
}

fn check_knows_the_limits() {
    let dir = temp_dir();
    let file = |name: &str, step: u32| {
        let lines = (0..341).map(|at| format!("b {} {} 1\n", at * step, at * step));
        let path = dir.path().join(name);
        fs::write(&path, lines.collect::<String>()).unwrap();
        format!("file:{}", path.display())
    };
    let apart = file("apart", 2);
    let text = idshift(&["map", "check", &apart]).with_code(0).out();
    assert!(text.starts_with("uid: 341 ids in 341 extents\n"), "{text}");
    assert!(text.contains("through FUSE: yes\nby the kernel: no: the uid map has 341"), "{text}");
    idshift(&["map", "check", "--kernel", &apart]).with_code(1);
    let text = idshift(&["map", "check", &file("together", 1)]).with_code(0).out();
    assert!(text.contains("neighbours joined it has 1, and would be taken"), "{text}");
    idshift(&["map", "check", "--kernel", "offset:100000"]).with_code(0);
    let json = idshift(&["map", "check", "--json", "b:0:5:2 b:1:9:2"]).with_code(1).out();
    assert!(json.contains("\"valid\": false") && json.contains("\"uid extents 0:5:2"), "{json}");
    idshift(&["map", "check", "u:0:0:1"]).refuses(&["no gid extents"]);
    let json = idshift(&["map", "explain", "--json", "b:0:5:1 b:1:6:1"]).with_code(0).out();
    assert!(json.contains("lower 0–1 ⇒ shown as 5–6"), "{json}");
}

/// The block of docs/recipes.md is run as it stands there, by alice.
fn recipe_of_a_namespace() {
    needs_idshift();
    needs_real_root("newuidmap honours /etc/subuid of the host");
    needs_program("newuidmap");
    needs_program("nsenter");
    accounts();
    let recipes = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md"));
    let recipes = recipes.unwrap();
    let mut blocks = recipes.split("```sh\n").filter_map(|part| part.split("```\n").next());
    let recipe = blocks.find(|block| block.contains("newuidmap")).expect("the recipe");
    let dir = temp_dir();
    binary_for_all(dir.path());
    let script = format!("{recipe}kill $pid\n");
    let mut child = Command::new("sh")
        .args(["-e", "-c", &script])
        .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()))
        .env("USER", "alice")
        .uid(ALICE)
        .gid(1235)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let commands = b"cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g\n";
    child.stdin.take().unwrap().write_all(commands).unwrap();
    let ended = Ended(child.wait_with_output().unwrap()).with_code(0);
    let said = ended.out();
    assert!(said.contains("uid map: split: 1 line is asked, 2 are written\n"), "{said}");
    let inside: Vec<&str> = said.split_ascii_whitespace().rev().take(14).collect();
    let inside: Vec<&str> = inside.into_iter().rev().collect();
    let wanted = "0 1234 1 1 20000 999 0 1235 1 1 30000 999 0 0";
    assert_eq!(inside.join(" "), wanted, "{said}{}", ended.err());
}

/// The values of a key, in their order.
fn numbers(json: &str, key: &str) -> Vec<u32> {
    let key = format!("\"{key}\": ");
    let values = json.split(&key).skip(1);
    values.map(|rest| rest.split([',', '}', '\n']).next().unwrap().parse().unwrap()).collect()
}

fn ranges_in_use() {
    needs_ids();
    accounts();
    let inside = Inside::with("read go");
    let mount = Mount::with("map=b:62000:64000:5", |_| ());
    let dir = temp_dir();
    put_dir(&dir.path().join("rel"), 0o755, 0, 0);
    let relative = Command::new(&machine().binary)
        .args(["mount", "-o", "submounts", "--map", "u:62100:64100:5 g:0:0:10", "."])
        .arg("rel")
        .current_dir(dir.path())
        .output()
        .unwrap();
    // A mount point inside the lower directory is refused with submounts; beside it, it is not.
    assert_eq!(relative.status.code(), Some(32));
    put_dir(&dir.path().join("low"), 0o755, 0, 0);
    let relative = Command::new(&machine().binary)
        .args(["mount", "--map", "u:62100:64100:5 g:0:0:10", "low", "rel"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = idshift(&["ranges"]).with_code(0).out();
    let json = idshift(&["ranges", "--json"]).with_code(0).out();
    common::mount::free(&dir.path().join("rel"));
    Ended(relative).with_code(0);

    let has = |line: &str| assert!(text.contains(line), "no '{line}' in: {text}");
    let row = |mark: &str, ids: &str, count: u32, who: &str| {
        has(&format!("{mark} {ids:21} {count:>10}  {who}"));
    };
    row("!", "20000–20999", 1000, "granted to alice (/etc/subuid)");
    has("OVERLAPS granted to bob (/etc/subuid): 20500–20999\n");
    row("!", "20500–21499", 1000, "granted to bob (/etc/subuid)");
    // That it is alice's namespace makes her own grants no clash; that bob has some of them does.
    row(" ", "40000–40499", 500, "granted to 1234 (/etc/subuid)");
    let number = fs::read_link(inside.proc("ns/user")).unwrap();
    let number = number.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    assert!(json.contains(&format!("\"pids\": [\n        {}", inside.pid())), "{json}");
    row(" ", "1300", 1, "account bob");
    row(" ", "1400", 1, "group staff");
    let server = mount.main_pid();
    let point = mount.up("");
    let who = format!(
        "by the mount {} (process {server})",
        point.to_str().unwrap().trim_end_matches('/')
    );
    row(" ", "62000–62004", 5, &format!("stored {who}"));
    row(" ", "64000–64004", 5, &format!("shown {who}"));
    let point = dir.path().join("rel");
    has(&format!("shown by the mount {} (process", point.display()));
    assert!(json.contains(&format!("\"namespace\": {number}")), "{json}");
    assert!(numbers(&json, "first").contains(&64_100), "{json}");
    assert!(json.contains("\"side\": \"stored\""));
    assert_eq!(lo(0), 20_000);
}

/// What a map was made from may have changed since.
fn ranges_are_what_the_servers_use() {
    needs_ids();
    let dir = temp_dir();
    let file = dir.path().join("map");
    fs::write(&file, "b 63000 65000 5\n").unwrap();
    let mount = Mount::with(&format!("map=file:{}", file.display()), |_| ());
    fs::write(&file, "b 500000 500000 10\n").unwrap();
    let text = idshift(&["ranges"]).with_code(0).out();
    let who = mount.up("").display().to_string();
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains(who.trim_end_matches('/'))).collect();
    assert!(lines.iter().any(|line| line.contains("63000–63004")), "{text}");
    assert!(lines.iter().any(|line| line.contains("65000–65004")), "{text}");
    assert!(!lines.iter().any(|line| line.contains("500000")), "{text}");
}

fn free_ranges() {
    needs_ids();
    accounts();
    if !machine().real_root {
        // A namespace of 65536 ids has none to spare.
        idshift(&["ranges", "free"]).refuses(&["no 65536 neighbouring ids", "is free here"]);
        return;
    }
    let grants = machine().base.join("subuid");
    fs::write(&grants, format!("{SUBUID}bob:100000:65537\nbob:1879048192:1\n")).unwrap();
    for count in ["1", "1000", "65536", "10000000", "400000000"] {
        let json = idshift(&["ranges", "free", count, "--json"]).with_code(0).out();
        let (first, last) = (numbers(&json, "first")[0], numbers(&json, "last")[0]);
        assert_eq!(u64::from(last - first) + 1, count.parse::<u64>().unwrap());
        assert!(first >= 100_000 && last < 1 << 31, "{json}");
        let ours = [(100_000, 165_536), (1_879_048_192, 1_879_048_192)];
        for (theirs, to) in ours {
            assert!(last < theirs || first > to, "{json}");
        }
        let text = idshift(&["ranges", "free", count]).with_code(0).out();
        assert!(text.contains("usermod --add-subuids"), "{text}");
    }
    fs::write(&grants, SUBUID).unwrap();
    idshift(&["ranges", "free", "2000000000"]).refuses(&["the largest free range is"]);
    idshift(&["ranges", "free", "0"]).with_code(1);
}
