"""Samples are a function of seed and index: balanced over datasets, sequences and strides, and inside their episode."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from lara_tokenizer.train.mixture import CHUNK, Mixture, find_pairs, split_sequences
from lara_tokenizer.train.sequences import FrameSequence


def _sequences(*parts: tuple[str, int, int, float]) -> list[FrameSequence]:
    """(dataset, episodes, frames, fps), ..."""
    sequences: list[FrameSequence] = []
    for dataset, episodes, frames, fps in parts:
        for episode in range(episodes):
            sequences.append(FrameSequence(len(sequences), dataset, f"ep{episode:03}", "", np.arange(frames) / fps))
    return sequences


def _mixture(*parts, strides=("5f",), seed=0) -> Mixture:
    return Mixture(find_pairs(_sequences(*parts), strides), seed)


def _tuples(draws) -> list[tuple[int, ...]]:
    parts = (draws.dataset, draws.sequence, draws.stride, draws.now, draws.future)
    return list(zip(*(part.tolist() for part in parts), strict=True))


def test_a_draw_depends_on_seed_and_number_alone():
    parts = ("a", 3, 20, 10), ("b", 40, 30, 10)
    one, two = _mixture(*parts, strides=("5f", "1.1s")), _mixture(*parts, strides=("5f", "1.1s"))
    indices = np.arange(3 * CHUNK)
    together = _tuples(one.draw(indices))
    shuffled = np.random.default_rng(0).permutation(indices)
    assert _tuples(two.draw(shuffled)) == [together[index] for index in shuffled]
    assert [_tuples(two.draw([index]))[0] for index in (5, 9000, 0, CHUNK)] == [
        together[index] for index in (5, 9000, 0, CHUNK)
    ]
    assert _tuples(_mixture(*parts, strides=("5f", "1.1s"), seed=1).draw(indices)) != together
    assert _tuples(one.draw([2**40])) == _tuples(two.draw([2**40]))
    with pytest.raises(IndexError, match="sample -1"):
        one.draw([3, -1])


def test_another_attempt_is_another_pair_of_the_same_dataset():
    mixture = _mixture(("a", 30, 200, 10), ("b", 30, 200, 10))
    first, second = (mixture.draw(range(1000), attempt) for attempt in (0, 1))
    assert (first.dataset == second.dataset).all()
    assert (first.sequence != second.sequence).mean() > 0.9
    assert (first.now != second.now).mean() > 0.9
    assert _tuples(mixture.draw([8], 1)) == _tuples(second)[8:9]


def test_every_block_of_draws_holds_every_dataset_once_whatever_its_size():
    mixture = _mixture(("big", 100, 60, 10), ("mid", 7, 20, 10), ("small", 1, 10, 10))
    assert mixture.datasets == ["big", "mid", "small"]
    blocks = mixture.draw(np.arange(3 * 5000)).dataset.reshape(-1, 3)
    assert (np.sort(blocks, 1) == [0, 1, 2]).all()
    orders, counts = np.unique(blocks, axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 700  # 833 are expected


def test_within_a_dataset_every_sequence_is_drawn_equally_often_however_long():
    long = FrameSequence(0, "", "long", "", np.arange(120) / 10)
    short = FrameSequence(1, "", "short", "", np.arange(10) / 10)
    draws = Mixture(find_pairs([long, short], ["5f"])).draw(np.arange(1001))
    assert abs((draws.sequence == 1).sum() - 500) <= 1
    assert set(draws.now[draws.sequence == 1]) == {0, 1, 2, 3, 4}
    assert len(set(draws.now[draws.sequence == 0])) > 100
    # In a mixture too: 100 of its own draws are 4 rounds of 25 sequences, in an order that changes.
    mixture = _mixture(("a", 25, 20, 10), ("b", 1, 20, 10))
    draws = mixture.draw(np.arange(200))
    rounds = draws.sequence[draws.dataset == 0].reshape(4, 25)
    assert (np.sort(rounds, 1) == np.arange(25)).all()
    assert len({tuple(each) for each in rounds}) == 4


def test_strides_and_anchors_are_uniform():
    draws = _mixture(("a", 2, 20, 10), strides=("5f", "1s", "0.2s")).draw(np.arange(30_000))
    assert np.bincount(draws.stride) / 30_000 == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    assert [set((draws.future - draws.now)[draws.stride == i]) for i in range(3)] == [{5}, {10}, {2}]
    anchors = np.bincount(draws.now[draws.stride == 1])
    assert len(anchors) == 10
    assert anchors / anchors.sum() == pytest.approx(np.full(10, 0.1), abs=0.02)


def test_seconds_are_met_at_each_rate():
    mixture = _mixture(("fast", 2, 90, 30), ("slow", 2, 12, 3), strides=("0.6s", "0.1s"))
    draws = mixture.draw(np.arange(4000))
    seconds = (draws.future - draws.now) / np.array([30, 3])[draws.dataset]
    # 0.6 s at 3 Hz is two frames, and 0.1 s is no gap there.
    assert set(zip(draws.dataset.tolist(), draws.stride.tolist(), seconds.round(3).tolist(), strict=True)) == {
        (0, 0, 0.6),
        (0, 1, 0.1),
        (1, 0, 0.667),
    }


def test_no_pair_leaves_its_episode_and_every_pair_can_come():
    sequences = _sequences(("a", 3, 7, 10), ("b", 1, 9, 10))
    draws = Mixture(find_pairs(sequences, ["5f", "0.3s"])).draw(np.arange(4000))
    lengths = np.array([len(sequence.timestamps) for sequence in sequences])
    assert (draws.now >= 0).all()
    assert (draws.future < lengths[draws.sequence]).all()
    drawn = set(zip(draws.sequence.tolist(), draws.now.tolist(), draws.future.tolist(), strict=True))
    pairs = [(s, t, t + gap) for s, n in enumerate(lengths) for gap in (5, 3) for t in range(n - gap)]
    assert drawn == set(pairs)
    assert Mixture(find_pairs(sequences, ["5f", "0.3s"])).num_pairs == len(pairs)


def test_uneven_times_give_exactly_the_pairs_that_the_stride_finds():
    from lara_tokenizer.data import Stride

    times = np.cumsum(np.r_[0, np.random.default_rng(0).uniform(0.06, 0.14, 59)])
    sequences = [FrameSequence(0, "", "even", "", np.arange(30) / 10), FrameSequence(1, "", "uneven", "", times)]
    draws = Mixture(find_pairs(sequences, ["0.5s"])).draw(np.arange(4000))
    future = Stride.parse("0.5s").future_indices(times, np.arange(60))
    own = draws.sequence == 1
    assert set(zip(draws.now[own], draws.future[own], strict=True)) == {(t, f) for t, f in enumerate(future) if f >= 0}
    assert set((draws.future - draws.now)[~own]) == {5}


def test_a_sequence_without_pairs_is_skipped_and_a_dataset_without_any_is_refused(caplog):
    sequences = _sequences(("a", 2, 20, 10), ("a2", 1, 3, 10))
    short = FrameSequence(9, "a", "short", "", np.arange(3) / 10)
    slow = FrameSequence(10, "a", "slow", "", np.arange(30.0))
    with caplog.at_level(logging.WARNING):
        assert len(find_pairs([*sequences[:2], short, slow], ["0.5s"])) == 2
    left_out = "1 too short for a pair 0.5s apart; 1, since stride '0.5s'"
    assert f"dataset 'a': left out camera sequences: {left_out}" in caplog.text
    with pytest.raises(ValueError, match="dataset 'a2': no episode is long enough for a pair 5f or 1s apart"):
        find_pairs(sequences, ["5f", "1s"])
    with pytest.raises(ValueError, match=r"dataset 'slow': stride '0.1s' cannot be met at 3 frames per second"):
        find_pairs(_sequences(("fast", 2, 90, 30), ("slow", 2, 12, 3)), ["0.1s"])


def test_every_dataset_with_two_episodes_has_one_held_out():
    sequences = find_pairs(_sequences(("a", 20, 9, 10), ("b", 2, 9, 10), ("c", 1, 9, 10)), ["5f"])
    kept, heldout = split_sequences(sequences, 0.1)
    count = {name: sum(each.sequence.dataset == name for each in heldout) for name in "abc"}
    assert count == {"a": 2, "b": 1, "c": 0}
    assert len(kept) + len(heldout) == 23
    # Which ones are held out does not depend on the other datasets.
    alone = split_sequences([each for each in sequences if each.sequence.dataset == "b"], 0.1)[1]
    together = [each for each in heldout if each.sequence.dataset == "b"]
    assert [each.sequence.episode for each in alone] == [each.sequence.episode for each in together]
    with pytest.raises(ValueError, match="give at least 2"):
        split_sequences(find_pairs(_sequences(("a", 1, 9, 10), ("b", 1, 9, 10)), ["5f"]), 0.1)


def test_held_out_episodes_take_all_their_cameras_with_them():
    times = np.arange(20) / 10
    sequences = [
        FrameSequence(2 * e + c, "", f"ep{e}", camera, times) for e in range(4) for c, camera in enumerate("ab")
    ]
    kept, heldout = split_sequences(find_pairs(sequences, ["5f"]), 0.25)
    assert len(heldout) == 2
    assert len({each.sequence.episode for each in heldout}) == 1
    assert not {each.sequence.episode for each in kept} & {each.sequence.episode for each in heldout}


def test_segments_of_one_recording_stay_on_one_side():
    names = [f"film{film}.mp4#t={10 * k},{10 * k + 10}" for film in range(6) for k in range(5)]
    sequences = [FrameSequence(index, "", name, "", np.arange(20) / 10) for index, name in enumerate(names)]
    kept, heldout = split_sequences(find_pairs(sequences, ["0.5s"]), 0.3)
    films = [{each.sequence.episode.partition("#")[0] for each in side} for side in (kept, heldout)]
    assert not films[0] & films[1]
    assert (len(kept), len(heldout)) == (20, 10)
