"""Findings and verdict of a report, by the rules of `lara_tokenizer/verdict/` and those that need a random-init model.

All rules read outputs alone: z, codes and decoded frames of the model, and those of a random-init model of the same
configuration. Of faults that follow from one another only the first is named: where z is constant, its codes are too,
and no decoder can use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lara_tokenizer.evaluate.figures import ROW_NAMES, UNMEASURED, BestControl, Estimate, ProbeRow, Report
from lara_tokenizer.thresholds import (
    COPYING_WARNING,
    LEARNED_GAIN,
    NUISANCE_ALARM,
    NUISANCE_WARNING,
    SPREAD_RATIO_TO_RANDOM,
)
from lara_tokenizer.verdict.findings import (
    code_findings,
    decoder_findings,
    idle_findings,
    number,
    spread_findings,
)
from lara_tokenizer.verdict.grades import ALARM, NUISANCE_WORDS, SEVERITIES, WARNING, Finding, Verdict, decide
from lara_tokenizer.verdict.probe import Control, Gain, Probe, evidence, probe_findings


def find_alarms(report: Report) -> list[Finding]:
    """All faults that the figures show: alarms, doubts, warnings.

    >>> find_alarms(evaluation.figures)[0].name  # doctest: +SKIP
    'encodes_shake'
    """
    # Nothing else is worth saying about a model that was not trained.
    if untrained := list(_untrained(report)):
        return untrained
    findings = spread_findings(report.latents.spread)
    is_constant = any(each.severity == ALARM for each in findings)
    # A constant z explains its codes, what the decoder makes of them, and what a probe finds.
    if not is_constant:
        findings += _codes(report)
        # So does a collapsed codebook: decoder and codes' probe see quantized z.
        has_collapsed = any(each.severity == ALARM for each in findings)
        if not has_collapsed:
            findings += [*_decoder(report), *_worse_than_copying(report)]
        if (probe := probe_of(report)) is not None:
            findings += probe_findings(replace(probe, codes=None) if has_collapsed else probe)
    findings += _encoded_nuisances(report)
    findings += idle_findings({camera: (idle, pairs) for camera, (idle, pairs) in report.data.idle_pairs.items()})
    return sorted(findings, key=lambda each: SEVERITIES.index(each.severity))


def verdict(report: Report) -> Verdict:
    """The verdict for a reader who wants to train on the labels; `report.alarms` must be filled in."""
    probe = probe_of(report)
    return decide(
        report.alarms,
        evidence=None if probe is None else evidence(probe),
        checked=("codes" if report.codebook is not None else "z") + " and decoder",
        next_step="run lara-tok eval on data with actions that is like this",
    )


def probe_of(report: Report) -> Probe | None:
    """The probe of the actions as the verdict reads it; None where none was made."""
    margins = report.probe.margins.get("conditional_r2")
    z = report.headline["conditional_r2"]
    if not margins or z.value is None:
        return None
    codes = report.headline["conditional_r2_codes"]
    return Probe(
        episodes=report.probe.test_episodes,
        # The mean predictor has a conditional R2 of 0: its margin is what z adds to frame t.
        z=_gain(z, margins["mean"]),
        codes=None if codes.value is None else _gain(codes, codes),
        best=_control(report.best_control("conditional_r2")),
        best_codes=_control(report.best_control("conditional_r2_codes")),
        left_out={ROW_NAMES[name]: reason for name, reason in report.controls.left_out.items()},
    )


def _gain(own: Estimate, interval: Estimate) -> Gain:
    low, high = interval.bounds or (float("-inf"), float("inf"))
    return Gain(own.known, low, high)


def _control(best: BestControl) -> Control | None:
    if best.name is None or best.value is None:
        return None
    return Control(ROW_NAMES[best.name], best.value, best.is_certain, best.is_beaten, best.is_better)


def _untrained(report: Report) -> Iterator[Finding]:
    """Neither z nor the decoder is better than in a random-init model, and z varies as much as there."""
    gain = max(value for value in report.decoder.gain_over_random_init.values() if value is not None)
    margin = report.probe.margins.get("conditional_r2", {}).get("random_init")
    spread, random_spread = report.latents.spread, report.latents.random_init_spread
    alike = random_spread / SPREAD_RATIO_TO_RANDOM <= spread <= random_spread * SPREAD_RATIO_TO_RANDOM
    if gain >= LEARNED_GAIN or (margin is not None and margin.low > 0) or not alike:
        return
    nor_z = ", and its z tells no more of the actions" if margin is not None else ""
    told = f"its decoder predicts no better than an untrained one (gain {number(gain)}){nor_z}"
    yield Finding("untrained", ALARM, f"the model behaves like one with random weights: {told}")


def _codes(report: Report) -> list[Finding]:
    codebook = report.codebook
    if codebook is None or codebook.moving is None:
        return []
    return code_findings(codebook.moving, codebook.size, codebook.moving_pairs)


def _decoder(report: Report) -> list[Finding]:
    gains = (report.decoder.z_gain, report.decoder.z_gain_moving)
    used = max(gains, key=lambda each: -1.0 if each.value is None else each.value)
    return decoder_findings(gains[0].value, gains[1].value, used.bounds)


def _worse_than_copying(report: Report) -> Iterator[Finding]:
    gain = report.decoder.gain_over_copying.value
    if gain is not None and gain < COPYING_WARNING:
        told = f"gain over copying {number(gain)}"
        sentence = f"the decoded future is farther from the truth than the first frame is ({told})"
        yield Finding("worse_than_copying", WARNING, sentence)


def _encoded_nuisances(report: Report) -> Iterator[Finding]:
    """An alarm where z predicts a family better than the actions, by its whole interval; a warning for a good part."""
    row: ProbeRow = report.nuisance.row("z")
    for family, estimate in row.families.items():
        what, r2 = NUISANCE_WORDS[family], estimate.known
        actions = row.r2 or UNMEASURED
        if actions.value is not None and r2 > NUISANCE_ALARM and (row.over_family_intervals[family][1] or 0) < 0:
            sentence = (
                f"z encodes {what} rather than actions: where there is any, R2 is {number(r2)} for {what} and "
                f"{number(actions.value)} for the actions"
            )
            yield Finding(f"encodes_{family}", ALARM, sentence)
        elif r2 > NUISANCE_WARNING:
            yield Finding(f"holds_{family}", WARNING, f"z also holds {what} (R2 {number(r2)})")
