"""The arena's contenders: equal terms, what the stabilisers change, and that each of them learns."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from arena_train import Loop, check
from arena_variants import BATCH, ENTRIES, Entry, build

from lara_tokenizer.data import Episode, FrameIndex
from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import find_pairs
from lara_tokenizer.train.pairs import PairDataset


class _Clip:
    """Twelve frames of a light square that moves over noise."""

    def __init__(self, episode: int) -> None:
        rng = np.random.default_rng(episode)
        whole = np.repeat(rng.integers(0, 100, (1, 64, 64, 3), dtype=np.uint8), 12, 0)
        row, column = rng.integers(0, 20, 2)
        down, right = rng.integers(0, 3, 2)
        for time, frame in enumerate(whole):
            frame[row + down * time :, column + right * time :][:16, :16] = 220
        self.whole = whole

    def index(self, camera: str) -> FrameIndex:
        return FrameIndex(np.arange(12) / 10, 10.0)

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        return self.whole[np.asarray(indices)]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> PairDataset:
    episodes = [Episode(f"{index:02}", _Clip(index)) for index in range(8)]
    processor = LatentActionProcessor(size={"height": 64, "width": 64})
    cache = FrameCache.build(episodes, processor, tmp_path_factory.mktemp("frames"))
    return PairDataset(cache, find_pairs(cache.sequences, ["0.5s"]))


@pytest.fixture(scope="module")
def learner_of(pairs):
    """Contenders before their first step, each built when it is first asked for."""
    return cache(lambda entry: build(entry, pairs, pairs.batch(range(8)), seed=0, continuous_steps=1))


FORMS = [entry for entry in ENTRIES if entry.steady == entry.stabilised]


def test_all_contenders_have_equal_terms(learner_of):
    models = [learner_of(entry).model for entry in FORMS]
    sizes = [sum(each.numel() for each in model.parameters() if each.requires_grad) for model in models]
    assert max(sizes) < 1.2 * min(sizes)
    for config in (model.config for model in models):
        assert (config.image_size, config.patch_size, config.num_latents, config.codebook_dim) == (64, 8, 8, 32)
        assert tuple(config.strides) == ("0.5s",)
    encoders = {
        tuple((key, value.shape) for key, value in model.vision_encoder.state_dict().items()) for model in models
    }
    assert len(encoders) == 1


def test_steady_pairs_are_a_setting_of_the_processor_alone(learner_of):
    one, other = (learner_of(Entry("lapa", False, steady)) for steady in (True, False))
    assert (one.processor.steady_pairs, other.processor.steady_pairs) == (True, False)
    weights = other.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in one.model.state_dict().items())


@pytest.mark.parametrize("recipe", ["lara", "moto", "lapa"])
def test_stabilised_codebooks_have_a_schedule_and_published_ones_none(recipe, learner_of):
    def schedule(stabilised: bool) -> tuple:
        config = learner_of(Entry(recipe, stabilised, stabilised)).model.config
        return config.continuous_steps, config.dead_code_steps, config.dead_code_share

    assert schedule(True) == (1, 50, 0.4)
    assert schedule(False) == (0, 0, 0.0)


@pytest.mark.parametrize("recipe", ["lara", "moto"])
def test_a_stabilised_m_former_starts_as_a_difference_of_frames(recipe, learner_of):
    def start(stabilised: bool) -> float:
        """The length of z of two equal frames, relative to that of frames that differ."""
        learner = learner_of(Entry(recipe, stabilised, stabilised))
        frames = learner.processor.normalize_frames(torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8))
        with torch.no_grad():
            features = learner.model.eval().get_frame_features(frames)
            z = [learner.model.infer_latents(features, other)[0] for other in (features, features.flip(0))]
            return float((z[1] - z[0]).norm() / z[0].norm())

    assert start(True) > 3 * start(False)


def test_adaworld_has_dreamdojos_weight_in_place_of_stabilisers(learner_of):
    betas = [learner_of(Entry("adaworld", stabilised, stabilised)).model.config.beta for stabilised in (True, False)]
    assert betas == [1e-6, 2e-4]


@pytest.mark.parametrize("entry", FORMS, ids=lambda e: e.name)
def test_a_contender_learns_and_is_measured(entry, pairs, learner_of):
    learner = learner_of(entry)
    loop = Loop(learner, pairs, 1e-3, 100)
    before = {key: value.clone() for key, value in learner.model.state_dict().items()}
    assert loop.run(2 * BATCH)
    assert not loop.continuous
    moved = [key for key, value in learner.model.state_dict().items() if not torch.equal(value, before[key])]
    assert {key.partition(".")[0] for key in moved} >= {"vision_encoder"}
    measured = check(learner, pairs.batch(range(8)), 64)
    assert measured.gain_over_copying > -1e9
    assert measured.z_gain <= 1


def test_what_is_not_finite_is_the_worst(pairs, learner_of):
    learner = learner_of(Entry("lapa", False, False))
    with torch.no_grad():
        learner.model.to_pixels.bias.fill_(float("nan"))
    assert check(learner, pairs.batch(range(4)), 64).gain_moving == -1e9
