"""The commands of the course, python -m dgtoy COMMAND: experiments, claims, notebooks, and so on."""

import argparse
import json
import pathlib
import re
import textwrap
import time

from .. import environment
from ..pipeline import options
from . import experiments

PRESETS = {  # where each preset's records go
    "quick": pathlib.Path("build/records"),
    "full": pathlib.Path("figures"),
    "replica": pathlib.Path("figures/replica"),
}
NOTEBOOKS = pathlib.Path("build/notebooks")  # as they are executed


def parser():
    """The parser of all commands of the course; each command's function is its `run`."""
    return options.commands(argparse.ArgumentParser(prog="python -m dgtoy"), COMMANDS, "COMMAND")


def main(argv):
    """Run one command of the course."""
    options.call(parser(), argv, into_files=(animation,))


def _without(args, instead, *options):
    """Raise ValueError for options that mean nothing to the one by which a command does something else."""
    for option in options:
        if (value := getattr(args, option)) is not None:
            raise ValueError(f"--{option} is {value} with --{instead}, which does not use it; expected none")


# experiment, records


def _preset_options(parser):
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: small, minutes on two cores; full: a GPU's work, as recorded in figures; "
        "replica: another world and fresh seeds; default: quick",
    )
    folders = ", ".join(f"{folder} for {preset}" for preset, folder in PRESETS.items())
    parser.add_argument("--out", type=pathlib.Path, help=f"folder of the records; default: {folders}")
    parser.set_defaults(part=(0, 1))
    options.device(parser)


def _experiment_options(parser):
    parser.add_argument(
        "names",
        nargs="+",
        choices=experiments.NAMES,
        metavar="NAME",
        help=f"one or more of {', '.join(experiments.NAMES)}",
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="compute only the I-th of N shares of an experiment on images; a run without --part assembles "
        "them; default: 1/1",
    )
    _preset_options(parser)


def _part(text):
    """ "I/N" as (I - 1, N)."""
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text}; expected I/N with 1 <= I <= N")
    return int(i) - 1, int(n)


def experiment(args):
    """Run experiments by name; each writes NAME.json, its record, and NAME.png, its figure."""
    for name in args.names:  # all are asked before any runs, as each takes minutes
        experiments.config(name, args.preset)
        if args.part != (0, 1) and not hasattr(experiments.get(name), "compute"):
            raise ValueError(f"--part is of {name}, which is not computed in parts; expected none")
    for name in args.names:
        _run(name, args)


def _records_options(parser):
    parser.add_argument(
        "--check",
        action="store_true",
        help="instead: compare the source of each record in --out, by default figures, and of each shipped"
        " network with the commit that it names",
    )
    _preset_options(parser)
    parser.set_defaults(preset=None)


def records(args):
    """Run every experiment that has the preset, and print what the claims' rules say of the records."""
    if args.check:
        _without(args, "check", "preset", "device")
        return _check_sources(args.out or PRESETS["full"])
    args.preset = args.preset or "quick"
    from .claims import report
    from .worlds import photos

    packed = photos.default_folder().is_dir()
    for name in experiments.NAMES:
        if name in experiments.PHOTOGRAPHS and not packed:
            print(
                f"{name:12s} left out: no photographs in {photos.default_folder()} (python -m dgtoy photos)"
            )
        elif hasattr(experiments.get(name).Config, args.preset):
            _run(name, args)
    print(report.findings(report.judge(args.out or PRESETS[args.preset])))


def _check_sources(folder):
    from .. import shipped
    from .records import AGREE, OTHER, by_source

    if not any(folder.rglob("*.json")):
        raise ValueError(f"--out {folder} holds no record; expected a folder of them, as figures")
    found = by_source([folder, shipped.FOLDER])
    for what, paths in found.items():
        print(f"{len(paths)} {what}", *map(str, paths if what != AGREE else ()), sep="\n  ")
    if found[OTHER]:
        raise ValueError(f"{found[OTHER][0]} names a commit that is not its own; expected that of its source")


def _run(name, args):
    import matplotlib

    matplotlib.use("Agg")
    from .records import save

    started, device = time.time(), environment.device(args.device)
    module, config = experiments.get(name), experiments.config(name, args.preset)
    if args.part != (0, 1):
        found, _ = module.compute(config, device, args.part, progress=True)
        print(f"{name:12s} {time.time() - started:6.1f} s   {len(found)} cells of its part, kept", flush=True)
        return
    record = module.run(config, device, progress=True)
    folder, dpi = args.out or PRESETS[args.preset], getattr(module, "DPI", 200)
    path = save(record, module.figure(record), folder, dpi)
    print(f"{name:12s} {time.time() - started:6.1f} s   {path}", flush=True)


# claims, notebooks, assignments, animation, photos, weights, bench, badges


def _folder(parser, option, what, default):
    told = f"{what}; default: {default}"
    parser.add_argument(option, type=pathlib.Path, default=pathlib.Path(default), help=told)


def _figures(parser):
    _folder(parser, "--out", "folder of records", "figures")


def claims(args):
    """Judge the full records by the rules in code; write OUT/claims.json and the tables made from it."""
    from .claims import report

    print(report.refresh(args.out))


def _notebooks_options(parser):
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks by name or number; default: all")
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="rewrite notebooks/ and figures/notebooks.json, the seconds of each, for a release",
    )
    parser.add_argument(
        "--stamp",
        action="store_true",
        help="with --in-place: write the seconds into the notebooks' first cells",
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time; default: 2")
    _folder(parser, "--out", "folder of the executed notebooks", NOTEBOOKS)


def notebooks(args):
    """Execute the notebooks and show the recorded findings. Without --in-place no tracked file changes."""
    from . import notebooks as books

    if args.stamp and not args.in_place:
        raise ValueError("--stamp needs --in-place: it writes into the notebooks of notebooks/")
    if args.in_place and args.out != NOTEBOOKS:
        raise ValueError(f"--out is {args.out} with --in-place, which writes into notebooks/; expected one")
    out = None if args.in_place else args.out
    books.execute(args.names, out=out, stamp=args.stamp, jobs=args.jobs)
    if not args.in_place:
        _show_findings(out)


def _show_findings(out):
    from .claims.report import counted
    from .claims.sentences import sentences

    figures = PRESETS["full"]
    found = re.sub(r"\[(?:notebook \d+|record)\]\(([^)]*)\)", r"\1", sentences(figures))  # as paths
    found = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", found).replace("**", "")
    print("\nWhat was found, with 95% intervals, and where to look\n")
    for sentence in found.splitlines():
        print(textwrap.fill(sentence, 100, subsequent_indent="   "))
    entries = json.loads((figures / "claims.json").read_text(encoding="utf-8"))
    print(
        f"\nAll {counted(entries)}: {figures}/claims.json\n"
        f"The notebooks, executed just now: {out}\n"
        "To work in them: make lab. The course as a site: make book."
    )


def _assignments_options(parser):
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks by name or number; default: all")
    _folder(parser, "--out", "folder of the course, in which to call nbgrader", "build/assignments")


def assignments(args):
    """Write the notebooks as assignments for nbgrader, to be generated, collected and graded there."""
    from .assignments import write

    print("\n".join(f"wrote {path}" for path in write(args.names, args.out)))


def _animation_options(parser):
    _folder(parser, "--out", "the file", "figures/flow.gif")


def animation(args):
    """Draw the animation of notebook 00: four ways to sample, from the same noise to the moons."""
    import matplotlib

    matplotlib.use("Agg")
    from .animation import write

    print(f"wrote {write(args.out)}")


def _photos_options(parser):
    from .worlds.photos import COLLECTIONS

    parser.add_argument("name", choices=COLLECTIONS, help=f"one of {', '.join(COLLECTIONS)}", metavar="NAME")
    parser.add_argument(
        "images",
        help="a folder with one folder of images per class, or a Hugging Face dataset by name with --hub",
    )
    parser.add_argument("--hub", action="store_true", help="images is a dataset's name; its split `train`")
    _folder(parser, "--out", "folder of the packed files, the studies' DGTOY_PHOTOS", "build/photos")


def photos(args):
    """Pack a public data set for the studies on photographs: 64 pixels, a few small files."""
    from ..pipeline.image_sets import HubImages, ImageFolder
    from .worlds.photos import pack, wordnet

    images = HubImages(args.images) if args.hub else ImageFolder(args.images)
    for path in pack(args.name, images, args.out, wordnet(args.images)):
        print(path, flush=True)


def _weights_options(parser):
    from ..shipped import NAMES

    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)}; default: all of them"
    )
    parser.add_argument(
        "--study",
        choices=("second", "large"),
        help="instead: a further pre-trained model of the studies, into build/STUDY; default: none",
    )
    _folder(parser, "--state", "folder that a long training goes on from, by parts", "build/weights")
    options.device(parser)


def weights(args):
    """Train the networks that are shipped with dgtoy, and write them beside their recipes."""
    from .. import distributed, shipped
    from . import recipes

    unknown = [name for name in args.names if name not in shipped.NAMES]
    if unknown:
        raise ValueError(f"NAME is {unknown[0]}; expected of {', '.join(shipped.NAMES)}")
    if args.study and args.names:
        raise ValueError(f"NAME is {args.names[0]} with --study {args.study}; expected one of them")
    device = distributed.join(environment.device(args.device))
    told = dict(device=device, progress=distributed.rank() == 0)
    if args.study:
        folder, state = pathlib.Path("build") / args.study, args.state / args.study
        recipes.make("photos64", recipes.STUDY[args.study], folder=folder, state=state, **told)
        return
    for name in args.names or shipped.NAMES:
        recipes.make(name, state=args.state / name, **told)


def _bench_options(parser):
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--pipelines",
        action="store_true",
        help="instead: what guidance costs in a text-to-image pipeline, of SDXL's size on a CUDA device",
    )
    instead.add_argument(
        "--commands",
        action="store_true",
        help="instead: time `make run` and `make test` from an empty cache into OUT/notebooks.json",
    )
    options.device(parser)
    _figures(parser)


def bench(args):
    """Measure speed and memory beside plain versions in the same run, into OUT/bench_DEVICE.json."""
    from . import bench as benchmarks
    from . import notebooks as books

    if args.commands:
        _without(args, "commands", "device")
        print(books.time_commands(args.out))
    elif args.pipelines:
        print(benchmarks.refresh_pipelines(args.out, environment.device(args.device)))
    else:
        print(benchmarks.refresh(args.out, environment.device(args.device)))


def _badges_options(parser):
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository's address on GitHub")
    _folder(parser, "--root", "folder of the repository", ".")


def badges(args):
    """Insert Binder and Colab badges into README and notebooks, and the address into pyproject.toml."""
    from .badges import insert

    print("\n".join(f"wrote {path}" for path in insert(args.repository, args.root)))


COMMANDS = {
    "experiment": (_experiment_options, experiment),
    "records": (_records_options, records),
    "claims": (_figures, claims),
    "notebooks": (_notebooks_options, notebooks),
    "assignments": (_assignments_options, assignments),
    "animation": (_animation_options, animation),
    "photos": (_photos_options, photos),
    "weights": (_weights_options, weights),
    "bench": (_bench_options, bench),
    "badges": (_badges_options, badges),
}
