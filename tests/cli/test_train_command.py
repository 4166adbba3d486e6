"""`lara-tok train`: missing arguments are named."""

from __future__ import annotations


def test_missing_arguments_are_named(lara_tok, clip_folder, tmp_path):
    sentences = {
        ("train", clip_folder): "error: Missing --out.",
        ("train", "--out", tmp_path): "error: No source: name SOURCE, or `sources` in the recipe.",
        ("train",): "error: No source: name SOURCE, or `sources` in the recipe. Missing --out.",
    }
    for arguments, sentence in sentences.items():
        ran = lara_tok(*arguments)
        assert (ran.code, ran.out, ran.err) == (2, "", f"{sentence}\n")


def test_a_missing_recipe_is_named(lara_tok, clip_folder, tmp_path):
    ran = lara_tok("train", clip_folder, "--recipe", tmp_path / "nope.yaml", "--out", tmp_path / "run")
    assert (ran.code, ran.out) == (2, "")
    assert "nope.yaml': no such file or recipe. By name there are lam, lam_sim, " in ran.err
