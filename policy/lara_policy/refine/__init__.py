"""Joint training of a tokenizer and a policy by the LARA loss (stages 2 and 3).

A batch: dataset.py -> loading.py -> trainer.py -> model.py, which adds up Eq. 7 -> alignment.py.
"""

from lara_policy.refine.recipe import RefineOptions, RefineRecipe
from lara_policy.refine.refine import plan_refinement, refine

__all__ = ["RefineOptions", "RefineRecipe", "plan_refinement", "refine"]
