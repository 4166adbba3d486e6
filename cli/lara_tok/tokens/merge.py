"""`lara-tok tokens merge`: join token tables into one."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument, Option

from lara_tok._common import JsonOption, emit, say


def merge_tokens(
    tables: Annotated[list[str], Argument(help="Two tables or more: .parquet files, folders of shards.")],
    out: Annotated[str, Option(help="tokens.parquet for one file, tokens/ for a folder of shards.")],
    json_: JsonOption = False,
) -> None:
    """Join tables of one model and the same options, with different episodes, cameras or strides, into one.

    A row that is in two of them, or a model or option that differs, is refused. Nothing is encoded again.

    Example: lara-tok tokens merge left.parquet right.parquet --out tokens.parquet
    """
    from lara_tokenizer.table import merge_tokens as merge

    emit(merge(tables, out).to_dict(), json_, _render)


def _render(result: dict[str, Any]) -> None:
    strides = ", ".join(result["strides"])
    say(f"{result['out']}: {result['rows']:,} rows of {result['episodes']:,} episodes, strides {strides}")
    for path, count in result["rows_of"].items():
        say(f"  {count:,} of {path}")
    for note in result["notes"]:
        say(f"  note: {note}")
