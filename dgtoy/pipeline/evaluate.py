"""Score samples against reference images: FID, FD_DINOv2, precision, recall, density, coverage.

Every score is stored with a manifest of all that moves the number: samples, reference, counts, resize,
features and the checksum of their weights. `comparable` refuses two scores whose manifests differ in anything
but the samples' making.
"""

import hashlib
import warnings

import numpy as np
import torch

from .. import metrics
from .extractors import Glyphs
from .image_sets import read_images
from .manifest import read_json

FEWEST = 6  # images: precision and recall ask for five neighbours of each


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
        if plain == n or len(kinds) == 1:
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
    samples' own manifest, if `sample` wrote it. What makes the scores mean less is warned about: see `_warn`.
    """
    told = read_json(made) if made and made.exists() else {}
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
        made=told if told.get("kind") == "samples" else {},  # another tool's means other things
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
    than features, a judge that does not know what the reference shows, CFG by a null label that was never
    trained."""
    scores, manifest = result["scores"], result["manifest"]
    made = manifest["made"]
    if made.get("method") == "cfg" and made.get("dropout") == 0:
        warnings.warn(
            "the samples are guided by CFG, and their fine-tune was trained with dropout 0, so its null label"
            " never was: they say little of CFG; expected a fine-tune with --dropout above 0, as 0.1",
            stacklevel=3,
        )
    if manifest["images"] == manifest["reference"]:
        warnings.warn(
            "samples and reference are the same pictures, so these scores say nothing; expected two sets",
            stacklevel=3,
        )
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
