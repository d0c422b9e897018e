"""Sample a fine-tune with any guidance, resumably: image i depends on the seed and on i alone."""

import dataclasses
import math
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from .. import vp
from ..checkpoint import whole
from ..checks import SEEDS, check_interval, check_number, check_whole
from ..dit import VP, Flow
from ..guidance import guided
from ..samplers import dpmpp_2m, heun, karras, last
from ..trainer import check_ranges, generator
from .manifest import agree, read_json
from .pictures import open_picture, to_uint8
from .sheet import SHOWN, contact_sheet, write_png

NAMES = dict(none="no guidance", cfg="CFG", dog="DoG", autoguidance="autoguidance")
METHODS = tuple(NAMES)
SAMPLERS = ("ddpm", "ddim", "heun", "dpmpp_2m")
MOST = 10_000  # steps: a slip of the finger would fill the memory
OF_DIT = dict(sampler="ddpm", steps=50)  # by default
OF_FLOW = dict(sampler="dpmpp_2m", steps=24)
IN_STEPS_OF_DIT = ("ddpm", "ddim")  # which a flow does not have


@dataclasses.dataclass(frozen=True)
class Config:
    """What determines the samples. count: of images, which may be raised later. interval: the noise levels
    sigma within which guidance is on.

    channels: how many of the first latent channels are guided; 0 is all, 3 reproduces the official code.
    fp8: the networks' products in 8-bit floating point, for speed (`dit.fast`).
    Raises ValueError for a method or sampler that is not there, or values out of range.
    """

    method: str = "dog"
    w: float = 1.5
    sampler: str = "ddpm"
    steps: int = 50
    count: int = 16
    seed: int = 0
    interval: tuple = (0.0, math.inf)
    channels: int = 0
    fp8: bool = False

    def __post_init__(self):
        for name, known in (("method", METHODS), ("sampler", SAMPLERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {', '.join(known)}")
        check_ranges(
            self, w="(-inf, inf)", count="[1, inf)", steps=f"[1, {MOST}]", channels="[0, inf)", seed=SEEDS
        )
        if self.channels and self.sampler not in IN_STEPS_OF_DIT:
            raise ValueError(
                f"channels is {self.channels} with sampler {self.sampler}; expected 0, or ddpm or ddim"
            )
        check_interval(self.interval)
        try:
            dict(ddpm=vp.respaced, ddim=vp.strided).get(self.sampler, levels)(self.steps)
        except ValueError as e:
            raise ValueError(f"steps is {self.steps} with sampler {self.sampler}: {e}") from None


def noise(config, images, shape):
    """Starting noise of each image, and its own generator after that.  -> x_T (B, C, h, w), generators"""
    generators = [generator(config.seed, i) for i in images]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]), generators


def draw_latents(tuned, guide, config, images, num_classes):
    """Latents of the images with these indices; image i is of class i mod num_classes.  -> (B, C, h, w)

    tuned, guide: `VP`s or `Flow`s; the guide is the pre-trained model for DoG, a weaker fine-tune for
    autoguidance. Raises ValueError if it is missing, or for a sampler that a flow does not have.
    """
    check_models(tuned, guide, config)
    label = torch.tensor([i % num_classes for i in images], device=tuned.device)
    x_T, generators = noise(config, images, tuned.shape)
    x_T = x_T.to(tuned.device)
    other = guide if config.method in ("dog", "autoguidance") else tuned
    other_label = other.null if config.method in ("cfg", "dog") else label
    w = 1.0 if config.method == "none" else config.w
    if config.sampler in IN_STEPS_OF_DIT:
        main, guiding = tuned.noise(label), other.noise(other_label)
        model = vp.guided_noise(main, guiding, w, config.channels or None, config.interval)
        spaced = vp.strided if config.sampler == "ddim" else vp.respaced
        process = vp.Process(spaced(config.steps)).to(tuned.device)
        if config.sampler == "ddim":
            states = vp.ddim(model, x_T, process)
        else:
            states = vp.ancestral(model, x_T, process, generators)
    else:
        sigmas = levels(config.steps, tuned.sigma_range)
        D = guided(tuned.denoiser(label), other.denoiser(other_label), w, config.interval)
        sampler = heun if config.sampler == "heun" else dpmpp_2m
        states = sampler(D, scaled(x_T, sigmas), sigmas)
    return last(_finite(states, config, images))


def check_models(tuned, guide, config):
    """Raise ValueError if the method has no guide, or autoguidance one of other classes; if more channels are
    to be guided than there are; if the sampler steps as DiT's process does and a network is a flow, or is
    ddpm and the fine-tune gives no variance."""
    takes_guide = config.method in ("dog", "autoguidance")
    if takes_guide and guide is None:
        option = "--pretrained" if config.method == "dog" else "--weaker"
        raise ValueError(f"method is {config.method} and there is no guide; expected {option} CHECKPOINT")
    if config.method == "autoguidance" and guide.null != tuned.null:
        raise ValueError(
            f"guide has {guide.null} classes; expected {tuned.null}: autoguidance takes --weaker, an earlier"
            " checkpoint of the same fine-tune"
        )
    if config.channels > tuned.shape[0]:
        raise ValueError(f"channels is {config.channels}; expected at most {tuned.shape[0]}")
    nets = (tuned, guide) if takes_guide else (tuned,)
    if config.sampler in IN_STEPS_OF_DIT and any(isinstance(net, Flow) for net in nets):
        raise ValueError(f"sampler is {config.sampler} and the network a flow; expected dpmpp_2m or heun")
    if config.sampler == "ddpm" and not tuned.config["learn_sigma"]:
        raise ValueError("sampler is ddpm and the network gives no variance; expected ddim, heun or dpmpp_2m")


def _finite(states, config, images):
    """The states of a sampler as they come. Raises FloatingPointError at one that is not finite."""
    for step, x in enumerate(states, 1):
        bad = (~x.flatten(1).isfinite().all(1)).nonzero()
        if len(bad):
            raise FloatingPointError(
                f"image {images[int(bad[0])]} of seed {config.seed} is not finite at step {step} of"
                f" {config.steps}, w = {config.w}; no picture of its batch is written"
            )
        yield x


def remembered(out):
    """The fields of the configuration with which OUT was made, by name; of a new OUT none."""
    path = pathlib.Path(out) / "manifest.json"
    made = read_json(path) if path.exists() else {}
    if made.get("kind") != "samples":  # which `agree` refuses
        return {}
    held = {f.name: made[f.name] for f in dataclasses.fields(Config) if f.name in made}
    if "interval" in held:
        held["interval"] = tuple(math.inf if level is None else level for level in held["interval"])
    return held


def settings_of(config):
    """A configuration as a manifest holds it: an interval without an end, which JSON lacks, ends at None."""
    interval = [None if level == math.inf else level for level in config.interval]
    return dataclasses.asdict(config) | dict(interval=interval)


def sampler_of(net):
    """The sampler and its steps by default: as in the paper for a `VP`; a flow does not have its steps."""
    return OF_FLOW if isinstance(net, Flow) else OF_DIT


def levels(steps, sigma_range=VP.sigma_range):
    """Noise levels for `heun` and `dpmpp_2m`: Karras et al.'s spacing of what the network knows, by default
    DiT's own range.  -> (steps + 1,)
    """
    return karras(steps, *sigma_range)


def scaled(x_T, sigmas):
    """Starting noise of unit variance as x at the first level: x = sqrt(1 + sigma^2) x_T."""
    return x_T * (1 + sigmas[0] ** 2).sqrt().float()


def sample(tuned, guide, coder, config, out, origin, batch=64, part=(0, 1)):
    """Write image i to OUT/images/i.png for every i of this part that is not there; yields (done, in all), of
    this part.

    origin: what made the samples, by name (checksums of both checkpoints); it goes into OUT/manifest.json,
    and an OUT made otherwise is refused with a ValueError. part: (process, processes). `collect` makes one
    file of the images. Raises FloatingPointError, naming image, seed and step, before a picture that is not
    finite is written.
    """
    check_models(tuned, guide, config)
    check_whole("batch", batch, 1)
    out = pathlib.Path(out)
    made = dict(kind="samples", codec=coder.name, classes=tuned.null) | settings_of(config) | origin
    agree(out / "manifest.json", made, "images/??????.png", free=("count",))
    mine = range(part[0], config.count, part[1])

    def work():
        missing = [i for i in mine if not image_path(out, i).exists()]
        done = len(mine) - len(missing)
        yield done, len(mine)
        for at in range(0, len(missing), batch):
            images = missing[at : at + batch]
            decoded = coder.decode(draw_latents(tuned, guide, config, images, tuned.null))
            if not decoded.isfinite().all():
                raise FloatingPointError(
                    f"codec {coder.name} decodes images {images[0]} to {images[-1]} of seed {config.seed}"
                    " to pixels that are not finite; none of them is written"
                )
            pixels = to_uint8(decoded).permute(0, 2, 3, 1).cpu().numpy()  # (b, H, W, 3)
            with ThreadPoolExecutor() as threads:  # compressing 10,000 images in turn would take minutes
                list(threads.map(write_png, pixels, (image_path(out, i) for i in images)))
            done += len(images)
            yield done, len(mine)

    return work()


def image_path(out, i):
    """Where image i of a set lies."""
    return pathlib.Path(out) / "images" / f"{i:06d}.png"


def named(method, w):
    """A method with its weight, as a sheet names it."""
    return NAMES[method] if method == "none" else f"{NAMES[method]} {w:g}"


def sheet_rows(config, out, shown, null=True):
    """The rows of OUT/contact.png from the same noise, each the samples of a folder: without guidance, CFG at
    the same w, and the method of `config`, whose folder is OUT itself.  -> {folder: Config}

    shown: the pictures in a row, of which the other folders hold no more; 0: OUT alone. null: whether the
    fine-tune's null label was trained, which CFG asks for. No row comes twice: at w = 1 all methods are one.
    Raises ValueError for a number of pictures that does not fit on a sheet.
    """
    check_number("sheet", shown, f"[0, {SHOWN}]")
    out = pathlib.Path(out)
    if not shown or config.w == 1:
        return {out: config}
    rows, few = {}, min(shown, config.count)
    for method in dict.fromkeys(("none", *(["cfg"] if null else []), config.method)):
        if method == config.method:
            rows[out] = config
        else:
            rows[out / "sheet" / method] = dataclasses.replace(config, method=method, count=few)
    return rows


def contact(out, rows, classes, shown):
    """The first pictures of each row of `sheet_rows` as OUT/contact.png, a row per method.  -> its path

    classes: their names, which head the columns; image i is of class i mod len(classes).
    """
    images = range(min(shown, rows[pathlib.Path(out)].count))
    pictures = {
        named(row.method, row.w): [image_path(folder, i) for i in images] for folder, row in rows.items()
    }
    path = pathlib.Path(out) / "contact.png"
    write_png(contact_sheet(pictures, [str(classes[i % len(classes)]) for i in images]), path)
    return path


def collect(out, n):
    """All n images as OUT/samples.npz, arr_0 (n, H, W, 3) uint8, as evaluation suites read it.  -> its path

    Raises ValueError if one is missing, or of another size.
    """
    out = pathlib.Path(out)
    paths = [image_path(out, i) for i in range(n)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise ValueError(f"{out} holds {n - len(missing)} of {n} images; {missing[0]} is missing")
    arrays = [np.asarray(open_picture(path)) for path in paths]
    odd = [path for path, array in zip(paths, arrays) if array.shape != arrays[0].shape]
    if odd:
        raise ValueError(
            f"image {odd[0]} is of another size than {paths[0].name}; delete it to draw it again"
        )
    with whole(out / "samples.npz") as part, open(part, "wb") as file:
        np.savez(file, np.stack(arrays))
    return out / "samples.npz"
