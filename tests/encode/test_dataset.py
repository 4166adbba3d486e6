"""`encode_dataset` from folder to table, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lara_tokenizer import LatentActionModel, encode_dataset, load_episodes
from lara_tokenizer.encode import estimate_dataset
from lara_tokenizer.errors import EpisodeReadError, JobMismatchError, LaraTokenizerError
from lara_tokenizer.table import merge_tokens, read_metadata, read_tokens


@pytest.fixture(scope="module")
def reference(clips, tiny_checkpoint, tmp_path_factory) -> bytes:
    """The bytes of an uninterrupted run."""
    out = tmp_path_factory.mktemp("reference") / "tokens.parquet"
    encode_dataset(clips, tiny_checkpoint, out=out, strides="0.5s", workers=0)
    return out.read_bytes()


class Stop(Exception):
    """Ends a run from its progress callback."""


def stop_after(units):
    """A progress callback that ends the run after this many units."""
    calls = []

    def progress(state):
        calls.append(state.episodes_done)
        if state.episodes_done >= units:
            raise Stop

    return progress


def test_every_clip_long_enough_is_in_the_table(encode, tmp_path):
    summary = encode(tmp_path / "tokens.parquet")
    table = read_tokens(tmp_path / "tokens.parquet")
    assert summary.pairs == {"0.5s": 19 + 25}
    assert (summary.episodes, summary.encoded, summary.too_short, summary.failed) == (3, 2, ["short.mp4"], {})
    assert summary.short == {"0.5s": 1}
    assert table["episode"].to_pylist() == ["a.mp4"] * 19 + ["b/left.mp4"] * 25
    assert table["frame_index"].to_pylist() == [*range(19), *range(25)]
    assert table["timestamp"].to_pylist() == pytest.approx([k / 10 for k in [*range(19), *range(25)]])
    assert table["future_timestamp"].to_pylist() == pytest.approx([k / 10 + 0.5 for k in [*range(19), *range(25)]])
    assert not (tmp_path / "tokens.parquet.job").exists()
    assert not (tmp_path / "tokens.parquet.failed.jsonl").exists()


def test_the_rate_can_be_overridden_by_glob(encode, tmp_path):
    encode(tmp_path / "t.parquet", fps={"a.mp4": 3}, strides="0.6s")
    rows = read_tokens(tmp_path / "t.parquet").to_pylist()
    assert [row["future_frame_index"] - row["frame_index"] for row in rows] == [2] * 22 + [6] * 24
    assert rows[3]["timestamp"] == 1.0
    assert rows[3]["future_timestamp"] == 5 / 3


def test_a_real_clip_gives_what_the_model_says_of_its_frames(encode, shared_data, tiny_model, tiny_processor, tmp_path):
    clip = shared_data / "videos" / "lapa_rt1_real_standing_coke_can_1.mp4"
    encode(tmp_path / "t.parquet", source=clip, fps=3, strides="0.6s", columns=["latents"])
    with av.open(str(clip)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with torch.inference_mode():
        out = tiny_model.encode(**tiny_processor(frames[:-2], frames[2:]))
    table = read_tokens(tmp_path / "t.parquet")
    assert table["codes"].to_pylist() == out.codes.tolist()
    assert table["latents"].to_pylist() == out.latents.flatten(1).half().tolist()
    assert table["timestamp"].to_pylist() == [k / 3 for k in range(14)]
    assert table["future_timestamp"].to_pylist() == [(k + 2) / 3 for k in range(14)]


def test_bytes_do_not_depend_on_the_order_of_the_source(encode, clips, reference, tmp_path):
    copies = tmp_path / clips.name
    for name in ("short.mp4", "b/left.mp4", "a.mp4"):  # another order on disk
        (copies / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clips / name, copies / name)
    encode(tmp_path / "copied.parquet", source=copies)
    assert (tmp_path / "copied.parquet").read_bytes() == reference
    files = [clips / "short.mp4", clips / "b" / "left.mp4", clips / "a.mp4"]
    encode(tmp_path / "listed.parquet", source=files)
    encode(tmp_path / "reversed.parquet", source=files[::-1])
    assert (tmp_path / "listed.parquet").read_bytes() == (tmp_path / "reversed.parquet").read_bytes()


def test_a_run_that_stopped_goes_on_and_gives_the_same_bytes(encode, reference, tmp_path):
    out = tmp_path / "tokens.parquet"
    with pytest.raises(Stop):
        encode(out, progress=stop_after(1))
    assert not out.exists()
    states = []
    summary = encode(out, progress=lambda state: states.append((state.episodes_resumed, state.is_resumed)))
    assert states[0] == (1, True)
    assert summary.resumed == 1
    assert out.read_bytes() == reference


def test_a_complete_target_says_so_and_is_left_alone(encode, tmp_path):
    out = tmp_path / "tokens.parquet"
    first = encode(out)
    inode = out.stat().st_ino
    again = encode(out)
    assert again.already_complete
    assert (again.pairs, again.perplexity, again.encoded) == (first.pairs, first.perplexity, 2)
    assert out.stat().st_ino == inode


def test_a_target_of_another_job_is_refused_with_both_values(encode, tmp_path):
    out = tmp_path / "tokens.parquet"
    encode(out)
    before = out.read_bytes()
    with pytest.raises(JobMismatchError, match=r"strides was 0.5s and is 0.3s\. Name another --out"):
        encode(out, strides="0.3s")
    with pytest.raises(JobMismatchError, match="batch_size was 64 and is 8"):
        encode(out, batch_size=8)
    assert out.read_bytes() == before


def test_a_job_begun_with_other_options_is_refused(encode, tmp_path):
    out = tmp_path / "tokens.parquet"
    with pytest.raises(Stop):
        encode(out, progress=stop_after(1))
    with pytest.raises(JobMismatchError, match="was begun with other options: every was 1f and is 2f"):
        encode(out, every="2f")


def test_a_target_of_another_model_is_refused(encode, tiny_config, tiny_processor, tmp_path):
    out = tmp_path / "tokens.parquet"
    encode(out)
    torch.manual_seed(1)
    LatentActionModel(tiny_config).save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")
    with pytest.raises(JobMismatchError, match=r"model\.weights_sha256\.model\.safetensors was \w+ and is \w+"):
        encode(out, model=tmp_path / "other")


def test_a_file_that_is_not_a_token_table_is_never_replaced(encode, tmp_path):
    (tmp_path / "notes.parquet").write_text("my notes")
    with pytest.raises(JobMismatchError, match=r"notes.parquet exists and was not written by this job: not a parq"):
        encode(tmp_path / "notes.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    with pytest.raises(JobMismatchError, match=r"folder exists and was not written by this job: not a token tab"):
        encode(tmp_path / "folder")
    assert (tmp_path / "folder" / "thesis.tex").exists()


def test_a_target_of_the_other_kind_is_refused_before_anything_is_read(encode, tmp_path, monkeypatch):
    monkeypatch.setattr("lara_tokenizer.encode.dataset.open_job", None)
    (tmp_path / "t.parquet").mkdir()
    (tmp_path / "tokens").touch()
    (tmp_path / "u.parquet.failed.jsonl").mkdir()
    for out, reason in {
        tmp_path / "t.parquet": r"t\.parquet exists and is a folder, a file would be written there",
        f"{tmp_path}/tokens/": "tokens exists and is a file, a folder would be written there",
        tmp_path / "u.parquet": r"u\.parquet\.failed\.jsonl exists and is a folder, a file",
    }.items():
        with pytest.raises(JobMismatchError, match=rf"{reason}.* Name another --out, or move it away"):
            encode(out)


def test_a_source_that_has_grown_is_noticed(encode, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    encode(tmp_path / "t.parquet", source=tmp_path / "clips")
    shutil.copyfile(clips / "a.mp4", tmp_path / "clips" / "new.mp4")
    with pytest.raises(JobMismatchError, match="made from 3 episodes, the source now has 4"):
        encode(tmp_path / "t.parquet", source=tmp_path / "clips")


def test_a_failed_episode_is_listed_and_tried_again(encode, clips, reference, tmp_path):
    source = shutil.copytree(clips, tmp_path / clips.name)
    good = (clips / "a.mp4").read_bytes()
    (source / "a.mp4").write_bytes(b"")
    out = tmp_path / "tokens.parquet"
    summary = encode(out, source=source)
    assert list(summary.failed) == ["a.mp4"]
    assert set(read_tokens(out)["episode"].to_pylist()) == {"b/left.mp4"}
    (line,) = Path(f"{out}.failed.jsonl").read_text().splitlines()
    assert json.loads(line) == {"episode": "a.mp4", "reason": summary.failed["a.mp4"]}
    assert Path(f"{out}.job").is_dir()
    (source / "a.mp4").write_bytes(good)
    summary = encode(out, source=source)
    assert (summary.failed, summary.resumed, summary.encoded) == ({}, 2, 2)
    assert out.read_bytes() == reference
    assert sorted(path.name for path in tmp_path.iterdir()) == [clips.name, "tokens.parquet"]


def test_on_error_fail_stops_at_the_first_and_keeps_what_is_done(encode, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "b" / "left.mp4").write_bytes(b"")
    with pytest.raises(EpisodeReadError, match=r"^b/left\.mp4: .*empty"):
        encode(tmp_path / "t.parquet", source=tmp_path / "clips", on_error="fail")
    (tmp_path / "clips" / "b" / "left.mp4").unlink()
    assert encode(tmp_path / "t.parquet", source=tmp_path / "clips", on_error="fail").resumed == 1


def test_nothing_is_written_where_everything_fails(encode, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"no video")
    summary = encode(tmp_path / "t.parquet", source=tmp_path / "clips")
    assert list(summary.failed) == ["bad.mp4"]
    assert not (tmp_path / "t.parquet").exists()
    assert (tmp_path / "t.parquet.failed.jsonl").exists()


def test_the_metadata_names_the_job_and_nothing_of_this_machine(encode, clips, tiny_checkpoint, tmp_path):
    encode(tmp_path / "t.parquet", columns=["latents"], limit=2)
    metadata = read_metadata(tmp_path / "t.parquet")
    assert metadata["model"]["id"] == tiny_checkpoint.name
    assert list(metadata["model"]["weights_sha256"]) == ["model.safetensors"]
    assert metadata["source"] == [{"name": clips.name, "format": "video files", "revision": None}]
    assert metadata["load"] == {"decoder": "pyav"}
    assert metadata["episodes"]["count"] == 2
    assert {name: metadata[name] for name in ("strides", "every", "batch_size", "dtype", "device")} == {
        "strides": ["0.5s"],
        "every": "1f",
        "batch_size": 64,
        "dtype": "float32",
        "device": "cpu",
    }
    assert set(metadata["versions"]) == {"av", "numpy", "pyarrow", "torch"}
    raw = (tmp_path / "t.parquet").read_bytes()
    assert str(clips).encode() not in raw
    assert str(tmp_path).encode() not in raw


def test_a_model_in_memory_is_the_checkpoint_until_it_is_changed(
    encode, clips, reference, tiny_checkpoint, tiny_processor, tmp_path
):
    model = LatentActionModel.from_pretrained(tiny_checkpoint)
    encode(tmp_path / "same.parquet", model=model, processor=tiny_processor)
    assert (tmp_path / "same.parquet").read_bytes() == reference
    with torch.no_grad():
        model.bottleneck.codebook.weight.mul_(-1)
    encode(tmp_path / "changed.parquet", load_episodes(clips), model=model, processor=tiny_processor)
    changed, same = (read_tokens(tmp_path / f"{name}.parquet") for name in ("changed", "same"))
    assert changed["codes"] != same["codes"]
    hashes = [read_metadata(tmp_path / f"{name}.parquet")["model"]["weights_sha256"] for name in ("changed", "same")]
    assert hashes[0] != hashes[1]
    with pytest.raises(ValueError, match="needs its processor"):
        encode(tmp_path / "x.parquet", model=model)


def test_a_folder_target_holds_the_same_rows(encode, tmp_path):
    encode(tmp_path / "t.parquet")
    encode(f"{tmp_path}/shards/")
    assert read_tokens(tmp_path / "shards").equals(read_tokens(tmp_path / "t.parquet"))
    assert json.loads((tmp_path / "shards" / "provenance.json").read_text())["rows"] == 44
    assert encode(tmp_path / "shards").already_complete


def test_a_full_disk_at_the_end_loses_nothing(encode, reference, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lara_tokenizer.table.write._write_file", full)
        with pytest.raises(
            OSError, match=r"cannot be written \(No space left on device\)\. All that is encoded is kept"
        ):
            encode(tmp_path / "tokens.parquet")
    # Nothing is computed again.
    monkeypatch.setattr("lara_tokenizer.encode.job.EncodeJob.engine", None)
    encode(tmp_path / "tokens.parquet")
    assert (tmp_path / "tokens.parquet").read_bytes() == reference


def test_two_runs_at_once_on_one_target_are_refused(encode, tmp_path):
    def second_run(state):
        with pytest.raises(LaraTokenizerError, match="in use by another run"):
            encode(tmp_path / "t.parquet")

    encode(tmp_path / "t.parquet", progress=second_run)


def test_unwritable_targets_are_one_line(encode, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot create the folder .*/file/below: .*\. Name another --out"):
        encode(tmp_path / "file" / "below" / "t.parquet")
    with pytest.raises(OSError, match=r"cannot create the folder /proc/1"):
        encode("/proc/1/new/t.parquet")
    with pytest.raises(ValueError, match="name a file ending in"):
        encode(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "no/such-model-here"}, "model 'no/such-model-here': neither a local folder nor a Hub"),
        ({"on_error": "explode"}, "on_error 'explode': takes 'skip' or 'fail'"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"decoder": "vlc"}, "decoder 'vlc'"),
        ({"workers": -1}, "workers -1"),
        ({"limit": 0}, "limit 0"),
        ({"source": []}, "no source given"),
    ],
)
def test_wrong_options_say_what_is_taken(encode, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message):
        encode(tmp_path / "t.parquet", **options)


def test_incomplete_checkpoints_say_what_is_missing(encode, tiny_checkpoint, tmp_path):
    for absent, message in (
        ("config.json", "has no config.json"),
        ("model.safetensors", r"has no \*\.safetensors"),
        ("preprocessor_config.json", "has no preprocessor_config.json"),
    ):
        folder = tmp_path / f"without-{absent}"
        shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns(absent))
        with pytest.raises(ValueError, match=message):
            encode(tmp_path / "t.parquet", model=folder)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type is 'bert', this takes 'latent_action'"):
        encode(tmp_path / "t.parquet", model=tmp_path / "bert")


def test_two_episodes_of_one_name_are_refused(encode, clips, tmp_path):
    with pytest.raises(ValueError, match=r"two episodes are called 'a\.mp4'"):
        encode(tmp_path / "t.parquet", source=[*load_episodes(clips), *load_episodes(clips)])


def test_an_estimate_counts_and_writes_nothing(clips, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimate = estimate_dataset(clips, tiny_checkpoint, strides=["0.5s", "1f"], workers=0)
    assert estimate.pairs == {"0.5s": 44, "1f": 23 + 29 + 2}
    assert (estimate.episodes, estimate.frames, estimate.failed, estimate.too_short) == (3, 57, {}, [])
    assert 0 < estimate.seconds < 60
    assert list(tmp_path.iterdir()) == []


def test_half_precision_keeps_the_columns(encode, tmp_path):
    encode(tmp_path / "t.parquet", dtype="bfloat16", columns=["latents"])
    assert read_metadata(tmp_path / "t.parquet")["dtype"] == "bfloat16"
    assert pq.read_schema(tmp_path / "t.parquet").field("latents").type.list_size == 4 * 8


def test_options_of_loading_are_those_of_load_episodes(clips, tiny_checkpoint, tmp_path):
    loaded = load_episodes(clips)
    for source in (clips, loaded):
        with pytest.raises(TypeError, match="unexpected keyword argument 'camera'"):
            encode_dataset(source, tiny_checkpoint, out=tmp_path / "t.parquet", camera="top")
    with pytest.raises(ValueError, match=r"segment: these episodes are loaded already. Give it to load_episodes"):
        encode_dataset(loaded, tiny_checkpoint, out=tmp_path / "t.parquet", segment="1s")
    encode_dataset(loaded[:1], tiny_checkpoint, out=tmp_path / "t.parquet", decoder="pyav", cameras=(), workers=0)
    metadata = read_metadata(tmp_path / "t.parquet")
    assert metadata["source"] == [{"name": clips.name, "format": "video files", "revision": None}]
    assert metadata["episodes"]["count"] == 1


# --- The short form of the health card: the same whoever asks, and whenever. ---


def test_strides_and_episodes_of_real_tables_join_to_what_one_job_writes(tmp_path, clips, tiny_checkpoint):
    options = {"columns": ("latents",), "workers": 0}
    for stride in ("2f", "5f"):
        encode_dataset(clips, tiny_checkpoint, out=tmp_path / f"{stride}.parquet", strides=stride, **options)
    both = tmp_path / "both.parquet"
    encode_dataset(clips, tiny_checkpoint, out=both, strides=["2f", "5f"], **options)
    summary = merge_tokens([tmp_path / "5f.parquet", tmp_path / "2f.parquet"], tmp_path / "merged.parquet")
    assert (tmp_path / "merged.parquet").read_bytes() == both.read_bytes()
    assert summary.notes == []
    assert encode_dataset(
        clips, tiny_checkpoint, out=tmp_path / "merged.parquet", strides=["2f", "5f"], **options
    ).already_complete
