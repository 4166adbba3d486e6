"""Verdicts on planted labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from lara_tokenizer import metrics
from lara_tokenizer.data import Signals
from lara_tokenizer.encode.encode import Rows
from lara_tokenizer.encode.model_runner import EncodedPairs
from lara_tokenizer.encode.options import EncodeOptions
from lara_tokenizer.encode.plan import Pairs, Unit
from lara_tokenizer.table.health import health_of
from lara_tokenizer.table.statistics import CodeSample, DirectionMoments, MotionCounts, TokenCounts
from lara_tokenizer.verdict.grades import DO_NOT_TRAIN, NO_EVIDENCE, Verdict

N, K, PAIRS = 4, 16, 200
RNG = np.random.default_rng(0)
RANDOM = RNG.integers(0, K, (PAIRS, N))


def table_of(codes=None, latents=None, motion=0.1, camera="") -> pa.Table:
    """A table of pairs with these codes, or with these latents and no codes."""
    count = len(codes if codes is not None else latents)
    anchors = np.arange(count)
    options = EncodeOptions(("1f",), N, 2, None if codes is None else K)
    rows = Rows(Pairs(np.zeros(count, np.int64), anchors, anchors + 1, np.arange(count + 1)), options)
    rows.set_motion(anchors, np.broadcast_to(np.float32(motion), count), np.zeros(count, bool))
    z = np.zeros((count, 2 * N), np.float16) if latents is None else latents.astype(np.float16)
    whole = None if codes is None else np.asarray(codes, np.int16)
    rows.fill(anchors, EncodedPairs(z, whole, None if codes is None else np.ones(count, np.float32)))
    return rows.table(Unit("a", camera, 0, count - 1), np.arange(count + 1) / 10, Signals())


def health(*tables, moving=None, codebook_size=K):
    counts = TokenCounts(N, codebook_size, moving_by_camera={"": MotionCounts(PAIRS, 0)} if moving is None else moving)
    for table in tables:
        counts.add(table)
    return health_of(counts)


def names(judged):
    return [finding.name for finding in judged.findings]


def planted(share, codes, rest=RANDOM):
    """`codes` in a share of the pairs, random ones in the rest."""
    return np.where((np.arange(len(rest)) < share * len(rest))[:, None], np.asarray(codes), rest)


def test_rows_alone_never_praise():
    judged = health(table_of(RANDOM))
    assert judged.findings == []
    assert judged.verdict == Verdict(NO_EVIDENCE, "code statistics: nothing wrong; not probed", "run lara-tok eval")
    assert judged.figures.moving_pairs == PAIRS
    assert judged.figures.codes.perplexity == pytest.approx(K, rel=0.02)


def test_one_tuple_in_nearly_every_pair_is_named_with_its_share():
    judged = health(table_of(planted(0.92, [2, 0, 0, 0])))
    assert names(judged) == ["collapsed_codebook"]
    assert judged.verdict.grade == DO_NOT_TRAIN
    assert judged.verdict.reason == ("the codebook has collapsed: 92% of the moving pairs have the codes [2 0 0 0]")
    assert (judged.figures.codes.commonest, judged.figures.codes.commonest_share) == ([2, 0, 0, 0], 0.92)


def test_a_position_with_one_code_is_dead():
    codes = RANDOM.copy()
    codes[:, 1], codes[: PAIRS - 10, 3] = 7, 5
    judged = health(table_of(codes))
    assert judged.figures.codes.dead_positions == [1, 3]
    assert judged.findings[0].sentence == "positions 1, 3 of 4 hold one code in at least 90% of the moving pairs"
    assert (names(judged), judged.verdict.grade) == (["dead_positions"], NO_EVIDENCE)
    codes[:, 0] = 3
    judged = health(table_of(codes))
    assert (names(judged), judged.verdict.grade) == (["collapsed_codebook"], DO_NOT_TRAIN)


def test_few_codes_in_use_are_collapsed_pooled_or_by_position():
    pooled = health(table_of(RANDOM % 3))
    assert "few of the 16 codes are in use (perplexity 3.0" in pooled.findings[0].sentence
    by_position = health(table_of(RANDOM % 2 + 4 * np.arange(N)))
    assert by_position.figures.codes.perplexity == pytest.approx(2 * N, rel=0.01)
    assert "a position uses few of the 16 codes (mean perplexity 2.0" in by_position.findings[0].sentence


def test_a_small_codebook_in_full_use_is_healthy():
    assert health(table_of(RANDOM % 8), codebook_size=K).findings == []
    few = RNG.integers(0, K, (35, N))  # as many as could be seen of a large codebook in so few pairs
    assert health(table_of(few)).findings == []


def test_idle_pairs_may_all_have_one_code_and_are_told_as_idle():
    still = table_of(np.zeros((PAIRS, N)), motion=0.001)
    judged = health(table_of(RANDOM[:100]), still)
    assert names(judged) == ["idle"]
    assert judged.findings[0].sentence.startswith("66.7% of the pairs are idle")
    assert judged.figures.codes.commonest_share < 0.1
    assert names(health(table_of(RANDOM), table_of(RANDOM[:85], motion=0.001))) == []
    assert names(health(table_of(RANDOM), table_of(RANDOM[:86], motion=0.001))) == ["idle"]


def test_a_camera_that_shows_nothing_is_named():
    judged = health(table_of(RANDOM, camera="top"), table_of(RANDOM[:60], motion=0.0, camera="dark"), moving={})
    assert [(warning.name, warning.camera) for warning in judged.findings] == [("idle", "dark")]
    assert "100.0% of the pairs of camera dark are idle" in judged.findings[0].sentence
    assert judged.verdict.reason == "code statistics: 1 warning; not probed"
    assert judged.figures.idle_share_by_camera == {"dark": 1.0, "top": 0.0}


def test_a_moving_camera_is_told_by_its_share():
    judged = health(table_of(RANDOM), moving={"": MotionCounts(200, 142)})
    assert names(judged) == ["camera-driven"]
    assert judged.findings[0].sentence.startswith("camera motion in 71.0% of the moving pairs: codes may encode")
    judged = health(table_of(RANDOM), moving={"top": MotionCounts(100, 2), "wrist": MotionCounts(100, 98)})
    assert [warning.camera for warning in judged.findings] == ["wrist"]
    assert judged.figures.whole_picture_share == 0.5
    assert judged.figures.whole_picture_share_by_camera == {"top": 0.02, "wrist": 0.98}


def test_a_table_of_an_earlier_release_does_not_know_its_camera():
    counts = TokenCounts(N, K)
    counts.add(table_of(RANDOM))
    judged = health_of(counts)
    assert judged.figures.whole_picture_share is None


def test_a_handful_of_pairs_is_not_judged():
    judged = health(table_of(np.zeros((29, N))), moving={"": MotionCounts(29, 29)})
    assert judged.findings == []
    assert judged.verdict.reason == "code statistics: 29 moving pairs, too few to judge (it takes 30); not probed"
    empty = health(moving={})
    assert (empty.figures.codes, empty.figures.idle_share) == (None, 0)


def test_a_continuous_z_is_judged_by_its_spread():
    healthy = RNG.normal(size=(PAIRS, 2 * N))
    judged = health(table_of(latents=healthy), codebook_size=None)
    assert judged.findings == []
    assert judged.figures.codes is None
    one_way = health(table_of(latents=1 + 0.02 * healthy), codebook_size=None)
    assert names(one_way) == ["constant_z"]
    assert one_way.verdict.grade == DO_NOT_TRAIN
    assert "z is nearly the same whatever happens between the two frames (spread 0.0" in one_way.verdict.reason


def test_the_spread_is_that_of_the_metrics_in_any_order():
    z = RNG.normal(0.3, 1, (300, 12)).astype(np.float16)
    whole, cut = DirectionMoments(), DirectionMoments()
    whole.add(z)
    for chunk in np.array_split(z[::-1], 7):
        cut.add(chunk)
    assert whole.spread == cut.spread
    assert whole.spread == pytest.approx(float(metrics.spread(torch.from_numpy(z.astype(np.float32)))), rel=1e-3)


@pytest.mark.parametrize("cuts", [1, 3, 50])
def test_the_sample_of_a_long_table_does_not_depend_on_its_pieces(monkeypatch, cuts):
    monkeypatch.setattr("lara_tokenizer.table.statistics._SAMPLE", 100)
    codes = planted(0.4, [1, 2, 3, 4], RNG.integers(0, K, (1000, N))).astype(np.int16)
    codes = codes[np.random.default_rng(1).permutation(1000)]
    sample = CodeSample(N)
    for chunk in np.array_split(codes, cuts):
        sample.add(chunk)
    expected, counts = np.unique(codes[::16], axis=0, return_counts=True)
    assert sample.most_common() == (expected[counts.argmax()].tolist(), counts.max() / len(codes[::16]))
    assert sample.most_common()[0] == [1, 2, 3, 4]
    assert sample.most_common()[1] == pytest.approx(0.4, abs=0.12)
