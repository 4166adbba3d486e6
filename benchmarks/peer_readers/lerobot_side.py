"""LeRobot's side of lerobot.py: runs where lerobot is installed, without lara_tokenizer.

python lerobot_side.py read DATASET EXPECTED.npz     check rows of the new columns, windows of codes, statistics
python lerobot_side.py train DATASET                 run lerobot's own training command, some steps of a tiny ACT
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset

COLUMNS = {
    "latent_labels.codebook_id_latents": "ids",
    "latent_labels.codebook_vector_latents": "vectors",
    "latent_labels.continuous_vector_latents": "continuous",
    "latent_labels.valid": "valid",
}
IDS = next(iter(COLUMNS))
WINDOW = 3
ACT = {"chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 4, "dim_feedforward": 64, "latent_dim": 8}
ACT |= dict.fromkeys(("n_encoder_layers", "n_decoder_layers", "n_vae_encoder_layers"), 1)


def read(root: Path, expected_file: Path) -> None:
    """Compare every row. Raises AssertionError where a value differs."""
    expected = np.load(expected_file)
    dataset = LeRobotDataset("acme/set", root=root, video_backend="pyav")
    rows = [dataset[i] for i in range(len(dataset))]
    for name, key in COLUMNS.items():
        column = np.stack([np.asarray(row[name]) for row in rows])
        assert column.shape == expected[key].shape or key == "valid", (name, column.shape)
        assert np.array_equal(column.reshape(expected[key].shape), expected[key]), name
    check_windows(root, expected["ids"], np.array([int(row["episode_index"]) for row in rows]))
    check_datasets(root, expected)
    check_statistics(dataset, expected)
    print(
        f"lerobot {version('lerobot')}, {root.parent.name} {root.name}: {len(rows)} rows of {dataset.num_episodes} "
        f"episodes, {int(expected['valid'].sum())} with labels, all equal; windows of {WINDOW} codes and statistics too"
    )


def check_windows(root: Path, ids: np.ndarray, episodes: np.ndarray) -> None:
    """Check `delta_timestamps` on the codes: those of the next rows, of the last one past the end."""
    fps = LeRobotDataset("acme/set", root=root, video_backend="pyav").fps
    deltas = {IDS: [i / fps for i in range(WINDOW)]}
    dataset = LeRobotDataset("acme/set", root=root, video_backend="pyav", delta_timestamps=deltas)
    for index in range(0, len(dataset), 7):  # a row decodes its frames, which takes long
        row, last = dataset[index], np.flatnonzero(episodes == episodes[index])[-1]
        window = [min(index + i, last) for i in range(WINDOW)]
        assert np.array_equal(np.asarray(row[IDS]), ids[window])
        assert row[f"{IDS}_is_pad"].tolist() == [index + i > last for i in range(WINDOW)]


def check_datasets(root: Path, expected: np.lib.npyio.NpzFile) -> None:
    """Read the parquet files alone, with the types that their own metadata records."""
    files = sorted(str(file) for file in (root / "data").glob("*/*.parquet"))
    with tempfile.TemporaryDirectory() as cache:  # or `datasets` would give what it read before
        table = datasets.Dataset.from_parquet(files, cache_dir=cache)
        for name, key in COLUMNS.items():
            assert np.array_equal(np.array(table[:][name]).reshape(expected[key].shape), expected[key]), name


def check_statistics(dataset: LeRobotDataset, expected: np.lib.npyio.NpzFile) -> None:
    """Check the statistics of the whole, and in lerobot 0.6 of each episode against those lerobot computes."""
    for name, key in COLUMNS.items():
        stats = {each: np.asarray(value) for each, value in dataset.meta.stats[name].items()}
        width = expected[key].shape[-1] if expected[key].ndim > 1 else 1
        pooled = expected[key].reshape(-1, width).astype(float)
        assert all(np.isfinite(value).all() for value in stats.values()), name
        assert stats["count"] == len(dataset)
        # Quantiles of lerobot come from histograms, so only these can be equal.
        for each, value in (("min", pooled.min(0)), ("max", pooled.max(0)), ("mean", pooled.mean(0))):
            np.testing.assert_allclose(stats[each], value, atol=1e-6, err_msg=f"{name} {each}")
        np.testing.assert_allclose(stats["std"], pooled.std(0), atol=1e-5)
    if not hasattr(dataset.meta, "episodes_stats"):  # lerobot 0.3 has that attribute
        check_episodes(dataset, expected)


def check_episodes(dataset: LeRobotDataset, expected: np.lib.npyio.NpzFile) -> None:
    """Compare the statistics of each episode with those that lerobot computes."""
    table = datasets.Dataset.from_parquet([str(file) for file in (dataset.root / "meta/episodes").glob("*/*.parquet")])
    features = {name: {"dtype": "float32"} for name in COLUMNS}
    for row in table:
        rows = slice(row["dataset_from_index"], row["dataset_to_index"])
        computed = compute_episode_stats({name: expected[key][rows] for name, key in COLUMNS.items()}, features)
        for name, key in COLUMNS.items():
            for each, value in computed[name].items():
                ours = np.array(row[f"stats/{name}/{each}"])
                assert ours.shape == value.shape, (name, each)
                if each.startswith("q"):
                    check_quantile(ours, value, int(each[1:]) / 100, expected[key][rows])
                else:
                    np.testing.assert_allclose(ours, value, atol=1e-5, err_msg=f"{name} {each}")


def check_quantile(ours: np.ndarray, binned: np.ndarray, share: float, values: np.ndarray) -> None:
    """Check an exact quantile against one from lerobot's histogram, which may differ by neighbouring values."""
    pooled = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1).astype(float)
    np.testing.assert_allclose(ours, np.quantile(pooled, share, axis=0), atol=1e-6)
    low, high = [np.quantile(pooled, np.clip(share + step / len(pooled), 0, 1), axis=0) for step in (-2, 2)]
    assert (low - 0.1 <= binned).all()
    assert (binned <= high + 0.1).all()


def train(root: Path) -> None:
    """Run `lerobot-train` as it is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            str(Path(sys.executable).parent / "lerobot-train"),
            *("--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false"),
            *(f"--policy.{name}={value}" for name, value in ACT.items()),
            "--policy.pretrained_backbone_weights=null",
            *("--dataset.repo_id=acme/set", f"--dataset.root={root}", "--dataset.video_backend=pyav"),
            *(f"--output_dir={scratch}/out", "--steps=4", "--batch_size=4", "--num_workers=0", "--log_freq=1"),
            "--wandb.enable=false",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    losses = re.findall(r"step:(\d+) .*?loss:([\d.]+)", done.stdout + done.stderr)
    assert len(losses) == 4, done.stderr[-2000:]
    print(f"lerobot {version('lerobot')}, {root.parent.name} {root.name}: lerobot-train, losses {dict(losses)}")


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"read": read, "train": train}[command](*map(Path, paths))
