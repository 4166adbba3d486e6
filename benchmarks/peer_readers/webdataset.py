"""The webdataset package on `lara-tok export webdataset`: codes of a small export equal the table's.

    python benchmarks/peer_readers/webdataset.py
    python benchmarks/peer_readers/webdataset.py --checkout path/to/webdataset --tokens tokens.parquet --source videos/

Takes the installed package (github.com/webdataset/webdataset), or a checkout of it; nothing of it is replaced. Read in
three ways: one process, sample by sample, with `.decode("rgb8")` and `.decode("pil")`; shuffled in a DataLoader with
several workers; and as `torchrun` with two nodes would split the shards. Each time every sample occurs exactly once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# This file has the name of the package: its folder must not be searched.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peer_checkout import head_commit
from peer_readers._sample import write_clips

from lara_tokenizer.data import load_episodes
from lara_tokenizer.export import export_webdataset
from lara_tokenizer.table import read_tokens

WORKERS, NODES = 2, 2
SHAPES = ((8, 128), (1, 4096))  # N, K
MOST_ERROR = 12.0  # of 255 on average: JPEG stores colours at half size, and the clips are colourful


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, help="Default: the package that is installed.")
    parser.add_argument("--tokens", type=Path, help="A real table. Default: random codes for generated clips.")
    parser.add_argument("--source", help="The video of that table.")
    options = parser.parse_args()
    if options.checkout is not None:
        sys.path[:0] = [str(options.checkout / "src"), str(options.checkout)]
    print(version_of(options.checkout))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if options.tokens is not None:
            compare(options.tokens, options.source, scratch / "real")
            return
        for num_latents, codebook_size in SHAPES:
            folder = scratch / f"{num_latents}x{codebook_size}"
            compare(*write_clips(folder, num_latents, codebook_size), folder / "export")


def version_of(checkout: Path | None) -> str:
    """The version and commit of the package that is imported."""
    import webdataset

    package = Path(webdataset.__file__).resolve()
    if checkout is None:
        return f"webdataset {webdataset.__version__}, as installed"
    assert checkout.resolve() in package.parents, f"{package} is not in the checkout"
    return f"webdataset {webdataset.__version__}, commit {head_commit(checkout) or 'unknown'}"


def compare(tokens: Path, source: Any, out: Path) -> None:
    """Export in small shards, read in each way, and compare every sample."""
    summary = export_webdataset(tokens, source, out, workers=0, shard_size=16)
    rows = {
        f"{row['episode']}/{row['camera']}/{row['frame_index']:06d}".replace("//", "/"): row
        for row in read_tokens(tokens).to_pylist()
        if row["valid"]
    }
    episodes = {episode.id: episode for episode in load_episodes(source)}
    urls = summary.settings["urls"].replace("<this folder>", str(out))
    worst = 0.0
    for decode in ("rgb8", "pil"):
        worst = max(worst, *(check_sample(sample, rows, episodes) for sample in once(in_order(urls, decode), rows)))
    for sample in once(in_workers(urls, summary.settings), rows):
        check_codes(sample, rows)
    # All of a node before the next one: the environment is that of one node at a time.
    by_node = [list(on_node(urls, rank)) for rank in range(NODES)]
    for sample in once((sample for samples in by_node for sample in samples), rows):
        check_codes(sample, rows)
    settings, nodes = summary.settings, " + ".join(str(len(samples)) for samples in by_node)
    print(
        f"  {settings['urls']} ({settings['to_tuple']}): {summary.pairs} samples of {summary.episodes} episodes, each "
        f"once, in one process, with {WORKERS} workers, and on {NODES} nodes ({nodes}); codes equal the table's, "
        f"frames within {worst:.1f} of 255 of the source's"
    )


def in_order(urls: str, decode: str) -> Iterator[dict[str, Any]]:
    """Samples in one process, unshuffled."""
    import webdataset

    yield from webdataset.WebDataset(urls, shardshuffle=False).decode(decode)


def in_workers(urls: str, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Samples with the manifest's settings, from batches of tensors."""
    import torch
    import webdataset

    fields = settings["to_tuple"].split()
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=settings["shardshuffle"], seed=0)
        .shuffle(settings["shuffle"])
        .decode(settings["decode"])
        .to_tuple("__key__", *fields)
        .batched(4)
    )
    for keys, *columns in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=WORKERS):
        assert torch.as_tensor(columns[fields.index("codes.npy")]).dtype == torch.int64
        for row, key in enumerate(keys):
            yield {"__key__": key} | {name: column[row] for name, column in zip(fields, columns, strict=True)}


def on_node(urls: str, rank: int) -> Iterator[dict[str, Any]]:
    """The samples of one of several nodes."""
    import webdataset

    # `torchrun` sets these, and webdataset reads them while it iterates.
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(NODES)}
    split = webdataset.split_by_node
    yield from webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=split).decode("rgb8")
    for name in ("RANK", "WORLD_SIZE"):
        del os.environ[name]


def once(samples: Iterable[dict[str, Any]], rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples, after which there must have been exactly one per row."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts[sample["__key__"]] += 1
        yield sample
    assert counts == Counter(dict.fromkeys(rows, 1)), counts - Counter(rows.keys())


def check_codes(sample: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    """Compare codes and latents of a sample with its row; returns the row."""
    row = rows[sample["__key__"]]
    assert np.asarray(sample["codes.npy"]).tolist() == sample["json"]["codes"] == row["codes"], sample["__key__"]
    if "latents.npy" in sample:
        np.testing.assert_array_equal(np.asarray(sample["latents.npy"]).reshape(-1), np.float16(row["latents"]))
    return row


def check_sample(sample: dict[str, Any], rows: dict[str, Any], episodes: dict[str, Any]) -> float:
    """Compare a whole sample with its row; returns the mean error of its images against the frames, of 255."""
    row = check_codes(sample, rows)
    for name, value in sample["json"].items():
        if name != "codes":
            assert value == (row.get(name) or "" if name == "text" else row[name]), (sample["__key__"], name)
    frames = episodes[row["episode"]].frames(row["camera"], [row["frame_index"], row["future_frame_index"]])
    images = [np.asarray(sample[name], float) for name in ("jpg", "future.jpg")]
    error = max(float(np.abs(image - frame).mean()) for image, frame in zip(images, frames, strict=True))
    assert error < MOST_ERROR, (sample["__key__"], error)
    return error


if __name__ == "__main__":
    main()
