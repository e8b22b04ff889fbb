//! The man pages and completions that `cargo run --example pages` writes: complete, and clean.

#[path = "../../examples/pages/render.rs"]
mod render;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::runner::needs_program;
use clap::Command as Program;
use idshift::mount::options::described::MAPS;
use idshift::mount::options::table;

crate::common::tests!(
    every_command_and_option_is_described,
    mandoc_has_no_complaint,
    man_has_no_complaint,
    bash_takes_its_completion,
    zsh_takes_its_completion,
    fish_takes_its_completion,
    picture_is_what_its_script_draws,
    links_in_the_documents_lead_somewhere,
);

fn pages() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    render::write_all(directory.path()).unwrap();
    directory
}

/// What a command says, both ways; it must end well.
fn said(program: &str, arguments: &[&str], directory: &Path) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    let output = command.env("MANWIDTH", "80").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// The names of all commands, as a user types them.
fn commands(program: &Program, parent: &str, names: &mut Vec<String>) {
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("{parent} {}", command.get_name());
        commands(command, &name, names);
        names.push(name);
    }
}

fn every_command_and_option_is_described() {
    let directory = pages();
    let read = |name: &str| {
        let page = fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(!page.contains('@') || name == "idshift-map.5", "{name} has a hole");
        assert!(!page.contains("@M") && !page.contains("@V"), "{name} has a hole");
        page.replace("\\-", "-").replace("...", "…")
    };
    let page = read("idshift.1");
    let mut names = Vec::new();
    commands(&idshift::cli::command(), "idshift", &mut names);
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(page.contains(&format!(".SS {name}\n")), "{name}");
    }
    for hidden in ["enter-namespace", "--inside", "--errand"] {
        assert!(!page.contains(hidden), "{hidden} is nobody's business");
    }
    let page = read("mount.fuse.idshift.8");
    for option in table::rows() {
        assert!(page.contains(option.form), "{}", option.form);
    }
    let page = read("idshift-map.5");
    for map in MAPS {
        assert!(page.contains(map.form), "{}", map.form);
    }
    for (name, _) in render::COMPLETIONS {
        let text = fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(text.contains("umount") && text.contains("foreground"), "{name}");
        for hidden in ["enter-namespace", "--inside", "errand"] {
            assert!(!text.contains(hidden), "{name} offers {hidden}");
        }
    }
}

fn mandoc_has_no_complaint() {
    needs_program("mandoc");
    let directory = pages();
    for (name, _) in render::PAGES {
        assert_eq!(said("mandoc", &["-Tlint", "-Wwarning", name], directory.path()), "");
    }
}

fn man_has_no_complaint() {
    needs_program("man");
    needs_program("groff");
    let directory = pages();
    for (name, _) in render::PAGES {
        let path = format!("./{name}");
        let script = format!("man --warnings --encoding=UTF-8 --local-file {path} 2>&1 >/dev/null");
        assert_eq!(said("sh", &["-c", &script], directory.path()), "", "{name}");
    }
}

fn bash_takes_its_completion() {
    needs_program("bash");
    let script = "set -e; . ./idshift.bash; COMP_WORDS=(idshift um) COMP_CWORD=1; \
                  _idshift idshift um idshift; echo ${COMPREPLY[@]}";
    assert_eq!(said("bash", &["-c", script], pages().path()).trim(), "umount");
}

fn zsh_takes_its_completion() {
    needs_program("zsh");
    let script = "autoload -U compinit && compinit -u -D && . ./_idshift && whence -w _idshift";
    assert_eq!(said("zsh", &["-f", "-c", script], pages().path()).trim(), "_idshift: function");
}

fn fish_takes_its_completion() {
    needs_program("fish");
    let script = "source ./idshift.fish; complete -C 'idshift umo'";
    assert!(said("fish", &["-N", "-c", script], pages().path()).starts_with("umount"));
}

/// The repository.
const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn picture_is_what_its_script_draws() {
    needs_program("python3");
    let drawn = said("python3", &["-B", "docs/picture.py"], Path::new(HERE));
    assert_eq!(drawn, fs::read_to_string(Path::new(HERE).join("docs/picture.svg")).unwrap());
}

/// Where `](target)` leads, without what is not in the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

fn links_in_the_documents_lead_somewhere() {
    let mut seen = 0;
    let of_contrib = fs::read_dir(Path::new(HERE).join("contrib")).unwrap();
    let of_contrib = of_contrib.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let here = ["", "docs", "bench", "contrib"].map(|folder| Path::new(HERE).join(folder));
    for folder in here.into_iter().chain(of_contrib) {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                for target in links(&fs::read_to_string(&path).unwrap()) {
                    assert!(folder.join(target).exists(), "{}: {target}", path.display());
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 20, "{seen}");
}
