"""Names of episodes as paths: other names stay others, and none leads out of its folder."""

from __future__ import annotations

import os

import pytest

from lara_tokenizer.export.paths import safe_component, safe_path, sequence_path, shortened

NAMES = [
    "a.mp4",
    "a b.mp4#t=10,20",
    "",
    "%",
    "%25",
    ".",
    "..",
    "...",
    "%2E",
    "a/b",
    "a%2Fb",
    "__meta__",
    "%5F_meta__",
    "Küche",
    os.fsdecode(b"k\xff"),
    "日" * 85,
    "日" * 84 + "本",
]


def test_components_are_different_ascii_and_have_room():
    components = [safe_component(name) for name in NAMES]
    assert components[:2] == NAMES[:2]
    assert len(set(components)) == len(NAMES)
    for component in components:
        assert component.isascii()
        assert 0 < len(component) <= 255
        assert "/" not in component
        assert component.strip(".")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "./.", "a//b", ""])
def test_no_path_leaves_its_folder_or_loses_a_component(tmp_path, name):
    path = safe_path(name)
    normal = os.path.normpath(tmp_path / path)
    assert os.path.relpath(normal, tmp_path) == path
    assert path.count("/") == name.count("/")


def test_a_path_of_any_length_is_short_enough_for_a_file_system():
    names = ["/".join(["ü" * 40] * 30), "/".join(["ü" * 40] * 29 + ["v" * 40]), "/" * 3000, "x" * 5000]
    paths = [sequence_path(name, "top") for name in names]
    assert len(set(paths)) == len(names)
    for path in paths:
        assert len(path) <= 1024 + 65
        assert all(0 < len(component) <= 255 for component in path.split("/"))
    assert sequence_path("a" * 200, "b" * 200) == f"{'a' * 200}/{'b' * 200}"


def test_what_is_cut_ends_in_a_digest_of_all():
    long = "folder/" + "x" * 100
    assert shortened(long, len(long)) == long
    cut = [shortened(long + end, len(long)) for end in ("a", "b")]
    assert cut[0] != cut[1]
    assert {len(each) for each in cut} == {len(long)}
