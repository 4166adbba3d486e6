"""`lara-tok eval`: measure the codes of a checkpoint; writes report.json and a health card, prints a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lara_tok._common import JsonOption, console, console_err, emit, without_loading_bars
from lara_tok._source import (
    DecoderOption,
    EpisodesOption,
    FpsOption,
    FromOption,
    SegmentOption,
    SourceArgument,
    SplitOption,
    StreamingOption,
    SubsetOption,
    TaskOption,
    parse_fps,
)

if TYPE_CHECKING:
    from lara_tokenizer.checkpoint import Checkpoint
    from lara_tokenizer.evaluate import Evaluation
    from lara_tokenizer.evaluate.figures import Estimate, ProbeTable, Report

FIGURES = {
    "conditional_r2": "conditional R2",
    "conditional_r2_nuisance": "  under nuisances",
    "nuisance_r2": "nuisance R2",
    "selectivity": "selectivity",
    "gain_over_copying": "gain over copying",
    "gain_over_copying_moving": "  moving pixels",
    "z_gain": "z gain",
    "z_gain_moving": "  moving pixels",
    "perplexity": "perplexity, pooled",
    "perplexity_per_position": "  mean per position",
    "dead_codes": "dead codes",
    "dead_positions": "dead positions",
    "spread": "spread of z",
    "effective_rank": "effective rank",
}
ROWS = {
    "z": "z",
    "quantized": "quantized z",
    "codes": "codes, one-hot",
    "mean": "mean predictor",
    "frame": "frame t alone",
    "shuffled": "shuffled z",
    "pixel_difference": "pixel difference",
    "random_init": "random-init z",
}


def eval(
    checkpoint: Annotated[str, typer.Argument(help="'lara-lam' (bundled), a local folder or a Hub id.")],
    source: SourceArgument = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for report.json and index.html, the health card.")],
    all_: Annotated[bool, typer.Option("--all", help="Also the slower figures; takes about twice as long.")] = False,
    compare: Annotated[
        str | None, typer.Option(help="A second checkpoint, measured on the same pairs and shown beside the first.")
    ] = None,
    fps: FpsOption = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(help="A dataset's camera: its name, or the name's last part. Repeatable. Default: all."),
    ] = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    streaming: StreamingOption = False,
    episodes: EpisodesOption = None,
    task: TaskOption = None,
    segment: SegmentOption = None,
    from_: FromOption = None,
    decoder: DecoderOption = "pyav",
    limit: Annotated[int | None, typer.Option(min=1, help="Read the first episodes only.")] = None,
    json_: JsonOption = False,
) -> None:
    """Measure the codes of a checkpoint: alarms, probes with controls, and a verdict in words.

    SOURCE is any source of `lara-tok encode`; use one that the checkpoint was not trained on. Probes predict its
    actions from z; masks of the arm are detected. Alarms are findings, not failures: the exit code is 0.

    Examples:

      lara-tok eval lara-lam mw-heldout/ --out report/

      lara-tok eval run/ lerobot:lerobot/pusht --out report/ --all --compare lara-lam
    """
    from lara_tokenizer.evaluate.report.page import write_report

    if not (source or from_):
        raise ValueError("evaluation needs SOURCE: a dataset that the checkpoint was not trained on.")
    load: dict[str, Any] = {
        "fps": parse_fps(fps or []),
        "decoder": decoder,
        "limit": limit,
        "cameras": camera or (),
        "split": split,
        "subset": subset,
        "streaming": streaming,
        "episodes": episodes,
        "tasks": task or (),
        "segment": segment,
        "from_list": from_,
    }
    # Both are opened first, so that a model that cannot be measured is refused before the other takes its time.
    opened = _open(checkpoint)
    opened_other = None if compare is None else _open(compare)
    evaluated = _evaluate(*opened, source or (), everything=all_, **load)
    evaluation = evaluated[0]
    other = None
    if opened_other is not None:
        # The stride of the first, so that both see the same pairs.
        stride = evaluation.figures.data.stride
        other = _evaluate(*opened_other, source or (), everything=all_, stride=stride, **load)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "report.json", evaluation.report)
    if other is not None:
        _write(out / "compared.json", other[0].report)
    write_report(*evaluated, out / "index.html", other=other)
    console_err.print(f"{out / 'index.html'}: the health card", markup=False, highlight=False, soft_wrap=True)
    emit(evaluation.report, json_, lambda _: _render(evaluation.figures))


def _open(name: str) -> tuple[Checkpoint, Any, Any]:
    """Open (checkpoint, model, processor). Raises ValueError for a model that cannot be measured."""
    import torch

    from lara_tokenizer.checkpoint import Checkpoint
    from lara_tokenizer.evaluate.evaluate import check_predicts_frames
    from lara_tokenizer.model import LatentActionProcessor, load_model

    without_loading_bars()
    opened = Checkpoint.open(name)
    model = load_model(opened.folder).eval()
    check_predicts_frames(model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return opened, model, LatentActionProcessor.from_pretrained(opened.folder)


def _evaluate(
    opened: Checkpoint, model: Any, processor: Any, source: Any, **options: Any
) -> tuple[Evaluation, Any, Any]:
    from lara_tokenizer.evaluate import evaluate_checkpoint

    with console_err.status(f"{opened.id}: reading frames") as status:

        def progress(done: int, total: int) -> None:
            phase = "probing" if done == total else f"reading episode {done + 1:,} of {total:,}"
            status.update(f"{opened.id}: {phase}")

        evaluation = evaluate_checkpoint(
            model,
            processor,
            source,
            progress=progress,
            model_id=opened.id,
            weights_sha256=opened.weights_sha256,
            **options,
        )
    return evaluation, model, processor


def _write(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _render(report: Report) -> None:
    model, data = report.model, report.data
    title = f"{model.id} ({model.codes}) on {data.name}: {data.episodes:,} episodes, {data.pairs:,} pairs"
    sentences = [f"{alarm.severity}: {alarm.sentence}" for alarm in report.alarms]
    reasons = [table.reason for table in (report.probe, report.nuisance) if table.reason]
    notes = [*sentences, *dict.fromkeys(reasons), report.verdict]
    table = Table("figure", "value", "95 % interval", "z minus this", title=title, caption="\n".join(notes))
    table.caption_style = ""
    table.caption_justify = "left"
    for name, text in FIGURES.items():
        table.add_row(text, *_cells(report.headline[name]))
    _add_controls(table, report.probe, "conditional_r2")
    _add_controls(table, report.nuisance, "selectivity")
    console.print(table)


def _add_controls(table: Table, probes: ProbeTable, figure: str) -> None:
    """Add the scores of the controls, and by how much z is better."""
    margins = probes.margins.get(figure, {})
    shown = [name for name in ROWS if name in margins and name in probes.rows]
    if not shown:
        return
    table.add_section()
    table.add_row(f"{FIGURES[figure]} of")
    for name in shown:
        difference = " ".join(_cells(margins[name], "+"))
        table.add_row(f"  {ROWS[name]}", *_cells(getattr(probes.rows[name], figure)), difference)


def _cells(estimate: Estimate, sign: str = "") -> tuple[str, str]:
    """The value and its interval as text."""
    bounds = estimate.interval
    interval = "" if bounds is None else f"({_number(bounds[0])}, {_number(bounds[1])})"
    return _number(estimate.value, sign), interval


def _number(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:.1f}"
