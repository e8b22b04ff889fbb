#!/bin/sh
# tests/kernels.sh KERNEL
# The demo, the hand-written cases of the oracle (against what was recorded on a kernel with
# idmapped mounts) and pjdfstest, on another kernel in a virtual machine.
#   KERNEL             5.10, 6.1, 6.12, or what else the runner takes
#   RUN_ON_KERNEL      the runner; else ../shared/tools/run-on-kernel.sh
#   IDSHIFT_SUITES     where pjdfstest is; else target/suites/bin
#   IDSHIFT_ORACLE_EVERY  see tests/oracle/main.rs (7)
#   CARGO_TARGET_DIR   as for cargo
#   VM_TIMEOUT         seconds (1800)
# Exit status: 0 all green, or skipped by name; 1 something failed.
set -eu
[ $# -eq 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
kernel=$1
here=$(cd "$(dirname "$0")/.." && pwd)
runner=${RUN_ON_KERNEL:-$here/../shared/tools/run-on-kernel.sh}
if [ ! -x "$runner" ]; then
    echo "kernels.sh: skipped: kernel $kernel: no runner at $runner (RUN_ON_KERNEL)"
    exit 0
fi
cd "$here"
# The guest sees this machine's files as they are while it runs: it gets copies of its own.
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
chmod 755 "$programs"
cargo build --quiet --bin idshift
copy_test() { # NAME: the test's program, as cargo names it
    path=$(cargo test --quiet --no-run --test "$1" --message-format=json |
        sed -n "/\"kind\":\[\"test\"\]/s/.*\"executable\":\"\([^\"]*\)\".*/\\1/p" | tail -n 1)
    strip -g -o "$programs/$1" "$path"
}
copy_test oracle
strip -g -o "$programs/idshift" "${CARGO_TARGET_DIR:-target}/debug/idshift"
suites=${IDSHIFT_SUITES:-$here/target/suites/bin}
if [ -x "$suites/pjdfstest" ]; then cp "$suites/pjdfstest" "$programs/"; fi

cat >"$programs/guest" <<'GUEST'
#!/bin/sh
# In the guest: one line for each part, and what failed.
export PATH="$PATH:/usr/sbin:/sbin" TMPDIR=/scratch/tmp
programs=$1; failed=0
mkdir -p "$TMPDIR"; chmod 1777 "$TMPDIR"
modprobe -q loop || :; modprobe -q fuse || :
verdict() { # NAME STATUS LOG
    if [ "$2" -eq 0 ]; then echo "$(uname -r): $1: ok: $(tail -n 2 "$3" | tr '\n' ' ')"; return; fi
    failed=1
    echo "$(uname -r): $1: FAILED ($2)"; tail -n 60 "$3"
}
"$programs/idshift" demo </dev/null >/out/demo 2>&1
verdict demo $? /out/demo
# Each seventh sequence: the machine is emulated.
RUST_BACKTRACE=0 IDSHIFT_ORACLE_EVERY="${2:-7}" IDSHIFT_ORACLE_AGAINST=recorded IDSHIFT_ORACLE_SERVER="$programs/idshift" \
    "$programs/oracle" >/out/oracle 2>&1
verdict oracle $? /out/oracle
if [ -x "$programs/pjdfstest" ]; then
    mkdir -p /scratch/lower /scratch/mnt; chmod 777 /scratch/lower
    chown 100000:100000 /scratch/lower
    "$programs/idshift" mount -o map=b:100000:0:65536 /scratch/lower /scratch/mnt
    # The tests of files that may not change (read-only mounts) fail behind the others.
    sed -e "s,@SECONDARY@,/dev/shm,; s,@REMOUNT@,false,; s,@EXPECTED@,," \
        tests/load/suites/pjdfstest.toml >/scratch/pjdfstest.toml
    # Birth times come with Linux 6.6.
    case $(uname -r) in 5.*|6.[0-5].*) sed -i /birthtime/d /scratch/pjdfstest.toml ;; esac
    "$programs/pjdfstest" -c /scratch/pjdfstest.toml -p /scratch/mnt >/out/pjdfstest 2>&1
    verdict pjdfstest $? /out/pjdfstest
    umount /scratch/mnt
else
    echo "pjdfstest: skipped: not built (IDSHIFT_SUITES)"
fi
exit $failed
GUEST
chmod +x "$programs/guest"
VM_TIMEOUT=${VM_TIMEOUT:-1800} VM_DISK=${VM_DISK:-4G} "$runner" "$kernel" "$programs/guest" "$programs" "${IDSHIFT_ORACLE_EVERY:-7}"
