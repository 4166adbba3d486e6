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
        ('path,start,end,label\na.mp4,0,1,"take the cup\na.mp4,1,2,put it down\nb.mp4,0,1,open\n', "line 2: not CSV"),
        ('path,label\na.mp4,"take\nb.mp4,"put it"\n', "line 2: not CSV"),
        ('path,label\na.mp4,x\na.mp4,"take\nb.mp4,put it"\n', "line 3: .* runs on to line 4, and line 4 looks like"),
        ('path,label\na.mp4,x\nb.mp4,"' + "x" * 200_000 + '"\n', "line 3: not CSV .field larger than field limit"),
        (
            "path,label\na.mp4,take the cup, then the pot\n",
            'line 2: 3 cells, .* 2 columns. Write .* commas in "quotes"',
        ),
        ("path,start,end,label\na.mp4,1,2,x\na.mp4,3\n", "line 3: no cell for the column 'end'"),
        ('path\n"a.mp4\nb.mp4"\n', "line 2: the path runs over several lines"),
        ("path;start;end\na.mp4;1;2\n", "no column 'path'.* separated by semicolons: write commas instead"),
        ("path\tstart\tend\na.mp4\t1\t2\n", "separated by tabs: write a .tsv"),
        ("path,label,label\na.mp4,a,b\n", "its first line has 2 columns 'label'"),
        ("path,label\na.mp4,a\0b\n", "line 2: a NUL character"),
        ("path,start\na.mp4,00:01:02:10\n", "start '00:01:02:10': takes seconds"),
        ("path,start\na.mp4,1:75\n", "start '1:75': takes seconds"),
        ("path,start\na.mp4,1_0\n", "start '1_0': takes seconds"),
        (
            "path,start_frame\na.mp4,3\n",
            "column 'start_frame' is not known. .* Frame numbers are not taken: divide by the rate",
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


def test_a_list_in_another_encoding_is_read_or_named_with_its_line(film):
    text = "path,start,end,label\r\nfilm.mp4,0,1,Tür\r\n"
    listed = film.parent / "clips.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        listed.write_bytes(text.encode(encoding))
        assert [episode.text for episode in load_episodes(f"list:{listed}")] == ["Tür"]
    listed.write_bytes(text.replace("\r\n", "\r").encode())
    assert [episode.id for episode in load_episodes(f"list:{listed}")] == ["film.mp4#t=0,1"]
    listed.write_bytes(text.encode("cp1252"))
    with pytest.raises(ValueError, match=r"line 2: byte 0xfc is not UTF-8. .*iconv -f WINDOWS-1252"):
        load_episodes(f"list:{listed}")


def test_a_label_may_have_quotes_and_line_breaks(film):
    (film.parent / "clips.csv").write_text('path,start,end,label,\nfilm.mp4,0,1,"say ""go"",\nthen wait",\n')
    assert load_episodes(f"list:{film.parent / 'clips.csv'}")[0].text == 'say "go",\nthen wait'


EPIC = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            f"{EPIC},narration,verb\nP01_0,P01,P01_01,00:00:00.3,00:00:00.50,00:00:01.500,5,15,open door,open\n",
            "times are those of start_timestamp and stop_timestamp",
        ),
        (
            "video_uid,clip_uid,video_start_sec,video_end_sec,clip_start_sec,clip_end_sec,narration_text\n"
            "P01_01,c7,0.5,1.5,10,11,open door\n",
            "columns clip_uid, clip_start_sec, clip_end_sec are not used",
        ),
        ("clip_uid,video_uid,clip_start_sec,clip_end_sec,narration\nP01_01,v,0.5,1.5,open door\n", "columns video_uid"),
        (
            "clip_uid,video_start_sec,video_end_sec,clip_start_sec,clip_end_sec,text\nP01_01,9,11,0.5,1.5,open door\n",
            "",
        ),
        ("id,template,start,end,label\nP01_01,open [x],.5,1.5,open door\n", "columns template are not used"),
    ],
)
def test_published_annotations_are_read_by_their_own_column_names(film, decode_all, tmp_path, text, note):
    video = tmp_path / "P01/videos/P01_01.MP4"
    video.parent.mkdir(parents=True)
    video.write_bytes(film.read_bytes())
    (tmp_path / "clips.csv").write_text(text)
    (episode,) = episodes = load_episodes(f"list:{tmp_path / 'clips.csv'}")
    assert (episode.id, episode.text) == ("P01/videos/P01_01.MP4#t=0.5,1.5", "open door")
    assert np.array_equal(episode.frames("", range(10)), decode_all(film)[5:15])
    assert note in str(episodes.sources[0])


@pytest.mark.parametrize(
    "columns", ["start,length", "start,finish", "start,x", "from,to", "in,out", "onset,offset", "t0,t1", "s,e", "x,end"]
)
def test_other_columns_of_times_are_refused(tmp_path, columns):
    (tmp_path / "clips.csv").write_text(f"path,{columns},label\na.mp4,0.5,1,pick\na.mp4,2,3,open\n")
    with pytest.raises(ValueError, match=r"column '\w+' is not known. Parts of a film are given by start and end"):
        load_episodes(f"list:{tmp_path / 'clips.csv'}")


def test_a_duration_gives_the_end_and_without_a_start_the_films_length(film, decode_all):
    listed = film.parent / "clips.csv"
    listed.write_text("path,start,duration,label\nfilm.mp4,0.5,1,pick\n")
    (episode,) = load_episodes(f"list:{listed}")
    assert episode.id == "film.mp4#t=0.5,1.5"
    assert np.array_equal(episode.frames("", range(10)), decode_all(film)[5:15])
    listed.write_text("path,duration,label,verb_class\nfilm.mp4,4.5,pick,3\n")
    assert load_episodes(f"list:{listed}")[0].num_frames() == 45


def test_times_of_the_whole_video_are_not_those_of_a_clip(film):
    listed = film.parent / "clips.csv"
    listed.write_text("clip_uid,parent_start_sec,parent_end_sec\nfilm,0.5,1.5\n")
    with pytest.raises(
        ValueError, match=r"'parent_start_sec' counts from the start of the whole video, 'clip_uid' names"
    ):
        load_episodes(f"list:{listed}")
    listed.write_text("clip_uid,parent_video_uid,parent_start_sec,parent_end_sec\nc,film,0.5,1.5\n")
    assert [episode.id for episode in load_episodes(f"list:{listed}")] == ["film.mp4#t=0.5,1.5"]


def test_an_id_is_the_one_video_of_that_name(film, tmp_path):
    (tmp_path / "clips.csv").write_text("video_id\n7\n8\n")
    with pytest.raises(ValueError, match=r"line 2: no video '7' below .*, and none for the other ids"):
        load_episodes(f"list:{tmp_path / 'clips.csv'}")
    (tmp_path / "7.webm").write_bytes(film.read_bytes())
    (tmp_path / "8.txt").write_text("no video")
    here, gone = load_episodes(f"list:{tmp_path / 'clips.csv'}")
    assert (here.id, here.num_frames()) == ("7.webm", 45)
    with pytest.raises(EpisodeReadError, match="no such file"):
        gone.num_frames()
    (tmp_path / "7.avi").write_bytes(film.read_bytes())
    with pytest.raises(ValueError, match=r"line 2: '7' may be 7.avi and 7.webm. Write the path with its suffix"):
        load_episodes(f"list:{tmp_path / 'clips.csv'}")


def test_overlapping_annotations_are_told_apart_and_empty_ones_are_too_short(film):
    rows = ["film.mp4,1,2,open", "film.mp4,1,2,pull", "film.mp4,1,2,let go", "film.mp4,3,3,look"]
    (film.parent / "clips.csv").write_text("path,start,end,label\n" + "\n".join(rows))
    episodes = load_episodes(f"list:{film.parent / 'clips.csv'}")
    assert {episode.id: (episode.text, episode.num_frames()) for episode in episodes} == {
        "film.mp4#t=1,2": ("open", 10),
        "film.mp4#t=1,2#2": ("pull", 10),
        "film.mp4#t=1,2#3": ("let go", 10),
        "film.mp4#t=3,3": ("look", 0),
    }
    assert "2 lines label a part anew that an earlier line labels: film.mp4#t=1,2#2" in str(episodes.sources[0])


def test_a_list_made_on_windows_names_its_folders(film):
    (film.parent.parent / "clips.csv").write_text("path,start\r\nday one\\film.mp4,1\r\n")
    assert [episode.id for episode in load_episodes(f"list:{film.parent.parent / 'clips.csv'}")] == [
        "day one/film.mp4#t=1"
    ]
