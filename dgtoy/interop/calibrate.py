"""How much guidance a pipeline's fine-tune asks for: `dgtoy.calibrate` through the pipeline's own parts.

Held-out pictures go through its autoencoder, captions through its text encoders, noise levels through its
scheduler. What its network is given besides latents and time is not rebuilt here: the pipeline is called, and
its network's first call kept.
"""

import inspect
import pathlib

import torch

from ..calibration import calibrate_methods
from ..checks import check_numbers, check_seed, check_whole
from .calls import each_tensor, latents_of, pipeline_call, rows_in, unlabelled
from .checks import network_name
from .denoisers import PLACES, denoiser
from .guided import DomainGuidedModel
from .levels import t_to_sigma
from .pipelines import replace_network
from .standin import StandIn

LEVELS = (20.0, 10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.15)
CONDITIONS = ("prompt_embeds", "class_labels")  # in the place of captions
OWN = ("sample", "hidden_states", "timestep", "return_dict")  # inputs that are no condition
ADVICE = (
    "This is about squared error alone: draw the same seeds with domain 1, 1.25 and 1.5, and keep the"
    " largest at which nothing saturates and no two pictures become alike."
)


def calibrate_pipeline(
    pipe, pictures, captions=None, levels=LEVELS, size=None, seed=0, batch=8, out=None, **call
):
    """w* of Domain Guidance, w* of CFG and the plane's a*, b* of a guided pipeline, level by level, with 95%
    intervals.  -> {"DoG", "CFG", "plane": Calibration}

    pictures: a folder that the fine-tune was not trained on. captions: one for all, a list in order of name,
    or None for NAME.txt beside each picture, empty where there is none. levels: noise levels sigma, in units
    of the latents; those count that the scheduler has. size: of the pictures in pixels, by default the
    network's. batch: pictures at a time; another number draws other noise. call: what the pipeline's call
    needs besides, with one row for each picture; `class_labels` or `prompt_embeds` stand in for captions.
    out: a folder for calibration.json and calibration.png, w* over sigma. `advice` says in two sentences what
    it means. Raises ValueError for a pipeline that is not guided by a second network, or whose latents are
    not those of its autoencoder.
    """
    guided = getattr(pipe, network_name(pipe))
    if type(guided) is not DomainGuidedModel or guided.blur is not None:
        raise ValueError(
            f"pipe is a {type(pipe).__name__} without a second network; expected guide_pipeline(pipe, base)"
        )
    check_whole("batch", batch, 1)
    check_seed("seed", seed)
    if out is not None:
        from ..pipeline.manifest import check_out

        check_out(out)
    if "prompt" not in inspect.signature(pipe.__call__).parameters and "class_labels" not in call:
        raise ValueError(f"class_labels is missing, and a {type(pipe).__name__} has no prompts; expected it")
    levels = _within(levels, pipe)
    size = _pixels(pipe) if size is None else check_whole("size", size, 1)
    images, call = _read(pictures, size, captions, call)
    latents, conditions, null, prompt = [], [], None, {}
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        by_picture = lambda v: isinstance(v, list | torch.Tensor) and len(v) == len(images)
        few = {k: v[rows] if by_picture(v) else v for k, v in call.items()}
        z = _encode(pipe, images[rows])
        labelled, for_null, for_guide = _condition(pipe, z, few, images.shape[-1])
        latents.append((z, torch.full((len(z),), start // batch)))  # as label, the number of its batch
        conditions.append(labelled)
        if null is None:
            null, prompt = _first_row(for_null, len(z)), _first_row(for_guide, len(z))
    main = lambda k: denoiser(guided.finetuned, pipe.scheduler, **conditions[k[0]])
    own = denoiser(guided.finetuned, pipe.scheduler, **unlabelled(guided.finetuned, null))
    guide = denoiser(guided.pretrained, pipe.scheduler, **guided.guide_null(null, 1, prompt))
    found = calibrate_methods(main, own, guide, latents, levels, seed, z.device, resamples=100, batch=batch)
    if out is not None:
        from ..pipeline.calibrate import save

        save(found, out, {})
    return found


def advice(found):
    """What the weights tell and what to do, in two sentences."""
    from ..pipeline.calibrate import recommend

    return recommend(found, ADVICE)


def _within(levels, pipe):
    """The noise levels that a pipeline's scheduler has. Raises ValueError if none is."""
    ends = torch.tensor([0.0, pipe.scheduler.config.num_train_timesteps - 1.0])
    low, high = t_to_sigma(ends, pipe).tolist()
    numbers = check_numbers("levels", levels, torch.float64).flatten().tolist()
    found = [sigma for sigma in numbers if low <= sigma <= high]
    if not found:
        raise ValueError(f"levels are {levels}; expected some of the scheduler's, {low:.3g} to {high:.3g}")
    return found


def _read(folder, size, captions, call):
    """Pictures (N, 3, size, size) in [-1, 1], and the call with a prompt for each if it has no condition."""
    from ..pipeline.image_sets import picture_paths
    from ..pipeline.pictures import centre_crop, open_picture

    paths = picture_paths(folder, beside=(".txt",)) if pathlib.Path(folder).is_dir() else ()
    if not paths:
        raise ValueError(f"pictures {folder} holds none; expected a folder of pictures")
    images = torch.stack([centre_crop(open_picture(path), size) for path in paths]) / 127.5 - 1
    given = [name for name in CONDITIONS if name in call]
    if captions is not None and (told := [*given, *({"prompt"} & call.keys())]):
        raise ValueError(f"captions and {told[0]} both came; expected one of them")
    for name in given:
        if len(call[name]) != len(images):
            raise ValueError(
                f"{name} has {len(call[name])} rows for {len(images)} pictures; expected as many"
            )
    if given:
        return images, call
    captions = call.get("prompt", captions)
    if captions is None:
        texts = [path.with_suffix(".txt") for path in paths]
        captions = [t.read_text(encoding="utf-8").strip() if t.exists() else "" for t in texts]
    captions = [captions] * len(paths) if isinstance(captions, str) else list(captions)
    if len(captions) != len(paths):
        raise ValueError(f"captions holds {len(captions)} for {len(paths)} pictures; expected one for each")
    negative = call.get("negative_prompt", "")
    negative = [negative] * len(paths) if isinstance(negative, str) else negative
    if captions == negative:
        raise ValueError(
            f"captions are {captions[0]!r}, as the null prompt is; expected them, or NAME.txt beside pictures"
        )
    return images, call | dict(prompt=captions, negative_prompt=negative)


def _pixels(pipe):
    """The side in pixels of what a pipeline's network was made for."""
    side = getattr(getattr(pipe, network_name(pipe)).config, "sample_size", None)
    if not isinstance(side, int):
        raise ValueError(f"size is None, and the network does not tell it: sample_size is {side}")
    return side * 2 ** (len(getattr(pipe.vae.config, "block_out_channels", (1,))) - 1)


@torch.no_grad()
def _encode(pipe, images):
    """Pictures as the latents that the pipeline starts from, in float32.

    (B, 3, H, W) -> (B, C, h, w); a video's network takes (B, C, 1, h, w), Flux and Qwen-Image pack each 2 x 2
    latents, (B, h w / 4, 4 C).
    """
    vae, config = pipe.vae, pipe.vae.config
    images = images.to(vae.device, vae.dtype)
    if hasattr(config, "temperal_downsample"):  # an autoencoder of videos
        images = images[:, :, None]
    encoded = getattr(vae, "encode", lambda images: None)(images)
    if not hasattr(encoded, "latent_dist"):
        raise ValueError(f"vae is a {type(vae).__name__}; expected an autoencoder with a latent_dist")
    z = encoded.latent_dist.mode().float()
    shift, scale = getattr(config, "shift_factor", None) or 0.0, getattr(config, "scaling_factor", 1.0)
    if getattr(config, "latents_mean", None) is not None:
        shift, std = (
            torch.tensor(v).to(z).view(-1, *[1] * (z.ndim - 2))
            for v in (config.latents_mean, config.latents_std)
        )
        scale = scale / std
    z = (z - shift) * scale
    return pipe._pack_latents(z, *z.shape[:2], *z.shape[-2:]) if hasattr(pipe, "_pack_latents") else z


def _first_row(inputs, n):
    """The first row of every input that has one for each of n pictures."""
    row = lambda v: v[:1] if v.ndim and len(v) == n else v
    return {name: value if name in PLACES else each_tensor(row, value) for name, value in inputs.items()}


class _Seen(Exception):
    """The network's calls have been kept."""


class _Recorder(StandIn):
    """Keeps what a pipeline gives its network in its first step, and ends it there."""

    def __init__(self, net, calls):
        super().__init__(net, net)
        self.calls, self.seen, self.call = calls, [], {}

    def forward(self, *args, **kwargs):
        self.seen.append((args, kwargs))
        self.call = pipeline_call()
        if len(self.seen) == self.calls:
            raise _Seen
        return (torch.zeros_like(latents_of(args, kwargs)),)


def _condition(pipe, z, call, side):
    """What the network is given besides latents and time for a batch of pictures: labelled, null, and the
    null prompt as the guide has to see it. side: of the pictures in pixels.

    Raises ValueError if the pipeline's latents are not those of its autoencoder.
    """
    name = network_name(pipe)
    guided, n = getattr(pipe, name), len(z)
    layout = guided.layout
    recorder = _Recorder(guided.finetuned, 2 if layout.order == "apart" else 1)
    wanted = inspect.signature(pipe.__call__).parameters
    one = {k: v for k, v in dict(height=side, width=side, num_frames=1).items() if k in wanted}
    replace_network(pipe, name, recorder)
    try:
        pipe(**one | call | {layout.scale: 4.0}, num_inference_steps=1, output_type="latent")
    except _Seen:
        pass
    finally:
        replace_network(pipe, name, guided)
        pipe.maybe_free_model_hooks()
    rows, *shape = latents_of(*recorder.seen[0]).shape
    if rows != (n if layout.order == "apart" else 2 * n):
        raise ValueError(
            f"a {type(pipe).__name__} calls its network on {rows} rows for {n} pictures; expected one image"
            " per prompt, labelled and null"
        )
    if tuple(shape) != tuple(z.shape[1:]):
        came, expected = tuple(shape), tuple(z.shape[1:])
        raise ValueError(
            f"a {type(pipe).__name__}'s network takes latents {came}; expected {expected}, its autoencoder's"
        )
    given = [{k: v for k, v in kwargs.items() if k not in OWN} for _, kwargs in recorder.seen]
    if len(given) < recorder.calls:
        raise ValueError(
            f"a {type(pipe).__name__} calls its network once; expected a negative prompt as well"
        )
    if layout.order != "apart":
        halves = [slice(n), slice(n, None)]
        given = [rows_in(given[0], rows, n) for rows in guided.ordered(*halves)]
    labelled, null = given
    return labelled, null, guided.guides_prompt(null, recorder.call)
