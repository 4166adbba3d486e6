"""`lara-tok convert`: both directions, as text and as JSON."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def run():
    from lara_tok.convert import convert

    app = typer.Typer()
    app.command()(convert)

    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_it_converts_there_and_back(run, moto, vision, tmp_path):
    text = run(moto, "--vision-encoder", vision, "--out", tmp_path / "lam")
    assert "(moto) ->" in text
    assert "every name and shape checked" in text
    summary = json.loads(run(tmp_path / "lam", "--to", "moto", "--out", tmp_path / "back", "--json"))
    assert summary["target"] == "moto"
    assert summary["tensors"] == 74
    assert (tmp_path / "back" / "config.yaml").is_file()


def test_an_encoder_makes_no_sense_with_to_moto(run, moto, vision, tmp_path):
    with pytest.raises(ValueError, match="--to moto writes the model's own"):
        run(moto, "--to", "moto", "--vision-encoder", vision, "--out", tmp_path / "back")
