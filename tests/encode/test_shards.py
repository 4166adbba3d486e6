"""Shards of one source, encoded each alone: merged they are the table of one job, byte by byte."""

from __future__ import annotations

import shutil

import pytest

from lara_tokenizer.encode import verify_tokens
from lara_tokenizer.table import merge_tokens, read_metadata


@pytest.fixture
def source(tmp_path, clips):
    """Four clips, one of them too short, and one that is no video."""
    folder = tmp_path / "source"
    shutil.copytree(clips, folder)
    shutil.copy(clips / "a.mp4", folder / "again.mp4")
    (folder / "broken.mp4").write_bytes(b"no video" * 500)
    return folder


@pytest.mark.parametrize("count", [2, 5])
def test_merged_shards_are_the_table_of_one_job(tmp_path, source, encode, count):
    whole = encode(tmp_path / "whole.parquet", source)
    parts = [encode(tmp_path / "tokens.parquet", source, shard=f"{k}/{count}") for k in range(count)]
    assert sum(part.rows for part in parts) == whole.rows
    made = [tmp_path / f"tokens-{k:05}-of-{count:05}.parquet" for k in range(count)]
    merge_tokens(made[::-1], tmp_path / "merged.parquet")
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert read_metadata(tmp_path / "merged.parquet")["episodes"]["failed"] == len(whole.failed) == 1


def test_a_finished_shard_is_left_as_it_is_and_verified_alone(tmp_path, clips, encode, tiny_checkpoint):
    first = encode(tmp_path / "tokens.parquet", shard="0/2")
    path = tmp_path / "tokens-00000-of-00002.parquet"
    assert first.out == str(path)
    before = path.read_bytes()
    assert encode(tmp_path / "tokens.parquet", shard="0/2").already_complete
    assert path.read_bytes() == before
    report = verify_tokens(path, clips, sample=1.0, model=tiny_checkpoint, workers=0)
    assert (report.units_checked, report.rows_differing, report.unreadable) == (report.units, 0, {})


def test_shards_that_do_not_belong_together_are_refused(tmp_path, source, encode):
    (source / "broken.mp4").unlink()
    for shard in ("0/2", "1/2", "0/3"):
        encode(tmp_path / "tokens.parquet", source, shard=shard)
    encode(tmp_path / "whole.parquet", source)
    a, b, third = (
        tmp_path / f"tokens-{name}.parquet" for name in ("00000-of-00002", "00001-of-00002", "00000-of-00003")
    )
    for tables, message in (
        ([a, third], "a split into 2 and of one into 3"),
        ([a, a], r"shard 1/2 of the source are not among"),
        ([a, b, a], "shard 0/2 is there twice"),
        ([a, tmp_path / "whole.parquet"], "is one shard of a source, and .*whole.parquet is not"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_tokens(tables, tmp_path / "merged.parquet")
    assert not (tmp_path / "merged.parquet").exists()
