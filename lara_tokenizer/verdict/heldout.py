"""The verdict on a training run by its held-out measures, and the card that the run leaves beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lara_tokenizer.thresholds import COPYING_WARNING, POOLED_LOG_USE
from lara_tokenizer.verdict.findings import decoder_findings, log_use, number, spread_findings
from lara_tokenizer.verdict.grades import ALARM, WARNING, Finding, Verdict, decide

HELD_OUT = "held-out pairs"


def heldout_verdict(measured: Mapping[str, float], codebook_size: int) -> Verdict:
    """The verdict by the last held-out measures of a run, named as in its log; one that is missing is a fault.

    >>> heldout_verdict({"heldout_spread": 0.9, "heldout_perplexity": 40, "heldout_z_gain": 0.001}, 64).reason
    "the decoder ignores z: with another pair's codes it predicts as well, or nearly (z gain 0.001)"
    """
    spread, perplexity = (measured.get(f"heldout_{name}", float("nan")) for name in ("spread", "perplexity"))
    findings = spread_findings(spread)
    # Negated, so that NaN counts as a fault.
    if not findings and not log_use(perplexity, codebook_size, codebook_size) >= POOLED_LOG_USE:
        few = f"few of the {codebook_size} codes are in use (perplexity {perplexity:.1f})"
        findings.append(Finding("collapsed_codebook", ALARM, f"the codebook has collapsed: {few}"))
    findings += decoder_findings(measured.get("heldout_z_gain", float("nan")), measured.get("heldout_z_gain_moving"))
    if (gain := measured.get("heldout_gain_over_copying", 0.0)) < COPYING_WARNING:
        told = (
            f"the decoded future is farther from the truth than the first frame is (gain over copying {number(gain)})"
        )
        findings.append(Finding("worse_than_copying", WARNING, told))
    alarms = [each for each in findings if each.severity == ALARM]
    told = next((each.sentence for each in findings), "nothing wrong")
    return decide(alarms, checked=f"z, codes and decoder on {HELD_OUT}", instead=told)


def run_card(
    summary: Mapping[str, Any], strides: Sequence[str], codebook_size: int, ranges: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """The content of card.json of a run; see `card.Card`.

    Args:
        summary: of the run: counts, datasets, held-out measures.
        strides: trained on.
        codebook_size: K.
        ranges: of the pixels trained on.
    """
    datasets = ", ".join(filter(None, summary["datasets"])) or "one source"
    headline = {
        name.removeprefix("heldout_"): {"value": value}
        for name, value in summary.items()
        if name.startswith("heldout_")
    }
    verdict = asdict(heldout_verdict(summary, codebook_size))
    return {
        "training": {
            "words": f"{summary['pairs']:,} pairs of {datasets}",
            "steps": summary["steps"],
            "strides": list(strides),
            "ranges": {name: list(each) for name, each in ranges.items()},
        },
        "sets": {HELD_OUT: {"headline": headline, "verdict": verdict}},
    }
