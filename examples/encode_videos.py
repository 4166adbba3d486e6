"""Tokenize a folder of videos and look at the table with pandas.

python examples/encode_videos.py samples tokens.parquet
"""

from __future__ import annotations

import sys

from lara_tokenizer import encode_dataset
from lara_tokenizer.table import read_tokens


def main(videos: str, out: str) -> None:
    # The same call after a crash, or with more videos in the folder's place, goes on where it stopped.
    summary = encode_dataset(videos, "lara-lam", out=out, strides="0.5s", workers=0)
    print(f"{summary.rows} pairs of {summary.encoded} episodes: {summary.verdict}")

    # One row per pair of frames: codes name the change between frame_index and future_frame_index.
    table = read_tokens(out, ["episode", "frame_index", "future_frame_index", "codes", "code_margin", "motion"])
    frame = table.to_pandas()
    moving = frame[frame.motion > 0.01]
    print(moving.groupby("episode", observed=True).size())
    print(moving.sort_values("code_margin", ascending=False).head(3))


if __name__ == "__main__":
    main(*sys.argv[1:])
