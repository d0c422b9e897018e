"""python -m dgtoy EXPERIMENT --preset quick|full, python -m dgtoy claims|notebooks|bench."""

import argparse
import dataclasses
import importlib
import pathlib
import sys
import time

EXPERIMENTS = ("exact", "transfer", "size", "forgetting", "dropout", "gap", "guides", "steps", "plane", "calibration", "images")

REPLICATED = ("size", "forgetting", "dropout", "guides", "steps", "plane", "calibration")


def main(argv=None):
    """Run one experiment or all of them; turn records into the claims table; execute the notebooks; measure speed."""
    parser = argparse.ArgumentParser(prog="python -m dgtoy", description=main.__doc__)
    parser.add_argument("what", choices=(*EXPERIMENTS, "all", "claims", "bench", "notebooks", "weights"), metavar="what",
                        help=f"one of: {', '.join(EXPERIMENTS)}, all, claims, bench, notebooks, weights")
    parser.add_argument("--preset", choices=("quick", "full", "replica"), default="quick",
                        help="quick: minutes on a CPU, 8 seeds, into OUT/quick; full: for a CUDA device, 64 seeds, into OUT; "
                             "replica: quick with 16 seeds on another target and another source, into OUT/replica")
    parser.add_argument("--device", default=None, help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"), help="folder of the records")
    parser.add_argument("--stamp", action="store_true", help="notebooks: write the measured runtimes into them")
    args = parser.parse_args(argv)
    if args.what == "notebooks":
        from .notebooks import execute
        return execute(out=args.out, stamp=args.stamp)
    if args.what == "claims":
        from .experiments import report
        return print(report.refresh(args.out))
    device = _device(args.device)
    if args.what == "weights":
        from . import weights
        for name in weights.NAMES:
            weights.make(name, weights.Config(), device, progress=True)
        return
    if args.what == "bench":
        from .experiments import bench
        return print(bench.refresh(args.out, device))
    several = REPLICATED if args.preset == "replica" else EXPERIMENTS
    for name in several if args.what == "all" else [args.what]:
        _run(name, args.preset, device, args.out)


def _device(name):
    import torch
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"--device is {name}; this machine has no CUDA device")
    return name


def _run(name, preset, device, out):
    import matplotlib
    matplotlib.use("Agg")
    from .experiments.base import save
    module = importlib.import_module(f".experiments.{name}", __package__)
    started = time.time()
    config = module.Config.full() if preset == "full" else module.Config.quick()
    if preset == "replica":
        config = dataclasses.replace(config, setting=config.setting.but(seeds=16, domain="spirals", layout=1))
    record = module.run(config, device, progress=True)
    path = save(record, module.figure(record), out if preset == "full" else out / preset)
    print(f"{name:12s} {time.time() - started:6.1f} s   {path}", flush=True)


if __name__ == "__main__":
    main()
