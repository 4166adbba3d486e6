"""A shuffle of more lines than one round of buckets holds."""

from __future__ import annotations

import pytest

from lara_tokenizer.export import jsonl
from lara_tokenizer.export.jsonl import write_shuffled


@pytest.mark.parametrize("total", [0, 1, 15, 17, 400])
def test_every_line_is_there_once_however_many_rounds_it_takes(tmp_path, monkeypatch, total):
    monkeypatch.setattr(jsonl, "_BUCKET_LINES", 8)
    monkeypatch.setattr(jsonl, "_BUCKETS", 3)
    lines = [b"%d \r \xe2\x80\xa8\n" % number for number in range(total)]
    write_shuffled(iter(lines), total, tmp_path / "a", seed=0)
    write_shuffled(iter(lines), total, tmp_path / "b", seed=0)
    shuffled = (tmp_path / "a").open("rb").readlines()
    assert sorted(shuffled) == sorted(lines)
    assert total < 2 or shuffled != lines
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b"}
