"""What all exports share: which rows are wanted, whether table and source belong together, folders, shuffles."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.encode import read_tokens
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export.folder import export_folder
from lara_tokenizer.export.matching import match_source
from lara_tokenizer.export.pictures import PictureTask, picture_folder, write_pictures
from lara_tokenizer.export.shuffle import write_shuffled
from lara_tokenizer.export.tracks import Tokens


def _edited(tokens, column, change):
    """The same table with a column changed, as somebody's script might."""
    table = pq.read_table(tokens)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), change(table[column])), tokens)


def test_tracks_give_every_row_once_whatever_the_row_groups_are(tokens):
    tracks = list(Tokens.open(tokens).tracks("codes", "latents", "text"))
    assert [(track.episode, len(track.frames)) for track in tracks] == [("a.mp4", 24), ("b/left.mp4", 30)]
    table = read_tokens(tokens)
    for name, values in (("codes", [t.codes for t in tracks]), ("latents", [t.latents for t in tracks])):
        expected = np.array(table[name].to_pylist())
        np.testing.assert_array_equal(np.concatenate(values), expected.astype(values[0].dtype))
    assert np.concatenate([t.wanted for t in tracks]).tolist() == table["valid"].to_pylist()
    assert tracks[0].texts == ["push the box"] * 24


def test_thresholds_leave_out_what_is_below_and_say_how_much(tokens):
    opened = Tokens.open(tokens, min_margin=0.5, min_motion=0.25)
    wanted = np.concatenate([track.wanted for track in opened.tracks()])
    table = read_tokens(tokens)
    margin, motion = (np.array(table[name].to_pylist(), float) for name in ("code_margin", "motion"))
    valid = np.array(table["valid"].to_pylist())
    np.testing.assert_array_equal(wanted, valid & (margin >= 0.5) & (motion >= 0.25))
    assert sum(opened.left_out.values()) + wanted.sum() == table.num_rows


def test_one_stride_and_named_cameras_are_exported(tmp_path, write_tokens):
    path = write_tokens(tmp_path / "t.parquet", {"a": 9, "b": 8}, strides=("2f", "3f"), cameras=("top", "wrist"))
    with pytest.raises(ValueError, match="holds strides 2f, 3f: one export has one"):
        Tokens.open(path, cameras="all")
    with pytest.raises(ValueError, match=r"stride '4f': .* holds 2f, 3f"):
        Tokens.open(path, stride="4f", cameras="all")
    with pytest.raises(ValueError, match="holds cameras top, wrist"):
        Tokens.open(path, stride="2f")
    with pytest.raises(ValueError, match="camera 'front'"):
        Tokens.open(path, stride="2f", cameras="front")
    tracks = list(Tokens.open(path, stride="3f", cameras="wrist").tracks())
    assert [(t.episode, t.camera, t.futures.tolist()[0]) for t in tracks] == [("a", "wrist", 3), ("b", "wrist", 3)]
    assert len(list(Tokens.open(path, stride="3f", cameras="all").tracks())) == 4


def test_codes_out_of_range_are_named(tokens):
    _edited(tokens, "codes", lambda column: pa.chunked_array([pc_add(chunk, 9) for chunk in column.chunks]))
    with pytest.raises(ValueError, match=r"codes from .* to 2[0-9], the model's codebook has 0 to 15"):
        list(Tokens.open(tokens).tracks("codes"))


def pc_add(chunk, number):
    values = pa.array(chunk.flatten().to_numpy() + np.int16(number))
    return pa.FixedSizeListArray.from_arrays(values, type=chunk.type)


def test_a_table_and_its_source_match(tokens, clips):
    matched = match_source(Tokens.open(tokens), clips)
    assert matched.num_frames == {("a.mp4", ""): 24, ("b/left.mp4", ""): 30}
    assert matched.wanted == {("a.mp4", ""): 19, ("b/left.mp4", ""): 25}
    assert matched.left_out == Counter({"invalid: the future frame lies past the end": 10})


def test_a_missing_episode_a_shorter_video_and_another_rate_are_named(
    tmp_path, tokens, clips, moving_square, write_video
):
    with pytest.raises(ValueError, match=r"episode 'b/left.mp4' of .* is not in the source"):
        match_source(Tokens.open(tokens), clips / "a.mp4")
    write_video(tmp_path / "short" / "a.mp4", moving_square(20))
    write_video(tmp_path / "short" / "b" / "left.mp4", moving_square(30))
    with pytest.raises(ValueError, match=r"'a.mp4' has 20 frames in the source, .* labels frame 23: .* another video"):
        match_source(Tokens.open(tokens), tmp_path / "short")
    write_video(tmp_path / "fast" / "a.mp4", moving_square(24), fps=20)
    write_video(tmp_path / "fast" / "b" / "left.mp4", moving_square(30))
    with pytest.raises(ValueError, match=r"frame 1 is at 0.050 s in the source and at 0.100 s .* another frame rate"):
        match_source(Tokens.open(tokens), tmp_path / "fast")


def test_thresholds_that_leave_nothing_are_refused(tokens, clips):
    with pytest.raises(ValueError, match=r"no pair of stride 5f is left to export .*44 code_margin below 2"):
        match_source(Tokens.open(tokens, min_margin=2), clips)


def test_an_export_has_its_name_only_when_whole_and_goes_on_where_it_stopped(tmp_path):
    out, job = tmp_path / "out", {"format": "lapa", "seed": 0}

    def is_killed():
        with export_folder(out, job) as folder:
            (folder.path / "one").write_text("1")
            folder.mark_done("one\nof two lines")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        is_killed()
    assert not out.exists()
    with pytest.raises(JobMismatchError, match="seed was 0 and is 1"), export_folder(out, {**job, "seed": 1}):
        pass
    with export_folder(out, job) as folder:
        assert folder.is_done("one\nof two lines")
        assert not folder.is_done("two")
    assert [file.name for file in out.iterdir()] == ["one"]
    with pytest.raises(ValueError, match="exists already"), export_folder(out, job):
        pass


def test_a_kill_after_the_last_step_leaves_no_claim_on_what_has_its_name(tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    def is_killed():
        with export_folder(out, {}) as folder:
            (folder.path / "one").write_text("1")
            folder.mark_done("one")
            folder.path.rename(out)
            raise RuntimeError("killed before the scratch was removed")

    with pytest.raises(RuntimeError):
        is_killed()
    with pytest.raises(ValueError, match="exists already"), export_folder(out, {}):
        pass
    out.rename(tmp_path / "elsewhere")
    with export_folder(out, {}) as folder:
        assert not folder.is_done("one")
    assert out.is_dir()
    assert not partial.exists()


def test_a_line_that_a_kill_cut_short_is_not_believed(tmp_path):
    def is_killed():
        with export_folder(tmp_path / "out", {}) as folder:
            folder.mark_done("whole")
            with (folder.path.parent / "done.txt").open("a") as stream:
                stream.write("episode_1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        is_killed()
    with export_folder(tmp_path / "out", {}) as folder:
        assert folder.is_done("whole")
        assert not folder.is_done("episode_1")


def test_a_shuffle_keeps_every_line_and_follows_from_its_seed(tmp_path):
    lines = [json.dumps(number).encode() + b"\n" for number in range(70_000)]
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shuffled(iter(lines), len(lines), tmp_path / name, seed)
        orders.append((tmp_path / name).read_bytes().splitlines(keepends=True))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(lines)
    places = np.array([int(line) for line in orders[0]])
    # Neither near where they were, nor sorted within buckets.
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.02
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "c"]


def test_pictures_are_the_frames_asked_for_and_written_once(tmp_path, tokens, clips):
    from PIL import Image

    matched = match_source(Tokens.open(tokens), clips)
    episode = matched.episodes["a.mp4"]
    numbers = np.array([0, 7, 20])
    with export_folder(tmp_path / "out", {}) as folder:
        task = PictureTask(episode, "", numbers, folder.path / picture_folder("a.mp4", ""))
        counts: list[int] = []
        write_pictures([task], folder, workers=0, progress=counts.append)
        write_pictures([task], folder, workers=0, progress=counts.append)
    assert counts == [3]
    files = sorted((tmp_path / "out/images/a.mp4").iterdir())
    assert [file.name for file in files] == ["img_00000.jpg", "img_00007.jpg", "img_00020.jpg"]
    for file, expected in zip(files, episode.frames("", numbers), strict=True):
        assert np.abs(np.array(Image.open(file)).astype(int) - expected).mean() < 6  # JPEG halves the colours
