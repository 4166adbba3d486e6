"""Predicted futures and their gain over copying."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lara_tokenizer.encode.preview.predictions import gain_over_copying, predict_pairs


@pytest.mark.parametrize(("share", "gain"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.75), (-1.0, -3.0)])
def test_the_gain_follows_from_the_share_of_the_change_that_is_predicted(tiny_processor, share, gain):
    """A prediction that is off by 1 - share of the change has 1 - (1 - share)^2."""
    rng = torch.Generator().manual_seed(0)
    now, future = (torch.randint(0, 256, (2, 3, 32, 32), generator=rng, dtype=torch.uint8) for _ in range(2))
    before, after = (tiny_processor.normalize_frames(frames) for frames in (now, future))
    model = SimpleNamespace(device="cpu", decode=lambda frames, codes: frames + share * (after - before))
    predictions = list(predict_pairs(model, tiny_processor, now, future, [[0] * 4] * 2))
    assert [gain_over_copying([each]) for each in predictions] == pytest.approx([gain, gain], abs=1e-4)
    assert gain_over_copying(predictions) == pytest.approx(gain, abs=1e-4)
    np.testing.assert_array_equal(predictions[1].future, future[1].permute(1, 2, 0).numpy())


def test_frames_that_are_equal_have_no_gain_of_their_own_and_count_with_their_error(tiny_processor):
    now = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    future = now.clone()
    future[1] = 255
    model = SimpleNamespace(device="cpu", decode=lambda frames, codes: tiny_processor.normalize_frames(now + 51))
    still, moving = predict_pairs(model, tiny_processor, now, future, [[0] * 4] * 2)
    assert gain_over_copying([still]) is None
    assert gain_over_copying([moving]) == pytest.approx(1 - 0.8**2, abs=1e-4)
    assert gain_over_copying([still, moving]) == pytest.approx(1 - 0.8**2 - 0.2**2, abs=1e-4)
