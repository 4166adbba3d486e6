"""A healthy model raises no alarm, each fault its own, and the verdict puts it into words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from square_models import SquareModel

from lara_tokenizer import LatentActionModel
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.evaluate.diagnostics import find_alarms, verdict
from lara_tokenizer.evaluate.figures import ROW_NAMES, BestControl, ControlInfo, Estimate, ProbeTable
from lara_tokenizer.evaluate.probes import best_controls
from lara_tokenizer.verdict.grades import DO_NOT_TRAIN, EVIDENCE, NO_EVIDENCE


def _alarms(model, processor, source):
    report = evaluate_checkpoint(model, processor, source, pairs_per_episode=9).report
    return report, [each["name"] for each in report["alarms"] if each["severity"] == "alarm"]


def test_an_untrained_latent_action_model_is_reported(squares, tiny_config, tiny_processor):
    torch.manual_seed(7)
    report, alarms = _alarms(LatentActionModel(tiny_config), tiny_processor, squares)
    assert alarms == ["untrained"]
    assert "random weights" in report["verdict"]["reason"]


def test_a_latent_action_model_with_a_constant_z_is_reported(squares, tiny_config, tiny_processor):
    torch.manual_seed(7)
    model = LatentActionModel(tiny_config)
    with torch.no_grad():
        model.inverse_dynamics.to_latents[-1].weight.zero_()
    _, alarms = _alarms(model, tiny_processor, squares)
    assert alarms == ["constant_z"]


@pytest.fixture(scope="module")
def measured(squares, plain_processor):
    return evaluate_checkpoint(SquareModel.trained(), plain_processor, squares, pairs_per_episode=6).figures


@pytest.fixture(scope="module")
def healthy(measured):
    """Figures without a finding: z and its codes are said to beat the best control."""
    beaten = {row: replace(best, is_beaten=True) for row, best in measured.probe.best_controls.items()}
    return replace(measured, probe=replace(measured.probe, best_controls=beaten))


def _judged(report, **changes):
    """Names of the findings, and the verdict, of a report with other figures, by section or as "section__figure"."""
    for path, value in changes.items():
        section, _, name = path.partition("__")
        report = replace(report, **{section: replace(getattr(report, section), **{name: value}) if name else value})
    report = replace(report, alarms=find_alarms(report))
    return [each.name for each in report.alarms], verdict(report)


def _with_families(healthy, shake, light, **changes):
    """The nuisance table with other R2 of z for each family."""
    row = replace(healthy.nuisance.row("z"), families={"shake": Estimate(shake), "light": Estimate(light)}, **changes)
    return replace(healthy.nuisance, rows={**healthy.nuisance.rows, "z": row})


def test_codes_may_beat_their_controls_where_flow_tells_as_much_as_z(measured):
    # A square moves on a still ground.
    (warning,), best = measured.alarms, measured.best_control("conditional_r2")
    assert (best.name in ("optical_flow", "closed_form"), best.value > 0.9) == (True, True)
    assert warning.sentence.startswith(f"z tells no more of the actions than a control, {ROW_NAMES[best.name]}")
    assert measured.verdict.grade == EVIDENCE
    assert "above every control of as many bits (the best, closed-form codes," in measured.verdict.reason


def test_a_warning_is_no_refusal(healthy):
    names, words = _judged(healthy, latents__spread=0.4)
    assert names == ["narrow_z"]
    assert words.grade == EVIDENCE


def test_a_nuisance_alone_is_named_as_the_limit_of_the_codes(healthy):
    over = {"shake": [0.1, 0.2], "light": [-0.5, -0.3]}
    changed = _with_families(healthy, 0.0, 0.8, over_family_intervals=over)
    names, words = _judged(healthy, nuisance=changed)
    assert names == ["encodes_light"]
    assert words.grade == NO_EVIDENCE
    assert words.reason.startswith("z encodes changes of the light rather than actions")
    assert words.next_step == "use them for video without changes of the light only"


def test_a_nuisance_that_z_holds_beside_the_actions_is_a_warning(healthy):
    names, _ = _judged(healthy, nuisance=_with_families(healthy, 0.3, 0.0))
    assert names == ["holds_shake"]


def test_dead_positions_are_a_warning_until_they_are_more_than_half(healthy):
    for dead, name in (([1], "dead_positions"), ([0, 1], "collapsed_codebook")):
        moving = replace(healthy.codebook.moving, dead_positions=dead)
        assert _judged(healthy, codebook__moving=moving)[0] == [name]


def test_a_third_of_idle_pairs_is_told(healthy):
    assert _judged(healthy, data__idle_pairs={"top": [29, 100]})[0] == []
    assert _judged(healthy, data__idle_pairs={"top": [30, 100]})[0] == ["idle"]


def test_use_of_z_that_may_be_nothing_is_no_evidence(healthy):
    gains = {"decoder__z_gain": Estimate(0.3, [-0.1, 0.5]), "decoder__z_gain_moving": Estimate(0.2, [-0.1, 0.4])}
    names, words = _judged(healthy, **gains)
    assert names == ["uncertain_z_use"]
    assert words.grade == NO_EVIDENCE
    assert "z gain 0.300, of moving pixels 0.200; -0.100 to 0.500" in words.reason


def test_a_number_has_the_digits_of_the_tables(healthy):
    gains = {"decoder__z_gain": Estimate(0.0187), "decoder__z_gain_moving": Estimate(0.01)}
    words = _judged(healthy, **gains)[1]
    assert words.grade == DO_NOT_TRAIN
    assert "z gain 0.019, of moving pixels 0.010" in words.reason


def test_without_probes_the_rest_is_still_judged(healthy):
    empty = ProbeTable("top", "no probe")
    names, words = _judged(healthy, probe=empty, nuisance=replace(empty, families=["shake"]))
    assert names == []
    assert words.grade == NO_EVIDENCE
    assert words.reason == "codes and decoder: nothing wrong; not probed"


def _best(**changes):
    return BestControl(**{"name": "optical_flow", "value": 0.2, "interval": [0.1, 0.3], **changes})


def _beside(healthy, row="z", **changes):
    best = {**healthy.probe.best_controls, row: _best(**changes)}
    return _judged(healthy, probe__best_controls=best)


def test_a_control_that_does_as_well_or_better_is_named_and_decides_where_there_are_no_codes(healthy):
    for difference, interval, words in (
        (0.01, [-0.1, 0.1], "z tells no more of the actions than a control, dense optical flow"),
        (-0.2, [-0.3, -0.1], "z tells less of the actions than a control, dense optical flow"),
    ):
        names, verdict_ = _beside(healthy, difference=difference, difference_interval=interval)
        assert names == ["no_better_than_control"]
        assert verdict_.grade == EVIDENCE  # of its codes
        rows = {name: row for name, row in healthy.probe.rows.items() if name != "quantized"}
        continuous = replace(healthy, codebook=None, probe=replace(healthy.probe, rows=rows))
        names, verdict_ = _beside(continuous, difference=difference, difference_interval=interval)
        assert names == ["no_better_than_control"]
        assert verdict_.grade == NO_EVIDENCE
        assert verdict_.reason.startswith(words)


def test_where_z_adds_nothing_the_control_that_adds_something_is_named(healthy):
    margins = {"conditional_r2": {**healthy.probe.margins["conditional_r2"], "mean": Estimate(0.0, [-0.1, 0.1])}}
    best = {**healthy.probe.best_controls, "z": _best(difference=-0.2, difference_interval=[-0.3, -0.1])}
    names, words = _judged(healthy, probe=replace(healthy.probe, margins=margins, best_controls=best))
    assert names == ["no_actions"]
    assert words.grade == NO_EVIDENCE
    assert words.reason.startswith("z adds nothing certain")
    assert "where a control, dense optical flow, adds 0.200" in words.reason
    assert words.reason.endswith("-0.100 to 0.100; 12 episodes)")


def test_codes_are_held_against_codes_of_as_many_bits(healthy):
    names, words = _beside(
        healthy, "quantized", name="closed_form_codes", difference=0, difference_interval=[-0.1, 0.1]
    )
    assert names == ["codes_no_better_than_control"]
    assert words.grade == NO_EVIDENCE
    assert words.reason.startswith("quantized z tells no more of the actions than a control, closed-form codes")


def test_evidence_is_said_above_every_control_only_and_not_where_one_is_missing(healthy):
    names, words = _beside(healthy, "quantized", is_beaten=True)
    assert names == []
    assert words.grade == EVIDENCE
    assert words.reason.endswith("above every control of as many bits (the best, dense optical flow, adds 0.200)")
    missing = ControlInfo(left_out={"optical_flow": "optical flow needs the 'eval' extra"})
    words = _judged(healthy, controls=missing)[1]
    assert words.grade == NO_EVIDENCE
    assert words.reason == "it was not compared with dense optical flow: optical flow needs the 'eval' extra"


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
