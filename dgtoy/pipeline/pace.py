"""What to ask of a machine by default, and how long it will take."""

import pathlib
import time

import torch

from .finetune import LOSS_BATCHES, remembered

RECIPES = {  # of fine-tuning the model that ships on some hundred pictures
    "cpu": dict(rank=8, steps=300, batch=8, lr=1e-3, ema=0.99),  # about 5 minutes of two cores
    "cuda": dict(rank=8, steps=1500, batch=64, lr=1e-3, ema=0.999),
}
TRAINING = 2.5  # passes that a step of fine-tuning costs a picture: one forward, and back


@torch.no_grad()
def seconds_a_pass(net):
    """Seconds that one pass over one picture takes a network, here and now."""
    D, x = net.denoiser(net.null), torch.randn(2, *net.shape, device=net.device)
    D(x, 1.0)  # the first pays for what later ones find ready
    began = time.perf_counter()
    D(x, 1.0)
    if net.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / len(x)


def of_finetune(config, out):
    """Passes over a picture that are left of the fine-tune in `out`: its steps, and at first the pre-trained
    model's own loss."""
    out = pathlib.Path(out)
    own = 0 if (out / "losses.csv").exists() else LOSS_BATCHES
    return config.batch * (TRAINING * max(0, config.steps - remembered(out)[1]) + own)


def of_sample(config, out):
    """Passes over a picture that are left of the samples in `out`."""
    done = len(list((pathlib.Path(out) / "images").glob("*.png")))
    calls = 2 * config.steps - 1 if config.sampler == "heun" else config.steps  # one in its last step, to 0
    networks = 1 if config.method == "none" or config.w == 1 else 2
    return networks * calls * max(0, config.count - done)


def of_calibrate(config, images):
    """Passes over a picture that calibration takes, of the fine-tune, its null branch and the guide."""
    return 3 * len(config.levels) * min(config.count, images)


def duration(seconds):
    """A number of seconds as one says it: 40 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tell(passes, net, what=""):
    """Before passes of a network start, say how long they take, behind the words `what`; of none nothing."""
    if not passes:
        return
    machine, threads = str(net.device), torch.get_num_threads()
    if net.device.type == "cpu":
        machine += f", {threads} thread" if threads == 1 else f", {threads} threads"
    print(f"{what}about {duration(passes * seconds_a_pass(net))} ({machine})", flush=True)
