//! The command line.

use std::path::PathBuf;

/// Compare idshift with the kernel's idmapped mount and with other FUSE file systems
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "cargo bench --bench compare --")]
#[allow(clippy::struct_excessive_bools)] // each is a switch of the command line
pub(crate) struct Args {
    /// A small fixed set in under three minutes: small tree, few rounds
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only what has this in its name (a workload, a group or a measure); may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Only the subject of this name, or those that have this in their name, beside the kernel's
    /// mount; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: Vec<String>,
    /// Print the workloads and their measures, and end
    #[arg(long)]
    pub(crate) list: bool,
    /// How often each subject runs each workload [default: 7, quick: 3]
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// How long each measure of single operations lasts, in milliseconds [default: 250, quick: 40]
    #[arg(long, value_name = "MS")]
    pub(crate) window: Option<u64>,
    /// Run everything again with all CPUs occupied by processes of the lowest priority
    #[arg(long)]
    pub(crate) busy: bool,
    /// Also walk a tree of 200,000 files
    #[arg(long)]
    pub(crate) large: bool,
    /// Files in the usual tree [default: 6000, quick: 1500]
    #[arg(long, value_name = "N")]
    pub(crate) files: Option<usize>,
    /// Size of the file of the data workloads in MiB [default: 256, quick: 32]; more than the
    /// machine's memory shows what the disk does
    #[arg(long, value_name = "MIB")]
    pub(crate) data: Option<u64>,
    /// Further mount options of idshift to compare, such as cache=exclusive,io=cached
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) idshift_options: Vec<String>,
    /// A further idshift program, such as an older build
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) idshift: Vec<PathBuf>,
    /// fuse-overlayfs programs, beside those in PATH and in ~/.cargo/bin
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) fuse_overlayfs: Vec<PathBuf>,
    /// The passthrough_hp example of libfuse; it shifts nothing
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) passthrough_hp: Option<PathBuf>,
    /// Make the lower tree in a new file system of this type, in an image file: what else lives on
    /// the machine's own file system, and how old that is, then plays no part
    #[arg(long, value_name = "TYPE", default_value = "ext4")]
    pub(crate) image: String,
    /// Make the lower tree in this directory, as its file system is
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    pub(crate) dir: Option<PathBuf>,
    /// Where RESULTS.md, results.json and the plots go
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    pub(crate) out: PathBuf,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// The command that repeats this run, without the paths that belong to this machine alone.
    pub(crate) fn as_typed() -> String {
        let mut words = vec!["cargo bench --bench compare --".to_owned()];
        for word in std::env::args().skip(1).filter(|word| word != "--bench") {
            let path = word.starts_with('/');
            let short = word.rsplit('/').next().unwrap_or_default();
            words.push(if path { format!("…/{short}") } else { word });
        }
        words.join(" ")
    }

    /// Rounds of a whole run.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 }).max(1)
    }

    /// Milliseconds for each measure of single operations.
    pub(crate) fn window(&self) -> u64 {
        self.window.unwrap_or(if self.quick { 40 } else { 250 })
    }

    /// Files in the usual tree.
    pub(crate) fn files(&self) -> usize {
        self.files.unwrap_or(if self.quick { 1500 } else { 6000 })
    }

    /// Size of the image in bytes: room for the trees, their copies, and the data file twice.
    pub(crate) fn image_size(&self) -> u64 {
        (4 << 30) + 2 * self.data_size()
    }

    /// Size of the data file, in bytes.
    pub(crate) fn data_size(&self) -> u64 {
        self.data.unwrap_or(if self.quick { 32 } else { 256 }) << 20
    }
}
