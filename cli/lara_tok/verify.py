"""`lara-tok verify`: encode a sample of a table again and compare the codes."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument, Exit

from lara_tok._app import panels
from lara_tok._common import JsonOption, emit, say
from lara_tok._source import FromOption
from lara_tok.encode import exit_code, stoppable


def verify(
    tokens: Annotated[str, Argument(metavar="TABLE", help="tokens.parquet, or a folder of shards.")],
    source: Annotated[list[str], Argument(metavar="SOURCE", help="The SOURCE that was given to encode.")],
    sample: Annotated[str, panels.pairs(metavar="PERCENT", help="Share of the table to check: 1%, 100%.")] = "1%",
    model: Annotated[
        str | None, panels.model(metavar="CHECKPOINT", help="The checkpoint. Default: the one that made the table.")
    ] = None,
    device: Annotated[
        str | None, panels.model(metavar="cpu|cuda", help="cpu or cuda. Default: as for the table.")
    ] = None,
    workers: Annotated[
        int | None,
        panels.speed(
            metavar="N", min=0, help="Worker processes. Default: by cores and memory. 0: none, all in this process."
        ),
    ] = None,
    from_: FromOption = None,
    json_: JsonOption = False,
) -> None:
    """Encode a sample of a table again, and list rows that differ.

    The options are those in the table's metadata.

    Exit code: 0 all equal, 1 something differs, 2 wrong usage or other weights, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

    Example: lara-tok verify tokens.parquet videos/ --sample 5%
    """
    share = _parse_share(sample)
    from lara_tokenizer.encode import verify_tokens

    try:
        with stoppable():
            report = verify_tokens(
                tokens, source, sample=share, model=model, device=device, workers=workers, from_list=from_
            )
    except KeyboardInterrupt as stop:
        say("interrupted: nothing was changed", err=True)
        raise Exit(exit_code(stop)) from None
    emit(report.to_dict(), json_, _render)
    raise Exit(0 if report.is_equal else 1)


def _parse_share(text: str) -> float:
    try:
        if not text.endswith("%"):
            raise ValueError
        return float(text[:-1]) / 100
    except ValueError:
        raise ValueError(f"sample {text!r}: takes a share in percent, e.g. 1%") from None


def _render(result: dict[str, Any]) -> None:
    say(f"checked {result['rows_checked']:,} rows in {result['units_checked']} of {result['units']} units")
    for row in result["differences"]:
        key = f"{row['episode']} {row['camera']} {row['stride']} frame {row['frame_index']}"
        say(f"differs: {' '.join(key.split())}: table {row['codes']}, now {row['codes_now']}")
    if (more := result["rows_differing"] - len(result["differences"])) > 0:
        say(f"and {more:,} more rows")
    for episode, reason in result["unreadable"].items():
        say(f"unreadable: {episode}: {reason}")
    say("equal" if result["is_equal"] else f"{result['rows_differing']:,} rows differ")
