#!/usr/bin/env bash
# Opt-in (make test-transformers4): checkpoints saved here load under transformers 4.57, and give equal codes.
#
#   1. this environment saves checkpoints and what they encode;
#   2. a throwaway environment with transformers 4.57.6 loads them through our classes, and through AutoModel and
#      AutoImageProcessor with trust_remote_code where our package cannot be imported;
#   3. the tests of the model and of the converter run there.
#
# Usage: tests/compat/transformers4.sh [python of the project's environment]
# It needs a package index and about 2 GB in the temporary folder, and takes some minutes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${1:-$root/.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HF_HUB_OFFLINE=1 HF_MODULES_CACHE=$scratch/modules TOKENIZERS_PARALLELISM=false

echo "== saving checkpoints" >&2
"$python" "$root/tests/compat/saved_checkpoints.py" write "$scratch/saved"

echo "== building an environment with transformers 4.57.6" >&2
"$python" -m venv "$scratch/venv"
old=$scratch/venv/bin/python
"$old" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" \
    torch transformers==4.57.6 numpy pillow pyyaml pytest typer rich av pyarrow psutil

cd "$scratch"  # so that nothing is importable by accident
echo "== loading them through our classes" >&2
PYTHONPATH=$root "$old" "$root/tests/compat/saved_checkpoints.py" check "$scratch/saved"
echo "== loading them as remote code" >&2
"$old" "$root/tests/compat/saved_checkpoints.py" check-remote "$scratch/saved"
echo "== tests of the model and the converter" >&2
PYTHONPATH=$root:$root/cli:$root/policy "$old" -m pytest -q -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" \
    "$root/tests/model" "$root/tests/convert"
echo "== all equal" >&2
