"""What the study at scale is made of: glyphs of 64 pixels as latents, the pre-trained DiTs, one judge for all methods."""

import dataclasses
import math

import torch
from torch import distributed
from tqdm import tqdm

from ... import vp
from ...checkpoint import read_safetensors, write_safetensors
from ...dit import VP, DiT, load_weights
from ...pipeline import sample as sampling
from ...pipeline.latents import Unshuffle
from ...samplers import dpmpp_2m, last
from ..worlds import glyphs
from . import pictures

TARGETS = {  # name: which target, see glyphs.target
    "course": dict(),
    "other fonts": dict(layout=1),
    "ten digits": dict(classes=10),
    "outside": dict(gap=1.5),
}


def world(target):
    """A target at 64 pixels."""
    return glyphs.target(**dict(classes=62) | TARGETS[target], size=64)


def codes(images):
    """Images (n, 3, 64, 64) as latents (n, 4, 32, 32): grey, the squares of four pixels as channels."""
    return Unshuffle().encode(images)[0]


class Held:
    """A finite set of latents as `finetune` asks for one; a mirrored glyph is none, so none is mirrored."""

    def __init__(self, x0, label, classes):
        self.x0, self.label, self.classes, self.shape = (
            x0.cpu(),
            label.cpu(),
            list(range(classes)),
            tuple(x0.shape[1:]),
        )

    def __len__(self):
        return len(self.x0)

    def draw(self, rows, flip, z):
        """x0 and label of these rows."""
        return self.x0[rows], self.label[rows]


class Judge(pictures.Judge):
    """The course's judge on decoded latents, at 32 pixels. The samples of a seed are the pipeline's: image i from its own noise."""

    def __init__(self, config, target, device):
        self.config = config
        super().__init__(Setting(target=world(target), samples=config.samples, truth=config.truth), device)

    def draw(self, n, seed):
        """Latents of fresh true images.  -> (n, 4, 32, 32)"""
        return codes(
            self.world.sample(n, generator=torch.Generator().manual_seed(seed), device=self.device)[0]
        )

    def latents(self, tuned, guide, seed, batch=496, **changes):
        """Samples of a method; `changes` are fields of the pipeline's sampling configuration."""
        config = sampling.Config(
            sampler=self.config.sampler, steps=self.config.steps, count=self.setting.samples, seed=seed
        )
        config = dataclasses.replace(config, **changes)
        parts = [range(i, min(i + batch, config.count)) for i in range(0, config.count, batch)]
        return torch.cat([sampling.draw_latents(tuned, guide, config, p, self.world.num_classes) for p in parts])

    def through(self, D, tuned, seed):
        """Samples of a denoiser, from the noise that every method starts from."""
        config = sampling.Config(seed=seed)
        x_T = sampling.noise(config, range(self.setting.samples), tuned.shape)[0].to(tuned.device)
        sigmas = sampling.levels(self.config.steps)
        return last(dpmpp_2m(D, sampling.scaled(x_T, sigmas), sigmas))

    def _read(self, x):
        small = [
            torch.nn.functional.interpolate(
                Unshuffle().decode(part).clamp(-1, 1), (32, 32), mode="bicubic", antialias=True
            )
            for part in x.split(2048)
        ]
        return self.net.read(torch.cat(small))


@dataclasses.dataclass(frozen=True)
class Setting:
    """What `pictures.Judge` reads of a setting."""

    target: glyphs.World
    samples: int
    truth: int

    def world(self):
        return self.target


def pretrained(config, network, seed=0, device="cpu", progress=False, images=None):
    """A DiT trained on the source, averaged; made once, kept in the cache; by all processes of a torch.distributed group together.  -> VP"""
    images = images or config.images
    sources = (
        "course/worlds/glyphs",
        "dit/network",
        "vp",
        "pipeline/latents",
        "course/experiments/scale_setup",
    )
    path = (
        pictures.cache_folder()
        / f"{pictures.named('scale', (network, seed, images, config.batch, config.lr), sources)}.safetensors"
    )
    source = glyphs.World(size=64)
    net = VP(
        DiT(
            **dict(input_size=32, in_channels=4, velocity=True) | network,
            num_classes=source.num_classes,
            seed=seed,
        )
    ).to(device)
    if not path.exists():
        ema = pretrain(net, source, config, images, seed, progress)
        if rank_of()[0] == 0:
            write_safetensors(path, dict(ema.net.state_dict()), {})
        if distributed.is_initialized():
            distributed.barrier()
    load_weights(net.net, read_safetensors(path)[0], path)
    return ready(net)


def ready(net):
    """Compiled blocks on a GPU."""
    if net.device.type == "cuda":
        for block in net.net.blocks:
            block.compile()
    return net


def rank_of():
    """This process among those of a torch.distributed group.  -> rank, processes"""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def pretrain(net, source, config, images, seed=0, progress=False):
    """Train a `VP` on a world, fresh images in every batch: mean squared error of the velocity plus the variance's bound.  -> the average

    A learning rate that warms up and falls to 0 in a cosine. Processes of a group share each batch. Raises FloatingPointError at a loss that is not finite.
    """
    ema, rank, share = net.clone(), *rank_of()
    ready(net)
    model = (
        net.net
        if share == 1
        else torch.nn.parallel.DistributedDataParallel(net.net, gradient_as_bucket_view=True)
    )
    params, averages = (list(n.net.parameters()) for n in (net, ema))
    optimizer = torch.optim.AdamW(params, lr=config.lr, betas=(0.9, 0.95), weight_decay=0, fused=True)
    g = torch.Generator(net.device).manual_seed(1_000 * seed + rank)
    steps, warm = images // config.batch, max(1, min(1000, images // config.batch // 20))
    for step in tqdm(range(steps), "pre-train", disable=not progress or rank > 0, mininterval=10):
        loss = _loss(model, net, source, config.batch // share, g)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                [a.detach() for a in averages],
                [p.detach() for p in params],
                1 - min(0.9995, (1 + step) / (10 + step)),
            )
        if step % 500 == 0 and not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss of pre-training is not finite at step {step + 1}")
    return ema


def _loss(model, net, source, n, g, process=vp.Process()):
    """Of one batch of n: the noise's squared error over abar is the velocity's, which weighs all noise levels alike."""
    x0, label = source.sample(
        n, torch.randint(source.num_classes, (n,), generator=g, device=net.device), g, net.device
    )
    x0 = codes(x0)
    t = torch.randint(vp.TIMES, (n,), generator=g, device=net.device)
    eps = torch.randn(x0.shape, generator=g, device=net.device)
    label = torch.where(torch.rand(n, generator=g, device=net.device) < 0.1, net.null, label)
    x = process.noised(x0, t, eps)
    with torch.autocast(net.device.type, torch.bfloat16, enabled=net.device.type == "cuda"):
        out = model(x, t, label)
    _, mse, vb = vp.training_loss(out.float(), x0, x, t, eps, process)
    return (mse / process.abar.to(mse)[t] + vb).mean()
