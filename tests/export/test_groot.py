"""`lapa_action`: z in the size and range that GR00T's loader asks for, and no step without a pair is drawn."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export import export_groot, job
from lara_tokenizer.export.lerobot.folder import LeRobotFolder
from lara_tokenizer.table import read_tokens

TOP = "observation.images.top"
LENGTHS = (13, 9, 17)
N, D = 4, 3


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_lerobot):
    """Three episodes, v2.1, with modality.json, and instructions in the rows too."""
    images = np.random.default_rng(0).integers(0, 256, (sum(LENGTHS), 48, 64, 3), np.uint8)
    frames = np.split(images, np.cumsum(LENGTHS)[:-1])
    folder = tmp_path_factory.mktemp("lerobot") / "demos"
    root = write_lerobot(folder, {TOP: frames}, version="v2.1", tasks=["push it", "pull it", "push it"])
    (root / "meta/modality.json").write_text("{}")
    for index, file in enumerate(sorted(root.glob("data/*/*.parquet"))):
        texts = pa.array([f"say {index}"] * LENGTHS[index])
        pq.write_table(pq.read_table(file).append_column("annotation.language", texts), file)
    return root


@pytest.fixture
def table(tmp_path, write_tokens):
    """Labels of episodes 0 and 2; stride 5 frames."""
    return write_tokens(
        tmp_path / "tokens.parquet",
        {"episode_000000": 13, "episode_000002": 17},
        cameras=(TOP,),
        indices={"episode_000000": 0, "episode_000002": 2},
    )


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _rows(out, name):
    return [np.array(pq.read_table(file)[name].to_pylist()) for file in sorted(out.glob("data/*/*.parquet"))]


def test_z_is_scaled_and_padded_and_zero_without_a_pair(plain, table, tmp_path):
    summary = export_groot(table, plain, tmp_path / "out", action_horizon=2, max_action_dim=8)
    source = read_tokens(table)
    valid = np.array(source["valid"].to_pylist())
    latents = np.array(source["latents"].to_pylist())
    scale = summary.settings["scale"]
    assert scale == np.abs(latents[valid]).max()
    rows = np.concatenate([column for e, column in enumerate(_rows(tmp_path / "out", "lapa_action")) if e != 1])
    assert rows.shape == (30, 16)
    assert np.abs(rows).max() == 1
    np.testing.assert_allclose(rows[valid][:, : N * D] * scale, latents[valid], rtol=1e-6)
    assert not rows[~valid].any()
    assert not rows[:, N * D :].any()
    features = json.loads((tmp_path / "out/meta/info.json").read_text())["features"]
    assert features["lapa_action"] == {"dtype": "float32", "shape": [16], "names": None}
    assert list(features)[-1] == "lapa_action"


def test_the_default_size_is_that_of_groot_n1(plain, table, tmp_path):
    export_groot(table, plain, tmp_path / "out")
    assert _rows(tmp_path / "out", "lapa_action")[0].shape == (13, 512)


def test_every_instruction_is_tagged_and_the_source_stays_as_it_was(plain, table, tmp_path):
    before = {file: file.read_bytes() for file in plain.rglob("*") if file.is_file()}
    out = tmp_path / "out"
    export_groot(table, plain, out)
    assert [task["task"] for task in _lines(out / "meta/tasks.jsonl")] == ["<LAPA>push it", "<LAPA>pull it"]
    assert [entry["tasks"] for entry in _lines(out / "meta/episodes.jsonl")][1] == ["<LAPA>pull it"]
    assert _rows(out, "annotation.language")[1].tolist() == ["<LAPA>say 1"] * 9
    assert (out / "meta/modality.json").read_text() == "{}"
    assert [episode.text for episode in load_episodes(out)][2] == "<LAPA>push it"
    assert all((out / f.relative_to(plain)).samefile(f) for f in plain.rglob("*.mp4"))
    assert {file: file.read_bytes() for file in before} == before


def test_steps_and_episodes_without_a_pair_are_named(plain, table, tmp_path):
    dataset = shutil.copytree(plain, tmp_path / "demos")
    (dataset / "meta/step_filter.jsonl").write_text(json.dumps({"episode_index": 0, "step_indices": [0, 1]}) + "\n")
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps(info | {"discarded_episode_indices": [7]}))
    export_groot(table, dataset, tmp_path / "out")
    found = {e["episode_index"]: e["step_indices"] for e in _lines(tmp_path / "out/meta/step_filter.jsonl")}
    assert found == {0: [0, 1, 8, 9, 10, 11, 12], 1: list(range(9)), 2: list(range(12, 17))}
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["discarded_episode_indices"] == [1, 7]


def test_pairs_left_out_in_the_middle_are_not_drawn_either(plain, table, tmp_path):
    summary = export_groot(table, plain, tmp_path / "out", min_motion=0.4)
    removed = sum(len(entry["step_indices"]) for entry in _lines(tmp_path / "out/meta/step_filter.jsonl"))
    assert 0 < summary.pairs < 20
    assert removed + summary.pairs == sum(LENGTHS)


def test_equal_exports_give_equal_bytes_however_often_they_are_killed(plain, table, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    export_groot(table, plain, tmp_path / "one")
    for owner, name in ((LeRobotFolder, "link_or_copy"), (LeRobotFolder, "write_info"), (job, "write_manifest")):
        monkeypatch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            export_groot(table, plain, tmp_path / "two")
        monkeypatch.undo()
    export_groot(table, plain, tmp_path / "two")
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file()]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_an_edit_between_a_kill_and_the_next_run_is_seen(plain, table, tmp_path, monkeypatch):
    dataset = shutil.copytree(plain, tmp_path / "demos")
    monkeypatch.setattr(LeRobotFolder, "write_info", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_groot(table, dataset, tmp_path / "out")
    monkeypatch.undo()
    (dataset / "meta/tasks.jsonl").write_bytes((dataset / "meta/tasks.jsonl").read_bytes())  # of the same size
    with pytest.raises(JobMismatchError, match="dataset_times_sha256"):
        export_groot(table, dataset, tmp_path / "out")


def test_one_scale_for_several_datasets(plain, table, tmp_path):
    own = export_groot(table, plain, tmp_path / "one").settings["scale"]
    export_groot(table, plain, tmp_path / "two", scale=2 * own)
    one, two = (_rows(tmp_path / name, "lapa_action")[0] for name in ("one", "two"))
    np.testing.assert_allclose(one, 2 * two)
    with pytest.raises(ValueError, match=r"latents reach .* must be within -1 to 1"):
        export_groot(table, plain, tmp_path / "three", scale=own / 2)


def test_invalid_input_is_refused_before_anything_is_written(plain, table, tmp_path, write_tokens, write_lerobot):
    images = np.zeros((13, 48, 64, 3), np.uint8)
    newer = write_lerobot(tmp_path / "v3", {TOP: [images]}, version="v3.0")
    codes = write_tokens(tmp_path / "codes.parquet", {"episode_000000": 13}, cameras=(TOP,), columns=())
    none, far, broken = tmp_path / "none.parquet", tmp_path / "far", tmp_path / "broken"
    pq.write_table(pq.read_table(table).slice(0, 0), none)
    for folder, steps in ((far, [12, 13]), (broken, "all")):
        shutil.copytree(plain, folder)
        (folder / "meta/step_filter.jsonl").write_text(json.dumps({"episode_index": 0, "step_indices": steps}))
    done = tmp_path / "done"
    export_groot(table, plain, done)
    for arguments, options, message in (
        ((codes, plain), {}, r"no column 'latents', needed for lapa_action.*--with latents"),
        ((table, plain), {"action_horizon": 2, "max_action_dim": 5}, r"4 x 3 = 12 numbers, .* 2 x 5 = 10"),
        ((table, plain), {"action_horizon": 0}, "take at least 1"),
        ((table, newer), {}, "v3.0; GR00T's loader reads one episode per file"),
        ((none, plain), {}, r"has no rows: there is nothing to export"),
        ((table, far), {}, "names steps 12 to 13 of episode 0, which has 13"),
        ((table, broken), {}, "step_filter.jsonl of broken cannot be read"),
        ((table, done), {}, "it has lapa_action already"),
        ((table, tmp_path), {}, "no folder of a LeRobotDataset"),
    ):
        with pytest.raises(ValueError, match=message):
            export_groot(*arguments, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="exists already"):
        export_groot(table, plain, done, max_action_dim=64)
    assert "complete already" in export_groot(table, plain, done).notes[-1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_the_command_prints_the_settings_of_the_trainer(plain, table, tmp_path):
    from lara_tok.export import app
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, ["groot", str(table), str(plain), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.exception
    settings = json.loads(done.stdout)["settings"]
    assert settings["modality_configs"] == {"lapa_action": {"delta_indices": [0], "modality_keys": ["lapa_action"]}}
    assert (settings["action_horizon"], settings["max_action_dim"]) == (16, 32)
