"""Lists of clips: columns, ids, and errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.errors import EpisodeReadError


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


def test_films_from_elsewhere_are_called_by_their_common_folder(film, tmp_path):
    paths = [tmp_path / name / "v.mp4" for name in ("p1", "p2")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(film.read_bytes())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/clips.txt").write_text("\n".join(map(str, paths)))
    episodes = load_episodes(f"list:{tmp_path / 'lists/clips.txt'}")
    assert [episode.id for episode in episodes] == ["p1/v.mp4", "p2/v.mp4"]
