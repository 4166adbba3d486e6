"""Add latent action labels to a LeRobotDataset and read them back beside its actions.

    python examples/label_lerobot.py demos labelled

`demos` is a LeRobotDataset v2.0, v2.1 or v3.0; `labelled` is a new dataset with the columns latent_labels.*, which
shares the videos of the old one by hard links.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.dataset as ds

from lara_tokenizer import encode_dataset
from lara_tokenizer.export import export_lerobot


def main(demos: str, labelled: str) -> None:
    tokens = f"{labelled}.tokens.parquet"
    encode_dataset(f"lerobot:{demos}", "lara-lam", out=tokens, strides="0.5s", workers=0)
    # Before anything is written, episodes, times and the pixels of a few pairs are compared with the dataset.
    summary = export_lerobot(tokens, demos, labelled)
    print(f"{summary.pairs} labelled pairs in {summary.out}")

    frames = ds.dataset(Path(labelled) / "data", format="parquet").to_table()
    print([name for name in frames.column_names if name.startswith("latent_labels")])
    print(frames.slice(0, 3).to_pylist()[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
