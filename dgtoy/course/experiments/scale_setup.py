"""What the study at scale is made of: glyphs of 64 pixels as latents, the pre-trained
DiTs, one judge for all methods."""

import torch
from torch.nn.functional import interpolate
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

SOURCE = glyphs.World(size=64)
TARGETS = {  # name: which target, see glyphs.target
    "course": dict(),
    "other fonts": dict(layout=1),
    "ten digits": dict(classes=10),
    "outside": dict(gap=1.5),
}


def world(target):
    """A target at 64 pixels."""
    return glyphs.target(**dict(classes=62, size=64) | TARGETS[target])


def codes(images):
    """Images (n, 3, 64, 64) as latents (n, 4, 32, 32): grey, the squares of four pixels as channels."""
    return Unshuffle().encode(images)[0]


class LatentSetting(PictureSetting):
    """A target of TARGETS, as `LatentJudge` asks for it."""

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

    def latents(self, tuned, guide, seed, **changes):
        """Samples of a method; `changes` are fields of the pipeline's sampling configuration."""
        usual = dict(sampler=self.config.sampler, steps=self.config.steps, count=self.config.samples)
        config = sampling.Config(seed=seed, **usual | changes)
        return sampling.draw_latents(tuned, guide, config, range(config.count), self.world.num_classes)

    def start(self, seed):
        """The noise that every method starts from, standard normal.  -> (samples, 4, 32, 32)"""
        images = range(self.config.samples)
        return sampling.noise(sampling.Config(seed=seed), images, (4, 32, 32))[0].to(self.device)

    def flow(self, D, noise, sampler, steps=None):
        """Where a denoiser takes noise over the pipeline's levels."""
        sigmas = sampling.levels(steps or self.config.steps)
        return last(sampler(D, sampling.scaled(noise, sigmas), sigmas))

    def read(self, x):
        """What the feature network sees in the images of latents.  -> Reading"""
        images = Unshuffle().decode(x).clamp(-1, 1)
        return super().read(interpolate(images, (32, 32), mode="bicubic", antialias=True))


def pretrained(config, network, seed=0, device="cpu"):
    """A DiT trained on the source, averaged; made once, kept in the cache; by all processes of a
    torch.distributed group together.
    -> VP"""
    net = VP(DiT(**network, num_classes=SOURCE.num_classes, velocity=True, seed=seed)).to(device)
    inputs = (network, seed, config.images, config.batch, config.lr, str(device))
    path = cache.path("scale", inputs, (pretrained,))
    if not path.exists():
        ema = pretrain(net, SOURCE, config, seed)
        if distributed.rank() == 0:
            with cache.writing():
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


def pretrain(net, source, config, seed=0, progress=False, checkpoint=None, every=1000):
    """Train a `VP` on a world, fresh images in every batch: mean squared error of the velocity
    plus the variance's bound.
    -> the average

    config: images, batch and lr. Processes of a group share each batch. checkpoint: a folder that the state
    goes into every so many steps, in small parts, and from which a run goes on, on any number of processes.
    Raises FloatingPointError at a loss that is not finite.
    """
    steps, n, device = config.images // config.batch, config.batch, net.device
    recipe = TrainingConfig(
        steps=steps,
        batch=n,
        lr=config.lr,
        ema=0.9995,
        betas=(0.9, 0.95),
        schedule="cosine",
        warmup=max(1, min(1000, steps // 20)),
    )
    process = vp.Process().to(device)

    def batch_fn(step):
        """x0, label, time, noise: drawn for the whole batch, rendered for this process's share."""
        random = dict(generator=generator(seed, step, device), device=device)
        u, drop = torch.rand(2, n, **random)
        z = torch.randn(n, 3 + len(glyphs.KNOBS), **random)
        time = torch.randint(vp.TIMES, (n,), **random)
        eps = torch.randn(n, *net.shape, **random)
        mine = distributed.local(n)
        x0, label = source.draw(u[mine], z[mine])
        return codes(x0), torch.where(drop[mine] < recipe.dropout, net.null, label), time[mine], eps[mine]

    def loss(net, x0, label, time, eps):
        """The noise's squared error over abar is the velocity's, which weighs all noise levels alike."""
        x = process.noised(x0, time, eps)
        _, mse, vb = vp.training_loss(predicted(net, x, time, label), x0, x, time, eps, process)
        return (mse / process.alphas_cumprod[time].float() + vb).mean()

    ema = net.clone()
    trainer = Trainer(ready(net), loss, recipe, ema)
    run = trainer.run(batch_fn)
    if checkpoint:
        trainer.resume(checkpoint)
        run = trainer.saved(batch_fn, checkpoint, every)
    for _ in tqdm(run, "pre-train", steps, disable=not progress or distributed.rank() > 0, mininterval=10):
        pass
    return ema
