"""The card of lara-lam says what was measured: words chosen by the figures, every goal with its figure."""

from __future__ import annotations

import json
from pathlib import Path

import lara_lam_card as script
import pytest
from lara_lam import claims, goals, page, pictures, training

from lara_tokenizer.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
CONTROLS = ("optical_flow", "normal_flow", "closed_form", "closed_form_codes", "pixel_difference", "shuffled")


def _beside(own: float, best: float, width: float = 0.01) -> tuple[dict, dict]:
    """A figure and its best control as in report.json; both intervals, and that of the difference, are `width` wide."""
    half, difference = width / 2, round(own - best, 6)
    control = {
        "name": "closed_form_codes",
        "value": best,
        "interval": [best - half, best + half],
        "difference": difference,
        "difference_interval": [difference - half, difference + half],
        "is_beaten": difference > width,
    }
    return {"value": own, "interval": [own - half, own + half]}, control


def _report(codes: float = 0.15, control: float = 0.1, z_gain: float = 0.4, probed: bool = True) -> dict:
    """A report whose z has the conditional R2 of its codes, and all controls that of the best one."""
    figure, best = _beside(codes, control)
    if not probed:
        figure, best = {"value": None, "interval": None}, dict.fromkeys(best) | {"is_beaten": False}
    gains = ("z_gain", "z_gain_moving", "gain_over_copying", "gain_over_copying_moving")
    row = {"r2": 0.3, "conditional_r2": control, "interval": [control - 0.01, control + 0.01]}
    margin = {"difference": codes - control, "interval": [codes - control - 0.005, codes - control + 0.005]}
    of_z = {"nuisance_r2": 0.02, "nuisance_interval": [0.0, 0.04]}
    of_z |= {"families": {"shake": 0.02, "light": 0.02}, "family_intervals": {"shake": [0, 1], "light": [0, 1]}}
    return {
        "data": {"episodes": 30, "pairs": 960, "target": {"sentence": "change of the state in all 26 numbers"}},
        "headline": {
            **dict.fromkeys(("conditional_r2", "conditional_r2_codes", "conditional_r2_nuisance"), figure),
            **dict.fromkeys(("best_control", "best_control_codes", "best_control_nuisance"), best),
            **{name: {"value": z_gain, "interval": [z_gain - 0.01, z_gain + 0.01]} for name in gains},
            **{name: {"value": 0.02, "interval": [0.0, 0.04]} for name in ("nuisance_r2", "selectivity")},
            **{name: {"value": 90.0, "interval": None} for name in ("perplexity", "perplexity_per_position")},
            **{name: {"value": 1, "interval": None} for name in ("dead_codes", "dead_positions", "spread")},
            "effective_rank": {"value": 40.0, "interval": None},
        },
        "probe": {
            "pairs": 960,
            "test_episodes": 30,
            "frame_r2": 0.1,
            "rows": dict.fromkeys(("z", *CONTROLS), row) if probed else {},
            "margins": dict.fromkeys(CONTROLS, margin) if probed else {},
        },
        "nuisance": {"pairs": 960, "test_episodes": 30, "rows": {"z": of_z}},
        "alarms": [],
        "verdict": {"grade": "no evidence yet", "reason": "it is one of two", "next_step": "probe more"},
    }


def _card(**reports: dict) -> dict:
    reports = {"real_video": _report(probed=False), **reports}
    simulation = {"simulator": "metaworld", "tasks": ["push-v3"], "cameras": ["corner"], "size": 96, "seed": 7}
    data = {
        "folder": "mw",
        "total_episodes": 70,
        "total_frames": 7000,
        "simulation": simulation | {"action_noise": 0.3},
    }
    pool = {"repository": "someone/clips", "commit": "abc", "licence": "MIT", "robots": ["arm"], "clips": 3}
    sizes = {"weights_bytes": 7_500_000, "parameters": 1.9e6, "image_size": 128, "positions": 8, "codebook_size": 128}
    return {
        "command": "python benchmarks/lara_lam_card.py runs/lam",
        "model": {"weights_sha256": {"model.safetensors": "abc123"}, "codebook_dim": 32, "strides": ["0.5s"], **sizes},
        "versions": {"torch": "2.9"},
        "training": {
            "steps": 3000,
            "batch_size": 64,
            "strides": ["0.5s"],
            "sources": ["train_others", "mw"],
            "real": [pool | {"minutes": 9.0, "minutes_of_hands": 1.0}],
            "simulated": [data],
        },
        "sets": {name: {"sources": ["x"], "simulated": [data], "report": each} for name, each in reports.items()},
        "goals": goals.judge(reports),
        "pictures": [{"repository": "someone/clips", "licence": "MIT"}],
    }


@pytest.mark.parametrize(
    ("codes", "control", "grade", "words"),
    [
        (0.15, 0.10, claims.MORE, "its codes tell more than any control"),
        (0.15, 0.149, claims.AS_MUCH, "about as much as the best control on g1_real"),
        (0.10, 0.15, claims.LESS, "less than the best control on g1_real"),
        (0.001, 0.15, claims.NOTHING, "nothing certain on g1_real (30 episodes)"),
    ],
)
def test_words_follow_from_the_figure_and_the_best_control(codes, control, grade, words):
    report = _report(codes, control)
    assert claims.grade(report, claims.CODES) == grade
    text = page.page(_card(g1_real=report))
    assert words in text
    assert (": evidence: " in text) == (grade == claims.MORE)


def test_robots_of_different_grades_are_named_apart_and_trained_ones_left_out():
    unseen = {"g1_real": _report(0.2, 0.1), "bridge_rlds": _report(0.1, 0.1)}
    text = claims.summary(unseen | {"mw_unseen": _report(0.0, 0.1)})
    assert "tell more than any control on g1_real and about as much as the best control on bridge_rlds. " in text
    assert text.endswith("g1_real 0.200, closed-form codes 0.100; bridge_rlds 0.100, closed-form codes 0.100.")


def test_a_goal_by_the_interval_is_missed_where_only_the_value_is_above():
    reports = {"g1_real": _report(0.102, 0.1), "gr1_sim": _report(0.102, 0.1)}
    found = {(each["figure"], each["set"]): each["passed"] for each in goals.judge(reports)}
    assert not found["z minus normal flow", "g1_real"]
    assert found["z minus normal flow", "gr1_sim"]


def test_a_miss_is_named_in_the_table_and_in_a_sentence():
    card = _card(g1_real=_report(0.139, 0.1))
    text = page.page(card)
    assert "| conditional R2 of codes | g1_real | at least 0.14 | 0.139 (0.134 to 0.144) | MISSED |" in text
    assert "goals missed: conditional R2 of codes on g1_real; conditional R2 of z on g1_real." in text
    assert page.page(_card(g1_real=_report(0.2, 0.1))).count("MISSED") == 0


def test_the_page_names_weights_data_and_the_commands_that_made_it():
    text = page.page(_card(g1_real=_report()))
    assert text.startswith("---\nlicense: apache-2.0\nlibrary_name: lara-tokenizer\n")
    assert "sha256 `abc123`" in text
    assert "| [someone/clips](https://github.com/someone/clips/tree/abc) | MIT | arm | 3 | 9.0 |" in text
    assert "1.0 minutes of bare hands" in text
    assert "simulate metaworld --out runs/mw --task push-v3 --episodes 70 --size 96 --seed 7 --action-noise 0.3" in text
    assert "- g1_real: change of the state in all 26 numbers." in text
    assert "| g1_real (real Unitree G1 humanoid) | no evidence yet | it is one of two |" in text


def test_a_document_gets_the_figures_of_its_marks_and_keeps_the_rest():
    card = _card(g1_real=_report())
    text = "before\n<!-- card:summary -->\nold\n<!-- /card -->\nafter"
    written = page.updated(text, card)
    assert written == f"before\n<!-- card:summary -->\n{page.summary(card)}\n<!-- /card -->\nafter"
    assert page.updated(written, card) == written


def test_the_pool_has_minutes_and_licence_of_every_repository(tmp_path):
    (tmp_path / "real").mkdir()
    manifest = ["clip,repo,commit,licence,robot,kind", "a/1.mp4,x/a,c1,MIT,arm,robot", "b/2.mp4,x/b,c2,CC,hand,hand"]
    (tmp_path / "real" / "MANIFEST.csv").write_text("\n".join(manifest))
    rows = ["path,start,end", "real/a/1.mp4,0,30", "real/a/1.mp4,30,60", "real/b/2.mp4,0,90"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    b, a = training.pool([tmp_path / "list.csv"])
    assert (a["repository"], a["licence"], a["clips"], a["minutes"], a["minutes_of_hands"]) == (
        "x/a",
        "MIT",
        1,
        1.0,
        0.0,
    )
    assert (b["repository"], b["licence"], b["clips"], b["minutes"], b["minutes_of_hands"]) == (
        "x/b",
        "CC",
        1,
        1.5,
        1.5,
    )


def test_a_clip_of_no_manifest_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("path,start,end\na.mp4,0,30\n")
    with pytest.raises(ValueError, match=r"a\.mp4: no MANIFEST\.csv above it"):
        training.pool([tmp_path / "list.csv"])


def test_a_run_is_described_by_the_sources_of_its_log_alone(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "MANIFEST.csv").write_text("clip,repo,commit,licence,robot,kind\n1.mp4,x/a,c1,MIT,arm,robot")
    (tmp_path / "clips.csv").write_text("path,start,end\nreal/1.mp4,0,60\n")
    recipe = {"training": {"steps": 5, "batch_size": 2}, "model": {"strides": ["0.5s"]}, "sources": ["elsewhere"]}
    log = {"recipe": recipe, "summary": {"datasets": {"clips.csv": {}}}}
    (tmp_path / "training_log.json").write_text(json.dumps(log))
    found = training.describe_run(tmp_path, [f"list:{tmp_path}/clips.csv"])
    assert (found["sources"], found["real"][0]["minutes"], found["simulated"]) == (["clips"], 1.0, [])
    with pytest.raises(ValueError, match=r"trained on clips\.csv, not on mw-train"):
        training.describe_run(tmp_path, ["runs/mw-train"])
    with pytest.raises(ValueError, match=r"gone/clips\.csv is not there"):
        training.describe_run(tmp_path, ["list:gone/clips.csv"])


def test_a_set_is_measured_once_for_the_same_weights_and_sources(tmp_path, monkeypatch):
    measured = []

    class Evaluation:
        report = {"headline": {}}  # noqa: RUF012
        figures = type("Figures", (), {"controls": type("Controls", (), {"left_out": {}})})

    def evaluate(model, processor, sources, pairs_per_episode):
        measured.append(sources)
        return Evaluation

    monkeypatch.setattr(script, "evaluate_checkpoint", evaluate)
    monkeypatch.setattr(script, "read_processor", lambda folder: None)
    for weights, sources in (("a" * 64, ["one"]), ("a" * 64, ["one"]), ("b" * 64, ["one"]), ("a" * 64, ["two"])):
        opened = type("Opened", (), {"weights_sha256": {"model.safetensors": weights}, "folder": tmp_path})
        assert script.measured_report(opened, None, "g1_real", sources, tmp_path) == {"headline": {}}
    assert measured == [["one"], ["one"], ["two"]]


def test_a_source_is_the_same_by_any_path(tmp_path, monkeypatch):
    (tmp_path / "clips.csv").write_text("path\n")
    monkeypatch.chdir(tmp_path)
    assert script.resolved("list:clips.csv") == script.resolved(f"list:{tmp_path}/clips.csv") != "list:clips.csv"
    assert script.resolved("lerobot:someone/set") == "lerobot:someone/set"


def test_a_card_without_a_control_is_refused(tmp_path, monkeypatch):
    controls = type("Controls", (), {"left_out": {"optical_flow": "optical flow needs OpenCV"}})
    evaluation = type("Evaluation", (), {"figures": type("Figures", (), {"controls": controls}), "report": {}})
    monkeypatch.setattr(script, "evaluate_checkpoint", lambda *_, **__: evaluation)
    monkeypatch.setattr(script, "read_processor", lambda folder: None)
    opened = type("Opened", (), {"weights_sha256": {"model.safetensors": "a" * 64}, "folder": tmp_path})
    with pytest.raises(ValueError, match=r"g1_real: the card needs every control\. optical flow needs OpenCV"):
        script.measured_report(opened, None, "g1_real", ["one"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_task_set_is_named_by_its_name():
    from lara_policy.simulation.metaworld.tasks import TASK_SETS

    simulation = {"simulator": "metaworld", "size": 96, "seed": 1, "action_noise": 0.0}
    data = {"folder": "x", "total_episodes": 80, "simulation": simulation | {"tasks": list(TASK_SETS["unseen"])}}
    assert "--task unseen --episodes 40 " in training.simulate_command(data)


def test_the_published_pages_are_made_from_the_card_and_speak_of_the_bundled_weights():
    folder = ROOT / "hub_configs" / "lara-lam"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["model"]["weights_sha256"] == Checkpoint.open(folder).weights_sha256
    assert card["goals"] == goals.judge(page.reports(card))
    assert (folder / "README.md").read_text(encoding="utf-8") == page.page(card)
    for document in ("README.md", "docs/evaluation.md", "docs/lara-lam.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert "<!-- card:" in text
        assert page.updated(text, card) == text, f"{document} has other figures than card.json"
    for name in (pictures.FUTURES, pictures.CODES_SHEET):
        assert (ROOT / "docs" / "images" / name).stat().st_size < 400_000
