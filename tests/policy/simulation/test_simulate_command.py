"""`lara-tok simulate`: refused arguments and the report."""

from __future__ import annotations

import json

import pytest
import typer
from lara_tok.simulate import simulate
from typer.testing import CliRunner

app = typer.Typer()
app.command()(simulate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gazebo"], "unknown simulator 'gazebo': there is metaworld"),
        (["metaworld", "--task", "pour-tea"], "unknown task 'pour-tea'"),
        (["metaworld", "--camera", "front"], "unknown camera 'front'"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(tmp_path, arguments, message):
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "new")])
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("failed", "code"), [([], 0), ([["push-v3", 3, "RuntimeError: boom"]], 1)])
def test_the_result_goes_to_stdout_and_failures_to_the_exit_code(monkeypatch, tmp_path, failed, code):
    import lara_policy.simulation as simulation

    result = {"out": "demos", "episodes": 2, "frames": 9, "tasks": 1, "video_bytes": 10, "successes": 2}
    calls = []
    monkeypatch.setattr(
        simulation, "simulate_metaworld", lambda out, **options: calls.append(options) or result | {"failed": failed}
    )
    run = CliRunner().invoke(app, ["metaworld", "--out", str(tmp_path), "--task", "push-v3", "--seed", "4", "--json"])
    assert run.exit_code == code
    assert json.loads(run.stdout)["failed"] == failed
    assert calls[0]["tasks"] == ["push-v3"]
    assert calls[0]["seed"] == 4
    people = CliRunner().invoke(app, ["metaworld", "--out", str(tmp_path)])
    assert "2 episodes of 1 tasks, 9 frames, 2 successful" in people.stdout
    assert ("boom" in people.stderr) == bool(failed)
