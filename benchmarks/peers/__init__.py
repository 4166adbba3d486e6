"""Published recipes of latent action models at the size of `lara-lam`: to compare at equal data and equal compute.

    from peers import RECIPES, training_flops_per_pair

    recipe = RECIPES["lapa"]
    model = recipe.build()
    pairs = budget // training_flops_per_pair(model)

Each recipe keeps its own architecture, loss, quantizer, revival rule, optimizer and augmentation; what its size forced
us to change stands in its file's docstring and, for tables, in `recipe.differences`. All see 64 x 64 frames in patches
of 8, have about 2 million parameters and give z as 8 x 32 numbers: figures of z compare only at equal size.
"""

from .adaworld import ADAWORLD, LIGHT_KL
from .flops import training_flops_per_pair
from .lapa import LAPA
from .moto import MOTO
from .recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (MOTO, LAPA, ADAWORLD)}

# Not another paper: the same recipe where its published setting does not suit the data. See adaworld.py.
VARIANTS: dict[str, Recipe] = {LIGHT_KL.name: LIGHT_KL}

__all__ = ["RECIPES", "VARIANTS", "Recipe", "training_flops_per_pair"]
