"""The Meta-World tasks, what to tell a policy about each, and which of them training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

TASK_TEXT = {
    "assembly-v3": "put the ring on the peg",
    "basketball-v3": "drop the ball into the basket",
    "bin-picking-v3": "move the puck from one bin to the other",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button from above",
    "button-press-v3": "press the button",
    "button-press-wall-v3": "reach past the wall and press the button",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the ring off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "close the faucet",
    "faucet-open-v3": "open the faucet",
    "hammer-v3": "hammer the nail into the block",
    "hand-insert-v3": "put the hand into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "insert the peg into the hole in the side",
    "peg-unplug-side-v3": "pull the peg out of the side",
    "pick-out-of-hole-v3": "lift the puck out of the hole",
    "pick-place-v3": "pick up the puck and bring it to the goal",
    "pick-place-wall-v3": "pick up the puck and bring it over the wall to the goal",
    "plate-slide-back-side-v3": "slide the plate out of the cabinet sideways",
    "plate-slide-back-v3": "slide the plate out of the cabinet",
    "plate-slide-side-v3": "slide the plate into the cabinet sideways",
    "plate-slide-v3": "slide the plate into the cabinet",
    "push-back-v3": "pull the puck back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "reach the goal",
    "reach-wall-v3": "reach the goal behind the wall",
    "shelf-place-v3": "put the block on the shelf",
    "soccer-v3": "kick the ball into the goal",
    "stick-pull-v3": "pull the thermos with the stick",
    "stick-push-v3": "push the thermos with the stick",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}

UNSEEN_TASKS = ("door-open-v3", "sweep-into-v3")
"""Tasks that no checkpoint of ours is trained on, so that generalisation can be measured on them."""

TASK_SETS = {
    "all": tuple(TASK_TEXT),
    "train": tuple(name for name in TASK_TEXT if name not in UNSEEN_TASKS),
    "unseen": UNSEEN_TASKS,
}


def select_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Task names, each once and in the order given; "all", "train" and "unseen" stand for their sets.

    Raises:
        ValueError: No name, or one that is neither a task nor a set; the message lists what there is.

    >>> select_tasks(["push-v3", "unseen"])
    ('push-v3', 'door-open-v3', 'sweep-into-v3')
    """
    if not names:
        raise ValueError(f"no task given; {_known()}")
    chosen: dict[str, None] = {}
    for name in names:
        if name not in TASK_TEXT and name not in TASK_SETS:
            close = get_close_matches(name, [*TASK_TEXT, *TASK_SETS], n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown task {name!r}: {hint}{_known()}")
        chosen.update(dict.fromkeys(TASK_SETS.get(name, (name,))))
    return tuple(chosen)


def _known() -> str:
    return f"sets are {', '.join(TASK_SETS)}; tasks are {', '.join(TASK_TEXT)}"
