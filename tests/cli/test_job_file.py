"""`lara-tok encode --config`: a file of options is the command line that it was printed from, which wins over it."""

from __future__ import annotations

import pytest
import yaml


def printed(ran):
    assert ran.code == 0, ran.err
    return yaml.safe_load(ran.out)


OPTIONS = ["--stride", "0.5s", "--stride", "2f", "--episodes", "0:50", "--keep-tail", "--fps", "a*=3", "--with", "text"]


def test_a_printed_job_prints_itself_and_the_command_line_wins(lara_tok, tmp_path):
    ran = lara_tok("encode", "one", "two words", "--out", "t.parquet", *OPTIONS, "--print-config")
    assert printed(ran)["stride"] == ["0.5s", "2f"]
    file = tmp_path / "job.yaml"
    file.write_text(ran.out, encoding="utf-8")
    assert lara_tok("encode", "--config", file, "--print-config").out == ran.out
    changed = printed(lara_tok("encode", "three", "--config", file, "--stride", "9f", "--limit", 4, "--print-config"))
    assert changed == {**printed(ran), "source": ["three"], "stride": ["9f"], "limit": 4}


def test_values_are_read_as_they_are_written(lara_tok, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("source: videos\nout: t.parquet\nepisodes: 0:50\nfps: 3\nstreaming: true\nsegment: null\n")
    job = printed(lara_tok("encode", "--config", file, "--print-config"))
    chosen = {"source": ["videos"], "episodes": "0:50", "fps": ["3"], "streaming": True, "segment": None}
    assert {key: job[key] for key in chosen} == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strides: 0.5s", "job.yaml: unknown key 'strides'. Did you mean 'stride'?"),
        ("min-motion: 0.1", "unknown key 'min-motion'. Did you mean 'min_motion'?"),
        ("zzz: 1", "There are: source, out, model, stride"),
        ("out: [a, b]", "out: takes one value, got a list of 2"),
        ("stride: {a: 1}", "stride: takes a text or a list of texts"),
        ("keep_tail: maybe", "keep_tail: takes true or false, got 'maybe'"),
        ("limit: many", "invalid value for '--limit'"),
        ("- a list", "takes one option a line"),
        ("a: [", "not a YAML file"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(lara_tok, tmp_path, text, message):
    file = tmp_path / "job.yaml"
    file.write_text(text, encoding="utf-8")
    ran = lara_tok("encode", "videos", "--out", "t.parquet", "--config", file)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
