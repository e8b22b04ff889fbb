#!/bin/sh
# tests/kernels.sh KERNEL [PART...]
# The tests on another kernel, in a virtual machine: all parts, or those that are named.
#   KERNEL             5.10, 6.1, 6.12, a linux-image-... package, or what else the runner takes
#                      (a .deb file of an older one)
#   PART               demo; oracle (the hand-written cases, against what was recorded on a kernel
#                      with idmapped mounts); pjdfstest; a family of tests, or FAMILY::FILTER
#   RUN_ON_KERNEL      the runner; else ../shared/tools/run-on-kernel.sh
#   IDSHIFT_SUITES     where pjdfstest is; else target/suites/bin
#   IDSHIFT_ORACLE_EVERY  see tests/oracle/main.rs (7)
#   CARGO_TARGET_DIR   as for cargo
#   VM_TIMEOUT         seconds (7200)
#   VM_OUT             a directory that keeps the whole output
# A test that needs more than a kernel has is ignored, and says why. The machine is emulated: parts that
# measure time (load, messages) say little there.
# Exit status: 0 all green, or skipped by name; 1 something failed.
set -eu
[ $# -ge 1 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }
kernel=$1; shift
parts=${*:-demo oracle pjdfstest files policies mount restart lower harm host load messages}
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
for part in $parts; do
    case $part in
        demo | pjdfstest) ;;
        *) [ -e "$programs/${part%%::*}" ] || copy_test "${part%%::*}" ;;
    esac
done
strip -g -o "$programs/idshift" "${CARGO_TARGET_DIR:-target}/debug/idshift"
suites=${IDSHIFT_SUITES:-$here/target/suites/bin}
if [ -x "$suites/pjdfstest" ]; then cp "$suites/pjdfstest" "$programs/"; fi

cat >"$programs/guest" <<'GUEST'
#!/bin/sh
# In the guest: PROGRAMS EVERY PART... One line for each part, and what failed.
export PATH="$PATH:/usr/sbin:/sbin" TMPDIR=/scratch/tmp RUST_BACKTRACE=0
programs=$1 every=$2; failed=0
shift 2
mkdir -p "$TMPDIR"; chmod 1777 "$TMPDIR"
modprobe -q loop || :; modprobe -q fuse || :
mount -t fusectl fusectl /sys/fs/fuse/connections 2>/dev/null || :
verdict() { # NAME STATUS LOG
    if [ "$2" -eq 0 ]; then word=ok; else word="FAILED ($2)" failed=1; fi
    echo "$(uname -r): $1: $word: $(counts "$3")"
    if [ "$2" -ne 0 ]; then grep -vE ' \.\.\. (ok|ignored)|^ WARN|^ INFO' "$3" | tail -n 60; fi
}
counts() { # LOG
    awk '/^test result: / { p += $4; f += $6; i += $8; any = 1 }
        /^ *Summary: / { print; exit }
        END { if (any) printf "%d passed, %d failed, %d ignored\n", p, f, i }' "$1"
}
pjdfstest() {
    [ -x "$programs/pjdfstest" ] || { echo "pjdfstest: skipped: not built (IDSHIFT_SUITES)"; return; }
    mkdir -p /scratch/lower /scratch/mnt; chmod 777 /scratch/lower
    chown 100000:100000 /scratch/lower
    "$programs/idshift" mount -o map=b:100000:0:65536 /scratch/lower /scratch/mnt
    # The tests of files that may not change (read-only mounts) fail behind the others.
    sed -e "s,@SECONDARY@,/dev/shm,; s,@REMOUNT@,false,; s,@EXPECTED@,," \
        tests/load/suites/pjdfstest.toml >/scratch/pjdfstest.toml
    # Birth times come with Linux 6.6.
    case $(uname -r) in 4.* | 5.* | 6.[0-5].*) sed -i /birthtime/d /scratch/pjdfstest.toml ;; esac
    "$programs/pjdfstest" -c /scratch/pjdfstest.toml -p /scratch/mnt >/out/pjdfstest 2>&1
    verdict pjdfstest $? /out/pjdfstest
    umount /scratch/mnt
}
for part; do
    case $part in
        demo)
            "$programs/idshift" demo </dev/null >/out/demo 2>&1
            verdict demo $? /out/demo ;;
        oracle)
            # Each seventh sequence: the machine is emulated.
            IDSHIFT_ORACLE_EVERY=$every IDSHIFT_ORACLE_AGAINST=recorded IDSHIFT_ORACLE_SERVER="$programs/idshift" \
                "$programs/oracle" >/out/oracle 2>&1
            verdict oracle $? /out/oracle ;;
        pjdfstest) pjdfstest ;;
        *)
            family=${part%%::*} filter=
            case $part in *::*) filter=${part#*::} ;; esac
            IDSHIFT_SUITES=$programs IDSHIFT_TEST_BINARY="$programs/idshift" \
                "$programs/$family" $filter >"/out/$family" 2>&1
            verdict "$part" $? "/out/$family" ;;
    esac
done
exit $failed
GUEST
chmod +x "$programs/guest"
VM_TIMEOUT=${VM_TIMEOUT:-7200} VM_DISK=${VM_DISK:-4G} "$runner" "$kernel" "$programs/guest" "$programs" "${IDSHIFT_ORACLE_EVERY:-7}" $parts
