"""Does WebDataset read `lara-tok export webdataset`? The package itself, on a small export; codes equal the table's.

    python benchmarks/peer_readers/webdataset.py
    python benchmarks/peer_readers/webdataset.py --checkout path/to/webdataset --tokens tokens.parquet --source videos/

Takes the installed package (github.com/webdataset/webdataset), or a checkout of it; nothing of it is replaced. Read in
three ways: one process, sample by sample, with `.decode("rgb8")` and `.decode("pil")`; shuffled in a DataLoader with
several workers; and as `torchrun` with two nodes would split the shards. Each time every sample comes just once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# This file has the name of the package, and its folder comes first.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

WORKERS, NODES = 2, 2
SHAPES = ((8, 128), (1, 4096))  # N, K
MOST_ERROR = 12.0  # of 255 on average: JPEG keeps colours at half size, and the clips are colourful


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
        sys.path.insert(0, str(Path(__file__).parent))
        write_sample = importlib.import_module("_sample").write_sample
        sys.path.pop(0)
        for num_latents, codebook_size in SHAPES:
            folder = scratch / f"{num_latents}x{codebook_size}"
            compare(*write_sample(folder, num_latents, codebook_size), folder / "export")


def version_of(checkout: Path | None) -> str:
    import webdataset

    place = Path(webdataset.__file__).resolve()
    if checkout is None:
        return f"webdataset {webdataset.__version__}, as installed"
    assert checkout.resolve() in place.parents, f"{place} is not in the checkout"
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return f"webdataset {webdataset.__version__}, commit {commit or 'unknown'}"


def compare(tokens: Path, source: Any, out: Path) -> None:
    """Export in small shards, read in each way, and compare every sample that comes out."""
    from lara_tokenizer.data import load_episodes
    from lara_tokenizer.export import export_webdataset
    from lara_tokenizer.table import read_tokens

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
        worst = max(worst, *(check_sample(sample, rows, episodes) for sample in once(plain(urls, decode), rows)))
    for sample in once(in_workers(urls, summary.settings), rows):
        check_codes(sample, rows)
    parts = [list(on_node(urls, rank)) for rank in range(NODES)]
    for sample in once((sample for part in parts for sample in part), rows):
        check_codes(sample, rows)
    settings, nodes = summary.settings, " + ".join(str(len(part)) for part in parts)
    print(
        f"  {settings['urls']} ({settings['to_tuple']}): {summary.pairs} samples of {summary.episodes} episodes, each "
        f"once, in one process, with {WORKERS} workers, and on {NODES} nodes ({nodes}); codes equal the table's, "
        f"frames within {worst:.1f} of 255 of the source's"
    )


def plain(urls: str, decode: str) -> Iterator[dict[str, Any]]:
    import webdataset

    yield from webdataset.WebDataset(urls, shardshuffle=False).decode(decode)


def in_workers(urls: str, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As the manifest's settings say, in batches of tensors."""
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
    """The share of one of several nodes."""
    import webdataset

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(NODES)}
    split = webdataset.split_by_node
    yield from webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=split).decode("rgb8")
    for name in ("RANK", "WORLD_SIZE"):
        del os.environ[name]


def once(samples: Iterable[dict[str, Any]], rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples, which must be one for each wanted row."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts[sample["__key__"]] += 1
        yield sample
    assert counts == Counter(dict.fromkeys(rows, 1)), counts - Counter(rows.keys())


def check_codes(sample: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    """The row that a sample is of."""
    row = rows[sample["__key__"]]
    assert np.asarray(sample["codes.npy"]).tolist() == sample["json"]["codes"] == row["codes"], sample["__key__"]
    if "latents.npy" in sample:
        np.testing.assert_array_equal(np.asarray(sample["latents.npy"]).reshape(-1), np.float16(row["latents"]))
    return row


def check_sample(sample: dict[str, Any], rows: dict[str, Any], episodes: dict[str, Any]) -> float:
    """How far its pictures are from the frames, 0 to 255 on average."""
    row = check_codes(sample, rows)
    for name, value in sample["json"].items():
        if name != "codes":
            assert value == (row.get(name) or "" if name == "text" else row[name]), (sample["__key__"], name)
    frames = episodes[row["episode"]].frames(row["camera"], [row["frame_index"], row["future_frame_index"]])
    pictures = [np.asarray(sample[name], float) for name in ("jpg", "future.jpg")]
    error = max(float(np.abs(picture - frame).mean()) for picture, frame in zip(pictures, frames, strict=True))
    assert error < MOST_ERROR, (sample["__key__"], error)
    return error


if __name__ == "__main__":
    main()
