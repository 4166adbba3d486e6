"""The arena: recipes of latent action models on equal pairs, each trained to its plateau, beside controls.

    python benchmarks/real_video.py ../shared/data/real_video runs/real
    simulate="lara-tok simulate metaworld --size 128 --action-noise 0.3"
    $simulate --out runs/mw-train --task train --episodes 3 --seed 1
    $simulate --out runs/mw-heldout --task train --episodes 2 --seed 1001
    $simulate --out runs/mw-unseen --task unseen --episodes 40 --seed 1002
    python benchmarks/arena.py all --runs runs --out results        # whatever is missing; again, it goes on
    python benchmarks/arena.py list --out results                   # what is missing, in its order
    python benchmarks/arena.py shipped --runs runs --out results    # the bundled lara-lam, for a row beside
    python benchmarks/arena_table.py results --kept benchmarks/results/arena --page docs/arena.md

`all` takes hours on a core. It begins with one seed of all contenders, those with all stabilisers first, so that its
page, RESULTS/arena.md, compares as soon as there are two. `arena_variants.py` has the contenders, `arena_train.py` the
training.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from arena_table import write_page
from arena_train import BLOCK, BRACKET_PAIRS, next_rate, train_to_plateau, try_rate
from arena_variants import BATCH, ENTRIES, SIDE, STRIDE, Entry, build

from lara_tokenizer._files import write_atomically
from lara_tokenizer.data import Episode, load_episodes
from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.evaluate.decoder import decoder_errors
from lara_tokenizer.evaluate.nuisance import Nuisance, with_nuisance
from lara_tokenizer.model import LatentActionModel, LatentActionProcessor
from lara_tokenizer.thresholds import IDLE_MOTION
from lara_tokenizer.train.frames import FrameCache
from lara_tokenizer.train.mixture import find_pairs, split_sequences
from lara_tokenizer.train.pairs import PairDataset

REAL = ("largest", "others")  # the lists of `real_video.py`
TASKS = 12  # of the 48 of Meta-World: every fourth
CAMERAS = ["observation.images.corner2", "observation.images.corner"]  # the first is measured
TRAINING_NUISANCE = Nuisance(("shake", "light"), seed=11)  # of Meta-World; evaluation draws with seeds of its own
HELDOUT_SHARE, MONITORED = 0.05, 384  # of the training episodes: checks and rates must not see the test sets
PAIRS_PER_EPISODE = {"heldout": 32, "unseen": 8, "real": 8}
SEEDS = 5
RunsOption = Annotated[Path, typer.Option(help="Folder of real/, mw-train, mw-heldout and mw-unseen.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the results, one JSON a run, and of decoded frames.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def chosen_tasks(episodes: list[Episode]) -> list[int]:
    """The indices of the episodes of the chosen tasks."""
    texts = sorted({episode.text or "" for episode in episodes})
    chosen = texts[:: max(1, len(texts) // TASKS)][:TASKS]
    return [index for index, episode in enumerate(episodes) if episode.text in chosen]


def training_episodes(runs: Path) -> list[Episode]:
    """Real clips as they are, and Meta-World under the nuisance."""
    real = load_episodes([f"list:{runs}/real/train_{size}.csv" for size in REAL])
    simulated = load_episodes(runs / "mw-train", cameras=CAMERAS)
    chosen = [simulated[index] for index in chosen_tasks(simulated)]
    return [*real, *with_nuisance(chosen, TRAINING_NUISANCE)]


class TrainingData:
    """The pairs of all trainings, and those of all checks; each source is drawn equally often."""

    def __init__(self, runs: Path, out: Path) -> None:
        processor = LatentActionProcessor(size={"height": SIDE, "width": SIDE})
        self.cache = FrameCache.build(training_episodes(runs), processor, out / "frames")
        paired = find_pairs(self.cache.sequences, [STRIDE])
        self.training, heldout = split_sequences(paired, HELDOUT_SHARE)
        # Episodes that cannot be read are left out, and a source of which none is left would go unnoticed.
        if len(found := {each.sequence.dataset for each in self.training}) != len(REAL) + 1:
            raise ValueError(f"only {sorted(found)} can be read, of the two lists in {runs}/real and {runs}/mw-train.")
        self.monitored = PairDataset(self.cache, heldout, min_motion=IDLE_MOTION).batch(range(MONITORED))

    def pairs(self, seed: int) -> PairDataset:
        """The pairs of a seed, the same for all contenders."""
        return PairDataset(self.cache, self.training, seed, min_motion=IDLE_MOTION)


def test_sets(runs: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Source and loading options of each test set."""
    seen = chosen_tasks(load_episodes(runs / "mw-heldout"))
    return {
        "heldout": (runs / "mw-heldout", {"cameras": CAMERAS[:1], "episodes": seen}),
        "unseen": (runs / "mw-unseen", {"cameras": CAMERAS[:1]}),
        "real": ([f"list:{runs}/real/heldout_{size}.csv" for size in REAL], {}),
    }


def measure(model: Any, processor: LatentActionProcessor, runs: Path) -> dict[str, Any]:
    """Headline figures and the rows of all controls on each test set, with the errors by episode behind them."""
    measured = {}
    for name, (source, load) in test_sets(runs).items():
        evaluation = evaluate_checkpoint(
            model, processor, source, stride=STRIDE, pairs_per_episode=PAIRS_PER_EPISODE[name], **load
        )
        report = evaluation.report
        actions = evaluation.errors["plain"].get("actions", {})
        errors = decoder_errors(model, processor, evaluation.pairs, evaluation.encoded, 0)
        measured[name] = {
            "headline": report["headline"],
            "rows": {view: report[view]["rows"] for view in ("probe", "nuisance")},
            "target": report["data"]["target"],
            "left_out": report["controls"]["left_out"],
            "alarms": [alarm["name"] for alarm in report["alarms"]],
            "errors": {"+".join(key): np.round(error, 5).tolist() for key, error in actions.items()},
            "decoder_errors": np.round(errors[:, :, 0], 4).tolist(),  # own codes, other codes, copying; of all pixels
        }
    return measured


def run(entry: Entry, seed: int, rate: float, data: TrainingData, runs: Path, weights: Path) -> dict[str, Any]:
    """Train a contender to its plateau, unless `weights` has it trained, and measure it."""
    pairs = data.pairs(seed)
    learner = build(entry, pairs, data.monitored, seed=seed, continuous_steps=BLOCK // BATCH)
    if not weights.exists():
        start = time.monotonic()
        course = train_to_plateau(learner, pairs, data.monitored, rate, lambda check: note(f"{entry.name} {check}"))
        minutes = round((time.monotonic() - start) / 60, 1)
        weights.parent.mkdir(exist_ok=True)
        unfinished = weights.with_suffix(".tmp")
        torch.save({"model": learner.model.state_dict(), "course": course.to_dict(), "minutes": minutes}, unfinished)
        unfinished.replace(weights)
    trained = torch.load(weights, weights_only=True)
    learner.model.load_state_dict(trained["model"])
    finite = all(torch.isfinite(each).all() for each in trained["model"].values())
    return {
        "name": entry.name,
        **asdict(entry),
        "seed": seed,
        "learning_rate": rate,
        "parameters": sum(each.numel() for each in learner.model.parameters() if each.requires_grad),
        "course": trained["course"],
        "minutes": trained["minutes"],
        "sets": measure(learner.model.eval(), learner.processor, runs) if finite else {},
    }


def bracket(entry: Entry, data: TrainingData, out: Path) -> float:
    """The learning rate of a recipe's form: the best of those tried, with one on each side that is not."""
    # A form is tried on the pairs that it is first run on; both kinds of pairs then get its rate.
    entry = replace(entry, steady=entry.stabilised)
    gains = tried_rates(out, entry.form)
    while (rate := next_rate(gains)) is not None:
        pairs = data.pairs(0)
        learner = build(entry, pairs, data.monitored, seed=0, continuous_steps=BRACKET_PAIRS // BATCH // 2)
        check = try_rate(learner, pairs, data.monitored, rate)
        result = {"form": entry.form, "rate": rate, **asdict(check)}
        save(out / f"rate-{entry.form}-{rate:g}.json", result)
        note(json.dumps(result))
        gains[rate] = check.gain_moving
    return max(gains, key=lambda rate: (gains[rate], -rate))


def tried_rates(out: Path, form: str) -> dict[float, float]:
    """Gain over copying on moving pixels by learning rate, of the short runs that are there."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"rate-{form}-*.json"))]
    return {result["rate"]: result["gain_moving"] for result in results}


def missing(out: Path, seeds: int) -> Iterator[tuple[Entry, int, Path]]:
    """The runs that are not there, in the order in which they are made: a seed of all contenders, then the next."""
    for seed in range(seeds):
        for entry in ENTRIES:
            file = out / f"run-{entry.name}-seed{seed}.json"
            if not file.exists():
                yield entry, seed, file


def save(file: Path, result: dict[str, Any]) -> None:
    """Write a result as a whole, or not at all."""
    write_atomically(file, json.dumps(result) + "\n")


def note(text: str) -> None:
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


@app.command("all")
def run_all(runs: RunsOption, out: OutOption, seeds: int = SEEDS) -> None:
    """Make what is missing: learning rates, then runs, and after each of them the page OUT/arena.md."""
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)  # sums in one order make runs repeatable
    out.mkdir(parents=True, exist_ok=True)
    data = TrainingData(runs, out)
    for entry, seed, file in missing(out, seeds):
        rate = bracket(entry, data, out)
        save(file, run(entry, seed, rate, data, runs, out / "weights" / f"{file.stem}.pt"))
        write_page(out, out / "arena.md")
        note(f"{file.name} is done; {len(list(missing(out, seeds)))} runs to go")


@app.command()
def shipped(runs: RunsOption, out: OutOption) -> None:
    """Measure the bundled lara-lam on the same test sets: for a row beside, as it has other data and sizes."""
    model = LatentActionModel.from_pretrained("lara-lam").eval()
    sets = measure(model, LatentActionProcessor.from_pretrained("lara-lam"), runs)
    save(out / "shipped-lara-lam.json", {"name": "lara-lam as it ships", "seed": 0, "sets": sets})
    write_page(out, out / "arena.md")


@app.command("list")
def list_missing(out: OutOption, seeds: int = SEEDS) -> None:
    """Say which runs are missing, in their order."""
    for _, _, file in missing(out, seeds):
        print(file.name)


if __name__ == "__main__":
    app()
