"""Every stage of the pipeline at DiT-XL/2 on a CUDA device, on random weights in the real format, for 10,000
images.

Each stage is the pipeline's own code, timed on a part of the work; what must be true is that only the
network's calls cost.
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
from ...pipeline import sample as sampling
from ...pipeline.evaluate import features
from ...pipeline.extractors import DINOv2, Inception
from ...pipeline.latents import VAE
from . import now, row, seconds
from .dit import XL, finetune_step, network

COUNT = 10_000
SD_VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)
DINO = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=518)


def benchmarks(device="cuda", sampled=128, count=1024):
    """Rows: `ours` is seconds for 10,000 images (24,000 steps of fine-tuning), `plain` those of sampling."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        net = VP(network(XL, device))
        guide = net.clone()
        step = seconds(dict(step=finetune_step(net.net, 32, device)), device)["step"]
        draw, whole = _sample(net, guide, folder, sampled, device)
        note = f"{32 / step:.0f} images/s, on random latents"
        yield _row("fine-tuning, 24,000 steps of 32", 24_000 * step, draw, note)
        note = f"the two networks alone, timed on {sampled} images, batches of 64"
        yield _row("10,000 images: sampling, DoG, 50 ancestral steps", draw, draw, note)
        note = "VAE and PNGs included; images of a random VAE are noise, which compresses worst"
        yield _row("10,000 images: sampling as `dit sample` does it", whole, draw, note)
        del net, guide
        for name, took, note in _readers(folder, count, device):
            yield _row(f"10,000 images: {name}", COUNT * took, draw, note)


def _row(what, ours, plain, note):
    return row(what, ours, plain, "s", note, plain / ours)


def _sample(net, guide, folder, count, device):
    """Seconds for 10,000 images: the networks' part, and the whole."""
    AutoencoderKL(**SD_VAE).save_pretrained(folder / "vae")
    vae, config = VAE(str(folder / "vae"), device), sampling.Config(count=count)
    fast(net, guide)
    warm = sampling.draw_latents(net, guide, sampling.Config(steps=2), range(64), net.null)
    vae.decode(warm)  # finds its kernels
    start = now(device)
    for first in range(0, count, 64):
        sampling.draw_latents(net, guide, config, range(first, first + 64), net.null)
    drawn = now(device)
    for _ in sampling.sample(net, guide, vae, config, folder / "samples", {}):
        pass
    return COUNT * (drawn - start) / count, COUNT * (now(device) - drawn) / count


def _readers(folder, count, device):
    """VAE and feature networks, each from a file of random weights: name, seconds per image, note."""
    vae, z = VAE(str(folder / "vae"), device), torch.randn(64, 4, 32, 32, device=device)
    with torch.no_grad():
        took = seconds(dict(vae=lambda: vae.decode(z)), device)["vae"]
    yield "VAE decoding", took / 64, "float32 with TF32 convolutions"
    images = np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)
    for name, make in (("FD_DINOv2", _dinov2), ("FID", _inception)):
        try:
            extract = make(folder, device)
        except ImportError:  # FID's network needs torchvision
            continue
        features(extract, images[:64])
        start = now(device)
        features(extract, images)
        yield f"{name}'s features", (now(device) - start) / count, f"timed on {count} images"


def _dinov2(folder, device):
    Dinov2Model(Dinov2Config(**DINO)).save_pretrained(folder / "dinov2")
    return DINOv2(str(folder / "dinov2"), device)


def _inception(folder, device):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with (
        mock.patch("torch.load", lambda *a, **k: {}),
        mock.patch("torch.nn.Module.load_state_dict", lambda *a, **k: None),
    ):  # random weights
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path="none"
        )
    torch.save(net.state_dict(), folder / "inception.pth")
    return Inception(folder / "inception.pth", device)
