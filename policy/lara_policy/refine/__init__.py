"""Stages 2 and 3: tokenizer and policy trained together by the LARA loss."""

from lara_policy.refine.recipe import RefineOptions, RefineRecipe
from lara_policy.refine.refine import plan_refinement, refine

__all__ = ["RefineOptions", "RefineRecipe", "plan_refinement", "refine"]
