"""The goals that were set before lara-lam was trained, and whether its figures reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Report = Mapping[str, Any]
Measured = tuple[float, list[float] | None]  # a figure and its 95 % interval

# Conditional R2 of the weights before these on the same held-out episodes of Meta-World, by this script.
BEFORE_ON_META_WORLD = 0.3344


def headline(name: str) -> Callable[[Report], Measured]:
    """A headline figure."""
    return lambda report: (report["headline"][name]["value"], report["headline"][name].get("interval"))


def margin(control: str) -> Callable[[Report], Measured]:
    """Conditional R2 of z minus that of a control, on the same pairs."""

    def measured(report: Report) -> Measured:
        found = report["probe"]["margins"][control]
        return found["difference"], found["interval"]

    return measured


def _alarm_count(report: Report) -> Measured:
    return sum(alarm["severity"] == "alarm" for alarm in report["alarms"]), None


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for a figure on some sets."""

    figure: str
    limits: Mapping[str, float]  # by set
    measured: Callable[[Report], Measured]
    is_upper: bool = False  # a limit from above
    certain: tuple[str, ...] = field(default=())  # sets on which the whole interval has to be above the limit

    def verdict(self, name: str, report: Report) -> dict[str, Any]:
        """The figure, its limit, its value, and whether it is reached on a set."""
        limit, (value, interval) = self.limits[name], self.measured(report)
        judged = value if name not in self.certain or interval is None else interval[0]
        passed = judged <= limit if self.is_upper else judged > limit if name in self.certain else judged >= limit
        words = f"{'at most' if self.is_upper else 'at least'} {limit:g}"
        if name in self.certain:
            words = f"above {limit:g} by the interval"
        verdict = {"figure": self.figure, "set": name, "goal": words, "measured": value, "passed": bool(passed)}
        return verdict if interval is None else verdict | {"interval": interval}


UNSEEN = ("g1_real", "bridge_rlds", "gr1_sim")
GOALS = (
    Goal(
        "conditional R2 of codes", dict(zip(UNSEEN, (0.14, 0.09, 0.09), strict=True)), headline("conditional_r2_codes")
    ),
    Goal("conditional R2 of z", dict(zip(UNSEEN, (0.17, 0.11, 0.12), strict=True)), headline("conditional_r2")),
    Goal("z minus pixel difference", dict.fromkeys(UNSEEN[:2], 0.0), margin("pixel_difference"), certain=UNSEEN[:2]),
    Goal("z minus normal flow", dict.fromkeys(UNSEEN, 0.0), margin("normal_flow"), certain=UNSEEN[:1]),
    Goal("z minus closed-form tokenizer", dict.fromkeys(UNSEEN, 0.0), margin("closed_form"), certain=UNSEEN[:1]),
    Goal("alarms", dict.fromkeys(UNSEEN, 0), _alarm_count, is_upper=True),
    Goal("nuisance R2", dict.fromkeys((*UNSEEN, "real_video"), 0.1), headline("nuisance_r2"), is_upper=True),
    Goal("z gain, moving pixels", {"real_video": 0.35}, headline("z_gain_moving")),
    Goal("gain over copying", {"real_video": 0.1}, headline("gain_over_copying")),
    Goal("perplexity, pooled", {"real_video": 80}, headline("perplexity")),
    Goal("perplexity, mean per position", {"real_video": 40}, headline("perplexity_per_position")),
    Goal("conditional R2 of z", {"mw_heldout": round(BEFORE_ON_META_WORLD - 0.03, 3)}, headline("conditional_r2")),
)


def judge(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """Every goal on every set that was measured."""
    return [goal.verdict(name, reports[name]) for goal in GOALS for name in goal.limits if name in reports]


def misses(judged: list[dict[str, Any]]) -> str:
    """One sentence with the goals that are missed."""
    missed = [f"{each['figure']} on {each['set']}" for each in judged if not each["passed"]]
    total = len(judged)
    return f"{len(missed)} of {total} goals missed: {'; '.join(missed)}." if missed else f"All {total} goals reached."
