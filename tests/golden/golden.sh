#!/usr/bin/env bash
# Opt-in (make test-golden BASE=<revision>): this tree gives the same outputs as another revision, byte for byte.
#
#   1. both are recorded (see record.py) from the same inputs; the older one leaves unfinished jobs, which this one ends;
#   2. compare.py prints every difference. The outputs stay in build/golden, to be looked at.
#
# Usage: tests/golden/golden.sh PYTHON REVISION. It takes about 15 minutes of one core.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(realpath -s "$1") # whatever folder it is called from
base=${2:?name the revision to compare with: make test-golden BASE=<revision>}
work=$root/build/golden

cd "$root"
rm -rf "$work"
mkdir -p "$work"
git worktree prune
git worktree add --quiet --detach "$work/tree" "$base"
trap 'git worktree remove --force "$work/tree"' EXIT
record() { "$python" tests/golden/record.py --work "$work" "$@"; }
record --tree "$work/tree" --out "$work/before.json"
record --out "$work/after.json" --resume-from "$work/before" || true # compare.py names the sections that failed
"$python" tests/golden/compare.py "$work/before.json" "$work/after.json"
