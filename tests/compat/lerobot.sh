#!/usr/bin/env bash
# Opt-in (make test-lerobot): we read what lerobot writes, and lerobot reads what we write, equal to the last bit; its
# policies train with the LARA loss.
#
#   1. lerobot 0.6.1 writes LeRobotDatasets v3.0, lerobot 0.3.3 v2.1, videos and images; each prints the values it reads;
#   2. `lara-tok simulate` writes a dataset, and stock lerobot 0.6.1 opens it and prints the values it reads;
#   3. our reader, which knows nothing of lerobot, gives the same frames, actions, states, tasks and episodes;
#   4. each reads what `lara-tok export lerobot` adds to its datasets, trains on it, and --undo restores every byte;
#   5. on tiny instances of lerobot's own policy classes every tap gives the state that is meant;
#   6. with the plugin, lerobot-train and lerobot-eval train, go on with, evaluate and export policies of type lara.
#
# Usage: tests/compat/lerobot.sh [python of the project's environment]
# It needs Python 3.12 (PYTHON312, default python3.12), a package index and about 14 GB in the temporary folder.
# LEROBOT06 and LEROBOT03 name the python of environments that are there already. Simulating needs OpenGL (see README).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$(realpath -s "${1:-$root/.venv/bin/python}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME=$scratch/hf HF_LEROBOT_HOME=$scratch/lerobot TOKENIZERS_PARALLELISM=false

environment() { # name, requirements...
    "${PYTHON312:-python3.12}" -m venv "$scratch/$1"
    "$scratch/$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
}

cd "$scratch" # so that nothing is importable by accident
if [ -z "${LEROBOT06:-}" ]; then
    echo "== building an environment with lerobot 0.6.1" >&2
    environment lerobot06 'lerobot[dataset,training,diffusion,multi-task-dit,pi,pusht,smolvla,xvla]==0.6.1' dm-tree timm
    LEROBOT06=$scratch/lerobot06/bin/python
fi
if [ -z "${LEROBOT03:-}" ]; then
    echo "== building an environment with lerobot 0.3.3" >&2
    # PyAV 18 has rates that lerobot 0.3 cannot read, and PyAV before 15 has no wheels for newer systems.
    environment lerobot03 'lerobot==0.3.3' 'av<18'
    LEROBOT03=$scratch/lerobot03/bin/python
fi

echo "== lerobot writes" >&2
mkdir v30 v21
"$LEROBOT06" "$root/tests/compat/lerobot_sets.py" write v30 2>write.log || { cat write.log >&2; exit 1; }
"$LEROBOT03" "$root/tests/compat/lerobot_sets.py" write v21 2>write.log || { cat write.log >&2; exit 1; }
echo "== lara-tok simulate writes, lerobot opens" >&2
"$python" -m lara_tok simulate metaworld --out simulated --task drawer-open-v3 --task push-v3 --episodes 2 --size 96
"$LEROBOT06" "$root/tests/compat/lerobot_sets.py" open simulated 2>open.log || { cat open.log >&2; exit 1; }
echo "== we read all of them" >&2
"$python" "$root/tests/compat/lerobot_read.py" v30/video v30/image v21/video v21/image simulated
echo "== all equal" >&2
echo "== labels as columns" >&2
"$python" "$root/benchmarks/peer_readers/lerobot.py" --lerobot06 "$LEROBOT06" --lerobot03 "$LEROBOT03"

# Beside that environment, not in it, and without dependencies: it has them.
"$LEROBOT06" -m pip install --quiet --disable-pip-version-check --no-deps --target ours "$root" "$root/policy/lerobot_policy_lara"
export PYTHONPATH=$scratch/ours OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
echo "== taps on lerobot's policies" >&2
"$LEROBOT06" "$root/tests/compat/lerobot_taps.py" 2>taps.log || { cat taps.log >&2; exit 1; }
echo "== the plugin" >&2
mkdir plugin
"$LEROBOT06" "$root/tests/compat/lerobot_plugin.py" plugin 2>plugin.log || { cat plugin.log >&2; exit 1; }
echo "== all passed" >&2
