"""JSON lines for LAPA: fields, codes and images are the table's; a killed run continues; mistakes are found first."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lara_tok.__main__ import app
from PIL import Image
from typer.testing import CliRunner

from lara_tokenizer.data import load_episodes
from lara_tokenizer.export import export_lapa
from lara_tokenizer.export.images import image_name
from lara_tokenizer.table import read_tokens

PROMPT = "<s> You are a helpful assistant. USER: What action should the robot take to `push the box` ASSISTANT:"


def lines_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_every_valid_pair_is_a_line_with_the_tables_codes(tmp_path, tokens, clips):
    summary = export_lapa(tokens, clips, tmp_path / "out", workers=0)
    lines = {line["image"]: line for line in lines_of(tmp_path / "out")}
    rows = [row for row in read_tokens(tokens).to_pylist() if row["valid"]]
    assert summary.pairs == len(rows) == len(lines)
    for row in rows:
        line = lines[image_name(row["episode"], "", row["frame_index"])]
        assert list(line) == ["image", "vision", "instruction", "delta", "fields"]
        assert line["delta"] == [str(code) for code in row["codes"]]
        assert line["vision"] == []
        assert line["fields"] == "[instruction],[vision],delta"
    assert lines["images/a.mp4/img_00000.jpg"]["instruction"] == PROMPT


def test_the_picture_of_a_line_is_the_first_frame_of_its_pair(tmp_path, tokens, clips):
    export_lapa(tokens, clips, tmp_path / "out", workers=0)
    named = {line["image"] for line in lines_of(tmp_path / "out")}
    written = {str(name) for name in files_of(tmp_path / "out") if name.suffix == ".jpg"}
    assert named == written
    episode = next(episode for episode in load_episodes(clips) if episode.id == "b/left.mp4")
    with Image.open(tmp_path / "out/images/b/left.mp4/img_00012.jpg") as image:
        differences = np.abs(episode.frames("", range(30)).astype(int) - np.asarray(image)).mean((1, 2, 3))
    assert differences.argmin() == 12


def test_flags_are_those_of_their_trainer(tmp_path, tokens, clips):
    summary = export_lapa(tokens, clips, tmp_path / "out", images=False)
    settings = summary.settings
    assert settings["--llama.delta_vocab_size"] == 16
    assert settings["--update_llama_config"] == "dict(delta_vocab_size=16, ...)"
    assert settings["--train_dataset.delta_vision_text_processor.n_tokens_per_delta"] == 4
    assert settings["--train_dataset.json_delta_dataset.seq_length"] == 384
    manifest = json.loads((tmp_path / "out/export_manifest.json").read_text())
    assert manifest["settings"] == settings
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_longer_code_makes_a_longer_sequence(tmp_path, clips, write_tokens):
    path = write_tokens(tmp_path / "t.parquet", {"a.mp4": 24}, sizes=(8, 3, 128), texts={"a.mp4": "x" * 300})
    summary = export_lapa(path, clips, tmp_path / "out", images=False)
    assert summary.settings["--train_dataset.json_delta_dataset.seq_length"] == 388
    length = len(PROMPT) - len("push the box") + 300
    assert any(f"The longest prompt has {length} characters" in note for note in summary.notes)


def test_equal_exports_give_equal_bytes_and_a_seed_another_order(tmp_path, tokens, clips):
    for name, workers, seed in (("a", 0, 0), ("b", 1, 0), ("c", 0, 1)):
        export_lapa(tokens, clips, tmp_path / name, workers=workers, seed=seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    lines = {name: (tmp_path / name / "train.jsonl").read_text().splitlines() for name in "ac"}
    assert lines["a"] != lines["c"]
    assert sorted(lines["a"]) == sorted(lines["c"])


def test_a_killed_export_goes_on_and_ends_the_same(tmp_path, tokens, clips):
    export_lapa(tokens, clips, tmp_path / "whole", workers=0)

    class Killed(Exception):
        pass

    def kill(done, total):
        raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        export_lapa(tokens, clips, out, workers=0, progress=kill)
    assert not out.exists()
    first = tmp_path / "out.partial/export/images/a.mp4/img_00000.jpg"
    before = first.stat().st_mtime_ns
    seen = []
    export_lapa(tokens, clips, out, workers=0, progress=lambda done, total: seen.append((done, total)))
    assert (out / first.relative_to(tmp_path / "out.partial/export")).stat().st_mtime_ns == before
    assert seen == [(19, 44), (44, 44)]
    assert files_of(out) == files_of(tmp_path / "whole")


def test_names_with_quotes_and_other_letters_are_json(tmp_path, clips, write_tokens, moving_square, write_video):
    name, text = 'gr"ün\\x.mp4', 'say "hello" {now} über'
    write_video(tmp_path / "clips" / name, moving_square(12))
    path = write_tokens(tmp_path / "t.parquet", {name: 12}, texts={name: text})
    export_lapa(path, tmp_path / "clips", tmp_path / "out", workers=0, template="do `{instruction}` {now}")
    line = lines_of(tmp_path / "out")[0]
    assert line["instruction"] == f"do `{text}` {{now}}"
    assert (tmp_path / "out" / line["image"]).is_file()


def test_cameras_have_folders_of_their_own(tmp_path, write_tokens, moving_square, write_video):
    write_video(tmp_path / "clips" / "a.mp4", moving_square(12))
    episode = load_episodes(tmp_path / "clips")[0]
    episode.cameras = ("top", "wrist")
    path = write_tokens(tmp_path / "t.parquet", {"a.mp4": 12}, cameras=("top", "wrist"))
    export_lapa(path, [episode], tmp_path / "out", workers=0, cameras="all", instruction="go")
    folders = {line["image"].rpartition("/")[0] for line in lines_of(tmp_path / "out")}
    assert folders == {"images/a.mp4/top", "images/a.mp4/wrist"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "do it"}, "takes a text with {instruction} in it"),
        ({"seed": -1}, "seed -1: takes 0 or more"),
        ({"stride": "9f"}, "stride '9f'"),
        ({"min_motion": 2}, "min_motion 2"),
        ({"min_margin": 2}, "no pair of stride 5f is left"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, tokens, clips, options, message):
    with pytest.raises(ValueError, match=message):
        export_lapa(tokens, clips, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out*"))


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, tokens, clips, write_tokens):
    with pytest.raises(ValueError, match="is not in the source"):
        export_lapa(tokens, clips / "a.mp4", tmp_path / "out")
    silent = write_tokens(tmp_path / "silent.parquet", {"a.mp4": 24})
    with pytest.raises(ValueError, match=r"episode 'a.mp4' has no instruction.*--instruction"):
        export_lapa(silent, clips, tmp_path / "out")
    continuous = write_tokens(tmp_path / "z.parquet", {"a.mp4": 24}, sizes=(4, 3, None))
    with pytest.raises(ValueError, match="no column 'codes', needed for the field delta"):
        export_lapa(continuous, clips, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        export_lapa(tokens, clips, tmp_path / "out")


def test_the_command_says_what_it_did_and_which_flags_to_pass(tmp_path, tokens, clips):
    options = ["--no-images", "--min-motion", "0.2", "--seed", "3"]
    ran = CliRunner().invoke(
        app, ["export", "lapa", str(tokens), str(clips), "--out", str(tmp_path / "out"), *options, "--json"]
    )
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result["pairs"] == len(lines_of(tmp_path / "out"))
    assert result["left_out"]["motion below 0.2"] == result["rows"] - result["pairs"] - 10
    ran = CliRunner().invoke(app, ["export", "lapa", str(tokens), str(clips), "--out", str(tmp_path / "two")])
    assert "--llama.delta_vocab_size=16" in ran.output


def test_progress_without_pictures_counts_lines(tmp_path, tokens, clips):
    seen = []
    export_lapa(tokens, clips, tmp_path / "out", images=False, progress=lambda *state: seen.append(state))
    assert seen[-1] == (44, 44)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"export_manifest.json", "train.jsonl"}
