"""The experiments, one module a question.

Each has a frozen `Config` with presets as classmethods (quick, full, and replica where there is one),
`run(config, device="cpu", progress=False)` -> record and `figure(record)` -> Figure. Where the work falls
into cells that are kept one by one, `compute(config, device, part)` does a share of them.
"""

import importlib

# need packed photographs, see `worlds.photos`
PHOTOGRAPHS = (
    *("photos", "photos_guides", "photos_large", "photos_length", "photos_plane"),
    *("photos_recipes", "photos_relatives", "photos_stranger", "photos_why"),
)
NAMES = (
    *("exact", "closed", "transfer", "size", "forgetting", "null_branch", "dropout", "gap"),
    *("guides", "nulls", "blur", "relatives", "steps", "plane", "calibration", "budget"),
    *("images", "images_gap", "images_dogfit", "idea", "posters"),
    *PHOTOGRAPHS,
)


def get(name):
    """An experiment's module. Raises ValueError for a name that is none of NAMES."""
    if name not in NAMES:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
    return importlib.import_module(f".{name}", __name__)


def config(name, preset):
    """An experiment's configuration: quick, full or replica. Raises ValueError for a
    preset that it does not have."""
    make = getattr(get(name).Config, preset, None)
    if make is None:
        raise ValueError(f"preset is {preset}; {name} has none of that name")
    return make()
