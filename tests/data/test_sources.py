"""The registry of formats: a new one is a module and a line."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from lara_tokenizer.data import Episode, VideoReader, load_episodes
from lara_tokenizer.data.listing import Listing, choose_cameras, is_color_camera
from lara_tokenizer.data.sources import FORMATS, Format


@pytest.fixture
def toy(monkeypatch):
    """The format "toy": folders with a file toy.txt, which names one clip per line."""
    module = ModuleType("lara_tokenizer.data.toy")
    module.LOOKED_FOR = "toy.txt (Toy)"
    module.detect = lambda folder, names: "toy.txt" in names

    def list_episodes(source, options):
        with open(f"{source}/toy.txt") as file:
            names = file.read().split()
        return Listing("Toy", "toys", [Episode(name, VideoReader(f"{source}/{name}")) for name in names])

    module.list_episodes = list_episodes
    monkeypatch.setitem(sys.modules, "lara_tokenizer.data.toy", module)
    monkeypatch.setitem(FORMATS, "toy", Format("toy", "toy"))


def test_a_registered_format_is_detected_listed_and_selected_by_its_prefix(toy, tmp_path):
    (tmp_path / "box").mkdir()
    (tmp_path / "box/toy.txt").write_text("b.mp4 a.mp4")
    found = load_episodes(tmp_path / "box")
    assert [episode.id for episode in found] == ["a.mp4", "b.mp4"]
    assert (found.sources[0].format, found.sources[0].name) == ("Toy", "toys")
    assert [episode.id for episode in load_episodes(tmp_path)] == ["box/a.mp4", "box/b.mp4"]
    assert [episode.id for episode in load_episodes(f"toy:{tmp_path}/box")] == ["a.mp4", "b.mp4"]


def test_errors_list_a_registered_format_and_its_files(toy, tmp_path):
    with pytest.raises(ValueError, match=r"nothing readable in it. Looked for .*, toy.txt \(Toy\), files ending in"):
        load_episodes(tmp_path)
    with pytest.raises(ValueError, match=r"There are video, .*, toy"):
        load_episodes("ftp:box")


def test_a_format_whose_package_is_missing_names_the_extra():
    with pytest.raises(ImportError, match=r"needs the 'robots' extra: pip install 'lara-tokenizer\[robots\]'"):
        Format("robots", "no_such_module", extra="robots").load()


@pytest.mark.parametrize("entry", FORMATS.values(), ids=FORMATS)
def test_every_format_has_the_interface_of_a_format(entry, tmp_path):
    module = entry.load()
    assert isinstance(module.LOOKED_FOR, str)
    assert module.detect(tmp_path, set()) is entry.detects(tmp_path, set()) is False


def test_cameras_without_colour_are_known_by_words_of_their_names():
    color = ["", "rgb", "cam_high", "image", "first", "cam_normal", "masked_rgb", "camera_id_1", "viewpoint"]
    other = [
        "depth",
        "headDepth",
        "depth16",
        "zed_depth",
        "semseg",
        "seg_mask",
        "instance_ids",
        "normal_map",
        "normals",
    ]
    other += [
        "surface_normal",
        "heatmap",
        "infra1",
        "wrist_ir",
        "thermal",
        "optical_flow",
        "disparity_left",
        "pointcloud",
    ]
    assert [name for name in color + other if is_color_camera(name)] == color


def test_depth_is_chosen_by_name_alone():
    available = ["head_depth", "head", "wrist", "wrist_mask"]
    assert choose_cameras(available, [], "set")[0] == ("head",)
    assert choose_cameras(available, ["all"], "set") == (
        ("head", "wrist"),
        ["'all' leaves out head_depth, wrist_mask: no colour video; name it to read it"],
    )
    assert choose_cameras(available, ["all", "wrist_mask"], "set")[0] == ("head", "wrist", "wrist_mask")
    assert choose_cameras(available, [], "set", preferred="wrist")[0] == ("wrist",)
    assert choose_cameras(["a", "b"], [], "set", is_color=lambda name: name == "b")[0] == ("b",)
    for requested in ([], ["all"]):
        with pytest.raises(ValueError, match=r"set: it has no colour camera, only 'depth'.* --camera depth"):
            choose_cameras(["depth"], requested, "set")
    assert choose_cameras(["depth"], ["depth"], "set")[0] == ("depth",)
