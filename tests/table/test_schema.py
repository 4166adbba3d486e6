"""The columns and metadata of a table are those that docs/table.md specifies."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
from token_tables import write_table

from lara_tokenizer.table import read_metadata
from lara_tokenizer.table.schema import FORMAT_VERSION, OPTIONAL_COLUMNS, token_schema

SPECIFICATION = (Path(__file__).parents[2] / "docs" / "table.md").read_text()
TYPES = {
    "dictionary<int32, string>": pa.dictionary(pa.int32(), pa.string()),
    "fixed_size_list<int16>[N]": pa.list_(pa.int16(), 8),
    "fixed_size_list<float16>[N·D]": pa.list_(pa.float16(), 8 * 32),
    "list<list<float32>>": pa.list_(pa.list_(pa.float32())),
    "list<float32>": pa.list_(pa.float32()),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
}


def rows_of(section: str) -> list[list[str]]:
    """The rows of the first Markdown table below a heading, without its head."""
    text = SPECIFICATION.partition(f"\n## {section}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_columns_are_those_of_the_specification():
    schema = token_schema(8, 32, 128, OPTIONAL_COLUMNS)
    specified = [
        (name.strip("`"), TYPES[kind.replace("&lt;", "<").replace("&gt;", ">")], null == "yes")
        for name, kind, null, _ in rows_of("Columns")
    ]
    assert [name for name, _, _ in specified] == schema.names
    for name, kind, is_nullable in specified:
        assert pa.types.is_nested(kind) or schema.field(name).type == kind
        assert str(schema.field(name).type).replace(" not null", "") == str(kind).replace("item:", "element:")
        assert schema.field(name).nullable == is_nullable


def test_the_metadata_keys_are_those_of_the_specification(tmp_path):
    written = read_metadata(write_table(tmp_path / "t.parquet", {("a", "", "1f"): 3}))
    specified = {name for keys, _ in rows_of("Metadata") for name in re.findall(r"`(\w+)`", keys)}
    assert set(written) | {"frames", "action_columns", "card"} == specified
    assert f"format version {FORMAT_VERSION}" in SPECIFICATION
