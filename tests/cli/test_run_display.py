"""The display of a run: lines where there is no terminal, rate and remaining time of the last minute."""

from __future__ import annotations

import pytest
from lara_tok._training import display
from lara_tok._training.display import RunDisplay


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_remaining_time_are_those_of_the_last_minute(clock, tmp_path):
    shown = RunDisplay(tmp_path, {}, batch_size=10)
    for step in range(1, 301):
        clock[0] += 60 if step == 1 else 1 if step < 100 else 0.5  # twice as fast in the second half
        shown("step", step, 1000, {"loss": 2.0})
    assert shown.state() == "step 300 of 1000  loss 2.00  20 pairs/s  5 min 50 s left"


def test_without_a_terminal_a_line_comes_for_each_log_and_to_break_a_silence(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(display, "SILENCE", 0.0)
    with RunDisplay(tmp_path, {"loss": "loss", "z gain": "heldout_z_gain"}, batch_size=10) as shown:
        shown("frames", 3, 9, {})
        shown.ended.wait(0.4)
        shown("steps", 7, 9, {"loss": 0.51, "heldout_z_gain": 0.013, "heldout_spread": 1.0})
    lines = capfd.readouterr().err.splitlines()
    assert "decoding camera sequences 3 of 9" in lines
    assert "step 7 of 9  loss 0.51  z gain 0.013" in lines


def test_a_run_that_ends_with_an_error_says_where_its_curves_are(tmp_path, capfd):
    (tmp_path / "curves.png").write_bytes(b"")
    shown = RunDisplay(tmp_path, {}, batch_size=1)
    shown("step", 1, 9, {"loss": 1.0})
    shown.__exit__(KeyboardInterrupt)
    text = capfd.readouterr().err
    assert f"curves so far: {tmp_path / 'curves.png'}" in text
    assert "--resume continues" in text
