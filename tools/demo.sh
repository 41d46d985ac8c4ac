#!/usr/bin/env bash
# The demo: OpenCode and Pi, unmodified, each write and run a program in a sandbox without a network,
# then a group of four; a script answers their calls at the gate; the results are verified.
# `./dev demo` builds first and calls this. Arguments go to each `sluice run`.
set -euo pipefail

repo=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
sluice=${SLUICE:-$repo/build/release/bin/sluice}
hello=$repo/examples/hello

for agent in opencode pi; do
  printf '\n--- %s\n' "$agent"
  "$sluice" agents install "$agent"
  "$sluice" run "$hello/task.toml" --agent "$agent" --policy "script:$hello/script.toml" "$@"
done

printf '\n--- a group: four attempts of opencode that share one preparation\n'
"$sluice" run "$hello/task.toml" --agent opencode --policy "script:$hello/script.toml" --group 4 "$@"
