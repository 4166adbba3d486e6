"""Tables: fixed row groups, equal bytes, readable by other libraries, whole or absent."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data import Signals
from lara_tokenizer.encode.encode import Rows
from lara_tokenizer.encode.model_runner import EncodedPairs
from lara_tokenizer.encode.options import EncodeOptions
from lara_tokenizer.encode.plan import Pairs, Unit
from lara_tokenizer.table.metadata import METADATA_KEY, read_metadata
from lara_tokenizer.table.reader import iter_tables, read_tokens
from lara_tokenizer.table.schema import FORMAT_VERSION, token_schema
from lara_tokenizer.table.statistics import (
    MotionCounts,
    TokenCounts,
    motion_counts_from_metadata,
    motion_counts_to_metadata,
)
from lara_tokenizer.table.write import OutputPath, row_groups, write_tokens

METADATA = {"format_version": FORMAT_VERSION, "model": {"num_latents": 4, "codebook_size": 16, "codebook_dim": 2}}
OPTIONS = EncodeOptions(("1f",), 4, 2, 16, columns=("latents",))
SCHEMA = token_schema(4, 2, 16, ("latents",))


def episode_rows(episode: str, count: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    anchors = np.arange(count)
    rows = Rows(Pairs(np.zeros(count, np.int64), anchors, anchors + 1, np.arange(count + 1)), OPTIONS)
    codes = rng.integers(0, 16, (count, 4)).astype(np.int16)
    latents = rng.normal(size=(count, 8)).astype(np.float16)
    rows.set_motion(anchors, rng.random(count).astype(np.float32), np.zeros(count, bool))
    rows.fill(anchors, EncodedPairs(latents, codes, np.ones(count, np.float32)))
    return rows.table(Unit(episode, "", 0, count - 1, episode_index=7), np.arange(count + 1) / 10, Signals())


@pytest.fixture(scope="module")
def table_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    tables = [episode_rows("a", 300), episode_rows("b", 200, seed=1)]
    write_tokens(tables, SCHEMA, METADATA, OutputPath.parse(folder / "tokens.parquet"), folder, 500)
    return folder / "tokens.parquet"


def test_row_groups_have_a_fixed_size_and_name_their_own_episodes_only(monkeypatch):
    monkeypatch.setattr("lara_tokenizer.table.write.ROW_GROUP", 100)
    tables = [episode_rows(f"episode {k}", 30 + k) for k in range(20)]
    groups = list(row_groups(tables))
    assert [group.num_rows for group in groups[:-1]] == [100] * (len(groups) - 1)
    together = pa.concat_tables(groups)
    assert together.to_pylist() == pa.concat_tables(tables).to_pylist()
    assert max(len(group["episode"].chunk(0).dictionary) for group in groups) <= 5


def test_the_way_pieces_are_cut_does_not_show_in_the_bytes(tmp_path):
    whole = [episode_rows("a", 300), episode_rows("b", 200)]
    cut = [table.slice(start, 70) for table in whole for start in range(0, table.num_rows, 70)]
    contents = []
    for name, tables in (("whole", whole), ("cut", cut)):
        write_tokens(tables, SCHEMA, METADATA, OutputPath.parse(tmp_path / f"{name}.parquet"), tmp_path, 500)
        contents.append((tmp_path / f"{name}.parquet").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars", "duckdb", "datasets"])
def test_everybody_reads_it(table_file, tmp_path, library):
    module = pytest.importorskip(library)
    path = str(table_file)
    match library:
        case "pyarrow":
            columns = pq.read_table(path).to_pydict()
        case "pandas":
            columns = module.read_parquet(path).to_dict("list")
        case "polars":
            columns = module.read_parquet(path).to_dict(as_series=False)
        case "duckdb":
            columns = module.sql(f"SELECT * FROM '{path}'").to_arrow_table().to_pydict()
        case "datasets":
            loaded = module.load_dataset("parquet", data_files=path, cache_dir=str(tmp_path), split="train")
            columns = loaded.to_dict()
    expected = pa.concat_tables([episode_rows("a", 300), episode_rows("b", 200, seed=1)]).to_pydict()
    assert list(columns) == list(expected)
    for name in ("codes", "latents"):
        assert [list(row) for row in columns[name]] == expected[name]
    for name in set(expected) - {"codes", "latents"}:
        assert columns[name] == expected[name]


def test_a_file_says_where_it_comes_from(table_file):
    assert read_metadata(table_file) == METADATA
    assert read_metadata(pq.read_schema(table_file)) == METADATA
    details = pq.ParquetFile(table_file).metadata.row_group(0).column(0)
    assert details.compression == "ZSTD"
    assert details.has_column_index


def test_an_unknown_format_version_is_refused(tmp_path):
    metadata = {**METADATA, "format_version": 99}
    write_tokens([episode_rows("a", 3)], SCHEMA, metadata, OutputPath.parse(tmp_path / "t.parquet"), tmp_path, 3)
    with pytest.raises(ValueError, match="format version 99, this release reads 2"):
        read_tokens(tmp_path / "t.parquet")


def test_a_table_that_is_not_ours_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match=f"no '{METADATA_KEY.decode()}' entry"):
        read_metadata(tmp_path / "foreign.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="not a parquet file"):
        read_metadata(tmp_path / "text.parquet")
    with pytest.raises(FileNotFoundError, match="no such token table"):
        read_metadata(tmp_path / "absent")


def test_a_folder_holds_numbered_shards_and_their_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr("lara_tokenizer.table.write.ROW_GROUP", 100)
    monkeypatch.setattr("lara_tokenizer.table.write.ROWS_PER_SHARD", 200)
    tables = [episode_rows("a", 300), episode_rows("b", 150, seed=1)]
    output = OutputPath.parse(f"{tmp_path}/tokens/")
    write_tokens(tables, SCHEMA, METADATA, output, tmp_path, 450)
    names = sorted(file.name for file in (output.path / "data").iterdir())
    assert names == [f"train-0000{k}-of-00003.parquet" for k in range(3)]
    assert json.loads((output.path / "provenance.json").read_text()) == {**METADATA, "rows": 450}
    assert read_tokens(output.path).to_pylist() == pa.concat_tables(tables).to_pylist()
    write_tokens(tables[:1], SCHEMA, METADATA, output, tmp_path, 300)  # a retry replaces the whole folder
    assert read_tokens(output.path).num_rows == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens"]


def test_a_failed_write_leaves_the_old_table(tmp_path):
    output = OutputPath.parse(tmp_path / "t.parquet")
    write_tokens([episode_rows("a", 5)], SCHEMA, METADATA, output, tmp_path, 5)
    before = output.path.read_bytes()

    def tables():
        yield episode_rows("a", 5)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_tokens(tables(), SCHEMA, METADATA, output, tmp_path, 5)
    assert output.path.read_bytes() == before


def test_counts_are_those_of_the_codes():
    table = episode_rows("a", 200)
    counts = TokenCounts(4, 16)
    for part in (table.slice(0, 120), table.slice(120)):
        counts.add(part)
    codes = np.array(table["codes"].to_pylist())
    assert counts.pairs == {"1f": 200}
    for position in range(4):
        assert counts.histogram[position].tolist() == np.bincount(codes[:, position], minlength=16).tolist()
    assert counts.codes_used == 16
    even = TokenCounts(4, 16)
    even.histogram[:] = 3
    assert even.perplexity == pytest.approx(16)
    even.histogram[:, 1:] = 0
    assert even.perplexity_per_position == pytest.approx([1, 1, 1, 1])


def test_row_groups_can_be_read_one_by_one(table_file):
    assert sum(table.num_rows for table in iter_tables(table_file, ["codes"])) == 500


@pytest.mark.parametrize("name", ["tokens.csv", "tokens.json"])
def test_another_ending_is_refused(name):
    with pytest.raises(ValueError, match="or a folder for shards"):
        OutputPath.parse(name)
    assert OutputPath.parse(f"{name}/").is_folder


def test_a_finished_table_keeps_what_was_counted_beside_its_rows(tmp_path):
    moving = {"top": MotionCounts(5, 2), "": MotionCounts(3, 0)}
    metadata = {**METADATA, **motion_counts_to_metadata(moving)}
    write_tokens([episode_rows("a", 5)], SCHEMA, metadata, OutputPath.parse(tmp_path / "t.parquet"), tmp_path, 5)
    assert motion_counts_from_metadata(read_metadata(tmp_path / "t.parquet")) == moving
    assert motion_counts_to_metadata(None) == {}
    assert motion_counts_from_metadata(METADATA) is None
