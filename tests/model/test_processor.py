"""One resize, one normalization: every form of a frame gives the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lara_tokenizer.model import LatentActionProcessor

SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def processor():
    return LatentActionProcessor(size=SIZE)


@pytest.fixture(scope="module")
def clip():
    """Smooth random frames (T, H, W, 3): what a resize filter is made for."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)) for _ in range(4)]
    return np.stack([np.asarray(image.resize((80, 60), Image.Resampling.BICUBIC)) for image in small])


def test_every_form_of_the_same_frames_gives_the_same_pixels(processor, clip):
    expected = processor(clip)["pixel_values"]
    assert expected.shape == (4, 3, 32, 32)
    assert expected.dtype == torch.float32
    forms = {
        "tensor": torch.from_numpy(clip),
        "channels first": torch.from_numpy(clip).permute(0, 3, 1, 2),
        "list of arrays": list(clip),
        "list of tensors": list(torch.from_numpy(clip)),
        "list of PIL images": [Image.fromarray(frame) for frame in clip],
        "tuple of clips": (clip[:1], clip[1:]),
        "mixed list": [Image.fromarray(clip[0]), clip[1], torch.from_numpy(clip[2]), clip[3].transpose(2, 0, 1)],
        "floats": clip.astype(np.float32) / 255,
        "doubles, channels first": torch.from_numpy(clip).permute(0, 3, 1, 2).double() / 255,
        "not contiguous": clip[::-1][::-1],
    }
    for name, form in forms.items():
        assert torch.equal(processor(form)["pixel_values"], expected), name


def test_grey_frames_become_rgb_and_alpha_is_dropped(processor, clip):
    grey = clip[0, :, :, 0]
    expected = processor(np.repeat(grey[..., None], 3, -1))["pixel_values"]
    for form in (grey, grey[..., None], grey[None], Image.fromarray(grey), torch.from_numpy(grey), [grey]):
        assert torch.equal(processor(form)["pixel_values"], expected)
    transparent = np.concatenate([clip, np.full_like(clip[..., :1], 9)], -1)
    forms = (transparent, transparent.transpose(0, 3, 1, 2), [Image.fromarray(frame) for frame in transparent])
    for form in forms:
        assert torch.equal(processor(form)["pixel_values"], processor(clip)["pixel_values"])


def test_a_narrow_rgb_frame_is_not_taken_for_grey_or_rgba(processor):
    tall = np.random.default_rng(3).integers(0, 256, (3, 60, 4), dtype=np.uint8)
    assert torch.equal(processor(tall)["pixel_values"], processor(tall.transpose(1, 2, 0))["pixel_values"])


def test_a_single_frame_is_a_batch_of_one(processor, clip):
    expected = processor(clip[:1])["pixel_values"]
    for frame in (clip[0], torch.from_numpy(clip[0]), Image.fromarray(clip[0]), [clip[0]]):
        assert torch.equal(processor(frame)["pixel_values"], expected)


def test_pairs_are_two_batches_of_the_same_processing(processor, clip):
    pair = processor(clip[:-1], clip[1:])
    assert torch.equal(pair["pixel_values"][1:], pair["future_pixel_values"][:-1])
    assert torch.equal(processor(clip[:-1], future_images=clip[1:])["future_pixel_values"], pair["future_pixel_values"])
    assert set(processor(clip)) == {"pixel_values"}


def test_unequal_numbers_of_frames_are_named(processor, clip):
    with pytest.raises(ValueError, match="4 frames but 3 future frames"):
        processor(clip, clip[1:])


def test_frames_of_several_sizes_may_share_a_list(processor, clip):
    wide = np.repeat(clip[0], 2, axis=1)
    out = processor([clip[0], wide])["pixel_values"]
    assert torch.equal(out[:1], processor(clip[0])["pixel_values"])
    assert torch.equal(out[1:], processor(wide)["pixel_values"])


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(60, 80), (24, 20), (32, 47), (33, 32)])
def test_the_resize_is_pil_s_antialiased_one_to_a_grey_level(clip, resample, shape):
    frame = np.asarray(Image.fromarray(clip[0]).resize(shape[::-1]))
    resized = LatentActionProcessor(size=SIZE, resample=resample).resize_frames(frame)[0].permute(1, 2, 0).numpy()
    filter_ = Image.Resampling[resample.upper()]
    expected = np.asarray(Image.fromarray(frame).resize((32, 32), filter_))
    assert np.abs(resized.astype(int) - expected).max() <= 1


def test_frames_of_the_right_size_are_not_touched(processor):
    frames = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(processor.resize_frames(frames).permute(0, 2, 3, 1).numpy(), frames)


def test_resizing_then_normalising_is_the_whole_of_it(processor, clip):
    cached = processor.resize_frames(clip)
    assert cached.dtype == torch.uint8
    assert torch.equal(processor.normalize_frames(cached), processor(clip)["pixel_values"])


def test_normalisation_is_the_formula(processor):
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    mean, std = torch.tensor(processor.image_mean).view(3, 1, 1), torch.tensor(processor.image_std).view(3, 1, 1)
    torch.testing.assert_close(processor.normalize_frames(frames), (frames / 255 - mean) / std, rtol=0, atol=1e-6)


def test_postprocess_undoes_normalisation_for_every_grey_level(processor):
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    back = processor.postprocess(processor.normalize_frames(frames))
    assert back.dtype == np.uint8
    assert np.array_equal(back, frames.permute(0, 2, 3, 1).numpy())


def test_postprocess_clamps_what_lies_outside(processor):
    out = processor.postprocess(torch.stack([torch.full((3, 2, 2), -99.0), torch.full((3, 2, 2), 99.0)]))
    assert out[0].max() == 0
    assert out[1].min() == 255


def test_statistics_belong_to_the_processor(clip):
    raw = LatentActionProcessor(size=SIZE, image_mean=[0, 0, 0], image_std=[1, 1, 1])
    pixels = raw(clip)["pixel_values"]
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    torch.testing.assert_close(pixels, raw.resize_frames(clip) / 255, rtol=0, atol=1e-6)


def test_numpy_is_returned_where_asked(processor, clip):
    assert isinstance(processor(clip, return_tensors="np")["pixel_values"], np.ndarray)


def test_a_processor_survives_saving(processor, tmp_path, clip):
    changed = LatentActionProcessor(size=SIZE, resample="bilinear", image_mean=[0.1] * 3, image_std=[0.2] * 3)
    changed.save_pretrained(tmp_path)
    again = LatentActionProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == changed.to_dict()
    assert torch.equal(again(clip)["pixel_values"], changed(clip)["pixel_values"])


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ("frame.png", "a frame is str; it takes a PIL image"),
        (np.zeros(8, np.uint8), r"a frame is Tensor of shape \(8,\)"),
        (np.zeros((8, 8, 2), np.uint8), r"frames of shape \(8, 8, 2\) have no axis of 3, 4 or 1 colours"),
        (np.zeros((4, 8, 8), np.uint8), "several grey frames as a list"),
        (np.full((8, 8, 3), 2.0), r"run from 2 to 2; they take uint8 in 0..255, or floats in 0..1"),
        (np.full((8, 8, 3), -1.0), "Undo any normalization first"),
        (np.full((8, 8, 3), np.nan), "run from nan to nan"),
        (np.zeros((8, 8, 3), np.int32), r"frames of type torch.int32 run from 0 to 0"),
        ([], "empty input"),
        (np.zeros((0, 8, 8, 3), np.uint8), "empty input"),
    ],
    ids=[
        "path",
        "row",
        "two channels",
        "grey batch",
        "large floats",
        "negative",
        "nan",
        "integers",
        "empty list",
        "empty clip",
    ],
)
def test_what_is_no_frame_is_named(processor, frames, match):
    with pytest.raises(ValueError, match=match):
        processor(frames)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resample": "nearest"}, "resample is 'nearest'; it takes 'bicubic' or 'bilinear'"),
        ({"image_std": [1.0, 1.0, 0.0]}, "std above 0"),
        ({"image_mean": [0.5]}, "need 3 numbers each"),
        ({"size": {"height": 24, "width": 32}, "steady_pairs": True}, "steady_pairs takes square frames, and size is"),
    ],
)
def test_wrong_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        LatentActionProcessor(**{"size": SIZE, **options})


def test_a_palette_image_is_read_as_its_colours(processor, clip):
    palette = Image.fromarray(clip[0]).convert("P")
    assert torch.equal(processor(palette)["pixel_values"], processor(palette.convert("RGB"))["pixel_values"])


def test_a_mirrored_view_of_an_array_is_taken(tiny_processor):
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    mirrored = frames[:, ::-1, ::-1]
    assert torch.equal(tiny_processor.resize_frames(mirrored), tiny_processor.resize_frames(mirrored.copy()))
