"""Links below the folder that a user names: what they fetch from elsewhere is read, but not exported in any format."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lara_tokenizer.export import export_lapa, export_moto, export_univla, export_webdataset
from lara_tokenizer.export.source_match import match_source
from lara_tokenizer.table.reader import TokenTable


@pytest.fixture
def set_and_elsewhere(clips, tmp_path):
    """A copy of `clips`, and a folder elsewhere with the same files."""
    return shutil.copytree(clips, tmp_path / "set"), shutil.copytree(clips, tmp_path / "elsewhere")


def _replace(path: Path, target: Path | str) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("export", [export_lapa, export_moto, export_univla, export_webdataset])
@pytest.mark.parametrize(("name", "named"), [("a.mp4", "a.mp4"), ("b", "b/left.mp4"), ("b/left.mp4", "b/left.mp4")])
def test_no_format_exports_what_a_link_fetches_from_elsewhere(export, name, named, set_and_elsewhere, tokens, tmp_path):
    folder, elsewhere = set_and_elsewhere
    _replace(folder / name, elsewhere / name)
    with pytest.raises(ValueError, match=rf"set: links lead out of it, .* them: {named}\. .*cp -rL") as raised:
        export(tokens, folder, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*out*"))


def test_a_relative_link_through_a_chain_and_one_to_a_namesake_lead_out_too(set_and_elsewhere, tokens, tmp_path):
    folder, elsewhere = set_and_elsewhere
    elsewhere.rename(tmp_path / "set2")  # its name begins with that of the folder
    (folder / "hop").symlink_to("../set2")
    _replace(folder / "a.mp4", "hop/a.mp4")
    with pytest.raises(ValueError, match=r"them: a\.mp4\."):
        match_source(TokenTable.open(tokens), folder)
    with pytest.raises(ValueError, match=r"them: a\.mp4\."):
        match_source(TokenTable.open(tokens), str(folder / "**/*.mp4"))
    with pytest.raises(ValueError, match=r"them: a\.mp4\."):
        match_source(TokenTable.open(tokens), f"video:{folder}")


def test_links_within_the_folder_and_the_folder_itself_are_followed(set_and_elsewhere, tokens, tmp_path):
    folder, _ = set_and_elsewhere
    (folder / ".stored").mkdir()
    shutil.move(folder / "a.mp4", folder / ".stored/1")
    (folder / "a.mp4").symlink_to(".stored/1")
    shutil.move(folder / "b", folder / ".stored/b")
    (folder / "b").symlink_to(folder / ".stored/b")
    (tmp_path / "link").symlink_to(folder)
    for source in (folder, tmp_path / "link", f"video:{tmp_path / 'link'}", folder / "../link"):
        assert len(match_source(TokenTable.open(tokens), source).episodes) == 2


def test_files_that_are_named_one_by_one_may_be_links(set_and_elsewhere, tokens, tmp_path):
    folder, elsewhere = set_and_elsewhere
    _replace(folder / "a.mp4", elsewhere / "a.mp4")
    files = [folder / "a.mp4", folder / "b/left.mp4"]
    assert len(match_source(TokenTable.open(tokens), files).episodes) == 2
    # The folder that a link leads to may be named besides, or the link with the folder that it is in.
    assert len(match_source(TokenTable.open(tokens), [folder / "a.mp4", folder / "b"]).episodes) == 2


def test_clips_of_a_list_may_be_elsewhere_unless_a_link_in_the_named_folder_leads_there(
    set_and_elsewhere, write_tokens, tmp_path
):
    folder, elsewhere = set_and_elsewhere
    _replace(folder / "a.mp4", elsewhere / "a.mp4")
    (tmp_path / "clips.csv").write_text("path\nset/a.mp4\nelsewhere/b/left.mp4\n")
    table = TokenTable.open(write_tokens(tmp_path / "t.parquet", {"set/a.mp4": 24, "elsewhere/b/left.mp4": 30}))
    table.metadata["load"]["from_list"] = "clips.csv"
    assert len(match_source(table, (), tmp_path / "clips.csv").episodes) == 2
    (folder / "clips.csv").write_text("path\na.mp4\n")
    table = TokenTable.open(write_tokens(tmp_path / "u.parquet", {"a.mp4": 24}))
    with pytest.raises(ValueError, match=r"them: a\.mp4\."):
        match_source(table, folder, folder / "clips.csv")


def test_a_snapshot_of_the_hubs_cache_is_exported_but_not_another_repositorys_files(clips, tokens, tmp_path):
    repository = tmp_path / "hub/datasets--me--films"
    snapshot = shutil.copytree(clips, repository / "snapshots/0a1b")
    (repository / "blobs").mkdir()
    other = tmp_path / "hub/datasets--me--private/blobs/0"
    other.parent.mkdir(parents=True)
    for name, blob in {"a.mp4": repository / "blobs/0", "b/left.mp4": repository / "blobs/1"}.items():
        shutil.move(snapshot / name, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    assert len(match_source(TokenTable.open(tokens), snapshot).episodes) == 2
    (tmp_path / "cache").symlink_to(tmp_path / "hub")
    linked = tmp_path / "cache/datasets--me--films/snapshots/0a1b"
    assert len(match_source(TokenTable.open(tokens), linked).episodes) == 2
    shutil.copy(repository / "blobs/0", other)
    _replace(snapshot / "a.mp4", other)
    with pytest.raises(ValueError, match=r"them: a\.mp4\."):
        match_source(TokenTable.open(tokens), snapshot)


def test_episodes_that_are_not_exported_may_be_elsewhere(set_and_elsewhere, write_tokens, tmp_path):
    folder, elsewhere = set_and_elsewhere
    _replace(folder / "b", elsewhere / "b")
    table = TokenTable.open(write_tokens(tmp_path / "t.parquet", {"a.mp4": 24}))
    assert list(match_source(table, folder).episodes) == ["a.mp4"]


def test_a_folder_of_images_with_one_from_elsewhere_is_refused(tmp_path, write_tokens, moving_square):
    (tmp_path / "set/film").mkdir(parents=True)
    for index, image in enumerate(moving_square(12)):
        Image.fromarray(image).save(tmp_path / f"set/film/{index:03d}.png")
    table = TokenTable.open(write_tokens(tmp_path / "t.parquet", {"film": 12}))
    table.metadata["load"]["fps"] = 10
    assert list(match_source(table, tmp_path / "set").episodes) == ["film"]
    (tmp_path / "set/film/003.png").rename(tmp_path / "private.png")
    (tmp_path / "set/film/003.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(ValueError, match=r"them: film/003\.png\."):
        match_source(table, tmp_path / "set")


def test_an_image_that_a_cell_of_a_table_names_is_refused_if_it_is_elsewhere(tmp_path, write_tokens, moving_square):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    for index, image in enumerate(moving_square(12)):
        Image.fromarray(image).save(tmp_path / f"set/{index}.jpg")
    cells = pa.array([[{"bytes": None, "path": f"{index}.jpg"} for index in range(12)]])
    features = datasets.Features(view=datasets.List(datasets.Image()))
    pq.write_table(pa.table([cells], features.arrow_schema), tmp_path / "set/train.parquet")
    table = TokenTable.open(write_tokens(tmp_path / "t.parquet", {"train/000000": 12}, cameras=("view",)))
    table.metadata["load"]["fps"] = 10
    source = f"datasets:{tmp_path / 'set'}"
    assert list(match_source(table, source).episodes) == ["train/000000"]
    (tmp_path / "set/7.jpg").rename(tmp_path / "private.jpg")
    (tmp_path / "set/7.jpg").symlink_to(tmp_path / "private.jpg")
    with pytest.raises(ValueError, match=r"them: 7\.jpg\."):
        match_source(table, source)
