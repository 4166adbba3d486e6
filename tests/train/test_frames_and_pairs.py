"""The cache holds what the processor gives; pairs stay inside their episode; draws are balanced and repeatable."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.frames import FrameCache, Stream
from lara_tokenizer.train.pairs import EpisodeBalancedSampler, PairDataset, split_streams


@pytest.fixture(scope="module")
def processor() -> LatentActionProcessor:
    return LatentActionProcessor(size={"height": 16, "width": 16})


@pytest.fixture
def cache(tmp_path, squares, processor) -> FrameCache:
    return FrameCache.build(squares(4, cameras=("a", "bb")), processor, tmp_path / "frames")


def test_the_cache_is_the_processors_output(cache, squares, processor):
    episodes = {episode.id: episode for episode in squares(4)}
    assert len(cache.streams) == 8
    for stream in cache.streams:
        frames = episodes[stream.episode].frames(stream.camera, range(20))
        cached = torch.from_numpy(cache.frames[stream.offset : stream.offset + 20].copy())
        assert torch.equal(processor.normalize_frames(cached), processor(frames)["pixel_values"])


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
    with pytest.raises(ValueError, match="other episodes or of another resize"):
        FrameCache.build(squares(3), processor, tmp_path)
    with pytest.raises(ValueError, match="other episodes or of another resize"):
        FrameCache.build(squares(2), LatentActionProcessor(size={"height": 8, "width": 8}), tmp_path)


def test_an_unreadable_episode_is_left_out_and_named(tmp_path, squares, processor, caplog):
    cache = FrameCache.build(squares(3, broken=(1,)), processor, tmp_path)
    assert [stream.episode for stream in cache.streams] == ["ep000", "ep002"]
    assert "clip1.mp4: damaged" in caplog.text
    with pytest.raises(ValueError, match="none of the 2 episodes"):
        FrameCache.build(squares(2, broken=(0, 1)), processor, tmp_path / "none")


def test_the_cache_travels_to_a_loader_process_by_path(cache):
    assert cache.frames.shape[0] == 160
    assert len(pickle.dumps(cache)) < 10_000
    assert np.array_equal(pickle.loads(pickle.dumps(cache)).frames, cache.frames)


def test_pairs_are_one_stride_apart_and_never_leave_their_episode(cache):
    pairs = PairDataset(cache, cache.streams, ["0.5s", "3f"])
    gaps = pairs.pairs[:, 1] - pairs.pairs[:, 0]
    assert set(gaps) == {3, 5}
    assert np.array_equal(pairs.pairs[:, 0] // 20, pairs.pairs[:, 1] // 20)
    assert len(pairs) == 8 * (15 + 17)
    assert torch.equal(pairs.batch([3])[0, 1], torch.from_numpy(cache.frames[pairs.pairs[3, 1]].copy()))


def test_an_episode_shorter_than_the_stride_gives_no_pair_and_none_at_all_is_an_error(cache):
    short = Stream("short", "", 0, np.arange(3) / 10)
    pairs = PairDataset(cache, [short, *cache.streams[:2]], ["5f"])
    assert len(pairs.counts) == 2
    with pytest.raises(ValueError, match="no episode is long enough for a pair 5f"):
        PairDataset(cache, [short], ["5f"])


def test_every_episode_is_drawn_equally_often_however_long(cache):
    long, short = Stream("long", "", 0, np.arange(120) / 10), Stream("short", "", 120, np.arange(10) / 10)
    pairs = PairDataset(cache, [long, short], ["5f"])
    drawn = np.array(list(EpisodeBalancedSampler(pairs, 1001)))
    in_short = (pairs.pairs[drawn, 0] >= 120).sum()
    assert abs(in_short - 500) <= 1
    assert len(np.unique(drawn)) > 100


def test_the_order_is_a_function_of_seed_and_epoch(cache):
    pairs = PairDataset(cache, cache.streams, ["5f"])
    sampler = EpisodeBalancedSampler(pairs, 64, seed=3)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    assert first == list(EpisodeBalancedSampler(pairs, 64, seed=3))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(cache, workers):
    pairs = PairDataset(cache, cache.streams, ["5f"])
    sampler = EpisodeBalancedSampler(pairs, 32)
    loader = torch.utils.data.DataLoader(pairs, 8, sampler=sampler, num_workers=workers, collate_fn=_whole)
    batches = torch.cat([batch["frames"] for batch in loader])
    assert torch.equal(batches, pairs.batch(list(sampler)))


def _whole(batch):
    return batch


def test_held_out_episodes_take_all_their_cameras_with_them(cache):
    kept, heldout = split_streams(cache.streams, 0.25)
    assert len(heldout) == 2
    assert len({stream.episode for stream in heldout}) == 1
    assert not {stream.episode for stream in kept} & {stream.episode for stream in heldout}
    with pytest.raises(ValueError, match="give at least 2"):
        split_streams(cache.streams[:1], 0.25)
