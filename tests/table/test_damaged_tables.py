"""Token tables that are damaged, edited or not tables: one line that names the file, at once, and never a crash."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_tables import edited, write_table

from lara_tokenizer.table import TokenTable, describe, diff_tokens, merge_tokens, read_metadata, read_tokens
from lara_tokenizer.table.metadata import METADATA_KEY
from lara_tokenizer.table.parquet import iter_tables

SEQUENCES = {("a", "", "1f"): 60, ("b", "", "1f"): 40, ("c", "wrist", "2f"): 30}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "t.parquet", SEQUENCES, columns=("latents", "text"))


def _readings(file: Path, table: Path) -> list[str]:
    """The errors of all readers of a table."""
    errors = []
    for read in (
        lambda: describe(file),
        lambda: diff_tokens(file, table),
        lambda: read_tokens(file),
        lambda: merge_tokens([file, table], file.with_name("merged.parquet")),
        lambda: list(TokenTable.open(file, stride="1f", cameras="all").sequences("codes", "latents", "text")),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            read()
        errors.append(str(caught.value))
    return errors


def _with_metadata(table: Path, target: Path, raw: bytes) -> Path:
    pq.write_table(pq.read_table(table).replace_schema_metadata({METADATA_KEY: raw}), target)
    return target


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda content: b"", "not a parquet file"),
        (lambda content: b"PAR1PAR1", "not a parquet file"),
        (lambda content: content[:-20], "not a parquet file"),
        (lambda content: content[: len(content) // 2], "not a parquet file"),
        (lambda content: b"PAR1" + bytes(len(content) // 2) + content[len(content) // 2 :], "damaged"),
    ],
)
def test_a_cut_or_overwritten_file_is_one_line_for_every_reader(table, tmp_path, content, reason):
    file = tmp_path / "t.parquet"
    file.write_bytes(content(table.read_bytes()))
    for error in _readings(file, table):
        assert error.startswith(f"{file}: {reason}")
        assert "\n" not in error


def test_flipped_bits_anywhere_are_a_refusal_or_other_numbers_but_never_a_crash(table, tmp_path):
    """Thirty files, in a process of their own: Arrow would abort it where the footer contradicts itself."""
    content, draw = table.read_bytes(), random.Random(0)
    for index in range(30):
        changed = bytearray(content)
        # Two thirds of them in the footer.
        first = len(content) - int.from_bytes(content[-8:-4], "little") - 8 if index % 3 else 0
        changed[draw.randrange(first, len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / f"{index}.parquet").write_bytes(changed)
    read = """
import sys, warnings
from lara_tokenizer.table import describe, read_tokens
warnings.simplefilter("ignore")
refused = 0
for path in sys.argv[1:]:
    for function in (describe, read_tokens):
        try:
            function(path)
        except ValueError as error:
            assert path in str(error) and "\\n" not in str(error), error
            refused += 1
print(refused)
"""
    files = sorted(map(str, tmp_path.glob("*.parquet")))
    ran = subprocess.run([sys.executable, "-c", read, *files], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 15


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "written in format version None"),
        (b"\xff", "not JSON"),
        (b'{"format_version": "2"}', "written in format version '2'"),
        (b'{"format_version": 2}', "its metadata has no 'model'"),
        (b'{"format_version": 2, "model": 5}', "model in its metadata is 5, expected names and values"),
        (b'{"format_version": 2, "model": {}}', "its metadata has no 'num_latents'"),
    ],
)
def test_metadata_that_is_no_metadata_is_refused(table, tmp_path, raw, reason):
    for error in _readings(_with_metadata(table, tmp_path / "t.parquet", raw), table):
        assert reason in error
        assert "t.parquet" in error


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        ("model.num_latents", "4", "model.num_latents in its metadata is '4', expected a whole number"),
        ("model.num_latents", 10**9, "model.num_latents in its metadata is 1000000000"),
        ("model.num_latents", 8, "column 'codes' is fixed_size_list"),
        ("model.codebook_size", 10**9, "model.codebook_size in its metadata is 1000000000"),
        ("model.codebook_size", True, "model.codebook_size in its metadata is True"),
        ("model.codebook_size", 8, "hold codes from 0 to 15, the model's codebook has 0 to 7"),
        ("model.weights_sha256", ["a"], "model.weights_sha256 in its metadata is ['a']"),
        ("strides", "1f", "strides in its metadata is '1f', expected a list"),
        ("strides", [1], "strides in its metadata is 1, expected str"),
        ("source", [{"name": 5}], "source.name in its metadata is 5"),
        ("load", {"evil": 1}, "an unknown entry 'evil' in load"),
        ("load", {"fps": "abc"}, "load.fps in its metadata is 'abc'"),
        ("load", {"fps": {"*": [3]}}, "load.fps.* in its metadata is [3]"),
        ("load", {"cameras": [1]}, "load.cameras in its metadata is 1"),
        ("moving_pairs", {"": {"pairs": "10", "whole_picture": 4}}, "moving_pairs..pairs in its metadata is '10'"),
        ("versions", {"numpy": ["x"] * 10**5}, "versions.numpy in its metadata is ['x'"),
    ],
)
def test_an_entry_of_another_type_is_named(table, tmp_path, entry, value, reason):
    metadata = json.loads(json.dumps(read_metadata(table)))
    part, _, name = entry.rpartition(".")
    (metadata[part] if part else metadata)[name] = value
    file = _with_metadata(table, tmp_path / "t.parquet", json.dumps(metadata).encode())
    with pytest.raises(ValueError, match=r"t\.parquet") as caught:
        describe(file)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_entry_that_is_missing_is_named_where_it_is_needed(table, tmp_path):
    metadata = {name: value for name, value in read_metadata(table).items() if name != "source"}
    file = _with_metadata(table, tmp_path / "t.parquet", json.dumps(metadata).encode())
    with pytest.raises(ValueError, match="its metadata has no 'source'"):
        merge_tokens([file, table], tmp_path / "merged.parquet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.drop_columns(["codes"]), "no column 'codes', or several"),
        (lambda rows: rows.drop_columns(["valid"]), "no column 'valid', or several"),
        (lambda rows: rows.append_column("motion", rows["motion"]), "no column 'motion', or several"),
        (lambda rows: _column(rows, "codes", pa.array(["1 2 3 4"] * 130)), "column 'codes' is string"),
        (lambda rows: _column(rows, "episode", rows["episode"].cast(pa.string())), "column 'episode' is string"),
        (lambda rows: _column(rows, "frame_index", rows["timestamp"]), "column 'frame_index' is double"),
        (lambda rows: _column(rows, "frame_index", pa.nulls(130, pa.int32())), "130 values are missing in column 'fr"),
        (
            lambda rows: _column(rows, "codes", pa.nulls(130, rows.schema.field("codes").type)),
            "missing in column 'codes'",
        ),
    ],
)
def test_columns_of_another_type_and_missing_values_are_refused(table, tmp_path, change, reason):
    pq.write_table(change(pq.read_table(table)), tmp_path / "t.parquet")
    errors = _readings(tmp_path / "t.parquet", table)
    assert all("t.parquet" in error for error in errors)
    assert sum(reason in error for error in errors) >= 4  # `merge` may name another reason first


def _column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def test_codes_outside_the_codebook_are_refused_by_every_count_of_them(table, tmp_path):
    codes = pq.read_table(table)["codes"].to_pylist()
    codes[3] = [1, 2, 3, 32_000]
    wrong = edited(table, tmp_path / "t.parquet", {"codes": codes})
    for read in (describe, lambda file: diff_tokens(file, table)):
        with pytest.raises(ValueError, match=r"episode 'a' hold codes from 0 to 32000, the model's .* 0 to 15"):
            read(wrong)


def test_a_folder_that_lacks_a_shard_or_has_one_of_another_table_is_refused(table, tmp_path):
    folder = write_table(tmp_path / "tokens", SEQUENCES, columns=("latents", "text"))
    shard = folder / "data" / "train-00000-of-00001.parquet"
    rows = read_tokens(folder).num_rows
    shard.rename(folder / "data" / "train-00000-of-00002.parquet")
    with pytest.raises(ValueError, match="its shards are incomplete"):
        read_tokens(folder)
    (folder / "data" / "train-00001-of-00002.parquet").write_bytes(table.read_bytes())
    assert read_tokens(folder).num_rows == 2 * rows
    other = write_table(tmp_path / "o.parquet", SEQUENCES, columns=("latents", "text"), dtype="bfloat16")
    (folder / "data" / "train-00001-of-00002.parquet").write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet: a shard of another table"):
        read_tokens(folder)


def test_a_table_without_rows_has_its_columns_and_says_so(table, tmp_path):
    empty = tmp_path / "t.parquet"
    pq.write_table(pq.read_table(table).slice(0, 0), empty)
    assert read_tokens(empty, ["codes"]).schema.names == ["codes"]
    assert describe(empty)["rows"] == 0
    with pytest.raises(ValueError, match=r"t.parquet has no column 'code'. There are: episode"):
        read_tokens(empty, ["code"])
    with pytest.raises(ValueError, match="has no rows"):
        TokenTable.open(empty, stride="1f")


def test_a_row_group_of_many_rows_is_read_in_parts(table, tmp_path):
    large = pq.read_table(table, columns=["episode", "valid"]).take([0] * 200_000)
    pq.write_table(large, tmp_path / "x.parquet", row_group_size=200_000)
    assert [part.num_rows for part in iter_tables(tmp_path / "x.parquet")] == [65_536, 65_536, 65_536, 3_392]
