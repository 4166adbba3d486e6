"""The cache and the readers give the same frames, those of a whole decode through the processor."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.stride import TOLERANCE
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.frames import MAX_OPEN_EPISODES, FrameCache, ReaderFrames
from lara_tokenizer.train.mixture import find_pairs
from lara_tokenizer.train.sequences import FrameSequence


@pytest.fixture(scope="module")
def processor() -> LatentActionProcessor:
    return LatentActionProcessor(size={"height": 16, "width": 16})


@pytest.fixture
def cache(tmp_path, squares, processor) -> FrameCache:
    return FrameCache.build(squares(4, cameras=("a", "bb")), processor, tmp_path / "frames")


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video, moving_square):
    """Two clips with a key frame every 12 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for index in range(2):
        write_video(folder / f"{index}.mp4", moving_square(40, seed=index), gop=12)
    return folder


def _read_all(source, sequence) -> torch.Tensor:
    return source.read(np.array([sequence.index]), np.arange(len(sequence.timestamps))[None])[0]


@pytest.mark.parametrize("cached", [True, False])
def test_frames_are_those_of_a_whole_decode_through_the_processor(tmp_path, videos, processor, cached):
    episodes = load_episodes(videos)
    source = FrameCache.build(episodes, processor, tmp_path) if cached else ReaderFrames(episodes, processor)
    assert [sequence.episode for sequence in source.sequences] == ["0.mp4", "1.mp4"]
    whole = [processor.resize_frames(episode.frames("", range(40))) for episode in load_episodes(videos)]
    rng = np.random.default_rng(0)
    sequences, frames = rng.integers(0, 2, 24), rng.integers(0, 40, (24, 2))
    expected = torch.stack([whole[sequence][pair] for sequence, pair in zip(sequences, frames, strict=True)])
    assert torch.equal(source.read(sequences, frames), expected)


@pytest.mark.parametrize("cached", [True, False])
def test_a_frame_rate_takes_the_frames_nearest_to_its_grid(tmp_path, squares, processor, cached):
    episodes = squares(2, num_frames=31, fps=30)
    if cached:
        source = FrameCache.build(episodes, processor, tmp_path, frame_rate=10)
    else:
        source = ReaderFrames(episodes, processor, frame_rate=10)
    (first, _) = source.sequences
    assert first.recorded.tolist() == list(range(0, 31, 3))
    np.testing.assert_allclose(first.timestamps, np.arange(11) / 10)
    expected = processor.resize_frames(squares(2, num_frames=31, fps=30)[0].frames("", range(0, 31, 3)))
    assert torch.equal(_read_all(source, first), expected)
    if cached:
        assert source.frames.shape[0] == 2 * 11
        assert FrameCache(tmp_path).sequences[1].period == 0.1
        with pytest.raises(ValueError, match="of another frame_rate"):
            FrameCache.build(episodes, processor, tmp_path)


def test_a_frame_rate_above_the_recordings_changes_nothing(tmp_path, squares, processor):
    whole = FrameCache.build(squares(1, fps=10), processor, tmp_path)
    assert FrameCache.build(squares(1, fps=10), processor, tmp_path, frame_rate=12).fingerprint == whole.fingerprint


@pytest.mark.parametrize("fps", [10, 12, 15, 20, 24, 25, 29.97, 30, 50, 60])
def test_every_stride_finds_pairs_on_the_grid(fps):
    recorded = FrameSequence(0, "", "a", "", np.arange(round(4 * fps)) / fps)
    strides = ("0.2s", "0.3s", "0.5s", "1s")
    (paired,) = find_pairs([recorded.thinned(10)], strides)
    times = paired.sequence.timestamps
    assert [pairs.stride for pairs in paired.pairs] == [0, 1, 2, 3]
    for pairs, stride in zip(paired.pairs, (0.2, 0.3, 0.5, 1.0), strict=True):
        listed = pairs.frame_pairs
        if listed is None:
            listed = np.stack([np.arange(pairs.count), np.arange(pairs.count) + pairs.gap], 1)
        gaps = times[listed[:, 1]] - times[listed[:, 0]]
        # Every grid point that has a partner, but those that the uneven frames of such a rate leave without one.
        assert len(listed) > 0.6 * (40 - 10 * stride)
        assert np.abs(gaps / stride - 1).max() < TOLERANCE + 0.01


def test_a_dataset_of_which_nothing_can_be_read_is_refused(tmp_path, squares, processor):
    lost = squares(2, broken=(0, 1), dataset="lost")
    with pytest.raises(ValueError, match="none of the 2 episodes of dataset 'lost' could be read"):
        FrameCache.build([*squares(2, dataset="kept"), *lost], processor, tmp_path)


def test_the_cache_is_the_processors_output(cache, squares, processor):
    episodes = {episode.id: episode for episode in squares(4)}
    assert len(cache.sequences) == 8
    for sequence in cache.sequences:
        frames = episodes[sequence.episode].frames(sequence.camera, range(20))
        assert torch.equal(processor.normalize_frames(_read_all(cache, sequence)), processor(frames)["pixel_values"])


def test_a_second_build_decodes_nothing_and_a_killed_one_goes_on(tmp_path, squares, processor):
    episodes = squares(3)
    FrameCache.build(episodes, processor, tmp_path)
    done = np.memmap(tmp_path / "done.u8", np.uint8, "r+")
    done[1] = 0
    done.flush()
    again = squares(3)
    FrameCache.build(again, processor, tmp_path)
    assert [episode.reader.calls for episode in again] == [0, 1, 0]


def test_worker_processes_fill_the_same_cache(tmp_path, squares, processor, cache):
    parallel = FrameCache.build(squares(4, cameras=("a", "bb")), processor, tmp_path / "parallel", workers=2)
    assert np.array_equal(parallel.frames, cache.frames)
    assert parallel.fingerprint == cache.fingerprint


def test_a_folder_with_other_frames_is_refused(tmp_path, squares, processor):
    FrameCache.build(squares(2), processor, tmp_path)
    with pytest.raises(ValueError, match="holds the frames of other episodes"):
        FrameCache.build(squares(3), processor, tmp_path)
    with pytest.raises(ValueError, match="holds the frames of other episodes"):
        FrameCache.build(squares(2), LatentActionProcessor(size={"height": 8, "width": 8}), tmp_path)


def test_an_unreadable_episode_is_left_out_of_the_cache_and_named(tmp_path, squares, processor, caplog):
    cache = FrameCache.build(squares(3, broken=(1,)), processor, tmp_path)
    assert [(sequence.index, sequence.episode) for sequence in cache.sequences] == [(0, "ep000"), (1, "ep002")]
    assert "clip1.mp4: damaged" in caplog.text
    last = processor.resize_frames(squares(3)[2].frames("", range(20)))
    assert torch.equal(_read_all(cache, cache.sequences[1]), last)
    with pytest.raises(ValueError, match="none of the 2 episodes"):
        FrameCache.build(squares(2, broken=(0, 1)), processor, tmp_path / "none")


def test_equal_ids_belong_to_their_own_dataset_and_are_refused_within_one(tmp_path, squares, processor):
    both = squares(1, dataset="a") + squares(2, dataset="b")[1:] + squares(1, num_frames=9, dataset="c")
    cache = FrameCache.build(both, processor, tmp_path)
    assert [(sequence.dataset, sequence.episode) for sequence in cache.sequences] == [
        ("a", "ep000"),
        ("b", "ep001"),
        ("c", "ep000"),
    ]
    assert len(_read_all(cache, cache.sequences[2])) == 9
    with pytest.raises(ValueError, match="two episodes are called 'ep000'"):
        ReaderFrames(squares(1) + squares(1), processor)


def test_a_source_travels_to_a_loader_process_without_frames_or_open_files(cache, squares, processor):
    assert cache.frames.shape[0] == 160
    assert len(pickle.dumps(cache)) < 10_000
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).frames, cache.frames)
    readers = ReaderFrames(squares(4, cameras=("a", "bb")), processor)
    before = _read_all(readers, readers.sequences[3])
    there = pickle.loads(pickle.dumps(readers))
    assert not there._open
    assert torch.equal(_read_all(there, readers.sequences[3]), before)


def test_readers_stay_open_for_the_last_few_episodes_only(squares, processor):
    episodes = squares(MAX_OPEN_EPISODES + 2)
    source = ReaderFrames(episodes, processor)
    listed = [episode.reader.closed for episode in episodes]

    def closed() -> list[int]:
        return [index for index, episode in enumerate(episodes) if episode.reader.closed > listed[index]]

    source.read(np.arange(MAX_OPEN_EPISODES), np.zeros((MAX_OPEN_EPISODES, 2), int))
    assert closed() == []
    source.read(np.array([0, MAX_OPEN_EPISODES]), np.zeros((2, 2), int))  # 0 is used again, so 1 is the oldest
    assert closed() == [1]
    source.close()
    assert closed() == list(range(MAX_OPEN_EPISODES + 1))


def test_what_cannot_be_listed_is_left_out_and_what_cannot_be_decoded_is_named(tmp_path, videos, processor, caplog):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    os.symlink(videos / "0.mp4", tmp_path / "good.mp4")
    source = ReaderFrames(load_episodes(tmp_path), processor)
    assert [sequence.episode for sequence in source.sequences] == ["good.mp4"]
    assert "bad.mp4" in caplog.text


def test_a_decoding_failure_names_the_episode_and_the_frames(squares, processor):
    source = ReaderFrames(squares(3, broken=(1,)), processor)
    source.read(np.array([0, 2]), np.array([[0, 5], [1, 6]]))
    with pytest.raises(
        LaraTokenizerError, match=r"episode 'ep001' cannot be read at frames 3 to 8: clip1.mp4: damaged"
    ):
        source.read(np.array([0, 1]), np.array([[0, 5], [3, 8]]))


def test_a_fork_with_open_episodes_is_refused(squares, processor, monkeypatch):
    source = ReaderFrames(squares(2), processor)
    source.read(np.array([0]), np.array([[0, 5]]))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="call close\\(\\) before"):
        source.read(np.array([0]), np.array([[0, 5]]))
    source.close()
    source.read(np.array([0]), np.array([[0, 5]]))
