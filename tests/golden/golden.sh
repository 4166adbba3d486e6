#!/usr/bin/env bash
# The outputs of another revision and those of this tree are the same: golden.sh PYTHON REVISION.
# The recordings stay in build/golden, where differing outputs can be looked at.
set -euo pipefail
python=$1 base=$2
cd "$(dirname "$0")/../.."
work=build/golden
old=$work/tree
mkdir -p "$work"
git worktree remove --force "$old" 2>/dev/null || true
git worktree add --detach "$old" "$base"
trap 'git worktree remove --force "$old"' EXIT
rm -rf "$work/inputs" "$work/before" "$work/after" "$work"/*.json
"$python" tests/golden/record.py --tree "$old" --work "$work" --out "$work/before.json"
"$python" tests/golden/record.py --work "$work" --out "$work/after.json" --resume-from "$work/before" || true
"$python" tests/golden/compare.py "$work/before.json" "$work/after.json"
