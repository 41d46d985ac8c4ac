#!/usr/bin/env bash
# visit.sh root|user STEP...: what run.sh has happen inside the new Debian, as root: a clone, then
# `./dev STEP` for each step. A demo must end with a reward of 1.00.
set -euo pipefail

visitor=$1
shift

update-ca-certificates >/dev/null 2>&1
as=()
home=/root
if [[ $visitor == user ]]; then
  home=/home/user
  useradd --create-home --shell /bin/bash user
  echo 'user ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/user
  chown -R user /srv/sluice.git
  PATH=/usr/local/bin:/usr/bin:/bin
  as=(/usr/sbin/runuser -u user --)
fi
as+=(env HOME="$home" USER="$visitor" LOGNAME="$visitor")
cd "$home"

"${as[@]}" git clone --quiet /srv/sluice.git sluice
cd sluice
for step; do
  printf '\n==> fresh Debian, as %s: ./dev %s\n' "$visitor" "$step"
  began=$SECONDS
  # shellcheck disable=SC2086 # a step is a command and its arguments
  "${as[@]}" ./dev $step 2>&1 | tee /srv/output
  printf '==> ./dev %s took %d s\n' "$step" "$((SECONDS - began))"
  if [[ $step == demo ]] && ! grep -q 'reward.*1\.00' /srv/output; then
    echo "the demo did not end with a reward of 1.00" >&2
    exit 1
  fi
done

# An ordinary user's tree stays theirs.
if [[ $visitor == user ]] && foreign=$(find "$home" ! -user user -print -quit) && [[ $foreign ]]; then
  echo "not the user's own any more: $foreign" >&2
  exit 1
fi
