"""Long recordings cut into episodes, lists of clips, and Something-Something's folder."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.segment import segments
from lara_tokenizer.data.video import backends, packets
from lara_tokenizer.data.video import reader as video
from lara_tokenizer.errors import EpisodeReadError


@pytest.fixture(scope="module")
def film(tmp_path_factory, numbered_frames, write_video):
    """45 frames, ten a second, in a folder of their own."""
    return write_video(tmp_path_factory.mktemp("films") / "day one/film.mp4", numbered_frames(45))


def test_segments_are_the_film_in_pieces(film, decode_all):
    whole = decode_all(film)
    cuts = load_episodes(film.parent, segment="2s")
    assert [part.id for part in cuts] == ["film.mp4#t=0,2", "film.mp4#t=2,4", "film.mp4#t=4"]
    assert [part.num_frames() for part in cuts] == [20, 20, 5]
    assert np.array_equal(np.concatenate([part.frames("", range(part.num_frames())) for part in cuts]), whole)
    for part in cuts:
        assert np.allclose(part.timestamps(), np.arange(part.num_frames()) / 10)


def test_times_are_counted_from_the_cut_and_never_negative(film):
    cuts = load_episodes(film, segment="0.35s")
    for k, part in enumerate(cuts):
        assert (part.timestamps() >= 0).all()
        absolute = part.timestamps() + 0.35 * k
        assert np.allclose(absolute, np.round(absolute * 10) / 10)
    # Frames at 0, 0.1, 0.2, 0.3, then 0.4 ... 0.6: four, three and four fall into a cut of 0.35 s.
    assert [part.num_frames() for part in cuts][:3] == [4, 3, 4]
    assert sum(part.num_frames() for part in cuts) == 45


def test_a_corrected_rate_decides_the_cuts(film):
    cuts = load_episodes(film, segment="2s", fps=5)
    assert [part.num_frames() for part in cuts] == [10, 10, 10, 10, 5]
    assert np.allclose(cuts[1].timestamps(), np.arange(10) / 5)


def test_the_file_is_scanned_once_for_all_its_segments(film, monkeypatch):
    cuts = [pickle.loads(pickle.dumps(part)) for part in load_episodes(film, segment="1s")]
    scanned = []
    monkeypatch.setattr(video, "scan", lambda path: scanned.append(path) or packets.scan(path))
    backends._reader.cache_clear()
    for part in cuts:
        part.frames("", [0])
        part.close()
    assert scanned == [film]


def test_a_limit_opens_no_more_than_it_needs(tmp_path, film, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(film.read_bytes())
    opened = []
    monkeypatch.setattr(video, "open_video", lambda path: opened.append(path.name) or packets.open_video(path))
    assert len(load_episodes(tmp_path, segment="2s", limit=4)) == 4
    assert opened == ["a.mp4", "b.mp4"]


def test_actions_and_text_are_cut_with_the_frames(tmp_path, numbered_frames, write_lerobot):
    root = write_lerobot(tmp_path / "set", {"observation.images.top": [numbered_frames(25)]}, tasks=["push"])
    (whole,) = load_episodes(root)
    first, second, last = load_episodes(root, segment="1s")
    parts = [part.signals() for part in (first, second, last)]
    assert np.array_equal(np.concatenate([part.actions for part in parts]), whole.signals().actions)
    assert [len(part.texts) for part in parts] == [10, 10, 5]
    assert second.index == 0
    assert second.available_signals == whole.available_signals


def test_a_limit_counts_segments(film):
    assert [part.id for part in load_episodes(film, segment="1s", limit=2)] == ["film.mp4#t=0,1", "film.mp4#t=1,2"]


def test_a_film_that_cannot_be_opened_stays_one_episode_and_fails_by_itself(film, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"")
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    cuts = load_episodes(tmp_path, segment="3s")
    assert [part.id for part in cuts] == ["bad.mp4", "film.mp4#t=0,3", "film.mp4#t=3"]
    with pytest.raises(EpisodeReadError, match="empty"):
        cuts[0].num_frames()


def test_a_header_that_promises_too_much_gives_empty_segments_and_nothing_wrong(film, monkeypatch):
    (whole,) = load_episodes(film)
    monkeypatch.setattr(video.VideoReader, "stated_duration", lambda self, fps: 60.0)
    cuts = segments(whole, "2s")
    assert [part.num_frames() for part in cuts] == [20, 20, 5] + [0] * 27


@pytest.mark.parametrize("text", ["10", "10f", "0s", "-1s", "ten"])
def test_a_segment_is_a_number_of_seconds(film, text):
    with pytest.raises(ValueError, match="takes seconds, such as '10s'"):
        load_episodes(film, segment=text)


# Lists.


def test_a_list_of_parts_with_labels(film, decode_all):
    listed = film.parent / "clips.csv"
    listed.write_text(
        "start_sec,end_sec,video,narration\n0.5,1.5,film.mp4,opens the door\n3,,film.mp4,walks\n,,film.mp4,\n"
    )
    whole = decode_all(film)
    episodes = {episode.id: episode for episode in load_episodes(f"list:{listed}")}
    assert list(episodes) == ["film.mp4", "film.mp4#t=0.5,1.5", "film.mp4#t=3"]
    part = episodes["film.mp4#t=0.5,1.5"]
    assert part.text == "opens the door"
    assert part.signals().texts == ("opens the door",) * 10
    assert np.array_equal(part.frames("", range(10)), whole[5:15])
    assert episodes["film.mp4#t=3"].num_frames() == 15
    assert episodes["film.mp4"].num_frames() == 45
    assert episodes["film.mp4"].available_signals == ()


def test_a_plain_list_is_relative_to_the_source_or_to_itself(film, tmp_path):
    listed = tmp_path / "clips.txt"
    listed.write_text("# one a line\nday one/film.mp4\n\n")
    (episode,) = load_episodes(film.parent.parent, from_list=listed)
    assert episode.id == "day one/film.mp4"
    assert episode.num_frames() == 45
    (missing,) = load_episodes(from_list=listed)
    with pytest.raises(EpisodeReadError, match="no such file"):
        missing.num_frames()


def test_a_list_can_be_cut_and_its_files_may_have_another_rate(film, tmp_path):
    listed = tmp_path / "clips.csv"
    listed.write_text("path,start,end\nday one/film.mp4,1,4\n")
    cuts = load_episodes(film.parent.parent, from_list=listed, segment="2s")
    assert [part.num_frames() for part in cuts] == [20, 10]
    assert [part.id for part in cuts] == ["day one/film.mp4#t=1,4#t=0,2", "day one/film.mp4#t=1,4#t=2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line has no column 'path'; it is empty"),
        ("file name,start\na.mp4,1\n", "no column 'path'; it is file name,start"),
        ("path,start\n", "the list is empty"),
        ("path,start\na.mp4,soon\n", "line 2: start 'soon': takes seconds, 0 or more"),
        ("path,start,end\na.mp4,5,2\n", "line 2: the clip ends at 2 s, before it starts"),
        ("path\na.mp4\na.mp4\n", "lines 2 and 3 both name a.mp4"),
        ("path,label\n,hello\n", "line 2: no path"),
        (
            "path,start_frame\na.mp4,3\n",
            "column 'start_frame' is not known. Parts of a film are given by start and end",
        ),
    ],
)
def test_a_list_that_makes_no_sense_names_the_line(tmp_path, text, message):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_episodes(f"list:{tmp_path / 'clips.csv'}")


def test_a_list_without_its_scheme_is_explained(tmp_path):
    (tmp_path / "clips.csv").write_text("path\na.mp4\n")
    with pytest.raises(ValueError, match=r"If it is a list of clips, write 'list:.*clips.csv'"):
        load_episodes(tmp_path / "clips.csv")


# Something-Something v2.


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


def test_two_lists_that_disagree_about_a_film_are_refused(film, tmp_path):
    for name, label in (("a.csv", "opens"), ("b.csv", "closes")):
        (film.parent / name).write_text(f"path,label\nfilm.mp4,{label}\n")
    lists = [f"list:{film.parent / name}" for name in ("a.csv", "b.csv")]
    assert len(load_episodes([lists[0], lists[0]])) == 1
    with pytest.raises(ValueError, match=r"two different episodes are called 'film.mp4', one of them in b.csv"):
        load_episodes(lists)


def test_a_corrected_rate_cuts_listed_clips_by_true_times(film, decode_all, tmp_path):
    listed = tmp_path / "clips.csv"
    listed.write_text("path,start,end\nfilm.mp4,2,4\n")
    (clip,) = load_episodes(film.parent, from_list=listed, fps={"film.mp4": 5})  # stamped 10
    assert np.allclose(clip.timestamps(), np.arange(10) / 5)
    assert np.array_equal(clip.frames("", range(10)), decode_all(film)[10:20])
    cuts = load_episodes(film.parent, from_list=listed, fps=5, segment="1s")
    assert [part.num_frames() for part in cuts] == [5, 5]


def test_lists_as_they_come(film, tmp_path):
    spelled = "video_path\tstart_timestamp\tstop_timestamp\tnarration\tparticipant\n"
    (tmp_path / "epic.tsv").write_text(spelled + 'film.mp4\t00:00:01.5\t0:00:03\tpick\u2028up, "the" cup\tP01\n')
    episodes = load_episodes(film.parent, from_list=tmp_path / "epic.tsv")
    assert [episode.id for episode in episodes] == ["film.mp4#t=1.5,3"]
    assert episodes[0].text == 'pick\u2028up, "the" cup'
    assert "columns participant are not used" in str(episodes.sources[0])


def test_films_from_elsewhere_are_called_by_their_place(film, tmp_path):
    paths = [tmp_path / name / "v.mp4" for name in ("p1", "p2")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(film.read_bytes())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/clips.txt").write_text("\n".join(map(str, paths)))
    episodes = load_episodes(f"list:{tmp_path / 'lists/clips.txt'}")
    assert [episode.id for episode in episodes] == ["p1/v.mp4", "p2/v.mp4"]


def test_a_header_that_promises_ages_is_not_believed(film, monkeypatch):
    (whole,) = load_episodes(film)
    monkeypatch.setattr("lara_tokenizer.data.segment._MOST_BY_HEADER", 4)
    assert [part.num_frames() for part in segments(whole, "1s")] == [10, 10, 10, 10, 5]


def test_segments_come_in_the_order_of_time(film):
    cuts = load_episodes(film, segment="0.4s")
    starts = [float(part.id.partition("#t=")[2].partition(",")[0]) for part in cuts]
    assert starts == sorted(starts)
    assert len(starts) == 12
    assert [part.id for part in load_episodes(film, segment="0.4s", limit=5)] == [part.id for part in cuts][:5]
