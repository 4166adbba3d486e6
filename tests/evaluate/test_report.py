"""The health card: all sections, escaped text, equal bytes for equal input, and no error or request in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest

from lara_tokenizer.evaluate import Evaluation, PairSet
from lara_tokenizer.evaluate.codebook import codebook_figures, latent_figures
from lara_tokenizer.evaluate.encoding import encode_pairs
from lara_tokenizer.evaluate.figures import (
    DataInfo,
    DecoderFigures,
    Estimate,
    ModelInfo,
    ProbeRow,
    ProbeTable,
    Report,
    TargetInfo,
)
from lara_tokenizer.evaluate.report.examples import moving_pairs, spread_over, transfer_pairs
from lara_tokenizer.evaluate.report.page import write_report
from lara_tokenizer.evaluate.report.sections import most_and_least_used, ranks, two_components
from lara_tokenizer.evaluate.report.tables import GROUPS, format_number
from lara_tokenizer.verdict.card import Card
from lara_tokenizer.verdict.grades import DO_NOT_TRAIN, EVIDENCE, Finding, Verdict

EPISODES, LENGTH, GAP, SIZE = 6, 12, 4, 32
HOSTILE = "<script>alert('x')</script> & \"friends\""
SECTIONS = ["figures", "codes", "clips", "reconstructions", "transfer", "attention", "pca", "probes"]
SECTIONS += ["monitors", "protocol"]


@pytest.fixture(scope="session")
def square_pairs(moving_square) -> PairSet:
    """Squares that move by their first action, with the square as the arm's mask."""
    clips = [moving_square(LENGTH, SIZE, step=1 + index, seed=index) for index in range(EPISODES)]
    frames = np.concatenate(clips).transpose(0, 3, 1, 2)
    now = np.concatenate([index * LENGTH + np.arange(LENGTH - GAP) for index in range(EPISODES)])
    episodes = now // LENGTH
    actions = np.stack([GAP * (1.0 + episodes), np.sin(now), np.full(len(now), 3.0)], 1)
    return PairSet(frames, now, now + GAP, actions, episodes, frames[:, 0] == 230)


@pytest.fixture(scope="session")
def evaluation(square_pairs, tiny_model, tiny_processor) -> Evaluation:
    """Pairs through the tiny model, with plausible figures around them."""
    encoded = encode_pairs(tiny_model, tiny_processor, square_pairs)
    report = hand_made_report(encoded, square_pairs)
    return Evaluation(report, {"top": square_pairs}, {"top": encoded}, [HOSTILE, *["push"] * (EPISODES - 1)])


def _around(value: float) -> Estimate:
    return Estimate(value, [value - 0.05, value + 0.05])


def hand_made_report(encoded, pairs) -> Report:
    controls = ("z", "quantized", "codes", "random_init", "shuffled", "pixel_difference", "mean")
    plain = {
        name: ProbeRow(r2=_around(0.6 - 0.08 * index), conditional_r2=_around(0.3 - 0.05 * index))
        for index, name in enumerate(controls)
    }
    disturbed = {
        name: replace(
            row,
            nuisance_r2=_around(0.2),
            families={"shake": _around(0.3), "light": _around(0.1)},
            selectivity=_around(row.r2.value - 0.2),
        )
        for name, row in plain.items()
    }
    margins = {name: _around(0.1) for name in controls[1:]}
    counts = {"camera": "top", "test_episodes": EPISODES, "pairs": len(pairs), "frame_r2": 0.3}
    return Report(
        model=ModelInfo("tiny-lam", {"model.safetensors": "0" * 64}, "4 x 16", 32),
        data=DataInfo(
            name="squares",
            episodes=EPISODES,
            cameras=["top"],
            masks=["top"],
            frames=len(pairs.frames),
            pairs=len(pairs),
            stride="0.4s",
            nuisance_families=["shake", "light"],
            seed=0,
            left_out={"broken.mp4": HOSTILE},
            target=TargetInfo("auto", "sum of the actions", {}, ["reach", "dimension 1", "dimension 2"]),
            date="2026-11-30",
        ),
        codebook=codebook_figures(encoded.codes, 16),
        latents=latent_figures(encoded.latents, encoded.latents),
        decoder=DecoderFigures(*[_around(0.1 * index) for index in range(1, 5)], {"all": 0.5, "moving": 0.5}),
        probe=ProbeTable(rows=plain, margins={"conditional_r2": margins}, **counts),
        nuisance=ProbeTable(
            rows=disturbed,
            margins={"conditional_r2": margins, "selectivity": margins},
            families=["shake", "light"],
            **counts,
        ),
        extra={"psnr": 23.5, "few_labels": {"2": {"mean": 0.25}}, "flip_rate": None},
        alarms=[
            Finding("encodes_shake", "alarm", f"z holds camera shake. {HOSTILE}"),
            Finding("few_codes", "warning", "only 9 of 16 codes are in use"),
        ],
        verdict=Verdict(DO_NOT_TRAIN, "z describes the camera", "stop the camera"),
    )


@pytest.fixture(scope="session")
def written(tmp_path_factory, evaluation, tiny_model, tiny_processor):
    """The card of the hand-made evaluation."""
    path = tmp_path_factory.mktemp("card") / "index.html"
    write_report(evaluation, tiny_model, tiny_processor, path)
    return path


@pytest.fixture(scope="session")
def compared(tmp_path_factory, evaluation, tiny_model, tiny_processor):
    """The card with a second checkpoint beside the first: the same one under another name."""
    path = tmp_path_factory.mktemp("card") / "compared.html"
    figures = evaluation.figures
    figures = replace(
        figures, model=replace(figures.model, id="other-lam"), alarms=[], verdict=Verdict(EVIDENCE, "it tells", "train")
    )
    other = replace(evaluation, figures=figures)
    write_report(evaluation, tiny_model, tiny_processor, path, other=(other, tiny_model, tiny_processor))
    return path


def _section(path, key: str) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index(f'id="{key}"') :].split("</section>")[0]


def test_all_sections_are_in_order_on_one_self_contained_page(written):
    text = written.read_text(encoding="utf-8")
    offsets = [text.index(f'id="{key}"') for key in SECTIONS]
    assert offsets == sorted(offsets)
    assert 'id="comparison"' not in text
    # Whatever a browser would load by itself is part of the page.
    assert {uri.split(":")[0] for uri in re.findall(r'(?:src|href|url\()="?([^"#)]+)', text)} == {"data"}
    assert "<script" not in text


# Nothing leaves the machine: no host name resolves. Requests of the browser itself have
# no origin.
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
OWN = "not an origin"


def opened(browser: str, page, folder) -> tuple[list[str], list[str]]:
    """Console messages of a headless Chromium for a page, and the URLs that the page requests."""
    log = folder / "net.json"
    command = [browser, *QUIET, f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "</html>" in done.stdout, done.stderr
    messages = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    network = json.loads(log.read_text(encoding="utf-8"))
    start = network["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in network["events"] if event["type"] == start and "params" in event]
    return messages, [request["url"] for request in asked if request.get("initiator", OWN) != OWN]


@pytest.fixture(scope="session")
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    return found


def test_a_browser_opens_the_card_without_an_error_and_without_a_request(browser, written, compared, tmp_path):
    assert opened(browser, written, tmp_path) == ([], [])
    assert opened(browser, compared, tmp_path) == ([], [])


def test_the_browser_test_would_see_a_script_error_and_a_request(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<html><img src="http://127.0.0.1:9/x.png"><script>nothing.at.all</script></html>')
    messages, urls = opened(browser, page, tmp_path)
    assert any("nothing is not defined" in message for message in messages)
    assert urls == ["http://127.0.0.1:9/x.png"]


def test_text_of_the_dataset_cannot_become_markup(written):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;friends&#34;" in text


def test_equal_evaluations_give_equal_bytes(written, tmp_path, evaluation, tiny_model, tiny_processor):
    write_report(evaluation, tiny_model, tiny_processor, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_alarms_are_marked_by_words_and_not_by_colour_alone(written):
    verdict = written.read_text(encoding="utf-8").split('class="verdict alarm"')[1].split("</section>")[0]
    assert f"{DO_NOT_TRAIN}</p>" in verdict
    assert "z describes the camera." in verdict
    assert "✖ Alarm" in verdict
    assert "▲ Warning</b> Only 9 of 16 codes are in use." in verdict


def test_the_colour_of_a_tile_is_that_of_the_finding_about_it(evaluation):
    figures = replace(evaluation.figures, alarms=[Finding("weak_z", "warning", ""), Finding("no_actions", "doubt", "")])
    tiles = {tile.key: tile for group in GROUPS.values() for tile in group}
    states = {key: tile.state(figures) for key, tile in tiles.items()}
    assert (states["z_gain"], states["conditional_r2"], states["spread"]) == ("warning", "doubt", "fine")
    # Nothing is fine about a sick model, and nothing where no limit decides.
    assert states["effective_rank"] == ""
    assert tiles["spread"].state(evaluation.figures) == ""
    assert tiles["nuisance_r2"].state(evaluation.figures) == "alarm"


def test_a_reference_is_the_range_over_the_sets_of_the_card(written):
    tile = next(tile for group in GROUPS.values() for tile in group if tile.key == "z_gain")
    card = Card("", headline={"a": {"z_gain": 0.2}, "b": {"z_gain": 0.35}, "c": {"spread": 1.0}})
    assert tile.reference(card) == "lara-lam: 0.200 to 0.350 on the 2 sets of its card"
    assert tile.reference(None) == tile.reference(Card("")) == ""
    assert _section(written, "figures").count('class="reference">lara-lam: ') == sum(map(len, GROUPS.values()))


def test_the_page_has_the_date_of_the_data_the_names_of_the_actions_and_the_command(
    written, evaluation, tiny_model, tiny_processor, tmp_path
):
    text = written.read_text(encoding="utf-8")
    assert "<dd>2026-11-30</dd>" in text
    assert "<b>reach</b>" in _section(written, "pca")
    assert "lara-tok eval tiny-lam squares --out report/ --all</pre>" in text
    write_report(evaluation, tiny_model, tiny_processor, tmp_path / "c.html", command="lara-tok eval 'my lam' demos/")
    assert "<pre>lara-tok eval &#39;my lam&#39; demos/</pre>" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_every_headline_figure_has_its_direction(written):
    text = _section(written, "figures")
    assert text.count("Higher is better.") + text.count("Lower is better.") == sum(map(len, GROUPS.values()))
    assert text.count(">random-init model<") == 6


def test_the_probe_table_has_all_controls_with_intervals(written):
    text = _section(written, "probes")
    for name in ("random-init model", "shuffled z", "pixel difference"):
        assert text.count(f">{name}</th>") == 2
    assert "[0.550, 0.650]" in text


def test_masks_give_a_background_share_beside_that_of_even_attention(written, square_pairs):
    text = _section(written, "attention")
    area = 1 - np.mean([square_pairs.masks[square_pairs.now], square_pairs.masks[square_pairs.future]])
    assert f"attention spread evenly</th><td>{area:.3f}</td>" in text


def test_two_checkpoints_are_side_by_side_on_the_same_pairs(written, compared):
    assert _section(compared, "comparison").count("<tr>") == 1 + sum(map(len, GROUPS.values()))
    shown = _section(compared, "attention")
    assert shown.count("<img") == 2 * _section(written, "attention").count("<img")
    assert shown.count(">other-lam<") == 4 + 1
    assert compared.read_text(encoding="utf-8").count('class="verdict ') == 2


def test_without_codes_actions_and_maps_the_card_gives_the_reason(
    tmp_path, evaluation, square_pairs, tiny_model, tiny_processor
):
    """A continuous model of another project, on video without actions."""
    figures = replace(
        evaluation.figures,
        codebook=None,
        probe=ProbeTable("top", "no action probe: no actions"),
        nuisance=ProbeTable("top", "no probe", families=["shake"]),
    )
    encoded = replace(evaluation.encoded["top"], codes=None)
    pairs = {"top": replace(square_pairs, actions=None, masks=None)}
    bare = Evaluation(figures, pairs, {"top": encoded}, evaluation.instructions)
    stranger = SimpleNamespace(
        encode=lambda frame_features, future_frame_features: None,
        decode=tiny_model.decode,
        device=tiny_model.device,
        config=tiny_model.config,
    )
    stranger.eval = lambda: stranger
    path = tmp_path / "index.html"
    write_report(bare, stranger, tiny_processor, path)
    assert "The bottleneck is continuous" in _section(path, "figures")
    assert "has no codes" in _section(path, "codes")
    assert "has no codes" in _section(path, "clips")
    assert "This model has no attention maps" in _section(path, "attention")
    assert "no actions" in _section(path, "pca")
    assert "no action probe: no actions" in _section(path, "probes")


def test_the_package_contains_templates_and_style_sheet():
    for name in ("report.css", "page.html.j2", "macros.html.j2"):
        assert "verdict" in files("lara_tokenizer.evaluate.report").joinpath(name).read_text(encoding="utf-8")


def test_further_figures_are_flattened_and_unmeasured_ones_are_dashes(written):
    text = _section(written, "extra")
    for row in ("psnr</th><td>23.500", "few labels · 2 · mean</th><td>0.250", "flip rate</th><td>–"):
        assert f'<th scope="row">{row}</td>' in text


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (-0.25, "−0.250"), (-0.0001, "0.000"), (1234567, "1\u202f234\u202f567"), (0, "0")],
)
def test_numbers_have_a_true_minus_and_thin_spaces(value, written):
    assert format_number(value) == written


def test_most_and_least_used_codes_are_apart():
    codes = np.repeat(np.arange(20), np.arange(20))[:, None]
    most, least = most_and_least_used(codes)
    assert most == [19, 18, 17, 16, 15, 14]
    assert least == [6, 5, 4, 3, 2, 1]
    assert most_and_least_used(codes[codes < 3][:, None]) == ([2, 1], [])


def test_examples_move_and_are_spread_evenly(square_pairs):
    moving = moving_pairs(square_pairs)
    assert len(moving) >= len(square_pairs.now) / 2
    assert spread_over(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert spread_over(np.arange(3), 5).tolist() == [0, 1, 2]


def test_transfer_goes_to_other_episodes(square_pairs):
    sources, targets = transfer_pairs(square_pairs, 4, 3)
    assert not set(square_pairs.episodes[sources]) & set(square_pairs.episodes[targets])


def test_two_components_are_those_of_a_plane_and_ranks_are_shares():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * (3, 1)
    basis = np.linalg.qr(rng.normal(size=(10, 2)))[0]
    points, shares = two_components(plane @ basis.T)
    assert shares.sum() == pytest.approx(1)
    assert np.linalg.norm(points, axis=1) == pytest.approx(np.linalg.norm(plane - plane.mean(0), axis=1))
    assert ranks(np.array([5.0, 1, 1, 9])).tolist() == [0.625, 0.25, 0.25, 0.875]
