"""`lara-tok eval`: report, page and table; equal bytes for equal commands; alarms are no failure."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_lerobot, moving_square):
    """6 episodes of squares that move by their action."""
    steps = [1 + index % 3 for index in range(6)]
    clips = [moving_square(12, size=32, step=step, seed=index) for index, step in enumerate(steps)]
    actions = [np.tile([step, t % 2, 0], (12, 1)).astype("f4") for t, step in enumerate(steps)]
    root = tmp_path_factory.mktemp("eval") / "squares"
    return write_lerobot(root, {"observation.images.top": clips}, kind="image", actions=actions)


def test_one_command_writes_report_card_and_table(lara_tok, dataset, tiny_checkpoint, tmp_path):
    ran = lara_tok("eval", tiny_checkpoint, dataset, "--out", tmp_path / "report")
    assert ran.code == 0  # with an alarm: the model is not trained
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["model"]["id"] == "lam"
    assert report["model"]["weights_sha256"].keys() == {"model.safetensors"}
    assert any(each["severity"] == "alarm" for each in report["alarms"])
    assert (tmp_path / "report/index.html").stat().st_size > 0
    told = report["verdict"]
    verdict = f"verdict        {told['grade']}: {told['reason']}\nnext           {told['next_step']}\n"
    for text in ("conditional R2", "selectivity", "z gain", "shuffled z", verdict):
        assert text in ran.out


def test_the_same_command_twice_gives_the_same_report(lara_tok, dataset, tiny_checkpoint, tmp_path):
    reports = []
    for name in ("one", "two"):
        lara_tok("eval", tiny_checkpoint, dataset, "--out", tmp_path / name)
        reports.append((tmp_path / name / "report.json").read_bytes())
    assert reports[0] == reports[1]


def test_json_is_the_report_and_all_adds_the_slower_figures(lara_tok, dataset, tiny_checkpoint, tmp_path):
    ran = lara_tok("eval", tiny_checkpoint, dataset, "--out", tmp_path, "--json", "--all")
    report = json.loads(ran.out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert "cycle_transfer" in report["extra"]


def test_a_second_checkpoint_is_measured_on_the_same_pairs(lara_tok, dataset, tiny_checkpoint, tmp_path):
    ran = lara_tok("eval", tiny_checkpoint, dataset, "--out", tmp_path, "--compare", tiny_checkpoint)
    assert ran.code == 0
    command = f"lara-tok eval {tiny_checkpoint} {dataset} --out report/ --compare {tiny_checkpoint}</pre>"
    assert command in (tmp_path / "index.html").read_text()
    assert (tmp_path / "compared.json").read_bytes() == (tmp_path / "report.json").read_bytes()


def test_without_a_source_it_is_asked_for(lara_tok, tiny_checkpoint, tmp_path):
    ran = lara_tok("eval", tiny_checkpoint, "--out", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "evaluation needs SOURCE" in ran.err


def test_a_file_as_out_is_refused_before_the_source_is_read(lara_tok, tiny_checkpoint, tmp_path):
    out = tmp_path / "t.parquet"
    out.write_text("")
    ran = lara_tok("eval", tiny_checkpoint, tmp_path / "absent", "--out", out)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: --out {out} is a file; eval writes a folder (report.json, index.html). Name a folder.\n"


def test_a_second_checkpoint_that_cannot_be_measured_is_refused_before_the_first_is(
    lara_tok, tiny_checkpoint, tmp_path
):
    from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVqConfig, SpaceTimeVqModel

    vision = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}
    layers = {"hidden_size": 16, "num_attention_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    SpaceTimeVqModel(SpaceTimeVqConfig(vision_config=vision, image_size=28, **layers)).save_pretrained(tmp_path / "vq")
    LatentActionProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "vq")
    # There is no such source: it is not opened.
    ran = lara_tok(
        "eval", tiny_checkpoint, tmp_path / "absent", "--out", tmp_path / "out", "--compare", tmp_path / "vq"
    )
    assert (ran.code, ran.out) == (2, "")
    assert "SpaceTimeVqModel predicts no frames" in " ".join(ran.err.split())


def test_what_probes_predict_is_said_and_can_be_set(lara_tok, dataset, tiny_checkpoint, tmp_path):
    said = {}
    for rule in ("auto", "chunk"):
        ran = lara_tok("eval", tiny_checkpoint, dataset, "--out", tmp_path / rule, "--target", rule)
        target = json.loads((tmp_path / rule / "report.json").read_text())["data"]["target"]
        said[rule] = target["sentence"]
        assert target["rule"] == rule
        assert target["sentence"] in " ".join(ran.out.split())
        assert target["sentence"] in (tmp_path / rule / "index.html").read_text()
    assert said["auto"].startswith("sum of the actions in")
    assert said["chunk"].startswith("all actions of a pair, one after another, 5 of 3 numbers")
