#!/bin/sh
# tests/nfs.sh KERNEL
# What NFS 3 and 4.2 give through a mount, with and without root_squash, on another kernel in a virtual
# machine, which exports to itself.
#   KERNEL           6.1, 6.12, or what else the runner takes
#   RUN_ON_KERNEL    the runner; else ../shared/tools/run-on-kernel.sh
#   CARGO_TARGET_DIR as for cargo
#   VM_TIMEOUT       seconds (900)
# This machine has to have rpcbind, nfs-common and nfs-kernel-server installed; they need not run.
# Exit status: 0 all green, or skipped by name; 1 something failed.
set -eu
if [ "${1-}" != --in-guest ]; then
    [ $# -eq 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    here=$(cd "$(dirname "$0")/.." && pwd)
    runner=${RUN_ON_KERNEL:-$here/../shared/tools/run-on-kernel.sh}
    PATH=$PATH:/usr/sbin:/sbin
    [ -x "$runner" ] || { echo "nfs.sh: skipped: no runner at $runner (RUN_ON_KERNEL)"; exit 0; }
    for program in rpcbind rpc.nfsd mount.nfs; do
        command -v $program >/dev/null || { echo "nfs.sh: skipped: no $program"; exit 0; }
    done
    cd "$here"
    # The guest sees this machine's files as they are while it runs: it gets copies of its own.
    programs=$(mktemp -d)
    trap 'rm -rf "$programs"' EXIT
    chmod 755 "$programs"
    cargo build --quiet --bin idshift
    strip -g -o "$programs/idshift" "${CARGO_TARGET_DIR:-target}/debug/idshift"
    cp "$0" "$programs/nfs.sh"
    VM_TIMEOUT=${VM_TIMEOUT:-900} "$runner" "$1" sh "$programs/nfs.sh" --in-guest "$programs/idshift"
    exit
fi

# --- In the guest.
set +e
idshift=$2
exports=/scratch/exports
export PATH="$PATH:/usr/sbin:/sbin"
failed=0 passed=0
for module in nfsd nfs nfsv3 nfsv4 fuse; do modprobe -q $module; done
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcltrack /net /mnt/shown
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs rpc /var/lib/nfs/rpc_pipefs
mount -t tmpfs run /run
mkdir -p /run/rpcbind /run/sendsigs.omit.d
rpcbind -w
rpc.statd --no-notify
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
rpc.nfsd 4
rpc.mountd
number=0
publish() { # DIRECTORY OPTIONS
    number=$((number + 1))
    exportfs -o "rw,no_subtree_check,insecure,sec=sys,fsid=$number,$2" "127.0.0.1:$1"
}
# The root of all for version 4.
mkdir -p $exports
exportfs -o ro,fsid=0,no_subtree_check,insecure,crossmnt 127.0.0.1:$exports
# Stored: Ann 5000, Bob 5001, group 600. Shown: 1000, 1001, 100; stored root is 200000.
for squash in no_root_squash root_squash; do
    dir=$exports/$squash
    mkdir -p "$dir/home" "$dir/share" "$dir/tmp" "$dir/inner"
    mount --bind "$dir" "$dir"
    chown 5000:5000 "$dir/home"; chmod 700 "$dir/home"
    chown 0:600 "$dir/share"; chmod 2775 "$dir/share"
    chmod 1777 "$dir/tmp"
    mount -t tmpfs inner "$dir/inner"
    chmod 777 "$dir/inner"
    echo nested >"$dir/inner/file"
    publish "$dir" "$squash,crossmnt"
    publish "$dir/inner" "$squash"
done

as() { user=$1; shift; timeout 120 setpriv --reuid "$user" --regid "$user" --groups 100 "$@"; }
ann() { as 1000 "$@"; }
bob() { as 1001 "$@"; }
ok() { # WHAT COMMAND...: it succeeds
    what=$1; shift
    if out=$(cd /mnt/shown && "$@" 2>&1); then passed=$((passed + 1)); return; fi
    failed=$((failed + 1)); echo "$where: $what: FAILED: $out"
}
no() { # WHAT COMMAND...: it fails
    what=$1; shift
    if ! out=$(cd /mnt/shown && "$@" 2>&1); then passed=$((passed + 1)); return; fi
    failed=$((failed + 1)); echo "$where: $what: should have been refused"
}
hidden() { find "$exports/$squash" -name '.nfs*' | grep .; }

steps() {
    echo secret >"$exports/$squash/home/file"
    chown 5000:5000 "$exports/$squash/home/file"; chmod 600 "$exports/$squash/home/file"
    ok 'read what is private' ann cat home/file
    no "read another's" bob cat home/file
    no 'explain agrees with that' "$idshift" explain /mnt/shown/home/file --user 1001:1001,100 --want r
    ok 'explain agrees with the owner' "$idshift" explain /mnt/shown/home/file --user 1000:1000,100 --want w
    ok append ann sh -c 'echo more >>home/file && test $(wc -l <home/file) = 2'
    ok truncate ann truncate -s 3 home/file
    ok chmod ann chmod 640 home/file
    ok touch ann touch -d 2001-01-01 home/file
    ok 'chgrp to a supplementary group' ann chgrp 100 home/file
    ok 'make in a directory of the group' bob sh -c 'echo b >share/b && chmod 664 share/b'
    ok 'the directory gives the group' sh -c 'test $(stat -c %u:%g share/b) = 1001:100'
    ok 'write by the group' ann sh -c 'echo c >>share/b'
    ok rename ann mv share/b share/c
    ok replace ann sh -c 'echo x >share/x && mv share/c share/x'
    ok unlink ann rm -f share/x
    ok 'make in a sticky directory' ann sh -c 'echo t >tmp/t'
    no "unlink another's there" bob rm -f tmp/t
    ok 'unlink the own there' ann rm -f tmp/t
    ok 'hard links and cp -a' ann sh -c \
        'cd home && mkdir d && echo 1 >d/1 && ln d/1 d/2 && ln -s 1 d/3 && cp -a d e && diff -r d e'
    ok 'rm -r' ann rm -r home/d home/e
    ok git ann sh -c 'cd home && export HOME=$PWD && git init -q r 2>/dev/null && cd r &&
        git config user.email a@b && git config user.name a && echo 1 >1 && git add . && git commit -qm x &&
        cd .. && git clone -q r s && rm -rf r s .gitconfig'
    ok sqlite ann sh -c 'cd home && sqlite3 db "create table a(b); insert into a values(1);" && rm db'
    ok 'open and removed' ann sh -c 'cd home && echo x >o && exec 3<o && rm o && read -r l <&3 && test "$l" = x'
    sleep 1 # the file is closed when close(2) has returned
    no 'nothing is hidden' hidden
    ok 'root of a container reads' setpriv --reuid 200000 --regid 200000 --clear-groups ls share
    ok 'root of the host changes a mode' chmod 600 home/file
    if [ $squash = root_squash ]; then
        no 'nobody gives files away' chown 1001 home/file
        no 'explain says so' "$idshift" explain /mnt/shown/home/file --user 0 --want chown
    else
        ok 'root gives files away' chown 1001 home/file
    fi
    ok 'a nested export' ann sh -c 'test "$(cat inner/file)" = nested && echo n >inner/n && rm inner/n'
}
map=map=u:5000:1000:2,map=g:5000:1000:2,map=g:600:100:1,map=b:0:200000:500
for version in 3 4.2; do
    for squash in no_root_squash root_squash; do
        where="$(uname -r): NFS $version: $squash"
        path=$exports/$squash
        [ $version = 3 ] || path=/$squash
        if ! mount -t nfs -o "vers=$version" "127.0.0.1:$path" /net; then
            failed=$((failed + 1)); echo "$where: FAILED: not mounted"; continue
        fi
        if "$idshift" mount -o "$map,submounts,nosuid" /net /mnt/shown; then steps; else failed=$((failed + 1)); fi
        says=$("$idshift" probe /net | grep -E '^ *root ')
        case $squash:$says in
            no_root_squash:*"counts as root"* | root_squash:*"is nobody"*) passed=$((passed + 1)) ;;
            *) failed=$((failed + 1)); echo "$where: probe: FAILED: $says" ;;
        esac
        umount /mnt/shown
        # Without submounts it is not entered.
        "$idshift" mount -o "$map,nosuid" /net /mnt/shown && no 'a nested export without submounts' cat inner/file
        umount /mnt/shown
        umount -R /net || umount -l /net
    done
done
echo "$(uname -r): NFS: $passed passed, $failed failed"
[ $failed -eq 0 ]
