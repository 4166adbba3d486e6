"""Something-Something's folder: detection, labels, missing clips."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lara_tokenizer.data import load_episodes


@pytest.fixture
def something(tmp_path, numbered_frames, write_video):
    """Three webm clips at 12 frames a second and two label files; one clip is named and not there."""
    for number, length in ((17, 14), (204, 12), (9, 13)):
        write_video(tmp_path / f"20bn-something-something-v2/{number}.webm", numbered_frames(length), 12, "libvpx-vp9")
    (tmp_path / "labels").mkdir()
    label = "holding [something] next to [something]"
    train = [
        {"id": "17", "label": "holding a cup next to a book", "template": label, "placeholders": ["a cup", "a book"]},
        {"id": "9", "label": "turning a pen upside down", "template": "turning [something] upside down"},
        {"id": "5", "label": "poking a box", "template": "poking [something]"},
    ]
    (tmp_path / "labels/train.json").write_text(json.dumps(train))
    (tmp_path / "labels/validation.json").write_text(
        json.dumps([{"id": "204", "label": "moving a cup", "template": ""}])
    )
    (tmp_path / "labels/labels.json").write_text(json.dumps({label: "0"}))
    return tmp_path


def test_something_something_is_recognised_with_labels_and_what_is_missing(something, decode_all):
    episodes = load_episodes(something)
    assert {episode.index: episode.text for episode in episodes} == {
        17: "holding a cup next to a book",
        9: "turning a pen upside down",
        204: "moving a cup",
    }
    assert str(episodes.sources[0]).endswith(
        "Something-Something v2, 3 episodes; 1 of 4 clips in the label files are not there"
    )
    episode = next(episode for episode in episodes if episode.index == 17)
    assert episode.id == "20bn-something-something-v2/17.webm"
    assert np.array_equal(episode.frames("", range(14)), decode_all(something / episode.id))
    assert [e.index for e in load_episodes(f"ssv2:{something}", split="validation")] == [204]
    with pytest.raises(ValueError, match=r"no labels of split 'test'. There are: train, validation"):
        load_episodes(something, split="test")


def test_a_folder_without_labels_is_no_something_something(something):
    for file in (something / "labels").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"no label file of Something-Something. Looked for labels/train.json"):
        load_episodes(f"ssv2:{something}")
    assert {episode.text for episode in load_episodes(something)} == {None}


def test_another_json_beside_webm_is_no_something_something(something):
    for file in (something / "labels").iterdir():
        file.unlink()
    (something / "train.json").write_text(json.dumps([{"id": "17", "conversations": []}, {"id": "x", "video": "a"}]))
    assert [episode.index for episode in load_episodes(something)] == [None] * 3


def test_label_files_as_editors_leave_them(something):
    train = something / "labels/train.json"
    entries = json.loads(train.read_text())
    entries += [{"id": "204", "label": None, "template": "x"}, {"id": ["a"]}, "9", {"label": "no id"}]
    train.write_bytes(b"\xef\xbb\xbf" + json.dumps(entries).encode())
    (something / "labels/validation.json").write_text("{damaged")
    episodes = load_episodes(something)
    assert [(episode.index, episode.text) for episode in episodes] == [
        (17, "holding a cup next to a book"),
        (204, None),
        (9, "turning a pen upside down"),
    ]
    assert "labels/validation.json: not JSON" in str(episodes.sources[0])
