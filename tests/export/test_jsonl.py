"""A uniform shuffle of lines, in memory and of more lines than one round of buckets holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lara_tokenizer.export import jsonl
from lara_tokenizer.export.jsonl import write_shuffled


def test_a_shuffle_keeps_every_line_and_depends_on_its_seed_alone(tmp_path):
    lines = [json.dumps(index).encode() + b"\n" for index in range(70_000)]
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shuffled(iter(lines), len(lines), tmp_path / name, seed)
        orders.append((tmp_path / name).read_bytes().splitlines(keepends=True))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(lines)
    positions = np.array([int(line) for line in orders[0]])
    # Neither near where they were, nor sorted within buckets.
    assert abs(np.corrcoef(positions, np.arange(len(positions)))[0, 1]) < 0.02
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("total", [0, 1, 15, 17, 400])
def test_every_line_is_there_once_however_many_rounds_it_takes(tmp_path, monkeypatch, total):
    monkeypatch.setattr(jsonl, "_BUCKET_LINES", 8)
    monkeypatch.setattr(jsonl, "_BUCKETS", 3)
    lines = [b"%d \r \xe2\x80\xa8\n" % index for index in range(total)]
    write_shuffled(iter(lines), total, tmp_path / "a", seed=0)
    write_shuffled(iter(lines), total, tmp_path / "b", seed=0)
    shuffled = (tmp_path / "a").open("rb").readlines()
    assert sorted(shuffled) == sorted(lines)
    assert total < 2 or shuffled != lines
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b"}
