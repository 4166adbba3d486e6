#!/usr/bin/env bash
# Opt-in (make test-tfds): RLDS sets written by tensorflow-datasets itself read the same here, without TensorFlow.
#
#   1. a throwaway environment with tensorflow-cpu and tensorflow-datasets writes RLDS sets, and dumps what TFDS reads
#      back from them (and from ../shared/data/bridge_rlds, or $LARA_SHARED/data/bridge_rlds, where it is there);
#   2. this environment reads the same folders and compares: frames, actions, states and text are equal to the bit. For
#      JPEG that is TensorFlow's accurate decoding; its default is a rougher one, and how far that is off is told.
#
# Usage: tests/compat/tfds.sh [python of the project's environment]
# LARA_TFDS_PYTHON names a python that has tensorflow-datasets, to save the build. Else it needs a package index and
# about 2 GB in the temporary folder, and takes some minutes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(realpath -s "${1:-$root/.venv/bin/python}") # whatever folder it is called from
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES="" TFDS_DISABLE_GCS=1

theirs=${LARA_TFDS_PYTHON:-}
if [ -z "$theirs" ]; then
    echo "== building an environment with tensorflow-datasets" >&2
    "$python" -m venv "$scratch/venv"
    theirs=$scratch/venv/bin/python
    "$theirs" -m pip install --quiet --disable-pip-version-check tensorflow-cpu tensorflow-datasets
fi

bridge=${LARA_SHARED:-$root/../shared}/data/bridge_rlds
cd "$scratch"  # so that nothing is importable by accident
echo "== writing sets with tensorflow-datasets" >&2
"$theirs" "$root/tests/compat/tfds_sets.py" write "$scratch/sets"
[ ! -d "$bridge" ] || ln -s "$(cd "$bridge" && pwd)" "$scratch/sets/bridge"
"$theirs" "$root/tests/compat/tfds_sets.py" dump "$scratch/sets" "$scratch/read"
echo "== reading them without TensorFlow" >&2
PYTHONPATH=$root "$python" "$root/tests/compat/tfds_sets.py" check "$scratch/sets" "$scratch/read"
echo "== all equal" >&2
