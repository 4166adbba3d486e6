"""The whole report on small datasets: all figures, equal runs, and faults of the dataset by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from square_models import CAMERA, EPISODES, SIZE, SquareModel, square_episode
from transformers import ViTConfig, ViTModel

from lara_tokenizer.data import Stride, load_episodes
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.evaluate.dataset import load_with_masks, read_pairs
from lara_tokenizer.evaluate.encoding import encode_pairs

CONTROLS = {"mean", "random_init", "shuffled", "pixel_difference", "pixel_difference_stabilized", "encoder_change"}
CONTROLS |= {"normal_flow", "optical_flow", "closed_form", "closed_form_codes"}
ROWS = CONTROLS | {"z", "quantized", "codes"}


@pytest.fixture(scope="module")
def evaluation(squares, tiny_model, tiny_processor):
    return evaluate_checkpoint(tiny_model, tiny_processor, squares, pairs_per_episode=6)


def test_the_report_holds_every_figure_as_plain_json(evaluation):
    report = evaluation.report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["model"]["codes"] == "4 x 16"
    assert (report["data"]["episodes"], report["data"]["pairs"], report["data"]["stride"]) == (EPISODES, 72, "0.5s")
    assert report["data"]["nuisance_families"] == ["shake", "light"]
    assert all(math.isfinite(figure["value"]) for figure in report["headline"].values())
    assert sum(map(sum, report["codebook"]["counts"])) == 72 * 4
    assert set(report["probe"]["rows"]) == ROWS
    assert set(report["probe"]["margins"]) == ROWS - {"z"}
    assert set(report["nuisance"]["rows"]) == ROWS | {"frame"}
    for margins in report["nuisance"]["margins"].values():
        assert set(margins) == ROWS - {"z"} | {"frame"}
    assert report["verdict"]


def test_equal_runs_give_equal_reports(evaluation, squares, tiny_model, tiny_processor):
    again = evaluate_checkpoint(tiny_model, tiny_processor, squares, pairs_per_episode=6)
    assert json.dumps(again.report) == json.dumps(evaluation.report)


def test_the_report_names_no_folder_of_this_machine(evaluation, squares):
    assert str(squares.parent) not in json.dumps(evaluation.report)


def test_a_control_encoder_is_a_row_and_the_report_says_which(squares, tiny_model, tiny_processor, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    encoder = ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes), add_pooling_layer=False)
    encoder.save_pretrained(tmp_path / "vit")
    report = evaluate_checkpoint(
        tiny_model, tiny_processor, squares, pairs_per_episode=2, control_encoder=str(tmp_path / "vit")
    ).report
    for table in ("probe", "nuisance"):
        assert "control_encoder" in report[table]["rows"]
    assert report["controls"] == {"closed_form_bits": 14.0, "encoder": "vit", "left_out": {}}


def test_errors_by_episode_give_the_reports_r2(evaluation):
    errors = evaluation.errors["nuisance"]["actions"]
    assert errors["z",].shape == (EPISODES, 2)  # the third action dimension never changes
    r2 = 1 - (errors["z",].sum(0) / errors[()].sum(0)).mean()
    assert evaluation.report["nuisance"]["rows"]["z"]["r2"] == pytest.approx(r2, abs=1e-4)


def test_a_planted_displacement_is_found_and_shuffled_z_predicts_nothing(squares, plain_processor):
    report = evaluate_checkpoint(SquareModel.trained(), plain_processor, squares, pairs_per_episode=18).report
    rows = report["probe"]["rows"]
    assert rows["z"]["r2"] > 0.99
    assert rows["quantized"]["r2"] > 0.99
    assert abs(rows["shuffled"]["r2"]) < 0.1
    assert report["headline"]["gain_over_copying"]["value"] == pytest.approx(1, abs=1e-3)


def test_few_episodes_leave_the_probes_out_with_a_reason(squares, tiny_model, tiny_processor):
    report = evaluate_checkpoint(tiny_model, tiny_processor, squares, pairs_per_episode=2, limit=4).report
    assert report["probe"]["rows"] == {}
    assert report["probe"]["reason"] == "no probe: 4 episode(s) give pairs, probes need 5"
    assert report["headline"]["selectivity"] == {"value": None, "interval": None}
    assert report["headline"]["z_gain"]["value"] is not None


def test_videos_without_actions_are_probed_for_the_nuisance_only(
    tmp_path, write_video, moving_square, tiny_model, tiny_processor
):
    for index in range(5):
        write_video(tmp_path / f"{index}.mp4", moving_square(12, size=32, seed=index))
    report = evaluate_checkpoint(tiny_model, tiny_processor, tmp_path).report
    assert report["probe"]["reason"] == "no action probe: the source has no actions"
    assert report["headline"]["selectivity"]["value"] is None
    assert report["headline"]["nuisance_r2"]["value"] is not None
    assert "r2" not in report["nuisance"]["rows"]["z"]


def test_an_episode_that_cannot_be_read_is_left_out_and_named(
    tmp_path, write_video, moving_square, tiny_model, tiny_processor
):
    for index in range(3):
        write_video(tmp_path / f"{index}.mp4", moving_square(12, size=32, seed=index))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    report = evaluate_checkpoint(tiny_model, tiny_processor, tmp_path).report
    assert list(report["data"]["left_out"]) == ["broken.mp4"]
    assert report["data"]["episodes"] == 3


def test_a_source_without_a_pair_is_refused(tmp_path, write_video, moving_square, tiny_model, tiny_processor):
    write_video(tmp_path / "short.mp4", moving_square(3, size=32))
    with pytest.raises(ValueError, match=r"no episode gives a pair of frames 0\.5s apart"):
        evaluate_checkpoint(tiny_model, tiny_processor, tmp_path)


def test_a_continuous_bottleneck_has_no_codes(squares, plain_processor):
    class Continuous(SquareModel):
        def output(self, latents, codes):
            out = super().output(latents, codes)
            out.codes, out.quantized_latents = None, latents
            return out

    report = evaluate_checkpoint(Continuous.trained(), plain_processor, squares, pairs_per_episode=6).report
    assert report["codebook"] is None
    assert report["headline"]["perplexity"]["value"] is None
    assert not {"codes", "quantized"} & set(report["probe"]["rows"])
    assert report["model"]["codes"] == "2 continuous"


@pytest.fixture(scope="module")
def masked(tmp_path_factory, write_lerobot):
    """Two episodes with masks of the square."""
    clips, actions = zip(*(square_episode(seed) for seed in range(2)), strict=True)
    masks = [np.repeat((clip[..., :1] > 200) * 255, 3, -1).astype(np.uint8) for clip in clips]
    cameras = {CAMERA: list(clips), CAMERA.replace("images", "masks"): masks}
    return write_lerobot(tmp_path_factory.mktemp("masked") / "set", cameras, kind="image", actions=list(actions))


def test_masks_are_found_by_themselves_and_a_background_moves_behind_them(masked, plain_processor):
    episodes = load_with_masks(masked)
    read = read_pairs(episodes, plain_processor, Stride.parse("0.2s"), 4)
    pairs = read.pairs[CAMERA]
    assert list(read.pairs) == [CAMERA]
    assert pairs.masks.shape == (len(pairs.frames), SIZE, SIZE)
    assert (pairs.masks == (pairs.frames[:, 0] > 200)).all()
    assert set(read.nuisance.changes) == {"shake", "light", "background"}


def test_the_frames_of_a_pair_and_its_actions_belong_together(squares, plain_processor):
    episodes = load_episodes(squares, limit=2)
    read = read_pairs(episodes, plain_processor, Stride.parse("0.5s"), 100)
    pairs = read.pairs[CAMERA]
    clips, actions = zip(*(square_episode(seed) for seed in range(2)), strict=True)
    per_episode = len(clips[0]) - 5
    assert pairs.episodes.tolist() == [0] * per_episode + [1] * per_episode
    row = per_episode + 3
    assert (pairs.frames[pairs.now[row]] == clips[1][3].transpose(2, 0, 1)).all()
    assert (pairs.frames[pairs.future[row]] == clips[1][8].transpose(2, 0, 1)).all()
    assert pairs.actions[row].tolist() == actions[1][3:8].sum(0).tolist()
    assert read.instructions == ["push", "push"]


def test_sharing_frames_between_pairs_changes_no_code(squares, tiny_model, tiny_processor):
    read = read_pairs(load_episodes(squares, limit=3), tiny_processor, Stride.parse("0.5s"), 12)
    pairs = read.pairs[CAMERA]
    assert len(pairs.frames) < 2 * len(pairs)
    now, future = (
        tiny_processor.normalize_frames(torch.from_numpy(pairs.frames[side])) for side in (pairs.now, pairs.future)
    )
    with torch.no_grad():
        alone = tiny_model.encode(now, future)
    together = encode_pairs(tiny_model, tiny_processor, pairs)
    assert torch.equal(together.codes, alone.codes)
    assert torch.allclose(together.latents, alone.latents, atol=1e-5)
