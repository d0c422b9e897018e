"""Image folders as latents: crop as the official code does, encode once, keep mean and std, draw afresh in every epoch.

`prepare` writes them in shards that appear complete or not at all, so what was interrupted goes on. A codec turns images
into latents and back: `VAE`, Stable Diffusion's autoencoder through diffusers, or `Unshuffle`, which is exact and needs
no weights.
"""

import hashlib
import json
import math
import pathlib

import numpy as np
import torch
from PIL import Image

from ..checkpoint import read_safetensors, write_safetensors, write_text

SHARD = 256  # images a file
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VAES = {  # name: where its weights are published, and their licence
    "sd-vae-ft-ema": ("stabilityai/sd-vae-ft-ema on the Hugging Face hub", "MIT"),
    "sd-vae-ft-mse": ("stabilityai/sd-vae-ft-mse on the Hugging Face hub", "MIT"),
}


def centre_crop(image, size):
    """The central square at `size` pixels: halved by box filter while twice too large, then bicubic.  PIL image -> (3, size, size) uint8

    Dhariwal & Nichol 2021's arithmetic, which DiT was trained with.
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return torch.from_numpy(pixels[top : top + size, left : left + size].copy()).permute(2, 0, 1)


def to_uint8(x):
    """Images in [-1, 1] as bytes, as the official code rounds them.  (B, C, H, W) -> (B, C, H, W) uint8"""
    return (127.5 * x + 128).clamp(0, 255).to(torch.uint8)


class ImageFolder:
    """The images of a folder that holds one folder a class, both in alphabetical order: items (image, label).

    Raises ValueError for a folder without classes, a class without images, or another number of classes than `expected`.
    """

    def __init__(self, folder, expected=None):
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"folder is {folder}; expected a folder with one folder of images a class"
            )
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
        if not self.classes:
            raise ValueError(f"folder {folder} holds no class folders; expected one folder of images a class")
        if expected is not None and len(self.classes) != expected:
            raise ValueError(f"folder {folder} holds {len(self.classes)} classes; expected {expected}")
        self.paths, self.labels = [], []
        for label, name in enumerate(self.classes):
            found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in ENDINGS)
            if not found:
                raise ValueError(
                    f"class folder {folder / name} holds no images; expected {', '.join(ENDINGS)}"
                )
            self.paths += found
            self.labels += [label] * len(found)
        names = "\n".join(f"{p.relative_to(folder)} {p.stat().st_size}" for p in self.paths)
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()[:16]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        try:
            with Image.open(self.paths[i]) as image:
                return image.convert("RGB"), self.labels[i]
        except Exception as e:
            raise ValueError(
                f"image {self.paths[i]} cannot be read ({type(e).__name__}: {str(e)[:80]})"
            ) from None


class HubImages:
    """A Hugging Face dataset with an `image` and a `label` column, by name or as a folder saved with `save_to_disk`.

    Raises ImportError naming the extra without `datasets`, ValueError if a column is missing.
    """

    def __init__(self, name, split="train", expected=None):
        try:
            import datasets
        except ImportError:
            raise ImportError(
                "a dataset by name needs datasets; install the extra: pip install -e '.[dit]'"
            ) from None
        data = (
            datasets.load_from_disk(str(name))
            if pathlib.Path(name).is_dir()
            else datasets.load_dataset(name, split=split)
        )
        data = data[split] if isinstance(data, datasets.DatasetDict) else data
        missing = {"image", "label"} - set(data.features)
        if missing:
            raise ValueError(
                f"dataset {name} has columns {', '.join(data.features)}; expected {' and '.join(sorted(missing))}"
            )
        self.data, self.fingerprint = data, data._fingerprint
        feature = data.features["label"]
        self.classes = (
            list(feature.names)
            if hasattr(feature, "names")
            else [str(k) for k in range(1 + max(data["label"]))]
        )
        if expected is not None and len(self.classes) != expected:
            raise ValueError(f"dataset {name} holds {len(self.classes)} classes; expected {expected}")

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        row = self.data[i]
        return row["image"].convert("RGB"), int(row["label"])


class Unshuffle:
    """An exact codec: the four pixels of each 2 x 2 square of a grey image become four channels.  64 pixels <-> 4 x 32 x 32

    z = scale (x - centre), so that this course's glyphs, of mean 0.5 and std 0.27, have about mean 0 and std 1, as DiT's process expects of its data.
    """

    name, shrink, centre, scale = "unshuffle", 2, 0.5, 3.7

    def encode(self, x):
        """x (B, 3, H, W) in [-1, 1] -> mean, std (B, 4, H/2, W/2); the std is 0"""
        mean = torch.nn.functional.pixel_unshuffle(self.scale * (x.mean(1, keepdim=True) - self.centre), 2)
        return mean, torch.zeros_like(mean)

    def decode(self, z):
        """z (B, 4, h, w) -> images (B, 3, 2h, 2w), grey"""
        return torch.nn.functional.pixel_shuffle(z / self.scale + self.centre, 2).expand(-1, 3, -1, -1)


class VAE:
    """Stable Diffusion's autoencoder: 8 x 8 pixels to 4 numbers, times its scale (0.18215), as DiT was trained with.

    path: a diffusers folder, or the name of one in the usual cache. Raises FileNotFoundError that says where the weights
    are published, ImportError naming the extra without diffusers.
    """

    def __init__(self, path="sd-vae-ft-ema", device="cpu", dtype=torch.float32):
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise ImportError("the VAE needs diffusers; install the extra: pip install -e '.[dit]'") from None
        known = f"stabilityai/{path}" if path in VAES else str(path)
        try:
            self.net = (
                AutoencoderKL.from_pretrained(known, local_files_only=True, use_safetensors=True)
                .to(device, dtype)
                .eval()
                .requires_grad_(False)
            )
        except Exception as e:
            where, licence = VAES.get(str(path), ("any diffusers AutoencoderKL folder", "its own"))
            raise FileNotFoundError(
                f"vae {path} is not on this machine ({type(e).__name__}); published as {where} (licence: {licence}); "
                "expected there or as --vae FOLDER with config.json and diffusion_pytorch_model.safetensors"
            ) from None
        self.name = f"vae-{_fingerprint(self.net)}"
        self.shrink = 2 ** (len(self.net.config.block_out_channels) - 1)
        self.scale = self.net.config.scaling_factor

    def encode(self, x):
        """x (B, 3, H, W) in [-1, 1] -> mean, std (B, 4, H/8, W/8) of the posterior, scaled"""
        posterior = self.net.encode(x.to(self.net.device, self.net.dtype)).latent_dist
        return (self.scale * posterior.mean).float(), (self.scale * posterior.std).float()

    def decode(self, z):
        """z (B, 4, h, w) -> images (B, 3, 8h, 8w), about in [-1, 1]"""
        parts = (z / self.scale).to(self.net.device, self.net.dtype).split(16)  # its activations are large
        return torch.cat([self.net.decode(part).sample.float() for part in parts])


def codec(name, device="cpu"):
    """`Unshuffle` for "unshuffle", otherwise the `VAE` of that name or path."""
    return Unshuffle() if name == "unshuffle" else VAE(name, device)


def _fingerprint(net):
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def prepare(images, out, size=256, coder=None, device="cpu", batch=32, mirror=True):
    """Encode every image and its mirror into OUT, SHARD at a time; a generator of (images done, images in all).

    images: an `ImageFolder` or `HubImages`. mirror: False for images that mean something else in a mirror, as letters do.
    Files hold mean and std (n, 2, C, h, w), or (n, 1, C, h, w) without mirrors, in float16 and label (n,). What is
    there already is kept; OUT made from other images, size or codec is refused with a ValueError before any work.
    """
    coder, out = coder or Unshuffle(), pathlib.Path(out)
    if size % (2 * coder.shrink):
        raise ValueError(
            f"size is {size}; expected a multiple of {2 * coder.shrink} for this codec and patches of 2"
        )
    plan = dict(
        images=images.fingerprint,
        count=len(images),
        classes=images.classes,
        size=size,
        codec=coder.name,
        shard=SHARD,
        mirror=mirror,
    )
    _agree(out / "plan.json", plan)

    def work():
        for start in range(0, len(images), SHARD):
            rows = range(start, min(start + SHARD, len(images)))
            path = out / f"latents-{start // SHARD:05d}.safetensors"
            if not path.exists():
                write_safetensors(
                    path, _encode(images, rows, size, coder, device, batch, mirror), dict(first=start)
                )
            yield rows.stop, len(images)

    return work()


def _agree(path, plan):
    """Write the plan, or refuse if another one is there."""
    if not path.exists():
        return write_text(path, json.dumps(plan, indent=1) + "\n")
    held = json.loads(path.read_text())
    for what, value in plan.items():
        if held.get(what) != value:
            raise ValueError(
                f"{path.parent} was prepared with {what} {str(held.get(what))[:60]}; this run has {str(value)[:60]}"
            )


def _encode(images, rows, size, coder, device, batch, mirror):
    found = {"mean": [], "std": [], "label": []}
    for start in range(0, len(rows), batch):
        items = [images[i] for i in rows[start : start + batch]]
        x = torch.stack([centre_crop(image, size) for image, _ in items]).to(device).float() / 127.5 - 1
        views = [coder.encode(v) for v in ((x, x.flip(-1)) if mirror else (x,))]
        for key, pair in zip(("mean", "std"), zip(*views, strict=True), strict=True):
            found[key].append(torch.stack(pair, 1).half().cpu())  # (b, views, C, h, w)
        found["label"].append(torch.tensor([label for _, label in items]))
    return {k: torch.cat(v) for k, v in found.items()}


class Latents:
    """What `prepare` wrote: mean, std (N, 2 or 1, C, h, w), label (N,), `classes`, `plan`. Raises ValueError if a shard is missing or damaged."""

    def __init__(self, folder, device="cpu"):
        folder = pathlib.Path(folder)
        if not (folder / "plan.json").exists():
            raise FileNotFoundError(
                f"latents {folder} holds no plan.json; expected what `dit prepare` writes"
            )
        self.plan = json.loads((folder / "plan.json").read_text())
        self.classes = self.plan["classes"]
        shards = [
            folder / f"latents-{k:05d}.safetensors"
            for k in range(math.ceil(self.plan["count"] / self.plan["shard"]))
        ]
        missing = [p.name for p in shards if not p.exists()]
        if missing:
            raise ValueError(
                f"latents {folder} is not complete: {missing[0]} is missing, one of {len(missing)}; run `dit prepare` again"
            )
        parts = [read_safetensors(p)[0] for p in shards]
        self.mean, self.std, self.label = (
            torch.cat([p[k] for p in parts]).to(device) for k in ("mean", "std", "label")
        )
        if len(self.label) != self.plan["count"] or self.label.max() >= len(self.classes):
            raise ValueError(
                f"latents {folder} holds {len(self.label)} images; its plan says {self.plan['count']} of {len(self.classes)} classes"
            )

    def __len__(self):
        return len(self.label)

    @property
    def shape(self):
        return tuple(self.mean.shape[2:])

    def draw(self, rows, flip, z):
        """x0 of images `rows` (B,), mirrored where `flip` (B,) if mirrors were prepared, the posterior drawn with normals z (B, C, h, w).  -> x0, label"""
        view = flip.long() if self.mean.shape[1] == 2 else torch.zeros_like(rows)
        return self.mean[rows, view].to(z.dtype) + self.std[rows, view].to(z.dtype) * z, self.label[rows]
