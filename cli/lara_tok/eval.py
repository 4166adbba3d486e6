"""`lara-tok eval`: measure the codes of a checkpoint; writes report.json and a health card, prints a table."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from rich.text import Text
from typer import Argument

from lara_tok._app import panels
from lara_tok._app.overwrite import OverwriteOption, check_free
from lara_tok._common import JsonOption, console, console_err, emit, render_verdict, say
from lara_tok._source import AllCamerasOption, SourceArgument, as_arguments, parse_fps, source_options
from lara_tokenizer.errors import printable

if TYPE_CHECKING:
    from lara_tokenizer.checkpoint import Checkpoint
    from lara_tokenizer.evaluate import Evaluation
    from lara_tokenizer.evaluate.figures import Estimate, ProbeTable, Report

REPORTS, PAGE = ("report.json", "compared.json"), "index.html"
FIGURES = {
    "conditional_r2": "conditional R2",
    "conditional_r2_codes": "  of quantized z",
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


@source_options(camera=AllCamerasOption)
def eval(
    checkpoint: Annotated[
        str, Argument(metavar="CHECKPOINT", help="'lara-lam' (bundled), a local folder or a Hub id.")
    ],
    source: SourceArgument = None,
    *,
    out: Annotated[
        Path, panels.output(metavar="FOLDER", help="Folder for report.json and index.html, the health card.")
    ],
    all_: Annotated[
        bool, panels.model("--all", help="Compute the slower figures too; takes about twice as long.")
    ] = False,
    compare: Annotated[
        str | None,
        panels.model(
            metavar="CHECKPOINT", help="A second checkpoint, measured on the same pairs and shown beside the first."
        ),
    ] = None,
    control_encoder: Annotated[
        str | None,
        panels.model(
            metavar="MODEL",
            help="A vision model, a folder or a Hub id: the change of its features is one more control.",
        ),
    ] = None,
    target: Annotated[
        str,
        panels.pairs(
            metavar="RULE",
            help="What probes predict of a pair: sum or change (of state or action), or chunk (all its actions). auto: "
            "what the actions of the dataset are decides.",
        ),
    ] = "auto",
    load_options: dict[str, Any],
    overwrite: OverwriteOption = False,
    json_: JsonOption = False,
) -> None:
    """Measure what the codes of a checkpoint tell on your data.

    Probes stand next to controls; use of z by the decoder and health of the codebook are measured too. SOURCE is
    any source of `lara-tok encode`; use one that the checkpoint was not trained on. Probes predict its actions from
    z; its arm masks are used if it has any. Alarms are findings, not failures: the exit code is 0.

    Examples:

      lara-tok eval lara-lam mw-heldout/ --out report/

      lara-tok eval run/ demos/ --out report/ --all --compare lara-lam

      lara-tok eval run/ demos/ --out r/ --control-encoder facebook/dinov2-small
    """
    if not (source or load_options.get("from_list")):
        raise ValueError("evaluation needs SOURCE: a dataset that the checkpoint was not trained on.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; eval writes a folder (report.json, index.html). Name a folder.")
    check_free((out / name for name in (*REPORTS, PAGE)), overwrite=overwrite)
    flags = {"all": all_, "compare": compare, "control-encoder": control_encoder}
    flags |= {} if target == "auto" else {"target": target}
    # As it was typed, but for the name of the folder.
    command = ["lara-tok", "eval", checkpoint, *(source or ()), "--out", "report/", *as_arguments(flags | load_options)]
    load_options["fps"] = parse_fps(load_options.get("fps", ()))
    # Only now, as it imports torch.
    from lara_tokenizer.evaluate.report.page import write_report

    # Both are opened first, so that a model that cannot be measured is refused before the other takes its time.
    opened = [_open(name) for name in (checkpoint, compare) if name is not None]
    measured: list[tuple[Evaluation, Any, Any]] = []
    for each, model, processor in opened:
        # The stride of the first, so that both see the same pairs.
        stride = measured[0][0].figures.data.stride if measured else None
        keywords = {
            "everything": all_,
            "stride": stride,
            "control_encoder": control_encoder,
            "target": target,
            **load_options,
        }
        measured.append((_evaluate(each, model, processor, source or (), keywords), model, processor))
    out.mkdir(parents=True, exist_ok=True)
    for name in REPORTS:  # one that is not written again would be of another run
        (out / name).unlink(missing_ok=True)
    for name, (evaluation, *_) in zip(REPORTS, measured, strict=False):
        text = json.dumps(evaluation.report, indent=2, allow_nan=False)
        (out / name).write_text(text + "\n", encoding="utf-8")
    other = None if compare is None else measured[1]
    write_report(*measured[0], out / PAGE, other=other, command=shlex.join(command))
    say(f"{out / 'index.html'}: the health card", err=True)
    emit(measured[0][0].report, json_, lambda _: _render(measured[0][0].figures))


def _open(name: str) -> tuple[Checkpoint, Any, Any]:
    """Open (checkpoint, model, processor). Raises ValueError for a model that cannot be measured."""
    import torch

    from lara_tokenizer.checkpoint import Checkpoint, load_checkpoint
    from lara_tokenizer.evaluate.evaluate import check_predicts_frames

    opened = Checkpoint.open(name)
    model, processor = load_checkpoint(opened.folder)
    check_predicts_frames(model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # transformers' annotation
    return opened, model, processor


def _evaluate(opened: Checkpoint, model: Any, processor: Any, source: Any, keywords: dict[str, Any]) -> Evaluation:
    from lara_tokenizer.evaluate import evaluate_checkpoint

    keywords |= {"model_id": opened.id, "weights_sha256": opened.weights_sha256}
    with console_err.status(_status(f"{opened.id}: reading frames")) as status:

        def progress(done: int, total: int) -> None:
            phase = "probing" if done == total else f"reading episode {done + 1:,} of {total:,}"
            status.update(_status(f"{opened.id}: {phase}"))

        return evaluate_checkpoint(model, processor, source, progress=progress, **keywords)


def _status(text: str) -> Text:
    """A status that is printed as it is: rich takes a plain text for markup."""
    return Text(printable(text))


def _render(report: Report) -> None:
    from lara_tokenizer.evaluate.figures import BEST_CONTROLS, ROW_NAMES, Estimate

    model, data = report.model, report.data
    title = f"{model.id} ({model.codes}) on {data.name}: {data.episodes:,} episodes, {data.pairs:,} pairs"
    columns = ("figure", "value", "95 % interval", "z minus this")
    table = Table(*columns, title=printable(title))
    for name, text in FIGURES.items():
        table.add_row(text, *_cells(report.headline[name]))
        if name in BEST_CONTROLS and (best := report.best_control(name)).name is not None:
            own = _cells(Estimate(best.value, best.interval))
            difference = " ".join(_cells(Estimate(best.difference, best.difference_interval), "+"))
            table.add_row(f"    best control: {ROW_NAMES[best.name]}", *own, difference)
    _add_controls(table, report.probe, "conditional_r2")
    _add_controls(table, report.nuisance, "selectivity")
    console.print(table)
    if data.target is not None:
        _line("probes predict", data.target.sentence)
    for name, reason in report.controls.left_out.items():
        _line("left out", f"{ROW_NAMES[name]}: {reason}")
    for reason in dict.fromkeys(table.reason for table in (report.probe, report.nuisance) if table.reason):
        _line("not probed", reason)
    told = report.to_dict()
    render_verdict(told["verdict"], told["alarms"], _line)


def _line(name: str, text: str) -> None:
    say(f"{name:15}{text}")


def _add_controls(table: Table, probes: ProbeTable, figure: str) -> None:
    """Add the scores of the controls, and by how much z is better."""
    from lara_tokenizer.evaluate.figures import ROW_NAMES

    margins = probes.margins.get(figure, {})
    shown = [name for name in ROW_NAMES if name in margins and name in probes.rows]
    if not shown:
        return
    table.add_section()
    table.add_row(f"{FIGURES[figure]} of")
    for name in shown:
        difference = " ".join(_cells(margins[name], "+"))
        table.add_row(f"  {ROW_NAMES[name]}", *_cells(getattr(probes.rows[name], figure)), difference)


def _cells(estimate: Estimate, sign: str = "") -> tuple[str, str]:
    """The value and its interval as text."""
    bounds = estimate.interval
    interval = "" if bounds is None else f"({_format(bounds[0])}, {_format(bounds[1])})"
    return _format(estimate.value, sign), interval


def _format(value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:.1f}"
