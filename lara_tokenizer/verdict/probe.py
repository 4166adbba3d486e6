"""A probe of the actions beside its controls: doubts, and the one sentence that is evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lara_tokenizer.verdict.findings import number
from lara_tokenizer.verdict.grades import DOUBT, WARNING, Finding


@dataclass(frozen=True, slots=True)
class Gain:
    """A conditional R2 with its 95 % interval: what features add to what frame t tells of the actions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.value)}, {number(self.low)} to {number(self.high)}"


@dataclass(frozen=True, slots=True)
class Control:
    """The best control beside a row of the tokenizer.

    Attributes:
        name: in words, "dense optical flow".
        value: its conditional R2.
        is_certain: above 0 by its interval.
        is_beaten: the tokenizer's row is above it, by the paired difference and by intervals that do not touch.
        is_better: it is above the tokenizer's row by the interval of the difference.
    """

    name: str
    value: float
    is_certain: bool
    is_beaten: bool
    is_better: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe of the actions.

    Attributes:
        episodes: tested.
        z, codes: conditional R2 of z, and of its codes (quantized z); codes are None for a continuous bottleneck.
        best, best_codes: the best control beside each.
        left_out: controls that could not be measured, in words, each with the reason.
    """

    episodes: int
    z: Gain
    codes: Gain | None = None
    best: Control | None = None
    best_codes: Control | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)


def probe_findings(probe: Probe) -> list[Finding]:
    """Doubts about what z, or the codes that labels are made of, tell of the actions; the first decides."""
    counted = f"{probe.episodes} episodes"
    if probe.z.low <= 0:
        # The mean predictor has a conditional R2 of 0, so this is what z adds to frame t.
        told = "z adds nothing certain about the actions to what the first frame tells"
        best = probe.best
        beside = f", where a control, {best.name}, adds {number(best.value)}" if best and best.is_certain else ""
        doubts = [Finding("no_actions", DOUBT, f"{told}{beside} (conditional R2 {probe.z}; {counted})")]
    else:
        # Labels are the codes: z itself then is held against richer controls, as a warning.
        severity = DOUBT if probe.codes is None else WARNING
        doubts = _beside("no_better_than_control", severity, "z", probe.z, probe.best, counted)
    if probe.codes is not None:
        subject = "quantized z"
        doubts += _beside("codes_no_better_than_control", DOUBT, subject, probe.codes, probe.best_codes, counted)
    if probe.left_out:
        name, reason = next(iter(probe.left_out.items()))
        doubts.append(Finding("control_left_out", DOUBT, f"it was not compared with {name}: {reason.rstrip('.')}"))
    return sorted(doubts, key=lambda each: each.severity != DOUBT)


def _beside(name: str, severity: str, own: str, gain: Gain, best: Control | None, counted: str) -> list[Finding]:
    if best is None or best.is_beaten:
        return []
    values = f"conditional R2 {number(gain.value)} and {number(best.value)}"
    if best.is_better:
        return [Finding(name, severity, f"{own} tells less of the actions than a control, {best.name} ({values})")]
    sentence = f"{own} tells no more of the actions than a control, {best.name}, as far as {counted} show ({values})"
    return [Finding(name, severity, sentence)]


def evidence(probe: Probe) -> str | None:
    """The sentence for labels that tell the action beyond every control; None where any doubt stands."""
    gain, best = (probe.z, probe.best) if probe.codes is None else (probe.codes, probe.best_codes)
    if best is None or any(each.severity == DOUBT for each in probe_findings(probe)):
        return None
    subject, rivals = ("z", "control") if probe.codes is None else ("quantized z", "control of as many bits")
    bounds = f"{number(gain.low)} to {number(gain.high)}"
    told = f"{subject} adds {number(gain.value)} ({bounds}) of R2 about the actions to what the first frame tells"
    return f"{told}, above every {rivals} (the best, {best.name}, adds {number(best.value)})"
