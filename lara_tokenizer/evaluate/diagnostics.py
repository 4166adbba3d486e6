"""Alarms, warnings and a verdict in words, from the figures of a report.

All rules read outputs alone: z, codes and decoded frames of the model, and those of a random-init model of the same
configuration. Of faults that follow from one another only the first is named: where z is constant, its codes are too,
and no decoder can use them.
"""

from __future__ import annotations

from collections.abc import Callable

from lara_tokenizer.evaluate.figures import ROW_NAMES, Alarm, Report
from lara_tokenizer.thresholds import (
    CODE_USE_ALARM,
    CODE_USE_WARNING,
    COPYING_WARNING,
    DEAD_POSITIONS_ALARM,
    LEARNED_GAIN,
    NUISANCE_ALARM,
    NUISANCE_WARNING,
    SPREAD_ALARM,
    SPREAD_RATIO_TO_RANDOM,
    SPREAD_WARNING,
    Z_GAIN_ALARM,
    Z_GAIN_WARNING,
)

NUISANCE_WORDS = {"shake": "camera shake", "light": "changes of the light", "background": "a moving background"}
NUISANCE_NAMES = {f"{verb}_{family}" for family in NUISANCE_WORDS for verb in ("encodes", "holds")}

Rule = Callable[[Report], str | None]  # the sentence of a fault, None where the figures do not show it


def find_alarms(report: Report) -> list[Alarm]:
    """All faults that the figures show, alarms before warnings.

    >>> find_alarms(evaluation.figures)[0].name  # doctest: +SKIP
    'encodes_shake'
    """
    judged = ((name, rule(report)) for name, rule in PRIMARY_ALARMS.items())
    primary, sentence = next(((name, text) for name, text in judged if text is not None), ("", None))
    alarms = [] if sentence is None else [Alarm(primary, "alarm", sentence)]
    # Nothing else is worth saying about a model that was not trained.
    if primary == "untrained":
        return alarms
    alarms += _encoded_nuisances(report)
    for name, (causes, rule) in WARNINGS.items():
        if primary not in causes and (sentence := rule(report)) is not None:
            alarms.append(Alarm(name, "warning", sentence))
    return sorted(alarms, key=lambda each: each.severity != "alarm")


def verdict(report: Report) -> str:
    """One or two sentences for a reader who wants to train on the codes; `report.alarms` must be filled in."""
    alarms = [each.sentence for each in report.alarms if each.severity == "alarm"]
    warnings = [each.sentence for each in report.alarms if each.severity == "warning"]
    kind = "codes" if report.codebook is not None else "latents"
    names = {each.name for each in report.alarms}
    if alarms and names <= NUISANCE_NAMES and report.probe.rows:
        # Only a nuisance is wrong: without it, z does encode the actions.
        what = " or ".join(words for family, words in NUISANCE_WORDS.items() if f"encodes_{family}" in names)
        return f"Train on these {kind} only for video without {what}: {_lower(alarms[0])}"
    if alarms:
        return f"Do not train on these {kind}: {_lower(alarms[0])}"
    if warnings:
        more = f" ({len(warnings) - 1} more warning{'s' * (len(warnings) > 2)} below.)" if len(warnings) > 1 else ""
        return f"The {kind} are usable with care: {_lower(warnings[0])}{more}"
    return f"The {kind} are usable: {_strengths(report)}."


def _strengths(report: Report) -> str:
    strengths = []
    if (codebook := report.codebook) is not None:
        strengths.append(f"{codebook.perplexity:.0f} of {codebook.size} codes are in effective use")
    strengths.append(f"the decoder reads them (z gain {_z_gain(report):.2f})")
    if (added := report.headline["conditional_r2"].value) is not None:
        tells = f"z adds {added:.2f} of R2 about the actions to what the first frame tells"
        strengths.append(tells + _evidence(report))
    return ", ".join(strengths[:-1]) + f", and {strengths[-1]}"


def _evidence(report: Report) -> str:
    """Words on the best control, for a report without a warning about one."""
    best = report.best_control("conditional_r2")
    if best.name is None or best.value is None:
        return ""
    told = f", above every control (the best, {ROW_NAMES[best.name]}, adds {best.value:.2f})"
    if left_out := report.controls.left_out:
        names = " and ".join(ROW_NAMES[name] for name in left_out)
        return f"{told}, but it was not compared with {names}: {next(iter(left_out.values()))}"
    return f"{told}: evidence that z encodes the actions"


def _untrained(report: Report) -> str | None:
    """Neither z nor the decoder is better than in a random-init model, and z varies as much as there."""
    gain = max(value for value in report.decoder.gain_over_random_init.values() if value is not None)
    margin = report.probe.margins.get("conditional_r2", {}).get("random_init")
    spread, random_spread = report.latents.spread, report.latents.random_init_spread
    alike = random_spread / SPREAD_RATIO_TO_RANDOM <= spread <= random_spread * SPREAD_RATIO_TO_RANDOM
    if gain >= LEARNED_GAIN or (margin is not None and margin.low > 0) or not alike:
        return None
    return "The model behaves like one with random weights: its decoder predicts no better than an untrained one" + (
        ", and its z tells no more of the actions." if margin is not None else "."
    )


def _constant_z(report: Report) -> str | None:
    if (spread := report.latents.spread) >= SPREAD_ALARM:
        return None
    return f"z is nearly the same whatever happens between the two frames (spread {spread:.2f}, healthy is about 1)."


def _collapsed_codebook(report: Report) -> str | None:
    if (codebook := report.codebook) is None:
        return None
    positions, dead = len(codebook.perplexity_per_position), codebook.dead_positions
    if codebook.perplexity >= CODE_USE_ALARM * codebook.possible and dead <= DEAD_POSITIONS_ALARM * positions:
        return None
    return (
        f"The codebook has collapsed: about {codebook.perplexity:.1f} of {codebook.size} codes are in use, and "
        f"{dead} of {positions} code positions always say the same. z itself still varies."
    )


def _ignored_z(report: Report) -> str | None:
    if (gain := _z_gain(report)) >= Z_GAIN_ALARM:
        return None
    return (
        f"The decoder ignores z: with another pair's codes it predicts as well, or nearly (z gain {gain:.3f}), so the "
        "codes need not say what happened."
    )


# The first that applies is the alarm: it explains those after it.
PRIMARY_ALARMS: dict[str, Rule] = {
    "untrained": _untrained,
    "constant_z": _constant_z,
    "collapsed_codebook": _collapsed_codebook,
    "ignored_z": _ignored_z,
}


def _encoded_nuisances(report: Report) -> list[Alarm]:
    """An alarm where z predicts a family better than the actions, by its whole interval; a warning for a good part."""
    row = report.nuisance.row("z")
    alarms = []
    for family, estimate in row.families.items():
        what, r2 = NUISANCE_WORDS[family], estimate.known
        if row.r2 is not None and r2 > NUISANCE_ALARM and (row.over_family_intervals[family][1] or 0) < 0:
            sentence = (
                f"z encodes {what} rather than actions: where there is any, R2 is {r2:.2f} for {what} and "
                f"{max(row.r2.known, 0):.2f} for the actions."
            )
            alarms.append(Alarm(f"encodes_{family}", "alarm", sentence))
        elif r2 > NUISANCE_WARNING:
            alarms.append(Alarm(f"holds_{family}", "warning", f"z also holds {what} (R2 {r2:.2f})."))
    return alarms


def _no_actions(report: Report) -> str | None:
    margins = report.probe.margins.get("conditional_r2")
    # The mean predictor has a conditional R2 of 0: its margin is what z adds to frame t.
    if not margins or margins["mean"].low > 0:
        return None
    nothing = "z adds nothing certain about the actions to what the first frame tells"
    best, episodes = report.best_control("conditional_r2"), report.probe.test_episodes
    if best.name is None or best.value is None or not best.is_certain:
        return f"{nothing} ({episodes} episodes)."
    return f"{nothing}, where a control, {ROW_NAMES[best.name]}, adds {best.value:.2f} ({episodes} episodes)."


def _no_better_than_control(report: Report) -> str | None:
    # Where z tells nothing certain, that is said instead.
    return None if _no_actions(report) else _beside_best_control(report, "conditional_r2", "z")


def _codes_no_better_than_control(report: Report) -> str | None:
    return _beside_best_control(report, "conditional_r2_codes", "Quantized z")


def _beside_best_control(report: Report, figure: str, own: str) -> str | None:
    best, value = report.best_control(figure), report.headline[figure].value
    if best.name is None or best.value is None or value is None or best.is_beaten:
        return None
    control, values = ROW_NAMES[best.name], f"conditional R2 {value:.2f} and {best.value:.2f}"
    if best.is_better:
        return f"{own} tells less of the actions than a control does, {control} ({values})."
    episodes = f"as far as {report.probe.test_episodes} episodes show"
    return f"{own} tells no more of the actions than a control does, {control}, {episodes} ({values})."


def _narrow_z(report: Report) -> str | None:
    if (spread := report.latents.spread) >= SPREAD_WARNING:
        return None
    return f"z points mostly one way (spread {spread:.2f}, healthy is about 1)."


def _dead_positions(report: Report) -> str | None:
    if (codebook := report.codebook) is None or not codebook.dead_positions:
        return None
    return f"{codebook.dead_positions} of {len(codebook.perplexity_per_position)} code positions always say the same."


def _low_use(report: Report) -> str | None:
    codebook = report.codebook
    # Dead positions explain a low use.
    if codebook is None or codebook.dead_positions or codebook.perplexity >= CODE_USE_WARNING * codebook.possible:
        return None
    return f"Few codes are in effective use: {codebook.perplexity:.1f} of {codebook.size}."


def _weak_z(report: Report) -> str | None:
    if (gain := _z_gain(report)) >= Z_GAIN_WARNING:
        return None
    return f"The decoder makes little use of z (z gain {gain:.2f})."


def _worse_than_copying(report: Report) -> str | None:
    gain = report.decoder.gain_over_copying.value
    if gain is None or gain >= COPYING_WARNING:
        return None
    return f"The decoded future is farther from the truth than the first frame is (gain over copying {gain:.2f})."


# Each with the alarms from which it would follow; it is left out then.
WARNINGS: dict[str, tuple[tuple[str, ...], Rule]] = {
    "no_actions": (("constant_z",), _no_actions),
    "no_better_than_control": (("constant_z",), _no_better_than_control),
    "codes_no_better_than_control": (("constant_z", "collapsed_codebook"), _codes_no_better_than_control),
    "narrow_z": (("constant_z",), _narrow_z),
    "dead_positions": (("constant_z", "collapsed_codebook"), _dead_positions),
    "low_use": (("constant_z", "collapsed_codebook"), _low_use),
    "weak_z": (("constant_z", "collapsed_codebook", "ignored_z"), _weak_z),
    "worse_than_copying": (("constant_z", "collapsed_codebook"), _worse_than_copying),
}


def _z_gain(report: Report) -> float:
    """The z gain over all or over moving pixels, whichever shows more use of z."""
    gains = (report.decoder.z_gain.value, report.decoder.z_gain_moving.value)
    return max((gain for gain in gains if gain is not None), default=0.0)


def _lower(sentence: str) -> str:
    # "z" is a symbol and stays as it is.
    return sentence if sentence.startswith("z ") else sentence[0].lower() + sentence[1:]
