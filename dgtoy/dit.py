"""DiT, the diffusion transformer of Peebles & Xie 2023, at every size: one file, read from top to bottom.

Parameter names and shapes are those of the official checkpoints, so these load as they are. `EDM` makes any DiT a
denoiser D(x, sigma) with the preconditioning of Karras et al. 2022; that is how the small ones here are trained.
"""

import argparse
import copy
import math
import pathlib
import re

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from .labelled import check_label
from .schedules import checked

CONFIGS = {f"DiT-{name}/{p}": dict(depth=depth, hidden_size=width, num_heads=heads, patch_size=p)
           for name, depth, width, heads in (("S", 12, 384, 6), ("B", 12, 768, 12), ("L", 24, 1024, 16), ("XL", 28, 1152, 16))
           for p in (2, 4, 8)}


class DiT(nn.Module):
    """A transformer on image patches; time and label reach every block through adaptive layer norm.

    input_size: side of the image or latent in pixels. learn_sigma: the output has 2C channels, noise and variance.
    Labels are 0..num_classes-1, and `null` = num_classes, the last row of this model's own table, stands for none.
    seed: of the initial weights. Raises ValueError for sizes that do not divide.
    """

    def __init__(self, input_size=32, patch_size=2, in_channels=4, hidden_size=1152, depth=28, num_heads=16, num_classes=1000,
                 learn_sigma=True, seed=0):
        super().__init__()
        if input_size % patch_size or hidden_size % num_heads or hidden_size % 4:
            raise ValueError(f"input_size, patch_size, hidden_size, num_heads are {input_size}, {patch_size}, {hidden_size}, {num_heads}; "
                             "expected input_size divisible by patch_size, hidden_size by num_heads and by 4")
        self.config = dict(input_size=input_size, patch_size=patch_size, in_channels=in_channels, hidden_size=hidden_size, depth=depth,
                           num_heads=num_heads, num_classes=num_classes, learn_sigma=learn_sigma)
        self.null = num_classes
        self.shape = (in_channels, input_size, input_size)
        self.x_embedder = PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.register_buffer("pos_embed", position_embedding(hidden_size, input_size // patch_size))     # (1, T, hidden)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels * (1 + learn_sigma))
        self._start(torch.Generator().manual_seed(seed))

    def forward(self, x, t, y):
        """x (B, C, H, W), t (B,) time in [0, 1000), y (B,) labels -> (B, 2C, H, W), or (B, C, H, W) without learn_sigma"""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {('B', *self.shape)}")
        h = self.x_embedder(x) + self.pos_embed            # (B, T, hidden)
        c = self.t_embedder(t) + self.y_embedder(y)        # (B, hidden)
        for block in self.blocks:
            h = block(h, c)                                # (B, T, hidden)
        return self._unpatchify(self.final_layer(h, c))

    def with_classes(self, num_classes, seed=0):
        """A copy with a fresh label table for new classes; null is the last row of the new table."""
        table = LabelEmbedder(num_classes, self.config["hidden_size"])
        nn.init.normal_(table.embedding_table.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
        table.to(self.pos_embed.device, self.x_embedder.proj.weight.dtype)
        new = copy.deepcopy(self, {id(self.y_embedder): table})      # the new table stands where the old one would be copied
        new.config["num_classes"] = new.null = num_classes
        return new

    def _unpatchify(self, h):
        """(B, T, p p C) -> (B, C, H, W)"""
        p, side = self.config["patch_size"], self.config["input_size"] // self.config["patch_size"]
        return h.reshape(len(h), side, side, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(len(h), -1, side * p, side * p)

    def _start(self, generator):
        """Xavier for every matrix; zero gates and output, so that a fresh block is the identity. Peebles & Xie 2023, sec. 3.2."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight.data.flatten(1), generator=generator)
                nn.init.zeros_(layer.bias)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02, generator=generator)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02, generator=generator)
        for layer in (*(b.adaLN_modulation[1] for b in self.blocks), self.final_layer.adaLN_modulation[1], self.final_layer.linear):
            nn.init.zeros_(layer.weight)


class PatchEmbedder(nn.Module):
    """Each p x p patch of the image as one token."""

    def __init__(self, patch_size, in_channels, hidden_size):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).mT                  # (B, T, hidden)


class TimestepEmbedder(nn.Module):
    """128 cosines and 128 sines of t, wavelengths from 2 pi to 2 pi 10,000, through a small MLP."""

    def __init__(self, hidden_size):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t):
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128)
        angle = t[:, None].float() * frequencies           # (B, 128)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """One vector a class, and one more, the last, for no class."""

    def __init__(self, num_classes, hidden_size):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y):
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, hidden_size, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, h):
        q, k, v = self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)              # (B, heads, T, hidden / heads)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with the tanh form of GELU, four times as wide inside."""

    def __init__(self, hidden_size):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, h):
        return self.fc2(nn.functional.gelu(self.fc1(h), approximate="tanh"))


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
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c)[:, None].chunk(6, -1)   # each (B, 1, hidden)
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
        return self.linear(modulate(self.norm_final(h), shift, scale))                                   # (B, T, p p C)


def modulate(h, shift, scale):
    """Adaptive layer norm's last step: h (1 + scale) + shift."""
    return h * (1 + scale) + shift


def position_embedding(hidden_size, side):
    """Fixed sines and cosines of column and row, a quarter of the channels each.  -> (1, side side, hidden_size)"""
    omega = 10_000.0 ** (-torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size / 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * omega                                     # (side, hidden / 4)
    axis = torch.cat([angle.sin(), angle.cos()], -1)                                                     # (side, hidden / 2)
    column, row = axis.expand(side, side, -1), axis[:, None].expand(side, side, -1)
    return torch.cat([column, row], -1).flatten(0, 1)[None].float()


class EDM:
    """A DiT as a denoiser: D(x, sigma | label) = c_skip x + c_out F(c_in x, t(sigma), label). Karras et al. 2022, table 1.

    sigma_data: the std of data that the preconditioning assumes. It offers `denoiser(label)` and `null`, and what `fit`
    needs to train it. Noise levels from 0.002 to 80 fill the range of times that a DiT knows: t = 94 ln(sigma / 0.002).
    On a CUDA device the network runs in bfloat16 autocast (`amp`), and `compile()` makes it fast there: it compiles the
    blocks, and denoisers replay one captured graph for each shape of x. The plain way stays the reference in the tests.
    """

    def __init__(self, net, sigma_data=0.5, seed=0):
        self.net, self.sigma_data, self.seeds = net, sigma_data, [seed]
        self.null, self.shape = net.null, net.shape
        self.config = {**net.config, "sigma_data": sigma_data}
        self.amp, self.graphs = True, None

    def __call__(self, x, sigma, label):
        """x (*B, C, H, W), sigma () or (*B,), label () or (*B,) -> x0_hat (*B, C, H, W)"""
        lead = x.shape[:-3]
        x = x.flatten(0, -4)                               # (B, C, H, W)
        sigma, label = (torch.as_tensor(a, device=x.device).expand(lead).flatten() for a in (sigma, label))
        s = sigma.to(x.dtype)[:, None, None, None]
        scale = (s**2 + self.sigma_data**2).sqrt()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp and x.is_cuda):
            out = self.net((x / scale).to(self.net.pos_embed.dtype), time_of(sigma), label).to(x.dtype)
        return ((self.sigma_data / scale) ** 2 * x + s * self.sigma_data / scale * out).unflatten(0, lead)

    def denoiser(self, label):
        """D(x (B, C, H, W), sigma () or (B,)) for a label: an int or (B,). Raises ValueError for a label this model lacks."""
        label = torch.as_tensor(check_label(label, self.null)).to(self.device, torch.long)

        def D(x, sigma):
            if x.ndim < 4 or tuple(x.shape[-3:]) != self.shape:
                raise ValueError(f"x has shape {tuple(x.shape)}; expected {('B', *self.shape)}")
            if label.ndim and label.shape != x.shape[:-3]:
                raise ValueError(f"label has shape {tuple(label.shape)}; expected () or {tuple(x.shape[:-3])} for x {tuple(x.shape)}")
            sigma = checked(sigma, x[..., 0, 0, 0])        # one a sample: it may not follow x's channels
            with torch.no_grad():
                plain = self.graphs is None or torch.cuda.is_current_stream_capturing()
                return self(x, sigma, label) if plain else self._replay(x, sigma, label)
        return D

    def _replay(self, x, sigma, label):
        """The same value from a captured graph: a network this small waits for launches, not for arithmetic."""
        lead = x.shape[:-3]
        inputs = [x, torch.as_tensor(sigma, device=x.device, dtype=x.dtype).expand(lead), label.expand(lead)]
        key = (x.shape, x.dtype)
        if key not in self.graphs:
            self.graphs[key] = self._capture([a.clone() for a in inputs])
        held, graph, out = self.graphs[key]
        for mine, theirs in zip(held, inputs, strict=True):
            mine.copy_(theirs)
        graph.replay()
        return out.clone()

    def _capture(self, held):
        """held inputs -> (held, graph, output)"""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):                      # libraries choose their kernels outside the graph
            for _ in range(2):
                self(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self(*held)
        return held, graph, out

    @property
    def params(self):
        """The parameters that train, by name."""
        return {name: p for name, p in self.net.named_parameters() if p.requires_grad}

    @property
    def device(self):
        return self.net.pos_embed.device

    def with_classes(self, num_classes, seed=0):
        """A copy with a fresh label table for new classes; `seed` draws the table and, later, the training data."""
        new = EDM(self.net.with_classes(num_classes, seed), self.sigma_data, seed)
        new.amp = self.amp
        return new

    def clone(self):
        """A copy that shares nothing; compiled if this one is."""
        new = EDM(copy.deepcopy(self.net), self.sigma_data, *self.seeds)
        new.amp = self.amp
        return new if self.graphs is None else new.compile()

    def to(self, device):
        """This denoiser on another device."""
        self.net.to(device)
        return self

    def compile(self):
        """On a CUDA device, compile the blocks (all share one program) and replay graphs. Elsewhere nothing.  -> this denoiser"""
        if self.device.type == "cuda":
            self.graphs = {}
            for block in self.net.blocks:
                block.compile()
        return self


def time_of(sigma):
    """The time that stands for a noise level: 94 ln(sigma / 0.002), 0 to 996 for sigma from 0.002 to 80."""
    return 94 * torch.log(sigma.float() / 0.002)


def load_checkpoint(path):
    """The weights in a file, by their official names, in float32; of a training file the averaged ones.

    Reads official flat files and training files (.pt, with `ema` and an argparse Namespace: exactly that class is let
    through, nothing else can run), and .safetensors.  -> state_dict
    Raises ValueError, one line, if the file is damaged, holds code, or is no DiT's.
    """
    try:
        if pathlib.Path(path).suffix == ".safetensors":
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as e:
        code = re.search(r"GLOBAL \S+|operand \d+", str(e))      # torch's own text says how to run it all the same
        why = f"its pickle asks for {code[0]}" if code else f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
        raise ValueError(f"{path} is not a complete checkpoint of weights alone ({why})") from None
    state = state.get("ema", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or "y_embedder.embedding_table.weight" not in state:
        held = list(state)[:3] if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} is not a DiT's: it holds {held}; expected names like y_embedder.embedding_table.weight")
    strange = [name for name, value in state.items() if not torch.is_tensor(value)]
    if strange:
        raise ValueError(f"{path} is not a DiT's: {strange[0]} is of type {type(state[strange[0]]).__name__}; expected tensors alone")
    return {name: value.float() for name, value in state.items()}


def config_of(state, num_heads=None, path="state"):
    """The sizes of a DiT from its weights. Heads leave no trace in them: by default those of the named size of that width.

    Raises ValueError for another width without num_heads, and if a weight that tells the sizes is missing.
    """
    for name, axes in (("x_embedder.proj.weight", 4), ("pos_embed", 3), ("final_layer.linear.weight", 2), ("y_embedder.embedding_table.weight", 2)):
        if name not in state or state[name].ndim != axes:
            raise ValueError(f"{path}: {name} has shape {tuple(state[name].shape) if name in state else 'nothing'}; expected {axes} axes")
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    known = {c["hidden_size"]: c["num_heads"] for c in CONFIGS.values()}
    if num_heads is None and hidden not in known:
        raise ValueError(f"{path}: hidden_size is {hidden}; expected that of a named size ({', '.join(map(str, known))}), or num_heads")
    out = state["final_layer.linear.weight"].shape[0] // patch**2
    return dict(input_size=math.isqrt(state["pos_embed"].shape[1]) * patch, patch_size=patch, in_channels=channels, hidden_size=hidden,
                depth=len({k.split(".")[1] for k in state if k.startswith("blocks.")}), num_heads=num_heads or known[hidden],
                num_classes=len(state["y_embedder.embedding_table.weight"]) - 1, learn_sigma=out == 2 * channels)


def load_pretrained(path, num_classes=None, num_heads=None, seed=0):
    """A DiT with the weights of a checkpoint; with `num_classes`, a fresh label table for that many new classes.

    Raises ValueError naming the first weight that is missing, superfluous or of another shape.
    """
    state = load_checkpoint(path)
    net = DiT(**config_of(state, num_heads, path))
    load_weights(net, state, path)
    return net if num_classes is None else net.with_classes(num_classes, seed)


def load_weights(net, state, path="state"):
    """Copy a state dict into a network whose names and shapes it must match exactly. Raises ValueError, one line."""
    mine = net.state_dict()
    for name in sorted(mine.keys() | state.keys()):
        came, expected = (tuple(d[name].shape) if name in d else "nothing" for d in (state, mine))
        if came != expected:
            raise ValueError(f"{path}: {name} has shape {came}; expected {expected}")
    net.load_state_dict(state)
