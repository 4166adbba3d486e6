"""The field `vision` of LAPA's lines: the tokenizer's own codes of the images as saved, also after a kill."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from lara_tok.__main__ import app
from PIL import Image
from typer.testing import CliRunner

from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.export import export_lapa, vision_codes

PROCESSOR = "--train_dataset.delta_vision_text_processor."


class Every16thPixel:
    """A vision tokenizer for images of 64 x 64: 256 codes of each, which depend on its very bytes."""

    codebook_size, num_codes = 8192, 256

    def __init__(self, name="pixels", dies_after=None):
        self.identity = {"model": name}
        self.images, self._dies_after = 0, dies_after

    def __call__(self, frames):
        if self.images == self._dies_after:
            raise KeyboardInterrupt
        self.images += len(frames)
        pixels = frames[:, 2::4, 2::4].astype(int)
        return (pixels @ [24, 7, 1]).reshape(len(frames), -1)


@pytest.fixture(autouse=True)
def _short_batches(monkeypatch):
    monkeypatch.setattr(vision_codes, "_BATCH", 8)
    monkeypatch.setattr(vision_codes, "_AT_ONCE", 4)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def saved(folder, line):
    with Image.open(folder / line["image"]) as image:
        return np.asarray(image)[None]


def test_a_line_holds_the_codes_of_its_picture_as_saved(tmp_path, tokens, clips):
    out = tmp_path / "out"
    summary = export_lapa(tokens, clips, out, workers=0, vision=Every16thPixel())
    lines = lines_of(out)
    assert len(lines) == summary.pairs == 44
    for line in lines:
        assert list(line) == ["image", "vision", "instruction", "delta", "fields"]
        assert line["vision"] == Every16thPixel()(saved(out, line))[0].tolist()
    assert {file.name for file in out.iterdir()} == {"images", "train.jsonl", "export_manifest.json"}


def test_the_codes_are_all_that_differs_from_an_export_without(tmp_path, tokens, clips):
    export_lapa(tokens, clips, tmp_path / "with", workers=0, vision=Every16thPixel())
    export_lapa(tokens, clips, tmp_path / "without", workers=0)
    assert [{**line, "vision": []} for line in lines_of(tmp_path / "with")] == lines_of(tmp_path / "without")


def test_without_pictures_the_codes_are_the_same(tmp_path, tokens, clips):
    seen = []
    export_lapa(tokens, clips, tmp_path / "a", workers=0, vision=Every16thPixel())
    export_lapa(
        tokens, clips, tmp_path / "b", images=False, vision=Every16thPixel(), progress=lambda *state: seen.append(state)
    )
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")
    assert seen[-1] == (44, 44)
    assert not (tmp_path / "b/images").exists()


def test_the_settings_make_the_loader_read_the_field_and_no_image(tmp_path, tokens, clips):
    summary = export_lapa(tokens, clips, tmp_path / "out", images=False, vision=Every16thPixel())
    assert summary.settings[f"{PROCESSOR}img_aug"] is False
    assert not any("vqgan" in name or "image_absolute_path" in name for name in summary.settings)
    assert not any("No pictures" in note for note in summary.notes)
    manifest = json.loads((tmp_path / "out/export_manifest.json").read_text())
    assert manifest["options"]["vision"] == {"model": "pixels"}
    assert export_lapa(tokens, clips, tmp_path / "none", images=False).settings[f"{PROCESSOR}img_aug"] is True


def test_a_killed_export_goes_on_where_it_was_and_ends_the_same(tmp_path, tokens, clips):
    export_lapa(tokens, clips, tmp_path / "whole", workers=0, vision=Every16thPixel())
    out, first, seen = tmp_path / "out", Every16thPixel(dies_after=23), []
    with pytest.raises(KeyboardInterrupt):
        export_lapa(tokens, clips, out, workers=0, vision=first)
    assert not out.exists()
    second = Every16thPixel()
    export_lapa(tokens, clips, out, workers=0, vision=second, progress=lambda *state: seen.append(state))
    assert second.images == 44 - 19  # all three batches of a.mp4 were done: 8, 8 and 3; of the next, half a batch
    assert seen[-1] == (88, 88)  # each image written, and tokenized
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_kill_behind_the_lines_tokenizes_nothing_again(tmp_path, tokens, clips, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lara_tokenizer.export.job.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            export_lapa(tokens, clips, tmp_path / "out", workers=0, vision=Every16thPixel())
    again = Every16thPixel()
    export_lapa(tokens, clips, tmp_path / "out", workers=0, vision=again)
    assert again.images == 0
    assert all(len(line["vision"]) == 256 for line in lines_of(tmp_path / "out"))


@pytest.mark.parametrize("other", [None, Every16thPixel("others")])
def test_an_export_goes_on_with_the_same_weights_only(tmp_path, tokens, clips, other):
    with pytest.raises(KeyboardInterrupt):
        export_lapa(tokens, clips, tmp_path / "out", workers=0, vision=Every16thPixel(dies_after=4))
    with pytest.raises(JobMismatchError, match="vision"):
        export_lapa(tokens, clips, tmp_path / "out", workers=0, vision=other)


@pytest.mark.parametrize("workers", [0, 1])
def test_cameras_and_filters_get_the_codes_of_their_own_images(tmp_path, tokens, clips, workers):
    out = tmp_path / "out"
    export_lapa(tokens, clips, out, workers=workers, vision=Every16thPixel(), min_motion=0.5)
    lines = lines_of(out)
    assert 0 < len(lines) < 44
    assert all(line["vision"] == Every16thPixel()(saved(out, line))[0].tolist() for line in lines)


@pytest.mark.parametrize(("field", "value"), [("num_codes", 64), ("codebook_size", 8193)])
def test_a_tokenizer_of_other_sizes_is_refused_before_anything_is_written(tmp_path, tokens, clips, field, value):
    vision = Every16thPixel()
    setattr(vision, field, value)
    with pytest.raises(ValueError, match=r"makes .* LAPA takes 256 of at most 8192"):
        export_lapa(tokens, clips, tmp_path / "out", vision=vision)
    assert not list(tmp_path.glob("out*"))


def test_codes_that_are_not_as_the_tokenizer_says_are_refused(tmp_path, tokens, clips):
    class Wrong(Every16thPixel):
        def __call__(self, frames):
            return super().__call__(frames) + 8192

    with pytest.raises(ValueError, match=r"the vision tokenizer gave int64 \(4, 256\), from 8... to"):
        export_lapa(tokens, clips, tmp_path / "out", images=False, vision=Wrong())


def test_the_command_fills_the_field_by_the_weights_that_are_named(tmp_path, write_tokens, clips, monkeypatch):
    import torch
    from peer_parity.lwm_vqgan import nested, random_arrays

    from lara_tokenizer.vision_tokens import LwmVisionTokenizer, VqganSizes, tokenizer
    from lara_tokenizer.vision_tokens.lwm_weights import lwm_shapes

    torch.set_num_threads(1)
    sizes = VqganSizes(width=32, multipliers=(1,) * 5, blocks=1, latent_width=8, codebook_dim=8)
    weights, out = tmp_path / "vqgan", tmp_path / "out"
    weights.write_bytes(pickle.dumps(nested(random_arrays(lwm_shapes(sizes)))))
    tokens = write_tokens(tmp_path / "few.parquet", {"a.mp4": 24}, strides=("22f",), texts={"a.mp4": "push"})
    command = ["export", "lapa", str(tokens), str(clips), "--out", str(out), "--vision-weights", str(weights)]
    refused = CliRunner().invoke(app, command)
    assert "tensor 'quantize/embeddings' has shape (8192, 8), LWM's VQGAN has (8192, 64)" in str(refused.exception)
    assert not out.exists()
    monkeypatch.setattr(tokenizer, "VqganSizes", lambda: sizes)
    ran = CliRunner().invoke(app, [*command, "--workers", "0", "--device", "cpu", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["settings"][f"{PROCESSOR}img_aug"] is False
    ours = LwmVisionTokenizer.from_pickle(weights, device="cpu")
    lines = sorted(lines_of(out), key=lambda line: line["image"])
    images = np.concatenate([saved(out, line) for line in lines])
    codes = [line["vision"] for line in lines]
    assert codes == ours(images).tolist()
    assert len(codes) == 2
    assert len({code for of_image in codes for code in of_image}) > 10


def test_the_command_wants_weights_for_a_device(tmp_path, tokens, clips):
    options = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    ran = CliRunner().invoke(app, ["export", "lapa", str(tokens), str(clips), *options])
    assert "--device cpu is for --vision-weights" in str(ran.exception)


def test_without_weights_the_command_imports_no_torch(tmp_path, tokens, clips):
    arguments = ["export", "lapa", str(tokens), str(clips), "--out", str(tmp_path / "out"), "--no-images"]
    code = (
        "import sys; from typer.testing import CliRunner; from lara_tok.__main__ import app; "
        f"print(CliRunner().invoke(app, {arguments}).exit_code, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["0", "False"]
