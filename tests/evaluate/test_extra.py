"""The slower figures against closed forms and planted answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from square_models import CAMERA, SquareModel

from lara_tokenizer.data import Stride, load_episodes
from lara_tokenizer.evaluate import EncodedSet, PairSet, learned_probes
from lara_tokenizer.evaluate.codebook import code_action_information, entropy, mutual_information
from lara_tokenizer.evaluate.dataset import read_pairs
from lara_tokenizer.evaluate.decoder import image_quality, transfer_figures
from lara_tokenizer.evaluate.encoding import encode_pairs
from lara_tokenizer.evaluate.equivariance import chains_of, composition, nuisance_invariance, shift, shift_responses
from lara_tokenizer.evaluate.extra import episode_leakage, extra_figures, label_efficiency
from lara_tokenizer.evaluate.learned_probes import fit_l1, fit_mlp, learned_probe


@pytest.fixture(scope="module")
def pairs(squares, plain_processor) -> PairSet:
    read = read_pairs(load_episodes(squares), plain_processor, Stride.parse("0.2s"), 18)
    return read.pairs[CAMERA]


@pytest.fixture(scope="module")
def healthy(pairs, plain_processor):
    """The model that measures the square, and what it makes of the pairs."""
    model = SquareModel.trained()
    return model, encode_pairs(model, plain_processor, pairs)


class NextFrame(SquareModel):
    """z is the next frame itself."""

    def encode(self, *, frame_features, future_frame_features):
        z = future_frame_features.flatten(1)[:, None]
        return type("Out", (), {"latents": z, "codes": None, "quantized_latents": z})

    def locate(self, frames):
        return frames

    def decode(self, pixel_values, *, quantized_latents):
        return quantized_latents.view_as(pixel_values)


# ---------------------------------------------------------------- decoder


def test_a_motion_is_carried_from_one_video_into_another(pairs, healthy, plain_processor):
    model, encoded = healthy
    quality = image_quality(model, plain_processor, pairs, encoded)
    assert quality["ssim"] == pytest.approx(1, abs=1e-3)
    assert quality["ssim_gain"] == pytest.approx(1, abs=0.01)
    assert quality["psnr"] > quality["psnr_of_copying"] + 20
    assert quality["delta_psnr"] > 20


def test_the_cut_test_separates_the_next_frame_from_a_motion(pairs, healthy, plain_processor):
    leaky = NextFrame.trained()
    assert transfer_figures(leaky, plain_processor, pairs, encode_pairs(leaky, plain_processor, pairs))["cut_test"] == (
        pytest.approx(1, abs=0.2)
    )


class Blurry(SquareModel):
    """The decoder is a little dark everywhere, whatever z is: it errs by the same in every pair."""

    def decode(self, pixel_values, *, quantized_latents):
        return super().decode(pixel_values, quantized_latents=quantized_latents) - 0.05


def test_a_z_that_means_the_same_everywhere_passes_the_cycle(pairs, plain_processor):
    model = Blurry.trained()
    report = transfer_figures(model, plain_processor, pairs, encode_pairs(model, plain_processor, pairs))
    assert report["cycle_transfer"] == pytest.approx(1, abs=0.05)
    leaky = NextFrame.trained()
    leaked = transfer_figures(leaky, plain_processor, pairs, encode_pairs(leaky, plain_processor, pairs))
    # Its z of B' is B', and B' is A's next frame: the cycle alone cannot separate them.
    assert leaked["cycle_transfer"] == pytest.approx(1, abs=0.2)


# ---------------------------------------------------------------- responses


def test_nothing_happening_is_no_action_to_a_healthy_model(pairs, healthy, plain_processor):
    model, encoded = healthy
    report = shift_responses(model, plain_processor, pairs, encoded.latents)
    assert report["zero_transition"] == pytest.approx(0, abs=1e-3)
    assert report["shift_horizontal"] == pytest.approx(0, abs=0.05)


class CameraMotion(SquareModel):
    """z is where the mark went."""

    def measure(self, moved):
        return moved[:, 2:]


def test_a_camera_model_answers_a_shift_by_just_that(pairs, plain_processor):
    model = CameraMotion.trained()
    reference = torch.full((4, 2, 1), 3 / 2**0.5)  # |z| = 3 px
    report = shift_responses(model, plain_processor, pairs, reference)
    assert report["shift_horizontal"] == pytest.approx(1, abs=0.02)
    assert report["shift_vertical"] == pytest.approx(1, abs=0.02)


def test_a_shift_moves_pixels_and_repeats_the_edge():
    frames = np.arange(5, dtype=np.uint8).reshape(1, 1, 1, 5)
    assert shift(frames, 2, axis=3).ravel().tolist() == [0, 0, 0, 1, 2]


def _encoded(latents, codes=None):
    return EncodedSet(latents, codes, latents)


def test_flips_and_the_distance_of_z_have_their_closed_forms():
    rng = torch.Generator().manual_seed(0)
    z, other = (torch.randn(5000, 1, 4, generator=rng) for _ in range(2))
    codes = torch.zeros(5000, 2, dtype=torch.long)
    half = torch.cat([codes[:, :1], codes[:, 1:] + 1], 1)
    assert nuisance_invariance(_encoded(z, codes), _encoded(z, codes)) == {"flip_rate": 0, "nuisance_to_signal": 0}
    changed = nuisance_invariance(_encoded(z, codes), _encoded(other, half))
    assert changed["flip_rate"] == 0.5
    assert changed["nuisance_to_signal"] == pytest.approx(2, abs=0.1)
    assert nuisance_invariance(_encoded(z), _encoded(z))["flip_rate"] is None


# ---------------------------------------------------------------- chains


def test_chains_join_pairs_that_share_a_frame():
    pairs = PairSet(np.zeros((5, 3, 2, 2)), np.array([0, 1, 2]), np.array([2, 3, 4]), None, np.zeros(3, int))
    assert chains_of(pairs, 10).tolist() == [[0, 2, 4]]


def test_a_displacement_adds_up_and_turns_with_time(pairs, healthy, plain_processor):
    model, _ = healthy
    report = composition(model, plain_processor, pairs, 64)
    assert report["composition"] == pytest.approx(0, abs=1e-3)
    assert report["inverse"] == pytest.approx(0, abs=1e-3)
    # What came before and what comes after are unrelated steps here.
    assert abs(report["past_future_cosine"]) < 0.3


class FrameB(SquareModel):
    """z is about the later frame alone."""

    def encode(self, *, frame_features, future_frame_features):
        return self.output(future_frame_features[:, :2, None], torch.zeros(len(frame_features), 2))


def test_a_z_about_frame_b_alone_is_the_same_from_both_sides(pairs, plain_processor):
    assert composition(FrameB.trained(), plain_processor, pairs, 64)["past_future_cosine"] == pytest.approx(1)


def test_too_few_chains_give_no_figure(pairs, healthy, plain_processor):
    some = PairSet(pairs.frames, pairs.now[:2], pairs.future[:2], None, pairs.episodes[:2])
    assert composition(healthy[0], plain_processor, some, 64)["composition"] is None


# ---------------------------------------------------------------- actions

EPISODE_P = np.repeat(np.arange(20), 12)


@pytest.fixture(scope="module")
def planted():
    """z of 6 numbers, actions that are linear in them, and noise."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(len(EPISODE_P), 6))
    return z, z @ rng.normal(size=(6, 3)), rng.normal(size=z.shape)


def test_both_learned_probes_find_a_linear_map_and_nothing_in_noise(planted):
    z, actions, noise = planted
    linear = learned_probe(fit_l1, z, actions, EPISODE_P)
    assert linear["r2"] > 0.99
    assert linear["mae"] < 0.1
    assert linear["mae_of_mean"] == pytest.approx((2 / np.pi) ** 0.5, abs=0.06)  # E|x| of a normal number
    assert learned_probe(fit_mlp, z, actions, EPISODE_P)["r2"] > 0.5
    assert learned_probe(fit_l1, noise, actions, EPISODE_P)["r2"] < 0.05


def test_learned_probes_are_repeatable(planted, monkeypatch):
    z, actions, _ = planted
    monkeypatch.setattr(learned_probes, "EPOCHS", 2)
    assert learned_probe(fit_mlp, z, actions, EPISODE_P) == learned_probe(fit_mlp, z, actions, EPISODE_P)


def test_more_labels_read_more_of_a_planted_map_from_noisy_z(planted):
    z, actions, noise = planted
    found = label_efficiency(z + 0.3 * noise, actions, EPISODE_P)
    assert list(found) == ["2", "4", "8", "16"]
    assert found["2"]["mean"] < found["16"]["mean"]
    assert 0.7 < found["16"]["mean"] < 1
    assert label_efficiency(z, actions, EPISODE_P)["4"]["low"] > 0.99
    for each in found.values():
        assert each["low"] <= each["mean"] <= each["high"]


def test_information_has_its_closed_forms():
    rng = np.random.default_rng(1)
    same = rng.integers(0, 8, 20000)
    assert entropy(same) == pytest.approx(3, abs=0.01)
    assert mutual_information(same, same) == pytest.approx(3, abs=0.01)
    assert mutual_information(same, rng.integers(0, 8, 20000)) == pytest.approx(0, abs=0.005)
    assert mutual_information(same, same // 4) == pytest.approx(1, abs=0.01)


def test_a_code_that_names_the_quarter_of_an_action_tells_two_bits():
    rng = np.random.default_rng(2)
    action = rng.normal(size=(8000, 1))
    quarter = np.searchsorted(np.quantile(action, [0.25, 0.5, 0.75]), action[:, 0])
    found = code_action_information(np.stack([quarter, np.zeros_like(quarter)], 1), action)
    assert found["bits_per_position"] == pytest.approx([2, 0], abs=0.02)
    assert found["of"] == pytest.approx(3, abs=0.01)
    assert found["shuffled"] == pytest.approx(0, abs=0.01)


def test_a_z_of_the_episode_leaks_and_a_z_of_the_action_does_not():
    rng = np.random.default_rng(3)
    actions = rng.choice([-1.0, 1.0], (240, 1))
    episode = torch.from_numpy(rng.normal(size=(20, 8)))[EPISODE_P]
    assert episode_leakage(episode[:, None], actions, EPISODE_P) > 0.9
    assert episode_leakage(torch.from_numpy(actions)[:, None], actions, EPISODE_P) == pytest.approx(-2, abs=1e-3)
    assert episode_leakage(episode[:, None], actions, np.zeros(240)) is None


# ---------------------------------------------------------------- together


def test_all_figures_come_together_and_those_of_actions_are_none_without_them(pairs, healthy, plain_processor):
    model, encoded = healthy
    report = extra_figures(model, plain_processor, pairs, encoded, encoded, {}, [""] * 12, 0)
    assert report["mlp_probe"] is None
    assert report["flip_rate"] == 0
    errors = {("z",): np.ones((12, 2))}
    report = extra_figures(model, plain_processor, pairs, encoded, encoded, errors, [""] * 12, 0)
    assert report["linear_mse"] == pytest.approx(24 / (2 * len(pairs)), abs=1e-4)
    assert report["l1_probe"]["r2"] > 0.9
    assert report["code_action_information"]["bits"] > 0.3
