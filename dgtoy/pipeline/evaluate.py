"""Score samples against reference images: FID, FD_DINOv2, precision, recall, density, coverage, with all that moves the number.

Every score is stored with a manifest: samples, reference, counts, resize, features and the checksum of their weights.
`comparable` refuses two scores whose manifests differ in anything but the samples' making.
"""

import hashlib
import json
import pathlib

import numpy as np
import torch
from PIL import Image

from .. import metrics
from ..checkpoint import write_text
from .latents import ENDINGS, centre_crop

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
    "glyphs": ("this course's feature network", "dgtoy/shipped", "MIT"),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, per channel


def images_of(source, n=None, size=None):
    """Images of an .npz (arr_0) or of a folder, in order of name, a generator of (H, W, 3) uint8 arrays; the first n.

    size: cut the central square at so many pixels, as the training images were; one of that size passes as it is.

    Raises ValueError if there are fewer than n, or none.
    """
    source = pathlib.Path(source)
    if source.suffix == ".npz":
        arrays = np.load(source, allow_pickle=False)["arr_0"]
        count, get = len(arrays), lambda i: arrays[i]
    elif source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in ENDINGS)
        count, get = len(paths), lambda i: _read(paths[i])
    else:
        raise FileNotFoundError(f"images {source} is neither a folder nor an .npz file")
    if count < (n or 1):
        raise ValueError(f"images {source} holds {count}; expected {n or 'at least 1'}")
    cut = (
        (lambda a: a)
        if size is None
        else lambda a: centre_crop(Image.fromarray(a), size).permute(1, 2, 0).numpy()
    )
    return (cut(get(i)) for i in range(n or count))


def _read(path):
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except Exception as e:
        raise ValueError(f"image {path} cannot be read ({type(e).__name__}: {str(e)[:80]})") from None


class Inception:
    """The 2048 pooled features that FID is defined by. weights: torch-fidelity's file, or None for the usual cache.

    Raises ImportError naming the extra without torch-fidelity.
    """

    resize = "299 pixels, bilinear as TensorFlow 1"

    def __init__(self, weights=None, device="cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ImportError(
                "FID needs torch-fidelity and torchvision; install the extra: pip install -e '.[eval]'"
            ) from None
        weights = (
            weights
            or pathlib.Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
        )
        if not pathlib.Path(weights).exists():
            raise FileNotFoundError(_missing("inception", weights))
        self.net = (
            FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
            )
            .to(device)
            .eval()
        )
        self.checksum, self.device = _checksum(weights), device

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, 2048)"""
        return self.net(images.to(self.device))[0]


class DINOv2:
    """The class token of DINOv2 after its last norm: FD_DINOv2 of Stein et al. 2023 with ViT-L/14.

    weights: a transformers folder, or None for facebook/dinov2-large in the usual cache. Images are resized to 224 pixels,
    bicubic with antialiasing, and normalised by ImageNet's mean and std.
    """

    resize = "224 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        try:
            from transformers import Dinov2Model
        except ImportError:
            raise ImportError(
                "FD_DINOv2 needs transformers; install the extra: pip install -e '.[eval]'"
            ) from None
        try:
            self.net = (
                Dinov2Model.from_pretrained(
                    weights or "facebook/dinov2-large", local_files_only=True, use_safetensors=True
                )
                .to(device)
                .eval()
            )
        except Exception as e:
            raise FileNotFoundError(f"{_missing('dinov2', weights)} ({type(e).__name__})") from None
        digest = hashlib.sha256()
        for name, value in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.checksum, self.device = digest.hexdigest()[:16], device

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, hidden)"""
        return self.net(prepared(images.to(self.device))).pooler_output


class Glyphs:
    """The features of the course's own judge, for pictures of glyphs."""

    resize = "32 pixels, bicubic, antialiased"

    def __init__(self, weights=None, device="cpu"):
        from .. import shipped as shipped

        self.net, self.device = shipped.load("features", device), device
        self.checksum = _checksum(shipped.FOLDER / "features.safetensors")

    def __call__(self, images):
        """images (B, 3, H, W) uint8 -> (B, D)"""
        return self.net.read(2 * _resized(images.to(self.device).float() / 255, 32) - 1).features


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
    """One of EXTRACTORS by name. Raises ValueError for another name, FileNotFoundError that says where its weights are published."""
    if name not in EXTRACTORS:
        raise ValueError(f"features is {name}; expected {', '.join(EXTRACTORS)}")
    return dict(inception=Inception, dinov2=DINOv2, glyphs=Glyphs)[name](weights, device)


def _missing(name, weights):
    what, where, licence = EXTRACTORS[name]
    return f"weights of {name} ({what}) are not at {weights or 'the usual cache'}; published as {where} (licence: {licence}); expected there or as --weights PATH"


def _checksum(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


@torch.no_grad()
def features(net, images, batch=64):
    """Features of images, and a fingerprint of the images.  -> (n, D) float32 on the CPU, str"""
    found, digest, held = [], hashlib.sha256(), []

    def flush():
        if held:
            found.append(net(torch.from_numpy(np.stack(held)).permute(0, 3, 1, 2)).float().cpu())
            held.clear()

    for array in images:
        if held and array.shape != held[0].shape:
            flush()  # reference images may come in several sizes
        digest.update(array.tobytes())
        held.append(array)
        if len(held) == batch:
            flush()
    flush()
    return torch.cat(found), digest.hexdigest()[:16]


def evaluate(samples, reference, net, name, n=None, batch=64, made=None):
    """Fréchet distance, precision, recall, density and coverage of samples against reference images.  -> {"scores", "manifest"}

    samples, reference: folders or .npz files. n: use the first n samples; the reference is used whole, each image cut and
    resized to the samples' size as the training images were; for the four last metrics as many of them as there are samples,
    drawn at random (seed 0). made: the samples' own manifest, where there is one.
    """
    fake, which = features(net, images_of(samples, n), batch)
    size = next(images_of(samples)).shape[0]
    real, against = features(net, images_of(reference, size=size), batch)
    some = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[
        : len(fake)
    ]  # neighbours: as many true images as samples
    scores = dict(
        frechet=metrics.frechet_distance(fake, real).item(),
        **metrics.prdc(real[some].to(net.device), fake.to(net.device)),
    )
    manifest = dict(
        features=name,
        weights=net.checksum,
        crop=f"{size} pixels, centre",
        resize=net.resize,
        reference=against,
        references=len(real),
        samples=len(fake),
        images=which,
        made=json.loads(made.read_text()) if made and made.exists() else {},
    )
    return dict(scores={k: round(v, 6) for k, v in scores.items()}, manifest=manifest)


def save(result, path):
    """A result as JSON into `path`, complete or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def comparable(*results):
    """Raise a ValueError, one line, if scores may not be set side by side: other features, weights, resize, reference or counts."""
    first = results[0]["manifest"]
    for other in results[1:]:
        for what in ("features", "weights", "crop", "resize", "reference", "references", "samples"):
            came = other["manifest"][what]
            if came != first[what]:
                raise ValueError(
                    f"scores cannot be compared: {what} is {first[what]} in one and {came} in another"
                )
    return results
