"""`Card`: what a checkpoint says of itself in card.json: its training data, the range of its pixels, its verdicts.

The file is beside the weights, or not: other checkpoints have none, and one of another shape counts as none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer._parse import read_json_object
from lara_tokenizer.verdict.findings import number, of_camera, stride_findings
from lara_tokenizer.verdict.grades import ALARM, DO_NOT_TRAIN, WARNING, Finding, Verdict

CARD = "card.json"
# Of the sequences trained on, these shares lie below the range of a figure, and as many above it.
TAIL = 0.01
WORDS = {
    "brightness": ("darker", "brighter", "mean of the pixels"),
    "contrast": ("flatter", "of higher contrast", "standard deviation of the pixels"),
    "motion": ("stiller", "of more motion", "mean change of a pixel in the moving pairs"),
}

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """Pixels of a camera, 0 to 1: mean, standard deviation, mean change within the moving pairs; None: unknown."""

    brightness: float | None = None
    contrast: float | None = None
    motion: float | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A checkpoint's account of itself, beside its weights.

    Attributes:
        trained_on: its data in words, "113 minutes of real robot video".
        strides: of the pairs that it was trained on.
        ranges: of a figure of `Seen` over the sequences that it was trained on.
        verdicts: by set that it was measured on.
        headline: figures by set, for those that read them from the file.
    """

    trained_on: str
    strides: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    headline: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Card | None:
        """The card of a checkpoint's folder; None where it has none, or one of another project."""
        try:
            fields = read_json_object(folder / CARD)
            sets = {name: each.get("report", each) for name, each in fields["sets"].items()}
            return cls.from_dict(
                {
                    "trained_on": fields["training"]["words"],
                    "strides": fields["training"]["strides"],
                    "ranges": fields["training"].get("ranges", {}),
                    "verdicts": {name: each["verdict"] for name, each in sets.items() if "verdict" in each},
                },
                {name: _values(each.get("headline", {})) for name, each in sets.items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], headline: Mapping[str, Mapping[str, float]] | None = None) -> Card:
        """The card in a table's metadata. Raises ValueError, KeyError or TypeError for another shape."""
        return cls(
            trained_on=str(fields["trained_on"]),
            strides=tuple(fields["strides"]),
            ranges={name: (float(low), float(high)) for name, (low, high) in fields["ranges"].items() if name in WORDS},
            verdicts={name: Verdict.from_dict(each) for name, each in fields["verdicts"].items()},
            headline=headline or {},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-native values for a table's metadata."""
        return {
            "trained_on": self.trained_on,
            "strides": list(self.strides),
            "ranges": {name: list(each) for name, each in self.ranges.items()},
            "verdicts": {name: asdict(each) for name, each in self.verdicts.items()},
        }

    def findings(self, model: str, seen: Mapping[str, Seen], strides: Iterable[str] = ()) -> Iterator[Finding]:
        """A sick model, and a source that is not like the training data.

        Args:
            model: the checkpoint's id.
            seen: pixels of the source, by camera.
            strides: of its pairs.
        """
        if self.verdicts and all(each.grade == DO_NOT_TRAIN for each in self.verdicts.values()):
            name, verdict = next(iter(self.verdicts.items()))
            yield Finding("sick_on_its_card", ALARM, f"by the card of {model}, measured on {name}: {verdict.reason}")
        yield from stride_findings(strides, self.strides)
        if unlike := [words for camera, each in sorted(seen.items()) for words in self._unlike(camera, each)]:
            yield Finding(
                "unlike_training",
                WARNING,
                f"{model} was trained on {self.trained_on}; on this source z has not been probed, and it is unlike: "
                + "; ".join(unlike),
            )

    def _unlike(self, camera: str, seen: Seen) -> Iterator[str]:
        for name, (low, high) in self.ranges.items():
            value, (below, above, meaning) = getattr(seen, name), WORDS[name]
            if value is not None and not low <= value <= high:
                which = f"{below if value < low else above}{of_camera(camera).replace(' of', ' at', 1)}"
                yield f"{which} ({meaning} {number(value)}, in training {number(low)} to {number(high)})"


def _values(headline: Mapping[str, Any]) -> dict[str, float]:
    """The values of headline figures, without those that were not measured."""
    values = {name: each.get("value") for name, each in headline.items() if isinstance(each, Mapping)}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def range_of(values: np.ndarray) -> list[float]:
    """The range of a figure over sequences, without the tails: the range in a card.

    >>> range_of(np.arange(101) / 100)
    [0.01, 0.99]
    """
    return [round(float(each), 4) for each in np.quantile(values, [TAIL, 1 - TAIL])]
