"""Meta-World's tasks: their instructions, stages, and the tasks held out from training."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

TASK_TEXT = {  # task -> the instruction for a policy
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
"""Tasks that no checkpoint of ours is trained on, to measure generalization."""

TASK_SETS = {
    "all": tuple(TASK_TEXT),
    "train": tuple(name for name in TASK_TEXT if name not in UNSEEN_TASKS),
    "unseen": UNSEEN_TASKS,
}


# Meta-World's `info` holds `near_object` and `grasp_success` for every task, but in many they are no flags: constant,
# a reward between 0 and 1 (near_object of reach-v3 is even a distance), or never reached by the expert. Listed are the
# tasks for which six episodes of the expert had only the values 0 and 1, 0 at first, and 1 by the end of each success.
_NEAR_OBJECT = (
    "basketball bin-picking button-press-topdown button-press-topdown-wall button-press-wall coffee-pull coffee-push "
    "dial-turn door-unlock drawer-open hand-insert handle-press-side handle-pull-side handle-pull peg-insert-side "
    "peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide-back-side push-back push push-wall "
    "shelf-place stick-pull stick-push sweep-into sweep window-close window-open"
)
_GRASP_SUCCESS = (
    "assembly basketball bin-picking hammer hand-insert handle-pull-side lever-pull peg-unplug-side pick-out-of-hole "
    "pick-place pick-place-wall shelf-place stick-pull stick-push sweep-into sweep"
)
STAGES: dict[str, tuple[str, ...]] = {
    task: tuple(
        stage
        for stage, tasks in (("near_object", _NEAR_OBJECT), ("grasp_success", _GRASP_SUCCESS))
        if task.removesuffix("-v3") in tasks.split()
    )
    for task in TASK_TEXT
}
"""Task -> the stages that it reports reliably, by Meta-World's names."""


def select_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Task names, each once and in the given order; "all", "train" and "unseen" are replaced by their tasks.

    Raises:
        ValueError: no name, or one that is neither a task nor a set; the message lists both.

    >>> select_tasks(["push-v3", "unseen"])
    ('push-v3', 'door-open-v3', 'sweep-into-v3')
    """
    if not names:
        raise ValueError(f"no task given; {_known()}")
    selected: dict[str, None] = {}
    for name in names:
        if name not in TASK_TEXT and name not in TASK_SETS:
            close = get_close_matches(name, [*TASK_TEXT, *TASK_SETS], n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown task {name!r}: {hint}{_known()}")
        selected.update(dict.fromkeys(TASK_SETS.get(name, (name,))))
    return tuple(selected)


def _known() -> str:
    return f"sets are {', '.join(TASK_SETS)}; tasks are {', '.join(TASK_TEXT)}"
