"""python -m dgtoy EXPERIMENT --preset quick|full, python -m dgtoy claims|notebooks|bench, python -m dgtoy dit STEP."""

import argparse
import dataclasses
import importlib
import pathlib
import sys
import time

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
EXPERIMENTS = (*POINTS, *IMAGES, "scale", "why")

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


def main(argv=None):
    """Run one experiment or all of them; turn records into the claims table; execute the notebooks; measure speed."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["dit"]:
        from .pipeline.cli import main as pipeline

        return pipeline(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m dgtoy", description=main.__doc__)
    parser.add_argument(
        "what",
        nargs="+",
        choices=(*EXPERIMENTS, "all", "claims", "bench", "notebooks", "weights"),
        metavar="what",
        help=f"one or more of: {', '.join(EXPERIMENTS)}, all, claims, bench, notebooks, weights",
    )
    parser.add_argument(
        "--preset",
        choices=("quick", "full", "replica"),
        default="quick",
        help="quick: minutes on a CPU, 8 seeds, into OUT/quick; full: for a CUDA device, 64 seeds, into OUT; "
        "replica: another target and fresh seeds, into OUT/replica; points: quick with 16 seeds and another source; "
        "images: as full, but fewer points",
    )
    parser.add_argument("--device", default=None, help="cpu or cuda; by default cuda where there is one")
    parser.add_argument(
        "--part",
        default="1/1",
        help="I/N: only the I-th of N shares of an image experiment's cells, kept until a "
        "run without --part assembles them",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("figures"), help="folder of the records"
    )
    parser.add_argument(
        "--stamp", action="store_true", help="notebooks: write the measured runtimes into them"
    )
    args = parser.parse_args(argv)
    for what in args.what:
        _do(what, args)


def _do(what, args):
    if what == "notebooks":
        from .course.notebooks import execute

        return execute(out=args.out, stamp=args.stamp)
    if what == "claims":
        from .course.claims import report

        return print(report.refresh(args.out))
    device = _device(args.device)
    if what == "weights":
        from . import shipped as weights

        for name in weights.NAMES:
            weights.make(name, device=device, progress=True)
        return None
    if what == "bench":
        from .course import bench

        return print(bench.refresh(args.out, device))
    several = REPLICATED if args.preset == "replica" else EXPERIMENTS
    for name in several if what == "all" else [what]:
        _run(name, args.preset, device, args.out, _part(args.part))


def _part(text):
    """ "I/N" as (I - 1, N)."""
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and 1 <= int(i) <= int(n)):
        sys.exit(f"--part is {text}; expected I/N with 1 <= I <= N")
    return int(i) - 1, int(n)


def _device(name):
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"--device is {name}; this machine has no CUDA device")
    return name


def _run(name, preset, device, out, part):
    import matplotlib

    matplotlib.use("Agg")
    from .course.records import save

    module = importlib.import_module(f".course.experiments.{name}", __package__)
    started = time.time()
    config = _config(module, preset)
    if part[1] > 1:
        return module.compute(config, device, part)
    record = module.run(config, device, progress=True)
    path = save(record, module.figure(record), out if preset == "full" else out / preset)
    print(f"{name:12s} {time.time() - started:6.1f} s   {path}", flush=True)


def _config(module, preset):
    if preset == "quick":
        return module.Config.quick()
    if preset == "full":
        return module.Config.full()
    name = module.__name__.rpartition(".")[2]
    if name in SMALLER:
        from .course.experiments.pictures import replica

        return replica(dataclasses.replace(module.Config.full(), **SMALLER[name]))
    quick = module.Config.quick()
    return dataclasses.replace(quick, setting=quick.setting.but(seeds=16, domain="spirals", layout=1))


if __name__ == "__main__":
    main()
