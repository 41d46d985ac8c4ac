#!/usr/bin/env bash
# The demo: OpenCode, unmodified, writes and runs a program in a sandbox without a network; a script
# answers its calls at the gate; the result is verified. `./dev demo` builds first and calls this.
# Arguments go to `sluice run`.
set -euo pipefail

repo=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
sluice=${SLUICE:-$repo/build/release/bin/sluice}
hello=$repo/examples/hello

"$sluice" agents install opencode
exec "$sluice" run "$hello/task.toml" --agent opencode --policy "script:$hello/script.toml" "$@"
