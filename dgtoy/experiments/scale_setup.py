"""What the study at scale is made of: glyphs of 64 pixels as latents, the pre-trained DiTs, one judge for all methods."""

import dataclasses
import math

import torch
from tqdm import tqdm

from .. import glyphs, vp
from ..checkpoint import read_safetensors, write_safetensors
from ..dit import VP, DiT, load_weights
from ..latents import Unshuffle
from ..pipeline import sample as sampling
from ..samplers import dpmpp_2m, last
from . import pictures

TARGETS = {                                                # name: which target, see glyphs.target
    "course": dict(), "other fonts": dict(layout=1), "ten digits": dict(classes=10), "outside": dict(gap=1.5),
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
        self.x0, self.label, self.classes, self.shape = x0.cpu(), label.cpu(), list(range(classes)), tuple(x0.shape[1:])

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
        return codes(self.world.sample(n, generator=torch.Generator().manual_seed(seed), device=self.device)[0])

    def latents(self, tuned, guide, seed, batch=496, **changes):
        """Samples of a method; `changes` are fields of the pipeline's sampling configuration."""
        config = sampling.Config(sampler=self.config.sampler, steps=self.config.steps, count=self.setting.samples, seed=seed)
        config = dataclasses.replace(config, **changes)
        parts = [range(i, min(i + batch, config.count)) for i in range(0, config.count, batch)]
        return torch.cat([sampling.latents(tuned, guide, config, p, self.world.num_classes) for p in parts])

    def through(self, D, tuned, seed):
        """Samples of a denoiser, from the noise that every method starts from."""
        config = sampling.Config(seed=seed)
        x_T = sampling.noise(config, range(self.setting.samples), tuned.shape)[0].to(tuned.device)
        sigmas = sampling.levels(self.config.steps)
        return last(dpmpp_2m(D, sampling.scaled(x_T, sigmas), sigmas))

    def _read(self, x):
        small = [torch.nn.functional.interpolate(Unshuffle().decode(part), (32, 32), mode="bicubic", antialias=True) for part in x.clamp(-1, 1).split(2048)]
        return self.net.read(torch.cat(small))


@dataclasses.dataclass(frozen=True)
class Setting:
    """What `pictures.Judge` reads of a setting."""

    target: glyphs.World
    samples: int
    truth: int

    def world(self):
        return self.target


def pretrained(config, network, seed=0, device="cpu", progress=False):
    """A DiT trained on the source by DiT's loss, averaged; made once, kept in the cache.  -> VP"""
    path = pictures.cache_folder() / f"{pictures.named('scale', (network, seed, config.images, config.batch, config.lr), ('glyphs', 'dit/network', 'vp', 'experiments/scale_setup'))}.safetensors"
    source = glyphs.World(size=64)
    net = VP(DiT(**dict(input_size=32, in_channels=4) | network, num_classes=source.num_classes, seed=seed)).to(device)
    if not path.exists():
        ema = _pretrain(net, source, config, seed, progress)
        write_safetensors(path, {k: v for k, v in ema.net.state_dict().items()}, {})
    load_weights(net.net, read_safetensors(path)[0], path)
    return ready(net)


def ready(net):
    """Compiled blocks on a GPU."""
    if net.device.type == "cuda":
        for block in net.net.blocks:
            block.compile()
    return net


def _pretrain(net, source, config, seed, progress):
    ema, process = net.clone(), vp.Process()
    ready(net)
    params, averages = (list(n.net.parameters()) for n in (net, ema))
    optimizer = torch.optim.AdamW(params, lr=config.lr, weight_decay=0, fused=True)
    g = torch.Generator(net.device).manual_seed(seed)
    steps = config.images // config.batch
    warm = max(1, min(1000, steps // 20))
    for step in tqdm(range(steps), "pre-train", disable=not progress, mininterval=10):
        x0, label = source.sample(config.batch, torch.randint(62, (config.batch,), generator=g, device=net.device), g, net.device)
        x0 = codes(x0)
        t = torch.randint(vp.TIMES, (config.batch,), generator=g, device=net.device)
        eps = torch.randn(x0.shape, generator=g, device=net.device)
        label = torch.where(torch.rand(config.batch, generator=g, device=net.device) < 0.1, net.null, label)
        x = process.noised(x0, t, eps)
        with torch.autocast(net.device.type, torch.bfloat16, enabled=net.device.type == "cuda"):
            out = net.net(x, t, label)
        loss = vp.training_loss(out.float(), x0, x, t, eps, process)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:               # warm-up, then a cosine to a tenth
            group["lr"] = config.lr * min(1, (step + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_([a.detach() for a in averages], [p.detach() for p in params], 1 - min(0.9995, (1 + step) / (10 + step)))
        if step % 500 == 0 and not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss of pre-training is not finite at step {step + 1}")
    return ema
