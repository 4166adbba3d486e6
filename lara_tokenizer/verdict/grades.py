"""`decide`: three grades in plain words, each with the figure that decided it and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DO_NOT_TRAIN = "do not train on these"
NO_EVIDENCE = "no evidence yet"
EVIDENCE = "evidence that z tells the action on data like this"
GRADES = (DO_NOT_TRAIN, NO_EVIDENCE, EVIDENCE)

# Severities. An alarm refuses the labels; while a doubt stands there is no evidence; a warning is worth a look.
SEVERITIES = ALARM, DOUBT, WARNING = "alarm", "doubt", "warning"

NUISANCE_WORDS = {"shake": "camera shake", "light": "changes of the light", "background": "a moving background"}
NUISANCE_ALARMS = {f"encodes_{family}": words for family, words in NUISANCE_WORDS.items()}

_RETRAIN = "train it on video like this (lara-tok train)"
_CLOSER = f"use a stride and video closer to what the model was trained on, or {_RETRAIN}"
_EVALUATE = "run lara-tok eval"
_PROBE_MORE = f"probe more episodes, or {_RETRAIN}"
# The step to take after a finding, by its name.
NEXT_STEPS = {
    "untrained": "check which weights were loaded, or train them (lara-tok train)",
    "constant_z": _CLOSER,
    "collapsed_codebook": _CLOSER,
    "ignored_z": _RETRAIN,
    "uncertain_z_use": _PROBE_MORE,
    "sick_on_its_card": "take another checkpoint, or run lara-tok eval on data like this",
    "no_actions": _PROBE_MORE,
    "no_better_than_control": _PROBE_MORE,
    "codes_no_better_than_control": _PROBE_MORE,
    "control_left_out": "pip install 'lara-tokenizer[eval]', and run lara-tok eval again",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault that figures show.

    Attributes:
        name: of the rule, "collapsed_codebook".
        severity: ALARM, DOUBT or WARNING.
        sentence: the symptom with its figure.
        camera: the camera concerned; None for all.
    """

    name: str
    severity: str
    sentence: str
    camera: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grade, the one figure that decided it, and the next step to take.

    >>> print(Verdict(NO_EVIDENCE, "code statistics: nothing wrong; not probed", "run lara-tok eval"))
    no evidence yet: code statistics: nothing wrong; not probed. Next: run lara-tok eval.
    """

    grade: str
    reason: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.grade}: {self.reason}. Next: {self.next_step}."

    @classmethod
    def from_dict(cls, fields: Any) -> Verdict:
        """The verdict of a report or a card. Raises ValueError for anything else."""
        if not isinstance(fields, dict) or fields.get("grade") not in GRADES:
            raise ValueError("no verdict: its grade is none of the three")
        return cls(fields["grade"], str(fields.get("reason", "")), str(fields.get("next_step", "")))


def decide(
    findings: Sequence[Finding],
    *,
    evidence: str | None = None,
    checked: str,
    instead: str = "nothing wrong",
    next_step: str = _EVALUATE,
) -> Verdict:
    """The verdict on labels.

    Statistics of codes, and a decoder, can only lower it: without a probe there is no evidence, whatever they are.

    Args:
        findings: of all that was measured.
        evidence: the sentence of a probe that found the action in z (`probe.evidence`); None where there was no probe.
        checked: the figures behind the findings, for a verdict without a probe: "code statistics".
        instead: what these say where they found nothing.
        next_step: after a verdict without a probe.

    >>> decide([], checked="code statistics").reason
    'code statistics: nothing wrong; not probed'
    """
    alarms = [each for each in findings if each.severity == ALARM]
    doubts = [each for each in findings if each.severity == DOUBT]
    # Only a nuisance is wrong: without it z does tell the action.
    if alarms and not doubts and evidence is not None and all(each.name in NUISANCE_ALARMS for each in alarms):
        without = " or ".join(NUISANCE_ALARMS[each.name] for each in alarms)
        return Verdict(NO_EVIDENCE, alarms[0].sentence, f"use them for video without {without} only")
    if alarms:
        return Verdict(DO_NOT_TRAIN, alarms[0].sentence, NEXT_STEPS.get(alarms[0].name, _CLOSER))
    if doubts:
        return Verdict(NO_EVIDENCE, doubts[0].sentence, NEXT_STEPS.get(doubts[0].name, _PROBE_MORE))
    if evidence is not None:
        return Verdict(EVIDENCE, evidence, "train on them, and compare policies: a probe is no measure of one")
    found = f"{len(findings)} warning{'s' * (len(findings) > 1)}" if findings else instead
    return Verdict(NO_EVIDENCE, f"{checked}: {found}; not probed", next_step)


def besides(findings: Sequence[Finding], verdict: Verdict) -> list[Finding]:
    """The findings that the verdict does not quote: nothing is said twice."""
    return [each for each in findings if each.sentence != verdict.reason]
