"""What the study at scale is made of: glyphs of 64 pixels as latents, the pre-trained
DiTs, one judge for all methods."""

import dataclasses
import functools

import torch
from tqdm import tqdm

from ... import distributed, vp
from ...checkpoint import read_safetensors, write_safetensors
from ...dit import VP, DiT, load_weights
from ...pipeline import sample as sampling
from ...pipeline.finetune import predicted
from ...pipeline.latents import Unshuffle
from ...samplers import last
from ...train import Trainer, TrainingConfig, generator
from .. import cache
from ..pictures import PictureJudge, PictureSetting
from ..worlds import glyphs

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSetting(PictureSetting):
    """A target of TARGETS, as `LatentJudge` asks for it."""

    domain: str = "course"

    def world(self):
        return world(self.domain)


class LatentJudge(PictureJudge):
    """The judge of pictures on decoded latents, at 32 pixels. The samples of a seed are the pipeline's:
    image i from its own noise."""

    def __init__(self, config, target, device):
        self.config = config
        sizes = dict(samples=config.samples, truth=config.truth, steps=config.steps)
        super().__init__(LatentSetting(domain=target, **sizes), device)

    def draw(self, n, seed):
        """Latents of fresh true images.  -> (n, 4, 32, 32)"""
        return codes(super().draw(n, seed))

    def latents(self, tuned, guide, seed, batch=496, **changes):
        """Samples of a method; `changes` are fields of the pipeline's sampling configuration."""
        config = sampling.Config(
            sampler=self.config.sampler, steps=self.config.steps, count=self.setting.samples, seed=seed
        )
        config = dataclasses.replace(config, **changes)
        parts = [range(i, min(i + batch, config.count)) for i in range(0, config.count, batch)]
        return torch.cat(
            [sampling.draw_latents(tuned, guide, config, p, self.world.num_classes) for p in parts]
        )

    def start(self, seed):
        """The noise that every method starts from, standard normal.  -> (samples, 4, 32, 32)"""
        config = sampling.Config(seed=seed)
        return sampling.noise(config, range(self.setting.samples), (4, 32, 32))[0].to(self.device)

    def flow(self, D, noise, sampler, steps=None):
        """Where a denoiser takes noise over the pipeline's levels."""
        sigmas = sampling.levels(steps or self.setting.steps)
        return last(sampler(D, sampling.scaled(noise, sigmas), sigmas))

    def read(self, x):
        """What the feature network sees in the images of latents.  -> Reading"""
        small = [
            torch.nn.functional.interpolate(
                Unshuffle().decode(part).clamp(-1, 1), (32, 32), mode="bicubic", antialias=True
            )
            for part in x.split(2048)
        ]
        return self.net.read(torch.cat(small))


def pretrained(config, network, seed=0, device="cpu", progress=False, images=None):
    """A DiT trained on the source, averaged; made once, kept in the cache; by all processes of a
    torch.distributed group together.
    -> VP"""
    images = images or config.images
    inputs = (network, seed, images, config.batch, config.lr, str(device))
    path = cache.path("scale", inputs, (pretrained,))
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
        if distributed.rank() == 0:
            write_safetensors(path, dict(ema.net.state_dict()), {})
        distributed.barrier()
    load_weights(net.net, read_safetensors(path)[0], path)
    return ready(net)


def ready(net):
    """Compiled blocks on a GPU."""
    if net.device.type == "cuda":
        for block in net.net.blocks:
            block.compile()
    return net


def pretrain(net, source, config, images, seed=0, progress=False, checkpoint=None, every=1000, compact=False):
    """Train a `VP` on a world, fresh images in every batch: mean squared error of the velocity
    plus the variance's bound.
    -> the average

    config: batch and lr. Processes of a group share each batch. checkpoint: a folder that the state goes into
    every so many steps, in small parts, and from which a run goes on, on any number of processes; compact:
    see `Trainer.save`. Raises FloatingPointError at a loss that is not finite.
    """
    steps = images // config.batch
    recipe = TrainingConfig(
        steps=steps,
        batch=config.batch,
        lr=config.lr,
        ema=0.9995,
        betas=(0.9, 0.95),
        schedule="cosine",
        warmup=max(1, min(1000, steps // 20)),
    )
    ema = net.clone()
    ready(net)
    trainer = Trainer(net, _Velocity(net), recipe, ema)
    batch_fn = functools.partial(_batch, net, source, recipe, seed)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    run = trainer.saved(batch_fn, checkpoint, every, compact=compact) if checkpoint else trainer.run(batch_fn)
    for _ in tqdm(run, "pre-train", steps, disable=not progress or distributed.rank() > 0, mininterval=10):
        pass
    return ema


def _batch(net, source, recipe, seed, step):
    """What a step sees: x0, label, time, noise, drawn on the device for the whole batch and
    rendered for this process's share."""
    g, n, device = generator(seed, step, net.device), recipe.batch, net.device
    u, drop = torch.rand(2, n, generator=g, device=device)
    z = torch.randn(n, 3 + len(glyphs.KNOBS), generator=g, device=device)
    time = torch.randint(vp.TIMES, (n,), generator=g, device=device)
    eps = torch.randn(n, *net.shape, generator=g, device=device)
    mine = distributed.local(n)
    x0, label = source.draw(u[mine], z[mine])
    return codes(x0), torch.where(drop[mine] < recipe.dropout, net.null, label), time[mine], eps[mine]


class _Velocity:
    """The loss of a batch: the noise's squared error over abar is the velocity's, which
    weighs all noise levels alike."""

    def __init__(self, net):
        self.process = vp.Process().to(net.device)
        self.abar = self.process.alphas_cumprod.float()

    def __call__(self, net, x0, label, time, eps):
        x = self.process.noised(x0, time, eps)
        out = predicted(net, x, time, label)
        _, mse, vb = vp.training_loss(out, x0, x, time, eps, self.process)
        return (mse / self.abar[time] + vb).mean()
