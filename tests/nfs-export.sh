#!/bin/sh
# tests/nfs-export.sh KERNEL
# A mount of idshift that the kernel's NFS server exports, on another kernel in a virtual machine, which is its
# own client: files and directories have to be found again after the server's kernel has forgotten them.
#   KERNEL, RUN_ON_KERNEL, CARGO_TARGET_DIR, VM_TIMEOUT   as for tests/nfs.sh
# Exit status: 0 all green, or skipped by name; 1 something failed.
set -eu
if [ "${1-}" != --in-guest ]; then
    [ $# -eq 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    here=$(cd "$(dirname "$0")/.." && pwd)
    runner=${RUN_ON_KERNEL:-$here/../shared/tools/run-on-kernel.sh}
    PATH=$PATH:/usr/sbin:/sbin
    [ -x "$runner" ] || { echo "nfs-export.sh: skipped: no runner at $runner (RUN_ON_KERNEL)"; exit 0; }
    for program in rpcbind rpc.nfsd mount.nfs mkfs.btrfs; do
        command -v $program >/dev/null || { echo "nfs-export.sh: skipped: no $program"; exit 0; }
    done
    cd "$here"
    programs=$(mktemp -d)
    trap 'rm -rf "$programs"' EXIT
    chmod 755 "$programs"
    cargo build --quiet --bin idshift
    strip -g -o "$programs/idshift" "${CARGO_TARGET_DIR:-target}/debug/idshift"
    cp "$0" "$programs/nfs-export.sh"
    VM_TIMEOUT=${VM_TIMEOUT:-900} "$runner" "$1" sh "$programs/nfs-export.sh" --in-guest "$programs/idshift"
    exit
fi

# --- In the guest.
set +e
idshift=$2
export PATH="$PATH:/usr/sbin:/sbin"
failed=0 passed=0
for module in nfsd nfs nfsv3 nfsv4 fuse loop btrfs; do modprobe -q $module; done
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcltrack /net
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

check() { # WHAT COMMAND...
    what=$1
    shift
    if said=$("$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $kind $version: $what: $said"
    fi
}
# What the server's kernel and the client have in memory goes; the client keeps its handles.
forget() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}
is() { # FILE CONTENT
    [ "$(cat "$1")" = "$2" ]
}
owned() { # FILE UID
    [ "$(stat -c %u "$1")" = "$2" ]
}

# The root of all for version 4.
exportfs -o ro,fsid=0,no_subtree_check,insecure,crossmnt 127.0.0.1:/scratch

for kind in ext4 btrfs; do
    lower=/scratch/$kind shown=/scratch/shown-$kind
    mkdir -p $lower $shown
    truncate -s 300M /scratch/$kind.img
    mkfs.$kind -q /scratch/$kind.img >/dev/null
    mount -o loop /scratch/$kind.img $lower
    mkdir -p $lower/dir/deep
    echo stored >$lower/dir/deep/file
    chown 100000:100000 $lower
    chown -R 101000:101000 $lower/dir
    for version in 3 4.2; do
        net=/net/$kind-$version
        mkdir -p $net
        timeout 60 "$idshift" mount -o map=b:100000:0:65536,log=error $lower $shown
        exportfs -o rw,no_root_squash,no_subtree_check,insecure,fsid=7 127.0.0.1:$shown
        path=$shown
        [ $version = 3 ] || path=/shown-$kind
        if ! timeout 60 mount -t nfs -o vers=$version,actimeo=1,soft,timeo=100 127.0.0.1:$path $net; then
            failed=$((failed + 1))
            echo "FAILED $kind $version: mount"
        else
            check "owner through the map" owned $net/dir/deep/file 1000
            check read is $net/dir/deep/file stored
            exec 4<$net/dir/deep/file
            cd $net/dir/deep || exit 1
            forget
            check "read again" is $net/dir/deep/file stored
            check "read what is open" sh -c "cat <&4"
            check "list the working directory" ls
            check "make there" sh -c 'echo new >new && cat new'
            cd /
            exec 4<&-
            check rename mv $net/dir/deep/new $net/dir/moved
            forget
            check "read what was moved" is $net/dir/moved new
            check "what was stored" is $lower/dir/moved new
            check "write" sh -c "echo more >>$net/dir/moved"
            check link ln $net/dir/moved $net/dir/deep/link
            forget
            check "remove" rm $net/dir/moved
            check "read the link" sh -c "[ \$(wc -l <$net/dir/deep/link) = 2 ]"
            for n in 1 2 3 4 5 6 7 8; do
                mkdir $net/many-$n && for m in 1 2 3 4 5 6 7 8; do echo $n$m >$net/many-$n/$m; done
                forget
            done
            check "a tree while the server forgets" sh -c "[ \$(cat $net/many-*/* | wc -l) = 64 ]"
            # A mount anew: the client goes on with its handles.
            exec 4<$net/many-3/3
            exportfs -u 127.0.0.1:$shown
            exportfs -f
            # An NFS 4 client's open file keeps the mount busy until it is told otherwise.
            if timeout 60 umount -l $shown && timeout 60 "$idshift" mount -o map=b:100000:0:65536,log=error $lower $shown; then
                exportfs -o rw,no_root_squash,no_subtree_check,insecure,fsid=7 127.0.0.1:$shown
                check "after a new mount" is $net/many-5/5 55
                check "what was open before" sh -c '[ $(cat <&4) = 33 ]'
            else
                failed=$((failed + 1))
                echo "FAILED $kind $version: mount anew"
            fi
            exec 4<&-
            check "clean up" rm -rf $net/many-1 $net/many-2 $net/many-3 $net/many-4 $net/many-5 $net/many-6 \
                $net/many-7 $net/many-8 $net/dir/deep/link
            timeout 60 umount $net || timeout 60 umount -f $net
        fi
        exportfs -u 127.0.0.1:$shown
        exportfs -f
        timeout 60 umount $shown
    done
    timeout 60 umount $lower
done
echo "nfs-export.sh: $passed passed, $failed failed"
[ $failed = 0 ]
