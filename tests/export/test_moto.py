"""The dataset for Moto-GPT: its LMDB and videos hold what table and source do; a killed run goes on; mistakes first."""

from __future__ import annotations

import io
import json
import pickle
import resource
import sys
import tracemalloc
from types import SimpleNamespace

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lara_tok.__main__ import app
from PIL import Image
from token_tables import edited
from typer.testing import CliRunner

from lara_tokenizer.data import Episode, load_episodes
from lara_tokenizer.data.episode import FrameIndex, Signals
from lara_tokenizer.errors import EpisodeReadError, JobMismatchError
from lara_tokenizer.export import export_moto
from lara_tokenizer.export.moto import lmdb as moto_lmdb
from lara_tokenizer.export.moto.lmdb import EpisodeSteps, pickle_features, pickle_tensors, write_lmdb
from lara_tokenizer.export.moto_wrapper import StoredCodes, keep_patch_order, stored_codes, with_stored_codes
from lara_tokenizer.table import read_tokens

LENGTHS = {"a.mp4": 24, "b/left.mp4": 30}
GAP = 5


def lmdb_of(out, name="lara"):
    """Everything in an LMDB, unpickled."""
    with (
        lmdb.open(str(out / "lmdb" / name / "train"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return {key.decode(): pickle.loads(value) for key, value in transaction.cursor()}


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class Robot:
    """A reader of an episode with actions."""

    def __init__(self, frames, width=7, texts=None):
        self.pixels, self.texts = frames, texts
        self.actions = np.random.default_rng(len(frames)).uniform(-1, 1, (len(frames), width)).astype(np.float32)

    def index(self, camera):
        return FrameIndex(np.arange(len(self.pixels)) / 10, 10.0)

    def frames(self, camera, indices):
        return self.pixels[np.asarray(indices, int)]

    def signals(self):
        return Signals(actions=self.actions, texts=self.texts)

    def close(self):
        pass


@pytest.fixture
def robots(moving_square):
    """The episodes of `tokens`, with actions of 7 numbers."""
    return [
        Episode(name, Robot(moving_square(length, step=3)), available_signals=("actions",))
        for name, length in LENGTHS.items()
    ]


def test_every_frame_has_its_codes_and_what_moto_reads(tmp_path, tokens, clips):
    summary = export_moto(tokens, clips, tmp_path / "out", workers=0)
    stored, rows = lmdb_of(tmp_path / "out"), read_tokens(tokens).to_pylist()
    assert stored.pop("cur_step") == len(rows) - 1 == sum(LENGTHS.values()) - 1
    meta = stored.pop("latent_motion_meta")
    assert (meta["skip_frame"], meta["per_latent_motion_len"], meta["latent_motion_codebook_size"]) == (GAP, 4, 16)
    assert meta["weights_sha256"] == {"model.safetensors": "0" * 64}
    for step, row in enumerate(rows):
        assert stored.pop(f"cur_episode_{step}") == list(LENGTHS).index(row["episode"])
        assert stored.pop(f"local_step_{step}") == row["frame_index"]
        codes = stored.pop(f"latent_motion_ids_{step}")
        assert codes.dtype == np.int16
        assert codes.flags.writeable
        assert codes.tolist() == row["codes"]
        assert stored.pop(f"latent_motion_valid_{step}") is row["valid"]
        features = stored.pop(f"feature_dict_{step}")
        assert features == {"observation": {"natural_language_instruction": row["text"].encode()}}
    assert not stored
    assert summary.pairs == sum(row["valid"] for row in rows)
    assert summary.settings["skip_frame"] == GAP


def test_videos_hold_the_frames_of_the_source_and_their_index_where_they_begin(tmp_path, tokens, clips, decode_all):
    export_moto(tokens, clips, tmp_path / "out", workers=0)
    folder = tmp_path / "out/video/lara/image"
    index = json.loads((folder / "video_metadata.json").read_text())
    assert index == {
        "train": {
            "total_frames": 54,
            "videos": [["train_eps_00000000.mp4", 24, 0], ["train_eps_00000001.mp4", 30, 24]],
        }
    }
    for episode, (file, length, _) in zip(load_episodes(clips), index["train"]["videos"], strict=True):
        frames = episode.frames("", range(length)).astype(int)
        written = decode_all(folder / file)
        assert written.shape == frames.shape
        errors = np.abs(frames[:, None] - written[None]).mean((2, 3, 4))
        assert (errors.argmin(1) == np.arange(length)).all()
        assert errors.diagonal().max() < 4  # of 255; the hard edges of a coloured square


def test_frames_without_a_row_are_there_and_unlabelled(tmp_path, write_tokens, clips):
    path = write_tokens(tmp_path / "t.parquet", LENGTHS, texts=dict.fromkeys(LENGTHS, "push"))
    table = pq.read_table(path)
    kept = table.filter(pa.array([row["frame_index"] % 3 == 0 and row["valid"] for row in table.to_pylist()]))
    pq.write_table(kept, path)
    summary = export_moto(path, clips, tmp_path / "out", video=False, min_motion=0.3)
    stored = lmdb_of(tmp_path / "out")
    labelled = {
        (list(LENGTHS).index(row["episode"]), row["frame_index"]): row["codes"]
        for row in kept.to_pylist()
        if row["motion"] >= 0.3
    }
    assert 0 < summary.pairs == len(labelled) < kept.num_rows
    assert stored["cur_step"] == 53
    for step in range(54):
        at = (stored[f"cur_episode_{step}"], stored[f"local_step_{step}"])
        assert stored[f"latent_motion_valid_{step}"] is (at in labelled)
        assert stored[f"latent_motion_ids_{step}"].tolist() == labelled.get(at, [-1] * 4)
        assert stored[f"feature_dict_{step}"]["observation"]["natural_language_instruction"] == b"push"
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_actions_are_the_sources_in_moto_s_three_parts(tmp_path, tokens, robots):
    export_moto(tokens, robots, tmp_path / "out", style="rt1", workers=0)
    stored = lmdb_of(tmp_path / "out")
    actions = np.concatenate([robot.reader.actions for robot in robots])
    for step, expected in enumerate(actions):
        parts = stored[f"feature_dict_{step}"]["action"]
        assert [len(part) for part in parts.values()] == [3, 3, 1]
        names = ("world_vector", "rotation_delta", "gripper_closedness_action")
        np.testing.assert_array_equal(np.concatenate([parts[name] for name in names]), expected)
    assert yaml.safe_load((tmp_path / "out/data_config.yaml").read_text()) == {
        "data_type": "rt1",
        "lmdb_dir": "lmdb/lara",
        "video_dir": "video/lara/image",
        "rgb_shape": [64, 64],
        "skip_frame": GAP,
    }


def test_calvin_has_its_images_in_the_lmdb_as_tensors(tmp_path, tokens, robots):
    export_moto(tokens, robots, tmp_path / "out", style="calvin", name="abc", workers=0)
    stored = lmdb_of(tmp_path / "out", "abc")
    assert (stored["inst_0"], stored["inst_1"]) == ("push the box", "Open the drawer")
    frames = np.concatenate([robot.reader.pixels for robot in robots])
    actions = np.concatenate([robot.reader.actions for robot in robots])
    for step in range(54):
        jpeg = stored[f"rgb_static_{step}"]
        assert jpeg.dtype == torch.uint8
        with Image.open(io.BytesIO(jpeg.numpy().tobytes())) as image:
            assert np.abs(np.asarray(image).astype(int) - frames[step]).mean() < 6
        assert torch.equal(stored[f"rel_action_{step}"], torch.from_numpy(actions[step]))
    assert "feature_dict_0" not in stored
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "data_config.yaml",
        "episodes.jsonl",
        "export_manifest.json",
        "lmdb",
    ]


@pytest.fixture
def jpeg_steps(tmp_path):
    """An episode of 200 images, 20 MB."""
    image = tmp_path / "image.jpg"
    image.write_bytes(np.random.default_rng(0).bytes(100_000))
    return EpisodeSteps(np.zeros((200, 4), np.int16), np.ones(200, bool), ["push"] * 200, images=[image] * 200)


def test_images_do_not_wait_in_memory_for_their_episode_to_end(tmp_path, jpeg_steps, monkeypatch):
    monkeypatch.setattr(moto_lmdb, "_BYTES_AT_A_TIME", 2**20)
    tracemalloc.start()
    write_lmdb(tmp_path / "lmdb/lara/train", [jpeg_steps, jpeg_steps], {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
    stored = lmdb_of(tmp_path)
    jpeg = jpeg_steps.images[0].read_bytes()
    assert all(stored[f"rgb_static_{step}"].numpy().tobytes() == jpeg for step in range(400))
    assert stored["cur_step"] == 399
    assert [stored[f"cur_episode_{step}"] for step in (0, 199, 200, 399)] == [0, 0, 1, 1]
    write_lmdb(tmp_path / "again", [jpeg_steps, jpeg_steps], {})
    assert files_of(tmp_path / "again") == files_of(tmp_path / "lmdb/lara/train")


def test_a_full_disk_is_reported_in_one_line(tmp_path, jpeg_steps):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(OSError, match=r"the LMDB in .*/train: .*; make room if that disk is full") as caught:
            write_lmdb(tmp_path / "train", [jpeg_steps], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(str(caught.value).splitlines()) == 1
    write_lmdb(tmp_path / "train", [jpeg_steps], {})


def test_values_load_without_the_numpy_that_wrote_them():
    text = "öffne \\ 'die' \n Tür"
    rows = np.arange(14, dtype=np.float32).reshape(2, 7)
    for row, pickled in zip(rows, pickle_features(text, rows, 2), strict=True):
        assert b"numpy._core" not in pickled
        assert b"numpy.core" not in pickled
        step = pickle.loads(pickled)
        assert step["observation"]["natural_language_instruction"].decode() == text
        assert step["action"]["rotation_delta"].tolist() == row[3:6].tolist()
    for width in (1, 253, 254, 255, 256, 70_000):  # lengths that a pickle writes in one byte, and more
        assert pickle.loads(pickle_tensors(np.full((1, width), 254, np.uint8))[0]).tolist() == [254] * width


def test_equal_exports_give_equal_bytes(tmp_path, tokens, clips):
    export_moto(tokens, clips, tmp_path / "one", workers=0)
    export_moto(tokens, clips, tmp_path / "two", workers=2)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert one == two
    assert "lmdb/lara/train/data.mdb" in one


@pytest.mark.parametrize(("style", "killed_at"), [("oxe", 1), ("oxe", 3), ("calvin", 1), ("calvin", 4)])
def test_a_killed_export_goes_on_and_ends_equal(tmp_path, tokens, clips, style, killed_at):
    calls = []

    def dies(done, total):
        calls.append((done, total))
        if len(calls) == killed_at:
            raise KeyboardInterrupt

    options = {"style": style, "workers": 0}
    with pytest.raises(KeyboardInterrupt):
        export_moto(tokens, clips, tmp_path / "out", progress=dies, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(JobMismatchError, match="unfinished export of another job"):
        export_moto(tokens, clips, tmp_path / "out", instruction="lift", **options)
    first = tmp_path / "out.partial/export/video/lara/image/train_eps_00000000.mp4"
    before = first.stat().st_mtime_ns if style == "oxe" else None
    export_moto(tokens, clips, tmp_path / "out", **options)
    export_moto(tokens, clips, tmp_path / "whole", **options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    if before is not None:
        kept = tmp_path / "out" / first.relative_to(tmp_path / "out.partial/export")
        assert kept.stat().st_mtime_ns == before


def refused(tmp_path, error, match, *arguments, **options):
    with pytest.raises(error, match=match):
        export_moto(*arguments, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out*"))


def test_options_that_cannot_be_are_named_before_anything_is_written(tmp_path, tokens, clips, robots):
    refused(tmp_path, ValueError, "style 'droid': takes oxe, rt1, calvin", tokens, clips, style="droid")
    refused(tmp_path, ValueError, "name 'a/b': takes the name of a folder", tokens, clips, name="a/b")
    refused(tmp_path, ValueError, "keeps its images in the LMDB", tokens, clips, style="calvin", video=False)
    refused(tmp_path, ValueError, "without them, take oxe", tokens, robots, style="rt1", actions=False)
    refused(tmp_path, ValueError, "the source has none. Take --style oxe", tokens, clips, style="rt1")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ValueError, match="exists already"):
        export_moto(tokens, clips, tmp_path / "there")


def test_a_table_that_moto_cannot_express_is_refused(tmp_path, write_tokens, clips, tokens):
    plain = write_tokens(tmp_path / "plain.parquet", LENGTHS)
    refused(tmp_path, ValueError, "has no instruction", plain, clips)
    continuous = write_tokens(tmp_path / "continuous.parquet", LENGTHS, sizes=(4, 3, None))
    refused(tmp_path, ValueError, "has no column 'codes'", continuous, clips, instruction="push")
    two = write_tokens(tmp_path / "two.parquet", LENGTHS, cameras=("top", "wrist"))
    refused(tmp_path, ValueError, "Moto has one per dataset. Choose with --camera", two, clips, cameras="all")
    longer = {name: pq.read_table(tokens)[name].to_pylist() for name in ("future_frame_index", "future_timestamp")}
    longer["future_frame_index"][3], longer["future_timestamp"][3] = 9, 0.9
    edited(tokens, tokens, longer)
    refused(tmp_path, ValueError, r"are 5, 6 frames apart: .*--stride 5f", tokens, clips)


def test_actions_that_moto_does_not_have_are_refused_or_left_out(tmp_path, tokens, robots):
    narrow = [Episode(robot.id, Robot(robot.reader.pixels, 4), available_signals=("actions",)) for robot in robots]
    refused(tmp_path, ValueError, r"has actions of 4 numbers; Moto's have 7: .*--no-actions", tokens, narrow)
    for dataset in ("", "kitchen"):
        one = [narrow[0], robots[1]]
        for episode in one:
            episode.dataset = dataset
        refused(tmp_path, ValueError, "'a.mp4' has actions of 4 numbers", tokens, one)
    some = [robots[0], Episode(robots[1].id, robots[1].reader)]
    refused(tmp_path, ValueError, "'b/left.mp4' has no actions, others have", tokens, some)
    robots[1].reader.actions = robots[1].reader.actions[:20]
    refused(tmp_path, EpisodeReadError, "20 actions for 30 frames", tokens, robots)
    export_moto(tokens, narrow, tmp_path / "out", actions=False, video=False)
    assert "action" not in lmdb_of(tmp_path / "out")["feature_dict_0"]


def test_frames_of_two_sizes_only_go_where_they_are_resized(tmp_path, tokens, moving_square):
    sizes = zip(LENGTHS.items(), (64, 32), strict=True)
    mixed = [
        Episode(name, Robot(moving_square(length, size)), available_signals=("actions",))
        for (name, length), size in sizes
    ]
    match = r"64 x 64 \(a.mp4\), 32 x 32 \(b/left.mp4\): Moto's class takes one size"
    refused(tmp_path, ValueError, match, tokens, mixed, style="rt1")
    refused(tmp_path, ValueError, match, tokens, mixed, style="calvin")
    export_moto(tokens, mixed, tmp_path / "out", workers=0)


def test_lmdb_is_an_extra(tmp_path, tokens, clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    refused(tmp_path, ImportError, "lmdb needs the 'moto' extra", tokens, clips)


def test_the_command(tmp_path, tokens, clips):
    arguments = ["export", "moto", str(tokens), str(clips), "--out", str(tmp_path / "out"), "--no-video", "--json"]
    ran = CliRunner().invoke(app, [*arguments, "--min-motion", "0.2"])
    assert ran.exit_code == 0, ran.output
    stored = json.loads(ran.stdout)
    assert stored["settings"]["per_latent_motion_len"] == 4
    manifest = json.loads((tmp_path / "out/export_manifest.json").read_text())
    assert manifest["pairs"] == stored["pairs"]
    assert str(tmp_path) not in (tmp_path / "out/export_manifest.json").read_text()
    lines = [json.loads(line) for line in (tmp_path / "out/episodes.jsonl").read_text().splitlines()]
    assert lines[1] == {"episode": 1, "id": "b/left.mp4", "frames": 30, "first_step": 24}


class MotoDataset:
    """Reads an LMDB as Moto's datasets do, without frames."""

    def __init__(self, lmdb_dir, **changes):
        self.lmdb_dir, self.split, self.start_step = lmdb_dir, "train", 2
        self.skip_frame, self.max_skip_frame, self.sequence_length = GAP, None, 2
        vars(self).update(changes)

    def open_lmdb(self):
        self.txn = lmdb.open(f"{self.lmdb_dir}/train", readonly=True, lock=False).begin()

    def __len__(self):
        return 54 - self.start_step - 2 * GAP

    def __getitem__(self, index):
        if not hasattr(self, "txn"):
            self.open_lmdb()
        step = index + self.start_step
        episode = [pickle.loads(self.txn.get(b"cur_episode_%d" % (step + i * GAP))) for i in range(3)]
        mask = torch.tensor([float(later == episode[0]) for later in episode[1:]])
        return {"idx": index, "latent_mask": mask}


@pytest.fixture
def lmdb_dir(tmp_path, tokens, clips):
    export_moto(tokens, clips, tmp_path / "out", video=False, min_motion=0.3)
    return tmp_path / "out/lmdb/lara"


def test_samples_gain_the_codes_of_their_pairs(tmp_path, tokens, lmdb_dir):
    rows = read_tokens(tokens).to_pylist()
    dataset = with_stored_codes(MotoDataset(str(lmdb_dir)))
    unlabelled = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        step = sample["idx"] + 2
        assert sample["latent_mask"].sum() > 0
        unlabelled += sample["idx"] != index
        for i in range(2):
            row = rows[step + i * GAP]
            there = row["valid"] and row["motion"] >= 0.3 and row["episode"] == rows[step]["episode"]
            assert sample["latent_mask"][i] == there
            assert sample["latent_motion_ids"][i].tolist() == (row["codes"] if there else [0] * 4)
    assert sample["latent_motion_ids"].dtype == torch.int64
    assert 0 < unlabelled < len(dataset)


def test_a_mixture_wraps_its_members_and_another_gap_is_refused(lmdb_dir):
    mixture = with_stored_codes(SimpleNamespace(datasets=[MotoDataset(str(lmdb_dir))]))
    assert isinstance(mixture.datasets[0], StoredCodes)
    with pytest.raises(ValueError, match=r"frames 6 to 6 apart, .* codes of frames 5 apart. Set skip_frame"):
        with_stored_codes(MotoDataset(str(lmdb_dir), skip_frame=6))
    with pytest.raises(ValueError, match="frames 5 to 9 apart"):
        with_stored_codes(MotoDataset(str(lmdb_dir), max_skip_frame=9))


def test_an_lmdb_without_codes_is_named(tmp_path):
    with lmdb.open(str(tmp_path / "train"), lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"cur_step", pickle.dumps(0))
    with pytest.raises(ValueError, match="has no latent_motion_meta: it was not written by `lara-tok export moto`"):
        with_stored_codes(MotoDataset(str(tmp_path)))


class MotoTrainer:
    """Tokenizes as Moto's trainer does."""

    def __init__(self, tokenizer):
        self.latent_motion_tokenizer = tokenizer

    def calculate_loss(self, batch, train):
        b, t = batch["shape"]
        pixels = torch.zeros(b * t, 3, 4, 4)
        codes = self.latent_motion_tokenizer(
            cond_pixel_values=pixels, target_pixel_values=pixels, return_motion_token_ids_only=True
        )
        return codes.reshape(b, t, -1)

    def eval_latent_motion_gen(self, folder):
        return self.latent_motion_tokenizer.decode_image()


class Online:
    def __call__(self, cond_pixel_values, **options):
        return torch.full((len(cond_pixel_values), 4), 7)

    def decode_image(self):
        return "image"


def test_a_trainer_takes_the_codes_of_the_batch_and_tokenizes_elsewhere():
    batch = {"shape": (3, 2), "latent_motion_ids": torch.arange(24).reshape(3, 2, 4)}
    trainer = MotoTrainer(online := Online())
    with stored_codes(trainer):
        assert torch.equal(trainer.calculate_loss(batch, train=True), batch["latent_motion_ids"])
        assert (trainer.calculate_loss({"shape": (3, 2)}, train=True) == 7).all()
        assert trainer.eval_latent_motion_gen("folder") == "image"
    assert trainer.latent_motion_tokenizer is online
    assert (trainer.calculate_loss(batch, train=True) == 7).all()
    without = MotoTrainer(None)
    with stored_codes(without):
        assert torch.equal(without.calculate_loss(batch, train=True), batch["latent_motion_ids"])
        assert without.eval_latent_motion_gen("folder") is None
        with pytest.raises(ValueError, match="no latent_motion_ids, and the trainer no tokenizer"):
            without.calculate_loss({"shape": (3, 2)}, train=True)
    assert vars(without) == {"latent_motion_tokenizer": None}


class ShufflingEncoder:
    """Orders its 16 patches by noise, as transformers' ViTMAEModel does."""

    config = SimpleNamespace(image_size=32, patch_size=8)

    def forward(self, pixel_values, noise=None):
        noise = torch.rand(len(pixel_values), 16) if noise is None else noise
        return noise.argsort(1)


def test_patches_stay_in_order():
    encoder = ShufflingEncoder()
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.float16)
    assert not torch.equal(encoder.forward(pixels), torch.arange(16).expand(2, -1))
    assert keep_patch_order(tokenizer := SimpleNamespace(image_encoder=encoder)) is tokenizer
    assert torch.equal(encoder.forward(pixels), torch.arange(16).expand(2, -1))
