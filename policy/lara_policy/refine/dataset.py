"""What a policy learns from: frame t of every camera, state, task, the next C actions, and the tokenizer's pair.

Shape suffixes: B samples, V cameras, C steps of a chunk, A and S padded widths of actions and states.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lara_policy.embodiment import Embodiment
from lara_tokenizer.data import Signals
from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.train.mixture import Mixture, PairedStream, StridePairs
from lara_tokenizer.train.pairs import FrameSource
from lara_tokenizer.train.streams import Stream

if TYPE_CHECKING:
    from lara_policy.refine.dataset import CodeTable
    from lara_tokenizer.data import Episode


from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.encode import read_metadata, read_tokens
from lara_tokenizer.train.mixture import find_pairs
from lara_tokenizer.train.pairs import FrameSource, PairDataset

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode

MISSING = -1


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Codes of one camera at one stride, by episode; `num_codes` a pair, each one of `codebook_size`."""

    path: str
    num_codes: int
    codebook_size: int
    rows: dict[str, tuple[np.ndarray, np.ndarray]]  # episode -> frame_index (n,), codes (n, N)

    @classmethod
    def read(cls, path: str | Path, camera: str = "") -> CodeTable:
        """Read what `lara-tok encode` wrote; invalid rows are left out.

        Raises ValueError for a table without codes, of several strides, or of several cameras where none is named.
        """
        metadata = read_metadata(path)
        size = metadata["model"]["codebook_size"]
        table = read_tokens(path)
        if "codes" not in table.column_names:
            raise ValueError(f"{path} holds no codes: it comes from a model without a codebook.")
        for column, what in (("stride", "strides"), ("camera", "cameras")):
            found = sorted(set(table[column].to_pylist()))
            if column == "camera" and len(found) > 1:
                chosen = [name for name in found if camera in (name, name.rpartition(".")[2])]
                if len(chosen) != 1:
                    raise ValueError(f"{path} holds cameras {', '.join(found)}: name one as lam_camera.")
                table = table.filter([name == chosen[0] for name in table["camera"].to_pylist()])
            elif len(found) > 1:
                raise ValueError(f"{path} holds {what} {', '.join(found)}: encode with one --stride.")
        table = table.filter(table["valid"])
        if not len(table):
            raise ValueError(f"{path} holds no valid row.")
        codes = np.stack(table["codes"].to_numpy(zero_copy_only=False))
        frames, episodes = table["frame_index"].to_numpy(), np.array(table["episode"].to_pylist())
        rows = {name: (frames[episodes == name], codes[episodes == name]) for name in dict.fromkeys(episodes.tolist())}
        return cls(str(path), codes.shape[1], int(size), rows)

    def of(self, episode: str, num_frames: int) -> np.ndarray:
        """int16 (num_frames, N), -1 where the table has no row. Raises ValueError for a row past the episode's end."""
        codes = np.full((num_frames, self.num_codes), MISSING, np.int16)
        frames, known = self.rows.get(episode, (np.zeros(0, np.int64), np.zeros((0, self.num_codes), np.int16)))
        if len(frames) and frames.max() >= num_frames:
            raise ValueError(
                f"{self.path} has codes at frame {frames.max()} of episode {episode!r}, which has {num_frames} frames: "
                "it was made from another source."
            )
        codes[frames] = known
        return codes


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One labelled episode: its streams by camera, actions (n, A), states (n, S) or None, texts, codes.

    Without actions A is 0. codes: int16 (n, N), -1 where none is known; None where none is asked for.
    """

    dataset: str
    episode: str
    streams: dict[str, Stream]
    actions: np.ndarray
    states: np.ndarray | None
    texts: tuple[str, ...]
    fps: float
    codes: np.ndarray | None = None

    @property
    def num_frames(self) -> int:
        """As many as actions."""
        return len(self.actions)

    def without_actions(self) -> Demonstration:
        """What is left of it for a policy that learns codes alone."""
        return replace(self, actions=np.zeros((self.num_frames, 0), np.float32), states=None)


def read_demonstrations(
    episodes: Sequence[Episode],
    streams: Sequence[Stream],
    cameras: Mapping[str, Sequence[str]],
    codes: CodeTable | None = None,
) -> list[Demonstration]:
    """The episodes with all `cameras` of their dataset and with actions, or with a table of `codes` those it knows.

    Others are logged and left out. Raises ValueError where none is left, and for NaN or infinity in actions or states.
    """
    by_episode: dict[tuple[str, str], dict[str, Stream]] = {}
    for stream in streams:
        by_episode.setdefault((stream.dataset, stream.episode), {})[stream.camera] = stream
    found: list[Demonstration] = []
    for episode in episodes:
        own, wanted = by_episode.get((episode.dataset, episode.id), {}), cameras.get(episode.dataset, ())
        try:
            if not wanted or any(camera not in own for camera in wanted):
                has = ", ".join(map(repr, own)) or "none"
                logger.warning("left out: episode %r has cameras %s, needed are %s", episode.id, has, ", ".join(wanted))
                continue
            found.extend(_demonstration(episode, {camera: own[camera] for camera in wanted}, codes))
        except (LaraTokenizerError, OSError) as error:
            logger.warning("left out: %s", error)
        finally:
            episode.close()
    if not found:
        needed = f"rows in {codes.path}" if codes else "actions: a policy needs some"
        raise ValueError(f"none of the {len(episodes)} episodes has {needed}.")
    return found


def _demonstration(episode: Episode, streams: dict[str, Stream], codes: CodeTable | None) -> list[Demonstration]:
    signals = episode.signals()
    times = next(iter(streams.values())).timestamps
    known = None if codes is None else codes.of(episode.id, len(times))
    if signals.actions is None or not len(signals.actions):
        if known is None or (known < 0).all():
            lacking = "no actions" if codes is None else "neither actions nor codes"
            logger.warning("left out: episode %r has %s", episode.id, lacking)
            return []
        signals = Signals(np.zeros((len(times), 0), np.float32), None, signals.texts)
    assert signals.actions is not None
    for what, values in (("actions", signals.actions), ("states", signals.states)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(-1).argmax())
            raise ValueError(
                f"episode {episode.id!r}: NaN or infinity in its {what} at frame {bad}. Mend it, or leave it out."
            )
    signals.check_length(len(times), episode.id)
    fps = (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 0.0
    texts = signals.texts or (episode.text or "",) * len(times)
    return [
        Demonstration(episode.dataset, episode.id, streams, signals.actions, signals.states, tuple(texts), fps, known)
    ]


def measure_embodiment(
    name: str, demonstrations: Sequence[Demonstration], image_sizes: dict[str, tuple[int, int]]
) -> Embodiment:
    """Statistics over all frames of the demonstrations. Raises ValueError for several widths among them."""
    for what, widths in (
        ("actions", {each.actions.shape[1] for each in demonstrations}),
        ("states", {0 if each.states is None else each.states.shape[1] for each in demonstrations}),
    ):
        if len(widths) > 1:
            raise ValueError(
                f"embodiment {name!r}: {what} of {' and '.join(map(str, sorted(widths)))} numbers. One robot has one "
                "width: give its datasets different `embodiment` names."
            )
    states = [each.states for each in demonstrations if each.states is not None]
    return Embodiment.measure(
        name,
        actions=np.concatenate([each.actions for each in demonstrations]),
        states=np.concatenate(states) if states else None,
        cameras=tuple(demonstrations[0].streams),
        image_sizes=image_sizes,
        fps=round(float(np.median([each.fps for each in demonstrations])), 6),
    )


class PolicySamples(Dataset):
    """Sample k is draw k of a mixture: datasets equally often, within them episodes, within those any frame.

    A sample:
        images: uint8 (V, 3, S, S), every camera at t.
        pair: uint8 (2, 3, S', S'), the first camera at t and `gap` frames later; without `pair_frames` there is none.
        pair_mask: bool (), whether that later frame exists; it is never clamped into a label.
        actions: float32 (C, A) and action_mask bool (C, A): standardised, padded with 0; steps past the end are False.
        noise: float32 (C, A) and chance: float32 () in [0, 1), where the flow starts and at which time it is asked, and
            shift: int64 (2,), pixels of rows and columns; of the sample's number alone, so that neither the number of
            processes nor a restart changes them.
        codes: int64 (N,) and code_mask bool (), where the demonstrations have any.
        state: float32 (S,), embodiment and task: int64 (), text: the instruction.

    Batches come whole from a `DrawSampler`, as in `PairDataset`. `len()` is the number of different frames.
    """

    def __init__(
        self,
        frames: FrameSource,
        demonstrations: Sequence[Demonstration],
        robots: Sequence[tuple[int, Embodiment]],
        tasks: Sequence[str],
        *,
        horizon: int,
        max_action_dim: int,
        max_state_dim: int,
        gap: int,
        pair_frames: FrameSource | None = None,
        shift: int = 0,
        seed: int = 0,
    ) -> None:
        """`robots` gives each demonstration's embodiment and its number."""
        self.frames, self.pair_frames = frames, pair_frames
        self.horizon, self.gap, self.shift, self.seed = horizon, gap, shift, seed
        self.texts = [each.texts for each in demonstrations]
        self._tasks = {text: number for number, text in enumerate(tasks)}
        placeholders = [
            PairedStream(
                Stream(number, each.dataset, each.episode, "", np.zeros(0)), (StridePairs(0, each.num_frames, 0),)
            )
            for number, each in enumerate(demonstrations)
        ]
        self.mixture = Mixture(placeholders, seed)
        self._streams = np.array([[stream.number for stream in each.streams.values()] for each in demonstrations])
        self._length = np.array([each.num_frames for each in demonstrations])
        self._first = np.concatenate([[0], np.cumsum(self._length)])
        self._robot = torch.tensor([number for number, _ in robots])
        self._action_dim = np.array([robot.action_dim for _, robot in robots])
        pairs = list(zip(demonstrations, robots, strict=True))
        # Tensors: torch shares them with loader processes.
        self._actions = torch.from_numpy(
            np.concatenate([robot.normalise_actions(each.actions, max_action_dim) for each, (_, robot) in pairs])
        )
        self._states = torch.from_numpy(
            np.concatenate(
                [
                    np.zeros((each.num_frames, max_state_dim), np.float32)
                    if each.states is None
                    else robot.normalise_states(each.states, max_state_dim)
                    for each, (_, robot) in pairs
                ]
            )
        )

        self._codes: Tensor | None = None
        if demonstrations[0].codes is not None:
            self._codes = torch.from_numpy(np.concatenate([each.codes for each in demonstrations]).astype(np.int64))

    def __len__(self) -> int:
        return self.mixture.num_pairs

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {name: value[0] for name, value in self.batch([number]).items()}

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any]:
        return self.batch(numbers)

    def batch(self, numbers: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Some draws, each field with a first axis more."""
        draws = self.mixture.draw(np.asarray(numbers))
        episode, now = draws.stream, draws.now
        actions, action_mask = self._chunks(episode, now)
        later = now + self.gap
        there = later < self._length[episode]
        texts = [self.texts[which][frame] for which, frame in zip(episode.tolist(), now.tolist(), strict=True)]
        batch: dict[str, Any] = {
            "images": self._images(episode, now),
            "actions": actions,
            "action_mask": action_mask,
            "state": self._states[torch.from_numpy(self._first[episode] + now)],
            "embodiment": self._robot[torch.from_numpy(episode)],
            "task": torch.tensor([self._tasks.get(text, 0) for text in texts]),
            "text": texts,
            "pair_mask": torch.from_numpy(there),
            **self._chances(numbers),
        }
        if self._codes is not None:
            batch["codes"] = self._codes[torch.from_numpy(self._first[episode] + now)]
            batch["code_mask"] = (batch["codes"] >= 0).all(1)
        if self.pair_frames is not None:
            # Where there is no later frame the pair shows frame t twice, and pair_mask says not to believe it.
            pair = np.stack([now, np.where(there, later, now)], 1)
            batch["pair"] = self.pair_frames.read(self._streams[episode, 0], pair)
        return batch

    def _chances(self, numbers: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        shape = (self.horizon, self._actions.shape[1])
        noise, chance, shift = [], [], []
        for number in numbers:
            rng = np.random.default_rng((self.seed, int(number)))
            noise.append(rng.standard_normal(shape, np.float32))
            chance.append(rng.random(dtype=np.float32))
            shift.append(rng.integers(-self.shift, self.shift + 1, 2))
        return {
            "noise": torch.from_numpy(np.stack(noise)),
            "chance": torch.from_numpy(np.stack(chance)),
            "shift": torch.from_numpy(np.stack(shift)),
        }

    def _images(self, episode: np.ndarray, now: np.ndarray) -> Tensor:
        views = [self.frames.read(self._streams[episode, view], now[:, None]) for view in range(self._streams.shape[1])]
        return torch.cat(views, 1)

    def _chunks(self, episode: np.ndarray, now: np.ndarray) -> tuple[Tensor, Tensor]:
        """actions float32 (B, C, A) and mask bool (B, C, A)."""
        at_BC = now[:, None] + np.arange(self.horizon)
        there_BC = at_BC < self._length[episode][:, None]
        rows_BC = self._first[episode][:, None] + np.where(there_BC, at_BC, now[:, None])
        width = self._actions.shape[1]
        mask_BCA = there_BC[:, :, None] & (np.arange(width) < self._action_dim[episode][:, None, None])
        mask = torch.from_numpy(mask_BCA)
        return torch.where(mask, self._actions[torch.from_numpy(rows_BC)], 0), mask


class UnlabeledPairs:
    """Batch k of pairs, with the instruction of each where its episode has one that the policy knows.

    "unlabeled": uint8 (U, 2, 3, S, S); "unlabeled_task": int64 (U,); "unlabeled_text": U texts.
    """

    def __init__(self, pairs: PairDataset, texts: dict[int, str], tasks: Sequence[str], size: int) -> None:
        self.pairs, self.texts, self.size = pairs, texts, size
        self._tasks = {text: number for number, text in enumerate(tasks)}

    @classmethod
    def build(
        cls,
        frames: FrameSource,
        episodes: Sequence[Episode],
        strides: Sequence[str],
        tasks: Sequence[str],
        size: int,
        seed: int,
    ) -> UnlabeledPairs:
        """`tasks` are the policy's; "" among them stands for an unknown one."""
        by_id = {(episode.dataset, episode.id): episode.text or "" for episode in episodes}
        texts = {stream.number: by_id[stream.dataset, stream.episode] for stream in frames.streams}
        return cls(PairDataset(frames, find_pairs(frames.streams, strides), seed), texts, tasks, size)

    def __call__(self, batch: int) -> dict[str, Any]:
        numbers = batch * self.size + np.arange(self.size)
        draws = self.pairs.mixture.draw(numbers)
        texts = [self.texts[stream] for stream in draws.stream.tolist()]
        nothing = self._tasks.get("", 0)
        return {
            "unlabeled": self.pairs.batch(numbers),
            "unlabeled_task": torch.tensor([self._tasks.get(text, nothing) for text in texts]),
            "unlabeled_text": texts,
        }
