#!/usr/bin/env bash
# Opt-in (make test-wheel): the README's commands run from the built wheel alone.
#
#   1. the wheel is built and installed into an empty environment, with the extras that the README names;
#   2. its commands run there, at cut-down size, in a folder that holds three videos and nothing of the checkout.
#
# Usage: tests/compat/wheel.sh [python of the project's environment]
# It needs a package index and about 3 GB in the temporary folder, and takes some minutes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${1:-$root/.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset PYTHONPATH

echo "== building the wheel" >&2
(cd "$root" && "$python" -m hatchling build -t wheel -d "$scratch") > /dev/null
wheel=$(echo "$scratch"/*.whl)

echo "== installing it into an empty environment" >&2
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$wheel[train,sim]"

echo "== running the README's commands" >&2
mkdir "$scratch/user" && cp -r "$root/samples" "$scratch/user/videos"
cd "$scratch/user"
PYTHONPATH=$root/tests "$scratch/venv/bin/python" "$root/tests/compat/wheel_commands.py" "$scratch/venv/bin/lara-tok"
