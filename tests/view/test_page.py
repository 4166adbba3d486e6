"""The page of a table."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from token_tables import edited, write_table

from lara_tokenizer.data import load_episodes
from lara_tokenizer.view import view, view_tokens


@pytest.fixture(scope="module")
def page(tmp_path_factory, table, clips):
    """(file, summary, data of its script)"""
    out = tmp_path_factory.mktemp("page") / "new" / "view.html"
    summary = view_tokens(table, clips, out)
    return out, summary, data_of(out)


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def test_the_page_holds_every_valid_pair_of_the_table(page, table):
    _, summary, data = page
    rows = [row for row in pq.read_table(table).to_pylist() if row["valid"]]
    shown = [
        (clip["name"], *values)
        for clip in data["clips"]
        for values in zip(clip["frames"], clip["futures"], map(tuple, clip["codes"]), strict=True)
    ]
    assert shown == [
        (row["episode"], row["frame_index"], row["future_frame_index"], tuple(row["codes"])) for row in rows
    ]
    assert (summary.episodes, summary.moments) == (2, len(rows))
    for name, column in (("motions", "motion"), ("margins", "code_margin"), ("times", "timestamp")):
        values = [value for clip in data["clips"] for value in clip[name]]
        np.testing.assert_allclose(values, [row[column] for row in rows], rtol=1e-3)


def test_the_pictures_of_a_moment_are_its_two_frames(page, clips):
    clip = page[2]["clips"][1]
    (episode,) = load_episodes(clips / clip["name"])
    for side, frames in (("now", clip["frames"]), ("future", clip["futures"])):
        for index, frame in zip(clip[side], episode.frames("", frames), strict=True):
            image = Image.open(io.BytesIO(base64.b64decode(clip["pictures"][index]))).convert("RGB")
            assert np.abs(np.asarray(image).astype(int) - frame).mean() < 10  # WebP loses a little


def test_the_page_asks_for_nothing_and_its_policy_forbids_it(page):
    text = page[0].read_text()
    assert "default-src 'none'" in text
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,"}


def test_names_and_instructions_cannot_end_the_script_or_add_markup(tmp_path, table, clips):
    evil = "</script><img src=x>"
    texts = [evil] * pq.read_metadata(table).num_rows
    view_tokens(edited(table, tmp_path / "evil.parquet", {"text": texts}), clips, out := tmp_path / "view.html")
    text = out.read_text()
    assert text.count("</script") == 2
    assert "<img" not in text
    assert "a &lt;b&gt;.mp4</option>" in text
    assert data_of(out)["clips"][0]["text"] == evil


def test_episodes_are_chosen_by_index(tmp_path, table, clips):
    view_tokens(table, clips, out := tmp_path / "view.html", episodes="1:2")
    assert [clip["name"] for clip in data_of(out)["clips"]] == ["long/b.mp4"]
    with pytest.raises(ValueError, match=r"episode 2 is not in .*tokens.parquet, which has 0:2"):
        view_tokens(table, clips, out, episodes="0,2")


@pytest.mark.parametrize(
    ("most", "moments", "note"),
    [(14, 9, "1 of 2 episodes are shown: 14 frames fit"), (8, 4, "the first 4 of 9 moments are shown: 8 frames fit")],
)
def test_a_page_has_a_limit_and_says_so(tmp_path, table, clips, monkeypatch, most, moments, note):
    monkeypatch.setitem(view.MOST_PICTURES, ".html", most)
    summary = view_tokens(table, clips, out := tmp_path / "view.html")
    assert summary.moments == moments
    assert len(data_of(out)["clips"][0]["pictures"]) <= most
    assert any(note in each for each in summary.notes)
    assert note in out.read_text()


def test_another_source_is_refused_and_no_page_is_written(tmp_path, table, moving_square, write_video):
    write_video(tmp_path / "other" / "a <b>.mp4", moving_square(6))
    out = tmp_path / "view.html"
    with pytest.raises(ValueError, match=r"a <b>.mp4. has 6 frames in the source"):
        view_tokens(table, tmp_path / "other", out, episodes="0")
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


def test_what_cannot_be_shown_is_refused(tmp_path, table, clips):
    with pytest.raises(ValueError, match=r"takes a page, view.html, or a recording for Rerun, tokens.rrd"):
        view_tokens(table, clips, tmp_path / "view.pdf")
    continuous = write_table(tmp_path / "c.parquet", {("a.mp4", "", "5f"): 9}, sizes=(4, 3, None), columns=())
    with pytest.raises(ValueError, match="it has no codes to show"):
        view_tokens(continuous, clips, tmp_path / "view.html")
    short = write_table(tmp_path / "s.parquet", {("a.mp4", "", "5f"): 4}, columns=())
    with pytest.raises(ValueError, match="no episode has a valid pair"):
        view_tokens(short, clips, tmp_path / "view.html")


def test_a_browser_draws_it_without_an_error(page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on the PATH")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr"]
    ran = subprocess.run(
        [chromium, *flags, "--dump-dom", page[0].as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "CONSOLE" not in ran.stderr
    assert ">moment 1 of 9<" in ran.stdout
    equal = [neighbour[1] for neighbour in page[2]["nearest"][0]]
    assert re.findall(r"<b>(\d) of 4 codes equal</b>", ran.stdout) == [str(count) for count in equal]
