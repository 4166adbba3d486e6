"""Damage to texts that people and scripts write: JSON, JSON lines, YAML, CSV, lists."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

# Values that metadata of strangers held, or might: other types, other sizes, paths that lead out, names that bite.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 10**9, 2**31, 2**63, 10**30, 10**400, 1e308, float("nan"), float("inf"),
    "", " ", "0", "1", "nan", "x" * 70_000, "ä\u2028ö", "\x1b[31mred\x1b[0m", "two\nlines", "\x00", "\x9b2J", "\udce9",
    "..", "../../../etc/passwd", "/etc/passwd", "~", ".", "C:\\x", "a/../../b", "con\u202egpj.mp4",
    "{episode_index:0999999999d}", "{episode_index!r}", "{episode_index.__class__}", "{0}", "{", "{}", "%s%n",
    [], {}, [[]], [None], [1, "a", None], {"a": {"b": None}}, [0] * 5_000, {"": ""},
)  # fmt: skip
KEYS = (
    "fps",
    "features",
    "shape",
    "names",
    "dtype",
    "splits",
    "codebase_version",
    "chunks_size",
    "\x1b[2J",
    "",
    "__proto__",
)
YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
Spot = tuple[Any, Any]  # a container and the key or index of a value in it


def damage_json(rng: Random, text: str) -> str:
    """A JSON document with one to three values changed, or another text in its place."""
    if rng.random() < 0.15:
        return rng.choice(_JSON_TEXTS)(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return damage_text(rng, text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = change_value(rng, value)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def damage_json_lines(rng: Random, text: str) -> str:
    """JSON lines with one line dropped, repeated, moved, cut or changed."""
    lines = text.splitlines() or [""]
    k = rng.randrange(len(lines))
    match rng.choice(("drop", "repeat", "shuffle", "cut", "value", "value", "value", "bom")):
        case "drop":
            del lines[k]
        case "repeat":
            lines.insert(rng.randrange(len(lines) + 1), lines[k])
        case "shuffle":
            rng.shuffle(lines)
        case "cut":
            lines[k] = lines[k][: rng.randrange(len(lines[k]) + 1)]
        case "bom":
            lines[0] = "\ufeff" + lines[0]
        case _:
            lines[k] = damage_json(rng, lines[k])
    return "\n".join(lines) + "\n"


def damage_yaml(rng: Random, text: str, canary: str) -> str:
    """A YAML document with values changed, an alias bomb, tags that would run code (`canary` is a file they make)."""
    import yaml

    match rng.randrange(10):
        case 0:
            return YAML_BOMB + text
        case 1:
            return f'recipe: !!python/object/apply:os.system ["touch {canary}"]\n{text}'
        case 2:
            return "[" * 5_000 + text
        case 3:
            return damage_text(rng, text)
    value = yaml.safe_load(text)
    for _ in range(rng.choice((1, 1, 2))):
        value = change_value(rng, value)
    try:
        return yaml.safe_dump(value, allow_unicode=True)
    except (ValueError, UnicodeEncodeError):  # an integer too long to print
        return text.replace(":", "::", 1)


def damage_table(rng: Random, text: str) -> str:
    """Comma-separated values with a cell, a column's name, a quote or the whole layout changed."""
    dialect = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=dialect)) or [[""]]
    row = rng.choice(rows)
    match rng.choice(("cell", "cell", "cell", "drop", "repeat", "quote", "long", "bom", "delimiter", "wide", "nul")):
        case "cell" if row:
            row[rng.randrange(len(row))] = str(rng.choice([v for v in HOSTILE if v != 10**400]))
        case "drop":
            rows.remove(row)
        case "repeat":
            rows.append(list(row))
        case "quote":
            at = rng.randrange(len(text) + 1)
            return text[:at] + '"' + text[at:]
        case "long" if row:
            row[-1] = "x" * 200_000
        case "bom":
            return "\ufeff" + text
        case "delimiter":
            return text.replace(dialect, rng.choice((";", "|", "\t", "  ")))
        case "wide":
            row += ["more"] * rng.randrange(1, 50)
        case _:
            return damage_text(rng, text)
    sink = io.StringIO()
    csv.writer(sink, delimiter=dialect, lineterminator=rng.choice(("\n", "\r\n", "\r"))).writerows(rows)
    return sink.getvalue()


def damage_text(rng: Random, text: str) -> str:
    """Any text with characters lost, added or replaced."""
    at, stop = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    inserted = rng.choice(("", "\x00", "\x1b[31m", "\ufeff", '"', "'", "{", "[", "\r", "\u2028", "\udce9", "9" * 5_000))
    return text[:at] + inserted + text[rng.choice((at, at, stop)) :]


def change_value(rng: Random, value: Any) -> Any:
    """A copy of a nested value with one entry replaced, removed, repeated or renamed."""
    value = copy.deepcopy(value)
    spots = list(_spots(value))
    if not spots:
        return rng.choice(HOSTILE)
    holder, key = rng.choice(spots)
    match rng.choice(("replace", "replace", "replace", "replace", "neighbour", "remove", "rename", "nest", "scale")):
        case "neighbour":
            other, other_key = rng.choice(spots)
            holder[key] = copy.deepcopy(other[other_key])
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[rng.choice(KEYS)] = holder.pop(key)
        case "nest":
            for _ in range(rng.choice((1, 2, 80))):
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        case "scale" if isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice((2, -1, 1000, 0.5)) + rng.choice((0, 1, -1))
        case _:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def _spots(value: Any) -> Iterator[Spot]:
    """Every place of a nested value that holds another value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries)[:200]:
        yield value, key
        yield from _spots(inner)


_JSON_TEXTS: tuple[Callable[[str], str], ...] = (
    lambda text: "\ufeff" + text,
    lambda text: "[" * 100_000,
    lambda text: '{"a":' * 100_000,
    lambda text: "",
    lambda text: "null",
    lambda text: "[]",
    lambda text: "{}",
    lambda text: text[: len(text) // 2],
    lambda text: text + text,
    lambda text: text.replace(":", ": NaN, ", 1),
    lambda text: "9" * 100_000,
    lambda text: text.replace('"', "'"),
    lambda text: text.replace("{", '{"fps": 1e999, ', 1),
)
