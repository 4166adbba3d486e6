"""Published recipes of latent action models at the size of `lara-lam`, for comparison on equal pairs.

    from peers import RECIPES

    recipe = RECIPES["lapa"]
    model = recipe.build()

Each recipe keeps its own architecture, loss, quantizer, rule for unused codes, optimizer and augmentation; the
docstring of its file lists the changes that the size required. All see 64 x 64 frames through the same small image
encoder in patches of 8, have about 2 million parameters and give z as 8 x 32 numbers: figures of z are comparable only
at equal size.
"""

from .adaworld import ADAWORLD
from .lapa import LAPA
from .moto import MOTO
from .recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (MOTO, LAPA, ADAWORLD)}

__all__ = ["RECIPES", "Recipe"]
