"""python -m dgtoy dit run, or its steps: prepare|finetune|sample|evaluate|calibrate|table."""

import argparse
import pathlib
import shlex
import warnings

import torch
from tqdm import tqdm

from .. import distributed, environment
from ..checkpoint import write_text
from . import options
from .manifest import write_json


def parser():
    """The parser of all steps; each step's function is its `run`."""
    found = argparse.ArgumentParser(
        prog="python -m dgtoy dit",
        description="From a folder of pictures and a DiT checkpoint to guided samples and their scores.",
        epilog="Several GPUs: accelerate launch -m dgtoy dit finetune|sample ...",
    )
    return options.commands(found, STEPS, "STEP")


def main(argv):
    """Run one step of the pipeline."""
    options.call(parser(), argv, into_files=(evaluate, table))


def prepare(args):
    """Encode an image folder as latents."""
    from . import image_sets, latents, models
    from .targets import TARGETS

    if args.split and not args.hub:
        raise ValueError(f"split is {args.split} without --hub; expected --hub, or a folder of that split")
    target = TARGETS.get(args.target)
    expected = target.classes if target else None
    try:
        if args.hub:
            images = image_sets.HubImages(args.images, args.split, expected)
        else:
            images = image_sets.ImageFolder(args.images, expected)
    except FileNotFoundError as e:
        where = f"; {args.target} is {target.where}, {target.split} ({target.licence})" if target else ""
        raise FileNotFoundError(f"{e}{where}") from None
    device = environment.device(args.device)
    net = models.pretrained_net(args.pretrained, num_heads=args.heads) if args.pretrained else None
    size, codec = latents.size_and_codec(args.size, args.vae, device, net, args.pretrained)
    bar = tqdm(total=len(images), desc="prepare", mininterval=2, disable=args.quiet or None)
    for done, _ in latents.prepare(
        images,
        args.out,
        size,
        codec,
        device,
        mirror=not args.no_mirror,
        pretrained=models.whole_name(args.pretrained) if args.pretrained else None,
        held_out=args.held_out,
    ):
        bar.update(done - bar.n)
    held = latents.held_out_rows(torch.tensor(images.labels), args.held_out).sum()
    kept = f", {held} of them held out" if args.held_out else ""
    print(f"{len(images)} images of {len(images.classes)} classes in {args.out}{kept}")


def finetune(args):
    """Fine-tune a DiT on latents; the default is the paper's recipe, on a CPU one for a laptop."""
    from . import interrupt, losses, pace
    from .finetune import Config, normal_loss, remembered, start
    from .finetune import finetune as run
    from .latents import Latents
    from .models import whole_name

    device, out = distributed.join(environment.device(args.device)), pathlib.Path(args.out)
    first = distributed.rank() == 0
    data = Latents(args.latents)
    given, (held, _) = options.given(args, Config), remembered(out)
    suited = pace.RECIPES["cpu"] if device.type == "cpu" and "steps" not in given else {}
    config = Config(**(held or suited) | given)
    pretrained = args.pretrained or data.plan.get("pretrained")
    if not pretrained:
        raise ValueError("pretrained is missing; expected --pretrained CHECKPOINT, as prepare had none")
    net = start(pretrained, len(data.classes), config, device, args.heads)
    told = dict(pretrained=whole_name(pretrained), codec=data.plan["codec"], images=data.plan["images"])
    told["seen"] = [] if data.digest is None else data.digest.tolist()
    steps = run(net, data, config, out, args.every, told=told)
    steps = interrupt.between(steps, out / "last.safetensors")
    if first:
        if not args.quiet and device.type == "cpu":
            pace.tell(pace.of_finetune(config, out), net)
        if not (out / "losses.csv").exists():
            loss, spread = normal_loss(pretrained, data, config, device, args.heads)
            print(
                f"the pre-trained model's own loss on these images is {loss:.4f} "
                f"(+- {spread:.4f} per batch of {config.batch}); a fine-tune that learns ends below it"
            )
            losses.append(out / "losses.csv", 0, loss)
        steps = losses.logged(steps, config, out / "losses.csv", args.quiet)
    for _ in steps:
        pass
    if first:
        print(f"{out}/ema.safetensors after {config.steps} steps")


def sample(args):
    """Sample a fine-tune with guidance: PNGs, one .npz of them, and a contact sheet that compares methods."""
    from ..dit.fast import fast
    from . import latents, models, pace
    from .sample import Config, collect, contact, named, remembered, sampler_of, sheet_rows
    from .sample import sample as run

    device, out = distributed.join(environment.device(args.device)), pathlib.Path(args.out)
    first = distributed.rank() == 0
    given, held = options.given(args, Config), remembered(out)
    method = (held | given).get("method", Config.method)
    tuned, guide, checksums = models.guided_by(
        method, args.finetuned, args.pretrained, args.weaker, device, args.heads
    )
    config = Config(**sampler_of(tuned) | held | given)
    rows = sheet_rows(config, out, args.sheet, models.null_is_trained(args.finetuned))
    on_cpu = tuned.device.type == "cpu"
    if tuned.device.type == "cuda" or config.fp8:
        fast(tuned, guide, fp8=config.fp8)
    made = models.header(args.finetuned)
    origin = checksums | {k: v for k, v in made.items() if k in ("step", "dropout", "rank", "classes")}
    coder = latents.decoder(args.vae, tuned.shape, device, made.get("codec"), args.finetuned)
    part = distributed.rank(), distributed.count()
    batch = (4 if on_cpu else 64) if args.batch is None else args.batch
    draws = {out: run(tuned, guide, coder, config, out, origin, batch, part)}
    if first:
        alone = {k: v for k, v in origin.items() if k != "guide"}
        for folder, row in rows.items():
            if folder != out:
                draws[folder] = run(tuned, None, coder, row, folder, alone, batch)
        if not args.quiet and on_cpu:
            pace.tell(sum(pace.of_sample(row, folder) for folder, row in rows.items()), tuned)
    _follow(draws.pop(out), "sample", args.quiet or not first)
    distributed.barrier()
    if not first:
        return
    print(collect(out, config.count))
    for folder, row_draws in draws.items():
        try:
            _follow(row_draws, "sheet", args.quiet)
        except FloatingPointError as e:  # the samples that were asked for are there
            row = rows.pop(folder)
            warnings.warn(f"contact.png is without {named(row.method, row.w)}, as {e}", stacklevel=2)
    if args.sheet:
        print(contact(out, rows, made.get("classes") or range(tuned.null), args.sheet))


def _follow(draws, name, quiet):
    """Draw to the end, behind a bar of this name."""
    bar = tqdm(desc=name, disable=quiet or None, mininterval=2)
    for done, total in draws:
        bar.total = total
        bar.update(done - bar.n)


def evaluate(args):
    """Score samples against reference images."""
    from .evaluate import evaluate as run
    from .extractors import extractor

    net = extractor(args.features, args.weights, environment.device(args.device))
    made = pathlib.Path(args.samples) / "manifest.json"
    result = run(args.samples, args.reference, net, args.features, args.count, made=made)
    write_json(args.out, result)
    print("  ".join(f"{k} {v:.4g}" for k, v in result["scores"].items()))


def calibrate(args):
    """Find the guidance weights that held-out images ask for."""
    from . import models, pace
    from .calibrate import Config, recommend, save, unseen
    from .calibrate import calibrate as run

    device = environment.device(args.device)
    tuned, guide, checksums = models.guided_by(
        "dog", args.finetuned, args.pretrained, device=device, num_heads=args.heads
    )
    if guide is None:
        raise ValueError("pretrained is missing; expected --pretrained CHECKPOINT, the model that guides")
    models.warn_of_null(args.finetuned, "w* of CFG and of the plane")
    made = models.header(args.finetuned)
    data = unseen(args.latents, args.finetuned, made)
    if made.get("classes"):
        data.matched(made["classes"])
    elif len(data.classes) != tuned.null:
        raise ValueError(f"latents hold {len(data.classes)} classes; expected {tuned.null}, as the fine-tune")
    config = Config(**options.given(args, Config))
    if not args.quiet and tuned.device.type == "cpu":
        pace.tell(pace.of_calibrate(config, len(data)), tuned)
    found = run(tuned, guide, data, config, device)
    save(found, args.out, checksums)
    print(recommend(found))


def table(args):
    """Set scores side by side."""
    from .table import read
    from .table import table as run

    text = run(read(args.scores)) + "\n"
    if args.out:
        write_text(args.out, text)
    else:
        print(text, end="")


def run(args):
    """The whole way: prepare, finetune, sample with none, CFG and DoG, a contact sheet and a gallery."""
    from . import pace
    from .latents import Latents
    from .models import pretrained_net
    from .run import Comparison

    device = torch.device(environment.device(args.device))
    out = pathlib.Path(args.out or f"{pathlib.Path(args.images).resolve().name}-run")
    recipe = dict(pace.RECIPES["cpu" if device.type == "cpu" else "cuda"])
    if args.steps is not None:
        recipe["steps"] = args.steps
    compared = Comparison(args.images, out, args.w, args.count)
    compared.check(recipe)
    given = dict(device=args.device, heads=args.heads)
    common = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    for words in compared.commands(args.pretrained, args.held_out, recipe, common):
        print("\npython -m dgtoy dit", *(shlex.quote(str(word)) for word in words), flush=True)
        main([*map(str, words), "--quiet"] if args.quiet else map(str, words))
        if words[0] == "prepare" and not args.quiet:
            net = pretrained_net(args.pretrained, device, args.heads)
            pace.tell(compared.passes(recipe, net), net, "the rest takes ")
    sheets = compared.show()
    if scores := compared.scores(device):
        compared.show(scores)
    print("", *sheets, sep="\n")
    data = Latents(out / "latents")
    if len(data) < data.plan["count"]:
        places = ("calibrate", out / "finetune", "--latents", out / "latents", "--out", out / "weights")
        command = shlex.join(map(str, [*places, *common]))
        print(f"held-out pictures suggest a weight: python -m dgtoy dit {command}")


STEPS = {
    "run": (options.run, run),
    "prepare": (options.prepare, prepare),
    "finetune": (options.finetune, finetune),
    "sample": (options.sample, sample),
    "evaluate": (options.evaluate, evaluate),
    "calibrate": (options.calibrate, calibrate),
    "table": (options.table, table),
}
