"""The state of a training run on disk: one safetensors file that is complete or not there."""

import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def start_moments(optimizer):
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
    part = _part(path)
    try:
        save_file(
            {k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, {"json": json.dumps(header)}
        )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part(path):
    """The hidden file that is to become `path`, in a folder that exists. Those that killed processes left behind go: untouched for ten minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 600:
                left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_text(path, text):
    """Text into `path`, which appears complete or not at all."""
    path = pathlib.Path(path)
    part = _part(path)
    try:
        part.write_text(text)
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


def resume(path, net, ema, optimizer, recipe):
    """Load `path` into the running state if it exists.  -> steps already taken"""
    if not pathlib.Path(path).exists():
        return 0
    tensors, header = read_safetensors(path)
    if not {"step", "recipe", "seeds", "model"} <= set(header):
        raise ValueError(f"{path} is not a checkpoint of training: its header holds {', '.join(header)}")
    found = header["recipe"] | (
        {"steps": recipe.steps} if getattr(recipe, "w", 1) == 1 else {}
    )  # with w > 1 the steps say when guidance starts
    for what, came, expected in (
        ("recipe", found, json.loads(json.dumps(dataclasses.asdict(recipe)))),
        ("seeds", header["seeds"], net.seeds),
        ("model", header["model"], net.config),
        ("ema", "ema." in "".join(tensors), bool(ema)),
    ):
        if came != expected:
            raise ValueError(f"{path} was made with {what} {came}; this run has {expected}")
    if header["step"] > recipe.steps:
        raise ValueError(f"{path} is at step {header['step']}; this run ends at {recipe.steps}")
    targets = {f"net.{k}": p for k, p in net.params.items()} | (
        {f"ema.{k}": p for k, p in ema.params.items()} if ema else {}
    )
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
