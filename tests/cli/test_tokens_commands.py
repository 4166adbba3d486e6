"""`lara-tok tokens diff` and `merge`, and `lara-tok export webdataset`: output and exit codes."""

from __future__ import annotations

import json
import shutil

import pytest
from token_tables import edited, write_table

from lara_tokenizer.table import read_tokens


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "a.parquet", {(f"{index}.mp4", "", "2f"): 12 for index in range(12)})


def test_equal_tables_end_with_0_and_say_so(lara_tok, table):
    ran = lara_tok("tokens", "diff", table, table)
    assert ran.code == 0
    assert ran.out.splitlines()[0].endswith("a.parquet: tiny, weights 000000000000")
    assert ran.out.splitlines()[-1] == "equal"


def test_different_tables_end_with_1_and_name_ten_episodes(lara_tok, tmp_path, table):
    codes = read_tokens(table)["codes"].to_pylist()
    codes = [[(row[0] + 1) % 16, *row[1:]] if row[0] >= 0 else row for row in codes]
    other = edited(table, tmp_path / "b.parquet", {"codes": codes})
    ran = lara_tok("tokens", "diff", table, other)
    assert ran.code == 1
    assert "changed     120 of 120 pairs (100.00%)" in ran.out
    assert "by position 100.00% 0.00% 0.00% 0.00%" in ran.out
    assert ran.out.count("10 of 10 pairs changed, 25.00% of its codes") == 10
    assert "and 2 more; --json has all" in ran.out
    ran = lara_tok("tokens", "diff", table, other, "--json")
    assert ran.code == 1
    assert len(json.loads(ran.out)["by_episode"]) == 12


def test_tables_made_with_other_settings_say_so(lara_tok, tmp_path, table):
    assert "other options" not in lara_tok("tokens", "diff", table, table).out
    ran = lara_tok("tokens", "diff", table, edited(table, tmp_path / "b.parquet", {}, dtype="bfloat16"))
    assert ran.code == 0
    assert "            other options: dtype was float32 and is bfloat16\n" in ran.out


def test_tables_that_cannot_be_compared_end_with_2(lara_tok, tmp_path, table):
    other = write_table(tmp_path / "b.parquet", {("0.mp4", "", "2f"): 12}, sizes=(2, 3, 16))
    ran = lara_tok("tokens", "diff", table, other)
    assert ran.code == 2
    assert "cannot be compared" in ran.err


def test_merged_tables_are_one_that_info_reads(lara_tok, tmp_path, table):
    other = write_table(tmp_path / "b.parquet", {("x.mp4", "", "2f"): 9})
    ran = lara_tok("tokens", "merge", table, other, "--out", tmp_path / "c.parquet")
    assert ran.code == 0
    assert "c.parquet: 153 rows of 13 episodes, strides 2f" in ran.out
    assert "153 rows of 13 episodes" in lara_tok("info", tmp_path / "c.parquet").out
    ran = lara_tok("tokens", "merge", table, table, "--out", tmp_path / "d.parquet")
    assert ran.code == 2
    assert "0.mp4 2f frame 0 is in" in ran.err


def test_a_merged_table_verifies(lara_tok, tmp_path, tokens, clip_folder, tiny_checkpoint):
    """Two tables of one clip each, as if from two machines."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copyfile(clip_folder / f"{name}.mp4", tmp_path / name / f"{name}.mp4")
        options = ["--model", tiny_checkpoint, "--stride", "0.5s", "--stride", "1f", "--workers", 0]
        assert lara_tok("encode", tmp_path / name, "--out", tmp_path / f"{name}.parquet", *options).code == 0
    merged = tmp_path / "merged.parquet"
    ran = lara_tok("tokens", "merge", tmp_path / "two.parquet", tmp_path / "one.parquet", "--out", merged)
    assert ran.code == 0
    assert lara_tok("tokens", "diff", tokens, merged).code == 0
    options = ["--sample", "100%", "--model", tiny_checkpoint, "--workers", 0]
    ran = lara_tok("verify", merged, clip_folder, *options)
    assert ran.code == 0
    assert "checked 96 rows in 2 of 2 units" in ran.out


def test_a_webdataset_export_prints_what_webdataset_is_told(lara_tok, tmp_path, tokens, clip_folder):
    out = tmp_path / "shards"
    arguments = ["export", "webdataset", tokens, clip_folder, "--out", out, "--stride", "0.5s", "--workers", 0]
    ran = lara_tok(*arguments)
    assert ran.code == 0
    assert "/train-000000.tar" in ran.out
    assert ran.err == ""
    ran = lara_tok(*arguments)
    assert ran.code == 0
    assert "complete already" in ran.out
    ran = lara_tok(*arguments, "--seed", 1)
    assert ran.code == 2
    assert "exists already" in ran.err
    shutil.rmtree(out)
    ran = lara_tok(*arguments, "--json", "--no-images")
    assert json.loads(ran.out)["settings"]["to_tuple"] == "codes.npy json"
