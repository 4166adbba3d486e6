"""`lara-tok encode`: output, exit codes, and bad input."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scheduling import ordinary_scheduling

from lara_tokenizer import encode_dataset, load_episodes
from lara_tokenizer.table import read_tokens

FRAMES = 12


@pytest.fixture
def options(tiny_checkpoint):
    """The tiny model, in this process."""
    return ["--model", tiny_checkpoint, "--workers", 0]


def test_a_summary_for_people(lara_tok, clip_folder, options, tmp_path):
    ran = lara_tok("encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options)
    assert ran.code == 0
    assert "t.parquet: 44 pairs of 2 episodes" in ran.out
    for word in (
        "stride 0.5s",
        "of 16 used, perplexity",
        "per position",
        "idle pairs",
        "s decoding",
        "s model",
        "per position",
        "camera",
        "verdict",
    ):
        assert word in ran.out
    assert "\x1b" not in ran.out


def test_a_summary_for_machines(lara_tok, clip_folder, options, tmp_path):
    ran = lara_tok("encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", "--json", *options)
    result = json.loads(ran.out)
    assert result["pairs"] == {"0.5s": 44}
    assert result["failed"] == {}
    assert result["figures"]["moving_pairs"] == 44
    assert result["figures"]["whole_picture_share"] == 0
    assert all(set(finding) == {"name", "severity", "sentence", "camera"} for finding in result["health"])
    assert set(result["verdict"]) == {"grade", "reason", "next_step"}
    again = lara_tok("encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options)
    assert again.code == 0
    assert "complete already, nothing to do" in again.out


@pytest.fixture
def panning_clip(tmp_path, write_video):
    """A camera that pans over a texture, then stands still: 34 pairs that move and 50 that do not."""
    texture = np.kron(np.random.default_rng(0).integers(0, 200, (20, 60, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    pan = [texture[40:104, 4 * min(t, 33) :][:, :64] for t in range(85)]
    return write_video(tmp_path / "pan.mp4", np.stack(pan))


def test_it_ends_with_what_the_labels_look_like(lara_tok, panning_clip, options, tmp_path):
    arguments = ["encode", panning_clip, "--out", tmp_path / "t.parquet", "--stride", "1f", *options]
    for ran in (lara_tok(*arguments), lara_tok(*arguments)):  # the second finds it complete
        assert ran.code == 0
        assert "\x1b" not in ran.out
        *_, codes, idle, camera, first, second, verdict, following = ran.out.splitlines()
        assert re.fullmatch(
            r"  codes          \d+ of 16 used, perplexity [\d.]+ pooled, [\d.]+ to [\d.]+ per position", codes
        )
        share = re.fullmatch(r"  idle pairs     (\d\d\.\d%)", idle)[1]
        assert re.fullmatch(r"  camera motion  \d+\.\d% of the moving pairs", camera)
        assert first.startswith(f"warning: {share} of the pairs are idle: ")
        assert re.match(r"warning: camera motion in \d+\.\d% of the moving pairs: ", second)
        assert verdict == "  verdict        no evidence yet: code statistics: 2 warnings; not probed"
        assert following == "  next           run lara-tok eval"


def test_options_reach_the_table(lara_tok, clip_folder, options, tmp_path):
    out = tmp_path / "t.parquet"
    flags = ["--stride", "2f", "--stride", "1f", "--every", "2f", "--fps", "one*=5", "--fps", "two*=3"]
    flags += ["--with", "latents", "--keep-tail", "--batch-size", 8, "--dtype", "float32", "--device", "cpu"]
    ran = lara_tok("encode", clip_folder / "one.mp4", clip_folder / "two.mp4", "--out", out, *flags, *options)
    assert ran.code == 0
    table = read_tokens(out)
    assert table.num_rows == 2 * (15 + 12)
    assert "latents" in table.schema.names
    rows = [row for row in table.to_pylist() if row["stride"] == "2f"]
    assert [row["timestamp"] for row in rows[:3]] == pytest.approx([0, 0.4, 0.8])
    assert [row["valid"] for row in rows[:15]] == [True] * 14 + [False]


def test_a_dry_run_counts_and_writes_nothing(lara_tok, clip_folder, options, tmp_path):
    ran = lara_tok("encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", "--dry-run", *options)
    assert ran.code == 0
    assert "2 episodes, 44 pairs" in ran.out
    assert "about 0:0" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_says_how_to_continue_and_the_next_run_resumes(
    lara_tok, clip_folder, options, tmp_path, monkeypatch
):
    from lara_tokenizer.encode.store import Store

    out, commit = tmp_path / "t.parquet", Store.commit

    def interrupted(store, event):
        tasks = commit(store, event)
        if store.done_units():
            raise KeyboardInterrupt
        return tasks

    monkeypatch.setattr(Store, "commit", interrupted)
    ran = lara_tok("encode", clip_folder, "--out", out, "--stride", "0.5s", *options)
    assert ran.code == 130
    assert "no finished work is lost, the same command continues from there" in ran.err
    monkeypatch.setattr(Store, "commit", commit)
    ran = lara_tok("encode", clip_folder, "--out", out, "--stride", "0.5s", *options)
    assert ran.code == 0
    assert "resuming: 1 of 2 episodes were done before" in ran.err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_to_end_is_an_interrupt_at_any_stage(
    lara_tok, clip_folder, options, tmp_path, monkeypatch, name, code
):
    from lara_tokenizer.encode.engines import InProcessEngine

    number, closed = getattr(signal, name), []
    monkeypatch.setattr(InProcessEngine, "start", lambda _: os.kill(os.getpid(), number))
    monkeypatch.setattr(InProcessEngine, "close", lambda _: closed.append(os.kill(os.getpid(), number)))
    before = signal.getsignal(number)
    ran = lara_tok("encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options)
    assert (ran.code, closed) == (code, [None])  # a second signal does not disturb the end of the workers
    assert "interrupted: 0 of 2 episodes are done; no finished work is lost" in ran.err
    assert list(tmp_path.iterdir()) == []  # nothing was begun
    assert signal.getsignal(number) == before


def test_an_interrupt_tells_episodes_that_are_too_short_from_those_that_are_encoded():
    from lara_tok.encode import _Live

    from lara_tokenizer.encode import Progress
    from lara_tokenizer.encode.plan import EpisodePlan, Unit

    plans = [EpisodePlan("a", (Unit("a", "", 0, 9, None),), {"1f": 9}, 10), EpisodePlan("b", (), {"1f": 0}, 0)]
    state = Progress.begin(3, {plan.episode: plan for plan in plans}, set(plans[0].units))
    with _Live() as live:
        live.show(state)
    assert live.done == "2 of 3 episodes are done, 1 of them too short for a pair"


def test_a_verification_that_is_ended_says_so(lara_tok, clip_folder, tokens, options, monkeypatch):
    from lara_tokenizer.encode.engines import InProcessEngine

    monkeypatch.setattr(InProcessEngine, "start", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    ran = lara_tok("verify", tokens, clip_folder, *options)
    assert (ran.code, ran.out) == (143, "")
    assert "interrupted: nothing was changed" in ran.err


def test_a_signal_that_nohup_ignores_stays_ignored(monkeypatch):
    from lara_tok.encode import stoppable

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_progress_is_quiet_where_nobody_watches(lara_tok, clip_folder, options, tmp_path):
    ran = lara_tok("encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options)
    assert [line for line in ran.err.splitlines() if line and "Loading weights" not in line] == [
        f"{clip_folder.name}: video files, 2 episodes"
    ]


def test_progress_moves_on_a_terminal(clip_folder, options, tmp_path, monkeypatch, lara_tok):
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr("lara_tok.encode.console_err", terminal)
    shutil.copytree(clip_folder, tmp_path / "clips")
    (tmp_path / "clips" / "zero.mp4").write_bytes(b"")
    ran = lara_tok("encode", tmp_path / "clips", "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options)
    assert ran.code == 1
    assert "loading the model" in screen.getvalue()
    assert re.search(r"3 of 3 episodes, [\d,]+ pairs/s, 0:00 left, 1 failed", screen.getvalue())


def test_on_error_fail_ends_with_one(lara_tok, clip_folder, options, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clips")
    (tmp_path / "clips" / "one.mp4").write_bytes(b"")
    arguments = ["encode", tmp_path / "clips", "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options]
    ran = lara_tok(*arguments, "--on-error", "fail")
    assert ran.code == 1
    assert "error: one.mp4: the file is empty (0 bytes)" in ran.err
    assert not (tmp_path / "t.parquet").exists()


# --- Bad input. One folder with a good clip and every kind of bad one, encoded in one run. ---


def write_frames(path, frames, codec="libx264", pix_fmt="yuv420p", rotation=0, pts=None, streams=1):
    """A video with what `write_video` lacks: rotation, custom times, several streams."""
    with ordinary_scheduling(), av.open(str(path), "w") as container:
        made = []
        for index in range(streams):
            stream = container.add_stream(codec, rate=Fraction(10))
            stream.height, stream.width = (side // (index + 1) for side in frames.shape[1:3])
            stream.pix_fmt = pix_fmt
            if rotation:
                stream.set_display_rotation(rotation)
            made.append(stream)
        for position, pixels in enumerate(frames):
            for index, stream in enumerate(made):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:: index + 1, :: index + 1]))
                frame.pts, frame.time_base = (position if pts is None else pts[position]), Fraction(1, 10)
                container.mux(stream.encode(frame))
        for stream in made:
            container.mux(stream.encode(None))


# Name -> the valid pairs at stride 2f, or the reason in failed.jsonl.
OUTCOMES = {
    "good.mp4": FRAMES - 2,
    "zero_bytes.mp4": r"empty \(0 bytes\)",
    "truncated.mp4": r"cut off in frame|damaged|no video",
    "not_a_video.mp4": "not a video, or damaged",
    "audio_only.mp4": r"no video in it \(streams: audio\)",
    "lying_header.mp4": FRAMES - 2,
    "two_streams.mkv": FRAMES - 2,
    "rotated.mp4": FRAMES - 2,
    "odd_size.mp4": FRAMES - 2,
    "ten_bit.mp4": FRAMES - 2,
    "av1.mp4": FRAMES - 2,
    "variable_rate.mkv": FRAMES - 2,
    "one_frame.mp4": 0,
    "shorter_than_the_stride.mp4": 0,
    "unreadable.mp4": "no permission to read it",
    "vanished.mp4": "no such file",
}


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory, moving_square, write_audio):
    folder = tmp_path_factory.mktemp("bad")
    frames = moving_square(FRAMES)
    for name in ("good", "truncated", "lying_header", "unreadable", "vanished"):
        write_frames(folder / f"{name}.mp4", frames)
    good = (folder / "good.mp4").read_bytes()
    (folder / "zero_bytes.mp4").write_bytes(b"")
    (folder / "truncated.mp4").write_bytes(good[: len(good) // 2])
    (folder / "not_a_video.mp4").write_text("Dear diary,\n" * 300)
    write_audio(folder / "audio_only.mp4")
    at = good.index(b"stts") + 12
    (folder / "lying_header.mp4").write_bytes(good[:at] + (2**31 - 1).to_bytes(4, "big") + good[at + 4 :])
    write_frames(folder / "two_streams.mkv", frames, streams=2)
    write_frames(folder / "rotated.mp4", frames, rotation=90)
    write_frames(folder / "odd_size.mp4", frames[:, :49, :37], pix_fmt="yuv444p")
    write_frames(folder / "ten_bit.mp4", frames, pix_fmt="yuv420p10le")
    write_frames(folder / "av1.mp4", frames, codec="libsvtav1")
    write_frames(folder / "variable_rate.mkv", frames, pts=[0, 1, 2, 4, 5, 9, 10, 11, 13, 14, 15, 20])
    write_frames(folder / "one_frame.mp4", frames[:1])
    write_frames(folder / "shorter_than_the_stride.mp4", frames[:2])
    return folder


@pytest.fixture(scope="module")
def bad_result(bad_folder, tiny_checkpoint, tmp_path_factory):
    """One run over the whole folder; a file is locked and another goes while it runs."""
    from lara_tokenizer import encode_dataset

    out = tmp_path_factory.mktemp("out") / "t.parquet"
    episodes = load_episodes(bad_folder)
    (bad_folder / "vanished.mp4").unlink()
    open_file = av.open

    def locked(path, *args, **kwargs):
        if path.endswith("unreadable.mp4"):
            raise PermissionError(13, "Permission denied")  # the tests may run as root, who may read everything
        return open_file(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", locked)
        summary = encode_dataset(episodes, tiny_checkpoint, out=out, strides="2f", workers=0)
    return summary, read_tokens(out)


@pytest.mark.parametrize("name", OUTCOMES)
def test_bad_input_costs_one_clip_at_most(bad_result, name):
    summary, table = bad_result
    outcome = OUTCOMES[name]
    rows = [row for row in table.to_pylist() if row["episode"] == name]
    if isinstance(outcome, str):
        assert not rows
        assert re.search(outcome, summary.failed[name])
        assert "\n" not in summary.failed[name]
        return
    assert name not in summary.failed
    assert len(rows) == outcome
    assert (name in summary.too_short) == (outcome == 0)


def test_bad_clips_do_not_show_in_the_good_ones(bad_result, bad_folder, tiny_checkpoint, tmp_path):
    from lara_tokenizer import encode_dataset

    encode_dataset(bad_folder / "good.mp4", tiny_checkpoint, out=tmp_path / "t.parquet", strides="2f", workers=0)
    alone = read_tokens(tmp_path / "t.parquet").to_pylist()
    assert [row for row in bad_result[1].to_pylist() if row["episode"] == "good.mp4"] == alone


def test_some_failures_end_with_one_and_are_named(lara_tok, bad_folder, options, tmp_path):
    out = tmp_path / "t.parquet"
    sources = [bad_folder / "good.mp4", bad_folder / "zero_bytes.mp4"]
    ran = lara_tok("encode", *sources, "--out", out, "--stride", "2f", *options)
    assert ran.code == 1
    assert "zero_bytes.mp4: the file is empty" in ran.out
    assert json.loads((tmp_path / "t.parquet.failed.jsonl").read_text())["episode"] == "zero_bytes.mp4"


def test_without_a_pair_the_summary_says_why(lara_tok, bad_folder, options, tmp_path):
    bad = [bad_folder / "zero_bytes.mp4", bad_folder / "not_a_video.mp4"]
    ran = lara_tok("encode", *bad, "--out", tmp_path / "t.parquet", "--stride", "2f", *options)
    assert ran.code == 1
    first, *failures = ran.out.splitlines()
    assert first == "no table written: all 2 episodes failed"
    assert [line.split()[:2] for line in failures] == [["failed", f"{path.name}:"] for path in sorted(bad)]


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_zero_pairs_are_an_error_that_names_the_longest_stride_which_works(
    lara_tok, bad_folder, options, tmp_path, dry_run
):
    arguments = ["encode", bad_folder / "good.mp4", "--out", tmp_path / "t.parquet", *options]
    error = one_line(lara_tok(*arguments, "--stride", "99f", *dry_run))
    assert f"shorter than the stride 99f. The longest, good.mp4, has {FRAMES} frames" in error
    assert list(tmp_path.iterdir()) == []
    for stride in re.findall(r"'([\d.]+[fs])'", error):
        assert "1 pair" in lara_tok(*arguments, "--stride", stride, "--dry-run").out
    error = one_line(lara_tok(*arguments, "--stride", "2f", "--min-motion", "0.9"))
    assert f"0 pairs: all {FRAMES - 2} move less than min_motion 0.9" in error
    assert list(tmp_path.iterdir()) == []


def test_a_default_stride_that_a_given_rate_cannot_meet_is_refused_and_the_nearest_is_named(
    lara_tok, bad_folder, options, tmp_path
):
    ran = lara_tok("encode", bad_folder / "good.mp4", "--out", tmp_path / "t.parquet", "--fps", 1, *options)
    assert "stride '0.5s' cannot be met at 1 frames per second" in (error := one_line(ran))
    assert "Ask for '1s' or '1f'" in error
    assert list(tmp_path.iterdir()) == []


def one_line(ran, code=2):
    """The error of a command that ended with one line and no traceback."""
    assert ran.code == code
    lines = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in ran.err
    return lines[0]


def test_a_folder_without_video_lists_what_was_looked_for(lara_tok, options, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = lara_tok("encode", tmp_path / "empty", "--out", tmp_path / "t.parquet", *options)
    assert ".mp4" in one_line(ran)


def test_an_unwritable_target_is_refused_before_any_work(lara_tok, clip_folder, options, tmp_path):
    (tmp_path / "file").write_text("")
    ran = lara_tok("encode", clip_folder, "--out", tmp_path / "file" / "t.parquet", *options)
    assert "cannot create the folder" in one_line(ran)


def test_a_target_of_another_job_is_refused_and_kept(lara_tok, clip_folder, options, tokens):
    before = tokens.read_bytes()
    ran = lara_tok("encode", clip_folder, "--out", tokens, "--stride", "2f", *options)
    assert "was made by another job: strides was 0.5s, 1f and is 2f" in one_line(ran)
    assert tokens.read_bytes() == before


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(lara_tok, clip_folder, options, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    arguments = ["encode", clip_folder, "--out", tmp_path / "t.parquet", "--stride", "0.5s", *options]
    with monkeypatch.context() as patch:
        patch.setattr("lara_tokenizer.table.write._write_file", full)
        assert "No space left on device" in one_line(lara_tok(*arguments))
    ran = lara_tok(*arguments)
    assert ran.code == 0
    assert "resuming: 2 of 2 episodes" in ran.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stride", "5"], "stride '5': takes seconds such as '0.6s' or frames such as '5f'; write '5s' or '5f'"),
        (["--stride", "0f"], "at least one frame"),
        (["--fps", "fast"], "fps 'fast': takes frames per second"),
        (["--fps", "3", "--fps", "4"], "was given twice"),
        (["--fps", "none*=3"], "matches no episode"),
        (["--with", "smell"], "column 'smell'"),
        (["--decoder", "vlc"], "decoder 'vlc'"),
        (["--dtype", "int8"], "dtype 'int8'"),
        (["--on-error", "cry"], "on_error 'cry'"),
        (["--out", "t.csv"], "name a file ending in .parquet"),
        (["--model", "/nowhere/at/all"], "neither a local folder nor a Hub repository"),
    ],
)
def test_wrong_options_are_one_line(lara_tok, clip_folder, options, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    ran = lara_tok("encode", clip_folder, "--out", "t.parquet", *options, *flags)
    assert message in one_line(ran)
    assert list(tmp_path.iterdir()) == []


def test_a_complete_table_is_recognised_without_torch(clip_folder, tiny_checkpoint, tmp_path):
    out = tmp_path / "t.parquet"
    encode_dataset(clip_folder, tiny_checkpoint, out=out, strides="0.5s", workers=0)
    code = (
        "import sys; from lara_tokenizer import encode_dataset;"
        "summary = encode_dataset(*sys.argv[1:3], out=sys.argv[3], strides='0.5s', workers=0);"
        "print(summary.already_complete, {'torch', 'transformers', 'pandas'} & sys.modules.keys())"
    )
    arguments = [str(clip_folder), str(tiny_checkpoint), str(out)]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ran.stdout == "True set()\n", ran.stderr


# Datasets.


@pytest.fixture(scope="module")
def lerobot_folder(tmp_path_factory, moving_square, write_lerobot):
    """Two episodes of 14 and 12 frames, two cameras, two tasks."""
    clips = [moving_square(14, seed=1), moving_square(12, seed=2)]
    cameras = {"observation.images.top": clips, "observation.images.wrist": clips}
    return write_lerobot(tmp_path_factory.mktemp("sets") / "pushes", cameras, tasks=["push the cup", "pull the cup"])


def test_a_dataset_is_recognised_and_said(lara_tok, lerobot_folder, options, tmp_path):
    out = tmp_path / "t.parquet"
    ran = lara_tok("encode", lerobot_folder, "--out", out, "--with", "actions,text", "--with", "latents", *options)
    assert ran.code == 0
    assert (
        "pushes: LeRobotDataset v3.0, 2 episodes; took camera 'observation.images.top' of observation.images.top, "
        "observation.images.wrist" in ran.err
    )
    assert {"action_chunk", "action_sum", "text", "latents"} <= set(pq.read_schema(out).names)
    assert pq.read_table(out)["text"].unique().to_pylist() == ["push the cup", "pull the cup"]
    info = lara_tok("info", out).out
    assert "pushes (LeRobotDataset v3.0)" in info


def test_cameras_episodes_and_tasks_are_chosen(lara_tok, lerobot_folder, options, tmp_path):
    out = tmp_path / "t.parquet"
    chosen = ["--camera", "all", "--task", "pull*", "--episodes", "0:2"]
    assert lara_tok("encode", f"lerobot:{lerobot_folder}", "--out", out, *chosen, *options).code == 0
    keys = pq.read_table(out, columns=["episode", "camera"]).group_by(["episode", "camera"]).aggregate([]).to_pylist()
    assert [tuple(key.values()) for key in keys] == [
        ("episode_000001", "observation.images.top"),
        ("episode_000001", "observation.images.wrist"),
    ]
    ran = lara_tok("verify", out, lerobot_folder, "--sample", "100%", *options)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "equal")
    ran = lara_tok("decode", out, lerobot_folder, "--out", tmp_path / "f.png", *options[:2])
    assert ran.code == 0


def test_a_camera_that_is_not_there_lists_those_there_are(lara_tok, lerobot_folder, options, tmp_path):
    ran = lara_tok("encode", lerobot_folder, "--out", tmp_path / "t.parquet", "--camera", "side", *options)
    assert ran.code == 2
    assert "camera 'side' is no camera of it. There are: observation.images.top, observation.images.wrist" in ran.err


def test_a_list_segments_and_idle_pairs(lara_tok, clip_folder, options, tmp_path):
    (tmp_path / "clips.csv").write_text("path,start,end,label\none.mp4,0,2.5,push\n")
    out = tmp_path / "t.parquet"
    more = ["--from", tmp_path / "clips.csv", "--segment", "1s", "--with", "text"]
    arguments = ["encode", clip_folder, "--stride", "0.5s", *more, *options]
    ran = lara_tok(*arguments, "--out", out)
    assert ran.code == 0
    assert "clips.csv: list of clips, 1 episode" in ran.err
    motion = sorted(pq.read_table(out)["motion"].to_pylist())
    assert len(motion) == 10  # two segments of 10 frames, and one of 5 that is too short
    ran = lara_tok(*arguments, "--out", tmp_path / "moving.parquet", "--min-motion", motion[-1])
    assert f"{sum(value < motion[-1] for value in motion)} more left out" in ran.out


def test_nothing_to_read_is_said(lara_tok, options, tmp_path):
    ran = lara_tok("encode", "--out", tmp_path / "t.parquet", *options)
    assert ran.code == 2
    assert "no source given. Name a video file, a folder of videos" in ran.err


def test_the_tasks_of_a_slurm_array_make_one_table(lara_tok, clip_folder, tiny_checkpoint, tmp_path, monkeypatch):
    command = ("encode", clip_folder, "--model", tiny_checkpoint, "--workers", 0)
    assert lara_tok(*command, "--out", tmp_path / "whole.parquet").code == 0
    for name, value in (("COUNT", "2"), ("MIN", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("1", "2"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        ran = lara_tok(*command, "--shard", "auto", "--out", tmp_path / "tokens.parquet")
        assert ran.code == 0
    parts = sorted(tmp_path.glob("tokens-*-of-00002.parquet"))
    assert f"lara-tok tokens merge {tmp_path}/tokens-*-of-00002.parquet --out {tmp_path}/tokens.parquet" in ran.out
    assert lara_tok("tokens", "merge", *parts, "--out", tmp_path / "tokens.parquet").code == 0
    assert (tmp_path / "tokens.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
