"""Pictures as latents: cropped, encoded once, mean and std kept, drawn afresh in every epoch.

`prepare` writes them in shards that appear complete or not at all, so what was interrupted goes on. A codec
turns images into latents and back: `VAE`, Stable Diffusion's autoencoder through diffusers; `Unshuffle`,
which is exact for grey images and needs no weights; `Pixels`, for networks that work on pixels themselves.
"""

import collections
import math
import pathlib
import warnings

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..checkpoint import read_safetensors, write_safetensors
from ..checks import append_dims, check_whole
from ..environment import needs
from .image_sets import survey, warn_of_copies
from .manifest import agree, data_checksum, read_json, weights_checksum
from .pictures import centre_crop

SHARD = 256  # images per file
LARGEST = 4096  # pixels to a side: a slip of the finger would fill the memory
VAES = {  # name: where its weights are published, and their licence
    "sd-vae-ft-ema": ("stabilityai/sd-vae-ft-ema on the Hugging Face hub", "MIT"),
    "sd-vae-ft-mse": ("stabilityai/sd-vae-ft-mse on the Hugging Face hub", "MIT"),
}


class Pixels:
    """No codec at all: pixels in [-1, 1], colour kept; shards hold the bytes themselves."""

    name, shrink, channels = "pixels", 1, 3

    def encode(self, x):
        """x (B, 3, H, W) in [-1, 1] -> mean, std (B, 3, H, W); the std is 0"""
        return x, torch.zeros_like(x)

    def decode(self, z):
        """z (B, 3, H, W) -> the same"""
        return z


class Unshuffle:
    """An exact codec: the four pixels of each 2 x 2 square of a grey image become four channels. 64 -> 4 x 32
    x 32

    z = scale (x - centre), so that this course's glyphs, of mean 0.5 and std 0.27, have about mean 0 and std
    1, as DiT's process expects of its data.
    """

    name, shrink, channels, centre, scale = "unshuffle", 2, 4, 0.5, 3.7

    def encode(self, x):
        """x (B, 3, H, W) in [-1, 1] -> mean, std (B, 4, H/2, W/2); the std is 0"""
        mean = pixel_unshuffle(self.scale * (x.mean(1, keepdim=True) - self.centre), 2)
        return mean, torch.zeros_like(mean)

    def decode(self, z):
        """z (B, 4, h, w) -> images (B, 3, 2h, 2w), grey"""
        return pixel_shuffle(z / self.scale + self.centre, 2).expand(-1, 3, -1, -1)


class VAE:
    """Stable Diffusion's autoencoder, with which DiT was trained: 8 x 8 pixels to 4 numbers, times 0.18215.

    Another's scale and shift are those of its configuration. path: a diffusers folder, else the name of one
    in the usual cache. Raises FileNotFoundError that says where the weights are published, ImportError naming
    the extra without diffusers.
    """

    def __init__(self, path="sd-vae-ft-ema", device="cpu"):
        needs("dit", "diffusers")
        from diffusers import AutoencoderKL

        known = f"stabilityai/{path}" if path in VAES and not pathlib.Path(path).is_dir() else str(path)
        try:
            net = AutoencoderKL.from_pretrained(known, local_files_only=True, use_safetensors=True)
        except Exception as e:
            where, licence = VAES.get(str(path), ("any diffusers AutoencoderKL folder", "its own"))
            raise FileNotFoundError(
                f"vae {path} is not on this machine ({type(e).__name__}); published as {where} "
                f"(licence: {licence}); expected there or as --vae FOLDER with config.json and "
                "diffusion_pytorch_model.safetensors"
            ) from None
        self.net = net.to(device, torch.float32).eval().requires_grad_(False)
        self.name = f"vae-{weights_checksum(self.net.state_dict())[:12]}"
        self.shrink = 2 ** (len(self.net.config.block_out_channels) - 1)
        self.channels = self.net.config.latent_channels
        self.scale, self.shift = self.net.config.scaling_factor, self.net.config.shift_factor or 0.0

    def encode(self, x):
        """x (B, 3, H, W) in [-1, 1] -> mean, std (B, 4, H/8, W/8) of the posterior, shifted and scaled"""
        posterior = self.net.encode(x.to(self.net.device, self.net.dtype)).latent_dist
        return self.scale * (posterior.mean - self.shift), self.scale * posterior.std

    def decode(self, z):
        """z (B, 4, h, w) -> images (B, 3, 8h, 8w), about in [-1, 1]"""
        z = (z / self.scale + self.shift).to(self.net.device, self.net.dtype)
        return torch.cat([self.net.decode(part).sample for part in z.split(16)])  # its activations are large


EXACT = {kind.name: kind for kind in (Pixels, Unshuffle)}


def codec(name, device="cpu"):
    """`Pixels` for "pixels", `Unshuffle` for "unshuffle", otherwise the `VAE` of that name or path."""
    return EXACT[name]() if name in EXACT else VAE(name, device)


def codec_name(shape):
    """The codec that a network of this shape (C, h, w) asks for."""
    return Pixels.name if shape[0] == 3 else next(iter(VAES))


def size_and_codec(size, vae, device, net=None, name=None):
    """The side of the images and the codec: as the options `size` and `vae` say, or as the network `net`, the
    checkpoint `name`, asks; without it 256 pixels and Stable Diffusion's autoencoder.

    Raises ValueError if they do not make what the network takes.
    """
    if net is None:
        return 256 if size is None else size, codec(vae or next(iter(VAES)), device)
    coder = codec(vae or codec_name(net.shape), device)
    size = net.shape[1] * coder.shrink if size is None else size
    _check_size(size, coder)
    made = tuple(coder.encode(torch.zeros(1, 3, size, size, device=device))[0].shape[1:])
    if made != net.shape:
        raise ValueError(
            f"size is {size} and codec {coder.name}, which make {made}; {name} takes {net.shape}"
        )
    return size, coder


def _check_size(size, coder):
    """Raise ValueError for a size that the codec cannot take, or that would fill the memory."""
    check_whole("size", size, 1)
    step = 2 * coder.shrink if coder.shrink > 1 else 1  # a codec's latents are cut into patches of 2
    if size > LARGEST or size % step:
        raise ValueError(
            f"size is {size}; expected a multiple of {step} for codec {coder.name}, at most {LARGEST}"
        )


def decoder(vae, shape, device, trained_on=None, name=None):
    """The codec of a network's samples, of shape (C, h, w): as the option `vae` says, or what it was trained
    on. Raises ValueError if that, of the fine-tune `name`, was another, or it decodes other latents."""
    coder = codec(vae or (trained_on if trained_on in EXACT else codec_name(shape)), device)
    if trained_on not in (None, coder.name):
        raise ValueError(f"codec is {coder.name}; {name} was trained on latents of {trained_on}")
    if coder.channels != shape[0]:
        came = f"codec is {coder.name}, of {coder.channels} channels"
        raise ValueError(f"{came}; expected one of {shape[0]}, as {name} makes latents {shape}")
    return coder


def prepare(
    images, out, size=256, coder=None, device="cpu", batch=32, mirror=True, pretrained=None, held_out=0.0
):
    """Encode every image and its mirror into OUT, SHARD at a time; yields (images done, images in all).

    images: an `ImageFolder` or `HubImages`. mirror: False for images that mean something else in a mirror, as
    letters do. pretrained: the checkpoint that will be fine-tuned on them, noted in the plan, as is the share
    of each class that is held out of fine-tuning, for `calibrate`: see `held_out_rows`. Files hold mean
    and std (n, 2, C, h, w), or (n, 1, C, h, w) without mirrors, in float16 and label (n,); of `Pixels` mean
    alone, (n, 1, 3, h, w) uint8, as mirrors are made when drawn; and, of an `ImageFolder`, digest (n,), by
    which copies of its files are known. What is there already is kept; OUT made from other images, size or
    codec is refused with a ValueError before any work.
    """
    coder, out = coder or Unshuffle(), pathlib.Path(out)
    if hasattr(images, "folder") and out.resolve().is_relative_to(images.folder.resolve()):
        raise ValueError(f"out {out} lies in the folder of images, {images.folder}; expected another place")
    _check_size(size, coder)
    plan = dict(
        count=len(images),  # what a reader knows comes before the fingerprint, in a refusal too
        classes=images.classes,
        images=images.fingerprint,
        size=size,
        codec=coder.name,
        shard=SHARD,
        mirror=mirror,
        held_out=held_out or None,
    )
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is {held_out}; expected a share of each class, at least 0 and below 1")
    if not (out / "plan.json").exists():
        survey(images, size, grey=isinstance(coder, Unshuffle))
        if held_out:
            _warn_of_lone(images)
        if held_out and hasattr(images, "digests"):
            warn_of_copies(images)
    plan |= dict(pretrained=pretrained)
    agree(out / "plan.json", plan, "latents-*.safetensors", "prepared", free=("pretrained",))

    def work():
        for start in range(0, len(images), SHARD):
            rows = range(start, min(start + SHARD, len(images)))
            path = _shard_path(out, start // SHARD)
            if not path.exists():
                tensors = _encode(images, rows, size, coder, device, batch, mirror)
                write_safetensors(path, tensors, dict(first=start))
            yield rows.stop, len(images)

    return work()


def _warn_of_lone(images):
    """Say which classes have one image, which trains: none of theirs is held out."""
    counts = collections.Counter(images.labels)
    lone = [name for label, name in enumerate(images.classes) if counts[label] == 1]
    if lone:
        warnings.warn(
            f"{len(lone)} of {len(images.classes)} classes have one image, first {lone[0]}, and none of"
            " theirs is held out; expected two or more with --held-out",
            stacklevel=3,
        )


def held_out_rows(label, share):
    """Which images are held out: `share` of each class, one at least and one less than all at most, spread
    evenly in their order.  label (N,) -> (N,) bool
    """
    held = torch.zeros(len(label), dtype=torch.bool)
    for c in label.unique() if share else ():
        rows = (label == c).nonzero()[:, 0]
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[rows[((torch.arange(count) + 0.5) * len(rows) / max(count, 1)).long()]] = True
    return held


@torch.no_grad()
def _encode(images, rows, size, coder, device, batch, mirror):
    """The tensors of one shard."""
    found = collections.defaultdict(list)
    if hasattr(images, "digests"):
        found["digest"].append(torch.tensor([int(images.digests[i][:12], 16) for i in rows]))
    for start in range(0, len(rows), batch):
        pictures, labels = zip(*(images[i] for i in rows[start : start + batch]), strict=True)
        found["label"].append(torch.tensor(labels))
        x = torch.stack([centre_crop(picture, size) for picture in pictures])  # (b, 3, size, size)
        if coder.name == Pixels.name:
            found["mean"].append(x[:, None])
            continue
        x = x.to(device).float() / 127.5 - 1
        codes = [coder.encode(view) for view in ((x, x.flip(-1)) if mirror else (x,))]
        for key, views in zip(("mean", "std"), zip(*codes, strict=True), strict=True):
            code = torch.stack(views, 1).half().cpu()  # (b, views, C, h, w)
            bad = (~code.isfinite().flatten(1).all(1)).nonzero()
            if len(bad):
                name = images.source(rows[start + int(bad[0])])[1]
                raise FloatingPointError(
                    f"codec {coder.name} makes of image {name} numbers that are not finite"
                )
            found[key].append(code)
    return {key: torch.cat(parts) for key, parts in found.items()}


def _shard_path(folder, k):
    return folder / f"latents-{k:05d}.safetensors"


def _plan(path):
    """The plan of a folder of latents. Raises ValueError if it is none."""
    plan = read_json(path, "what `dit prepare` writes")
    kinds = dict(images=str, classes=list, count=int, shard=int, size=int, codec=str, mirror=bool)
    kinds |= dict(held_out=float) if plan.get("held_out") is not None else {}
    for name, kind in kinds.items():
        value = plan.get(name)
        if not isinstance(value, kind) or (kind is int and value < 1):
            raise ValueError(f"{path}: {name} is {value!r}; expected what `dit prepare` writes")
    return plan


class Latents:
    """What `prepare` wrote: mean, std (N, 2 or 1, C, h, w), label (N,), `classes`, `plan`; of pixels mean is
    uint8 and std None. digest (N,): of the files, None where they were not known.

    held_out: only the images that were held out; by default only the others. Raises ValueError if a shard is
    missing or damaged, or none are held out.
    """

    def __init__(self, folder, held_out=False):
        folder = pathlib.Path(folder)
        if not (folder / "plan.json").exists():
            raise FileNotFoundError(
                f"latents {folder} holds no plan.json; expected what `dit prepare` writes"
            )
        self.plan = _plan(folder / "plan.json")
        self.classes = self.plan["classes"]
        count = self.plan["count"]
        shards = [_shard_path(folder, k) for k in range(math.ceil(count / self.plan["shard"]))]
        missing = [p.name for p in shards if not p.exists()]
        if missing:
            raise ValueError(
                f"latents {folder} is not complete: {missing[0]} is missing, one of {len(missing)}; "
                "run `dit prepare` again"
            )
        parts = [read_safetensors(p)[0] for p in shards]
        for path, part in zip(shards, parts):
            if not {"mean", "label"} <= part.keys() or not all(t.isfinite().all() for t in part.values()):
                raise ValueError(f"{path} lacks numbers, or holds some that are not finite; prepare it again")
        names = set(parts[0]).intersection(*parts)
        held = {k: torch.cat([p[k] for p in parts]) for k in names}
        self.mean, self.std, self.label = held["mean"], held.get("std"), held["label"]
        self.digest = held.get("digest")
        if len(self.label) != count or not 0 <= self.label.min() <= self.label.max() < len(self.classes):
            raise ValueError(
                f"latents {folder} holds {len(self.label)} images; "
                f"its plan says {count} of {len(self.classes)} classes"
            )
        part = held_out_rows(self.label, self.plan.get("held_out")) == held_out
        if not part.any():
            raise ValueError(
                f"latents {folder} hold no held-out images; expected --held-out 0.2 of prepare,"
                " of classes of two images or more"
            )
        self._keep(part)

    def _keep(self, part):
        for name in ("mean", "std", "label", "digest"):
            held = getattr(self, name)
            setattr(self, name, held if held is None else held[part])

    def without(self, digests):
        """Leave out the images whose files have one of these digests, in place.  -> how many went"""
        before = len(self)
        if self.digest is not None:
            self._keep(~torch.isin(self.digest, torch.tensor(digests, dtype=torch.long)))
        return before - len(self)

    def __len__(self):
        return len(self.label)

    def matched(self, classes):
        """Number the labels as `classes` does, by name, in place.  -> self

        Raises ValueError for a class that is not among them.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise ValueError(
                f"latents hold class {unknown[0]}; expected of {', '.join(map(str, classes))[:60]}"
            )
        number = torch.tensor([classes.index(name) for name in self.classes])
        self.label, self.classes = number[self.label], list(classes)
        return self

    @property
    def fingerprint(self):
        tensors = (self.mean, self.std, self.label)
        return data_checksum([t for t in tensors if t is not None], self.classes)

    @property
    def shape(self):
        return tuple(self.mean.shape[2:])

    def draw(self, rows, flip, z):
        """x0 = mean + std z of the images `rows` (B,), with normals z (B, C, h, w).  -> x0 (B, C, h, w),
        label (B,)

        flip (B,): whether to take an image's mirror, if mirrors were prepared.
        """
        if self.std is None:
            x0 = self.mean[rows, 0].to(z.dtype) / 127.5 - 1
            flip = append_dims(flip & self.plan["mirror"], x0)
            return torch.where(flip, x0.flip(-1), x0), self.label[rows]
        view = flip.long() if self.mean.shape[1] == 2 else torch.zeros_like(rows)
        mean, std = self.mean[rows, view].to(z.dtype), self.std[rows, view].to(z.dtype)
        return mean + std * z, self.label[rows]
