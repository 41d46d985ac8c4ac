#!/usr/bin/env bash
# A stranger's first half hour with Sluice: a new Debian 12, a clone, `./dev demo`, `./dev test`.
#
#   run.sh [--as root|user] [--keep] [STEP...]    needs root
#   run.sh --variables                            the environment variables that are handed on
#   run.sh --make DIR                             only makes the Debian, in DIR, and prints its
#                                                 environment
#
# The Debian is made by debootstrap with nothing in it but git, ca-certificates and sudo, and
# entered through enter.sh; visit.sh is what happens in it. STEPs are demo, test, or any other
# arguments of ./dev in one word ("build dev"); demo and test if none is named. --as user does it as
# an ordinary user with sudo.
#
# It takes from this machine what a new machine at the same place would have: apt's sources, keys
# and settings for fetching, name resolution, certificates of local authorities, and the variables
# that tell npm, pip and their like about proxies and certificates. Every mount and process is gone
# at the end, however it ends, and so is the root (--keep leaves its files). What stays is a
# tarball of the empty Debian and the downloaded packages, in the cache directory.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
repo=$(dirname "$(dirname "$here")")
cache=${SLUICE_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}/fresh-root
suite=bookworm
packages=ca-certificates,git,sudo

# Names of set environment variables that say how to reach package registries.
variables() {
  local pip='PIP_(CERT|CLIENT_CERT|DEFAULT_TIMEOUT|(EXTRA_)?INDEX_URL|PROXY|TRUSTED_HOST)'
  local npm='NPM_CONFIG_(CA|CAFILE|REGISTRY|PROXY|HTTPS_PROXY|NOPROXY|STRICT_SSL)'
  local certificates='NODE_EXTRA_CA_CERTS|SSL_CERT_(FILE|DIR)|(CURL|REQUESTS)_CA_BUNDLE|GIT_SSL_CAINFO'
  compgen -e | grep -Eix "$pip|$npm|$certificates|(https?|ftp|all|no)_proxy" || true
}

visitor=root
keep=0
make=
steps=()
while (($#)); do
  case $1 in
    --as)
      visitor=$2
      shift
      ;;
    --keep) keep=1 ;;
    --make)
      make=$2
      shift
      ;;
    --variables)
      variables | paste -sd,
      exit 0
      ;;
    -*)
      echo "run.sh: unknown option $1 (see the top of $0)" >&2
      exit 2
      ;;
    *) steps+=("$1") ;;
  esac
  shift
done
((${#steps[@]})) || steps=(demo test)
((EUID == 0)) || {
  echo "run.sh: making and entering a root file system needs root: sudo $0" >&2
  exit 1
}

mkdir -p "$cache/debs/partial"
# What a killed run could not remove: a root whose lock nobody holds.
for left in "$cache"/root.??????; do
  [[ -d $left ]] || continue
  ! flock --nonblock "$left.lock" true || rm -rf --one-file-system "$left" "$left.lock"
done
if [[ -n $make ]]; then
  root=$make
  keep=1
  exec 8>/dev/null
else
  root=$(mktemp -d "$cache/root.XXXXXX")
  exec 8>"$root.lock"
  flock 8
fi
inside=
# shellcheck disable=SC2317 # called by the trap
clean() {
  trap '' INT TERM
  # The kernel ends whatever is left in the namespaces when their first process goes, and takes
  # down the mounts when the last one has.
  if [[ -n $inside ]]; then
    kill -KILL "$inside" 2>/dev/null || true
    wait "$inside" 2>/dev/null || true
  fi
  if ((keep)); then
    [[ -n $make ]] || echo "==> kept $root" >&2
  else
    rm -rf --one-file-system "$root" "$root.lock"
  fi
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- An empty Debian -----------------------------------------------------------------------------

# shellcheck disable=SC2016 # apt's placeholders
mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  awk -v suite="$suite" '$1 == suite { print $2; exit }')
tarball=$cache/$suite-$(printf '%s\n' "$mirror" "$packages" "$(uname -m)" | sha256sum | cut -c1-12).tar
(
  flock 9
  [[ ! -f $tarball ]] || exit 0
  echo "==> debootstrap $suite" >&2
  trap 'rm -rf --one-file-system "$cache/making"' EXIT
  rm -rf --one-file-system "$cache/making"
  debootstrap --variant=minbase --include="$packages" "$suite" "$cache/making" \
    ${mirror:+"$mirror"} >"$cache/debootstrap.log" 2>&1 || {
    tail -n 20 "$cache/debootstrap.log" >&2
    exit 1
  }
  rm -f "$cache"/making/var/cache/apt/archives/*.deb
  tar -C "$cache/making" -cf "$tarball.part" .
  mv "$tarball.part" "$tarball"
) 9>"$cache/lock"
tar -C "$root" -xf "$tarball"

# --- What a new machine at this place would have -------------------------------------------------

# hand PATH...: copies what exists to the same place in the root.
hand() {
  local path
  for path; do
    [[ -e $path ]] || continue
    mkdir -p "$root$(dirname "$path")"
    cp -RL --remove-destination "$path" "$root$(dirname "$path")/"
  done
}

rm -f "$root/etc/apt/sources.list"
hand /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/trusted.gpg.d /etc/apt/keyrings \
  /usr/share/keyrings /usr/local/share/ca-certificates /etc/resolv.conf
apt-config dump Acquire | grep -v '""' >"$root/etc/apt/apt.conf.d/99fetching"
{
  cat /etc/hosts 2>/dev/null || true
  echo '127.0.0.1 localhost fresh'
} >"$root/etc/hosts"

environment=(LANG=C.UTF-8 TERM=dumb CI=true)
for name in $(variables); do
  environment+=("$name=${!name}")
  # A file outside the bundle that update-ca-certificates makes comes along.
  if [[ ${!name} == /* && -f ${!name} && ${!name} != /etc/ssl/certs/* ]]; then
    hand "${!name}"
  fi
done

if [[ -n $make ]]; then
  chroot "$root" update-ca-certificates >/dev/null 2>&1 || true
  printf '%s\n' "${environment[@]}"
  exit 0
fi

# The clone is made from a copy without hard links, so that nothing inside can reach the original.
git -c safe.directory='*' clone --quiet --bare --no-hardlinks "$repo" "$root/srv/sluice.git"
cp "$here/visit.sh" "$root/srv/visit.sh"
mkdir -p "$root/var/cache/apt/archives"

# --- The visit -----------------------------------------------------------------------------------

# In the background, so that the traps above work at once; a background job of a script would
# ignore SIGINT, and so would every test in there. Should this script be killed, so is that.
env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
  unshare --mount --pid --ipc --uts --fork --kill-child \
  "$here/enter.sh" "$root" "$cache/debs" \
  env -i "${environment[@]}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  bash /srv/visit.sh "$visitor" "${steps[@]}" </dev/null 8>&- &
inside=$!
status=0
wait "$inside" || status=$?
inside=
exit "$status"
