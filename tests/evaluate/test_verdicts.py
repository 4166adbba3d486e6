"""One grade for one model, whoever says it: `eval`, the card, and by the card `encode` and `info`."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest
from square_models import (
    EPISODES,
    REACH,
    CameraModel,
    CollapsedCodebook,
    ConstantZ,
    FrameModel,
    IgnoresZ,
    ShuffledModel,
    SquareModel,
)
from token_tables import edited, write_table

from lara_tokenizer.evaluate import evaluate_checkpoint
from lara_tokenizer.table import describe
from lara_tokenizer.table.health import health_of
from lara_tokenizer.table.statistics import TokenCounts
from lara_tokenizer.verdict.card import Card, Seen, range_of
from lara_tokenizer.verdict.grades import DO_NOT_TRAIN, EVIDENCE, NO_EVIDENCE, Verdict
from lara_tokenizer.verdict.heldout import heldout_verdict, run_card

N, K = 2, 2 * REACH + 1
TRAINING = {"words": "squares", "strides": ["0.2s"], "ranges": {}}


def written(folder, sets, **training) -> Card:
    """The card of a checkpoint's folder."""
    (folder / "card.json").write_text(json.dumps({"training": TRAINING | training, "sets": sets}))
    card = Card.read(folder)
    assert card is not None
    return card


def table_of(evaluation, card, folder):
    """A table with the codes of an evaluation's pairs, whose checkpoint has this card."""
    (pairs,), (encoded,) = evaluation.pairs.values(), evaluation.encoded.values()
    plain = write_table(folder / "plain.parquet", {("a", "", "2f"): len(pairs)}, sizes=(N, 1, K))
    columns = {"codes": encoded.codes.tolist(), "motion": pairs.motion(), "valid": [True] * len(pairs)}
    return edited(plain, folder / "tokens.parquet", columns, card=None if card is None else card.to_dict())


def said_by_encode(table, card) -> Verdict:
    counts = TokenCounts(N, K, model="tiny", card=card)
    counts.add(pq.read_table(table))
    return health_of(counts).verdict


SICK = [
    (ConstantZ, DO_NOT_TRAIN, "z is nearly the same whatever happens", True),
    (
        CollapsedCodebook,
        DO_NOT_TRAIN,
        "the codebook has collapsed: 100% of the moving pairs have the codes [8 8]",
        True,
    ),
    (IgnoresZ, DO_NOT_TRAIN, "the decoder ignores z", False),
    (FrameModel, DO_NOT_TRAIN, "the model behaves like one with random weights", False),
    (ShuffledModel, NO_EVIDENCE, "z adds nothing certain about the actions to what the first frame tells", False),
    (CameraModel, DO_NOT_TRAIN, "z encodes camera shake rather than actions", False),
    (SquareModel, EVIDENCE, "quantized z adds", False),
]


@pytest.mark.parametrize(("kind", "grade", "words", "shows_in_codes"), SICK)
def test_encode_info_eval_and_card_say_one_grade(
    kind, grade, words, shows_in_codes, squares, handheld_squares, plain_processor, tmp_path
):
    source = handheld_squares if kind is CameraModel else squares
    evaluation = evaluate_checkpoint(kind.trained(), plain_processor, source, pairs_per_episode=6)
    told = evaluation.figures.verdict
    assert (told.grade, told.reason[: len(words)]) == (grade, words)
    # A fault is named once: what follows from it is left out.
    assert sum(each.severity == "alarm" for each in evaluation.figures.alarms) == (grade == DO_NOT_TRAIN)
    card = written(tmp_path, {"squares": {"report": evaluation.report}})
    assert card.verdicts == {"squares": told}
    # What was measured on one set is no evidence on another: there the lower grades are left.
    expected = NO_EVIDENCE if grade == EVIDENCE else grade
    table = table_of(evaluation, card, tmp_path)
    assert said_by_encode(table, card).grade == expected
    assert describe(table)["verdict"] == asdict(said_by_encode(table, card))
    # Without a card only the codes speak; what they do not show they do not deny.
    bare = table_of(evaluation, None, tmp_path)
    assert said_by_encode(bare, None).grade == (DO_NOT_TRAIN if shows_in_codes else NO_EVIDENCE)
    assert describe(bare)["verdict"] == asdict(said_by_encode(bare, None))


def test_one_set_that_went_well_clears_the_model(tmp_path):
    well, ill = ({"verdict": asdict(Verdict(each, "as seen", ""))} for each in (NO_EVIDENCE, DO_NOT_TRAIN))
    assert not list(written(tmp_path, {"a": ill, "b": well}).findings("lam", {}))
    (finding,) = written(tmp_path, {"a": ill}).findings("lam", {})
    assert finding.sentence == "by the card of lam, measured on a: as seen"


def test_a_source_unlike_the_training_data_is_told_once_with_both_figures(tmp_path):
    card = written(tmp_path, {}, ranges={"brightness": [0.2, 0.7], "motion": [0.01, 0.1]})
    assert not list(card.findings("lam", {"top": Seen(brightness=0.2, motion=0.1)}, ["0.2s"]))
    stride, unlike = card.findings("lam", {"": Seen(brightness=0.1), "top": Seen(0.5, motion=0.2)}, ["1s", "3f"])
    assert stride.sentence.startswith("stride 1s: the model was trained on 0.2s")
    assert unlike.sentence == (
        "lam was trained on squares; on this source z has not been probed, and it is unlike: darker (mean of the "
        "pixels 0.100, in training 0.200 to 0.700); of more motion at camera top (mean change of a pixel in the moving "
        "pairs 0.200, in training 0.010 to 0.100)"
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sets": {"a": 1}, "training": {}}', '{"sets": {}, "training": 3}'])
def test_a_file_of_another_project_is_no_card(tmp_path, text):
    assert Card.read(tmp_path) is None
    (tmp_path / "card.json").write_text(text)
    assert Card.read(tmp_path) is None


def test_a_run_leaves_a_card_that_warns_and_never_praises(tmp_path):
    healthy = {"heldout_spread": 0.9, "heldout_perplexity": 60.0, "heldout_z_gain": 0.3}
    summary = {"pairs": EPISODES, "steps": 5, "datasets": {"squares": {}}, **healthy}
    assert heldout_verdict(healthy, 64).grade == NO_EVIDENCE
    for name in healthy:
        faulty = summary | {name: 0.001 if name != "heldout_perplexity" else 2.0}
        fields = run_card(faulty, ["0.2s"], 64, {"brightness": range_of([0.1, 0.9])})
        (tmp_path / "card.json").write_text(json.dumps(fields))
        card = Card.read(tmp_path)
        assert card.headline["held-out pairs"][name.removeprefix("heldout_")] == faulty[name]
        assert [each.name for each in card.findings("run", {})] == ["sick_on_its_card"]
