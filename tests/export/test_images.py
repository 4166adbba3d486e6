"""Images of exported frames: their names, and their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer.data import Episode
from lara_tokenizer.export.folder import export_folder
from lara_tokenizer.export.images import ImageTask, check_image_folders, image_folder, write_images
from lara_tokenizer.export.source_match import match_source
from lara_tokenizer.table.reader import TokenTable


def test_images_are_below_their_folder_whatever_the_episode_is_called():
    for episode in ("../../evil", "/etc/passwd", "a/../../b", "..", "a//b"):
        parts = image_folder(episode, "..").split("/")
        assert parts[0] == "images"
        assert not {"..", ".", ""} & set(parts)


def test_two_cameras_that_would_share_a_folder_are_refused():
    with pytest.raises(ValueError, match=r"episode 'a/b' camera '' and of 'a' camera 'b' would have the same names"):
        check_image_folders([("a", "b"), ("a/b", "")])
    check_image_folders([("a", "b c"), ("a b", "c"), ("a", "b/c"), ("a/b", "c")])
    tasks = [
        ImageTask(Episode(name, None), camera, np.arange(1), Path()) for name, camera in (("a", "b c"), ("a b", "c"))
    ]
    assert tasks[0].part != tasks[1].part


def test_images_are_the_requested_frames_and_written_once(tmp_path, tokens, clips):
    from PIL import Image

    matched = match_source(TokenTable.open(tokens), clips)
    episode = matched.episodes["a.mp4"]
    indices = np.array([0, 7, 20])
    with export_folder(tmp_path / "out", {}) as folder:
        task = ImageTask(episode, "", indices, folder.path / image_folder("a.mp4", ""))
        written: list[ImageTask] = []
        done: list[ImageTask] = []
        work = lambda task: (written.append(task), write_images(task))  # noqa: E731
        folder.run_tasks(work, [task], workers=0, on_done=done.append)
        folder.run_tasks(work, [task], workers=0, on_done=done.append)
    assert (written, done) == ([task], [task, task])
    files = sorted((tmp_path / "out/images/a.mp4").iterdir())
    assert [file.name for file in files] == ["img_00000.jpg", "img_00007.jpg", "img_00020.jpg"]
    for file, expected in zip(files, episode.frames("", indices), strict=True):
        assert np.abs(np.array(Image.open(file)).astype(int) - expected).mean() < 6  # JPEG halves the colours
