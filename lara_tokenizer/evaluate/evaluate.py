"""One call: what a checkpoint's codes and latents are worth, on a dataset that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from lara_tokenizer.data import Episodes, LoadOptions, Stride
from lara_tokenizer.evaluate.bootstrap import single
from lara_tokenizer.evaluate.codebook import codebook_report
from lara_tokenizer.evaluate.dataset import ReadPairs, Source, load_with_masks, read_pairs
from lara_tokenizer.evaluate.decoder import decoder_errors, decoder_report, gain_over_random_init
from lara_tokenizer.evaluate.diagnostics import find_alarms, verdict
from lara_tokenizer.evaluate.encoding import encode_pairs, random_init
from lara_tokenizer.evaluate.extra import extra_report
from lara_tokenizer.evaluate.latents import latents_report
from lara_tokenizer.evaluate.nuisance_probe import ACTIONS
from lara_tokenizer.evaluate.pairs import EncodedSet, PairSet
from lara_tokenizer.evaluate.probing import probe_features, probe_nuisance, probe_plain

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

FORMAT_VERSION = 1  # of the report


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate_checkpoint` found.

    Fields:
        report: plain JSON, rounded; it holds no time, host or absolute path, so that equal runs give equal reports.
        pairs, encoded: by camera, as they are in the data.
        texts: the instruction of each episode number, "" where none is known.
        errors: squared errors of the probes, {"plain" | "nuisance": {target: {features: (E, A)}}}, summed over the
            test pairs of each episode, for statistics over several runs; see `probe.CrossFit`.
    """

    report: dict[str, Any]
    pairs: dict[str, PairSet]
    encoded: dict[str, EncodedSet]
    texts: list[str]
    errors: dict[str, dict[str, dict[tuple[str, ...], np.ndarray]]] = field(default_factory=dict)


def evaluate_checkpoint(
    model: Any,
    processor: LatentActionProcessor,
    source: Source,
    *,
    everything: bool = False,
    stride: str | None = None,
    pairs_per_episode: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    model_id: str = "",
    weights_sha256: Mapping[str, str] | None = None,
    **load: Unpack[LoadOptions],
) -> Evaluation:
    """Codebook health, use of z by the decoder, and probes of actions and of nuisances, with controls.

    >>> evaluation = evaluate_checkpoint(model, processor, "mw-heldout")  # doctest: +SKIP
    >>> evaluation.report["headline"]["z_gain"]  # doctest: +SKIP
    {'value': 0.4789, 'interval': [0.4612, 0.4951]}

    Pairs are spread evenly over each episode. All cameras count for codebook, latents and decoder; the probes read the
    first camera. Folds and resamples are made from episode numbers alone.

    Args:
        model: a `LatentActionModel`, or anything with its `get_frame_features`, `encode`, `decode`, `device`, `eval`
            and `config` (`strides`, `codebook_size`); `type(model)(model.config)` is the random-init control.
        processor: makes the model's frames.
        source: what `load_episodes` takes; `load` are its keywords. All cameras are read unless some are named.
        everything: also the slower figures, `report["extra"]`.
        stride: the gap of a pair, "0.5s" or "5f"; None takes the model's first.
        pairs_per_episode: at most so many of each episode and camera.
        seed: decides nuisances, shuffles, folds, resamples and the random-init model.
        progress: called with (episodes read, episodes) while frames are read.
        model_id, weights_sha256: what the report says of the model.

    Raises ValueError for a source that cannot be read or gives no pair, and for a model that predicts no frames: half
    of the figures are of those. With fewer than five episodes, or without actions, the probes that need them are left
    out and the report says why.
    """
    check_predicts_frames(model)
    model = model.eval()
    gap = Stride.parse(stride or model.config.strides[0])
    episodes = load_with_masks(source, **load)
    read = read_pairs(episodes, processor, gap, pairs_per_episode, seed, progress)
    encoded = {camera: encode_pairs(model, processor, pairs) for camera, pairs in read.pairs.items()}
    camera, first = next(iter(read.pairs.items()))
    fresh = random_init(model, seed)
    fresh_encoded = encode_pairs(fresh, processor, first)
    plain = probe_plain(read, _features(model, encoded[camera], fresh_encoded), seed)
    under = encode_pairs(model, processor, read.nuisance.pairs)
    fresh_under = encode_pairs(fresh, processor, read.nuisance.pairs)
    nuisance = probe_nuisance(read, _features(model, under, fresh_under), seed)
    errors = decoder_errors(model, processor, read.pairs, encoded, seed)
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": _model_facts(model, encoded[camera], model_id, weights_sha256),
        "data": _data_facts(episodes, read, gap, seed),
        "headline": {},
        "codebook": _codebook(model, encoded),
        "latents": latents_report(_all(encoded, "latents"))
        | {"random_init_spread": latents_report(fresh_encoded.latents)["spread"]},
        "decoder": decoder_report(errors, seed)
        | {"gain_over_random_init": gain_over_random_init(model, fresh, processor, first, encoded[camera])},
        "probe": {"camera": camera, **plain.report},
        "nuisance": {"camera": camera, "families": list(read.nuisance.changes), **nuisance.report},
    }
    report["headline"] = headline(report)
    if everything:
        action_errors = plain.errors.get(ACTIONS, {})
        report["extra"] = extra_report(model, processor, first, encoded[camera], under, action_errors, read.texts, seed)
    report["alarms"] = find_alarms(report)
    report["verdict"] = verdict(report)
    return Evaluation(report, read.pairs, encoded, read.texts, {"plain": plain.errors, "nuisance": nuisance.errors})


def check_predicts_frames(model: Any) -> None:
    """Raise ValueError for a model whose decoder gives no frames to measure."""
    if not getattr(model, "predicts_frames", True):
        raise ValueError(
            f"{type(model).__name__} predicts no frames (see its decode), and evaluation measures predicted frames: it "
            "cannot be evaluated. Its codes can be: lara-tok encode, then lara-tok info on the table."
        )


def headline(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that come first, each with its value and, where it has one, its 95 % interval; None: not measured."""
    plain, nuisance = report["probe"]["rows"].get("z", {}), report["nuisance"]["rows"].get("z", {})
    codebook = report["codebook"] or {}
    per_position = codebook.get("perplexity_per_position")
    gains = ("gain_over_copying", "gain_over_copying_moving", "z_gain", "z_gain_moving")
    return {
        "conditional_r2": _row_figure(plain, "conditional_r2", "interval"),
        "conditional_r2_nuisance": _row_figure(nuisance, "conditional_r2", "interval"),
        "nuisance_r2": _row_figure(nuisance, "nuisance_r2", "nuisance_interval"),
        "selectivity": _row_figure(nuisance, "selectivity", "selectivity_interval"),
        **{name: report["decoder"][name] for name in gains},
        "perplexity": single(codebook.get("perplexity")),
        "perplexity_per_position": single(None if per_position is None else float(np.mean(per_position))),
        "dead_codes": single(codebook.get("dead_codes")),
        "dead_positions": single(codebook.get("dead_positions")),
        "spread": single(report["latents"]["spread"]),
        "effective_rank": single(report["latents"]["effective_rank"]),
    }


def _row_figure(row: dict[str, Any], value: str, interval: str) -> dict[str, Any]:
    return {"value": row.get(value), "interval": row.get(interval)}


def _features(model: Any, encoded: EncodedSet, fresh: EncodedSet) -> dict[str, np.ndarray]:
    return probe_features(encoded, fresh, model.config.codebook_size)


def _all(encoded: Mapping[str, EncodedSet], name: str) -> torch.Tensor:
    return torch.cat([getattr(part, name) for part in encoded.values()])


def _codebook(model: Any, encoded: Mapping[str, EncodedSet]) -> dict[str, Any] | None:
    if any(part.codes is None for part in encoded.values()):
        return None
    return codebook_report(_all(encoded, "codes"), model.config.codebook_size)


def _model_facts(
    model: Any, encoded: EncodedSet, model_id: str, weights_sha256: Mapping[str, str] | None
) -> dict[str, Any]:
    positions = encoded.latents.shape[1]
    codes = f"{positions} continuous" if encoded.codes is None else f"{positions} x {model.config.codebook_size}"
    return {
        "id": model_id,
        "weights_sha256": None if weights_sha256 is None else dict(weights_sha256),
        "codes": codes,
        "latent_dim": encoded.latents[0].numel(),
    }


def _data_facts(episodes: Episodes, read: ReadPairs, stride: Stride, seed: int) -> dict[str, Any]:
    sets = list(read.pairs.values())
    return {
        "name": ", ".join(found.name for found in episodes.sources),
        "episodes": len(np.unique(np.concatenate([part.episodes for part in sets]))),
        "cameras": list(read.pairs),
        "masks": [camera for camera, part in read.pairs.items() if part.masks is not None],
        "frames": sum(len(part.frames) for part in sets),
        "pairs": sum(len(part) for part in sets),
        "stride": stride.text,
        "nuisance_families": list(read.nuisance.changes),
        "seed": seed,
        "left_out": read.left_out,
    }
