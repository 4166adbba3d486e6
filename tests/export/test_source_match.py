"""A table and the source it was made from: whether they belong together."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from token_tables import edited

from lara_tokenizer.data import load_episodes
from lara_tokenizer.encode import encode_dataset
from lara_tokenizer.export import export_univla, export_webdataset
from lara_tokenizer.export.source_match import PairSample, match_source
from lara_tokenizer.table.reader import TokenTable


def test_a_table_and_its_source_match(tokens, clips):
    matched = match_source(TokenTable.open(tokens), clips)
    assert matched.num_frames == {("a.mp4", ""): 24, ("b/left.mp4", ""): 30}
    assert matched.selected == {("a.mp4", ""): 19, ("b/left.mp4", ""): 25}
    assert matched.left_out == Counter({"invalid: the future frame lies past the end": 10})


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("future_frame_index", 1, "pairs of episode 'a.mp4' run backward"),
        ("future_frame_index", 9, r"'a.mp4': frame 9 is at 0.900 s in the source and at 0.800 s"),
        ("future_timestamp", 0.9, r"'a.mp4': frame 8 is at 0.800 s in the source and at 0.900 s"),
        ("future_timestamp", None, r"'a.mp4': frame 8 is at 0.800 s in the source and at nan s"),
    ],
)
def test_a_pair_whose_future_frame_was_edited_is_refused(tmp_path, tokens, clips, column, value, reason):
    values = pq.read_table(tokens)[column].to_pylist()
    values[3] = value
    table = edited(tokens, tmp_path / "edited.parquet", {column: values})
    with pytest.raises(ValueError, match=reason):
        export_webdataset(table, clips, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_missing_episode_a_shorter_video_and_another_rate_are_refused(
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


def test_another_video_of_equal_length_and_rate_is_detected_by_its_pixels(
    tmp_path, encoded, clips, moving_square, write_video
):
    source, table = tmp_path / "clips", shutil.copy(encoded, tmp_path / "tokens.parquet")
    write_video(source / "a.mp4", moving_square(24, seed=2, step=5))
    write_video(source / "b" / "left.mp4", moving_square(30, seed=3, step=1))  # as seed 1 at step 2 was encoded
    os.utime(table, ns=(0, (source / "a.mp4").stat().st_mtime_ns + 10**10))  # no file is newer than the table
    with pytest.raises(
        ValueError, match=r"'b/left.mp4': from frame .* pixels change by .* in the table: another video"
    ):
        match_source(TokenTable.open(table), source)


def test_a_file_newer_than_the_table_is_the_same_by_its_content_or_refused(tmp_path, encoded, clips):
    table = TokenTable.open(encoded)
    copy = shutil.copytree(clips, tmp_path / "clips")
    shutil.copy(clips / "a.mp4", copy / "c.mp4")  # no episode of the table
    assert match_source(table, copy).num_pairs == 44
    content = (copy / "b/left.mp4").read_bytes()
    at = content.index(b"mdat") + 40
    (copy / "b/left.mp4").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=r"made from other files than the source has now; .*: a.mp4, b/left.mp4"):
        match_source(table, copy)


def test_a_table_without_frame_metadata_is_exported_with_a_note(tmp_path, tokens, encoded, clips):
    assert "pixels of its source were not" in export_univla(tokens, clips, tmp_path / "a", images=False).notes[-1]
    notes = export_univla(encoded, clips, tmp_path / "b", images=False, instruction="go").notes
    assert not any("pixels" in note for note in notes)


def test_pairs_to_compare_are_spread_over_all_sequences(tmp_path, write_tokens):
    path = write_tokens(tmp_path / "t.parquet", {f"{index:03d}": 8 for index in range(100)}, columns=())
    sample = PairSample()
    sequences = list(TokenTable.open(path).sequences())
    for sequence in sequences:
        sample.add(sequence)
    assert 4 <= len(sample.pairs) <= 8
    indices = [int(pair.episode) for pair in sample.pairs]
    assert indices[0] == 0
    assert len(set(np.diff(indices))) == 1
    for pair in sample.pairs:
        assert pair.motion == np.nanmax(sequences[int(pair.episode)].motions)


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


def test_thresholds_that_leave_nothing_are_refused(tokens, clips):
    with pytest.raises(ValueError, match=r"no pair of stride 5f is left to export .*44 code_margin below 2"):
        match_source(TokenTable.open(tokens, min_margin=2), clips)
