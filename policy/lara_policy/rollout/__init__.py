"""Roll-outs: a policy acts in simulators, its successes are counted, its episodes are drawn as videos."""

from lara_policy.rollout.episode import RolloutPolicy
from lara_policy.rollout.run import rollout

__all__ = ["RolloutPolicy", "rollout"]
