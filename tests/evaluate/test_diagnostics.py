"""A healthy model raises no alarm, each fault its own, and the verdict puts it into words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from square_models import CameraModel, CollapsedCodebook, ConstantZ, IgnoresZ, SquareModel

from lara_tokenizer import LatentActionModel
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.evaluate.diagnostics import find_alarms, verdict
from lara_tokenizer.evaluate.figures import ROW_NAMES, BestControl, ControlInfo, Estimate, ProbeTable
from lara_tokenizer.evaluate.probes import best_controls


def _alarms(model, processor, source):
    report = evaluate_checkpoint(model, processor, source, pairs_per_episode=9).report
    return report, [each["name"] for each in report["alarms"] if each["severity"] == "alarm"]


def test_a_healthy_model_raises_no_alarm_but_flow_does_as_well_where_a_square_moves_on_a_still_ground(
    squares, plain_processor
):
    report, alarms = _alarms(SquareModel.trained(), plain_processor, squares)
    assert alarms == []
    assert [each["name"] for each in report["alarms"]] == ["no_better_than_control"]
    best = report["headline"]["best_control"]
    assert best["name"] in ("optical_flow", "closed_form")
    assert best["value"] > 0.9
    assert report["verdict"].startswith("The codes are usable with care: z tells no more of the actions than a control")
    assert ROW_NAMES[best["name"]] in report["verdict"]


FAULTS = [
    (CollapsedCodebook, "collapsed_codebook", "the codebook has collapsed"),
    (ConstantZ, "constant_z", "z is nearly the same whatever happens"),
    (IgnoresZ, "ignored_z", "the decoder ignores z"),
]


@pytest.mark.parametrize(("kind", "name", "words"), FAULTS)
def test_each_fault_raises_its_own_alarm_and_no_other(kind, name, words, squares, plain_processor):
    report, alarms = _alarms(kind.trained(), plain_processor, squares)
    assert alarms == [name]
    assert report["verdict"].startswith(f"Do not train on these codes: {words}")


def test_a_model_that_encodes_the_camera_is_not_one_that_encodes_actions(handheld_squares, plain_processor):
    report, alarms = _alarms(CameraModel.trained(), plain_processor, handheld_squares)
    assert alarms == ["encodes_shake"]
    assert report["verdict"].startswith("Do not train on these codes: z encodes camera shake rather than actions")


def test_an_untrained_latent_action_model_is_reported(squares, tiny_config, tiny_processor):
    torch.manual_seed(7)
    report, alarms = _alarms(LatentActionModel(tiny_config), tiny_processor, squares)
    assert alarms == ["untrained"]
    assert "random weights" in report["verdict"]


def test_a_latent_action_model_with_a_constant_z_is_reported(squares, tiny_config, tiny_processor):
    torch.manual_seed(7)
    model = LatentActionModel(tiny_config)
    with torch.no_grad():
        model.inverse_dynamics.to_latents[-1].weight.zero_()
    _, alarms = _alarms(model, tiny_processor, squares)
    assert alarms == ["constant_z"]


@pytest.fixture(scope="module")
def healthy(squares, plain_processor):
    """Figures without a warning: z and its codes are said to beat the best control."""
    report = evaluate_checkpoint(SquareModel.trained(), plain_processor, squares, pairs_per_episode=6).figures
    beaten = {row: replace(best, is_beaten=True) for row, best in report.probe.best_controls.items()}
    return replace(report, probe=replace(report.probe, best_controls=beaten))


def _judged(report, **changes):
    """Names of the alarms, and the verdict, of a report with other figures, by section or as "section__figure"."""
    for path, value in changes.items():
        section, _, name = path.partition("__")
        report = replace(report, **{section: replace(getattr(report, section), **{name: value}) if name else value})
    report = replace(report, alarms=find_alarms(report))
    return [each.name for each in report.alarms], verdict(report)


def _with_families(healthy, shake, light, **changes):
    """The nuisance table with other R2 of z for each family."""
    row = replace(healthy.nuisance.row("z"), families={"shake": Estimate(shake), "light": Estimate(light)}, **changes)
    return replace(healthy.nuisance, rows={**healthy.nuisance.rows, "z": row})


def test_a_warning_is_no_refusal(healthy):
    names, words = _judged(healthy, latents__spread=0.4)
    assert names == ["narrow_z"]
    assert words.startswith("The codes are usable with care: z points mostly one way (spread 0.40")


def test_a_nuisance_alone_is_named_as_the_limit_of_the_codes(healthy):
    over = {"shake": [0.1, 0.2], "light": [-0.5, -0.3]}
    changed = _with_families(healthy, 0.0, 0.8, over_family_intervals=over)
    names, words = _judged(healthy, nuisance=changed)
    assert names == ["encodes_light"]
    assert words.startswith("Train on these codes only for video without changes of the light: z encodes")


def test_a_nuisance_that_z_holds_beside_the_actions_is_a_warning(healthy):
    names, _ = _judged(healthy, nuisance=_with_families(healthy, 0.3, 0.0))
    assert names == ["holds_shake"]


def test_dead_positions_are_a_warning_until_they_are_more_than_half(healthy):
    assert _judged(healthy, codebook__dead_positions=1)[0] == ["dead_positions"]
    assert _judged(healthy, codebook__dead_positions=2)[0] == ["collapsed_codebook"]


def test_latents_without_codes_are_judged_too(healthy):
    assert _judged(healthy, codebook=None)[1].startswith("The latents are usable: the decoder reads them")


def test_without_probes_the_rest_is_still_judged(healthy):
    empty = ProbeTable("top", "no probe")
    names, words = _judged(healthy, probe=empty, nuisance=replace(empty, families=["shake"]))
    assert names == []
    assert words.startswith("The codes are usable: ")


def _best(**changes):
    return BestControl(**{"name": "optical_flow", "value": 0.2, "interval": [0.1, 0.3], **changes})


def _beside(healthy, row="z", **changes):
    best = {**healthy.probe.best_controls, row: _best(**changes)}
    return _judged(healthy, probe__best_controls=best)


def test_a_control_that_does_as_well_or_better_is_named_in_the_verdict(healthy):
    names, words = _beside(healthy, difference=0.01, difference_interval=[-0.1, 0.1])
    assert names == ["no_better_than_control"]
    assert "z tells no more of the actions than a control does, dense optical flow" in words
    names, words = _beside(healthy, difference=-0.2, difference_interval=[-0.3, -0.1])
    assert names == ["no_better_than_control"]
    assert "z tells less of the actions than a control does, dense optical flow" in words


def test_where_z_adds_nothing_the_control_that_adds_something_is_named(healthy):
    margins = {"conditional_r2": {**healthy.probe.margins["conditional_r2"], "mean": Estimate(0.0, [-0.1, 0.1])}}
    best = {"z": _best(difference=-0.2, difference_interval=[-0.3, -0.1])}
    names, words = _judged(healthy, probe=replace(healthy.probe, margins=margins, best_controls=best))
    assert names == ["no_actions"]
    assert "z adds nothing certain" in words
    assert "where a control, dense optical flow, adds 0.20 (12 episodes)" in words


def test_codes_are_held_against_codes_of_as_many_bits(healthy):
    names, words = _beside(
        healthy, "quantized", name="closed_form_codes", difference=0, difference_interval=[-0.1, 0.1]
    )
    assert names == ["codes_no_better_than_control"]
    assert "quantized z tells no more of the actions than a control does, closed-form codes" in words


def test_evidence_is_said_above_every_control_only_and_not_where_one_is_missing(healthy):
    names, words = _beside(healthy, is_beaten=True)
    assert names == []
    assert words.endswith(
        "above every control (the best, dense optical flow, adds 0.20): evidence that z encodes the actions."
    )
    missing = ControlInfo(left_out={"optical_flow": "optical flow needs the 'eval' extra"})
    words = _judged(healthy, controls=missing)[1]
    assert "evidence" not in words
    assert words.endswith("not compared with dense optical flow: optical flow needs the 'eval' extra.")


@pytest.mark.parametrize(
    ("own", "control", "difference", "is_beaten"),
    [
        ((0.5, 0.45), 0.2, 0.3, True),
        ((0.5, 0.15), 0.2, 0.3, False),  # above on the same pairs, but the intervals touch
        ((0.2, 0.15), 0.2, 0.0, False),
    ],
)
def test_a_control_is_beaten_by_the_paired_difference_and_by_both_intervals(own, control, difference, is_beaten):
    value, low = own
    spread = np.linspace(-1, 1, 101)
    of_control = np.concatenate([[control], control + 0.01 * spread])
    of_own = np.concatenate([[value], value + (value - low) * spread])
    best = best_controls({"mean": np.zeros(102), "flow": of_control, "z": of_own}, "z")["z"]
    assert (best.name, best.value, best.is_beaten) == ("flow", control, is_beaten)
    assert best.difference == pytest.approx(difference)
