"""The model card of lara-lam: what `lara-tok eval` measures on named sets, what may be said of it, and the page.

    python benchmarks/lara_lam_card.py runs/lam --work runs/card \\
        --trained-on list:runs/real/train_largest.csv list:runs/real/train_others.csv runs/mw-train \\
        --frames runs/lam-frames \\
        --set g1_real=../shared/data/g1_real --set bridge_rlds=../shared/data/bridge_rlds \\
        --set gr1_sim=../shared/data/gr1_sim --set mw_heldout=runs/mw-heldout --set mw_unseen=runs/mw-unseen \\
        --set real_video=list:runs/real/heldout_largest.csv --set real_video=list:runs/real/heldout_others.csv \\
        --card hub_configs/lara-lam/card.json --write-card hub_configs/lara-lam/README.md --pictures docs/images \\
        --update README.md docs/evaluation.md docs/lara-lam.md

The checkpoint is the folder of a training run; what it was trained on is compared with its log. A set that was measured
is kept in the work folder, by the weights' sha256: a rerun measures what is missing. Without a checkpoint the
figures are read from the existing card, to write the page again. `--pictures` draws the clips of the set real_video.
`--update` writes the figures of other documents, between `<!-- card:NAME -->` and `<!-- /card -->`; the names are in
lara_lam/page.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lara_lam import goals, page, pictures, training

from lara_tokenizer import __version__
from lara_tokenizer.checkpoint import Checkpoint, read_processor
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.model import load_model

LIBRARIES = ("torch", "transformers", "numpy", "av", "opencv-python-headless")
PAIRS = 32  # of a camera and an episode, as in `lara-tok eval`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="the folder of a training run; without, the card is read")
    parser.add_argument("--trained-on", nargs="+", metavar="SOURCE", help="the sources that `lara-tok train` was given")
    parser.add_argument("--frames", type=Path, help="the run's cache of frames, for the range of their pixels")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=SOURCE", help="a name given twice: a source more"
    )
    parser.add_argument("--work", type=Path, help="folder for the figures of each set")
    parser.add_argument("--card", required=True, type=Path, help="JSON file with the figures")
    parser.add_argument("--write-card", type=Path, help="also write the model card's page, in Markdown")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures, drawn from the set real_video")
    parser.add_argument("--update", type=Path, nargs="+", default=[], help="documents that show figures of the card")
    options = parser.parse_args()
    if options.checkpoint is not None:
        if not (options.set and options.work and options.trained_on and options.frames):
            parser.error("a checkpoint is measured on a --set at least, with --work, --trained-on and --frames")
        if options.pictures and not any(word.startswith("real_video=") for word in options.set):
            parser.error("--pictures are of the clips of --set real_video=SOURCE")
        sources = named_sources(options.set)
        card = measure(options.checkpoint, options.trained_on, options.frames, sources, options.work)
        card["command"] = shlex.join(["python", "benchmarks/lara_lam_card.py", *sys.argv[1:]])
        card["pictures"] = draw(options.checkpoint, sources["real_video"], options.pictures) if options.pictures else []
        options.card.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    # Read again even where it was just measured: the page must follow from the file.
    card = json.loads(options.card.read_text(encoding="utf-8"))
    if options.write_card is not None:
        options.write_card.write_text(page.page(card), encoding="utf-8")
    for document in options.update:
        document.write_text(page.updated(document.read_text(encoding="utf-8"), card), encoding="utf-8")
    print(page.tables(card))


def named_sources(given: list[str]) -> dict[str, list[str]]:
    """Sources by name of the set. Raises ValueError for a word without a name.

    >>> named_sources(["a=one", "b=two", "a=list:three"])
    {'a': ['one', 'list:three'], 'b': ['two']}
    """
    sources: dict[str, list[str]] = {}
    for word in given:
        name, equals, source = word.partition("=")
        if not (name and equals and source):
            raise ValueError(f"--set {word!r}: takes NAME=SOURCE, e.g. g1_real=../shared/data/g1_real")
        sources.setdefault(name, []).append(source)
    return sources


def measure(
    checkpoint: str, trained_on: list[str], frames: Path | None, sources: dict[str, list[str]], work: Path
) -> dict[str, Any]:
    """The card of a checkpoint, but for the command that made it."""
    opened = Checkpoint.open(checkpoint)
    model = load_model(opened.folder).eval()
    config = model.config
    card: dict[str, Any] = {
        "command": "",
        "model": {
            "weights_sha256": opened.weights_sha256,
            "weights_bytes": opened.weights_bytes,
            "parameters": model.num_parameters(),
            "image_size": config.image_size,
            "positions": config.num_latents,
            "codebook_size": config.codebook_size,
            "codebook_dim": config.codebook_dim,
            "strides": list(config.strides),
        },
        "versions": {
            "lara-tokenizer": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "training": training.describe_run(opened.folder, trained_on, frames),
        "sets": {},
    }
    work.mkdir(parents=True, exist_ok=True)
    for name, of_set in sources.items():
        report = measured_report(opened, model, name, of_set, work)
        card["sets"][name] = {"sources": of_set, "simulated": simulated(of_set), "report": kept_figures(report)}
    reports = {name: each["report"] for name, each in card["sets"].items()}
    return card | {"goals": goals.judge(reports)}


def measured_report(opened: Checkpoint, model: Any, name: str, sources: list[str], work: Path) -> Any:
    """The report of a set: that of the work folder where there is one of these weights, else measured now.

    Raises ValueError where a control could not be measured: what is said of z needs all.
    """
    (sha256,) = opened.weights_sha256.values()
    identity = {"weights_sha256": sha256, "sources": list(map(resolved, sources)), "pairs_per_episode": PAIRS}
    file = work / f"{name}-{sha256[:12]}.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if {**kept, "sources": list(map(resolved, kept["sources"]))} == {**identity, "report": kept["report"]}:
            print(f"{name}: measured before, {file}", file=sys.stderr)
            return kept["report"]
    print(f"{name}: {' '.join(sources)}", file=sys.stderr)  # standard output is for the tables
    processor = read_processor(opened.folder)
    evaluation = evaluate_checkpoint(model, processor, identity["sources"], pairs_per_episode=PAIRS)
    if left_out := evaluation.figures.controls.left_out:
        raise ValueError(f"{name}: the card needs every control. {next(iter(left_out.values()))}")
    # Written beside and renamed, so that a run that was killed leaves no half of it.
    scratch = file.with_suffix(".tmp")
    scratch.write_text(json.dumps(identity | {"report": evaluation.report}), encoding="utf-8")
    scratch.replace(file)
    return evaluation.report


def resolved(source: str) -> str:
    """A source by its full path, so that it is the same one from any folder."""
    scheme, colon, path = source.rpartition(":")
    return f"{scheme}{colon}{Path(path).resolve()}" if Path(path).exists() else source


def draw(checkpoint: str, sources: list[str], folder: Path) -> list[dict[str, str]]:
    """Draw the pictures; returns origin and licence of the clips that they show."""
    opened = Checkpoint.open(checkpoint)
    return pictures.draw(
        load_model(opened.folder).eval(), read_processor(opened.folder), list(map(resolved, sources)), folder
    )


def simulated(sources: list[str]) -> list[dict[str, Any]]:
    """The simulated datasets among the sources of a set."""
    folders = [Path(source) for source in sources if (Path(source) / "meta" / "simulation.json").exists()]
    return [training.describe_dataset(folder) for folder in folders]


def kept_figures(report: dict[str, Any]) -> dict[str, Any]:
    """A report for the card: without counts of every code, penalties and what is said by other figures."""
    kept = {name: value for name, value in report.items() if name not in ("format_version", "model")}
    # The date of a copy of a set is no figure of it.
    left_out = ("counts", "dead_codes_per_position", "lambdas", "over_family_intervals", "date")
    return _without(kept, left_out)


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _without(each, names) for name, each in value.items() if name not in names}
    return value


if __name__ == "__main__":
    main()
