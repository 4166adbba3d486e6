"""Samples are those of the mixture, in any process; actions are those from now until the future frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train import (
    EpisodeActions,
    FrameCache,
    InfiniteSampler,
    PairDataset,
    ReaderFrames,
    find_pairs,
    split_sequences,
)
from lara_tokenizer.train.augment import LoadedViews
from lara_tokenizer.train.recipe import AugmentationOptions
from lara_tokenizer.train.sequences import FrameSequence


@pytest.fixture(scope="module")
def processor() -> LatentActionProcessor:
    return LatentActionProcessor(size={"height": 16, "width": 16})


@pytest.fixture
def episodes(squares):
    """Two datasets: 8 sequences at 10 Hz, 2 at 30 Hz."""
    return squares(4, cameras=("a", "bb"), dataset="kitchen") + squares(2, num_frames=40, dataset="lab", fps=30)


@pytest.fixture(params=["cache", "readers"])
def frames(request, tmp_path, episodes, processor):
    return (
        FrameCache.build(episodes, processor, tmp_path)
        if request.param == "cache"
        else ReaderFrames(episodes, processor)
    )


def _pairs(frames, strides=("0.5s", "0.2s"), seed=3, **options) -> PairDataset:
    return PairDataset(frames, find_pairs(frames.sequences, strides), seed, **options)


def test_a_sample_is_the_pair_that_was_drawn(frames, episodes, processor):
    pairs = _pairs(frames)
    draws = pairs.mixture.draw(range(40))
    by_key = {(episode.dataset, episode.id): episode for episode in episodes}
    for k in range(40):
        sequence = frames.sequences[draws.sequence[k]]
        pixels = by_key[sequence.dataset, sequence.episode].frames(sequence.camera, [draws.now[k], draws.future[k]])
        assert torch.equal(pairs[k]["frames"], processor.resize_frames(pixels))
    assert torch.equal(pairs.batch(range(40))[7], pairs[7]["frames"])


def test_the_cache_and_the_readers_give_the_same_samples(tmp_path, episodes, processor):
    cached, read = FrameCache.build(episodes, processor, tmp_path), ReaderFrames(episodes, processor)
    assert torch.equal(_pairs(cached).batch(range(100)), _pairs(read).batch(range(100)))


def test_epochs_are_new_draws_and_equal_for_any_number_of_persistent_workers(frames):
    pairs = _pairs(frames)

    def epochs(workers: int) -> list[torch.Tensor]:
        sampler = InfiniteSampler(24)
        loader = DataLoader(
            pairs, 8, sampler=sampler, num_workers=workers, collate_fn=pairs.collate, persistent_workers=workers > 0
        )
        found = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            found.append(torch.cat([batch["frames"] for batch in loader]))
        pairs.frames.close()
        return found

    here = epochs(0)
    assert torch.equal(torch.cat(here), pairs.batch(range(72)))
    assert not torch.equal(here[0], here[1])
    assert not torch.equal(here[1], here[2])
    pairs.frames.close()
    for workers in (1, 2):
        assert torch.equal(torch.cat(epochs(workers)), torch.cat(here))


class HalfStill:
    """Two datasets of 8 sequences each, of which the even ones stand still; the red pixels tell the dataset."""

    start_method = None
    sequences = tuple(FrameSequence(i, "ab"[i // 8], f"ep{i}", "", np.arange(30) / 10) for i in range(16))

    def read(self, sequences: np.ndarray, frames: np.ndarray) -> torch.Tensor:
        pixels = np.zeros((*frames.shape, 3, 4, 4), np.uint8)
        pixels[:, :, 0] = (sequences >= 8)[:, None, None, None]
        pixels[:, :, 1] = (frames * (sequences % 2)[:, None])[..., None, None]
        return torch.from_numpy(pixels)


def test_pairs_that_stand_still_are_drawn_again_from_their_dataset():
    every, moving = _pairs(HalfStill(), ("0.5s",)), _pairs(HalfStill(), ("0.5s",), min_motion=0.001)
    all_frames, frames = every.batch(range(400)), moving.batch(range(400))

    def moves(pairs: torch.Tensor) -> torch.Tensor:
        return (pairs[:, 0] != pairs[:, 1]).flatten(1).any(1)

    assert 0.4 < moves(all_frames).float().mean() < 0.6
    assert moves(frames).float().mean() > 0.9  # a sample is given up after 5 still draws
    assert torch.equal(frames[moves(all_frames)], all_frames[moves(all_frames)])
    assert torch.equal(frames[:, :, 0], all_frames[:, :, 0])
    assert torch.equal(moving[7]["frames"], frames[7])


def test_a_source_in_which_nothing_moves_still_gives_samples():
    pairs = _pairs(HalfStill(), ("0.5s",), min_motion=0.9)
    assert pairs.batch(range(20)).shape == (20, 2, 3, 4, 4)


def test_the_stride_of_a_sample_is_told(frames):
    pairs = _pairs(frames)
    assert torch.equal(pairs.__getitems__(range(40))["stride"], torch.from_numpy(pairs.mixture.draw(range(40)).stride))
    assert set(pairs.__getitems__(range(40))["stride"].tolist()) == {0, 1}


def test_views_made_in_loader_processes_are_equal_for_any_number_of_them(tmp_path, episodes):
    steady = LatentActionProcessor(size={"height": 16, "width": 16}, steady_pairs=True)
    options = AugmentationOptions(crop_scale=0.9, brightness=0.1, reverse=0.5, view_shift=0.05, view_light=0.1)
    cache = FrameCache.build(episodes, steady, tmp_path)
    pairs = _pairs(cache, prepare=LoadedViews(options, steady, seed=5))

    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        return list(DataLoader(pairs, 8, sampler=InfiniteSampler(32), num_workers=workers, collate_fn=pairs.collate))

    here = batches(0)
    assert not torch.equal(here[0]["frames"], here[0]["views"])
    for batch, other in zip(here, batches(2), strict=True):
        assert batch.keys() == other.keys() == {"frames", "views", "stride"}
        assert all(torch.equal(batch[name], other[name]) for name in batch)
    # From the middle, as after a restart, whatever torch's random state is.
    torch.manual_seed(0)
    assert torch.equal(pairs.__getitems__(range(16, 24))["views"], here[2]["views"])


def test_a_decoding_failure_keeps_its_type_on_the_way_from_a_loader_process(squares, processor):
    pairs = _pairs(ReaderFrames(squares(1, broken=(0,)), processor))
    with pytest.raises(LaraTokenizerError) as error:
        pairs[0]
    # How torch's loader carries it; a real one takes five seconds to close after an error.
    carried = ExceptionWrapper((error.type, error.value, error.tb))
    with pytest.raises(LaraTokenizerError, match="episode 'ep000' cannot be read"):
        carried.reraise()


def test_the_sampler_counts_on_from_epoch_to_epoch():
    sampler = InfiniteSampler(5)
    assert (len(sampler), list(sampler)) == (5, [0, 1, 2, 3, 4])
    sampler.set_epoch(2)
    assert list(sampler) == [10, 11, 12, 13, 14]


def test_actions_are_those_from_now_until_the_future_frame(squares, processor):
    # Row t is (episode, t, 2t) in one dataset, (episode, t) in the other; the third has none.
    episodes = (
        squares(3, dataset="arm", actions=3)
        + squares(2, num_frames=12, dataset="base", fps=3, actions=2)
        + squares(2, dataset="film")
    )
    actions = EpisodeActions.read(episodes)
    pairs = _pairs(ReaderFrames(episodes, processor), strides=("0.6s",), actions=actions)
    batch, draws = pairs.__getitems__(range(90)), pairs.mixture.draw(range(90))
    assert batch["actions"].shape == batch["action_mask"].shape == (90, 6, 3)  # 6 frames at 10 Hz
    assert (batch["actions"].dtype, batch["action_mask"].dtype) == (torch.float32, torch.bool)
    assert batch["dataset"].dtype == torch.int64
    assert torch.equal(batch["dataset"], torch.from_numpy(draws.dataset))
    widths = np.array([3, 2, 0])
    for k in range(90):
        name, gap = pairs.mixture.datasets[draws.dataset[k]], draws.future[k] - draws.now[k]
        width = widths[draws.dataset[k]]
        mask = np.zeros((6, 3), bool)
        mask[:gap, :width] = True
        if name == "film":
            mask[:] = False
        assert np.array_equal(batch["action_mask"][k].numpy(), mask)
        assert not batch["actions"][k][~batch["action_mask"][k]].any()
        if name != "film":
            rows = actions.statistics[name].restore(batch["actions"][k, :gap, :width].numpy())
            assert rows[:, 1] == pytest.approx(np.arange(draws.now[k], draws.future[k]), abs=1e-5)
            assert len(set(rows[:, 0].round(4))) == 1  # of one episode
    assert torch.equal(pairs[5]["actions"], batch["actions"][5])
    assert pairs[5]["dataset"].shape == ()


def test_held_out_actions_are_standardised_by_the_statistics_of_training(squares, processor):
    episodes = squares(4, actions=2)
    frames = ReaderFrames(episodes, processor)
    kept, heldout = split_sequences(find_pairs(frames.sequences, ["5f"]), 0.25)
    training = EpisodeActions.read([each for each in episodes if each.id != heldout[0].sequence.episode])
    other = EpisodeActions.read(episodes, training.statistics)
    assert other.statistics == training.statistics
    sample = PairDataset(frames, heldout, actions=other)[0]
    value = float(training.statistics[""].restore(sample["actions"][0].numpy())[0])
    assert value == pytest.approx(int(heldout[0].sequence.episode[2:]), abs=1e-5)
    assert PairDataset(frames, kept, actions=training)[0]["action_mask"].all()


def test_actions_that_are_not_there_or_do_not_fit_are_errors(squares, processor):
    with pytest.raises(ValueError, match="none of the 2 episodes has actions"):
        EpisodeActions.read(squares(2))
    some = EpisodeActions.read(squares(2, dataset="a", actions=2))
    with pytest.raises(ValueError, match="no statistics of dataset 'b'"):
        EpisodeActions.read(squares(2, dataset="b", actions=2), some.statistics)
    with pytest.raises(ValueError, match="none of the episodes that are drawn from has actions"):
        _pairs(ReaderFrames(squares(2, dataset="b"), processor), actions=some)
    with pytest.raises(ValueError, match="20 actions and 15 frames"):
        _pairs(ReaderFrames(squares(2, num_frames=15, dataset="a"), processor), actions=some)


def test_held_out_pairs_like_those_of_training_share_numbers_and_shapes(squares, processor):
    arms = squares(3, dataset="arm", actions=2) + squares(3, num_frames=60, dataset="bridge", fps=30, actions=5)
    frames = ReaderFrames(arms, processor)
    actions = EpisodeActions.read(arms)
    sequences = find_pairs(frames.sequences, ["0.5s"])
    training = PairDataset(frames, sequences, actions=actions)
    slow = [each for each in sequences if each.sequence.dataset == "bridge"][:1]
    heldout = PairDataset(frames, slow, actions=actions, reference=training)
    assert training.mixture.datasets == heldout.mixture.datasets == ["arm", "bridge"]
    assert {int(heldout[k]["dataset"]) for k in range(5)} == {1}
    alone = PairDataset(
        frames, [each for each in sequences if each.sequence.dataset == "arm"], actions=actions, reference=training
    )
    assert alone[0]["actions"].shape == training[0]["actions"].shape == (15, 5)
    assert alone[0]["action_mask"].sum() == 5 * 2
    with pytest.raises(ValueError, match="dataset 'arm' is not among 'bridge'"):
        PairDataset(frames, sequences, reference=PairDataset(frames, slow))
