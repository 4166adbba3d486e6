"""Demonstrations from simulators: scripted experts, rendered fast, written as LeRobotDataset v3.0.

Needs the extra `sim` (metaworld, mujoco) when it runs; importing this package needs neither.
"""

from lara_policy.simulation.metaworld.dataset import simulate_metaworld
from lara_policy.simulation.metaworld.tasks import TASK_TEXT, UNSEEN_TASKS, select_tasks

__all__ = ["TASK_TEXT", "UNSEEN_TASKS", "select_tasks", "simulate_metaworld"]
