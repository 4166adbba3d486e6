"""Damaged metadata of a LeRobotDataset: one line that names the file, before or instead of a labelled dataset."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.export import export_groot, export_lerobot

TOP = "observation.images.top"
DEEP = "[" * 100_000
DATA = "data/chunk-000/episode_000000.parquet"


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_lerobot):
    """One episode of 9 frames in each version."""
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    folder = tmp_path_factory.mktemp("lerobot")
    return {
        version: write_lerobot(folder / version, {TOP: [images]}, version=version, tasks=["push"])
        for version in ("v3.0", "v2.1")
    }


@pytest.fixture
def table(tmp_path, write_tokens):
    """Latents of the episode."""
    name = "episode_000000"
    return write_tokens(tmp_path / "t.parquet", {name: 9}, cameras=(TOP,), sizes=(4, 3, None), indices={name: 0})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta/info.json", DEEP, r"meta/info.json: not JSON \(nested too deeply\)"),
        ("meta/episodes.jsonl", DEEP, r"list of episodes cannot be read \(episodes.jsonl, line 1: not JSON"),
        ("meta/episodes.jsonl", "[1]", r"line 1: \[1\], not a JSON object"),
        ("meta/episodes.jsonl", '{"episode_index": 0}', r"no 'length' in an entry"),
        ("meta/episodes.jsonl", '{"episode_index": 0, "length": null}', "list of episodes cannot be read"),
        ("meta/episodes.jsonl", '{"episode_index": 0, "length": -9}', "episode 0 of -9 frames"),
        ("meta/episodes_stats.jsonl", DEEP, r"episodes_stats.jsonl, line 1: not JSON"),
        ("meta/episodes_stats.jsonl", '{"episode_index": 0}', "no 'stats' of episode 0"),
        ("meta/episodes_stats.jsonl", '{"episode_index": 7, "stats": {}}', "episode 7, which has no rows"),
        ("meta/stats.json", DEEP, r"meta/stats.json: not JSON \(nested too deeply\)"),
        ("meta/stats.json", "[]", "meta/stats.json: not a JSON object"),
        (DATA, "PAR1", "episode_000000.parquet .*cannot be read"),
    ],
)
def test_damaged_metadata_is_one_line(name, content, message, plain, table, tmp_path):
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    (dataset / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        export_lerobot(table, dataset, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunks_size": 0}, "chunks_size 0: takes a number"),
        ({"data_path": "data/{episode_index:9999999999d}.parquet"}, "data_path|template .* cannot be used"),
        ({"data_path": "{episode_index.__class__}"}, "data_path|template .* cannot be used"),
        ({"discarded_episode_indices": {"a": 1}}, "takes a list of episode indices"),
    ],
)
def test_entries_of_info_that_cannot_be_used_are_refused(changed, message, plain, table, tmp_path):
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps(info | changed))
    with pytest.raises(ValueError, match=message):
        export_groot(table, dataset, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_metadata_with_a_byte_order_mark_is_read(plain, table, tmp_path):
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    for name in ("meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl"):
        (dataset / name).write_bytes(b"\xef\xbb\xbf" + (dataset / name).read_bytes())
    export_groot(table, dataset, tmp_path / "out")
    assert json.loads((tmp_path / "out/meta/tasks.jsonl").read_text())["task"] == "<LAPA>push"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": []}}', b"\xff"])
def test_parquet_metadata_that_is_not_as_datasets_writes_it(content, plain, table, tmp_path):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    file = dataset / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).replace_schema_metadata({b"huggingface": content}), file)
    try:
        export_lerobot(table, dataset, tmp_path / "out")
    except ValueError as error:
        assert "metadata 'huggingface' of a parquet file: not JSON" in str(error)  # noqa: PT017
    else:
        written = pq.read_schema(tmp_path / "out" / file.relative_to(dataset)).metadata
        assert json.loads(written[b"huggingface"]) == json.loads(content)


def test_a_damaged_column_of_a_data_file_is_named_and_nothing_is_left_under_the_name(plain, table, tmp_path):
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    file = dataset / DATA
    rows = pq.read_table(file).append_column("noise", pa.array(np.random.default_rng(0).random(9)))
    pq.write_table(rows, file, compression="zstd")
    content = bytearray(file.read_bytes())
    column = pq.ParquetFile(file).metadata.row_group(0).column(rows.num_columns - 1)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"episode_000000.parquet of demos cannot be read"):
        export_lerobot(table, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
