"""WebDataset shards: every selected pair once, its codes and both frames, in tars whose bytes depend on the job."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.data import load_episodes
from lara_tokenizer.errors import EpisodeReadError, JobMismatchError
from lara_tokenizer.export import export_webdataset
from lara_tokenizer.export.webdataset import export as webdataset
from lara_tokenizer.export.webdataset.plan import LONGEST_FOLDER, sample_folder, shard_urls
from lara_tokenizer.export.webdataset.shard import TarWriter
from lara_tokenizer.table import read_tokens


def samples(out):
    """(shard, key) -> fields, as WebDataset itself groups and decodes them."""
    wds = pytest.importorskip("webdataset")
    shards = sorted(out.glob("*.tar"))
    assert [shard.name for shard in shards] == [f"train-{index:06d}.tar" for index in range(len(shards))]
    read = wds.WebDataset(list(map(str, shards)), shardshuffle=False).decode("rgb8")
    return {(sample["__url__"].split("/")[-1], sample["__key__"]): sample for sample in read}


def valid_rows(tokens):
    return {(row["episode"], row["frame_index"]): row for row in read_tokens(tokens).to_pylist() if row["valid"]}


def all_bytes(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_every_selected_pair_is_a_sample_with_the_tables_values(tmp_path, tokens, clips):
    summary = export_webdataset(tokens, clips, tmp_path / "out", workers=0)
    rows = valid_rows(tokens)
    read = samples(tmp_path / "out")
    assert len(read) == len(rows) == summary.pairs == 44
    for (_, key), sample in read.items():
        metadata = sample["json"]
        row = rows.pop((metadata["episode"], metadata["frame_index"]))
        assert key == f"{row['episode']}/{row['frame_index']:06d}"
        assert sample["codes.npy"].tolist() == metadata["codes"] == row["codes"]
        assert sample["codes.npy"].dtype == np.int64
        np.testing.assert_array_equal(sample["latents.npy"], np.reshape(row["latents"], (4, 3)).astype(np.float16))
        for name in ("stride", "future_frame_index", "timestamp", "future_timestamp", "code_margin", "motion", "text"):
            assert metadata[name] == row[name], name
    assert not rows


def test_both_frames_are_those_of_the_source(tmp_path, tokens, clips):
    export_webdataset(tokens, clips, tmp_path / "out", workers=0)
    episodes = {episode.id: episode for episode in load_episodes(clips)}
    for sample in list(samples(tmp_path / "out").values())[::6]:
        metadata = sample["json"]
        frames = episodes[metadata["episode"]].frames("", [metadata["frame_index"], metadata["future_frame_index"]])
        for field, expected in zip(("jpg", "future.jpg"), frames, strict=True):
            assert np.abs(sample[field].astype(int) - expected).mean() < 6  # JPEG halves the colours


def test_a_frame_is_encoded_once_and_decoded_once(tmp_path, tokens, clips, monkeypatch):
    saved: Counter[str] = Counter()
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *args, **options: (saved.update("x"), save(*args, **options)))
    export_webdataset(tokens, clips, tmp_path / "out", workers=0)
    assert saved["x"] == 24 + 30


def test_shards_hold_whole_episodes_and_no_more_pairs_than_asked(tmp_path, tokens, clips):
    export_webdataset(tokens, clips, tmp_path / "one", workers=0, images=False, shard_size=25)
    of_shard = [(shard, sample["json"]["episode"]) for (shard, _), sample in samples(tmp_path / "one").items()]
    assert sorted(Counter(of_shard).values()) == [19, 25]
    export_webdataset(tokens, clips, tmp_path / "cut", workers=0, images=False, shard_size=10)
    cut = samples(tmp_path / "cut")
    sizes = Counter(shard for shard, _ in cut)
    assert sum(sizes.values()) == 44
    assert max(sizes.values()) == 10
    assert len({key for _, key in cut}) == 44


def test_the_seed_orders_the_episodes(tmp_path, write_tokens, moving_square, write_video):
    for index in range(6):
        write_video(tmp_path / "clips" / f"{index}.mp4", moving_square(8, seed=index))
    path = write_tokens(tmp_path / "t.parquet", {f"{index}.mp4": 8 for index in range(6)})
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        export_webdataset(path, tmp_path / "clips", tmp_path / name, workers=0, images=False, seed=seed)
        orders.append([sample["json"]["episode"] for sample in samples(tmp_path / name).values()])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    frames = [sample["json"]["frame_index"] for sample in samples(tmp_path / "c").values()]
    assert frames == [0, 1, 2] * 6


def test_equal_exports_give_equal_bytes_for_any_number_of_workers(tmp_path, tokens, clips):
    export_webdataset(tokens, clips, tmp_path / "a", workers=0, shard_size=25)
    export_webdataset(tokens, clips, tmp_path / "b", workers=2, shard_size=25)
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
    assert set(all_bytes(tmp_path / "a")) == {"train-000000.tar", "train-000001.tar", "export_manifest.json"}


def test_a_killed_export_goes_on_with_the_shards_that_are_missing(tmp_path, tokens, clips, monkeypatch):
    options = {"workers": 0, "shard_size": 25}
    export_webdataset(tokens, clips, tmp_path / "whole", **options)
    made = []
    write_shard = webdataset.write_shard

    def dies_at_the_second(task):
        if made:
            task.file.with_name(task.file.name + ".1.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        made.append(task.file.name)
        write_shard(task)

    monkeypatch.setattr(webdataset, "write_shard", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        export_webdataset(tokens, clips, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(JobMismatchError, match=r"options\.seed was 0 and is 1"):
        export_webdataset(tokens, clips, tmp_path / "out", seed=1, **options)
    monkeypatch.setattr(webdataset, "write_shard", lambda task: (made.append(task.file.name), write_shard(task)))
    reported = []
    export_webdataset(tokens, clips, tmp_path / "out", progress=lambda *state: reported.append(state), **options)
    assert made == ["train-000000.tar", "train-000001.tar"]
    assert reported[0][0] in (19, 25)
    assert reported[-1] == (44, 44)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")


def test_the_manifest_contains_the_settings_of_webdataset(tmp_path, tokens, clips):
    export_webdataset(tokens, clips, tmp_path / "out", workers=0, shard_size=25)
    manifest = json.loads((tmp_path / "out/export_manifest.json").read_text())
    assert manifest["settings"] == {
        "urls": "<this folder>/train-{000000..000001}.tar",
        "shardshuffle": 2,
        "shuffle": 25,
        "decode": "rgb8",
        "to_tuple": "jpg future.jpg codes.npy latents.npy json",
    }
    assert manifest["tokens"]["model"]["id"] == "tiny"
    assert manifest["pairs"] == 44
    assert str(tmp_path) not in json.dumps(manifest)
    assert shard_urls(1) == "train-000000.tar"


def test_a_continuous_table_gives_latents_alone(tmp_path, write_tokens, clips):
    path = write_tokens(tmp_path / "t.parquet", {"a.mp4": 24, "b/left.mp4": 30}, sizes=(2, 5, None))
    export_webdataset(path, clips, tmp_path / "out", workers=0, images=False)
    for sample in samples(tmp_path / "out").values():
        assert not {"codes.npy", "jpg"} & set(sample)
        assert not {"codes", "code_margin"} & set(sample["json"])
        assert sample["json"]["text"] == ""
        assert sample["latents.npy"].shape == (2, 5)


def test_cameras_lie_together_and_have_names_of_their_own(tmp_path, write_tokens, array_source):
    path = write_tokens(tmp_path / "t.parquet", {"x": 9, "y": 8}, ("2f",), ("top", "wrist"), indices={"x": 3, "y": 4})
    export_webdataset(path, array_source, tmp_path / "out", cameras="all", workers=0, images=False, shard_size=14)
    read = samples(tmp_path / "out")
    shards = {sample["json"]["episode"]: set() for sample in read.values()}
    for (shard, key), sample in read.items():
        shards[sample["json"]["episode"]].add(shard)
        assert key == f"{sample['json']['episode']}/{sample['json']['camera']}/{sample['json']['frame_index']:06d}"
        assert sample["json"]["episode_index"] == {"x": 3, "y": 4}[sample["json"]["episode"]]
    assert [len(found) for found in shards.values()] == [1, 1]


@pytest.fixture
def array_source():
    from lara_tokenizer.data import Episode, FrameIndex

    class Reader:
        def index(self, camera):
            return FrameIndex(np.arange(9) / 10, 10.0)

        def frames(self, camera, indices):
            raise EpisodeReadError("x", "cannot be read")

        def close(self):
            pass

    return [Episode(name, Reader(), ("top", "wrist")) for name in ("x", "y")]


def test_an_unreadable_episode_ends_the_export_without_an_output_folder(tmp_path, write_tokens, array_source):
    path = write_tokens(tmp_path / "t.parquet", {"x": 9, "y": 8}, ("2f",), ("top",))
    with pytest.raises(EpisodeReadError, match="x: cannot be read"):
        export_webdataset(path, array_source, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


def test_an_episode_is_closed_where_its_shard_fails(tmp_path, tokens, clips, monkeypatch):
    episodes = load_episodes(clips)
    open_now = set()

    class Watched:
        def __init__(self, episode):
            self.id, self.reader = episode.id, episode.reader

        def index(self, camera):
            return self.reader.index(camera)

        def frames(self, camera, indices):
            open_now.add(self.id)
            return self.reader.frames(camera, indices)

        def close(self):
            open_now.discard(self.id)
            self.reader.close()

    for episode in episodes:
        episode.reader = Watched(episode)

    def full(*_, **__):
        assert open_now
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="the disk is full"):
        export_webdataset(tokens, episodes, tmp_path / "out", workers=0)
    assert not open_now


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "shard_size 0: takes 1 pair or more"),
        ({"seed": -1}, "seed -1: takes 0 or more"),
        ({"stride": "7f"}, "stride '7f'"),
        ({"min_margin": 2}, "no pair of stride 5f is left"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, tokens, clips, options, message):
    with pytest.raises(ValueError, match=message):
        export_webdataset(tokens, clips, tmp_path / "new" / "out", **options)
    assert not (tmp_path / "new").exists()


def test_another_source_and_an_existing_target_are_refused(tmp_path, tokens, clips):
    with pytest.raises(ValueError, match="is not in the source"):
        export_webdataset(tokens, clips / "a.mp4", tmp_path / "out")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("")
    with pytest.raises(ValueError, match="exists already"):
        export_webdataset(tokens, clips, tmp_path / "there")
    assert not list(tmp_path.glob("out*"))


def test_tars_are_those_of_the_standard_library():
    members = {"a/000001.json": b"{}", "b" * 150 + "/000001.future.jpg": bytes(range(256)) * 5, "c/000001.npy": b""}
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(ours)
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in members.items():
            writer.add(*path.split("/"), data)
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    writer.close()
    assert ours.getvalue() == theirs.getvalue()


def test_names_of_samples_are_ascii_short_and_different():
    names = [
        "kitchen/a.mp4",
        "a b.mp4#t=10,20",
        "Küche/ä.mp4",
        "../x",
        "./x",
        "__meta__/x",
        "%2e/x",
        "/abs//x",
        "x" * 300,
    ]
    names.append("x" * 299 + "y")
    folders = [sample_folder(name, "") for name in names]
    assert folders[:2] == names[:2]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder.isascii()
        assert len(folder) <= LONGEST_FOLDER
        assert not {"", ".", ".."} & set(folder.split("/"))
        assert not folder.startswith("__")
    assert sample_folder("a", "x/y") == "a/x%2Fy"
