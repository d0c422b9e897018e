"""python -m dgtoy dit run, or its steps: prepare|finetune|sample|evaluate|calibrate|table."""

import argparse
import contextlib
import pathlib
import shlex
import time

import torch
from tqdm import tqdm

from .. import distributed, environment
from ..checkpoint import write_text
from . import interrupt, options
from .manifest import check_out, checksum


def parser():
    """The parser of all steps; each step's function is its `run`."""
    found = argparse.ArgumentParser(
        prog="python -m dgtoy dit",
        description="From a folder of pictures and a DiT checkpoint to guided samples and their scores.",
        epilog="Several GPUs: accelerate launch -m dgtoy dit finetune|sample ...",
    )
    steps = found.add_subparsers(metavar="STEP", required=True)
    for name, (add_options, run) in STEPS.items():
        step = steps.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_options(step)
        step.set_defaults(run=run)
    return found


def main(argv):
    """Run one step of the pipeline."""
    args = parser().parse_args(argv)
    if args.out:
        check_out(args.out, file=args.run in (evaluate, table))
    args.run(args)


# prepare


def prepare(args):
    """Encode an image folder as latents."""
    from . import image_sets, latents
    from .targets import TARGETS

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
    size, codec = _size_and_codec(args, device)
    hint = _named(args.pretrained) if args.pretrained else None
    bar = tqdm(total=len(images), desc="prepare", mininterval=2, disable=args.quiet or None)
    for done, _ in latents.prepare(
        images,
        args.out,
        size,
        codec,
        device,
        mirror=not args.no_mirror,
        pretrained=hint,
        held_out=args.held_out,
    ):
        bar.update(done - bar.n)
    held = latents.held_out_rows(torch.tensor(images.labels), args.held_out).sum()
    kept = f", {held} of them held out" if held else ""
    print(f"{len(images)} images of {len(images.classes)} classes in {args.out}{kept}")


def _size_and_codec(args, device):
    """Side of the images and codec: as the options say, or as the network to be fine-tuned asks."""
    from . import latents
    from .models import pretrained_net

    if not args.pretrained:
        return 256 if args.size is None else args.size, latents.codec(
            args.vae or next(iter(latents.VAES)), device
        )
    shape = pretrained_net(args.pretrained, num_heads=args.heads).shape
    codec = latents.codec(args.vae or latents.codec_name(shape), device)
    size = shape[1] * codec.shrink if args.size is None else args.size
    made = tuple(codec.encode(torch.zeros(1, 3, size, size, device=device))[0].shape[1:])
    if made != shape:
        raise ValueError(
            f"size is {size} and codec {codec.name}, which make {made}; {args.pretrained} takes {shape}"
        )
    return size, codec


def _named(path):
    """A checkpoint as any folder names it: by its whole path, or by the name under which it ships."""
    from .models import is_shipped

    return path if is_shipped(path) else str(pathlib.Path(path).resolve())


# finetune


def finetune(args):
    """Fine-tune a DiT on latents; the default is the paper's recipe, on a CPU one for a laptop."""
    from . import pace
    from .finetune import finetune as run
    from .finetune import normal_loss, start
    from .latents import Latents

    device, out = distributed.join(environment.device(args.device)), pathlib.Path(args.out)
    first = distributed.rank() == 0
    data = Latents(args.latents)
    config, done = _recipe(args, device)
    pretrained = args.pretrained or data.plan.get("pretrained")
    if not pretrained:
        raise ValueError("pretrained is missing; expected --pretrained CHECKPOINT, as prepare had none")
    net = start(pretrained, len(data.classes), config, device, args.heads)
    told = dict(pretrained=_named(pretrained), codec=data.plan["codec"], images=data.plan["images"])
    steps = run(net, data, config, out, args.every, told=told)
    if first and not args.quiet and device.type == "cpu":
        _estimate(pace.of_finetune(config, done) * pace.seconds_a_pass(net), device)
    if first and not (out / "losses.csv").exists():
        loss, spread = normal_loss(pretrained, data, config, device, args.heads)
        print(
            f"the pre-trained model's own loss on these images is {loss:.4f} "
            f"(+- {spread:.4f} per batch of {config.batch}); a fine-tune that learns ends below it"
        )
        _append(out / "losses.csv", 0, loss)
    with interrupt.deferred() as asked:
        for step in _logged(steps, config, out / "losses.csv", args.quiet) if first else steps:
            if asked:
                _interrupted(steps, step, out)
    if first:
        print(f"{out}/ema.safetensors after {config.steps} steps")


def _recipe(args, device):
    """What the options say, else what OUT remembers, else what suits the machine.  -> Config, steps done"""
    from ..dit.checkpoints import header
    from . import pace
    from .finetune import Config

    given, last = options.given(args, Config), header(pathlib.Path(args.out) / "last.safetensors")
    if not isinstance(last.get("recipe"), dict) or not isinstance(last.get("step"), int):
        last = {}  # no state, or a damaged one, of which resuming says what is wrong
    held = {k: tuple(v) if isinstance(v, list) else v for k, v in last.get("recipe", {}).items()}
    suited = pace.RECIPES["cpu"] if device.type == "cpu" and "steps" not in given else {}
    return Config(**(held or suited) | given), last.get("step", 0)


def _estimate(seconds, device):
    """Say how long it will take, before it starts."""
    from .pace import duration, machine

    print(f"about {duration(seconds)} ({machine(device)})", flush=True)


def _logged(steps, config, log, quiet):
    """The steps as they come, with a bar, and a line of the table of losses for every 50."""
    bar = tqdm(total=config.steps, desc="finetune", disable=quiet or None, mininterval=5)
    began, seen, recent = time.time(), 0, []
    for step in steps:
        seen += config.batch
        recent.append(step.loss)
        bar.update(step.step - bar.n)
        if step.step % 50 == 0 or step.step == config.steps:
            loss = sum(recent).item() / len(recent)
            recent.clear()
            bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{seen / (time.time() - began):.0f}")
            _append(log, step.step, loss)
        yield step


def _interrupted(steps, step, out):
    """End a fine-tune after a step, its state written."""
    with contextlib.suppress(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    raise KeyboardInterrupt(
        f"the same command goes on after step {step.step}, which {out / 'last.safetensors'} holds"
    )


def _append(log, step, loss):
    """A line to a table of losses, each the mean since the line before; step 0 is the pre-trained model.

    Lines of later steps, which a run that was stopped had written, go.
    """
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    kept = [line for line in lines if int(line.split(",")[0]) < step]
    write_text(log, "\n".join([*kept, f"{step},{loss:.6f}"]) + "\n")


# sample


def _models(args, device, method="dog"):
    """The fine-tune and its guide.  -> two of VP or Flow, or one and None; checksums by name"""
    from .models import header, load, pair, weights_file

    made, base = header(args.finetuned), args.pretrained
    if not base and (method == "dog" or made.get("rank")):
        base = made.get("pretrained")
    weaker = getattr(args, "weaker", None) if method == "autoguidance" else None
    files = dict(finetuned=args.finetuned, guide=weaker or base)
    names = {name: checksum(weights_file(path)) for name, path in files.items() if path}
    if weaker and header(weaker).get("classes") != made.get("classes"):
        raise ValueError(
            f"weaker has classes {header(weaker).get('classes')};"
            f" expected {made.get('classes')}, as finetuned"
        )
    if base and not weaker:
        nets = pair(args.finetuned, base, device, args.heads)
    else:
        nets = (load(path, base, device, args.heads) if path else None for path in (args.finetuned, weaker))
    return *nets, names


def sample(args):
    """Sample a fine-tune with guidance, as PNGs and one .npz."""
    from ..dit.fast import fast
    from . import pace
    from .models import header
    from .sample import Config, collect, contact, remembered, sampler_of
    from .sample import sample as run

    device, out = distributed.join(environment.device(args.device)), pathlib.Path(args.out)
    first = distributed.rank() == 0
    given, held = options.given(args, Config), remembered(out)
    method = (held | given).get("method", Config.method)
    tuned, guide, names = _models(args, device, method)
    config = Config(**sampler_of(tuned) | held | given)
    if first and not args.quiet and tuned.device.type == "cpu":
        done = len(list((out / "images").glob("*.png")))
        _estimate(pace.of_sample(config, done) * pace.seconds_a_pass(tuned), device)
    if str(device).startswith("cuda") or config.fp8:
        fast(tuned, guide, fp8=config.fp8)
    made = header(args.finetuned)
    origin = names | {k: v for k, v in made.items() if k in ("step", "dropout", "rank", "classes")}
    coder = _decoder(args, tuned.shape, made.get("codec"), device)
    part = distributed.rank(), distributed.count()
    batch = (4 if tuned.device.type == "cpu" else 64) if args.batch is None else args.batch
    bar = tqdm(desc="sample", disable=args.quiet or not first or None, mininterval=2)
    for done, total in run(tuned, guide, coder, config, out, origin, batch, part):
        bar.total = total
        bar.update(done - bar.n)
    distributed.barrier()
    if first:
        contact(out, made.get("classes") or range(tuned.null))
        print(collect(out, config.count))


def _decoder(args, shape, trained_on, device):
    """The codec of samples. Raises ValueError if the fine-tune was trained on another's latents."""
    from . import latents

    exact = trained_on in latents.EXACT
    coder = latents.codec(args.vae or (trained_on if exact else latents.codec_name(shape)), device)
    if trained_on not in (None, coder.name):
        raise ValueError(f"codec is {coder.name}; {args.finetuned} was trained on latents of {trained_on}")
    return coder


# evaluate


def evaluate(args):
    """Score samples against reference images."""
    from . import evaluate as scores

    samples = pathlib.Path(args.samples)
    extractor = scores.extractor(args.features, args.weights, environment.device(args.device))
    made = samples / "manifest.json"
    result = scores.evaluate(samples, args.reference, extractor, args.features, args.count, made=made)
    scores.save(result, args.out)
    print("  ".join(f"{k} {v:.4g}" for k, v in result["scores"].items()))


# calibrate


def calibrate(args):
    """Find the guidance weights that held-out images ask for."""
    from .calibrate import Config, recommend, save, unseen
    from .calibrate import calibrate as run
    from .models import header

    device = environment.device(args.device)
    tuned, guide, names = _models(args, device)
    if guide is None:
        raise ValueError("pretrained is missing; expected --pretrained CHECKPOINT, the model that guides")
    made = header(args.finetuned)
    data = unseen(args.latents, args.finetuned, made)
    if made.get("classes"):
        data.matched(made["classes"])
    elif len(data.classes) != tuned.null:
        raise ValueError(f"latents hold {len(data.classes)} classes; expected {tuned.null}, as the fine-tune")
    found = run(tuned, guide, data, Config(**options.given(args, Config)), device)
    save(found, args.out, names)
    print(recommend(found))


# table


def table(args):
    """Set scores side by side."""
    from .table import read
    from .table import table as run

    text = run(read(args.scores)) + "\n"
    if args.out:
        write_text(args.out, text)
    else:
        print(text, end="")


# run


def run(args):
    """The whole way: prepare, finetune, sample with none, CFG and DoG, a contact sheet and a gallery."""
    from . import pace
    from . import run as whole
    from .latents import Latents
    from .models import pretrained_net

    device = torch.device(environment.device(args.device))
    out = pathlib.Path(args.out or f"{pathlib.Path(args.images).resolve().name}-run")
    recipe = dict(pace.RECIPES["cpu" if device.type == "cpu" else "cuda"])
    if args.steps is not None:
        recipe["steps"] = args.steps
    whole.check(recipe, args.w, args.count)
    given = dict(device=args.device, heads=args.heads)
    common = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    if not args.quiet:
        seconds = pace.seconds_a_pass(pretrained_net(args.pretrained, device, args.heads))
        _estimate(pace.of_run(recipe, args.w, args.count) * seconds, device)
    for words in whole.commands(
        args.images, out, args.pretrained, args.held_out, recipe, args.w, args.count, common
    ):
        print("\npython -m dgtoy dit", *(shlex.quote(str(word)) for word in words), flush=True)
        main([*map(str, words), "--quiet"] if args.quiet else map(str, words))
    sheets = whole.show(args.images, out, args.w, args.count)
    if scores := _scores(args, out):
        whole.show(args.images, out, args.w, args.count, scores)
    print("", *sheets, sep="\n")
    data = Latents(out / "latents")
    if len(data) < data.plan["count"]:
        tuned, held, weights = (shlex.quote(str(out / name)) for name in ("finetune", "latents", "weights"))
        print(
            "held-out pictures suggest a weight:"
            f" python -m dgtoy dit calibrate {tuned} --latents {held} --out {weights}"
        )


def _scores(args, out):
    """The table of scores of a run, if there are pictures enough and features for photographs.  -> text"""
    from . import evaluate as scores
    from . import table as tables
    from .run import SCORED, settings

    if args.count < SCORED:
        print(f"no scores: {args.count} pictures per method are too few; expected --count {SCORED} or more")
        return ""
    try:
        extractor = scores.extractor("lite0", device=environment.device(args.device))
    except (ImportError, FileNotFoundError) as e:
        print(f"no scores: {e}")
        return ""
    files = [out / name / "scores.json" for name in settings(args.w)]
    for file in files:
        images, made = file.parent / "images", file.parent / "manifest.json"
        scores.save(scores.evaluate(images, args.images, extractor, "lite0", args.count, made=made), file)
    text = tables.table(tables.read(files)) + "\n"
    write_text(out / "scores.md", text)
    print(text, end="")
    return text


STEPS = {
    "run": (options.run, run),
    "prepare": (options.prepare, prepare),
    "finetune": (options.finetune, finetune),
    "sample": (options.sample, sample),
    "evaluate": (options.evaluate, evaluate),
    "calibrate": (options.calibrate, calibrate),
    "table": (options.table, table),
}
