"""LeRobotDatasets with labels: every row says what the table says, the rest is as it was, and no kill breaks a set."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.lerobot.writer import QUANTILES
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export import export_lerobot, job, undo_lerobot
from lara_tokenizer.export.lerobot import export as lerobot
from lara_tokenizer.export.lerobot import in_place as in_place_module
from lara_tokenizer.export.lerobot.columns import IDS, LATENTS, VALID, VECTORS, Labels, episode_id
from lara_tokenizer.export.lerobot.folder import LeRobotFolder
from lara_tokenizer.export.lerobot.in_place import InPlaceSwap
from lara_tokenizer.export.lerobot.metadata import column_statistics, counted_statistics
from lara_tokenizer.table import read_tokens
from lara_tokenizer.table.metadata import METADATA_KEY
from lara_tokenizer.table.reader import TokenTable

TOP = "observation.images.top"
LENGTHS = (13, 9, 17)
N, D, K = 4, 3, 16
VERSIONS = ("v3.0", "v2.1")
# One episode is not in the table at all, and the stride is 5 frames.
LABELLED = {0: 13, 2: 17}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_lerobot):
    """The three episodes in each version, with statistics and a small file of somebody's."""
    folder = tmp_path_factory.mktemp("lerobot")
    images = np.random.default_rng(0).integers(0, 256, (sum(LENGTHS), 48, 64, 3), np.uint8)
    frames = np.split(images, np.cumsum(LENGTHS)[:-1])
    found = {}
    for version in VERSIONS:
        root = write_lerobot(folder / version, {TOP: frames}, version=version, tasks=["push", "pull", "push"])
        (root / "README.md").write_text("mine")
        if version == "v3.0":
            (root / "meta/stats.json").write_text(json.dumps({"action": {"mean": [0.0]}}))
            episodes = root / "meta/episodes/chunk-000/file-000.parquet"
            table = pq.read_table(episodes)
            counts = pa.array([[n] for n in LENGTHS], pa.list_(pa.int64()))
            pq.write_table(table.append_column("stats/action/count", counts), episodes)
        else:
            lines = [{"episode_index": e, "stats": {"action": {"count": [n]}}} for e, n in enumerate(LENGTHS)]
            (root / "meta/episodes_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found[version] = root
    return found


@pytest.fixture(params=VERSIONS)
def dataset(request, plain, tmp_path):
    """A copy of the dataset, in one version after the other."""
    return shutil.copytree(plain[request.param], tmp_path / "demos")


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a codebook of K codes in the layout of safetensors."""
    codebook = np.random.default_rng(7).standard_normal((K, D)).astype("<f4")
    entry = {"dtype": "F32", "shape": [K, D], "data_offsets": [0, codebook.nbytes]}
    header = json.dumps({"bottleneck.codebook.weight": entry}).encode()
    folder = tmp_path / "lam"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + codebook.tobytes())
    return folder, codebook


@pytest.fixture
def table(tmp_path, write_tokens, checkpoint):
    """Labels of episodes 0 and 2, whose metadata names `checkpoint`."""
    return _table(tmp_path / "tokens.parquet", write_tokens, checkpoint[0])


def _table(path, write_tokens, checkpoint, sizes=(N, D, K), **options):
    episodes = {f"episode_{index:06d}": length for index, length in LABELLED.items()}
    indices = {f"episode_{index:06d}": index for index in LABELLED}
    write_tokens(path, episodes, cameras=(TOP,), sizes=sizes, indices=indices, **options)
    written = pq.read_table(path)
    metadata = json.loads(written.schema.metadata[METADATA_KEY])
    weights = checkpoint / "model.safetensors"
    metadata["model"]["weights_sha256"] = {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    pq.write_table(written.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)}), path, row_group_size=10)
    return path


def _rows(dataset: Path) -> dict[str, np.ndarray]:
    """All rows of a dataset, in order."""
    table = pa.concat_tables([pq.read_table(file) for file in sorted(dataset.glob("data/*/*.parquet"))])
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def _tree(dataset: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file."""
    files = sorted(file for file in dataset.rglob("*") if file.is_file())
    return {
        file.relative_to(dataset).as_posix(): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in files
    }


def _hashes(dataset: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in _tree(dataset).items()}


def test_every_row_has_the_values_of_the_table(dataset, table, checkpoint, tmp_path):
    folder, codebook = checkpoint
    before = _tree(dataset)
    summary = export_lerobot(table, dataset, tmp_path / "out", model=folder)
    rows, source = _rows(tmp_path / "out"), read_tokens(table)
    found = {key: row for row, key in enumerate(zip(rows["episode_index"], rows["frame_index"], strict=True))}
    valid = np.array(source["valid"].to_pylist())
    labelled = np.array(
        [
            found[e, f]
            for e, f in zip(source["episode_index"].to_pylist(), source["frame_index"].to_pylist(), strict=True)
        ]
    )
    codes, latents = (np.array(source[name].to_pylist()) for name in ("codes", "latents"))
    expected = {
        VALID: np.zeros(39, int),
        IDS: np.full((39, N), -1),
        VECTORS: np.zeros((39, N, D), np.float32),
        LATENTS: np.zeros((39, N, D), np.float32),
    }
    expected[VALID][labelled] = valid
    expected[IDS][labelled[valid]] = codes[valid]
    expected[VECTORS][labelled[valid]] = codebook[codes[valid]]
    expected[LATENTS][labelled[valid]] = latents[valid].reshape(-1, N, D)
    for name, values in expected.items():
        np.testing.assert_array_equal(rows[name], values.astype(rows[name].dtype))
    assert summary.pairs == valid.sum() == 20
    old = _rows(dataset)
    assert list(rows) == [*old, IDS, VECTORS, LATENTS, VALID]
    assert all(np.array_equal(rows[name], values) for name, values in old.items())
    assert _tree(dataset) == before


def test_the_labelled_dataset_is_a_dataset_and_videos_are_not_copied(dataset, table, checkpoint, tmp_path):
    out = tmp_path / "out"
    export_lerobot(table, dataset, out, model=checkpoint[0])
    for episode, old in zip(load_episodes(out), load_episodes(dataset), strict=True):
        assert np.array_equal(episode.frames(TOP, range(9)), old.frames(TOP, range(9)))
        assert np.array_equal(episode.signals().actions, old.signals().actions)
    videos = [file.relative_to(dataset) for file in dataset.rglob("*.mp4")]
    assert videos
    assert all((out / name).samefile(dataset / name) for name in videos)
    for name in ("meta/info.json", "README.md"):  # people edit these in place
        assert not (out / name).samefile(dataset / name)
    info = json.loads((out / "meta/info.json").read_text())
    before = json.loads((dataset / "meta/info.json").read_text())
    assert list(info["features"]) == [*before["features"], IDS, VECTORS, LATENTS, VALID]
    assert info["features"][VECTORS] == {"dtype": "float32", "shape": [N, D], "names": None}
    assert info["features"][VALID] == {"dtype": "int64", "shape": [1], "names": None}
    manifest = json.loads((out / "label_manifest.json").read_text())
    assert manifest["pairs"] == 20
    assert manifest["files"]["meta/info.json"] == hashlib.sha256((out / "meta/info.json").read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(manifest)


def test_statistics_cover_all_rows_and_are_where_the_version_has_them(dataset, table, checkpoint, tmp_path):
    out = tmp_path / "out"
    export_lerobot(table, dataset, out, model=checkpoint[0])
    rows = _rows(out)
    for name in (IDS, VECTORS, LATENTS, VALID):
        for episode in range(3):
            values = rows[name][rows["episode_index"] == episode]
            pooled = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
            if (out / "meta/episodes_stats.jsonl").exists():
                lines = (out / "meta/episodes_stats.jsonl").read_text().splitlines()
                found = json.loads(lines[episode])["stats"]
                assert found["action"] == {"count": [LENGTHS[episode]]}
                found = found[name]
            else:
                kept = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[episode]
                assert kept["stats/action/count"] == [LENGTHS[episode]]
                found = {each: kept[f"stats/{name}/{each}"] for each in ("min", "max", "mean", "std", "count", "q10")}
                np.testing.assert_allclose(found["q10"], np.quantile(pooled, 0.1, axis=0), atol=1e-6)
            assert found["count"] == [LENGTHS[episode]]
            np.testing.assert_allclose(found["mean"], pooled.mean(0, np.float64), atol=1e-9)
            np.testing.assert_allclose(found["std"], pooled.astype(float).std(0), atol=1e-9)
            assert found["min"] == pooled.min(0).tolist()
            assert found["max"] == pooled.max(0).tolist()
        if (out / "meta/stats.json").exists():
            stats = json.loads((out / "meta/stats.json").read_text())
            assert stats["action"] == {"mean": [0.0]}
            pooled = rows[name].reshape(-1, rows[name].shape[-1] if rows[name].ndim > 1 else 1).astype(float)
            np.testing.assert_allclose(stats[name]["mean"], pooled.mean(0), atol=1e-9)
            np.testing.assert_allclose(stats[name]["std"], pooled.std(0), atol=1e-9)
            assert stats[name]["count"] == [39]


def test_quantiles_are_numpys_also_where_vectors_are_counted():
    rng = np.random.default_rng(0)
    vectors, codes = rng.standard_normal((5, 3)).astype(np.float32), rng.integers(0, 5, (31, 2))
    one = column_statistics(vectors[codes])
    other = counted_statistics(vectors, np.bincount(codes.reshape(-1), minlength=5), 31)
    for name, share in QUANTILES.items():
        exact = np.quantile(vectors[codes].reshape(-1, 3).astype(float), share, axis=0)
        np.testing.assert_allclose(one[name], exact)
    assert all(values.base is None for values in one.values())  # no view that keeps an episode's numbers alive
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, atol=1e-12)


def test_metadata_for_datasets_names_the_new_columns(dataset, table, checkpoint, tmp_path):
    file = sorted(dataset.glob("data/*/*.parquet"))[0]
    old = pq.read_table(file)
    features = {"action": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(old.replace_schema_metadata(metadata), file)
    export_lerobot(table, dataset, tmp_path / "out", model=checkpoint[0])
    metadata = pq.read_schema(tmp_path / "out" / file.relative_to(dataset)).metadata[b"huggingface"]
    known = json.loads(metadata)["info"]["features"]
    assert known["action"] == features["action"]
    assert known[IDS] == {"feature": {"dtype": "int64", "_type": "Value"}, "length": N, "_type": "List"}
    assert known[VECTORS] == {"shape": [N, D], "dtype": "float32", "_type": "Array2D"}


def test_a_continuous_model_gives_latents_alone_and_thresholds_make_rows_invalid(
    plain, tmp_path, write_tokens, checkpoint
):
    table = _table(tmp_path / "c.parquet", write_tokens, checkpoint[0], sizes=(N, D, None))
    summary = export_lerobot(table, plain["v3.0"], tmp_path / "out", min_motion=0.5)
    rows = _rows(tmp_path / "out")
    assert [name for name in rows if name.startswith("latent_labels.")] == [LATENTS, VALID]
    assert rows[VALID].sum() == summary.pairs < 20
    assert not rows[LATENTS][rows[VALID] == 0].any()
    assert sum(summary.left_out.values()) + summary.pairs == summary.rows == 30


def test_rows_without_a_frame_index_are_taken_in_order(plain, table, checkpoint, tmp_path):
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    for file in dataset.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["frame_index", "episode_index"]), file)
    export_lerobot(table, dataset, tmp_path / "out", model=checkpoint[0])
    export_lerobot(table, plain["v2.1"], tmp_path / "other", model=checkpoint[0])
    assert np.array_equal(_rows(tmp_path / "out")[IDS], _rows(tmp_path / "other")[IDS])


def test_data_files_in_any_order_get_their_own_labels(plain, table, checkpoint, tmp_path):
    """Episodes 2, 0, 1 in one file, in row groups that end inside of episodes."""
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    file = dataset / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(file)
    pq.write_table(pa.concat_tables([rows.slice(22), rows.slice(0, 22)]), file, row_group_size=5)
    export_lerobot(table, dataset, tmp_path / "out", model=checkpoint[0])
    export_lerobot(table, plain["v3.0"], tmp_path / "other", model=checkpoint[0])
    one, other = _rows(tmp_path / "out"), _rows(tmp_path / "other")
    assert one["episode_index"].tolist() == [2] * 17 + [0] * 13 + [1] * 9
    for name in (IDS, LATENTS):
        assert np.array_equal(np.concatenate([one[name][17:], one[name][:17]]), other[name])


def test_episodes_that_the_table_lacks_do_not_read_it_again(tmp_path, write_tokens, monkeypatch):
    table = write_tokens(tmp_path / "t.parquet", {episode_id(e): 8 for e in (0, 1, 6, 7)})
    read, real = [], TokenTable.sequences
    monkeypatch.setattr(TokenTable, "sequences", lambda *a: read.append(a) or real(*a))
    labels = Labels(TokenTable.open(table), "codes")
    assert [labels.sequence(e) is not None for e in range(10)] == [e in (0, 1, 6, 7) for e in range(10)]
    assert len(read) == 1
    assert [labels.sequence(e) is not None for e in (7, 3, 1, 9)] == [True, False, True, False]


def test_equal_exports_give_equal_bytes_however_often_they_are_killed(
    dataset, table, checkpoint, tmp_path, monkeypatch
):
    export_lerobot(table, dataset, tmp_path / "one", model=checkpoint[0])
    for owner, name in (
        (LeRobotFolder, "link_or_copy"),
        (LeRobotFolder, "write_info"),
        (lerobot, "write_statistics"),
        (job, "write_manifest"),
    ):
        monkeypatch.setattr(owner, name, _stop)
        with pytest.raises(KeyboardInterrupt):
            export_lerobot(table, dataset, tmp_path / "two", model=checkpoint[0])
        monkeypatch.undo()
    calls = []
    monkeypatch.setattr(lerobot, "add_columns", lambda *a: calls.append(a))
    export_lerobot(table, dataset, tmp_path / "two", model=checkpoint[0])
    assert not calls  # the data files were finished before
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_in_place_and_undo(dataset, table, checkpoint, tmp_path):
    before = _tree(dataset)
    backup = dataset.with_name("demos.before-labels")
    summary = export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    assert summary.out == str(dataset)
    assert _tree(backup) == before
    assert _rows(dataset)[VALID].sum() == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demos", "demos.before-labels", "lam", "tokens.parquet"]
    labelled = _tree(dataset)
    again = export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    assert "complete already" in again.notes.pop()
    assert (again, _tree(dataset), _tree(backup)) == (summary, labelled, before)
    for options in ({"min_margin": 0.1, "in_place": True}, {"out": tmp_path / "out"}):
        with pytest.raises(ValueError, match=r"has labels already .*--undo"):
            export_lerobot(table, dataset, model=checkpoint[0], **options)
    assert undo_lerobot(dataset) == dataset
    assert _tree(dataset) == before
    assert not backup.exists()
    with pytest.raises(ValueError, match="was not labelled in place"):
        undo_lerobot(dataset)


def test_undo_refuses_where_the_labelled_dataset_was_changed(dataset, table, checkpoint):
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    file = sorted(dataset.glob("data/*/*.parquet"))[0]
    for change in (
        lambda: pq.write_table(pq.read_table(file).slice(1), file),
        lambda: (dataset / "README.md").write_text("better"),
        lambda: (dataset / "new.txt").write_text("new"),
        lambda: next(dataset.rglob("*.mp4")).unlink(),
    ):
        kept = shutil.copytree(dataset, dataset.with_name("kept"), copy_function=os.link)
        shutil.rmtree(dataset)
        shutil.copytree(kept, dataset)
        change()
        with pytest.raises(ValueError, match="was changed since it was labelled"):
            undo_lerobot(dataset)
        shutil.rmtree(dataset)
        os.rename(kept, dataset)
    undo_lerobot(dataset)


def test_a_kill_at_any_step_of_the_swap_leaves_a_complete_dataset(dataset, table, checkpoint, monkeypatch):
    old = _tree(dataset)
    monkeypatch.setattr(InPlaceSwap, "apply", _stop)
    with pytest.raises(KeyboardInterrupt):  # built, not swapped
        export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    monkeypatch.undo()
    assert _tree(dataset) == old
    with pytest.raises(JobMismatchError, match="min_margin"):
        export_lerobot(table, dataset, in_place=True, model=checkpoint[0], min_margin=0.1)
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    assert _rows(dataset)[VALID].sum() == 20
    monkeypatch.setattr(in_place_module, "replace", _stop)
    with pytest.raises(KeyboardInterrupt):  # swapped back, the labelled one not yet removed
        undo_lerobot(dataset)
    monkeypatch.undo()
    assert _tree(dataset) == old
    undo_lerobot(dataset)
    assert _tree(dataset) == old
    assert [p.name for p in dataset.parent.iterdir() if p.name.startswith("demos")] == ["demos"]


def test_two_runs_swap_once(dataset, table, checkpoint, monkeypatch):
    real = InPlaceSwap.apply
    monkeypatch.setattr(InPlaceSwap, "apply", lambda swap: [real(swap), real(swap)])
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    assert _rows(dataset)[VALID].sum() == 20


def test_one_run_at_a_time_holds_a_dataset_in_place_and_back(plain, table, checkpoint, tmp_path):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    for begin in (
        lambda: export_lerobot(table, dataset, in_place=True, model=checkpoint[0]),
        partial(undo_lerobot, dataset),
    ):
        before = _tree(tmp_path)
        with (
            InPlaceSwap(dataset).exclusive(),
            pytest.raises(BlockingIOError, match="demos is being written by another process"),
        ):
            begin()
        assert _tree(tmp_path) == before  # the lock is gone too
        begin()
    (tmp_path / "demos.labels.lock").write_text("mine")
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    assert (tmp_path / "demos.labels.lock").read_text() == "mine"
    with pytest.raises(ValueError, match="there is no such folder"):
        undo_lerobot(tmp_path / "nowhere")


def test_a_folder_of_somebody_else_stays_where_labels_are_taken_back(plain, table, checkpoint, tmp_path, monkeypatch):
    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    mine = tmp_path / "demos.labels-undone/thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ValueError, match="was not labelled in place"):
        undo_lerobot(dataset)
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    monkeypatch.setattr(in_place_module.shutil, "rmtree", _stop)
    with pytest.raises(KeyboardInterrupt):
        undo_lerobot(dataset)
    monkeypatch.undo()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".demos.labels-undone-")]
    undo_lerobot(dataset)  # goes on
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    undo_lerobot(dataset)
    assert mine.read_text() == "mine"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # what the killed run left


def test_an_edit_between_a_kill_and_the_next_run_is_seen(plain, table, checkpoint, tmp_path, monkeypatch):
    """It keeps the size; a finished export contains no times."""
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    file = dataset / "data/chunk-000/episode_000000.parquet"

    def edit(time_ns):
        os.utime(file, ns=(time_ns, time_ns))

    monkeypatch.setattr(LeRobotFolder, "write_info", _stop)
    with pytest.raises(KeyboardInterrupt):
        export_lerobot(table, dataset, tmp_path / "out", model=checkpoint[0])
    monkeypatch.undo()
    edit(file.stat().st_mtime_ns + 1)
    with pytest.raises(JobMismatchError, match="dataset_times_sha256"):
        export_lerobot(table, dataset, tmp_path / "out", model=checkpoint[0])
    monkeypatch.setattr(InPlaceSwap, "apply", _stop)
    with pytest.raises(KeyboardInterrupt):
        export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    monkeypatch.undo()
    edit(time.time_ns() + 10**9)
    with pytest.raises(JobMismatchError, match=r"made before data/.*000000.parquet of .* was changed. Delete it"):
        export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    export_lerobot(table, plain["v2.1"], tmp_path / "one", model=checkpoint[0])
    export_lerobot(table, dataset, tmp_path / "two", model=checkpoint[0])
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")


_KILLED = """
import sys
from lara_tokenizer.export import export_lerobot
print("go", flush=True)
export_lerobot(sys.argv[1], sys.argv[2], in_place=True, model=sys.argv[3])
"""


def test_sigkill_leaves_the_old_dataset_or_the_labelled_one(plain, table, checkpoint, tmp_path):
    expected = tmp_path / "expected"
    shutil.copytree(plain["v2.1"], expected)
    export_lerobot(table, expected, in_place=True, model=checkpoint[0])
    dataset = shutil.copytree(plain["v2.1"], tmp_path / "demos")
    old, new = _hashes(dataset), _hashes(expected)
    rng = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", _KILLED, str(table), str(dataset), str(checkpoint[0])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        found = _hashes(dataset)
        assert found in (old, new)
        if found == new:
            undo_lerobot(dataset)
    export_lerobot(table, dataset, in_place=True, model=checkpoint[0])
    assert _hashes(dataset) == new


def test_invalid_input_is_refused_before_anything_is_written(plain, table, checkpoint, tmp_path, write_tokens):
    dataset, folder, out = plain["v3.0"], checkpoint[0], tmp_path / "out"
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    other = tmp_path / "other-lam"
    shutil.copytree(folder, other)
    (other / "model.safetensors").write_bytes(b"other")
    both = write_tokens(tmp_path / "two.parquet", {"episode_000000": 13}, cameras=(TOP, "wrist"))
    clip = write_tokens(tmp_path / "clip.parquet", {"episode_000000/1": 13}, cameras=(TOP,), sizes=(N, D, None))
    none = tmp_path / "none.parquet"
    pq.write_table(pq.read_table(table).slice(0, 0), none)
    bad = shutil.copytree(dataset, tmp_path / "bad")
    file = bad / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    for arguments, options, message in (
        ((table, dataset), {}, r"new folder \(--out\), or in place"),
        ((table, dataset, out), {"in_place": True}, r"new folder \(--out\), or in place"),
        ((table, dataset, tmp_path / "there"), {}, "exists already"),
        ((table, dataset, dataset / "labelled"), {}, "is inside its source"),
        ((table, tmp_path / "lam", out), {}, "no folder of a LeRobotDataset"),
        ((table, dataset, out), {"model": other}, "is not the one that made"),
        ((table, dataset, out), {"model": tmp_path / "nowhere"}, "Pass its path with --model"),
        ((both, dataset, out), {"cameras": "all"}, "has one set of labels"),
        ((clip, dataset, out), {}, "is not in the source"),
        ((none, dataset, out), {}, r"has no rows: there is nothing to export"),
        ((table, bad, out), {}, "unsorted or duplicated"),
        ((table, dataset, out), {"push": "me"}, "takes a dataset repository"),
    ):
        with pytest.raises(ValueError, match=message):
            export_lerobot(*arguments, **({"model": folder} | options))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
    assert not (dataset / "labelled.partial").exists()


def test_a_push_uploads_the_folder_and_tags_it_with_the_version(plain, table, checkpoint, tmp_path, monkeypatch):
    import huggingface_hub

    calls: list = []

    class Api:
        def __getattr__(self, name):
            return lambda *args, **options: calls.append((name, args, options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_test")
    out = tmp_path / "out"
    summary = export_lerobot(table, plain["v3.0"], out, model=checkpoint[0], push="me/demos")
    assert [name for name, _, _ in calls] == ["create_repo", "upload_folder", "delete_tag", "create_tag"]
    assert calls[1][2]["folder_path"] == out
    assert calls[3][2] == {"tag": "v3.0", "repo_type": "dataset"}
    assert "pushed to me/demos" in summary.notes[-1]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="needs an account"):
        export_lerobot(table, plain["v3.0"], tmp_path / "second", model=checkpoint[0], push="me/demos")
    assert not (tmp_path / "second").exists()


def test_the_command_labels_and_takes_back(plain, table, checkpoint, tmp_path):
    from lara_tok.export import app
    from typer.testing import CliRunner

    def run(*arguments):
        return CliRunner().invoke(app, ["lerobot", *map(str, arguments)])

    dataset = shutil.copytree(plain["v3.0"], tmp_path / "demos")
    before = _tree(dataset)
    done = run(table, dataset, "--in-place", "--model", checkpoint[0], "--min-margin", 0.1, "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["pairs"] == _rows(dataset)[VALID].sum() < 20
    assert run(dataset, "--undo").stdout == f"{dataset}: as it was, no labels\n"
    assert _tree(dataset) == before
    assert "SOURCE is missing" in str(run(table).exception)
    for more in (
        [dataset],
        ["--model", "m"],
        ["--stride", "5f"],
        ["--camera", TOP],
        ["--min-margin", 1],
        ["--push", "a/b"],
    ):
        refused = run(table, *more, "--undo")
        assert "takes the dataset's folder, and nothing else" in str(refused.exception), more
