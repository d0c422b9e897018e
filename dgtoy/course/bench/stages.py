"""Time of every stage of the pipeline at DiT-XL/2 on a CUDA device, on random weights in the real format, scaled to 10,000 images.

Each stage is the pipeline's own code, timed on a part of the work; what must be true is that only the network's calls cost.
"""

import pathlib
import tempfile
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import Dinov2Config, Dinov2Model

from ...dit import VP
from ...dit.fast import fast
from ...pipeline import finetune as tuning
from ...pipeline import sample as sampling
from ...pipeline.evaluate import DINOv2, Inception, features
from ...pipeline.latents import VAE
from .dit import XL, network
from .images import now, seconds

COUNT = 10_000
SD_VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)


def benchmarks(device="cuda", config=None, steps=200, sampled=128, count=1024):
    """Rows: `ours` is seconds for 10,000 images (for fine-tuning: for the paper's 24,000 steps), `plain` those of sampling with DoG in 50 steps."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        net = VP(network(config or XL, device))
        guide = net.clone()
        trained, losses, writing = _finetune(net, folder, steps, device)
        draw, whole = _sample(net, guide, folder, sampled, device)
        yield _row(
            "fine-tuning, 24,000 steps of 32",
            24_000 * trained,
            draw,
            f"{32 / trained:.0f} images/s over {steps} steps; the loss went from {losses[0]:.3f} to {losses[1]:.3f} "
            f"on random latents; writing the checkpoints took {writing:.0f} s",
        )
        yield _row(
            "sampling, DoG, 50 ancestral steps",
            draw,
            draw,
            f"the two networks alone, timed on {sampled} images, batches of 64",
        )
        yield _row(
            "sampling as `dit sample` does it",
            whole,
            draw,
            "VAE and PNGs included; images of a random VAE are noise, which compresses worst",
        )
        del net, guide
        yield from _readers(folder, draw, count, device)


def _row(what, ours, plain, note):
    return dict(
        what=f"10,000 images: {what}" if "24,000" not in what else what,
        ours=ours,
        plain=plain,
        unit="s",
        ratio=plain / ours,
        note=note,
    )


def _finetune(net, folder, steps, device):
    """Seconds a step, mean loss at the start and at the end, seconds for the checkpoints."""
    g = torch.Generator().manual_seed(0)
    classes = net.null
    data = tuning.LatentTensors(
        torch.randn(2000, *net.shape, generator=g), torch.randint(classes, (2000,), generator=g), classes
    )
    for block in net.net.blocks if net.device.type == "cuda" else ():
        block.compile()
    losses, marks, warm = [], [], steps // 4
    net.net.requires_grad_(True)
    for step in tuning.finetune(net, data, tuning.Config(steps=steps), folder / "run", every=10 * steps):
        losses.append(step.loss)
        if step.step in (warm, steps - 1):
            marks.append(now(device))
    ended = now(device)
    net.net.requires_grad_(False)
    return (
        (marks[1] - marks[0]) / (steps - 1 - warm),
        (torch.stack(losses[:10]).mean().item(), torch.stack(losses[-10:]).mean().item()),
        ended - marks[1],
    )


def _sample(net, guide, folder, count, device):
    """Seconds for 10,000 images: the networks' part, and the whole."""
    AutoencoderKL(**SD_VAE).save_pretrained(folder / "vae")
    vae, config = VAE(str(folder / "vae"), device), sampling.Config(count=count)
    fast(net, guide)
    vae.decode(
        sampling.draw_latents(net, guide, sampling.Config(steps=2), range(64), net.null)
    )  # compiles, and finds its kernels
    start = now(device)
    for first in range(0, count, 64):
        sampling.draw_latents(net, guide, config, range(first, first + 64), net.null)
    drawn = now(device)
    for _ in sampling.sample(net, guide, vae, config, folder / "samples", {}):
        pass
    return COUNT * (drawn - start) / count, COUNT * (now(device) - drawn) / count


def _readers(folder, draw, count, device):
    """The VAE and the two feature networks, each from a file of random weights in its own format."""
    vae, z = VAE(str(folder / "vae"), device), torch.randn(64, 4, 32, 32, device=device)
    with torch.no_grad():
        yield _row(
            "VAE decoding",
            COUNT * seconds(lambda: vae.decode(z), 5, device) / 64,
            draw,
            "float32 with TF32 convolutions",
        )
    images = np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)
    for name, make in (("FD_DINOv2", _dinov2), ("FID", _inception)):
        try:
            extract = make(folder, device)
        except ImportError:  # FID's network needs torchvision
            continue
        features(extract, images[:64])
        start = now(device)
        features(extract, images)
        yield _row(
            f"{name}'s features", COUNT * (now(device) - start) / count, draw, f"timed on {count} images"
        )


def _dinov2(folder, device):
    net = Dinov2Model(
        Dinov2Config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=518
        )
    )
    net.save_pretrained(folder / "dinov2")
    return DINOv2(str(folder / "dinov2"), device)


def _inception(folder, device):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    with (
        mock.patch("torch.load", lambda *a, **k: {}),
        mock.patch("torch.nn.Module.load_state_dict", lambda *a, **k: None),
    ):
        net = Network(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path="none"
        )  # random weights
    torch.save(net.state_dict(), folder / "inception.pth")
    return Inception(folder / "inception.pth", device)
