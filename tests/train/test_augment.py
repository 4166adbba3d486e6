"""Augmentation: one draw per pair, off means untouched, colours follow their definitions."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.train.augment import augment_pairs, normalize, to_unit_range
from lara_tokenizer.train.recipe import AugmentationOptions

ALL = AugmentationOptions(crop_scale=0.7, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, flip=0.5)


def test_switched_off_it_changes_nothing():
    frames = torch.rand(3, 2, 3, 8, 8)
    assert torch.equal(augment_pairs(frames, AugmentationOptions()), frames)


def test_both_frames_of_a_pair_get_the_same_draw():
    same = torch.rand(6, 1, 3, 16, 16).expand(-1, 2, -1, -1, -1)
    out = augment_pairs(same, ALL)
    assert torch.equal(out[:, 0], out[:, 1])
    assert not torch.equal(out, same)


def test_different_pairs_get_different_draws():
    same = torch.rand(1, 2, 3, 16, 16).expand(4, -1, -1, -1, -1)
    out = augment_pairs(same, ALL)
    assert not torch.equal(out[0], out[1])


def test_the_draw_follows_torchs_random_state():
    frames = torch.rand(3, 2, 3, 8, 8)
    torch.manual_seed(1)
    first = augment_pairs(frames, ALL)
    torch.manual_seed(1)
    assert torch.equal(augment_pairs(frames, ALL), first)


def test_a_sure_flip_mirrors_and_a_sure_reverse_swaps():
    frames = torch.rand(3, 2, 3, 8, 8)
    assert torch.allclose(augment_pairs(frames, AugmentationOptions(flip=1.0)), frames.flip(-1), atol=1e-5)
    assert torch.equal(augment_pairs(frames, AugmentationOptions(reverse=1.0)), frames.flip(1))


def test_a_crop_of_one_colour_is_that_colour():
    frames = torch.full((4, 2, 3, 8, 8), 0.3)
    assert torch.allclose(augment_pairs(frames, AugmentationOptions(crop_scale=0.5)), frames, atol=1e-6)


def test_saturation_and_hue_leave_grey_alone_and_brightness_scales_it():
    grey = torch.full((5, 2, 3, 4, 4), 0.4)
    assert torch.allclose(augment_pairs(grey, AugmentationOptions(saturation=1.0, hue=0.5)), grey, atol=1e-3)
    brighter = augment_pairs(grey, AugmentationOptions(brightness=0.5))
    assert torch.allclose(brighter, brighter[:, :1, :1, :1, :1].expand_as(brighter), atol=1e-5)
    assert brighter.min() >= 0.2 - 1e-5
    assert brighter.max() <= 0.6 + 1e-5


def test_contrast_keeps_the_mean_grey_of_frame_t():
    frames = 0.4 + 0.2 * torch.rand(5, 2, 3, 8, 8)
    luma = torch.tensor([0.299, 0.587, 0.114])
    before, after = (
        torch.einsum("bchw,c->b", x[:, 0], luma)
        for x in (frames, augment_pairs(frames, AugmentationOptions(contrast=0.5)))
    )
    assert torch.allclose(before, after, rtol=1e-4)


def test_pixel_statistics_are_the_processors():
    processor = LatentActionProcessor(size={"height": 8, "width": 8})
    frames = torch.randint(0, 256, (4, 2, 3, 8, 8), dtype=torch.uint8)
    now, future = normalize(to_unit_range(frames), processor.image_mean, processor.image_std)
    assert torch.allclose(now, processor.normalize_frames(frames[:, 0]), atol=1e-5)
    assert torch.allclose(future, processor.normalize_frames(frames[:, 1]), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"crop_scale": 0.0}, {"brightness": -0.1}, {"hue": 0.7}, {"flip": 1.5}])
def test_numbers_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        AugmentationOptions(**wrong)
