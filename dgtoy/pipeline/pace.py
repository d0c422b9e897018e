"""What to ask of a machine by default, and how long it will take."""

import time

import torch

RECIPES = {  # of fine-tuning the model that ships on some hundred pictures
    "cpu": dict(rank=8, steps=300, batch=8, lr=1e-3, ema=0.99),  # about 5 minutes of two cores
    "cuda": dict(rank=8, steps=1500, batch=64, lr=1e-3, ema=0.999),
}
TRAINING = 2.5  # passes that a step of fine-tuning costs a picture: one forward, and back


@torch.no_grad()
def seconds_a_pass(net, batch=2):
    """Seconds that one pass over one picture takes a network, here and now."""
    D, x = net.denoiser(net.null), torch.randn(batch, *net.shape, device=net.device)
    D(x, 1.0)  # the first pays for what later ones find ready
    began = time.perf_counter()
    D(x, 1.0)
    if net.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / batch


def of_finetune(config, done=0):
    """Passes over a picture that are left of a fine-tune after `done` steps."""
    return TRAINING * config.batch * max(0, config.steps - done)


def of_sample(config, done=0):
    """Passes over a picture that are left of a set of samples when `done` are there."""
    calls = (1 if config.method == "none" or config.w == 1 else 2) * (2 if config.sampler == "heun" else 1)
    return calls * config.steps * max(0, config.count - done)


def of_run(recipe, weights, count, steps=24):
    """Passes over a picture of a whole run: the fine-tune, then samples with none, CFG and DoG."""
    return TRAINING * recipe["batch"] * recipe["steps"] + count * steps * (1 + 4 * len(weights))


def duration(seconds):
    """A number of seconds as one says it: 40 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tell(seconds, device):
    """Say how long it will take, before it starts."""
    threads = torch.get_num_threads()
    machine = f"{device}, {threads} thread{'s' * (threads > 1)}" if str(device) == "cpu" else device
    print(f"about {duration(seconds)} ({machine})", flush=True)
