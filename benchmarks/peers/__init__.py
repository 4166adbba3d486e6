"""Published recipes of latent action models at the size of `lara-lam`, for comparison at equal data and equal compute.

    from peers import RECIPES, training_flops_per_pair

    recipe = RECIPES["lapa"]
    model = recipe.build()
    pairs = budget // training_flops_per_pair(model)

Each recipe keeps its own architecture, loss, quantizer, rule for unused codes, optimizer and augmentation; the
docstring of its file lists the changes that the size required. All see 64 x 64 frames in patches of 8, have about 2
million parameters and give z as 8 x 32 numbers: figures of z are comparable only at equal size.
"""

from .adaworld import ADAWORLD
from .flops import training_flops_per_pair
from .lapa import LAPA
from .moto import MOTO
from .recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (MOTO, LAPA, ADAWORLD)}

__all__ = ["RECIPES", "Recipe", "training_flops_per_pair"]
