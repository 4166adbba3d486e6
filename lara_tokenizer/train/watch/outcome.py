"""The grade of a finished stage-1 run by its held-out measures, which can warn but never praise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lara_tokenizer.thresholds import CODE_USE_ALARM, COPYING_WARNING, PERPLEXITY_FLOOR, SPREAD_ALARM, Z_GAIN_ALARM

SICK, UNKNOWN = "do not train on these", "no evidence yet"


class Outcome(NamedTuple):
    """A grade in plain words, and the figure that decided it."""

    grade: str
    reason: str


def judge_run(measured: Mapping[str, float], codebook_size: int) -> Outcome:
    """Judge the last held-out measures of a run, named as in its log.

    Whether z tells the action no measure of a run without actions can say: at best there is no evidence against it.

    >>> judge_run({"heldout_spread": 0.9, "heldout_perplexity": 40, "heldout_z_gain": 0.001}, 64).reason
    'the decoder ignores z: with the codes of another pair it is 0.1 % worse (2 % at least)'
    """

    def of(name: str) -> float:
        return measured.get(f"heldout_{name}", float("nan"))

    lowest = max(PERPLEXITY_FLOOR, CODE_USE_ALARM * codebook_size)
    z_gain = max(of("z_gain"), measured.get("heldout_z_gain_moving", of("z_gain")))
    # Negated comparisons, so that NaN counts as sick.
    if not of("spread") >= SPREAD_ALARM:
        return Outcome(SICK, f"z collapsed: its spread is {of('spread'):.2f} ({SPREAD_ALARM} at least)")
    if not of("perplexity") >= lowest:
        return Outcome(
            SICK, f"{of('perplexity'):.1f} of {codebook_size} codes in effective use ({lowest:.0f} at least)"
        )
    if not z_gain >= Z_GAIN_ALARM:
        reason = "the decoder ignores z: with the codes of another pair it is"
        return Outcome(SICK, f"{reason} {z_gain:.1%} worse ({Z_GAIN_ALARM:.0%} at least)".replace("%", " %"))
    if of("gain_over_copying") < COPYING_WARNING:
        gain = of("gain_over_copying")
        return Outcome(UNKNOWN, f"the decoder predicts worse than copying frame t (gain {gain:.2f}): train longer")
    return Outcome(
        UNKNOWN, "nothing is wrong with z, the codes and the decoder; whether z tells the action is not probed"
    )
