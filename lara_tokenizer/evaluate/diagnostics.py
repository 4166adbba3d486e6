"""From figures to plain words: is something wrong with these codes, and what?

Every alarm reads the figures of a report, and those were made from outputs alone: z, codes and decoded frames of the
model, and of a random-init model of the same configuration. Of faults that follow from one another only the first is
named: where z is constant, its codes are too, and no decoder can use them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# z of a healthy model points everywhere, spread about 1; in toy runs that collapsed it was below a third.
SPREAD_ALARM, SPREAD_WARNING = 0.25, 0.5
# Of the codes that could be in effective use. Joint training should not start below a quarter; runs whose codebook had
# died kept a handful of 128.
USE_ALARM, USE_WARNING = 0.1, 0.25
# Share of latent tokens that always say the same: more than half of them, and most of the label is a constant.
DEAD_POSITIONS_ALARM = 0.5
# A decoder that reads z does far worse with another pair's codes; under 2 % worse it does not read them.
Z_GAIN_ALARM, Z_GAIN_WARNING = 0.02, 0.1
# Showing frame t again scores 0; a hundredth below that is no longer the same.
COPY_WARNING = -0.01
# An untrained decoder is as far from the future as a random-init one.
LEARNED = 0.05
# z of an untrained model varies as much as that of a random-init one, give or take the luck of its weights.
SPREAD_RATIO = 3.0
# Below a tenth a nuisance is hardly there, whatever the actions do; above a quarter it is worth saying.
NUISANCE_ALARM, NUISANCE_WARNING = 0.1, 0.25

NUISANCE_WORDS = {"shake": "camera shake", "light": "changes of the light", "background": "a moving background"}
NUISANCE_NAMES = {f"{verb}_{family}" for family in NUISANCE_WORDS for verb in ("encodes", "holds")}

Alarm = dict[str, str]
Report = dict[str, Any]


def find_alarms(report: Report) -> list[Alarm]:
    """What is wrong, the gravest first: `name`, `severity` ("alarm" or "warning") and a `sentence` each.

    >>> find_alarms(evaluation.report)[0]["name"]  # doctest: +SKIP
    'encodes_shake'
    """
    root = next((alarm for rule in ROOTS if (alarm := rule(report)) is not None), None)
    if root is not None and root["name"] == "untrained":
        return [root]
    found = [] if root is None else [root]
    named = None if root is None else root["name"]
    found += _encodes_nuisance(report)
    for after, rule in WARNINGS:
        # What follows from the root's fault is not said again.
        if named not in after and (warning := rule(report)) is not None:
            found.append(warning)
    return sorted(found, key=lambda each: each["severity"] != "alarm")


def verdict(report: Report) -> str:
    """One or two sentences for who wants to train on the codes."""
    alarms = [each["sentence"] for each in report["alarms"] if each["severity"] == "alarm"]
    warnings = [each["sentence"] for each in report["alarms"] if each["severity"] == "warning"]
    kind = "codes" if report["codebook"] is not None else "latents"
    names = {each["name"] for each in report["alarms"]}
    if alarms and names <= NUISANCE_NAMES and report["probe"]["rows"]:
        # On the data as they are, z does tell the actions.
        what = " or ".join(words for family, words in NUISANCE_WORDS.items() if f"encodes_{family}" in names)
        return f"Train on these {kind} only for video without {what}: {_lower(alarms[0])}"
    if alarms:
        return f"Do not train on these {kind}: {_lower(alarms[0])}"
    if warnings:
        more = f" ({len(warnings) - 1} more warning{'s' * (len(warnings) > 2)} below.)" if len(warnings) > 1 else ""
        return f"The {kind} are usable with care: {_lower(warnings[0])}{more}"
    return f"The {kind} are usable: {_praise(report)}."


def _praise(report: Report) -> str:
    parts = []
    if (codebook := report["codebook"]) is not None:
        parts.append(f"{codebook['perplexity']:.0f} of {codebook['size']} codes are in effective use")
    parts.append(f"the decoder reads them (z gain {_z_gain(report):.2f})")
    if (added := report["headline"]["conditional_r2"]["value"]) is not None:
        parts.append(f"z adds {added:.2f} of R2 about the actions to what the first frame tells")
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"


def _untrained(report: Report) -> Alarm | None:
    """Neither z nor the decoder is better than in a random-init model, and z varies as much as there."""
    learned = max(value for value in report["decoder"]["gain_over_random_init"].values() if value is not None)
    margin = report["probe"]["margins"].get("random_init")
    spread, random_spread = report["latents"]["spread"], report["latents"]["random_init_spread"]
    alike = random_spread / SPREAD_RATIO <= spread <= random_spread * SPREAD_RATIO
    if learned >= LEARNED or (margin is not None and margin["interval"][0] > 0) or not alike:
        return None
    return _alarm(
        "untrained",
        "The model behaves like one with random weights: its decoder predicts no better than an untrained one"
        + (", and its z tells no more of the actions." if margin is not None else "."),
    )


def _constant_z(report: Report) -> Alarm | None:
    spread = report["latents"]["spread"]
    if spread >= SPREAD_ALARM:
        return None
    return _alarm(
        "constant_z",
        f"z is nearly the same whatever happens between the two frames (spread {spread:.2f}, healthy is about 1).",
    )


def _collapsed_codebook(report: Report) -> Alarm | None:
    codebook = report["codebook"]
    if codebook is None:
        return None
    positions = len(codebook["perplexity_per_position"])
    dead = codebook["dead_positions"]
    if codebook["perplexity"] >= USE_ALARM * codebook["possible"] and dead <= DEAD_POSITIONS_ALARM * positions:
        return None
    return _alarm(
        "collapsed_codebook",
        f"The codebook has collapsed: about {codebook['perplexity']:.1f} of {codebook['size']} codes are in use, and "
        f"{dead} of {positions} code positions always say the same. z itself still varies.",
    )


def _ignored_z(report: Report) -> Alarm | None:
    if (gain := _z_gain(report)) >= Z_GAIN_ALARM:
        return None
    return _alarm(
        "ignored_z",
        f"The decoder ignores z: with another pair's codes it predicts as well, or nearly (z gain {gain:.3f}), so the "
        "codes need not say what happened.",
    )


ROOTS: tuple[Callable[[Report], Alarm | None], ...] = (_untrained, _constant_z, _collapsed_codebook, _ignored_z)


def _encodes_nuisance(report: Report) -> list[Alarm]:
    """z tells a nuisance better than the actions (the whole interval says so); or tells a good part of it."""
    row = report["nuisance"]["rows"].get("z")
    if row is None:
        return []
    found = []
    for family, held in row["families"].items():
        what = NUISANCE_WORDS[family]
        if "r2" in row and held > NUISANCE_ALARM and row["over_family_intervals"][family][1] < 0:
            found.append(
                _alarm(
                    f"encodes_{family}",
                    f"z encodes {what} rather than actions: where there is any, R2 is {held:.2f} for {what} and "
                    f"{max(row['r2'], 0):.2f} for the actions.",
                )
            )
        elif held > NUISANCE_WARNING:
            found.append(_warning(f"holds_{family}", f"z also holds {what} (R2 {held:.2f})."))
    return found


def _narrow_z(report: Report) -> Alarm | None:
    spread = report["latents"]["spread"]
    if spread >= SPREAD_WARNING:
        return None
    return _warning("narrow_z", f"z points mostly one way (spread {spread:.2f}, healthy is about 1).")


def _low_use(report: Report) -> Alarm | None:
    codebook = report["codebook"]
    if codebook is None:
        return None
    positions, dead = len(codebook["perplexity_per_position"]), codebook["dead_positions"]
    if dead:
        return _warning("dead_positions", f"{dead} of {positions} code positions always say the same.")
    if codebook["perplexity"] < USE_WARNING * codebook["possible"]:
        text = f"Few codes are in effective use: {codebook['perplexity']:.1f} of {codebook['size']}."
        return _warning("low_use", text)
    return None


def _weak_z(report: Report) -> Alarm | None:
    if (gain := _z_gain(report)) >= Z_GAIN_WARNING:
        return None
    return _warning("weak_z", f"The decoder makes little use of z (z gain {gain:.2f}).")


def _worse_than_copying(report: Report) -> Alarm | None:
    gain = report["decoder"]["gain_over_copying"]["value"]
    if gain is None or gain >= COPY_WARNING:
        return None
    text = f"The decoded future is farther from the truth than the first frame is (gain over copying {gain:.2f})."
    return _warning("worse_than_copying", text)


def _no_actions(report: Report) -> Alarm | None:
    margins = report["probe"]["margins"]
    if not margins:
        return None
    episodes = report["probe"]["test_episodes"]
    if margins["mean"]["interval"][0] <= 0:
        text = f"z adds nothing certain about the actions to what the first frame tells ({episodes} episodes)."
        return _warning("no_actions", text)
    if margins["random_init"]["interval"][0] <= 0:
        text = f"z tells no more of the actions than that of an untrained model, as far as {episodes} episodes show."
        return _warning("no_better_than_random_init", text)
    return None


# Each with the alarms that it follows from.
WARNINGS: tuple[tuple[tuple[str, ...], Callable[[Report], Alarm | None]], ...] = (
    (("constant_z",), _no_actions),
    (("constant_z",), _narrow_z),
    (("constant_z", "collapsed_codebook"), _low_use),
    (("constant_z", "collapsed_codebook", "ignored_z"), _weak_z),
    (("constant_z", "collapsed_codebook"), _worse_than_copying),
)


def _z_gain(report: Report) -> float:
    """Over all or over moving pixels, whichever shows more use of z."""
    gains = (report["decoder"][name]["value"] for name in ("z_gain", "z_gain_moving"))
    return max((gain for gain in gains if gain is not None), default=0.0)


def _alarm(name: str, sentence: str) -> Alarm:
    return {"name": name, "severity": "alarm", "sentence": sentence}


def _warning(name: str, sentence: str) -> Alarm:
    return {"name": name, "severity": "warning", "sentence": sentence}


def _lower(sentence: str) -> str:
    return sentence if sentence.startswith("z ") else sentence[0].lower() + sentence[1:]
