"""The training loop: one optimizer step and one average of the weights, for every network here.

The randomness of step t of seed k is a function of (k, t) alone. So a member of an ensemble sees what it
would see alone, a resumed run what it would have seen, and several processes together what one sees.
"""

import dataclasses
import json
import math
import numbers
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from . import distributed
from .checkpoint import check_shapes, load_state, save_state
from .checks import append_dims, check_number, check_seed, check_whole, shown
from .graphs import Captured


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """What every training has: its length, its batch, AdamW and the average of the weights.

    dropout: the share of labels replaced by null. ema: the decay of the average. clip: the largest norm of a
    network's gradient, 0 for any. muon: how many times lr the matrices of a transformer's blocks learn with,
    by Muon (Jordan 2024, with the root mean square of AdamW's steps) instead of AdamW, 0 for AdamW alone;
    needs torch 2.9. schedule: of the learning rate after `warmup` steps in which it rises to lr: "constant";
    "cosine", falling to 0; "wsd", constant and in the last share `decay` of the steps falling to 0 on a line.
    Raises ValueError for values out of range.
    """

    steps: int = 2000
    batch: int = 256
    lr: float = 1e-3
    dropout: float = 0.1
    ema: float = 0.999
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 0.0
    muon: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    decay: float = 0.2

    def __post_init__(self):
        check_ranges(
            self,
            steps="[0, inf)",
            batch="[1, inf)",
            lr="(0, inf)",
            dropout="[0, 1]",
            ema="[0, 1)",
            weight_decay="[0, inf)",
            clip="[0, inf)",
            muon="[0, inf)",
            warmup="[0, inf)",
            decay="(0, 1]",
        )
        pair = isinstance(self.betas, tuple | list) and len(self.betas) == 2
        if not pair or not all(isinstance(b, numbers.Real) and 0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas is {self.betas}; expected two numbers, 0 <= beta < 1")
        if self.schedule not in ("constant", "cosine", "wsd"):
            raise ValueError(f"schedule is {self.schedule!r}; expected constant, cosine or wsd")

    def lr_at(self, step):
        """The learning rate of a step, counted from 0."""
        lr = self.lr * min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "cosine":
            return lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if self.schedule == "wsd":
            return lr * min(1.0, (self.steps - step) / (self.decay * self.steps))
        return lr

    def same_until(self, step):
        """Whether the first `step` steps do not depend on how many follow: then a run may go on longer."""
        if self.schedule == "wsd":
            return step <= (1 - self.decay) * self.steps
        return self.schedule == "constant"


def check_ranges(config, **ranges):
    """Raise unless each named field lies in its interval, written as "[0, 1)": ValueError; TypeError for what
    is no number, or no whole one where the field is an int. numpy's become Python's, which JSON can hold."""
    for name, interval in ranges.items():
        value = getattr(config, name)
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise TypeError(f"{name} is {shown(value)}; expected a number in {interval}")
        if config.__dataclass_fields__[name].type is int:
            check_whole(name, value)
        if isinstance(value, np.number):
            object.__setattr__(config, name, value.item())
        check_number(name, value, interval)


class Step(NamedTuple):
    """What a training yields: steps taken so far, and the loss of the last one, (S,) or ()."""

    step: int
    loss: torch.Tensor


def generator(seed, step, device="cpu"):
    """The random numbers of a step of a seed. Raises as `checks.check_seed` does."""
    return torch.Generator(device).manual_seed(1_000_003 * check_seed("seed", seed) + step)


def matrices(params):
    """The names of the parameters that Muon trains: every matrix of a block but those of its modulation."""
    return [n for n, p in params.items() if p.ndim == 2 and n.startswith("blocks.") and "adaLN" not in n]


def clip_each_(grads, most):
    """Scale gradients (S, ...) in place: those of each of S networks to a norm of `most` at most."""
    norms = torch.cat([g.flatten(1) for g in grads], 1).norm(dim=1)  # (S,)
    factors = (most / (norms + 1e-6)).clamp(max=1)  # as in torch's clip_grad_norm_
    for g in grads:
        g.mul_(append_dims(factors, g))


class Trainer:
    """A training run: the weights of `net`, their average `ema`, the optimizers' moments, and its progress.

    net: an nn.Module, or anything with `params` {name: tensor}. ema: a clone of net that receives the moving
    average of its weights, its decay warming up: min(recipe.ema, (1 + t) / (10 + t)).
    origin {}: what the run is made from, fingerprints by name; `resume` refuses the state of another.
    loss_fn(net, *batch): the loss () of a batch, or (S,), one for each of S networks, each parameter's first
    axis, that share no weight. On a CUDA device a step is two captured graphs, gradient and update.
    Processes of a group (`distributed.join`) average their gradients; each calls the trainer on its own slice
    of the batch. Raises TypeError for a net that does not train; ValueError for one without parameters, an
    ema that is no clone of it, or Muon where there is nothing for it.
    """

    @torch.inference_mode(False)  # in which nothing trains
    def __init__(self, net, loss_fn, recipe, ema=None):
        self.origin = {}
        self.net, self.loss_fn, self.recipe, self.step = net, loss_fn, recipe, 0
        self.params = _params(net)
        self.averages = {} if ema is None else _params(ema)
        if ema is net:
            raise ValueError("ema is net itself; expected a clone of it, or None")
        if ema is not None:
            check_shapes("ema", self.averages, self.params)
        by_muon = matrices(self.params) if recipe.muon else []
        if recipe.muon and not by_muon:
            raise ValueError(
                f"muon is {recipe.muon}; expected 0, as this {type(net).__name__} has no matrices in blocks"
            )
        params = [p for name, p in self.params.items() if name not in by_muon]
        on_cuda = params[0].is_cuda  # there a captured update reads the learning rate from where it lies
        self.optimizer = torch.optim.AdamW(
            params,
            lr=torch.tensor(recipe.lr, device=params[0].device) if on_cuda else recipe.lr,
            betas=tuple(recipe.betas),
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=on_cuda,
        )
        for p in params:
            self.optimizer.state[p] = dict(
                step=torch.zeros((), device=p.device),
                exp_avg=torch.zeros_like(p),
                exp_avg_sq=torch.zeros_like(p),
            )
        self.muon = _muon([self.params[name] for name in by_muon], recipe) if by_muon else None
        self._halves = {}

    @torch.inference_mode(False)
    def run(self, batch_fn):
        """Train up to recipe.steps; a generator of `Step`.

        batch_fn(step): the tensors that step `step`, counted from 0, sees, and nothing else than that decides
        what they are.
        Raises FloatingPointError at a loss that is not finite, naming step and seed; the weights are then
        those before that step.
        """
        averages, params = list(self.averages.values()), list(self.params.values())
        following = batch_fn(self.step) if self.step < self.recipe.steps else None
        while self.step < self.recipe.steps:
            gradient, update = self._captured(following)
            loss = gradient(*following)
            if self.step + 1 < self.recipe.steps:
                following = batch_fn(self.step + 1)  # drawn while the device works
            distributed.average_([loss, *(p.grad for p in params if p.grad is not None)])
            self._check(loss)
            self._set_lr(self.recipe.lr_at(self.step))
            update(loss)
            if self.muon:
                self.muon.step()
            if averages:
                with torch.no_grad():
                    decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
                    torch._foreach_lerp_(averages, params, 1 - decay)
            self.step += 1
            yield Step(self.step, loss)

    def saved(self, batch_fn, path, every=500, **how):
        """As `run`; the first process saves every `every` steps, at the end and when a loss is not finite."""
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)  # or fail now, not after a day
        try:
            for step in self.run(batch_fn):
                if step.step % every == 0 or step.step == self.recipe.steps:
                    self.save(path, **how)
                yield step
        except FloatingPointError:
            self.save(path, **how)
            raise

    def save(self, path, compact=False, **how):
        """Write all that it takes to go on; the first process does. See `checkpoint.save_state` for `path`.

        compact: moments in bfloat16, for a quarter less on disk. The run that goes on then differs by
        rounding.
        """
        if distributed.rank() == 0:
            small = {
                k: v.bfloat16() if compact and k[:2] in ("m.", "v.") else v for k, v in self._state().items()
            }
            save_state(path, small, self._header(), **how)

    def resume(self, path):
        """Go on from what `save` wrote, as if the run had never stopped; start anew where there is nothing.

        Raises ValueError, and changes nothing, for the state of another run or a damaged one.
        """
        found = load_state(path)
        if found is None:
            return
        tensors, header = found
        self._check_header(path, tensors, header)
        mine = self._state()
        check_shapes(path, tensors, mine)
        for name, target in mine.items():
            compact = torch.bfloat16 if name[:2] in ("m.", "v.") else target.dtype
            if tensors[name].dtype not in (target.dtype, compact):
                raise ValueError(f"{path}: {name} is in {tensors[name].dtype}; expected {target.dtype}")
        for name, target in mine.items():
            target.detach().copy_(tensors[name])
        self.step = header["step"]
        for state in self.optimizer.state.values():
            state["step"].fill_(self.step)

    @property
    def nbytes(self):
        """How many bytes `save` writes."""
        return sum(value.nbytes for value in self._state().values())

    def _state(self):
        """Weights, averages and moments by name."""
        found = {}
        for name, p in self.params.items():
            found[f"net.{name}"] = p
            if p in self.optimizer.state:
                found[f"m.{name}"] = self.optimizer.state[p]["exp_avg"]
                found[f"v.{name}"] = self.optimizer.state[p]["exp_avg_sq"]
            else:
                found[f"m.{name}"] = self.muon.state[p]["momentum_buffer"]
        return found | {f"ema.{name}": p for name, p in self.averages.items()}

    def _header(self):
        return dict(
            step=self.step,
            recipe=json.loads(json.dumps(dataclasses.asdict(self.recipe))),
            seeds=list(getattr(self.net, "seeds", [0])),
            model=getattr(self.net, "config", {}),
            origin=self.origin,
        )

    def _check_header(self, path, tensors, header):
        mine = self._header()
        whole = isinstance(header, dict) and mine.keys() - {"origin"} <= header.keys()
        if not whole or not isinstance(header.get("origin", {}), dict):
            raise ValueError(f"{path} is not a checkpoint of training: its header is {shown(header)}")
        step, recipe = header["step"], header["recipe"]
        told = isinstance(recipe, dict) and type(step) is int and type(recipe.get("steps")) is int
        if not told or not 0 <= step <= recipe["steps"]:
            raise ValueError(
                f"{path} is at step {step!r} of recipe {shown(recipe)}; expected a step of a recipe"
            )
        longer = dataclasses.replace(self.recipe, steps=recipe.get("steps", 0))
        if longer.same_until(step) and self.recipe.same_until(step):
            recipe = recipe | dict(steps=self.recipe.steps)
        came = header | header.get("origin", {})
        came |= dict(recipe=recipe, ema=any(name.startswith("ema.") for name in tensors))
        mine |= self.origin | dict(ema=bool(self.averages))
        for what in ("recipe", "seeds", "model", "ema", *self.origin):
            if came.get(what) != mine[what]:
                theirs, ours = _differing(came.get(what), mine[what])
                raise ValueError(f"{path} was made with {what} {theirs}; this run has {ours}")
        if step > self.recipe.steps:
            raise ValueError(f"{path} is at step {step}; this run ends at {self.recipe.steps}")

    def _captured(self, batch):
        """Both halves of a step for this kind of batch; an update reads gradients where its half put them."""
        kind = tuple((a.shape, a.dtype) for a in batch)
        if kind not in self._halves:
            self._halves[kind] = Captured(self._gradient), Captured(self._update, warm=0)
        return self._halves[kind]

    @torch.enable_grad()
    def _gradient(self, *batch):
        loss = self.loss_fn(self.net, *batch)
        for p in self.params.values():
            if self.muon is None:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()  # Muon, which is not captured, finds every kind of batch's in one place
        loss.sum().backward()
        return loss.detach()

    def _update(self, loss):
        """The optimizer's step. loss: by its shape, of how many networks; and where they are."""
        params = list(self.params.values())
        if self.recipe.clip and loss.numel() == 1:
            nn.utils.clip_grad_norm_(params, self.recipe.clip)
        elif self.recipe.clip:
            clip_each_([p.grad for p in params if p.grad is not None], self.recipe.clip)
        self.optimizer.step()

    def _set_lr(self, lr):
        group = self.optimizer.param_groups[0]
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
        if self.muon:
            self.muon.param_groups[0]["lr"] = self.recipe.muon * lr

    def _check(self, loss):
        finite = loss.reshape(-1).isfinite()
        if not bool(finite.all()):
            seeds = getattr(self.net, "seeds", range(len(finite)))
            seed = seeds[int((~finite).nonzero()[0])]
            raise FloatingPointError(
                f"the loss of seed {seed} is not finite at step {self.step + 1};"
                f" the weights are those of step {self.step}"
            )


def _muon(params, recipe):
    """torch's Muon with all its state in place."""
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(
            f"muon is {recipe.muon} with torch {torch.__version__}; expected torch 2.9 or newer"
        )
    made = torch.optim.Muon(params, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    for p in params:
        made.state[p] = dict(momentum_buffer=torch.zeros_like(p))
    return made


def _differing(one, other):
    """Two values; of two dicts only what differs, as text."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one, other
    keys = [k for k in one | other if one.get(k) != other.get(k)]
    return tuple(", ".join(f"{k} = {d.get(k)}" for k in keys) for d in (one, other))


def _params(net):
    """The tensors that train, by name."""
    if not hasattr(net, "params") and not isinstance(net, nn.Module):
        raise TypeError(f"a {type(net).__name__} does not train; expected a module, or one with `params`")
    params = net.params if hasattr(net, "params") else dict(net.named_parameters())
    if not params:
        raise ValueError(f"a {type(net).__name__} has no parameters that train; expected some")
    return params
