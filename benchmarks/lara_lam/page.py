"""The model card's page, and its tables for other documents, from card.json alone."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lara_lam import claims
from lara_lam.goals import misses
from lara_lam.training import simulate_command
from lara_tokenizer.evaluate.figures import BEST_CONTROLS, ROW_NAMES

TEXT = Path(__file__).with_name("page.md")
Card = Mapping[str, Any]
Rows = list[list[str]]

DECODER = {
    "z_gain": "z gain",
    "z_gain_moving": "z gain, moving pixels",
    "gain_over_copying": "gain over copying",
    "gain_over_copying_moving": "gain over copying, moving pixels",
    "perplexity": "perplexity, pooled",
    "perplexity_per_position": "perplexity, mean per position",
    "dead_codes": "dead codes",
    "dead_positions": "dead positions",
    "spread": "spread of z",
    "effective_rank": "effective rank of z",
}


def reports(card: Card) -> dict[str, Any]:
    """The figures of each set."""
    return {name: each["report"] for name, each in card["sets"].items()}


def probed(card: Card) -> dict[str, Any]:
    """The figures of the sets with actions."""
    return {name: report for name, report in reports(card).items() if report["probe"]["rows"]}


def beside_control(card: Card, figure: str) -> str:
    """A figure with a best control, on every set that has it: both values and their paired difference."""
    header = ["set", "pairs (episodes)", "conditional R2", "best control", "", "difference", "evidence"]
    rows = []
    for name, report in probed(card).items():
        own, best = report["headline"][figure], report["headline"][BEST_CONTROLS[figure]]
        table = report["nuisance" if figure.endswith("nuisance") else "probe"]
        rows.append(
            [
                name,
                f"{table['pairs']:,} ({table['test_episodes']})",
                estimate(own["value"], own["interval"]),
                ROW_NAMES[best["name"]],
                estimate(best["value"], best["interval"]),
                estimate(best["difference"], best["difference_interval"], "+"),
                "yes" if best["is_beaten"] else "no",
            ]
        )
    return markdown(header, rows)


def controls(card: Card) -> str:
    """Conditional R2 of every row on every set with actions."""
    of_sets = probed(card)
    names = [name for name in ROW_NAMES if any(name in report["probe"]["rows"] for report in of_sets.values())]
    rows = [["R2 of frame t alone", *(f"{report['probe']['frame_r2']:.3f}" for report in of_sets.values())]]
    for name in names:
        found = [report["probe"]["rows"].get(name) for report in of_sets.values()]
        cells = [estimate(row["conditional_r2"], row["interval"]) if row else "" for row in found]
        rows.append([ROW_NAMES[name], *cells])
    return markdown(["conditional R2", *of_sets], rows)


def margins(card: Card) -> str:
    """Conditional R2 of z minus that of every other row."""
    of_sets = probed(card)
    names = [name for name in ROW_NAMES if any(name in report["probe"]["margins"] for report in of_sets.values())]
    rows = []
    for name in names:
        found = [report["probe"]["margins"].get(name) for report in of_sets.values()]
        rows.append(
            [ROW_NAMES[name], *(estimate(row["difference"], row["interval"], "+") if row else "" for row in found)]
        )
    return markdown(["z minus", *of_sets], rows)


def decoder(card: Card) -> str:
    """Decoder, codebook and latents on all sets."""
    of_sets = reports(card)
    rows = [
        [text, *(_figure(report["headline"][figure]) for report in of_sets.values())]
        for figure, text in DECODER.items()
    ]
    rows += [[name, *(f"{report['data'][name]:,}" for report in of_sets.values())] for name in ("episodes", "pairs")]
    return markdown(["figure", *of_sets], rows)


def nuisances(card: Card) -> str:
    """R2 of each nuisance family from z, selectivity, and what is said of it, on all sets."""
    of_sets = {name: report for name, report in reports(card).items() if report["nuisance"]["rows"]}
    z = {name: report["nuisance"]["rows"]["z"] for name, report in of_sets.items()}
    families = list(dict.fromkeys(family for row in z.values() for family in row["families"]))
    rows = [["nuisance R2, mean", *(estimate(row["nuisance_r2"], row["nuisance_interval"]) for row in z.values())]]
    for family in families:
        cells = (
            estimate(row["families"].get(family), row["family_intervals"].get(family))
            if family in row["families"]
            else ""
            for row in z.values()
        )
        rows.append([family, *cells])
    chosen = {"selectivity": "selectivity", "conditional_r2_nuisance": "conditional R2 under nuisances"}
    rows += [
        [text, *(_figure(report["headline"][figure]) for report in of_sets.values())] for figure, text in chosen.items()
    ]
    best = (report["headline"]["best_control_nuisance"] for report in of_sets.values())
    rows.append(
        ["best control", *(f"{ROW_NAMES[each['name']]} {each['value']:.3f}" if each["name"] else "" for each in best)]
    )
    return markdown(["figure", *of_sets], rows)


def verdicts(card: Card) -> str:
    """The verdict on each set that was measured since there are three grades, as `lara-tok eval` gives it."""
    rows = []
    for name, report in reports(card).items():
        if (told := report.get("verdict")) is None:
            continue
        rows.append([claims.title(name), told["grade"], told["reason"]])
    return markdown(["on", "verdict", "the figure that decides"], rows)


def alarms(card: Card) -> str:
    """Further alarms, doubts and warnings of each set, in words."""
    lines = []
    for name, report in reports(card).items():
        others = [each for each in report["alarms"] if each["sentence"] != report.get("verdict", {}).get("reason")]
        found = [f"{each['severity']} `{each['name']}`: {each['sentence'].rstrip('.')}." for each in others]
        lines.append(f"- {name}: {' '.join(found) or 'none.'}")
    return "\n".join(lines)


def goals(card: Card) -> str:
    """The goals, what was measured, and whether it was reached; then the misses in a sentence."""
    rows = []
    for each in card["goals"]:
        interval = each.get("interval")
        measured = estimate(each["measured"], interval) if interval else f"{each['measured']:.4g}"
        rows.append([each["figure"], each["set"], each["goal"], measured, "reached" if each["passed"] else "MISSED"])
    return f"{markdown(['figure', 'set', 'goal', 'measured', ''], rows)}\n\n{misses(card['goals'])}"


def targets(card: Card) -> str:
    """The sentence on what the probes predict, of each set with actions."""
    return "\n".join(f"- {name}: {report['data']['target']['sentence']}." for name, report in probed(card).items())


def pool(card: Card) -> str:
    """Origins, licences and amounts of the training data."""
    rows = [
        [
            f"[{each['repository']}](https://github.com/{each['repository']}/tree/{each['commit']})",
            each["licence"],
            robots(each["robots"]),
            f"{each['clips']:,}",
            f"{each['minutes']:.1f}",
        ]
        for each in card["training"]["real"]
    ]
    return markdown(["repository", "licence", "robots", "clips", "minutes"], rows)


def robots(names: Sequence[str]) -> str:
    """Robots of a repository in a few words: of many descriptions the first."""
    return names[0] if len(names) == 1 else f"{names[0]}, and {len(names) - 1} more scenes"


def simulation(card: Card) -> str:
    """A sentence for each simulated dataset that was trained on."""
    sentences = []
    for data in card["training"]["simulated"]:
        made = data["simulation"]
        sentences.append(
            f"Meta-World: {data['total_frames'] / 1000:.1f}k steps of {data['total_episodes']} episodes of "
            f"{len(made['tasks'])} tasks by scripted experts, {len(made['cameras'])} cameras "
            f"({joined(made['cameras'])}), {made['size']} px, noise of {made['action_noise']:g} on the actions of "
            "every second episode. Frames are stamped 10 a second; that rate is nominal, for the experts move about "
            "eight times faster than real arms."
        )
    return " ".join(sentences)


def summary(card: Card) -> str:
    """Use of the codes, in two sentences."""
    return claims.summary(reports(card))


def pictures(card: Card) -> str:
    """Origins and licences of the clips that the pictures show."""
    of = (
        f"[{each['repository']}](https://github.com/{each['repository']}), {each['licence']}"
        for each in card["pictures"]
    )
    return f"Clips: {'; '.join(of)}."


# The texts that `--update` writes into documents.
PARTS: dict[str, Callable[[Card], str]] = {
    "verdicts": verdicts,
    "summary": summary,
    "codes": lambda card: beside_control(card, "conditional_r2_codes"),
    "z": lambda card: beside_control(card, "conditional_r2"),
    "controls": controls,
    "margins": margins,
    "decoder": decoder,
    "nuisances": nuisances,
    "goals": goals,
    "pictures": pictures,
}


def tables(card: Card) -> str:
    """All tables, for a terminal."""
    return "\n\n".join(f"{name}\n\n{part(card)}" for name, part in PARTS.items())


def updated(text: str, card: Card) -> str:
    """A document with the card's figures between `<!-- card:NAME -->` and `<!-- /card -->`."""

    def written(found: re.Match[str]) -> str:
        return f"{found[1]}\n{PARTS[found[2]](card)}\n{found[3]}"

    return re.sub(r"(<!-- card:(\w+) -->)\n.*?(<!-- /card -->)", written, text, flags=re.DOTALL)


def page(card: Card) -> str:
    """The model card in Markdown: the page's text with the card's figures."""
    model, trained = card["model"], card["training"]
    (weights,) = model["weights_sha256"].values()
    simulated = [data for each in card["sets"].values() for data in each["simulated"]]
    parts = {name: part(card) for name, part in PARTS.items()}
    return string.Template(TEXT.read_text(encoding="utf-8")).substitute(
        parts,
        command=card["command"],
        data_commands="\n".join(map(simulate_command, simulated)),
        weights_sha256=weights,
        megabytes=f"{model['weights_bytes'] / 1e6:.1f}",
        parameters=f"{model['parameters'] / 1e6:.1f}",
        positions=model["positions"],
        codebook_size=model["codebook_size"],
        last_code=model["codebook_size"] - 1,
        codebook_dim=model["codebook_dim"],
        size=model["image_size"],
        stride=seconds(model["strides"][0]),
        strides=joined([seconds(each) for each in sorted(model["strides"])]),
        sources=joined([f"`{name}`" for name in trained["sources"]]),
        steps=f"{trained['steps']:,}",
        batch_size=trained["batch_size"],
        minutes=f"{sum(each['minutes'] for each in trained['real']):.0f}",
        minutes_of_hands=f"{sum(each['minutes_of_hands'] for each in trained['real']):.1f}",
        pool=pool(card),
        simulation=simulation(card),
        findings="\n".join(f"- {sentence}" for sentence in claims.findings(reports(card))),
        sets="\n".join(f"- {claims.title(name)}" for name in card["sets"]),
        targets=targets(card),
        alarms=alarms(card),
        versions=", ".join(f"{name} {release}" for name, release in card["versions"].items()),
    )


def estimate(value: float | None, interval: Sequence[float] | None, sign: str = "") -> str:
    """A figure with its 95 % interval: "0.152 (0.130 to 0.176)"."""
    if value is None:
        return ""
    bounds = "" if interval is None else f" ({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"
    return f"{value:{sign}.3f}{bounds}"


def seconds(stride: str) -> str:
    """A stride as it is read: "0.5 s"."""
    return re.sub(r"(?<=\d)(?=[a-z])", " ", stride)


def _figure(headline: Mapping[str, Any]) -> str:
    value, interval = headline["value"], headline.get("interval")
    if value is None or interval is not None:
        return estimate(value, interval)
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def joined(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return claims.joined(list(words))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
