#!/usr/bin/env bash
# The training of lara-lam from start to end: lists of real clips, Meta-World episodes, a target encoder, the recipe.
#
#     nohup benchmarks/train_real.sh > real.log &          # in the background; again, it goes on where it stopped
#     benchmarks/train_real.sh --steps 20000               # options of `lara-tok train`, instead of the recipe's
#
# REAL is the folder of real video (benchmarks/real_video.py says what it holds), RUNS the one for all that is made.
# The three sources are sampled equally often: the largest collection of real clips, all others, and simulation.
#
# On a GPU small batches leave most of it idle: 256 pairs take about as long as 32. Make RUNS/mw-train before, on any
# machine, and set --steps to what its time allows.
set -euo pipefail
cd "$(dirname "$0")/.."
real=${REAL:-../shared/data/real_video}
runs=${RUNS:-runs}
out=$runs/lam
cores=$(nproc)

if [ -e "$out/model.safetensors" ]; then
    echo "$out is trained. Give another folder as RUNS, or delete it." >&2
    exit
fi
python benchmarks/real_video.py "$real" "$runs/real"
if [ ! -e "$runs/mw-train/meta/info.json" ]; then
    nice -n 10 lara-tok simulate metaworld --out "$runs/mw-train" --task train --size 128 --episodes 3 \
        --seed 1 --action-noise 0.3
fi

if [ ! -e "$runs/mobilenet/config.json" ]; then
    python benchmarks/mobilenet_teacher.py "$runs/mobilenet"
fi
# The recipe names what is made here as runs/...
sed "s|runs/|$runs/|" hub_configs/training/lam.yaml > "$runs/lam.yaml"

# One core computes, the others load: they also decode the frames before the first step.
options=(--workers $((cores > 1 ? cores - 1 : 1)))
if nvidia-smi > /dev/null 2>&1; then
    options+=(--batch-size 256)
fi
if compgen -G "$out/checkpoints/checkpoint-*/trainer_state.json" > /dev/null; then
    options+=(--resume)
fi
exec nice -n 10 lara-tok train --camera all --recipe "$runs/lam.yaml" --out "$out" --frames "$runs/frames" \
    "${options[@]}" "$@"
