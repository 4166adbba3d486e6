"""Every example runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import torch

from lara_tokenizer import LatentActionModel, encode_dataset

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: object) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def test_encode_videos(tmp_path, capsys):
    run("encode_videos.py", str(ROOT / "samples"), str(tmp_path / "tokens.parquet"))
    assert "189 pairs of 3 episodes" in capsys.readouterr().out


def test_label_lerobot(tmp_path, capsys, write_lerobot, moving_square):
    write_lerobot(tmp_path / "demos", {"observation.images.top": [moving_square(20), moving_square(15)]})
    run("label_lerobot.py", str(tmp_path / "demos"), str(tmp_path / "labelled"))
    assert "latent_labels.codebook_id_latents" in capsys.readouterr().out
    # The vectors are those of the model, whose eight positions have a codebook each.
    rows = pq.read_table(tmp_path / "labelled" / "data").to_pylist()
    valid = [row for row in rows if row["latent_labels.valid"] == 1]
    codes = torch.tensor([row["latent_labels.codebook_id_latents"] for row in valid])
    vectors = torch.tensor([row["latent_labels.codebook_vector_latents"] for row in valid])
    assert len(valid) > 10
    assert torch.equal(LatentActionModel.from_pretrained("lara-lam").bottleneck.lookup(codes), vectors)


def test_train_small(tmp_path, capsys):
    run("train_small.py", str(ROOT / "samples"), str(tmp_path / "lam"), 2)
    assert "tensor([" in capsys.readouterr().out


def test_attach_lara(capsys):
    run("attach_lara.py", 1)
    assert "lara" in capsys.readouterr().out


def test_read_table(tmp_path, monkeypatch, capsys):
    encode_dataset(ROOT / "samples", "lara-lam", out=tmp_path / "tokens.parquet", columns=["latents"], workers=0)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "read_table.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["codes"].shape == (189, 8)  # type: ignore[attr-defined]
    assert capsys.readouterr().out.count("%") == 8


def test_every_example_has_a_test():
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")} <= tests
