#!/usr/bin/env bash
# enter.sh ROOT DEBS COMMAND...: makes the directory ROOT this process's root and runs COMMAND in
# it, with the directory DEBS as apt's cache of downloaded packages.
#
# run.sh calls it as process 1 of new mount, pid, ipc and uts namespaces, so everything mounted or
# started here goes away with it. The old root is left by pivot_root, not chroot: the kernel
# refuses user namespaces, and with them rootless sandboxes, to a process in a chroot.
set -euo pipefail

root=$1
debs=$2
shift 2

mount --bind "$root" "$root"
cd "$root"

# A fresh /proc and /sys: an ordinary user may mount a /proc of their own only where one without
# anything mounted over it is in sight.
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
if mountpoint -q /sys/fs/cgroup; then
  mount --rbind /sys/fs/cgroup sys/fs/cgroup
  mount --make-rslave sys/fs/cgroup
fi
mount --bind "$debs" var/cache/apt/archives

mount -t tmpfs -o nosuid,mode=0755 dev dev
for node in null zero full random urandom tty; do
  : >"dev/$node"
  mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o nosuid,nodev,mode=0755 run run

hostname fresh
pivot_root . .
umount -l .
cd /

# Bash stays as process 1, and reaps what the command orphans.
"$@" && status=0 || status=$?
exit "$status"
