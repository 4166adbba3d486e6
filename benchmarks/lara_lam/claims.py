"""Grades of a tokenizer on a set, and sentences chosen by its figures.

A report is the content of `lara-tok eval`'s report.json. "Evidence" has the meaning of docs/evaluation.md: above the
best control, by the interval of the paired difference, and the two intervals do not touch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lara_tokenizer.evaluate.figures import BEST_CONTROLS, ROW_NAMES
from lara_tokenizer.thresholds import NUISANCE_ALARM

Report = Mapping[str, Any]

CODES, Z = "conditional_r2_codes", "conditional_r2"  # the headline figures that claims are about
MORE, AS_MUCH, LESS, NOTHING = "more", "as much", "less", "nothing"


@dataclass(frozen=True, slots=True)
class Set:
    """A named set of the card."""

    title: str
    is_unseen_robot: bool = False  # a robot with actions that was never trained on


SETS = {
    "g1_real": Set("real Unitree G1 humanoid", True),
    "bridge_rlds": Set("real WidowX arm of BridgeData V2", True),
    "gr1_sim": Set("simulated GR1 humanoid", True),
    "mw_heldout": Set("Meta-World, episodes never trained on"),
    "mw_unseen": Set("Meta-World, tasks never trained on"),
    "real_video": Set("real clips never trained on, no actions"),
}


def title(name: str) -> str:
    """A set's name with words on it: "g1_real (real Unitree G1 humanoid)"."""
    return f"{name} ({SETS[name].title})" if name in SETS else name


def grade(report: Report, figure: str) -> str | None:
    """The grade of a headline figure beside its best control; None for a set without actions.

    NOTHING: its interval includes 0. MORE: it beats the control. LESS: the control beats it by the interval of the
    difference. AS_MUCH: neither.
    """
    own, best = report["headline"][figure], report["headline"][BEST_CONTROLS[figure]]
    if own["value"] is None or best["name"] is None:
        return None
    if own["interval"][0] <= 0:
        return NOTHING
    if best["is_beaten"]:
        return MORE
    return LESS if best["difference_interval"][1] < 0 else AS_MUCH


def graded(reports: Mapping[str, Report], figure: str) -> dict[str, list[str]]:
    """The names of the sets of each grade, best grade first; grades that no set has are left out."""
    found: dict[str, list[str]] = {each: [] for each in (MORE, AS_MUCH, LESS, NOTHING)}
    for name, report in reports.items():
        if (of_set := grade(report, figure)) is not None:
            found[of_set].append(name)
    return {each: names for each, names in found.items() if names}


def summary(reports: Mapping[str, Report]) -> str:
    """Use of the codes in two sentences: robots never seen, then real video, as far as they were measured."""
    unseen = {name: report for name, report in reports.items() if name in SETS and SETS[name].is_unseen_robot}
    sentences = [use_of_codes(unseen)] if unseen else []
    sentences += [use_by_decoder(reports["real_video"])] if "real_video" in reports else []
    return " ".join(sentences)


def use_of_codes(reports: Mapping[str, Report]) -> str:
    """A sentence on what the codes tell of robots that were never trained on, with the figures that say it."""
    by_grade = graded(reports, CODES)
    figures = "; ".join(f"{name} {beside(report, CODES)}" for name, report in reports.items())
    told = f"Conditional R2, and that of the best control of as many bits: {figures}."
    phrases = [PHRASES[each].format(joined(names)) for each, names in by_grade.items()]
    if NOTHING in by_grade:
        # With few episodes nothing can be certain.
        counted = [f"{name} ({reports[name]['probe']['test_episodes']} episodes)" for name in by_grade[NOTHING]]
        phrases[-1] = PHRASES[NOTHING].format(joined(counted))
    if set(by_grade) == {MORE}:
        phrases = ["more than any control"]
    return f"Of the motion of robots that it never saw, its codes tell {joined(phrases)}. {told}"


PHRASES = {
    MORE: "more than any control on {}",
    AS_MUCH: "about as much as the best control on {}",
    LESS: "less than the best control on {}",
    NOTHING: "nothing certain on {}",
}


def use_by_decoder(report: Report) -> str:
    """A sentence on the use of z by the decoder on held-out clips."""
    headline = report["headline"]
    gain, copying = headline["z_gain_moving"]["value"], headline["gain_over_copying"]["value"]
    faults = {alarm["name"] for alarm in report["alarms"]}
    reads = "makes little use of them" if faults & {"ignored_z", "weak_z"} else "reads them"
    better = "better" if headline["gain_over_copying"]["interval"][0] > 0 else "no better"
    return (
        f"On real clips that were held out the decoder {reads} (z gain {number(gain)} on moving pixels) and predicts "
        f"{better} than copying the first frame (gain {number(copying)})."
    )


def findings(reports: Mapping[str, Report]) -> list[str]:
    """One sentence for each grade of codes and of z, then those on nuisances and alarms."""
    sentences = []
    for figure, subject, controls in (
        (CODES, "Codes", "any control of as many bits"),
        (Z, "z", "any control"),
    ):
        words = {
            MORE: f"{subject} {_tell(subject)} more of the motion than {controls}: evidence",
            AS_MUCH: f"{subject} {_tell(subject)} about as much of the motion as the best control",
            LESS: f"{subject} {_tell(subject)} less of the motion than the best control",
            NOTHING: f"{subject} {_tell(subject)} nothing certain of the motion",
        }
        for of_grade, names in graded(reports, figure).items():
            figures = "; ".join(f"{name} {beside(reports[name], figure)}" for name in names)
            sentences.append(f"{words[of_grade]}: {figures}.")
    return [*sentences, *_nuisances(reports), *_alarms(reports)]


def _tell(subject: str) -> str:
    return "tell" if subject == "Codes" else "tells"


def _nuisances(reports: Mapping[str, Report]) -> list[str]:
    """The families of nuisances that z tells of, by set."""
    known = {name: report["nuisance"]["rows"]["z"] for name, report in reports.items() if report["nuisance"]["rows"]}
    if not known:
        return []
    held = [
        f"{family} on {name} ({number(r2)})"
        for name, row in known.items()
        for family, r2 in row["families"].items()
        if r2 > NUISANCE_ALARM
    ]
    most = max(row["nuisance_r2"] for row in known.values())
    return [
        f"z tells little of camera shake and light: mean R2 at most {number(most)}."
        if not held
        else f"z also tells of what is no motion of the robot (R2 above {NUISANCE_ALARM:g}): {', '.join(held)}."
    ]


def _alarms(reports: Mapping[str, Report]) -> list[str]:
    raised = [
        f"{alarm['name']} on {name}"
        for name, report in reports.items()
        for alarm in report["alarms"]
        if alarm["severity"] == "alarm"
    ]
    return [f"Alarms of `lara-tok eval`: {', '.join(raised)}." if raised else "No alarm of `lara-tok eval` on any set."]


def beside(report: Report, figure: str) -> str:
    """A figure and its best control: "0.14, closed-form codes 0.13"."""
    own, best = report["headline"][figure], report["headline"][BEST_CONTROLS[figure]]
    return f"{number(own['value'])}, {ROW_NAMES[best['name']]} {number(best['value'])}"


def number(value: float | None) -> str:
    """The digits of the tables: one number is never shown as two."""
    return "-" if value is None else f"{value:.3f}"


def joined(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
