"""Simulators: environments for roll-outs (Meta-World, LIBERO), and demonstrations by Meta-World's scripted experts.

Importing needs no simulator; running needs the extra `sim` (metaworld, mujoco) or `libero`.
"""

from lara_policy.simulation.metaworld.dataset import simulate_metaworld
from lara_policy.simulation.metaworld.tasks import TASK_TEXT, UNSEEN_TASKS, select_tasks

__all__ = ["TASK_TEXT", "UNSEEN_TASKS", "select_tasks", "simulate_metaworld"]
