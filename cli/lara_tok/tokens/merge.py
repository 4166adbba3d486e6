"""`lara-tok tokens merge`: join token tables into one."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument

from lara_tok._app import panels
from lara_tok._common import JsonOption, emit, quantity, say


def merge_tokens(
    tables: Annotated[
        list[str], Argument(metavar="TABLE", help="Two or more tables: .parquet files or folders of shards.")
    ],
    out: Annotated[
        str, panels.output(metavar="TABLE", help="The table: a file, tokens.parquet, or a folder of shards, tokens/.")
    ],
    json_: JsonOption = False,
) -> None:
    """Join tables of one model and the same options into one.

    They have different episodes, cameras or strides. Tables that share a row, or differ in model or options, are
    refused. Nothing is encoded again.

    Example: lara-tok tokens merge left.parquet right.parquet --out tokens.parquet
    """
    from lara_tokenizer.table import merge_tokens as merge

    emit(merge(tables, out).to_dict(), json_, _render)


def _render(result: dict[str, Any]) -> None:
    rows, episodes = quantity(result["rows"], "row"), quantity(result["episodes"], "episode")
    say(f"{result['out']}: {rows} of {episodes}, strides {', '.join(result['strides'])}")
    for path, count in result["rows_of"].items():
        say(f"  {count:,} of {path}")
    for note in result["notes"]:
        say(f"  note: {note}")
