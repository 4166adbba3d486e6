"""Tables as pandas, DuckDB, Polars and strangers write them."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.huggingface.rows import parquet_part
from lara_tokenizer.errors import EpisodeReadError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(brightness: int) -> dict:
    file = BytesIO()
    Image.fromarray(np.full((8, 8, 3), brightness, np.uint8)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


IMAGES = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
FILMS = [[png(0), png(1)], [png(100), png(101)]]


def write(folder: Path, films: list | None = None, features: dict | None = None, **columns: pa.Array) -> Path:
    """Two episodes of two frames, of brightness 0, 1 and 100, 101; and more columns."""
    folder.mkdir(exist_ok=True)
    table = pa.table({"view": pa.array(films or FILMS, IMAGES), **columns})
    camera = {"feature": {"_type": "Image"}, "_type": "List"}
    info = {"info": {"features": {"view": camera, **(features or {})}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), folder / "train.parquet")
    return folder


STRING = {"dtype": "string", "_type": "Value"}
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"open"]).buffers())


@pytest.mark.parametrize(
    ("column", "feature", "texts"),
    [
        (pa.array(["pick", "open"]).dictionary_encode(), STRING, ["pick", "open"]),
        (pa.array(["pick", None], pa.large_string()).dictionary_encode(), STRING, ["pick", None]),
        (pa.array(["pick", "open"], pa.string_view()), STRING, ["pick", "open"]),
        (pa.array(["pick", ""], pa.large_string()), STRING, ["pick", None]),
        (pa.array([b"pick", "Tür".encode()], pa.binary()), {"dtype": "binary", "_type": "Value"}, ["pick", "Tür"]),
        (pa.array(["\ufeffpick", " open "]), STRING, ["pick", "open"]),
        (NOT_UTF8, STRING, ["caf\ufffd", "open"]),
        (pa.array([["pick", "grab"], [None, "open"]]), {"feature": STRING, "_type": "List"}, ["pick", "open"]),
        (pa.array([1, -1]), {"names": ["open", "pick"], "_type": "ClassLabel"}, ["pick", None]),
    ],
    ids=["categories", "null", "view", "large", "bytes", "mark", "latin", "list", "class"],
)
def test_texts_of_any_arrow_type_are_read(tmp_path, column, feature, texts):
    write(tmp_path / "set", features={"label": feature}, label=column)
    episodes = load_episodes(f"datasets:{tmp_path / 'set'}", fps=5)
    assert [episode.text for episode in episodes] == texts
    assert episodes[0].signals().texts == (texts[0],) * 2
    assert [episode.frames("view", [1])[0, 0, 0, 0] for episode in episodes] == [1, 101]
    assert episodes[0].files("view") == (tmp_path / "set/train.parquet",)
    assert ("the first text is taken" in str(episodes.sources[0])) == pa.types.is_list(column.type)


@pytest.mark.parametrize(
    "column", [pa.array([1, 2]), pa.array([{"en": "pick"}, {"en": "open"}])], ids=["int", "struct"]
)
def test_a_column_named_like_a_text_that_is_none_is_said(tmp_path, column):
    write(tmp_path / "set", task=column)
    episodes = load_episodes(f"datasets:{tmp_path / 'set'}", fps=5)
    assert episodes[0].available_signals == ()
    assert f"column 'task' holds {column.type}, which is not read as an instruction" in str(episodes.sources[0])


def test_depth_is_read_only_where_it_is_named(tmp_path):
    camera = {"feature": {"_type": "Image"}, "_type": "List"}
    depth = pa.array([[png(50)] * 2] * 2, IMAGES)
    write(tmp_path / "set", features={"a_depth": camera}, a_depth=depth)
    episodes = load_episodes(f"datasets:{tmp_path / 'set'}", fps=5)
    assert episodes[0].cameras == ("view",)
    assert load_episodes(f"datasets:{tmp_path / 'set'}", fps=5, cameras="all")[0].cameras == ("view",)
    assert load_episodes(f"datasets:{tmp_path / 'set'}", fps=5, cameras="a_depth")[0].cameras == ("a_depth",)


def test_a_column_of_16_bit_pictures_is_not_the_default(tmp_path):
    camera = {"feature": {"_type": "Image"}, "_type": "List"}
    file = BytesIO()
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(file, "png")
    deep = pa.array([[{"bytes": file.getvalue(), "path": None}] * 2] * 2, IMAGES)
    folder = tmp_path / "set"
    folder.mkdir()
    table = pa.table({"aaa": deep, "view": pa.array(FILMS, IMAGES)})
    info = {"info": {"features": {"aaa": camera, "view": camera}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), folder / "train.parquet")
    episodes = load_episodes(f"datasets:{folder}", fps=5)
    assert episodes[0].cameras == ("view",)
    assert "aaa: more than 8 bits a pixel, so no colour video" in str(episodes.sources[0])


def test_a_cell_names_no_file_outside_the_dataset(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), (9, 9, 9)).save(secret)
    paths = ["inside.png", str(tmp_path / "set/inside.png"), "../secret.png", str(secret), f"file://{secret}"]
    films = [[{"bytes": None, "path": path}] for path in paths]
    write(tmp_path / "set", films=films)
    shutil.copy(secret, tmp_path / "set/inside.png")
    *inside, up, absolute, url = load_episodes(f"datasets:{tmp_path / 'set'}", fps=5)
    assert [episode.frames("view", [0])[0, 0, 0, 0] for episode in inside] == [9, 9]
    for episode in (up, absolute):
        with pytest.raises(EpisodeReadError, match=r"names a file outside .*set, which is not read"):
            episode.frames("view", [0])
    with pytest.raises(EpisodeReadError, match="names a local file by a URL"):
        url.frames("view", [0])


def test_files_of_an_episode_are_those_that_its_cells_name(tmp_path):
    named = [{"bytes": None, "path": "a.png"}, png(1) | {"path": "b.png"}, {"bytes": None, "path": "../c.png"}, None]
    episode, other = load_episodes(f"datasets:{write(tmp_path / 'set', films=[named, FILMS[1]])}", fps=5)
    assert episode.files("view") == (tmp_path / "set/train.parquet", tmp_path / "set/a.png")
    assert other.files("view") == (tmp_path / "set/train.parquet",)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:9/a.png", "HTTPS://127.0.0.1:9/a.png", "hf://datasets/me/private/a.png", "ftp://h/a.png"),
        *("s3://bucket/a.png", "memory://a.png", "FILE:///a.png", "simplecache::http://h/a.png", "github://a:b@/c.png"),
    ],
)
def test_a_cell_of_a_local_table_goes_to_no_network(url, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr("fsspec.core.url_to_fs", opened)
    films = [[{"bytes": None, "path": url}], FILMS[1]]
    remote, beside = load_episodes(f"datasets:{write(tmp_path / 'set', films=films)}", fps=5)
    with pytest.raises(EpisodeReadError, match=r"the table (is in a folder and names a|names a local file by a) URL"):
        remote.frames("view", [0])
    assert beside.frames("view", [1])[0, 0, 0, 0] == 101


def test_a_video_cell_of_a_local_table_goes_to_no_network_either(tmp_path):
    (tmp_path / "set").mkdir()
    cells = pa.array([{"bytes": None, "path": "http://127.0.0.1:9/a.mp4"}], IMAGES.value_type)
    info = json.dumps({"info": {"features": {"view": {"_type": "Video"}}}})
    table = pa.table({"view": cells}).replace_schema_metadata({"huggingface": info})
    pq.write_table(table, tmp_path / "set/train.parquet")
    (film,) = load_episodes(f"datasets:{tmp_path / 'set'}")
    assert film.files("view") == (tmp_path / "set/train.parquet",)
    with pytest.raises(EpisodeReadError, match="names a URL, which is not read"):
        film.frame_index("view")


def test_saved_data_names_no_file_outside_its_folder(tmp_path):
    data = datasets.Dataset.from_dict({"view": FILMS}, features=datasets.Features(view=datasets.List(datasets.Image())))
    data.save_to_disk(tmp_path / "set")
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    arrow.rename(tmp_path / arrow.name)
    state = tmp_path / "set/state.json"
    state.write_text(state.read_text().replace(arrow.name, f"../{arrow.name}"))
    with pytest.raises(ValueError, match=r"state.json names .*, which is outside of it"):
        load_episodes(tmp_path / "set")


def test_a_footer_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    null = pa.array([None], pa.null()).take(pa.array(np.zeros(200_000, np.int64)))
    pq.write_table(pa.table({"x": null}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: it promises 200,000 rows and has [\d,]+ bytes"):
        parquet_part(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "arrow"])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"null", b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 9])
def test_damage_to_saved_data_is_one_line_that_names_it(tmp_path, name, content):
    data = datasets.Dataset.from_dict({"view": FILMS}, features=datasets.Features(view=datasets.List(datasets.Image())))
    data.save_to_disk(tmp_path / "set")
    next((tmp_path / "set").glob(f"*{name}")).write_bytes(content)
    with pytest.raises(ValueError, match=str(tmp_path / "set")) as caught:
        load_episodes(f"datasets:{tmp_path / 'set'}", fps=5)
    assert "\n" not in str(caught.value)


def test_a_readme_that_unfolds_without_end_is_refused(tmp_path):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    (write(tmp_path / "set") / "README.md").write_text("---\n" + "\n".join(lines) + "\n---\n")
    with pytest.raises(ValueError, match=r"README.md: its YAML has more than 20 aliases"):
        load_episodes(f"datasets:{tmp_path / 'set'}", fps=5)
