"""Location of the bundled checkpoint "lara-lam", which loads offline."""

import os

BUNDLED = ("lara-lam",)


def resolve_checkpoint(name: str | os.PathLike) -> str | os.PathLike:
    """The folder of a bundled checkpoint, or `name` unchanged (a local folder, a Hub id).

    A folder of that name in the working directory takes precedence, as with every Hub id. The bundled folder is inside
    the installed wheel, or under `hub_configs/` of a checkout.

    >>> resolve_checkpoint("someone/their-lam")
    'someone/their-lam'
    """
    if name not in BUNDLED or os.path.isdir(name):
        return name
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for parent in (
        os.path.join(package, "checkpoints"),
        os.path.join(os.path.dirname(package), "hub_configs"),
    ):
        folder = os.path.join(parent, str(name))
        if os.path.isfile(os.path.join(folder, "config.json")):
            return folder
    return name
