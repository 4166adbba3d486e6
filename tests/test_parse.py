"""Metadata that somebody else wrote: hostile and damaged texts and files give one line, at once, in bounded memory."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer import _parse
from lara_tokenizer._parse import (
    format_template,
    load_json,
    load_yaml,
    read_json,
    read_json_lines,
    read_json_object,
    read_parquet,
    shown,
)

LEVELS = 12


def _bomb(first: str = "[l, l, l, l, l, l, l, l, l, l]") -> str:
    """A YAML text of 12 lines whose aliases stand for 10^12 values."""
    lines = [f"- &x0 {first}"]
    lines += [f"- &x{level} [{', '.join([f'*x{level - 1}'] * 10)}]" for level in range(1, LEVELS)]
    return "\n".join(lines)


def _merge_bomb() -> str:
    """The same with merge keys."""
    lines = ["x0: &x0 {" + ", ".join(f"k{i}: 1" for i in range(10)) + "}"]
    lines += [f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}], k{n}: 1}}" for n in range(1, LEVELS)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 2000 + "1" + "}" * 2000, "nested too deeply"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ("[" + "9" * 400 + "]", "a number of 400 digits"),
        ("[" + "9" * 5000 + "]", "limit"),
        ("", "Expecting value"),
        ('{"a": 1', "Expecting ',' delimiter"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"\x89PNG\r\n", "utf-8"),
        ("[[]" + ",[]" * 10_000_000 + "]", "more than 10,000,000 values"),
    ],
    ids=lambda value: str(value)[:12] if len(value) > 50 else None,
)
def test_hostile_json_is_one_line_that_names_the_file(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        load_json(text, "info.json")
    assert str(caught.value).startswith("info.json: not JSON (")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_within_the_limits_is_taken_as_it_is():
    deep = "[" * 64 + "]" * 64
    assert repr(load_json(deep, "x")) == deep
    assert load_json("\ufeff[1, NaN, -Infinity]", "x")[2] == float("-inf")
    assert load_json(r'{"a": 1, "a": "\ud83e\udd16"}', "x") == {"a": "🤖"}
    assert load_json('"' + "9" * 400 + '"', "x") == "9" * 400  # a text, not a number
    assert load_json("[" + "9" * 300 + "]", "x") == [int("9" * 300)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"pick \ud83d up"', "pick \ufffd up"),
        (r'"\uDD16"', "\ufffd"),
        (r'"\ud83e\ud83e\udd16\udd16"', "\ufffd🤖\ufffd"),
        (r'"\\ud83e \\\ud83e"', "\\ud83e \\\ufffd"),
        (r'{"\ud800": "\ud7ff"}', {"\ufffd": "\ud7ff"}),
    ],
)
def test_half_of_a_surrogate_pair_becomes_the_replacement_character(text, value):
    assert load_json(text, "x") == value


def test_json_file_that_is_a_pipe_or_a_list_is_refused(tmp_path):
    os.mkfifo(tmp_path / "info.json")
    with pytest.raises(ValueError, match=r"info.json: a pipe or device"):
        read_json(tmp_path / "info.json")
    with pytest.raises(ValueError, match="a pipe or device"):
        read_json(Path("/dev/zero"))
    with pytest.raises(ValueError, match="a pipe or device"):
        list(read_json_lines(Path("/dev/zero")))
    with pytest.raises(ValueError, match="a folder, not a file"):
        read_json(tmp_path)
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list.json: holds \[1, 2\], expected names and values"):
        read_json_object(tmp_path / "list.json")


def test_a_bad_line_of_json_lines_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(_parse, "MAX_JSON_LINE_BYTES", 32)
    file = tmp_path / "episodes.jsonl"
    long = b"[" + b"1," * 40 + b"1]\n"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n' + long + b"[[[\n\xff\n[2]\r\n[3]")
    lines = dict(read_json_lines(file))
    assert {number: value for number, value in lines.items() if not isinstance(value, ValueError)} == {
        1: {"a": 1},
        6: [2],
        7: [3],
    }
    assert "line 3: not JSON (longer than 32 bytes)" in str(lines[3])
    assert {4, 5} <= {number for number, value in lines.items() if isinstance(value, ValueError)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_bomb(), "more than 100,000 values, with its aliases written out"),
        (_merge_bomb(), "more than 100,000 values"),
        ("a: &a\n  b: *a", r"\*a contains itself"),
        ("&a [*a]", r"\*a contains itself"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 65 + "}" * 65, "nested too deeply"),
        ("- " * 5000 + "a", "nested too deeply"),
        ("*nobody", "undefined alias"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("!!timestamp x", "AttributeError|NoneType"),
        ("when: 2024-99-99", "month must be"),
        ("!!bool x", "'x'"),
        ("!!binary é", "base64"),
        ("steps: " + "9" * 5000, "limit"),
        ("{[a]: 1}", "unhashable"),
        ("a: 1\n b: 2", "mapping values are not allowed"),
        ("a: \x00", "special characters are not allowed"),
        (b"\xff\xfea\x00:\x00\xff", "truncated data|codec"),
        (b"\x89PNG\r\n\x1a\n", "unacceptable character|can't decode|codec"),
        ("x" * 2**21, "2,097,152 bytes"),
    ],
    ids=lambda value: str(value)[:12] if len(value) > 50 else None,
)
def test_hostile_yaml_is_one_line_that_names_the_file(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        load_yaml(text, "lam.yaml")
    assert str(caught.value).startswith("lam.yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_yaml_with_a_few_aliases_and_merge_keys_is_taken():
    text = "base: &base {steps: 10, seed: 1}\ntraining: {<<: *base, seed: 2}\nagain: *base"
    base = {"steps": 10, "seed": 1}
    assert load_yaml(text, "x") == {"base": base, "training": {"steps": 10, "seed": 2}, "again": base}
    assert load_yaml("a: 1".encode("utf-16"), "x") == {"a": 1}
    assert load_yaml("", "x") is None


@pytest.mark.parametrize(
    "template",
    [
        "{chunk_index:0999999999d}",
        "{chunk_index:{chunk_index}}",
        "{chunk_index.__class__}",
        "{chunk_index[0]}",
        "{chunk_index!r}",
        "{0}",
        "{}",
        "{chunk_index",
        "{chunk_index:.9999999f}",
        "{chunk_index:>9999999}",
        "{chunk_index:0>100}",
        "{chunk_index:{>9}",
        "{chunk_index:,}",
        "{chunk_index:x}",
        ["a"] * 1_000_000,
        None,
    ],
)
def test_template_beyond_its_fields_is_refused_in_a_short_line(template):
    with pytest.raises(ValueError, match=r"info.json: file name template .* cannot be used") as caught:
        format_template(template, {"chunk_index": 3}, "info.json")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("spec", [":03d", ":03", ":0>3", ":0>3d", ":0=3d", ":=03d", ":0>3s"])
def test_every_way_to_write_a_width_of_three_is_taken(spec):
    value = "7" if spec.endswith("s") else 7
    assert format_template(f"file-{{index{spec}}}.mp4", {"index": value}, "info.json") == "file-007.mp4"


def test_a_value_in_a_message_is_short_however_large_it_is():
    bomb = ["l"] * 10
    for _ in range(10):
        bomb = [bomb] * 10  # 10^11 values
    for value in (bomb, {"a": bomb}, "x" * 10**6, {"\x1b": "\x1b"}):
        assert len(shown(value)) <= 80
        assert shown(value).isprintable()
    assert shown(10**5000) == "int"
    assert shown(b"ab") == "b'ab'"


@pytest.fixture
def dictionary_bomb(tmp_path) -> Path:
    """100 KB of parquet whose one text of 100 kB is in a hundred thousand rows: 10 GB."""
    file = tmp_path / "bomb.parquet"
    indices = pa.array([0], pa.int32()).take(pa.array([0] * 100_000))
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 10**5]))}), file)
    return file


def test_parquet_that_unpacks_to_gigabytes_is_refused_without_allocating_them(dictionary_bomb, monkeypatch):
    monkeypatch.setattr(_parse, "MAX_TABLE_BYTES", 2**24)
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match=r"bomb.parquet: its rows take more than the 16,777,216 bytes"):
        read_parquet(dictionary_bomb)
    assert pa.total_allocated_bytes() - before < 2**25


def test_long_texts_in_lists_are_refused_after_a_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(_parse, "MAX_TABLE_BYTES", 2**22)
    rows = pa.array([["x" * 10**5]]).take(pa.array([0] * 400))
    pq.write_table(pa.table({"name": ["a"] * 400, "tasks": rows}), tmp_path / "episodes.parquet")
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match=r"episodes\.parquet: its rows take more than the 4,194,304 bytes"):
        read_parquet(tmp_path / "episodes.parquet")
    assert pa.total_allocated_bytes() - before < 2**26


def test_parquet_with_a_repeated_text_is_read_whole(tmp_path):
    table = pa.table({"task": ["pick up the red cube"] * 5000, "observation.state": [[1.0, 2.0]] * 5000})
    pq.write_table(table, tmp_path / "tasks.parquet")
    assert read_parquet(tmp_path / "tasks.parquet").equals(table)
    assert read_parquet(tmp_path / "tasks.parquet", columns=["observation.state"]).equals(table.select([1]))


def test_batches_of_a_large_text_column_equal_the_plain_read(tmp_path, monkeypatch):
    table = pa.table({"task": ["pick"] * 5000, "index": range(5000)})
    pq.write_table(table, tmp_path / "tasks.parquet")
    monkeypatch.setattr(_parse, "MAX_TABLE_BYTES", 2**17)  # less than its upper bound, more than its size
    assert read_parquet(tmp_path / "tasks.parquet").equals(table)


def test_parquet_that_promises_a_billion_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_parse, "MAX_CELL_ROWS", 10)
    pq.write_table(pa.table({"a": range(11)}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="promises 11 rows; up to 10"):
        read_parquet(tmp_path / "x.parquet")


def test_damaged_parquet_and_other_files_are_one_line(tmp_path):
    good = tmp_path / "good.parquet"
    pq.write_table(pa.table({"a": list(range(1000)), "b": ["text"] * 1000}), good)
    content = good.read_bytes()
    with pytest.raises(ValueError, match=r"no column 'c' in it \(there are a, b\)"):
        read_parquet(good, columns=["c"])
    bad = tmp_path / "bad.parquet"
    refusals = []
    for position in range(4, len(content), 31):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        bad.write_bytes(flipped)
        try:
            read_parquet(bad)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 5
    assert all(refusal.startswith(str(bad)) and "\n" not in refusal for refusal in refusals)
    for other in (b"", b"PAR1", b"PAR1" * 3, content[:-9], b"{}", b"\x00" * 100):
        bad.write_bytes(other)
        with pytest.raises(ValueError, match="cannot be read as parquet"):
            read_parquet(bad)
