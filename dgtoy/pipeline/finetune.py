"""Fine-tune a DiT on cached latents by the paper's recipe, on one process or many: the same global batch, the same run.

What step t sees depends on (seed, t) alone: its rows, mirrors, times, noise and dropped labels are drawn for the whole
batch on the CPU, and each process takes its share. So a run on two processes equals one on one, and a resumed run the
one that was never stopped.
"""

import dataclasses
import json
import pathlib

import torch
from safetensors import safe_open

from .. import vp
from ..checkpoint import read_safetensors, resume, save_checkpoint, start_moments, write_safetensors
from ..dit import VP, load_pretrained
from ..graphs import Captured
from ..interop import add_lora, lora_guide
from ..train import Step


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper's recipe: AdamW without weight decay, label dropout, an average of the weights.

    rank: of a LoRA adapter instead of a full fine-tune. checkpointing: recompute each block's activations in the backward
    pass, for less memory. keep: steps whose averaged weights are kept. Raises ValueError for values out of range.
    """

    steps: int = 24_000
    batch: int = 32
    lr: float = 1e-4
    dropout: float = 0.1
    ema: float = 0.9999
    seed: int = 0
    rank: int = 0
    checkpointing: bool = False
    keep: tuple = ()

    def __post_init__(self):
        if self.steps < 0 or self.batch < 1 or not 0 < self.lr < float("inf"):
            raise ValueError(
                f"steps, batch, lr are {self.steps}, {self.batch}, {self.lr}; expected >= 0, >= 1, > 0 and finite"
            )
        if not 0 <= self.dropout <= 1 or not 0 <= self.ema < 1 or self.rank < 0:
            raise ValueError(
                f"dropout, ema, rank are {self.dropout}, {self.ema}, {self.rank}; expected shares from 0 to 1, ema below 1, rank >= 0"
            )


def batch_of(data, step, config, null):
    """What step `step` (from 0) trains on: x0 (B, C, h, w), label, time (B,), noise (B, C, h, w), on the CPU.

    Images come in a fresh random order in every pass over the data; labels are dropped to `null`.
    """
    first, n = step * config.batch, len(data)
    rows = [_order(n, config.seed, place // n)[place % n] for place in range(first, first + config.batch)]
    g = torch.Generator().manual_seed(1_000_003 * config.seed + step)
    flip, drop = torch.rand(2, config.batch, generator=g)
    time = torch.randint(vp.TIMES, (config.batch,), generator=g)
    z, eps = torch.randn(2, config.batch, *data.shape, generator=g)
    x0, label = data.draw(torch.tensor(rows), flip < 0.5, z)
    return x0, torch.where(drop < config.dropout, null, label), time, eps


_orders = {}


def _order(n, seed, turn):
    """The order of one pass over n images; the last two are kept, as a batch may reach from one into the next."""
    key = n, seed, turn
    if key not in _orders:
        while len(_orders) > 1:
            _orders.pop(next(iter(_orders)))
        _orders[key] = torch.randperm(
            n, generator=torch.Generator().manual_seed(7_919 * (seed + 1) + turn)
        ).tolist()
    return _orders[key]


def finetune(net, data, config, out, accelerator=None, every=1000):
    """Train a `VP` in place; a generator of `Step`. OUT holds `last.safetensors`, from which it goes on, and at the end `ema.safetensors`.

    data: `Latents` on the CPU. accelerator: an accelerate.Accelerator, when several processes share the batch.
    The averaged weights are written by their official names, as any DiT checkpoint; of a LoRA fine-tune only what trained. Raises ValueError for data of another
    shape or number of classes, FloatingPointError at a non-finite loss, naming the step.
    """
    out = pathlib.Path(out)
    if data.shape != net.shape or len(data.classes) != net.null:
        raise ValueError(
            f"data has latents {data.shape} of {len(data.classes)} classes; expected {net.shape} and {net.null}"
        )
    share = 1 if accelerator is None else accelerator.num_processes
    if config.batch % share:
        raise ValueError(f"batch is {config.batch}; expected a multiple of the {share} processes")
    return _iterate(net, data, config, out, accelerator, every)


def _iterate(net, data, config, out, accelerator, every):
    ema, optimizer = net.clone(), _optimizer(net, config)
    start = resume(out / "last.safetensors", net, ema, optimizer, config)
    for step in steps(net, ema, data, config, optimizer, start, accelerator):
        if accelerator is None or accelerator.is_main_process:
            _write(net, ema, optimizer, config, out, step.step, every)
        yield step


def averaged(net, data, config, at):
    """Train a `VP` in place and keep nothing on disk.  -> {step: the averaged weights as a VP} for every step in `at`"""
    ema, kept = net.clone(), {}
    for step in steps(net, ema, data, config):
        if step.step in at:
            kept[step.step] = ema.clone()
    return kept


def _optimizer(net, config):
    optimizer = torch.optim.AdamW(
        list(net.params.values()),
        lr=config.lr,
        weight_decay=0,
        fused=True,
        capturable=net.device.type == "cuda",
    )
    start_moments(optimizer)
    return optimizer


def steps(net, ema, data, config, optimizer=None, start=0, accelerator=None):
    """Train a `VP` in place, and its average `ema`; a generator of `Step` that writes nothing."""
    optimizer = optimizer or _optimizer(net, config)
    rank, share = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    cuda = net.device.type == "cuda"
    params, averages = list(net.params.values()), [ema.params[k].detach() for k in net.params]
    net.net.recompute = config.checkpointing
    (gradient, update), mine = (
        _halves(net, optimizer, accelerator),
        slice(rank * config.batch // share, (rank + 1) * config.batch // share),
    )
    following = batch_of(data, start, config, net.null)
    for step in range(start, config.steps):
        loss = gradient(*(a[mine].to(net.device, non_blocking=cuda) for a in following))
        following = batch_of(data, step + 1, config, net.null)  # drawn while the device works
        loss = _mean(loss, accelerator)
        if not bool(loss.isfinite()):
            raise FloatingPointError(
                f"the loss is not finite at step {step + 1}; the weights are those of step {step}"
            )
        update(loss)
        with torch.no_grad():
            torch._foreach_lerp_(
                averages, [p.detach() for p in params], 1 - min(config.ema, (1 + step) / (10 + step))
            )
        yield Step(step + 1, loss)


def _halves(net, optimizer, accelerator):
    """A step's two halves: to leave the gradients of a batch in the weights and return its loss, and, given that, to update. On one CUDA device captured graphs."""
    model, process = _shared(net, accelerator), vp.Process().to(net.device)

    def gradient(x0, label, time, eps):
        x = process.noised(x0, time, eps)
        with torch.autocast(net.device.type, torch.bfloat16, enabled=net.device.type == "cuda" and net.amp):
            output = model(x, time, label)
        loss = vp.training_loss(output.float(), x0, x, time, eps, process)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    update = lambda loss: optimizer.step()
    if model is not net.net:  # processes that share a batch talk within the backward pass
        return gradient, update
    return Captured(gradient), Captured(update, warm=0)


def _shared(net, accelerator):
    """The network whose backward pass averages gradients over processes."""
    if accelerator is None or accelerator.num_processes == 1:
        return net.net
    return torch.nn.parallel.DistributedDataParallel(
        net.net, device_ids=[net.device.index] if net.device.type == "cuda" else None
    )


def _mean(loss, accelerator):
    return loss if accelerator is None else accelerator.reduce(loss, "mean")


def _write(net, ema, optimizer, config, out, step, every):
    """The state to go on from, and averaged weights at the steps that are kept and at the end."""
    done = step == config.steps
    if step in config.keep or done:
        state = ema.params if config.rank else ema.net.state_dict()
        write_safetensors(
            out / ("ema.safetensors" if done else f"ema-{step:06d}.safetensors"),
            state,
            dict(step=step, **dataclasses.asdict(config)),
        )
    if done or step % every == 0:
        save_checkpoint(out / "last.safetensors", net, ema, optimizer, config, step)


def start(pretrained, num_classes, config, device="cpu", num_heads=None, fast=True):
    """What fine-tuning begins with: a pre-trained checkpoint with a fresh label table, and an adapter where config.rank asks for one.  -> VP"""
    net = VP(load_pretrained(pretrained, num_heads=num_heads)).to(device)
    net = (
        add_lora(net, num_classes, config.rank, config.seed)
        if config.rank
        else net.with_classes(num_classes, config.seed)
    )
    if fast and net.device.type == "cuda":
        for block in net.net.blocks:
            block.compile()
    return net


@torch.no_grad()
def normal_loss(pretrained, data, config, device="cpu", num_heads=None, batches=16):
    """The loss of the pre-trained model itself, with its null label, on batches of the kind that training sees and does not reach.

    A fine-tune that learns ends below the mean, and single batches scatter as these do.  -> mean, std from batch to batch
    """
    net, process, found = VP(load_pretrained(pretrained, num_heads=num_heads)).to(device), vp.Process(), []
    for step in range(config.steps, config.steps + batches):
        x0, _, time, eps = (a.to(device) for a in batch_of(data, step, config, net.null))
        x = process.noised(x0, time, eps)
        output = net.net(x, time, torch.full_like(time, net.null))
        found.append(vp.training_loss(output.float(), x0, x, time, eps, process)[0].mean())
    return torch.stack(found).mean().item(), torch.stack(found).std().item()


def load(path, pretrained=None, device="cpu", num_heads=None):
    """A fine-tune from a file: what `finetune` wrote, or any DiT checkpoint; a LoRA on top of its `pretrained` checkpoint.  -> VP

    Raises ValueError for a LoRA without it, or on top of another network than its own kind.
    """
    made = header(path)
    if not made.get("rank"):
        return VP(load_pretrained(path, num_heads=num_heads)).to(device)
    if pretrained is None:
        raise ValueError(
            f"{path} holds a LoRA alone; expected --pretrained, the checkpoint that it was trained on"
        )
    tensors = read_safetensors(path)[0]
    classes = len(tensors["y_embedder.finetuned.embedding_table.weight"]) - 1
    tuned = start(pretrained, classes, Config(rank=made["rank"]), device, num_heads, fast=False)
    shapes = {name: p.shape for name, p in tuned.params.items()}
    if shapes != {name: value.shape for name, value in tensors.items()}:
        raise ValueError(
            f"{path} holds {len(tensors)} trained weights that do not fit {pretrained}; expected those of a LoRA of rank {made['rank']} on it"
        )
    for name, p in tuned.params.items():
        p.data.copy_(tensors[name])
    return tuned


def pair(finetuned, pretrained, device="cpu", num_heads=None):
    """A fine-tune and the pre-trained model that guides it, from files: two networks, or one with its adapter on and off.  -> VP, VP

    Raises ValueError if the two do not share their latents.
    """
    tuned = load(finetuned, pretrained, device, num_heads)
    if header(finetuned).get("rank"):
        return tuned, lora_guide(tuned)
    guide = VP(load_pretrained(pretrained, num_heads=num_heads)).to(device)
    if tuned.shape != guide.shape:
        raise ValueError(
            f"{pretrained} makes latents {guide.shape}, {finetuned} {tuned.shape}; a guide must share them"
        )
    return tuned, guide


def header(path):
    """What `finetune` says of a file that it wrote: its step and configuration; of any other file nothing."""
    if pathlib.Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as f:
            return json.loads((f.metadata() or {}).get("json", "{}"))
    except Exception:  # damaged: whoever loads it will say so
        return {}
