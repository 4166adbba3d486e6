"""Does z say which episode this is rather than what is done?"""

from __future__ import annotations

import numpy as np
import torch

from lara_tokenizer.evaluate.bootstrap import rounded


def primitives(actions_PA: np.ndarray) -> np.ndarray:
    """What is done in each pair, roughly: the action number that is farthest from its mean, in standard deviations, and
    to which side: int (P,), 0 .. 2 A - 1.

    >>> primitives(np.array([[3.0, 0.0], [0.0, 0.1], [-3.0, 0.0], [0.0, -0.1]])).tolist()
    [0, 1, 2, 3]
    """
    spread = actions_PA.std(0)
    scaled = (actions_PA - actions_PA.mean(0)) / np.where(spread > 0, spread, 1)
    number = np.abs(scaled).argmax(1)
    return number + actions_PA.shape[1] * (scaled[np.arange(len(scaled)), number] < 0)


def shortcut_leakage(latents_PND: torch.Tensor, actions_PA: np.ndarray, episode_P: np.ndarray) -> float | None:
    """E cos(same episode, different primitive) - E cos(different episode, same primitive), of z less its mean.

    0 or below is best (after arXiv 2607.09185, whose primitives are annotated; here they are read off the actions, see
    `primitives`). None where there are no such two pairs.
    """
    z = latents_PND.flatten(1).float()
    directions = torch.nn.functional.normalize(z - z.mean(0), dim=1)
    cosine = directions @ directions.T
    done = torch.from_numpy(primitives(actions_PA))
    same_done = done[:, None] == done
    episodes = torch.from_numpy(np.asarray(episode_P))
    same_episode = episodes[:, None] == episodes
    within, across = same_episode & ~same_done, ~same_episode & same_done
    if not (within.any() and across.any()):
        return None
    return rounded(float(cosine[within].mean() - cosine[across].mean()))
