"""python -m dgtoy dit prepare|finetune|sample|evaluate|calibrate|table. Several GPUs: `accelerate launch -m dgtoy dit ...`."""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time

from tqdm import tqdm

from ..checkpoint import write_text


def main(argv):
    """Run one step of the pipeline; an error is one line and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m dgtoy dit", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name in STEPS:
        STEPS[name][0](
            steps.add_parser(name, help=STEPS[name][1].__doc__, description=STEPS[name][1].__doc__)
        )
    args = parser.parse_args(argv)
    try:
        STEPS[args.step][1](args)
    except (ValueError, OSError, ImportError, FloatingPointError) as e:
        sys.exit(f"dit {args.step}: {' '.join(str(e).split())}")


def _fields(parser, config):
    """An option for every field of a configuration, with its default."""
    for field in dataclasses.fields(config):
        option, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        elif isinstance(default, tuple):
            kind = type(default[0]) if default else int
            parser.add_argument(
                option,
                type=kind,
                nargs="+",
                default=default,
                help=f"default: {' '.join(map(str, default)) or 'none'}",
            )
        else:
            parser.add_argument(option, type=type(default), default=default, help=f"default: {default}")


def _config_from(args, config):
    """The configuration that the options describe."""
    held = {f.name: getattr(args, f.name) for f in dataclasses.fields(config)}
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in held.items()})


def _device_of(args):
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _processes():
    """accelerate's Accelerator where it launched several processes, otherwise None."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    import torch
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.cuda.is_available())


def _checksum(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


def _common(parser):
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--heads", type=int, help="attention heads, for a network of no named size")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


# prepare


def _prepare_options(parser):
    from .targets import TARGETS

    parser.add_argument(
        "images",
        help="a folder with one folder of images a class, or a Hugging Face dataset by name with --hub",
    )
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--target",
        choices=TARGETS,
        help="a target of the paper: checks the number of classes, says where to get it",
    )
    parser.add_argument(
        "--hub", action="store_true", help="images is a dataset's name, or a folder saved with save_to_disk"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=int, default=256, help="pixels; default: 256")
    parser.add_argument(
        "--vae",
        default="sd-vae-ft-ema",
        help="a name or folder of a diffusers autoencoder, or `unshuffle`; default: sd-vae-ft-ema",
    )
    parser.add_argument(
        "--no-mirror",
        action="store_true",
        help="for images that mean something else in a mirror, as letters do",
    )
    _common(parser)


def prepare(args):
    """Encode an image folder as latents."""
    from .latents import HubImages, ImageFolder, codec
    from .latents import prepare as run
    from .targets import TARGETS

    expected = TARGETS[args.target].classes if args.target else None
    try:
        images = (
            HubImages(args.images, args.split, expected) if args.hub else ImageFolder(args.images, expected)
        )
    except FileNotFoundError as e:
        where = (
            f"; {args.target} is {TARGETS[args.target].where}, {TARGETS[args.target].split} ({TARGETS[args.target].licence})"
            if args.target
            else ""
        )
        raise FileNotFoundError(f"{e}{where}") from None
    bar = tqdm(total=len(images), desc="prepare", mininterval=2, disable=args.quiet)
    for done, _ in run(
        images,
        args.out,
        args.size,
        codec(args.vae, _device_of(args)),
        _device_of(args),
        mirror=not args.no_mirror,
    ):
        bar.update(done - bar.n)
    print(f"{len(images)} images of {len(images.classes)} classes in {args.out}")


# finetune


def _finetune_options(parser):
    from .finetune import Config

    parser.add_argument("latents", help="what prepare wrote")
    parser.add_argument("--pretrained", required=True, help="a DiT checkpoint: .pt or .safetensors")
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--every", type=int, default=1000, help="steps between states to go on from; default: 1000"
    )
    _fields(parser, Config)
    _common(parser)


def finetune(args):
    """Fine-tune a DiT on latents; the default is the paper's recipe."""
    from .finetune import Config, normal_loss, start
    from .finetune import finetune as run
    from .latents import Latents

    config, accelerator = _config_from(args, Config), _processes()
    device = accelerator.device if accelerator else _device_of(args)
    data = Latents(args.latents)
    net = start(args.pretrained, len(data.classes), config, device, args.heads)
    first = accelerator is None or accelerator.is_main_process
    bar = tqdm(total=config.steps, desc="finetune", disable=args.quiet or not first, mininterval=5)
    steps = run(net, data, config, args.out, accelerator, args.every)
    log, recent = pathlib.Path(args.out) / "losses.csv", []
    if first and not log.exists():
        loss, spread = normal_loss(args.pretrained, data, config, device, args.heads)
        print(
            f"the pre-trained model's own loss on these images is {loss:.4f}, +- {spread:.4f} a batch of {config.batch}: a fine-tune that learns ends below"
        )
        _append(log, 0, loss)
    began, seen = time.time(), 0
    for step in steps:
        seen += config.batch
        recent.append(step.loss)
        bar.update(step.step - bar.n)
        if first and (step.step % 50 == 0 or step.step == config.steps):
            loss = sum(recent).item() / len(recent)
            recent.clear()
            bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{seen / (time.time() - began):.0f}")
            _append(log, step.step, loss)
    if first:
        print(f"{args.out}/ema.safetensors after {config.steps} steps")


def _append(log, step, loss):
    """A line to a table of losses, each the mean since the line before, without what a run that was stopped wrote of later steps; step 0: the pre-trained model."""
    lines = log.read_text().splitlines() if log.exists() else []
    kept = [line for line in lines if int(line.split(",")[0]) < step]
    write_text(log, "\n".join([*kept, f"{step},{loss:.6f}"]) + "\n")


# sample


def _model_options(parser):
    parser.add_argument("finetuned", help="what finetune wrote, or any DiT checkpoint")
    parser.add_argument("--pretrained", help="the checkpoint that it was fine-tuned from")
    _common(parser)


def _sample_options(parser):
    from .sample import Config

    _model_options(parser)
    parser.add_argument("--weaker", help="autoguidance: an earlier checkpoint of the same fine-tune")
    parser.add_argument("--out", required=True)
    parser.add_argument("--vae", default="sd-vae-ft-ema", help="as for prepare")
    parser.add_argument("--batch", type=int, default=64)
    _fields(parser, Config)


def _models(args, device):
    """The fine-tune and its guide.  -> VP, VP or None, checksums by name"""
    from .finetune import load, pair

    weaker = getattr(args, "weaker", None) if getattr(args, "method", None) == "autoguidance" else None
    other = weaker or args.pretrained
    names = dict(finetuned=_checksum(args.finetuned)) | (dict(guide=_checksum(other)) if other else {})
    if weaker or not other:
        nets = (
            load(path, args.pretrained, device, args.heads) if path else None
            for path in (args.finetuned, weaker)
        )
    else:
        nets = pair(args.finetuned, other, device, args.heads)
    return *nets, names


def sample(args):
    """Sample a fine-tune with guidance, as PNGs and one .npz."""
    from ..dit.fast import fast
    from .finetune import header
    from .latents import codec
    from .sample import Config, collect
    from .sample import sample as run

    config, accelerator = _config_from(args, Config), _processes()
    device = accelerator.device if accelerator else _device_of(args)
    tuned, guide, names = _models(args, device)
    if str(device).startswith("cuda") or config.fp8:
        fast(tuned, guide, fp8=config.fp8)
    origin = names | {k: v for k, v in header(args.finetuned).items() if k in ("step", "dropout", "rank")}
    part = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    bar = tqdm(desc="sample", disable=args.quiet or part[0] > 0, mininterval=2)
    for done, total in run(tuned, guide, codec(args.vae, device), config, args.out, origin, args.batch, part):
        bar.total = total
        bar.update(done - bar.n)
    if accelerator:
        accelerator.wait_for_everyone()
    if part[0] == 0:
        print(collect(args.out, config.count))


# evaluate


def _evaluate_options(parser):
    parser.add_argument("samples", help="a folder of images or an .npz")
    parser.add_argument("reference", help="the same")
    parser.add_argument(
        "--features",
        default="inception",
        help="inception (FID), dinov2 (FD_DINOv2) or glyphs; default: inception",
    )
    parser.add_argument("--weights", help="the extractor's weights, by default from the usual cache")
    parser.add_argument("--count", type=int, help="use the first samples only; default: all")
    parser.add_argument("--out", required=True, help="the .json to write")
    parser.add_argument("--device")


def evaluate(args):
    """Score samples against reference images."""
    from .evaluate import evaluate as run
    from .evaluate import extractor, save

    samples = pathlib.Path(args.samples)
    result = run(
        samples / "images" if (samples / "images").is_dir() else samples,
        args.reference,
        extractor(args.features, args.weights, _device_of(args)),
        args.features,
        args.count,
        made=samples / "manifest.json",
    )
    save(result, args.out)
    print("  ".join(f"{k} {v:.4g}" for k, v in result["scores"].items()))


# calibrate


def _calibrate_options(parser):
    from .calibrate import Config

    _model_options(parser)
    parser.add_argument("--latents", required=True, help="held-out images, as prepare wrote them")
    parser.add_argument("--out", required=True, help="a folder for calibration.json and calibration.png")
    _fields(parser, Config)


def calibrate(args):
    """Find the guidance weights that held-out images ask for."""
    import matplotlib

    matplotlib.use("Agg")
    from .calibrate import Config, figure, recommend, to_json
    from .calibrate import calibrate as run
    from .latents import Latents

    if not args.pretrained:
        raise ValueError("pretrained is missing; expected --pretrained CHECKPOINT, the model that guides")
    tuned, guide, names = _models(args, _device_of(args))
    found = run(tuned, guide, Latents(args.latents), _config_from(args, Config), _device_of(args))
    write_text(
        pathlib.Path(args.out) / "calibration.json", json.dumps(to_json(found) | names, indent=1) + "\n"
    )
    figure(found).savefig(pathlib.Path(args.out) / "calibration.png")
    print(recommend(found))


# table


def _table_options(parser):
    parser.add_argument("scores", nargs="+", help="what evaluate wrote")
    parser.add_argument("--out", help="a .md to write; by default the table is printed")


def table(args):
    """Set scores side by side."""
    from .table import read
    from .table import table as run

    text = run(read(args.scores)) + "\n"
    write_text(args.out, text) if args.out else print(text, end="")


STEPS = {
    name: (globals()[f"_{name}_options"], globals()[name])
    for name in ("prepare", "finetune", "sample", "evaluate", "calibrate", "table")
}
