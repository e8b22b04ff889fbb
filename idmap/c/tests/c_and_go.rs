//! The library as C and Go see it: compiled with the header, linked with the shared and the static
//! library, and run under valgrind. What the machine lacks makes a test ignored.

#![allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tempfile::TempDir;

type Done = Result<Completion, Failed>;

/// A map that has to be cut, inside a namespace in which it has to be.
const OUTER: &str = "b:0:1000:1 b:1:100000:65536";
const INNER: &str = "b:0:0:100";
const CUT: &str = "0 0 1\n1 1 99\n";

fn main() -> ExitCode {
    let trials = vec![
        Trial::ignorable_test("header_declares_what_the_library_has", header_and_library),
        Trial::ignorable_test("every_function_and_failure_in_c", || abi(Link::Shared)),
        Trial::ignorable_test("every_function_and_failure_in_c_static", || abi(Link::Static)),
        Trial::ignorable_test("c_example_enters_a_namespace", c_example),
        Trial::ignorable_test("go_example_enters_a_namespace", go_example),
        Trial::ignorable_test("man_page_is_well_formed", man_page),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

#[derive(Clone, Copy, PartialEq)]
enum Link {
    Shared,
    Static,
}

/// A library that cargo has built beside this test.
fn built(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.with_file_name(name)
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `cargo cinstall` would install, as far as the tests need it.
fn installed() -> TempDir {
    let prefix = tempfile::Builder::new().prefix("idshift-idmap-").tempdir().unwrap();
    let path = prefix.path();
    for (from, to) in [
        (built("libidmap_c.so"), "libidmap.so"),
        (built("libidmap_c.a"), "libidmap.a"),
        (here("include/idmap.h"), "idmap.h"),
    ] {
        fs::copy(&from, path.join(to)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }
    let dir = path.display();
    let text = format!(
        "Name: idmap\nDescription: id maps\nVersion: 0.1.0\nCflags: -I{dir}\nLibs: -L{dir} -lidmap\n"
    );
    fs::write(path.join("idmap.pc"), text).unwrap();
    prefix
}

fn lacks(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    !path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// Ignores a test unless these programs are there.
macro_rules! needs {
    ($($program:literal),*) => {
        $(if lacks($program) {
            return Ok(Completion::ignored_with(concat!("needs the program ", $program)));
        })*
    };
}

fn run(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?}: {}\n{out}\n{err}", output.status).into())
}

/// Compiles a C program, strictly.
fn compile(source: &str, prefix: &Path, link: Link) -> Result<PathBuf, Failed> {
    let program = prefix.join("program");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread", "-I"]);
    cc.arg(prefix).arg(here(source)).arg("-o").arg(&program);
    match link {
        Link::Shared => {
            cc.arg("-L").arg(prefix).arg("-lidmap").arg(format!("-Wl,-rpath,{}", prefix.display()))
        }
        Link::Static => cc.arg(prefix.join("libidmap.a")),
    };
    run(&mut cc)?;
    Ok(program)
}

/// valgrind, for which a leak is an error like any other.
fn valgrind() -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--leak-check=full", "--show-leak-kinds=all", "--error-exitcode=99"]);
    valgrind
}

fn header_and_library() -> Done {
    needs!("nm");
    let header = fs::read_to_string(here("include/idmap.h"))?;
    let declared: BTreeSet<String> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#', '\t']))
        .filter_map(|line| {
            let name = line.split('(').next()?.rsplit([' ', '*']).next()?;
            line.contains('(').then(|| name.to_owned())
        })
        .collect();
    let nm = run(Command::new("nm").args(["-D", "--defined-only"]).arg(built("libidmap_c.so")))?;
    let has: BTreeSet<String> = String::from_utf8(nm.stdout)?
        .lines()
        .filter_map(|line| line.split(' ').nth(2).map(str::to_owned))
        .filter(|name| name.starts_with("idmap_"))
        .collect();
    assert!(declared.len() > 10, "the header is not read right: {declared:?}");
    assert_eq!(declared, has);
    Ok(Completion::Completed)
}

fn abi(link: Link) -> Done {
    needs!("cc", "valgrind");
    let prefix = installed();
    let program = compile("tests/abi.c", prefix.path(), link)?;
    run(valgrind().arg(program))?;
    Ok(Completion::Completed)
}

fn c_example() -> Done {
    needs!("cc", "valgrind");
    let prefix = installed();
    let program = compile("examples/enter.c", prefix.path(), Link::Static)?;
    let bad = Command::new(&program).args(["b:0:0", "true"]).output()?;
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8(bad.stderr)?.contains("three numbers"));
    if !rustix::process::geteuid().is_root() {
        return Ok(Completion::ignored_with("needs root, or a whole range of ids"));
    }
    let entered = run(valgrind().arg(&program).arg(OUTER).arg(&program).args([
        INNER,
        "sed",
        "s/^ *//; s/  */ /g",
        "/proc/self/uid_map",
    ]));
    let entered = match entered {
        Err(why) if why.message().is_some_and(|why| why.contains("Operation not permitted")) => {
            return Ok(Completion::ignored_with("no user namespace can be made here"));
        }
        other => other?,
    };
    assert_eq!(String::from_utf8(entered.stdout)?, CUT);
    let told = String::from_utf8(entered.stderr)?;
    assert!(told.contains("0 0 100  0 0 1"), "it says what was cut: {told}");
    Ok(Completion::Completed)
}

fn go_example() -> Done {
    needs!("cc", "go", "pkg-config");
    let prefix = installed();
    let program = prefix.path().join("enter");
    let cache = prefix.path().join("cache");
    run(Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(here("examples/enter.go"))
        .env("GOCACHE", &cache)
        .env("GOFLAGS", "-mod=mod")
        .env("CGO_ENABLED", "1")
        .env("CGO_LDFLAGS_ALLOW", ".*")
        .env("PKG_CONFIG_PATH", prefix.path())
        .env("LD_LIBRARY_PATH", prefix.path()))?;
    let mut enter = Command::new(&program);
    enter.env("LD_LIBRARY_PATH", prefix.path());
    let bad = enter.args(["b:0:0:0", "true"]).output()?;
    assert!(String::from_utf8(bad.stderr)?.contains("count is 0"));
    if !rustix::process::geteuid().is_root() {
        return Ok(Completion::ignored_with("needs root, or a whole range of ids"));
    }
    // The library is to be found inside too.
    fs::set_permissions(prefix.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let entered = run(Command::new(&program)
        .arg(OUTER)
        .arg(&program)
        .args([INNER, "sed", "s/^ *//; s/  */ /g", "/proc/self/uid_map"])
        .env("LD_LIBRARY_PATH", prefix.path()))?;
    assert_eq!(String::from_utf8(entered.stdout)?, CUT);
    Ok(Completion::Completed)
}

fn man_page() -> Done {
    needs!("mandoc");
    run(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(here("idmap.3")))?;
    Ok(Completion::Completed)
}
