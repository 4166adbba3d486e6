"""Training data of joint training: labelled samples for the policy, code tables as targets, unlabeled pairs.

A sample is frame t of every camera, the state, the instruction, the next C actions, and the tokenizer's frame pair.

Shape suffixes: B samples, V cameras, C steps of a chunk, A and S padded widths of actions and states, N latent tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lara_policy.embodiment import Embodiment
from lara_tokenizer.data import Signals
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.table import read_metadata, read_tokens
from lara_tokenizer.train.frames import FrameSource
from lara_tokenizer.train.mixture import Mixture, PairedSequence, StridePairs, find_pairs
from lara_tokenizer.train.pairs import PairDataset
from lara_tokenizer.train.sequences import FrameSequence

if TYPE_CHECKING:
    from lara_policy.configuration_flow_matching_policy import FlowMatchingPolicyConfig
    from lara_tokenizer.data import Episode

logger = logging.getLogger(__name__)

MISSING_CODE = -1


@dataclass(frozen=True, slots=True)
class CodeTable:
    """The codes of one camera at one stride in a token table, by episode."""

    path: str
    num_codes: int  # N, per pair
    codebook_size: int
    rows: dict[str, tuple[np.ndarray, np.ndarray]]  # episode -> frame_index (n,), codes (n, N)

    @classmethod
    def read(cls, path: str | Path, camera: str = "") -> CodeTable:
        """Read the valid rows of a table that `lara-tok encode` wrote.

        Raises ValueError for a table without codes, with several strides, or with several cameras if none is named.
        """
        metadata = read_metadata(path)
        table = read_tokens(path)
        if "codes" not in table.column_names:
            raise ValueError(f"{path} holds no codes: it comes from a model without a codebook.")
        strides, cameras = (sorted(set(table[column].to_pylist())) for column in ("stride", "camera"))
        if len(strides) > 1:
            raise ValueError(f"{path} holds strides {', '.join(strides)}: encode with one --stride.")
        if len(cameras) > 1:
            matching = [name for name in cameras if camera in (name, name.rpartition(".")[2])]
            if len(matching) != 1:
                raise ValueError(f"{path} holds cameras {', '.join(cameras)}: name one as lam_camera.")
            table = table.filter([name == matching[0] for name in table["camera"].to_pylist()])
        table = table.filter(table["valid"])
        if not len(table):
            raise ValueError(f"{path} holds no valid row.")
        codes = np.stack(table["codes"].to_numpy(zero_copy_only=False))
        frames, episodes = table["frame_index"].to_numpy(), np.array(table["episode"].to_pylist())
        rows = {name: (frames[episodes == name], codes[episodes == name]) for name in dict.fromkeys(episodes.tolist())}
        return cls(str(path), codes.shape[1], int(metadata["model"]["codebook_size"]), rows)

    def of(self, episode: str, num_frames: int) -> np.ndarray:
        """int16 (num_frames, N), -1 in frames without a row. Raises ValueError for a row past the episode's end."""
        codes = np.full((num_frames, self.num_codes), MISSING_CODE, np.int16)
        if episode not in self.rows:
            return codes
        frames, known = self.rows[episode]
        if frames.max() >= num_frames:
            raise ValueError(
                f"{self.path} has codes at frame {frames.max()} of episode {episode!r}, which has {num_frames} frames: "
                "it was made from another source."
            )
        codes[frames] = known
        return codes


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode's frames, actions, states, instructions and codes."""

    dataset: str
    episode: str
    sequences: dict[str, FrameSequence]  # by camera, in the policy's order
    actions: np.ndarray  # (n, A); A is 0 without actions
    states: np.ndarray | None  # (n, S)
    texts: tuple[str, ...]  # the instruction at each frame
    fps: float
    codes: np.ndarray | None = None  # int16 (n, N), -1 if unknown; None without a table

    @property
    def num_frames(self) -> int:
        """Number of frames, which is that of actions."""
        return len(self.actions)

    @property
    def first_sequence(self) -> FrameSequence:
        """The frames of the first camera, the tokenizer's."""
        return next(iter(self.sequences.values()))

    def without_actions(self) -> Demonstration:
        """A copy for a policy that learns only codes."""
        return replace(self, actions=np.zeros((self.num_frames, 0), np.float32), states=None)


def read_demonstrations(
    episodes: Sequence[Episode],
    sequences: Sequence[FrameSequence],
    cameras: Mapping[str, Sequence[str]],
    codes: CodeTable | None = None,
) -> list[Demonstration]:
    """Read the episodes that have all `cameras` of their dataset and actions (with a table: actions or known codes).

    Others are logged and left out. Raises ValueError if none remains, and for NaN or infinity in actions or states.
    """
    by_episode: dict[tuple[str, str], dict[str, FrameSequence]] = {}
    for sequence in sequences:
        by_episode.setdefault((sequence.dataset, sequence.episode), {})[sequence.camera] = sequence
    demonstrations: list[Demonstration] = []
    for episode in episodes:
        available = by_episode.get((episode.dataset, episode.id), {})
        required = cameras.get(episode.dataset, ())
        try:
            if not required or any(camera not in available for camera in required):
                names = ", ".join(map(repr, available)) or "none"
                needed = ", ".join(required)
                logger.warning("left out: episode %r has cameras %s, needed are %s", episode.id, names, needed)
                continue
            demonstration = _read_demonstration(episode, {camera: available[camera] for camera in required}, codes)
            if demonstration is None:
                lacking = "no actions" if codes is None else "neither actions nor codes"
                logger.warning("left out: episode %r has %s", episode.id, lacking)
            else:
                demonstrations.append(demonstration)
        except (LaraTokenizerError, OSError) as error:
            logger.warning("left out: %s", error)
        finally:
            episode.close()
    if not demonstrations:
        needed = f"rows in {codes.path}" if codes else "actions: a policy needs some"
        raise ValueError(f"none of the {len(episodes)} episodes has {needed}.")
    return demonstrations


def _read_demonstration(
    episode: Episode, sequences: dict[str, FrameSequence], codes: CodeTable | None
) -> Demonstration | None:
    signals = episode.signals()
    times = next(iter(sequences.values())).timestamps
    known = None if codes is None else codes.of(episode.id, len(times))
    if signals.actions is None or not len(signals.actions):
        if known is None or (known < 0).all():
            return None
        signals = Signals(np.zeros((len(times), 0), np.float32), None, signals.texts)
    assert signals.actions is not None
    for what, values in (("actions", signals.actions), ("states", signals.states)):
        if values is not None and not np.isfinite(values).all():
            frame = int((~np.isfinite(values)).any(-1).argmax())
            raise ValueError(
                f"episode {episode.id!r}: NaN or infinity in its {what} at frame {frame}. Correct it, or leave it out."
            )
    signals.check_length(len(times), episode.id)
    fps = (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 0.0
    texts = tuple(signals.texts or (episode.text or "",) * len(times))
    return Demonstration(episode.dataset, episode.id, sequences, signals.actions, signals.states, texts, fps, known)


class PolicyDataset(Dataset):
    """Labelled samples. Sample k is draw k of a mixture: datasets equally often, within them episodes, then any frame.

    A sample:
        images: uint8 (V, 3, S, S), every camera at t.
        state: float32 (S,); embodiment, task: int64 (); text: the instruction.
        actions: float32 (C, A), standardized, zero-padded; action_mask: bool (C, A), False for padding and for steps
            past the episode's end.
        noise: float32 (C, A); tau_quantile: float32 () in [0, 1), for `FlowMatching.time`; shift: int64 (2,), pixels of
            rows and columns. They depend only on the seed and k, not on the number of processes or on restarts.
        pair: uint8 (2, 3, S', S'), the first camera at t and `stride_frames` later; absent without `pair_frames`.
        pair_mask: bool (), whether that later frame exists.
        codes: int64 (N,) and code_mask: bool (), with demonstrations that have codes.

    Batches come whole from a sampler of indices, as in `PairDataset`. `len()` is the number of different frames.
    """

    def __init__(
        self,
        frames: FrameSource,
        demonstrations: Sequence[Demonstration],
        robots: Sequence[tuple[int, Embodiment]],
        config: FlowMatchingPolicyConfig,
        *,
        stride_frames: int,
        pair_frames: FrameSource | None = None,
        shift: int = 0,
        seed: int = 0,
    ) -> None:
        """`robots` holds each demonstration's embodiment and its index in the policy.

        `prepare`, an attribute, changes each batch of a loader in the process that loads it: see `LoadedBatch`.
        """
        self.prepare: Callable[[dict[str, Any], np.ndarray], dict[str, Any]] | None = None
        self.frames = frames
        self.pair_frames = pair_frames
        self.chunk_size = config.horizon
        self.stride_frames = stride_frames
        self.shift = shift
        self.seed = seed
        self.texts = [each.texts for each in demonstrations]
        self._tasks = {text: index for index, text in enumerate(config.tasks)}
        # The mixture draws (episode, frame): an episode is one sequence whose "pairs" of stride 0 are its frames.
        episodes = [
            PairedSequence(
                FrameSequence(index, each.dataset, each.episode, "", np.zeros(0)), (StridePairs(0, each.num_frames, 0),)
            )
            for index, each in enumerate(demonstrations)
        ]
        self.mixture = Mixture(episodes, seed)
        self._sequences = np.array(
            [[sequence.index for sequence in each.sequences.values()] for each in demonstrations]
        )
        self._length = np.array([each.num_frames for each in demonstrations])
        self._first = np.concatenate([[0], np.cumsum(self._length)])
        self._robot = torch.tensor([index for index, _ in robots])
        self._action_dim = np.array([robot.action_dim for _, robot in robots])
        pairs = list(zip(demonstrations, [robot for _, robot in robots], strict=True))
        actions = [robot.normalize_actions(each.actions, config.max_action_dim) for each, robot in pairs]
        states = [
            np.zeros((each.num_frames, config.max_state_dim), np.float32)
            if each.states is None
            else robot.normalize_states(each.states, config.max_state_dim)
            for each, robot in pairs
        ]
        # Tensors, not arrays: torch shares them with loader processes instead of copying.
        self._actions = torch.from_numpy(np.concatenate(actions))
        self._states = torch.from_numpy(np.concatenate(states))
        self._codes: Tensor | None = None
        if demonstrations[0].codes is not None:
            self._codes = torch.from_numpy(np.concatenate([each.codes for each in demonstrations]).astype(np.int64))

    def __len__(self) -> int:
        return self.mixture.num_pairs

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value[0] for name, value in self.batch([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = self.batch(indices)
        return batch if self.prepare is None else self.prepare(batch, np.asarray(indices))

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """The samples of some draws, each field with a leading batch axis."""
        draws = self.mixture.draw(np.asarray(indices))
        episode, now = draws.sequence, draws.now
        row = torch.from_numpy(self._first[episode] + now)
        actions, action_mask = self._action_chunks(episode, now)
        future = now + self.stride_frames
        exists = future < self._length[episode]
        texts = [self.texts[index][frame] for index, frame in zip(episode.tolist(), now.tolist(), strict=True)]
        batch: dict[str, Any] = {
            "images": self._images(episode, now),
            "actions": actions,
            "action_mask": action_mask,
            "state": self._states[row],
            "embodiment": self._robot[torch.from_numpy(episode)],
            # A policy with a vision-language model has no tasks, and reads "text" instead.
            "task": torch.tensor([self._tasks.get(text, 0) for text in texts]),
            "text": texts,
            "pair_mask": torch.from_numpy(exists),
            **self._random_numbers(indices),
        }
        if self._codes is not None:
            batch["codes"] = self._codes[row]
            batch["code_mask"] = (batch["codes"] >= 0).all(1)
        if self.pair_frames is not None:
            # Without a later frame the pair repeats frame t; pair_mask keeps it out of every loss.
            pair = np.stack([now, np.where(exists, future, now)], 1)
            batch["pair"] = self.pair_frames.read(self._sequences[episode, 0], pair)
        return batch

    def _random_numbers(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        shape = (self.chunk_size, self._actions.shape[1])
        noise, quantile, shift = [], [], []
        # A generator per sample: loader processes and restarts then draw the same numbers.
        for index in indices:
            rng = np.random.default_rng((self.seed, int(index)))
            noise.append(rng.standard_normal(shape, np.float32))
            quantile.append(rng.random(dtype=np.float32))
            shift.append(rng.integers(-self.shift, self.shift + 1, 2))
        return {
            "noise": torch.from_numpy(np.stack(noise)),
            "tau_quantile": torch.from_numpy(np.stack(quantile)),
            "shift": torch.from_numpy(np.stack(shift)),
        }

    def _images(self, episode: np.ndarray, now: np.ndarray) -> Tensor:
        cameras = range(self._sequences.shape[1])
        return torch.cat([self.frames.read(self._sequences[episode, view], now[:, None]) for view in cameras], 1)

    def _action_chunks(self, episode: np.ndarray, now: np.ndarray) -> tuple[Tensor, Tensor]:
        """Actions float32 (B, C, A) and their mask bool (B, C, A)."""
        step_BC = now[:, None] + np.arange(self.chunk_size)
        exists_BC = step_BC < self._length[episode][:, None]
        row_BC = self._first[episode][:, None] + np.where(exists_BC, step_BC, now[:, None])
        width = self._actions.shape[1]
        mask_BCA = exists_BC[:, :, None] & (np.arange(width) < self._action_dim[episode][:, None, None])
        mask = torch.from_numpy(mask_BCA)
        return torch.where(mask, self._actions[torch.from_numpy(row_BC)], 0), mask


class UnlabeledPairs:
    """Batches of frame pairs without actions, with the index of each instruction in the policy.

    Batch k holds "unlabeled": uint8 (U, 2, 3, S, S); "unlabeled_task": int64 (U,); "unlabeled_text": U instructions.
    """

    def __init__(
        self,
        frames: FrameSource,
        episodes: Sequence[Episode],
        strides: Sequence[str],
        tasks: Sequence[str],
        size: int,
        seed: int,
    ) -> None:
        """`tasks` are the policy's instructions; "" among them is for unknown ones."""
        by_id = {(episode.dataset, episode.id): episode.text or "" for episode in episodes}
        self.texts = {sequence.index: by_id[sequence.dataset, sequence.episode] for sequence in frames.sequences}
        self.pairs = PairDataset(frames, find_pairs(frames.sequences, strides), seed)
        self.size = size
        self._tasks = {text: index for index, text in enumerate(tasks)}

    def __call__(self, batch: int) -> dict[str, Any]:
        indices = batch * self.size + np.arange(self.size)
        draws = self.pairs.mixture.draw(indices)
        texts = [self.texts[index] for index in draws.sequence.tolist()]
        unknown = self._tasks.get("", 0)
        return {
            "unlabeled": self.pairs.batch(indices),
            "unlabeled_task": torch.tensor([self._tasks.get(text, unknown) for text in texts]),
            "unlabeled_text": texts,
        }
