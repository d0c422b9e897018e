"""DiT, the diffusion transformer of Peebles & Xie 2023, at every size: one file, read from top to bottom.

Parameter names and shapes are those of the official checkpoints, so these load as they are.
"""

import copy
import math

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ..checks import check_seed, check_whole, readable, shown
from ..gmm import check_label
from ..nets import drawn_
from ..vp import t_to_sigma

CONFIGS = {
    f"DiT-{name}/{p}": dict(depth=depth, hidden_size=width, num_heads=heads, patch_size=p)
    for name, depth, width, heads in (
        ("S", 12, 384, 6),
        ("B", 12, 768, 12),
        ("L", 24, 1024, 16),
        ("XL", 28, 1152, 16),
    )
    for p in (2, 4, 8)
}


class DiT(nn.Module):
    """A transformer on image patches; time and label reach every block through adaptive layer norm.

    input_size: side of the image or latent in pixels. learn_sigma: the output has 2C channels, noise and
    variance. Labels are 0..num_classes-1, and `null` = num_classes, the last row of this model's own table,
    stands for none. velocity: the layers give the velocity, from which `noise_of_velocity` makes the noise in
    the output: learnt in far fewer steps; official networks are not of this kind. flow: the output is the
    velocity of a straight path, see `Flow`. sit: the same as the official SiT gives it, see `SiT`. seed: of
    the initial weights. `recompute` = True saves memory in training: the backward pass computes each block's
    activations again. Raises ValueError for sizes that do not divide, and for two of these kinds at once.
    """

    recompute = False

    @torch.random.fork_rng(devices=[])  # torch's layers draw weights of their own, which are overwritten
    def __init__(
        self,
        input_size=32,
        patch_size=2,
        in_channels=4,
        hidden_size=1152,
        depth=28,
        num_heads=16,
        num_classes=1000,
        learn_sigma=True,
        velocity=False,
        flow=False,
        sit=False,
        seed=0,
    ):
        super().__init__()
        kinds = dict(velocity=velocity, flow=flow, sit=sit)
        for name, value in dict(learn_sigma=learn_sigma, **kinds).items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} is {shown(value)}; expected True or False")
        if sum(kinds.values()) > 1:
            came = " and ".join(kind for kind, is_it in kinds.items() if is_it)
            raise ValueError(f"{came} are True; expected one kind of output")
        sizes = dict(
            input_size=input_size,
            patch_size=patch_size,
            in_channels=in_channels,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            num_classes=num_classes,
        )
        sizes = {
            name: check_whole(name, size, 0 if name == "num_classes" else 1) for name, size in sizes.items()
        }
        seed = check_seed("seed", seed)
        if input_size % patch_size or hidden_size % num_heads or hidden_size % 4:
            raise ValueError(
                "input_size, patch_size, hidden_size, num_heads are "
                f"{input_size}, {patch_size}, {hidden_size}, {num_heads}; "
                "expected input_size divisible by patch_size, hidden_size by num_heads and by 4"
            )
        self.config = sizes | dict(learn_sigma=learn_sigma)
        self.null = sizes["num_classes"]
        self.shape = (in_channels, input_size, input_size)
        for kind, is_it in kinds.items():
            if is_it:
                self.config[kind] = True
                self.register_buffer(kind, torch.ones(()))  # so that a file of weights tells
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        pos_embed = position_embedding(hidden_size, input_size // patch_size)  # (1, T, hidden)
        self.register_buffer("pos_embed", pos_embed)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels * (1 + learn_sigma))
        self._init_weights(torch.Generator().manual_seed(seed))

    def forward(self, x, t, y):
        """x (B, C, H, W), t (B,) in [0, 1000), labels y (B,) -> (B, 2C, H, W), or C without learn_sigma.

        Raises ValueError for other shapes, and for a label on the CPU that this network lacks.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {('B', *self.shape)}")
        for name, value in dict(t=t, y=y).items():
            if getattr(value, "shape", ()) != x.shape[:1]:
                raise ValueError(f"{name} is {shown(value)}; expected a tensor of shape ({len(x)},)")
        h = self.x_embedder(x.to(self.pos_embed.dtype))  # (B, T, hidden)
        c = self.t_embedder(t) + self.y_embedder(y)  # (B, hidden)
        out = self._unpatchify(self.tokens(h, c))
        return noise_of_velocity(out, x, t) if "velocity" in self.config else out

    def tokens(self, h, c):
        """Positions, all blocks and the last layer.  h (B, T, hidden), c (B, hidden) -> (B, T, p p C)"""
        h = h + self.pos_embed
        for block in self.blocks:
            if self.recompute:  # without dropout: no state of random numbers to keep
                h = checkpoint(block, h, c, use_reentrant=False, preserve_rng_state=False)
            else:
                h = block(h, c)
        return self.final_layer(h, c)

    @torch.random.fork_rng(devices=[])
    def with_classes(self, num_classes, seed=0):
        """A copy with a fresh label table for new classes; null is the last row of the new table."""
        num_classes, seed = check_whole("num_classes", num_classes, 0), check_seed("seed", seed)
        table = LabelEmbedder(num_classes, self.config["hidden_size"])
        drawn_(table.embedding_table.weight, nn.init.normal_, torch.Generator().manual_seed(seed), std=0.02)
        table.to(self.pos_embed.device, self.x_embedder.proj.weight.dtype)
        new = copy.deepcopy(self, {id(self.y_embedder): table})  # the new table in the old one's place
        new.config["num_classes"] = new.null = num_classes
        return new

    def _unpatchify(self, h):
        """(B, T, p p C) -> (B, C, H, W)"""
        p, size = self.config["patch_size"], self.config["input_size"]
        h = h.unflatten(-1, (p, p, -1)).unflatten(1, (size // p, size // p))  # (B, row, column, p, p, C)
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _init_weights(self, generator):
        """Xavier for every matrix; zero gates and output, so that a fresh block is the identity.

        Peebles & Xie 2023, sec. 3.2.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                drawn_(layer.weight.data.flatten(1), nn.init.xavier_uniform_, generator)
                nn.init.zeros_(layer.bias)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            drawn_(layer.weight, nn.init.normal_, generator, std=0.02)
        drawn_(self.y_embedder.embedding_table.weight, nn.init.normal_, generator, std=0.02)
        for layer in (
            *(b.adaLN_modulation[1] for b in self.blocks),
            self.final_layer.adaLN_modulation[1],
            self.final_layer.linear,
        ):
            nn.init.zeros_(layer.weight)


class PatchEmbedder(nn.Module):
    """Each p x p patch of the image as one token."""

    def __init__(self, patch_size, in_channels, hidden_size):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).mT  # (B, T, hidden)


class TimestepEmbedder(nn.Module):
    """128 cosines and 128 sines of t, wavelengths from 2 pi to 2 pi 10,000, through a small MLP."""

    def __init__(self, hidden_size):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t):
        frequencies = torch.exp(
            -math.log(10_000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128
        )
        angle = t[:, None].float() * frequencies  # (B, 128)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """One vector per class, and one more, the last, for no class."""

    def __init__(self, num_classes, hidden_size):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y):
        if readable(y):
            check_label(y, len(self.embedding_table.weight) - 1)
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, h):
        qkv = self.qkv(h).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, heads, hidden / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, hidden / heads)
        return self.proj(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q, k, v):
        """softmax(q k^T / sqrt(d)) v, of (B, heads, T, d) each."""
        return scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two layers with the tanh form of GELU, four times as wide inside."""

    def __init__(self, hidden_size):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, h):
        return self.fc2(gelu(self.fc1(h)))


def gelu(x):
    """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), the tanh form of GELU: Hendrycks & Gimpel 2016.

    While sampling on a CPU it is worked out in place, in less than half the time that PyTorch takes.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
        return nn.functional.gelu(x, approximate="tanh")
    scale = math.sqrt(8 / math.pi)
    inner = (x * x).mul_(0.044715 * scale).add_(scale)
    return inner.mul_(x).sigmoid_().mul_(x)


class Block(nn.Module):
    """Attention, then an MLP; shift, scale and gate of both come from the condition c."""

    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden_size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, h, c):
        """h (B, T, hidden), c (B, hidden) -> (B, T, hidden)"""
        modulation = self.adaLN_modulation(c)[:, None].chunk(6, -1)  # each (B, 1, hidden)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        h = h + gate_a * self.attn(modulate(self.norm1(h), shift_a, scale_a))
        return h + gate_m * self.mlp(modulate(self.norm2(h), shift_m, scale_m))


class FinalLayer(nn.Module):
    """Modulated tokens to pixels."""

    def __init__(self, hidden_size, patch_size, out_channels):
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, h, c):
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, -1)
        return self.linear(modulate(self.norm_final(h), shift, scale))  # (B, T, p p C)


def modulate(h, shift, scale):
    """Adaptive layer norm's last step: h (1 + scale) + shift."""
    return h * (1 + scale) + shift


def noise_of_velocity(out, x, t):
    """eps = sqrt(1 - alpha) x + sqrt(alpha) v, where v is the velocity, the first channels of `out`.

    alpha: alphas_cumprod at t (B,). x (B, C, H, W), out (B, C or 2C, H, W) -> as out; its rest stays.
    Salimans & Ho 2022.
    """
    alphas_cumprod = (1 / (1 + t_to_sigma(t) ** 2)).to(x.dtype)[:, None, None, None]
    v, rest = out.to(x.dtype).tensor_split([x.shape[1]], 1)
    return torch.cat([(1 - alphas_cumprod).sqrt() * x + alphas_cumprod.sqrt() * v, rest], 1)


def position_embedding(hidden_size, side):
    """Sines and cosines of column and row, a quarter of the channels each.  -> (1, side side, hidden_size)"""
    omega = 10_000.0 ** (-torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size / 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * omega  # (side, hidden / 4)
    axis = torch.cat([angle.sin(), angle.cos()], -1)  # (side, hidden / 2)
    column, row = axis.expand(side, side, -1), axis[:, None].expand(side, side, -1)
    return torch.cat([column, row], -1).flatten(0, 1)[None].to(torch.get_default_dtype())
