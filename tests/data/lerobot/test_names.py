"""Names of the numbers of actions and states, in each way that writers store them."""

from __future__ import annotations

import json

import pytest

from lara_tokenizer.data.lerobot.info import LeRobotInfo


def names_of(names: object, shape: object) -> tuple[str, ...]:
    features = {"action": {"dtype": "float32", "shape": shape, "names": names}}
    text = json.dumps({"codebase_version": "v2.1", "fps": 10, "features": features, "data_path": "data.parquet"})
    return LeRobotInfo.parse(text).names_of("action")


@pytest.mark.parametrize(
    "names",
    [["x", "y"], [["x", "y"]], {"motors": ["x", "y"]}, {"y": 1, "x": 0}, {"arm": ["x"], "gripper": ["y"]}],
)
def test_every_layout_of_names_is_read(names):
    assert names_of(names, [2]) == ("x", "y")


@pytest.mark.parametrize(
    ("names", "shape"),
    [(None, [2]), (["x"], [2]), (["x", 1], [2]), ("action", [2]), ([], [0]), (["x", "y"], None), (["x", "y"], ["2"])],
)
def test_names_that_are_not_one_for_each_number_are_none(names, shape):
    assert names_of(names, shape) == ()


def test_names_in_a_deep_nest_are_none():
    nest: list = ["x", "y"]
    for _ in range(20):
        nest = [nest]
    assert names_of(nest, [2]) == ()


def test_a_column_that_is_not_described_has_no_names():
    assert LeRobotInfo("v2.1", 10, {"action": "x"}, {}).names_of("action") == ()
    assert LeRobotInfo("v2.1", 10, {}, {}).names_of("") == ()
