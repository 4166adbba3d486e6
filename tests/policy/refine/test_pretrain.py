"""Policies from pseudo-labels: codes of a table as targets, then actions, too."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from lara_policy.modeling_flow_matching_policy import FlowMatchingPolicy
from lara_policy.refine import refine
from lara_policy.refine.dataset import CodeTable
from lara_policy.refine.refine import pretrain
from lara_policy.refine.setup import set_up

from lara_tokenizer import encode_dataset


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, labelled_squares, tiny_model, tiny_processor):
    out = tmp_path_factory.mktemp("tokens") / "tokens.parquet"
    encode_dataset(labelled_squares(8), tiny_model, tiny_processor, out=out, strides=["0.5s"])
    return out


def test_targets_are_the_tables_codes_of_that_frame(
    tokens, labelled_squares, tiny_refinement, tiny_model, tiny_processor, tmp_path
):
    data = set_up(labelled_squares(8), tiny_refinement(mode="codes"), tmp_path, tokens=tokens)
    batch = data.samples.batch(range(12))
    draws = data.samples.mixture.draw(range(12))
    episodes = {episode.id: episode for episode in labelled_squares(8)}
    for row in range(12):
        now = draws.now[row]
        reader = episodes[data.demonstrations[draws.sequence[row]].episode].reader
        assert batch["code_mask"][row] == (now + 5 < len(reader.actions))
        if batch["code_mask"][row]:
            pair = tiny_processor(reader.frames("front", [now]), reader.frames("front", [now + 5]))
            assert torch.equal(tiny_model.encode(**pair).codes[0], batch["codes"][row])
    assert not batch["action_mask"].any()
    assert (batch["state"] == 0).all()


def test_codes_first_and_actions_after(tokens, labelled_squares, tiny_refinement, tmp_path):
    out = tmp_path / "out"
    recipe = tiny_refinement({"pretrain_steps": 30})
    summary = pretrain(tokens, [*labelled_squares(5), *labelled_squares(8, labelled=False)[5:]], recipe, out=out)
    first = json.loads((out / "pretrained" / "training_log.json").read_text(encoding="utf-8"))["summary"]
    assert first["steps"] == 30
    assert first["heldout_codes"] < first["start"]["codes"]
    assert "heldout_alignment" not in summary
    assert summary["steps"] == 40
    assert summary["episodes"] + summary["heldout_episodes"] == 5
    assert {"heldout_action", "heldout_codes"} <= summary.keys()
    policy = FlowMatchingPolicy.from_pretrained(out / "policy").eval()
    assert policy.config.num_codes == 4
    image = np.zeros((32, 32, 3), np.uint8)
    assert policy.predict({"images": {"front": image}, "state": np.zeros(2), "task": "go"}).shape == (6, 3)


def test_video_without_actions_ends_after_phase_1(tokens, labelled_squares, tiny_refinement, tmp_path):
    pretrain(tokens, labelled_squares(8, labelled=False), tiny_refinement({"steps": 2}), out=tmp_path)
    assert (tmp_path / "pretrained" / "policy").is_dir()
    assert not (tmp_path / "policy").exists()


def test_a_table_that_does_not_fit_is_refused(tokens, labelled_squares, tiny_refinement, tmp_path):
    with pytest.raises(ValueError, match=r"codes at frame 14 of episode 'ep000', which has 6 frames"):
        CodeTable.read(tokens).of("ep000", 6)
    others = labelled_squares(8, labelled=False)
    for episode in others:
        episode.id = "other-" + episode.id
    with pytest.raises(ValueError, match=r"none of the 8 episodes has rows in"):
        refine(others, tiny_refinement(mode="codes"), out=tmp_path / "a", tokens=tokens)
    with pytest.raises(ValueError, match="needs a token table"):
        refine(labelled_squares(8), tiny_refinement(mode="codes"), out=tmp_path / "b")
