"""`evaluate_checkpoint`: all figures of a checkpoint on a dataset that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from einops import rearrange

from lara_tokenizer.data import Episodes, LoadOptions, Stride
from lara_tokenizer.data.actions.motion import AUTO
from lara_tokenizer.evaluate.codebook import codebook_figures, latent_figures
from lara_tokenizer.evaluate.controls.encoder import ControlEncoder
from lara_tokenizer.evaluate.controls.rows import control_rows
from lara_tokenizer.evaluate.dataset import EvaluationDataset, PairSet, Source, date_of, load_with_masks, read_pairs
from lara_tokenizer.evaluate.decoder import decoder_errors, decoder_figures, gain_over_random_init
from lara_tokenizer.evaluate.diagnostics import find_alarms, verdict
from lara_tokenizer.evaluate.encoding import EncodedSet, encode_pairs, random_init
from lara_tokenizer.evaluate.extra import extra_figures
from lara_tokenizer.evaluate.figures import CodebookFigures, ControlInfo, DataInfo, ModelInfo, ProbeTable, Report
from lara_tokenizer.evaluate.probes import (
    ACTIONS,
    CrossFit,
    Features,
    Key,
    action_table,
    cross_fit,
    nuisance_table,
    reason_against_probes,
)
from lara_tokenizer.evaluate.ridge import STD_FLOOR
from lara_tokenizer.thresholds import IDLE_MOTION

if TYPE_CHECKING:
    from lara_tokenizer.model import LatentActionProcessor

Errors = dict[str, dict[Key, np.ndarray]]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate_checkpoint`."""

    figures: Report
    pairs: dict[str, PairSet]  # by camera, without nuisance
    encoded: dict[str, EncodedSet]  # by camera
    instructions: list[str]  # by episode index, "" where unknown
    errors: dict[str, Errors] = field(default_factory=dict)
    """Squared errors of the probes, {"plain" | "nuisance": {target: {features: (E, A)}}}, summed over the test pairs of
    each episode, for statistics over several runs; see `probes.CrossFit`."""

    @property
    def report(self) -> dict[str, Any]:
        """The content of report.json.

        It is rounded and has no time, host or absolute path, so that equal runs give equal reports.
        """
        return self.figures.to_dict()


def evaluate_checkpoint(
    model: Any,
    processor: LatentActionProcessor,
    source: Source,
    *,
    everything: bool = False,
    stride: str | None = None,
    target: str = AUTO,
    pairs_per_episode: int = 32,
    seed: int = 0,
    control_encoder: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    model_id: str = "",
    weights_sha256: Mapping[str, str] | None = None,
    **load: Unpack[LoadOptions],
) -> Evaluation:
    """Measure codebook, latents, use of z by the decoder, and probes of actions and nuisances with controls.

    >>> evaluation = evaluate_checkpoint(model, processor, "mw-heldout")  # doctest: +SKIP
    >>> evaluation.figures.headline["z_gain"]  # doctest: +SKIP
    Estimate(value=0.4789, interval=[0.4612, 0.4951])

    Pairs are spread evenly over each episode. Codebook, latents and decoder are measured on all cameras, probes on the
    first. Folds and resamples depend on episode indices alone. With fewer than five episodes, or without actions, the
    probes that need them are left out and the report gives the reason.

    Args:
        model: a `LatentActionModel`, or anything with its `get_frame_features`, `encode`, `decode`, `device`, `eval`
            and `config` (`strides`, `codebook_size`); `type(model)(model.config)` is the random-init control.
        processor: makes the model's frames.
        source: as for `load_episodes`; `load` are its keywords. All cameras are read unless some are named.
        everything: also the slower figures, `figures.extra`.
        stride: the distance between the frames of a pair, "0.5s" or "5f"; None: the model's first.
        target: what the action probes predict: "sum" of the actions, "change" of state or action between the frames,
            "chunk" (all actions), or "auto": what the actions of the dataset are decides, number by number.
        pairs_per_episode: upper limit per episode and camera.
        seed: of nuisances, shuffles, folds, resamples and the random-init model.
        control_encoder: a vision model of transformers, a folder or a Hub id; the change of its features is a further
            control.
        progress: called with (episodes read, episodes) while frames are read.
        model_id, weights_sha256: copied into the report.

    Raises:
        ValueError: for a source that cannot be read or gives no pair, and for a model that predicts no frames, as half
            of the figures are about those.
    """
    check_predicts_frames(model)
    model = model.eval()
    # First, so that a name that cannot be opened is refused before anything takes its time.
    encoder = None if control_encoder is None else ControlEncoder.load(control_encoder, model.device)
    parsed_stride = Stride.parse(stride or model.config.strides[0])
    episodes = load_with_masks(source, **load)
    dataset = read_pairs(episodes, processor, parsed_stride, pairs_per_episode, seed, progress, target)
    camera, pairs = dataset.camera, dataset.pairs[dataset.camera]
    encoded = {
        each: encode_pairs(model, processor, of_camera, feature_change=each == camera)
        for each, of_camera in dataset.pairs.items()
    }
    under_nuisance = encode_pairs(model, processor, dataset.nuisance.pairs, feature_change=True)
    # The control without training: it is encoded and probed as the model is.
    fresh = random_init(model, seed)
    fresh_encoded = encode_pairs(fresh, processor, pairs)
    fresh_under_nuisance = encode_pairs(fresh, processor, dataset.nuisance.pairs)
    size = model.config.codebook_size
    controls, disturbed_controls = (
        control_rows(of_view, encoded_view, processor, size, encoder)
        for of_view, encoded_view in ((pairs, encoded[camera]), (dataset.nuisance.pairs, under_nuisance))
    )
    features = probe_features(encoded[camera], fresh_encoded, size) | controls.rows
    plain, plain_errors = probe_plain(dataset, features, seed)
    features = probe_features(under_nuisance, fresh_under_nuisance, size) | disturbed_controls.rows
    nuisance, nuisance_errors = probe_nuisance(dataset, features, seed)
    random_init_gain = gain_over_random_init(model, fresh, processor, pairs, encoded[camera])
    is_moving = {each: of_camera.motion() >= IDLE_MOTION for each, of_camera in dataset.pairs.items()}
    report = Report(
        model=_model_info(encoded[camera], size, model_id, weights_sha256),
        data=_data_info(episodes, dataset, parsed_stride, seed, is_moving),
        codebook=_codebook(encoded, size, is_moving),
        latents=latent_figures(torch.cat([each.latents for each in encoded.values()]), fresh_encoded.latents),
        decoder=decoder_figures(decoder_errors(model, processor, dataset.pairs, encoded, seed), random_init_gain, seed),
        probe=plain,
        nuisance=nuisance,
        controls=ControlInfo(controls.closed_form_bits, None if encoder is None else encoder.name, controls.left_out),
    )
    if everything:
        errors, tasks = plain_errors.get(ACTIONS, {}), dataset.tasks(pairs)
        extra = extra_figures(model, processor, pairs, encoded[camera], under_nuisance, errors, tasks, seed)
        report = replace(report, extra=extra)
    # Each of these reads the report as it is so far.
    report = replace(report, alarms=find_alarms(report))
    report = replace(report, verdict=verdict(report))
    all_errors = {"plain": plain_errors, "nuisance": nuisance_errors}
    return Evaluation(report, dataset.pairs, encoded, dataset.instructions, all_errors)


def check_predicts_frames(model: Any) -> None:
    """Raise ValueError for a model whose decoder gives no frames to measure."""
    if not getattr(model, "predicts_frames", True):
        raise ValueError(
            f"{type(model).__name__} predicts no frames (see its decode), and evaluation measures predicted frames: it "
            "cannot be evaluated. Its codes can be: lara-tok encode, then lara-tok info on the table."
        )


def probe_features(encoded: EncodedSet, fresh: EncodedSet, codebook_size: int) -> Features:
    """The rows of a probe table: z, with codes also its quantized form and one-hot codes, and z of `fresh`."""
    features: Features = {"z": encoded.latents.numpy()}
    if encoded.codes is not None:
        features["quantized"] = encoded.quantized_latents.numpy()
        features["codes"] = one_hot(encoded.codes, codebook_size)
    return features | {"random_init": fresh.latents.numpy()}


def one_hot(codes_PN: torch.Tensor, codebook_size: int) -> np.ndarray:
    """float32 (P, N K) without the columns of codes that never occur."""
    hot = rearrange(torch.nn.functional.one_hot(codes_PN, codebook_size), "p n k -> p (n k)")
    return hot[:, hot.any(0)].float().numpy()


def probe_plain(dataset: EvaluationDataset, features: Features, seed: int) -> tuple[ProbeTable, Errors]:
    """Probe the actions of the first camera's pairs; returns the table and the squared errors behind it."""
    pairs = dataset.pairs[dataset.camera]
    if reason := reason_against_actions(pairs, dataset.without_actions):
        return ProbeTable(dataset.camera, reason), {}
    assert pairs.actions is not None
    fit = _cross_fit(pairs, dataset, features, {ACTIONS: pairs.actions}, seed)
    return replace(action_table(fit, seed), camera=dataset.camera), fit.errors


def probe_nuisance(dataset: EvaluationDataset, features: Features, seed: int) -> tuple[ProbeTable, Errors]:
    """Probe the changes of the nuisance parameters, and the actions where there are any, under the nuisance."""
    pairs, changes = dataset.nuisance.pairs, dataset.nuisance.changes
    if reason := reason_against_probes(pairs.episodes):
        return ProbeTable(dataset.camera, reason, families=list(changes)), {}
    targets = dict(changes)
    if not reason_against_actions(pairs, dataset.without_actions):
        assert pairs.actions is not None
        targets = {ACTIONS: pairs.actions, **changes}
    fit = _cross_fit(pairs, dataset, features, targets, seed)
    return replace(nuisance_table(fit, list(changes), seed), camera=dataset.camera), fit.errors


def reason_against_actions(pairs: PairSet, without_actions: str) -> str:
    """The reason why actions cannot be probed; "" where they can."""
    if pairs.actions is None:
        return f"no action probe: {without_actions}"
    if not (pairs.actions.std(0) > STD_FLOOR).any():
        return "no action probe: the actions never change"
    return reason_against_probes(pairs.episodes)


def _cross_fit(pairs: PairSet, dataset: EvaluationDataset, features: Features, targets: Arrays, seed: int) -> CrossFit:
    now, future = pairs.frames[pairs.now], pairs.frames[pairs.future]
    return cross_fit(features, now, future, targets, pairs.episodes, task_E=dataset.tasks(pairs), seed=seed)


def _codebook(encoded: Mapping[str, EncodedSet], codebook_size: int, is_moving: Arrays) -> CodebookFigures | None:
    codes = [each.codes for each in encoded.values() if each.codes is not None]
    if len(codes) < len(encoded):
        return None
    return codebook_figures(torch.cat(codes), codebook_size, np.concatenate([is_moving[each] for each in encoded]))


def _model_info(
    encoded: EncodedSet, codebook_size: int, model_id: str, weights_sha256: Mapping[str, str] | None
) -> ModelInfo:
    positions = encoded.latents.shape[1]
    return ModelInfo(
        id=model_id,
        weights_sha256=None if weights_sha256 is None else dict(weights_sha256),
        codes=f"{positions} continuous" if encoded.codes is None else f"{positions} x {codebook_size}",
        latent_dim=encoded.latents[0].numel(),
    )


def _data_info(
    episodes: Episodes, dataset: EvaluationDataset, stride: Stride, seed: int, is_moving: Arrays
) -> DataInfo:
    sets = dataset.pairs.values()
    return DataInfo(
        name=", ".join(source.name for source in episodes.sources),
        episodes=len(np.unique(np.concatenate([pairs.episodes for pairs in sets]))),
        cameras=list(dataset.pairs),
        masks=[camera for camera, pairs in dataset.pairs.items() if pairs.masks is not None],
        frames=sum(len(pairs.frames) for pairs in sets),
        pairs=sum(len(pairs) for pairs in sets),
        stride=stride.text,
        nuisance_families=list(dataset.nuisance.changes),
        seed=seed,
        left_out=dataset.left_out,
        target=dataset.target,
        date=date_of(episodes),
        idle_pairs={camera: [int((~moves).sum()), len(moves)] for camera, moves in is_moving.items()},
    )
