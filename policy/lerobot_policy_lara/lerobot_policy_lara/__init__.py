"""LeRobot plugin: `--policy.type=lara` trains any tapped policy with the LARA loss (arXiv 2606.07100).

LeRobot imports this package when it starts, which registers the policy type and its processor step.
"""

from lerobot_policy_lara.configuration_lara import LARAConfig
from lerobot_policy_lara.processor_lara import FutureFrameStep, make_lara_pre_post_processors

__all__ = ["FutureFrameStep", "LARAConfig", "make_lara_pre_post_processors"]
