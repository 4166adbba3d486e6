"""The card's tables: probes with all controls, collapse monitors, further figures, and how all of it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lara_tokenizer.evaluate.card_html import Html, grid, join, note, number, section, tag, with_interval
from lara_tokenizer.evaluate.report.examples import Subject
from lara_tokenizer.evaluate.report.headline import ROWS


def probes_section(subject: Subject) -> Html:
    """What linear probes read from z and from every control, as the pairs are and under nuisance."""
    report = subject.report
    caption = note(
        "R² alone: a linear probe from this row to the actions. Conditional R²: what the row adds to frame t. A good z "
        "beats the random-init model and the pixel difference; shuffled z must be about 0, or the probe itself is "
        "wrong. Pixels hold nearly everything, nuisance too, so their conditional R² is a ceiling rather than a rival: "
        "look at selectivity."
    )
    return section("probes", "Probes, with all controls", caption, *_plain(report), *_nuisance(report))


def _plain(report: dict[str, Any]) -> list[Html]:
    probe = report["probe"]
    heading = tag("h3", "As the pairs are")
    if not probe["rows"]:
        return [heading, tag("p", _reason(probe), class_="absent")]
    rows = [
        [
            ROWS.get(name, name),
            with_interval(row.get("r2"), row.get("r2_interval")),
            with_interval(row.get("conditional_r2"), row.get("interval")),
            _margin(probe.get("margins", {}).get(name)),
        ]
        for name, row in _own_first(probe["rows"])
    ]
    head = ["probe of the actions from", "R² alone", "conditional R²", "z is ahead by"]
    alone = f"R² from frame t alone: {number(probe.get('frame_r2'))}. {_counted(probe)}"
    return [heading, grid(head, rows, "figures own"), note(alone)]


def _nuisance(report: dict[str, Any]) -> list[Html]:
    probe = report["nuisance"]
    families = list(probe.get("families", []))
    heading = tag("h3", f"Under nuisance: {', '.join(families)}")
    if not probe["rows"]:
        return [heading, tag("p", _reason(probe), class_="absent")]
    ahead = probe.get("margins", {}).get("selectivity", {})
    rows = [
        [
            ROWS.get(name, name),
            with_interval(row.get("r2"), row.get("r2_interval")),
            with_interval(row.get("conditional_r2"), row.get("interval")),
            with_interval(row.get("nuisance_r2"), row.get("nuisance_interval")),
            *(number(row.get("families", {}).get(family)) for family in families),
            with_interval(row.get("selectivity"), row.get("selectivity_interval")),
            _margin(ahead.get(name)),
        ]
        for name, row in _own_first(probe["rows"])
    ]
    head = ["probe from", "R² of actions", "conditional R²", "nuisance R²", *families, "selectivity", "z is ahead by"]
    explained = (
        "The same pairs, seen while known disturbances are put into the pictures. Nuisance R² asks how much of the "
        "change of the disturbance a probe reads: lower is better. Selectivity = R² of actions − nuisance R², and z "
        f"is ahead by so much selectivity. {_counted(probe)}"
    )
    return [heading, grid(head, rows, "figures own"), note(explained)]


def _own_first(rows: dict[str, Any]) -> list[tuple[str, Any]]:
    """The rows in the order of ROWS, unknown ones last."""
    order = [*(name for name in ROWS if name in rows), *(name for name in rows if name not in ROWS)]
    return [(name, rows[name]) for name in order]


def _margin(found: dict[str, Any] | None) -> Html:
    return Html("") if found is None else with_interval(found["difference"], found["interval"])


def _reason(probe: dict[str, Any]) -> str:
    return f"Not measured: {probe.get('reason') or 'the dataset has no actions to probe'}."


def _counted(probe: dict[str, Any]) -> str:
    episodes, pairs = probe.get("test_episodes"), probe.get("pairs")
    return "" if episodes is None else f"{number(pairs)} pairs of {number(episodes)} episodes, each tested once."


MONITORS = {
    "spread": ("Spread of z", "about 1; near 0 all z point one way"),
    "effective_rank": ("Effective rank", "many; near 1 all z lie on a line"),
    "mean_cosine": ("Mean cosine between z of two pairs", "about 0; near 1 all z are alike"),
    "norm": ("Mean length of z", "not 0"),
    "random_init_spread": ("Spread of z, random-init model", "for comparison"),
}


def monitors_section(subject: Subject) -> Html:
    """Has z or the codebook collapsed?"""
    latents, codebook = subject.report["latents"], subject.report["codebook"]
    rows = [[MONITORS[key][0], number(latents[key]), MONITORS[key][1]] for key in MONITORS if key in latents]
    if codebook is None:
        rows.append(["Codes", "–", "none: the bottleneck is continuous"])
    else:
        rows.append(["Share of codes in use", number(codebook["used_share"]), "1"])
        lowest = min(codebook["perplexity_per_position"])
        rows.append(["Lowest perplexity of a position", number(lowest), "well above 1"])
    return section("monitors", "Collapse monitors", grid(["", "value", "healthy"], rows, "figures narrow words"))


def extra_section(subject: Subject) -> Html | None:
    """All further figures, where they were asked for."""
    extra = subject.report.get("extra")
    if not extra:
        return None
    rows = [[name, value] for name, value in _flat(extra)]
    return section("extra", "Further figures", grid(["", "value"], rows, "figures narrow"))


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested figures as (name, written value)."""
    for key, value in values.items():
        name = f"{before}{key.replace('_', ' ')}"
        if isinstance(value, dict) and set(value) >= {"value", "interval"}:
            yield name, with_interval(value["value"], value["interval"])
        elif isinstance(value, dict):
            yield from _flat(value, f"{name} · ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, number(value)
        else:
            yield name, "–" if value is None else str(value)


def protocol_section(subject: Subject, other: Subject | None = None) -> Html:
    """How it was measured, and the command."""
    report = subject.report
    data = report["data"]
    families = ", ".join(data.get("nuisance_families", []))
    lines = [
        f"{number(data['pairs'])} pairs {data['stride']} apart, spread evenly over each of {number(data['episodes'])} "
        f"episodes; cameras: {', '.join(camera or 'the only one' for camera in data['cameras'])}.",
        "Probes are ridge regressions, cross-fitted by episode: three fifths of the episodes train, one fifth chooses "
        "the penalty, one fifth tests; no episode is on two sides, and statistics come from training episodes alone.",
        "Intervals are 95 % bootstrap intervals over episodes. Shuffles, folds and disturbances "
        f"({families}) come from seed {data['seed']}, so the same command gives the same figures.",
        "Alarms read what the model puts out (z, codes, decoded frames), never its weights or its configuration.",
    ]
    weights = report["model"].get("weights_sha256")
    hashes = weights.items() if isinstance(weights, dict) else [("weights", weights)] if weights else []
    facts = [tag("li", join([f"sha256 of {name}: ", tag("code", digest)])) for name, digest in hashes]
    left_out = [tag("li", f"Left out: {episode}: {reason}") for episode, reason in data.get("left_out", {}).items()]
    command = f"lara-tok eval {subject.name} {data['name']} --out report/"
    command += " --all" if report.get("extra") else ""
    command += "" if other is None else f" --compare {other.name}"
    return section(
        "protocol",
        "How it was measured",
        tag("ul", *(tag("li", line) for line in lines), *facts, *left_out),
        note("The command, but for options that chose episodes or cameras:"),
        tag("pre", command),
    )
