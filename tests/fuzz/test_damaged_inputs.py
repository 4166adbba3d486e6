"""A small seeded part of `make fuzz`: damaged files of every format are read, refused or failed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import video_files
from fuzz.clips import plain_clip
from fuzz.damage import damage
from fuzz.datasets import TREES
from fuzz.forked import run_command, run_forked
from fuzz.independent import are_among, plain_frames
from fuzz.outcome import violations

# Of codecs whose damaged pictures do not depend on what is in the decoder's memory.
CLIPS = (
    ("h264", "b_frames", "mp4"),
    ("hevc", "b_frames", "mkv"),
    ("mpeg4", "plain", "avi"),
    ("mpeg2", "b_frames", "ts"),
)


def read(folder: Path) -> None:
    """Read all that is in a dataset, as far as it lets itself be read."""
    from lara_tokenizer.data import load_episodes
    from lara_tokenizer.errors import LaraTokenizerError

    try:
        episodes = load_episodes(folder, fps=10, cameras="all")
    except (LaraTokenizerError, ValueError, OSError):
        return
    for episode in episodes:
        try:
            episode.signals()
            for camera in episode.cameras:
                episode.frames(camera, range(min(episode.num_frames(camera), 8)))
        except LaraTokenizerError:
            continue
        finally:
            episode.close()


def read_all(folders: list[Path]) -> None:
    for folder in folders:
        try:
            read(folder)
        except BaseException as error:
            error.add_note(f"in {folder}")
            raise


@pytest.mark.parametrize("format_name", TREES)
def test_a_damaged_dataset_raises_nothing_but_the_project_s_errors(format_name, tmp_path):
    name, make = next(iter(TREES[format_name].items()))
    make(tmp_path / "whole")
    files = [path for path in sorted((tmp_path / "whole").rglob("*")) if path.is_file()]
    folders = []
    for number in range(8):
        rng = Random(f"{format_name} {number}")
        damaged = rng.choice(files)
        folders.append(tmp_path / f"damaged-{number}")
        for path in files:
            copy = folders[-1] / path.relative_to(tmp_path / "whole")
            copy.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            copy.write_bytes(damage(rng, path.name, data) if path == damaged else data)
    done = run_forked(read_all, folders)
    assert done.code == 0, done.output
    assert violations(done) == {}, name


def frames_that_are_not_in_the_file(clips: list[Path]) -> list[str]:
    """The clips of which a frame that was read alone, or in order, is not among those of a plain decode."""
    import numpy as np

    from lara_tokenizer.data import VideoReader
    from lara_tokenizer.errors import VideoDecodeError

    wrong = []
    for clip in clips:
        try:
            count = VideoReader(clip).index().num_frames
            frames = VideoReader(clip).frames("", range(count))
            alone = [VideoReader(clip).frames("", [i])[0] for i in range(count - 1, -1, -5)]
        except VideoDecodeError:
            continue
        if not np.array_equal(alone, frames[::-5]) or not are_among(frames, plain_frames(clip)[1], 0):
            wrong.append(clip.name)
    return wrong


def test_frames_of_a_damaged_clip_are_those_of_a_plain_decode(tmp_path):
    frames, damaged = video_files.numbered(20), []
    for codec, variant, container in CLIPS:
        clip = video_files.write_clip(tmp_path / f"{codec}.{container}", codec, frames, variant=variant)
        for number in range(15):
            damaged.append(clip.with_name(f"{number}_{clip.name}"))
            damaged[-1].write_bytes(damage(Random(f"{codec} {number}"), clip.name, clip.read_bytes()))
    done = run_forked(frames_that_are_not_in_the_file, damaged)
    assert done.code == 0, done.output
    assert done.value == []


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_checkpoint_is_refused_in_a_line(number, tiny_checkpoint, tmp_path):
    rng = Random(f"checkpoint {number}")
    damaged = ("config.json", "preprocessor_config.json", "model.safetensors", "config.json")[number]
    for path in tiny_checkpoint.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(damage(rng, path.name, data) if path.name == damaged else data)
    plain_clip(tmp_path / "clip.mp4", 6)
    command = ["encode", "clip.mp4", "--model", ".", "--stride", "2f", "--workers", "0", "--out", "t.parquet"]
    assert violations(run_command(command, tmp_path)) == {}


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_recipe_is_refused_in_a_line(number, tmp_path):
    recipe = Path(__file__).resolve().parents[1] / "golden/recipes/train.yaml"
    (tmp_path / "recipe.yaml").write_bytes(damage(Random(f"recipe {number}"), "recipe.yaml", recipe.read_bytes()))
    assert violations(run_command(["train", "--recipe", "recipe.yaml", "--dry-run"], tmp_path)) == {}
