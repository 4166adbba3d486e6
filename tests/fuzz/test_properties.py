"""Properties that hold for every input: texts, templates, names, strides, times."""

from __future__ import annotations

import json
import unicodedata
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lara_tokenizer._parse import MAX_JSON_DEPTH, format_template, load_json, read_json_lines
from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.stride import Stride
from lara_tokenizer.errors import LaraTokenizerError, printable

quick = settings(max_examples=60, deadline=None)
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
any_name = st.text(st.characters(), max_size=40)
increasing_times = st.lists(st.floats(0.001, 10), min_size=2, max_size=60).map(lambda gaps: np.cumsum([0.0, *gaps]))


@quick
@given(nested)
def test_what_json_writes_is_read_back(value):
    for prefix in (b"", b"\xef\xbb\xbf"):
        assert load_json(prefix + json.dumps(value).encode(), "x") == value


@quick
@given(st.binary(max_size=80) | st.text(max_size=80) | st.integers(1, 200_000).map(lambda depth: "[" * depth))
def test_no_text_makes_json_raise_anything_but_a_value_error(content):
    with suppress(ValueError):
        load_json(content, "x")


@quick
@given(st.integers(1, 3 * MAX_JSON_DEPTH), st.booleans())
def test_depth_decides_whether_json_is_read(depth, is_list):
    text = "[" * depth + "]" * depth if is_list else '{"a":' * depth + "1" + "}" * depth
    if depth <= MAX_JSON_DEPTH:
        load_json(text, "x")
    else:
        with pytest.raises(ValueError, match="nested too deeply"):
            load_json(text, "x")


@quick
@given(st.lists(nested, max_size=6), st.binary(max_size=20))
def test_a_bad_line_costs_that_line_only(tmp_path_factory, values, noise):
    file = tmp_path_factory.mktemp("lines") / "x.jsonl"
    lines = [json.dumps(value).encode() for value in values]
    file.write_bytes(b"\n".join([*lines, b"{" + noise.replace(b"\n", b""), *lines]))
    read = [value for _, value in read_json_lines(file)]
    assert [value for value in read if not isinstance(value, ValueError)] == values * 2


@quick
@given(any_name, st.integers(0, 10**6))
def test_a_template_is_a_short_name_or_refused(template, number):
    with suppress(ValueError):
        assert len(format_template(template, {"episode_index": number}, "x")) <= 100 * (len(template) + 1)


@quick
@given(any_name)
def test_a_printable_name_is_one_line_that_no_terminal_obeys(name):
    shown = printable(name)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in shown)
    assert printable(shown) == shown


@quick
@given(st.text(max_size=12))
def test_a_stride_is_positive_or_refused(text):
    with suppress(ValueError):
        assert Stride.parse(text).value > 0


@quick
@given(increasing_times, st.integers(1, 30), st.floats(0.01, 5))
def test_the_future_frame_is_later_and_near_the_stride(times, frames, seconds):
    anchors = np.arange(len(times))
    future = Stride.parse(f"{frames}f").future_indices(times, anchors)
    assert np.array_equal(future, np.where(anchors + frames < len(times), anchors + frames, -1))
    with suppress(ValueError):  # the rate cannot meet the stride
        stride = Stride.parse(f"{seconds:.3f}s")
        future = stride.future_indices(times, anchors)
        found = future >= 0
        assert (future[found] > anchors[found]).all()
        assert (
            np.abs(times[future[found]] - times[anchors[found]] - stride.value) <= 0.25 * stride.value + 0.001
        ).all()


@quick
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_a_list_of_clips_is_read_or_refused_with_its_line(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("list") / "clips.csv"
    file.write_text(f"path,start,end,label\na.mp4,0,1,x\n{text}", encoding="utf-8", newline="")
    with suppress(LaraTokenizerError, ValueError):
        assert all(episode.id.startswith("a.mp4") or episode.id for episode in load_episodes(f"list:{file}"))
