"""`lara-tok refine` on a LeRobotDataset: joint training, pseudo-labels, refused arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from labelled_squares import TINY_POLICY
from square_models import LENGTH, square_episode

from lara_tokenizer.data.lerobot.writer import LeRobotWriter

KEY = "observation.images.front"


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Six episodes with actions and states."""
    writer = LeRobotWriter(
        tmp_path_factory.mktemp("demos") / "squares",
        fps=10,
        video_shapes={KEY: (32, 32)},
        column_names={"action": ("x", "y", "z"), "observation.state": ("x", "y"), "next.success": ()},
        robot_type="square",
    )
    for index in range(6):
        frames, actions = square_episode(index)
        columns = {
            "action": actions,
            "observation.state": np.cumsum(actions[:, :2], 0).astype(np.float32),
            "next.success": np.arange(LENGTH) == LENGTH - 1,
        }
        writer.add_episode(index, "go", columns, {KEY: frames}, {})
    writer.finalize()
    return writer.root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    training = {"steps": 4, "batch_size": 8, "log_steps": 2, "heldout_samples": 24, "heldout_share": 0.3}
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(yaml.safe_dump({"policy": TINY_POLICY, "training": training}), encoding="utf-8")
    return file


def test_joint_training_from_a_recipe(lara_tok, recipe, demos, tiny_checkpoint, tmp_path):
    out = tmp_path / "run"
    ran = lara_tok("refine", "--recipe", recipe, demos, "--tokenizer", tiny_checkpoint, "--out", out, "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert summary["steps"] == 4
    assert "LeRobotDataset v3.0, 6 episodes" in ran.err
    assert "step 4 of 4" in ran.err
    config = json.loads((out / "policy" / "config.json").read_text(encoding="utf-8"))
    assert config["embodiments"][0]["cameras"] == [KEY]
    assert (out / "tokenizer" / "refined_by.json").is_file()
    again = lara_tok("refine", "--recipe", recipe, demos, "--tokenizer", tiny_checkpoint, "--out", out)
    assert again.code == 2
    assert "--resume" in again.err


def test_pseudo_labels_from_a_table(lara_tok, recipe, demos, tiny_checkpoint, tmp_path):
    tokens = tmp_path / "tokens.parquet"
    assert lara_tok("encode", demos, "--model", tiny_checkpoint, "--stride", "0.5s", "--out", tokens).code == 0
    common = ("--tokenizer", tiny_checkpoint, "--out", tmp_path / "run", "--json")
    ran = lara_tok("refine", "--recipe", recipe, "--pretrain", tokens, demos, *common)
    assert ran.code == 0, ran.err
    assert {"heldout_codes", "heldout_action"} <= json.loads(ran.out).keys()
    assert (tmp_path / "run" / "pretrained" / "policy").is_dir()


def test_unlabeled_video_beside_the_demonstrations(lara_tok, recipe, demos, tiny_checkpoint, tmp_path):
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    values |= {"unlabeled": [str(demos)], "alignment": {"align_unlabeled": 1.0}}
    values["training"] |= {
        "unlabeled_batch": 4,
        "cache_frames": False,
        "gradient_checkpointing": True,
        "precision": "bf16",
    }
    file = tmp_path / "unlabeled.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    ran = lara_tok(
        "refine", "--recipe", file, demos, "--tokenizer", tiny_checkpoint, "--out", tmp_path / "run", "--json"
    )
    assert ran.code == 0, ran.err
    text = (tmp_path / "run" / "training_log.jsonl").read_text(encoding="utf-8")
    first = json.loads(text.splitlines()[0])
    assert first["train_alignment_unlabeled"] > 0
    config = json.loads((tmp_path / "run" / "policy" / "config.json").read_text(encoding="utf-8"))
    assert config["tasks"] == ["go", ""]  # "" is for video without an instruction


def test_a_dry_run_needs_nothing(lara_tok, recipe):
    ran = lara_tok("refine", "--recipe", recipe, "--dry-run", "--mode", "frozen-lam", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["mode"] == "frozen-lam"


def test_missing_arguments_are_named(lara_tok, recipe, demos, tmp_path):
    assert "error: Missing --out." in lara_tok("refine", "--recipe", recipe, demos).err
    assert (
        "error: No source: name SOURCE, or `sources`" in lara_tok("refine", "--recipe", recipe, "--out", tmp_path).err
    )
    assert lara_tok("refine", "--recipe", recipe).err.endswith("in the recipe. Missing --out.\n")
    ran = lara_tok("refine", demos, "--mode", "apart", "--out", tmp_path)
    assert ran.code == 2
    assert "mode 'apart': takes one of joint" in ran.err


def test_a_tokenizer_of_another_family_is_refused_with_what_to_do_instead(
    lara_tok, recipe, demos, tiny_processor, tmp_path
):
    from lara_tokenizer.model import SpaceTimeVaeConfig, SpaceTimeVaeModel

    config = SpaceTimeVaeConfig(image_size=32, hidden_size=16, num_attention_heads=2, num_encoder_layers=1)
    SpaceTimeVaeModel(config).save_pretrained(tmp_path / "vae")
    tiny_processor.save_pretrained(tmp_path / "vae")
    ran = lara_tok("refine", "--recipe", recipe, demos, "--tokenizer", tmp_path / "vae", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "is a SpaceTimeVaeModel: only a LatentActionModel is trained" in " ".join(ran.err.split())
