"""What all exports share: which rows are wanted, whether table and source belong together, folders, shuffles."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data import Episode, load_episodes
from lara_tokenizer.encode import encode_dataset
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export import export_univla
from lara_tokenizer.export.folder import export_folder
from lara_tokenizer.export.images import ImageTask, check_image_folders, image_folder, write_images
from lara_tokenizer.export.jsonl import write_shuffled
from lara_tokenizer.export.source_match import PairSample, match_source
from lara_tokenizer.table import read_tokens
from lara_tokenizer.table.reader import TokenTable


def _edited(tokens, column, change):
    """The same table with a column changed, as somebody's script might."""
    table = pq.read_table(tokens)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), change(table[column])), tokens)


def test_tracks_give_every_row_once_whatever_the_row_groups_are(tokens):
    tracks = list(TokenTable.open(tokens).sequences("codes", "latents", "text"))
    assert [(track.episode, len(track.frames)) for track in tracks] == [("a.mp4", 24), ("b/left.mp4", 30)]
    table = read_tokens(tokens)
    for name, values in (("codes", [t.codes for t in tracks]), ("latents", [t.latents for t in tracks])):
        expected = np.array(table[name].to_pylist())
        np.testing.assert_array_equal(np.concatenate(values), expected.astype(values[0].dtype))
    assert np.concatenate([t.selected for t in tracks]).tolist() == table["valid"].to_pylist()
    assert tracks[0].texts == ["push the box"] * 24


def test_thresholds_leave_out_what_is_below_and_say_how_much(tokens):
    opened = TokenTable.open(tokens, min_margin=0.5, min_motion=0.25)
    wanted = np.concatenate([track.selected for track in opened.sequences()])
    table = read_tokens(tokens)
    margin, motion = (np.array(table[name].to_pylist(), float) for name in ("code_margin", "motion"))
    valid = np.array(table["valid"].to_pylist())
    np.testing.assert_array_equal(wanted, valid & (margin >= 0.5) & (motion >= 0.25))
    assert sum(opened.left_out.values()) + wanted.sum() == table.num_rows


def test_one_stride_and_named_cameras_are_exported(tmp_path, write_tokens):
    path = write_tokens(tmp_path / "t.parquet", {"a": 9, "b": 8}, strides=("2f", "3f"), cameras=("top", "wrist"))
    with pytest.raises(ValueError, match="holds strides 2f, 3f: one export has one"):
        TokenTable.open(path, cameras="all")
    with pytest.raises(ValueError, match=r"stride '4f': .* holds 2f, 3f"):
        TokenTable.open(path, stride="4f", cameras="all")
    with pytest.raises(ValueError, match="holds cameras top, wrist"):
        TokenTable.open(path, stride="2f")
    with pytest.raises(ValueError, match="camera 'front'"):
        TokenTable.open(path, stride="2f", cameras="front")
    tracks = list(TokenTable.open(path, stride="3f", cameras="wrist").sequences())
    assert [(t.episode, t.camera, t.futures.tolist()[0]) for t in tracks] == [("a", "wrist", 3), ("b", "wrist", 3)]
    assert len(list(TokenTable.open(path, stride="3f", cameras="all").sequences())) == 4


def test_codes_out_of_range_are_named(tokens):
    _edited(tokens, "codes", lambda column: pa.chunked_array([pc_add(chunk, 9) for chunk in column.chunks]))
    with pytest.raises(ValueError, match=r"codes from .* to 2[0-9], the model's codebook has 0 to 15"):
        list(TokenTable.open(tokens).sequences("codes"))


def pc_add(chunk, number):
    values = pa.array(chunk.flatten().to_numpy() + np.int16(number))
    return pa.FixedSizeListArray.from_arrays(values, type=chunk.type)


def test_a_table_and_its_source_match(tokens, clips):
    matched = match_source(TokenTable.open(tokens), clips)
    assert matched.num_frames == {("a.mp4", ""): 24, ("b/left.mp4", ""): 30}
    assert matched.selected == {("a.mp4", ""): 19, ("b/left.mp4", ""): 25}
    assert matched.left_out == Counter({"invalid: the future frame lies past the end": 10})


def test_a_missing_episode_a_shorter_video_and_another_rate_are_named(
    tmp_path, tokens, clips, moving_square, write_video
):
    with pytest.raises(ValueError, match=r"episode 'b/left.mp4' of .* is not in the source"):
        match_source(TokenTable.open(tokens), clips / "a.mp4")
    write_video(tmp_path / "short" / "a.mp4", moving_square(20))
    write_video(tmp_path / "short" / "b" / "left.mp4", moving_square(30))
    with pytest.raises(ValueError, match=r"'a.mp4' has 20 frames in the source, .* labels frame 23: .* another video"):
        match_source(TokenTable.open(tokens), tmp_path / "short")
    write_video(tmp_path / "fast" / "a.mp4", moving_square(24), fps=20)
    write_video(tmp_path / "fast" / "b" / "left.mp4", moving_square(30))
    with pytest.raises(ValueError, match=r"frame 1 is at 0.050 s in the source and at 0.100 s .* another frame rate"):
        match_source(TokenTable.open(tokens), tmp_path / "fast")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, clips, tiny_model, tiny_processor):
    """A table that encode made of `clips`."""
    out = tmp_path_factory.mktemp("encoded") / "tokens.parquet"
    encode_dataset(clips, tiny_model, tiny_processor, out=out, strides="5f", workers=0)
    return out


def test_another_video_of_the_same_length_and_rate_is_told_by_its_pixels(
    tmp_path, encoded, clips, moving_square, write_video
):
    assert match_source(TokenTable.open(encoded), clips).num_pairs == 44
    write_video(tmp_path / "a.mp4", moving_square(24, seed=2, step=5))
    write_video(tmp_path / "b" / "left.mp4", moving_square(30, seed=3, step=1))  # as seed 1 at step 2 was encoded
    with pytest.raises(
        ValueError, match=r"'b/left.mp4': from frame .* pixels change by .* in the table: another video"
    ):
        match_source(TokenTable.open(encoded), tmp_path)


def test_pairs_to_compare_are_spread_over_all_tracks(tmp_path, write_tokens):
    path = write_tokens(tmp_path / "t.parquet", {f"{number:03d}": 8 for number in range(100)}, columns=())
    sample = PairSample()
    tracks = list(TokenTable.open(path).sequences())
    for track in tracks:
        sample.add(track)
    assert 4 <= len(sample.pairs) <= 8
    places = [int(pair.episode) for pair in sample.pairs]
    assert places[0] == 0
    assert len(set(np.diff(places))) == 1
    for pair in sample.pairs:
        assert pair.motion == np.nanmax(tracks[int(pair.episode)].motions)


def test_an_export_in_its_own_source_is_refused(tokens, clips):
    for source in (clips, str(clips), [str(clips)]):
        with pytest.raises(ValueError, match="is inside its source"):
            match_source(TokenTable.open(tokens), source, out=clips / "new" / "out")


def test_episodes_among_paths_are_refused_and_not_dropped(tokens, clips):
    with pytest.raises(ValueError, match="mixes episodes and paths"):
        match_source(TokenTable.open(tokens), [load_episodes(clips)[0], str(clips)])


def test_a_file_whose_name_is_no_text_is_found_as_encode_named_it(tmp_path, write_tokens, clips):
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(clips / "a.mp4", os.path.join(os.fsencode(folder), b"\xff.mp4"))
    name = load_episodes(folder)[0].id.encode("utf-8", "backslashreplace").decode()
    tokens = write_tokens(tmp_path / "t.parquet", {name: 24})
    assert match_source(TokenTable.open(tokens), folder).num_pairs == 19


def test_pictures_lie_below_their_folder_whatever_the_episode_is_called():
    for episode in ("../../evil", "/etc/passwd", "a/../../b", "..", "a//b"):
        parts = image_folder(episode, "..").split("/")
        assert parts[0] == "images"
        assert not {"..", ".", ""} & set(parts)


def test_two_cameras_that_would_share_a_folder_are_refused():
    with pytest.raises(ValueError, match=r"episode 'a/b' camera '' and of 'a' camera 'b' would have the same names"):
        check_image_folders([("a", "b"), ("a/b", "")])
    check_image_folders([("a", "b c"), ("a b", "c"), ("a", "b/c"), ("a/b", "c")])
    tasks = [
        ImageTask(Episode(name, None), camera, np.arange(1), Path()) for name, camera in (("a", "b c"), ("a b", "c"))
    ]
    assert tasks[0].part != tasks[1].part


def test_thresholds_that_leave_nothing_are_refused(tokens, clips):
    with pytest.raises(ValueError, match=r"no pair of stride 5f is left to export .*44 code_margin below 2"):
        match_source(TokenTable.open(tokens, min_margin=2), clips)


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
    assert not partial.exists()
    out.rename(tmp_path / "elsewhere")
    with export_folder(out, {}) as folder:
        assert not folder.is_done("one")
    assert out.is_dir()
    assert not partial.exists()


def test_a_kill_before_the_job_is_known_is_no_hindrance(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/job.json.tmp").write_text('{"for')
    with export_folder(tmp_path / "out", {}) as folder:
        (folder.path / "one").write_text("1")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["one"]
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no unfinished export"), export_folder(tmp_path / "other", {}):
        pass


def test_two_runs_of_one_export_do_not_meet(tmp_path):
    code = (
        "import sys; from lara_tokenizer.export.folder import export_folder\nwith export_folder(sys.argv[1], {}): pass"
    )
    with export_folder(tmp_path / "out", {}) as folder:
        (folder.path / "one").write_text("1")
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert "is being written by another process" in second.stderr
    assert (tmp_path / "out/one").read_text() == "1"


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    with export_folder(tmp_path / "out", {}) as folder:
        (folder.path / "one").write_text("1")
    assert (tmp_path / "real/one").exists()
    assert (tmp_path / "out").is_symlink()


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

    matched = match_source(TokenTable.open(tokens), clips)
    episode = matched.episodes["a.mp4"]
    numbers = np.array([0, 7, 20])
    with export_folder(tmp_path / "out", {}) as folder:
        task = ImageTask(episode, "", numbers, folder.path / image_folder("a.mp4", ""))
        written: list[ImageTask] = []
        done: list[ImageTask] = []
        work = lambda task: (written.append(task), write_images(task))  # noqa: E731
        folder.run_tasks(work, [task], workers=0, on_done=done.append)
        folder.run_tasks(work, [task], workers=0, on_done=done.append)
    assert (written, done) == ([task], [task, task])
    files = sorted((tmp_path / "out/images/a.mp4").iterdir())
    assert [file.name for file in files] == ["img_00000.jpg", "img_00007.jpg", "img_00020.jpg"]
    for file, expected in zip(files, episode.frames("", numbers), strict=True):
        assert np.abs(np.array(Image.open(file)).astype(int) - expected).mean() < 6  # JPEG halves the colours


def test_a_finished_export_is_complete_and_another_one_is_refused(tmp_path, tokens, clips):
    out = tmp_path / "out"
    first = export_univla(tokens, clips, out, images=False)
    written = (out / "train.jsonl").stat().st_mtime_ns
    again = export_univla(tokens, clips, out, images=False)
    assert (again.pairs, again.settings, again.left_out) == (first.pairs, first.settings, first.left_out)
    assert "complete already" in again.notes[-1]
    assert (out / "train.jsonl").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="exists already"):
        export_univla(tokens, clips, out, images=False, seed=1)


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    def is_full():
        with export_folder(tmp_path / "out", {}):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"out cannot be written \(No space .* run the same command again"):
        is_full()
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"cannot write to .*Name another --out"),
        export_folder(tmp_path / "file/out", {}),
    ):
        pass


def test_a_table_that_says_nothing_of_frames_is_exported_with_a_note(tmp_path, tokens, encoded, clips):
    assert "pixels of its source were not" in export_univla(tokens, clips, tmp_path / "a", images=False).notes[-1]
    notes = export_univla(encoded, clips, tmp_path / "b", images=False, instruction="go").notes
    assert not any("pixels" in note for note in notes)
