"""`lara-tok info`, `verify` and `decode` on a token table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lara_tokenizer import LatentActionModel, load_episodes
from lara_tokenizer.table import read_metadata


def with_codes(source, target, row, codes):
    """A copy of a table with other codes in one row, its metadata kept."""
    table = pq.read_table(source)
    column = table["codes"].to_pylist()
    column[row] = codes
    column_index = table.schema.get_field_index("codes")
    pq.write_table(
        table.set_column(column_index, table.schema.field("codes"), pa.array(column, table.schema.field("codes").type)),
        target,
    )


@pytest.fixture
def shelf(tokens, tmp_path, tiny_checkpoint):
    """A copy of the table, and the options that find the checkpoint."""
    shutil.copyfile(tokens, tmp_path / "t.parquet")
    return tmp_path / "t.parquet", ["--model", tiny_checkpoint, "--workers", 0]


def test_an_untouched_table_verifies(lara_tok, shelf, clip_folder):
    path, options = shelf
    ran = lara_tok("verify", path, clip_folder, "--sample", "100%", *options)
    assert ran.code == 0
    assert "checked 96 rows in 2 of 2 units" in ran.out
    assert ran.out.splitlines()[-1] == "equal"


def test_a_single_flipped_code_is_found_and_named(lara_tok, shelf, clip_folder):
    path, options = shelf
    codes = pq.read_table(path)["codes"].to_pylist()[40]
    flipped = [codes[0] ^ 1, *codes[1:]]
    with_codes(path, path, 40, flipped)
    row = pq.read_table(path).slice(40, 1).to_pylist()[0]
    ran = lara_tok("verify", path, clip_folder, "--sample", "100%", "--json", *options)
    assert ran.code == 1
    report = json.loads(ran.out)
    key = {name: row[name] for name in ("episode", "camera", "stride", "frame_index")}
    assert report["differences"] == [{**key, "codes": flipped, "codes_now": codes}]
    ran = lara_tok("verify", path, clip_folder, "--sample", "100%", *options)
    assert f"differs: {row['episode']} {row['stride']} frame {row['frame_index']}: table {flipped}" in ran.out


def test_a_missing_row_is_a_difference(lara_tok, shelf, clip_folder):
    path, options = shelf
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 10), table.slice(11)]), path)
    ran = lara_tok("verify", path, clip_folder, "--sample", "100%", "--json", *options)
    (difference,) = json.loads(ran.out)["differences"]
    assert (difference["frame_index"], difference["codes"]) == (10, None)


def test_a_sample_takes_whole_units_and_at_least_one(lara_tok, shelf, clip_folder):
    path, options = shelf
    report = json.loads(lara_tok("verify", path, clip_folder, "--json", *options).out)
    assert (report["units"], report["units_checked"]) == (2, 1)
    assert report["rows_checked"] in (25 + 29, 19 + 23)


def test_a_clip_that_cannot_be_read_any_more_is_named(lara_tok, shelf, clip_folder, tmp_path):
    path, options = shelf
    source = shutil.copytree(clip_folder, tmp_path / "copy")
    (source / "two.mp4").write_bytes(b"")
    ran = lara_tok("verify", path, source, "--sample", "100%", *options)
    assert ran.code == 1
    assert "unreadable: two.mp4: the file is empty" in ran.out


def test_other_weights_are_refused(lara_tok, shelf, clip_folder, tiny_config, tiny_processor, tmp_path):
    torch.manual_seed(5)
    LatentActionModel(tiny_config).save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")
    for arguments in (
        ["verify", shelf[0], clip_folder],
        ["decode", shelf[0], clip_folder, "--out", tmp_path / "x.png"],
    ):
        ran = lara_tok(*arguments, "--model", tmp_path / "other")
        assert ran.code == 2
        assert "Pass the right" in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", "5"], "takes a share in percent"),
        (["--sample", "0%"], "above 0"),
        (["--sample", "200%"], "at most 1"),
    ],
)
def test_wrong_samples_are_one_line(lara_tok, shelf, clip_folder, arguments, message):
    ran = lara_tok("verify", shelf[0], clip_folder, *shelf[1], *arguments)
    assert ran.code == 2
    assert message in ran.err


def test_a_source_without_the_episode_is_refused(lara_tok, shelf, clip_folder):
    ran = lara_tok("verify", shelf[0], clip_folder / "one.mp4", *shelf[1])
    assert ran.code == 2
    assert "episode 'two.mp4'" in ran.err


def test_info_says_what_a_table_is(lara_tok, tokens):
    ran = lara_tok("info", tokens)
    assert ran.code == 0
    digest = read_metadata(tokens)["model"]["weights_sha256"]["model.safetensors"]
    for text in (
        "96 rows of 2 episodes",
        "stride 0.5s",
        "stride 1f",
        digest,
        "decoder pyav",
        "position 3",
        "of 16 used",
        "camera motion       0.0% of the moving pairs",
        "verdict             do not train on these: the codebook has collapsed: ",
    ):
        assert text in ran.out
    result = json.loads(lara_tok("info", tokens, "--json").out)
    assert np.array(result["histogram"]).sum(1).tolist() == [96] * 4
    assert result["provenance"] == read_metadata(tokens)
    assert result["figures"]["moving_pairs"] == 96


def test_info_says_what_a_checkpoint_is(lara_tok, tiny_checkpoint, tiny_model):
    ran = lara_tok("info", tiny_checkpoint)
    assert ran.code == 0
    assert "4 codes of 16, of dimension 8" in ran.out
    assert "trained strides     0.5s" in ran.out
    result = json.loads(lara_tok("info", tiny_checkpoint, "--json").out)
    stored = [tensor for tensor in tiny_model.state_dict().values() if tensor.is_floating_point()]
    assert result["parameters"]["total"] == sum(tensor.numel() for tensor in stored)


def test_info_refuses_what_is_neither(lara_tok, tmp_path):
    (tmp_path / "x.parquet").write_text("no")
    for target in (tmp_path / "x.parquet", tmp_path / "absent.parquet", tmp_path):
        ran = lara_tok("info", target)
        assert ran.code == 2
        assert ran.err.startswith("error: ")
        assert len(ran.err.splitlines()) == 1


def test_decode_draws_the_frame_the_future_and_the_prediction(
    lara_tok, shelf, clip_folder, tmp_path, tiny_model, tiny_processor
):
    out = tmp_path / "images" / "futures.png"
    flags = ["--out", out, "--episode", "two.mp4", "--frames", "0,7", "--model", shelf[1][1]]
    ran = lara_tok("decode", shelf[0], clip_folder, *flags)
    assert ran.code == 0
    assert "2 pairs of two.mp4, stride 0.5s" in ran.out
    assert "gain over copying  +0.00" in ran.out  # of random weights the decoder copies frame t
    image = np.asarray(Image.open(out))
    row = next(
        row
        for row in pq.read_table(shelf[0]).to_pylist()
        if (row["episode"], row["stride"], row["frame_index"]) == ("two.mp4", "0.5s", 7)
    )
    (episode,) = load_episodes(clip_folder / "two.mp4")
    now, future = tiny_processor.resize_frames(episode.frames("", [7, 12])).permute(0, 2, 3, 1).numpy()
    with torch.inference_mode():
        predicted = tiny_processor.postprocess(
            tiny_model.decode(
                tiny_processor(episode.frames("", [7]))["pixel_values"], codes=torch.tensor([row["codes"]])
            )
        )[0]
    side, line = 192, 192 + 2 * 16 + 8
    top = 2 * 16 + line
    for position, frame in enumerate((now, future, predicted)):
        left = 4 + position * (side + 4)
        shown = Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image[top : top + side, left : left + side], np.asarray(shown))


def test_decode_draws_an_animation(lara_tok, shelf, clip_folder, tmp_path):
    flags = ["--out", tmp_path / "f.gif", "--frames", "0:10:2", "--model", shelf[1][1], "--json"]
    result = json.loads(lara_tok("decode", shelf[0], clip_folder, *flags).out)
    assert result["frames"] == [0, 2, 4, 6, 8]
    assert result["episode"] == "one.mp4"
    assert Image.open(tmp_path / "f.gif").n_frames == 5


def test_decode_writes_a_video_that_runs_as_fast_as_its_source(lara_tok, shelf, clip_folder, tmp_path, decode_all):
    flags = [
        "--out",
        tmp_path / "f.mp4",
        "--stride",
        "1f",
        "--camera",
        "",
        "--frames",
        "0:10:2",
        "--model",
        shelf[1][1],
    ]
    result = json.loads(lara_tok("decode", shelf[0], clip_folder, *flags, "--json").out)
    assert (result["stride"], result["camera"], len(result["gains"])) == ("1f", "", 5)
    assert len(decode_all(tmp_path / "f.mp4")) == 5
    assert load_episodes(tmp_path / "f.mp4")[0].frame_index().fps == 5  # every other frame of 10 per second


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "f.bmp"], "takes a name ending in .png, .gif, .mp4"),
        (["--out", "f.png", "--episode", "three.mp4"], "There are: one.mp4, two.mp4"),
        (["--out", "f.png", "--camera", "top"], "camera 'top' is not in"),
        (["--out", "f.png", "--stride", "2f"], "There are: 0.5s, 1f"),
        (["--out", "f.png", "--frames", "0,900"], "frame 900: no valid pair starts there"),
        (["--out", "f.png", "--frames", "some"], "takes frame indices"),
    ],
)
def test_wrong_options_of_decode_are_one_line(lara_tok, shelf, clip_folder, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    ran = lara_tok("decode", shelf[0], clip_folder, "--model", shelf[1][1], *flags)
    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_view_writes_a_page_and_says_what_is_in_it(lara_tok, tokens, clip_folder, tmp_path):
    out = tmp_path / "view.html"
    ran = lara_tok("view", tokens, clip_folder, "--out", out, "--stride", "0.5s", "--episodes", "1")
    assert ran.code == 0, ran.err
    assert f"{out}: 19 moments of 1 episode" in ran.out
    again = lara_tok("view", tokens, clip_folder, "--out", out, "--stride", "0.5s")
    assert again.code == 2
    assert "pass --overwrite" in again.err


def test_bars_of_other_libraries_are_off_in_commands_and_their_workers():
    bar = "from tqdm.auto import tqdm; [*tqdm([1], desc='Loading weights')]"
    worker = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {bar!r}])"
    code = f"from lara_tok._app import messages; messages.silence_other_libraries(); {worker}; {bar}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
