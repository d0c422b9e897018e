"""python -m dgtoy EXPERIMENT --preset quick|full, python -m dgtoy claims."""

import argparse
import importlib
import pathlib
import sys
import time

EXPERIMENTS = ("exact", "transfer", "size", "forgetting", "dropout", "gap", "guides", "steps", "plane", "calibration")


def main(argv=None):
    """Run one experiment, `all` of them, or `claims`, which turns the records into the claims table."""
    parser = argparse.ArgumentParser(prog="python -m dgtoy", description=main.__doc__)
    parser.add_argument("what", choices=(*EXPERIMENTS, "all", "claims", "bench"), metavar="what",
                        help=f"one of: {', '.join(EXPERIMENTS)}, all, claims, bench")
    parser.add_argument("--preset", choices=("quick", "full"), default="quick",
                        help="quick: minutes on a CPU, 8 seeds, into OUT/quick; full: a CUDA device, 64 seeds, into OUT")
    parser.add_argument("--device", default=None, help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"), help="folder of the records")
    args = parser.parse_args(argv)
    if args.what == "claims":
        from .experiments import claims
        return print(claims.refresh(args.out))
    device = _device(args.device)
    if args.what == "bench":
        from .experiments import bench
        return print(bench.refresh(args.out, device))
    for name in EXPERIMENTS if args.what == "all" else [args.what]:
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
    record = module.run(getattr(module.Config, preset)(), device, progress=True)
    path = save(record, module.figure(record), out / "quick" if preset == "quick" else out)
    print(f"{name:12s} {time.time() - started:6.1f} s   {path}", flush=True)


if __name__ == "__main__":
    main()
