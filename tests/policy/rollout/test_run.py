"""Roll-outs in worker processes: determinism, resuming, errors, the command."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import typer
from lara_policy import rollout as rollout_module
from lara_policy.rollout import rollout
from lara_policy.rollout.run import RESULT_FILE, ResultLog, policy_sha256
from lara_policy.simulation.rendering import choose_gl_backend
from lara_tok.rollout import rollout as command
from rollout_fakes import load_and_die, load_random, load_wide, write_policy
from typer.testing import CliRunner

NAMES = ["metaworld:reach-v3", "metaworld:push-v3"]


@pytest.fixture(scope="module")
def metaworld() -> None:
    if find_spec("metaworld") is None:
        pytest.skip("metaworld is not installed: it comes with the extra 'sim'")
    try:
        choose_gl_backend()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def policy(tmp_path):
    return write_policy(tmp_path / "policy")


@pytest.fixture
def options(tmp_path):
    return {"environments": NAMES, "episodes": 2, "max_steps": 9, "seed": 3, "load": load_random}


def test_equal_runs_give_equal_bytes_and_a_stopped_one_goes_on(metaworld, policy, options, tmp_path):
    seen: list[tuple[int, int]] = []
    first = rollout(policy, workers=2, out=tmp_path / "one", progress=lambda *counts: seen.append(counts), **options)
    assert seen == [(done, 4) for done in range(5)]
    assert [each["environment"] for each in first["environments"]] == NAMES
    assert [result["episode"] for result in first["environments"][1]["episodes"]] == [0, 1]
    assert first["all"]["success"]["trials"] == 4
    assert first["policy"] == "policy"

    # Another run with one worker was killed after three episodes, while it noted the third; and this one draws.
    noted = (tmp_path / "one" / RESULT_FILE).read_text().split("\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / RESULT_FILE).write_text("\n".join([noted[0], noted[4], noted[2], noted[1][:40]]))
    videos = {"videos": tmp_path / "videos", "video_episodes": 1}
    second = rollout(policy, workers=1, out=tmp_path / "two", **videos, **options)
    assert json.dumps(second) == json.dumps(first)
    assert (tmp_path / "two" / RESULT_FILE).read_bytes() == (tmp_path / "one" / RESULT_FILE).read_bytes()
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == [
        "metaworld-push-v3-000.mp4",
        "metaworld-reach-v3-000.mp4",
    ]
    again = rollout(policy, workers=1, out=tmp_path / "one", **options)  # nothing to do
    assert json.dumps(again) == json.dumps(first)


def test_a_policy_for_another_robot_stops_the_run_with_its_reason(metaworld, policy, options):
    with pytest.raises(ValueError, match=r"metaworld:reach-v3, episode 0, step 1: .*shape \(16, 7\)"):
        rollout(policy, workers=1, **(options | {"load": load_wide, "environments": NAMES[:1], "episodes": 1}))


def test_a_killed_process_is_an_error_that_says_what_to_do(metaworld, policy, options):
    with pytest.raises(OSError, match=r"process was killed .*: run the same command again"):
        rollout(policy, workers=1, **(options | {"load": load_and_die}))


def test_another_jobs_folder_is_refused(tmp_path):
    job = {"environments": NAMES, "seed": 0}
    ResultLog(tmp_path, job)
    with pytest.raises(ValueError, match=r"holds roll-outs of another job \(seed was 0, is 1\)"):
        ResultLog(tmp_path, job | {"seed": 1})


def test_a_policy_is_known_by_its_weights(policy, tmp_path):
    known = policy_sha256(policy)
    (policy / "notes.txt").write_text("no part of it")
    assert policy_sha256(policy) == known
    (policy / "model.safetensors").write_bytes(b"other weights")
    assert policy_sha256(policy) != known
    with pytest.raises(OSError, match="no folder with a policy's weights"):
        policy_sha256(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "at least 1 of each"),
        ({"max_steps": 0}, "max steps 0: takes at least 1"),
        ({"max_steps": 501}, "Meta-World allows at most 500"),
        ({"seed": -1}, "seed -1: takes 0"),
        ({"video_episodes": 0}, "video episodes 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(policy, options, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        rollout(policy, out=tmp_path / "out", **(options | changes))
    assert not (tmp_path / "out").exists()


def _result(broken: list) -> dict:
    success = {"successes": 31, "trials": 50, "rate": 0.62, "interval": [0.48, 0.74], "text": "31 of 50, 62 %"}
    stage = {"reached": success | {"text": "40 of 50"}, "success_given_reached": success | {"text": "31 of 40"}}
    figures = {"success": success, "stages": {"near_object": stage}, "mean_success_step": 61.4}
    environments = [{"environment": name, **figures, "episodes": []} for name in NAMES]
    return {"policy": "policy", "seed": 0, "environments": environments, "all": figures, "broken": broken}


@pytest.mark.parametrize(("broken", "code"), [([], 0), ([["metaworld:push-v3", 3, "step 6: boom"]], 1)])
def test_the_command_prints_counts_and_lists_broken_episodes(monkeypatch, broken, code):
    app, calls = typer.Typer(), []
    app.command()(command)
    monkeypatch.setattr(rollout_module, "rollout", lambda policy, **given: calls.append(given) or _result(broken))
    arguments = ["policy", "--env", NAMES[0], "--env", NAMES[1], "--episodes", "5"]
    people = CliRunner().invoke(app, arguments, env={"COLUMNS": "100"})
    assert people.exit_code == code
    assert all(text in people.stdout for text in ("31 of 50, 62 %", "reached near_object", "31 of 40", "all"))
    assert ("boom" in people.stderr) == bool(broken)
    assert calls[0]["environments"] == NAMES
    assert calls[0]["episodes"] == 5
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout) == _result(broken)


def test_codes_without_videos_are_refused():
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["policy", "--env", NAMES[0], "--tokenizer", "lara-lam"])
    assert "--videos DIR" in str(result.exception)
