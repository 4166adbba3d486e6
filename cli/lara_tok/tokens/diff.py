"""`lara-tok tokens diff`: differences between two token tables."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument, Exit

from lara_tok._common import JsonOption, emit, say

_LINES = 10  # of episodes; --json has all
_COUNTS = {  # of rows of an episode that cannot be compared
    "only_a": "rows only in a",
    "only_b": "rows only in b",
    "validity_changed": "valid in one of them only",
    "other_future": "with another future frame",
}


def diff_tokens(
    a: Annotated[str, Argument(metavar="TABLE", help="The table before: tokens.parquet, or a folder of shards.")],
    b: Annotated[str, Argument(metavar="TABLE", help="The table after.")],
    json_: JsonOption = False,
) -> None:
    """Compare two tables: the share of changed codes.

    Shares are by stride and episode. Rows are matched by episode, camera, stride and frame; --json has all episodes.
    Exit code: 0 equal, 1 something differs, 2 wrong usage or tables that cannot be compared.

    Example: lara-tok tokens diff before.parquet after.parquet
    """
    from lara_tokenizer.table import diff_tokens as diff

    result = diff(a, b).to_dict()
    emit(result, json_, _render)
    raise Exit(0 if result["is_equal"] else 1)


def _render(result: dict[str, Any]) -> None:
    for name in ("a", "b"):
        _line(name, f"{result[name]['path']}: {_model(result[name])}")
    if not result["same_model"]:
        _line("", "different models: codes of models that were not refined from each other have nothing in common")
    if result["made_differently"]:
        _line("", f"other options: {'; '.join(result['made_differently'])}")
    rows = result["rows"]
    _line("rows", f"{rows['both']:,} in both, {rows['only_a']:,} only in a, {rows['only_b']:,} only in b")
    if result["validity_changed"]:
        _line("", f"{result['validity_changed']:,} valid in one of them only")
    if result["other_future"]:
        _line("", f"{result['other_future']:,} with another future frame, not compared")
    if result["codes"] is not None and result["codes"]["pairs"]:
        _render_codes(result)
    if (latents := result["latents"]) is not None and latents["pairs"]:
        text = f"{latents['pairs_changed']:,} of {latents['pairs']:,} pairs changed"
        if latents["cosine"] is not None and latents["relative_l2"] is not None:
            text += f", mean cosine {latents['cosine']:.4f}, relative change {latents['relative_l2']:.4f}"
        _line("latents", text)
    _render_episodes(result)
    _line("equal" if result["is_equal"] else "different", "")


def _render_codes(result: dict[str, Any]) -> None:
    codes = result["codes"]
    _line("changed", f"{codes['pairs_changed']:,} of {codes['pairs']:,} pairs ({codes['pairs_changed_share']:.2%})")
    _line("", f"{codes['codes_changed_share']:.2%} of all codes")
    if not codes["codes_changed"]:
        return
    for stride, part in result["by_stride"].items():
        _line(f"stride {stride}", f"{part['codes_changed_share']:.2%} of the codes of {part['pairs']:,} pairs")
    _line("by position", " ".join(f"{share:.2%}" for share in codes["position_shares"]))
    for move in result["moves"]:
        change = f"{move['before']} became {move['after']}, {move['count']:,} times"
        _line("move", f"position {move['position']}: {change}")


def _render_episodes(result: dict[str, Any]) -> None:
    """The episodes with most changes."""
    changed = [(name, text) for name, part in result["by_episode"].items() if (text := _episode(part))]
    for name, text in changed[:_LINES]:
        _line("episode", f"{name}: {text}")
    if len(changed) > _LINES:
        _line("", f"and {len(changed) - _LINES:,} more; --json has all")


def _episode(part: dict[str, Any]) -> str:
    """Changes of an episode, "" for none."""
    changes = []
    if part["pairs_changed"]:
        of_codes = f", {part['codes_changed_share']:.2%} of its codes" if "codes_changed_share" in part else ""
        changes.append(f"{part['pairs_changed']:,} of {part['pairs']:,} pairs changed{of_codes}")
    changes += [f"{part[name]:,} {text}" for name, text in _COUNTS.items() if part[name]]
    return "; ".join(changes)


def _model(table: dict[str, Any]) -> str:
    at = f" at {table['revision']}" if table["revision"] else ""
    weights = ", ".join(digest[:12] for digest in table["weights_sha256"].values())
    return f"{table['model']}{at}, weights {weights}"


def _line(name: str, text: str) -> None:
    say(f"{name:12}{text}".rstrip())
