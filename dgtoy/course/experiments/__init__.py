"""One module per question: a frozen Config with presets, run(config) -> record, figure(record)."""

import dataclasses
import importlib

POINTS = (
    "exact",
    "transfer",
    "size",
    "forgetting",
    "dropout",
    "gap",
    "guides",
    "steps",
    "plane",
    "calibration",
)
IMAGES = (
    "images",
    "images_gap",
    "images_tuning",
    "images_dogfit",
    "images_plane",
    "images_guides",
    "images_cost",
)
NAMES = (*POINTS, *IMAGES, "scale", "why", "idea")

REPLICATED = (
    "size",
    "forgetting",
    "dropout",
    "guides",
    "steps",
    "plane",
    "calibration",
    *IMAGES[:5],
    "scale",
)
SMALLER = {  # how a replica on images is smaller than the full run
    "images": dict(grid=((62, 20),)),
    "images_gap": dict(gaps=(0.0, 1.5, "handwriting")),
    "images_tuning": dict(variants=("full", "LoRA")),
    "images_dogfit": dict(weights=(1.5, 2.0)),
    "images_plane": dict(a=(1.0, 1.3, 1.5, 1.75, 2.0), b=(1.0, 1.3, 1.5, 1.75, 2.0)),
    "scale": dict(
        seeds=3, variants=("full",), stages=(1000,), plane=(), step_table=(("ddpm", 25), ("dpmpp_2m", 24))
    ),
}


def get(name):
    """The module of an experiment."""
    return importlib.import_module(f"{__name__}.{name}")


def config(name, preset):
    """An experiment's configuration: quick, full or replica."""
    module = get(name)
    if preset != "replica":
        return getattr(module.Config, preset)()
    if name in SMALLER:
        from .pictures import replica

        return replica(dataclasses.replace(module.Config.full(), **SMALLER[name]))
    quick = module.Config.quick()
    return dataclasses.replace(quick, setting=quick.setting.but(seeds=16, domain="spirals", layout=1))
