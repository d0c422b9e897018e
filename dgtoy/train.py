"""Training: what one step sees, the `fit` generator, the average of the weights, checkpoint and resume.

The randomness of step t of seed k is a function of (k, t) alone: each seed owns generators, one for each block of
steps. So a member of an ensemble sees what it would see alone, and a resumed run what it would have seen.
"""

import dataclasses
import json
import math
import os
import pathlib
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .gmm import LabelledMixture, check_label
from .schedules import log_normal

BLOCK = 64                                                 # steps whose random numbers are drawn together


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. `dropout` is the share of labels replaced by null; `noise` (mean, std) of ln sigma."""

    steps: int = 2000
    batch: int = 256
    lr: float = 1e-3
    dropout: float = 0.1
    ema: float = 0.999
    noise: tuple = (-0.5, 1.6)

    def __post_init__(self):
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout}; expected a share between 0 and 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 <= ema < 1")
        if self.batch < 1 or self.steps < 0 or not 0 < self.lr < math.inf:
            raise ValueError(f"steps, batch, lr are {self.steps}, {self.batch}, {self.lr}; expected >= 0, >= 1, > 0 and finite")
        if not math.isfinite(self.noise[0]) or not 0 <= self.noise[1] < math.inf:
            raise ValueError(f"noise is {self.noise}; expected the finite mean and std of ln sigma, std >= 0")


class Step(NamedTuple):
    """What `fit` yields: steps taken so far, and the loss (S,) of the last one."""

    step: int
    loss: torch.Tensor


class Points:
    """A finite training set for each seed: x0 (S, n, D), label (S, n). A draw picks with replacement."""

    def __init__(self, x0, label):
        if x0.ndim != 3 or label.shape != x0.shape[:2]:
            raise ValueError(f"x0, label have shapes {tuple(x0.shape)}, {tuple(label.shape)}; expected (S, n, D), (S, n)")
        self.x0, self.label = x0, label

    def to(self, device):
        return Points(self.x0.to(device), self.label.to(device))

    def draw(self, u, z):
        """u (S, ...) uniform -> x0 (S, ..., D), label (S, ...)"""
        n = self.x0.shape[1]
        rows = (u * n).long().clamp_(max=n - 1)
        seed = torch.arange(len(u), device=u.device).reshape(-1, *(1,) * (u.ndim - 1))
        return self.x0[seed, rows], self.label[seed, rows]


def batches(data, seeds, recipe, null, block, dim, device="cpu"):
    """The inputs of BLOCK training steps, first axis the seed: x0, label, sigma, noisy x.

    data: anything with draw(u, z) -> x0, label: `Points`, or a `LabelledMixture` for unlimited data.
    """
    u = torch.empty(len(seeds), 2, BLOCK, recipe.batch, device=device)
    z = torch.empty(len(seeds), 1 + 2 * dim, BLOCK, recipe.batch, device=device)
    for k, seed in enumerate(seeds):
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + block)
        u[k].uniform_(generator=generator), z[k].normal_(generator=generator)
    x0, label = data.draw(u[:, 0], z[:, 1:1 + dim].movedim(1, -1))                     # (S, BLOCK, B, D), (S, BLOCK, B)
    label = torch.where(u[:, 1] < recipe.dropout, null, label)
    sigma = log_normal(z[:, 0], *recipe.noise)
    return x0, label, sigma, x0 + sigma[..., None] * z[:, 1 + dim:].movedim(1, -1)


def denoising_loss(x0_hat, x0, sigma, sigma_data):
    """Mean over the batch of (1/sigma^2 + 1/sigma_data^2) |x0_hat - x0|^2.  (..., B, D) -> (...). Karras et al. 2022, eq. 8."""
    weight = 1 / sigma**2 + 1 / sigma_data**2
    return (weight[..., None] * (x0_hat - x0) ** 2).mean((-1, -2))


def fit(net, data, recipe, ema=None, checkpoint=None, every=500):
    """Train an `Ensemble` in place, every member on its own seed's data order; a generator of `Step`.

    data: see `batches`. ema: a clone of net that receives the moving average of its weights (warm-up: decay
    min(ema, (1 + t) / (10 + t))). checkpoint: a file written every `every` steps and at the end, complete or not at
    all; where it exists already, training goes on from it as if it had never stopped.
    Raises FloatingPointError at a non-finite loss, naming step and seed; the weights are then those before that step.
    """
    _check_data(net, data)
    params = list(net.params.values())
    optimizer = torch.optim.Adam(params, lr=recipe.lr, fused=True, capturable=net.device.type == "cuda")
    _start(optimizer)
    start = _resume(checkpoint, net, ema, optimizer, recipe) if checkpoint else 0
    return _iterate(net, data, recipe, ema, checkpoint, every, optimizer, start)


def _check_data(net, data):
    """Raise if a training set is not one that these networks can learn: other seeds, dimension or labels."""
    dim = net.config["dim"]
    if isinstance(data, Points):
        if data.x0.shape[::2] != (len(net), dim):
            raise ValueError(f"data has x0 of shape {tuple(data.x0.shape)}; expected ({len(net)}, n, {dim})")
        check_label(data.label, net.null)
    elif isinstance(data, LabelledMixture):
        if data.means.shape[1] != dim:
            raise ValueError(f"data has dimension {data.means.shape[1]}; expected {dim}")
        check_label(data.labels, net.null)


def _iterate(net, data, recipe, ema, checkpoint, every, optimizer, start):
    work = _Work(net, ema, optimizer)
    dim, sigma_data = net.config["dim"], net.sigma_data
    inputs = None
    for step in range(start, recipe.steps):
        if inputs is None or step % BLOCK == 0:
            inputs = batches(data, net.seeds, recipe, net.null, step // BLOCK, dim, net.device)
        x0, label, sigma, x = (a[:, step % BLOCK] for a in inputs)
        loss = work.gradient(x0, label, sigma, x, sigma_data)
        if not bool(loss.isfinite().all()):
            seed = net.seeds[int((~loss.isfinite()).nonzero()[0])]
            if checkpoint:
                save_checkpoint(checkpoint, net, ema, optimizer, recipe, step)
            raise FloatingPointError(f"the loss of seed {seed} is not finite at step {step + 1}; the weights are those of step {step}")
        work.update(min(recipe.ema, (1 + step) / (10 + step)))
        if checkpoint and ((step + 1) % every == 0 or step + 1 == recipe.steps):
            save_checkpoint(checkpoint, net, ema, optimizer, recipe, step + 1)
        yield Step(step + 1, loss)


class _Work:
    """One training step in two halves, gradient and update; on a GPU each half is one captured graph."""

    def __init__(self, net, ema, optimizer):
        self.net, self.optimizer = net, optimizer
        self.params = list(net.params.values())
        self.averages = [ema.params[k].detach() for k in net.params] if ema else []
        self.decay = torch.zeros((), device=net.device)
        self.graphs = None

    def gradient(self, *batch_and_sigma_data):
        *batch, sigma_data = batch_and_sigma_data
        if self.net.device.type != "cuda":
            return self._gradient(batch, sigma_data)
        if self.graphs is None:
            self._capture(batch, sigma_data)
        torch._foreach_copy_(self.inputs, list(batch))
        self.graphs[0].replay()
        return self.loss.clone()

    def update(self, decay):
        self.decay.fill_(decay)
        self._update() if self.graphs is None else self.graphs[1].replay()

    def _gradient(self, batch, sigma_data):
        x0, label, sigma, x = batch
        loss = denoising_loss(self.net(x, sigma, label), x0, sigma, sigma_data)          # (S,)
        grads = torch.autograd.grad(loss.sum(), self.params)
        for p, g in zip(self.params, grads):
            p.grad = g
        return loss.detach()

    def _update(self):
        self.optimizer.step()
        for average, p in zip(self.averages, self.params):
            average.lerp_(p.detach(), 1 - self.decay)

    def _capture(self, batch, sigma_data):
        self.inputs = [b.clone() for b in batch]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):                      # libraries choose their kernels outside the graph
            for _ in range(3):
                self._gradient(self.inputs, sigma_data)
        torch.cuda.current_stream().wait_stream(side)
        gradient, update = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(gradient):
            self.loss = self._gradient(self.inputs, sigma_data)
        with torch.cuda.graph(update, pool=gradient.pool()):
            self._update()
        self.graphs = gradient, update


def _start(optimizer):
    """Give Adam its (zero) moments now: a step with zero gradients moves nothing."""
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"].zero_()


def save_checkpoint(path, net, ema, optimizer, recipe, step):
    """One safetensors file: weights, averages, both moments; step, recipe and seeds as JSON in its header."""
    tensors = {}
    for name, p in net.params.items():
        state = optimizer.state[p]
        tensors |= {f"net.{name}": p, f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
    if ema:
        tensors |= {f"ema.{name}": p for name, p in ema.params.items()}
    header = dict(step=step, recipe=dataclasses.asdict(recipe), seeds=net.seeds, model=net.config)
    write_safetensors(path, tensors, header)


def write_safetensors(path, tensors, header):
    """Tensors and a JSON header into `path`, which appears complete or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, {"json": json.dumps(header)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_safetensors(path):
    """tensors, header of a file made by `write_safetensors`. Raises ValueError if it is damaged or another kind of file."""
    try:
        with safe_open(path, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, json.loads((f.metadata() or {})["json"])
    except FileNotFoundError:
        raise
    except Exception as e:
        raise ValueError(f"{path} is not a complete checkpoint ({type(e).__name__}: {str(e)[:80]})") from None


def _resume(path, net, ema, optimizer, recipe):
    """Load `path` into the running state if it exists.  -> steps already taken"""
    if not pathlib.Path(path).exists():
        return 0
    tensors, header = read_safetensors(path)
    if not {"step", "recipe", "seeds", "model"} <= set(header):
        raise ValueError(f"{path} is not a checkpoint of training: its header holds {', '.join(header)}")
    found = header["recipe"] | {"steps": recipe.steps}
    for what, came, expected in (("recipe", found, json.loads(json.dumps(dataclasses.asdict(recipe)))),
                                 ("seeds", header["seeds"], net.seeds), ("model", header["model"], net.config), ("ema", "ema." in "".join(tensors), bool(ema))):
        if came != expected:
            raise ValueError(f"{path} was made with {what} {came}; this run has {expected}")
    if header["step"] > recipe.steps:
        raise ValueError(f"{path} is at step {header['step']}; this run ends at {recipe.steps}")
    targets = {f"net.{k}": p for k, p in net.params.items()} | ({f"ema.{k}": p for k, p in ema.params.items()} if ema else {})
    for name, p in net.params.items():
        targets |= {f"m.{name}": optimizer.state[p]["exp_avg"], f"v.{name}": optimizer.state[p]["exp_avg_sq"]}
    shapes = {k: tuple(v.shape) for k, v in targets.items()}
    wrong = [k for k in shapes if k not in tensors or tuple(tensors[k].shape) != shapes[k]]
    if wrong:
        came = tuple(tensors[wrong[0]].shape) if wrong[0] in tensors else "nothing"
        raise ValueError(f"{path}: {wrong[0]} has shape {came}; expected {shapes[wrong[0]]}")
    for name, target in targets.items():
        target.detach().copy_(tensors[name])
    for state in optimizer.state.values():
        state["step"].fill_(header["step"])
    return header["step"]
