#!/bin/sh
# run_as_user.sh own|subordinate PROGRAM [ARGUMENT...]: runs a test program, as root started, as an
# ordinary user that this host does not know: with its own uid alone, or with subordinate ids, which
# are given to it in a mount namespace that ends with the program. 77: not possible here.
set -eu
form=$1
shift
self=$(readlink -f "$0")
export SLUICE_TEST_IDS="$form"
uid=61999
skip() {
  echo "skipped: $1"
  exit 77
}
[ "$(id -u)" = 0 ] || skip "only root can become another user"
command -v setpriv >/dev/null || skip "setpriv is not installed (package util-linux)"
become="setpriv --reuid=$uid --regid=$uid --clear-groups"
# shellcheck disable=SC2086
(cd / && $become test -x "$1") || skip "an ordinary user does not get at $1"
export HOME=/tmp
cd /tmp
# shellcheck disable=SC2086
[ "$form" = own ] && exec $become "$@"
command -v newuidmap >/dev/null || skip "newuidmap is not installed (package uidmap)"
if [ "${SLUICE_IN_MOUNT_NAMESPACE:-}" != 1 ]; then
  SLUICE_IN_MOUNT_NAMESPACE=1 exec unshare --mount "$self" "$form" "$@"
fi
# Files of this namespace's own, on a filesystem that goes with it.
mount -t tmpfs none /mnt
echo "sluicetest:300000:65536" >/mnt/ids
{
  cat /etc/passwd
  echo "sluicetest:x:$uid:$uid::/tmp:/bin/sh"
} >/mnt/passwd
touch /etc/subuid /etc/subgid
mount --bind /mnt/ids /etc/subuid
mount --bind /mnt/ids /etc/subgid
mount --bind /mnt/passwd /etc/passwd
# shellcheck disable=SC2086
exec $become "$@"
