"""Speed of DiT-XL/2 on a CUDA device: a guided step and a fine-tuning step as the pipeline does them, against plain float32 with TF32
written as the official code is, and against diffusers where it is installed."""

import contextlib
import copy
import importlib.util

import torch

from .. import vp
from ..dit import CONFIGS, VP, DiT
from ..pipeline.cli import fast
from .bench_images import flops, matmul_peak, seconds

XL = dict(CONFIGS["DiT-XL/2"], input_size=32, in_channels=4)
W = 1.5


def benchmarks(config=None, batch=64, training_batch=32, device="cuda"):
    """All rows, each with `ours`, `plain` and their ratio, timed in this process."""
    config, peak = config or XL, matmul_peak(device=device)
    return [*guided_step(config, batch, peak, device), *training_step(config, training_batch, peak, device)]


def network(config, device, seed):
    """A network whose gates are open (fresh ones are zero), so that everything in it matters."""
    net, g = DiT(**config, num_classes=1000, seed=seed), torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p.data, std=0.02, generator=g)
    return net.to(device).requires_grad_(False)


@contextlib.contextmanager
def tf32():
    """Matrix products of float32 in TF32, as the official code sets it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def guided_step(config, batch, peak, device):
    """Image steps a second of Domain Guidance: one forward of each network and their combination."""
    main, guide = (network(config, device, s) for s in (1, 2))
    x = torch.randn(batch, 4, config["input_size"], config["input_size"], device=device, generator=torch.Generator(device).manual_seed(0))
    t, y = torch.full((batch,), 500, device=device), torch.arange(batch, device=device)

    def step(nets):
        (a, y_a), (b, y_b) = ((n.noise(k), k) for n, k in zip(nets, (y, nets[1].null), strict=True))
        return vp.guided_noise(a, b, W)(x, t)
    plain = [VP(n) for n in (main, guide)]
    ours = [VP(copy.deepcopy(n)) for n in (main, guide)]
    for net in plain:
        net.amp = False
    fast(*ours)
    with torch.no_grad():
        exact = step(plain)
        error = ((step(ours) - exact).norm() / exact.norm()).item()
        with tf32():
            slow = seconds(lambda: step(plain), 3, device)
        quick = seconds(lambda: step(ours), 10, device)
    share = 2 * batch * flops(config) / quick / peak
    rows = [dict(what=f"DoG step, DiT-XL/2, batch {batch}", ours=batch / quick, plain=batch / slow, unit="img-steps/s", ratio=slow / quick,
                 note=f"{share:.2f} of the measured bf16 peak of {peak / 1e12:.0f} TFLOP/s; guided output differs by {error:.1e} of its norm; plain: eager float32, TF32")]
    if importlib.util.find_spec("diffusers"):
        rows.append(_diffusers(main, x, t, y, batch / quick, device))
    return rows


def _diffusers(net, x, t, y, ours, device):
    """The same step by diffusers' class: bfloat16, blocks compiled, both halves in one batch of one network."""
    from ..dit.convert import to_diffusers
    model = to_diffusers(net).to(device, torch.bfloat16)
    if torch.device(device).type == "cuda":
        for block in model.transformer_blocks:
            block.compile()
    labels, twice, times = torch.cat([y, torch.full_like(y, net.null)]), torch.cat([x, x]).bfloat16(), torch.cat([t, t])

    def step():
        labelled, null = model(twice, timestep=times, class_labels=labels).sample.float().chunk(2)
        return null + W * (labelled - null)
    with torch.no_grad():
        plain = len(x) / seconds(step, 10, device)
    return dict(what=f"the same, against diffusers, batch {len(x)}", ours=ours, plain=plain, unit="img-steps/s", ratio=ours / plain,
                note="plain: DiTTransformer2DModel, bfloat16, blocks compiled")


def training_step(config, batch, peak, device):
    """Images a second of a fine-tuning step: loss, AdamW, average of the weights; and its memory, with activations kept and recomputed."""
    plain = _training(config, batch, device, plain=True)
    ours, again = (_training(config, batch, device, recompute=r) for r in (False, True))
    share = 3 * batch * flops(config) / ours[0] / peak
    return [dict(what=f"fine-tuning, DiT-XL/2, batch {batch}", ours=batch / ours[0], plain=batch / plain[0], unit="images/s", ratio=plain[0] / ours[0],
                 note=f"{share:.2f} of peak; {ours[1]:.1f} GiB, plain {plain[1]:.1f} GiB; plain: eager float32, TF32, AdamW and average in loops"),
            dict(what="the same, activations recomputed", ours=batch / again[0], plain=batch / ours[0], unit="images/s", ratio=ours[0] / again[0],
                 note=f"{again[1]:.1f} GiB instead of {ours[1]:.1f}; plain: activations kept")]


def _training(config, batch, device, plain=False, recompute=False):
    """Seconds a step, and GiB."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
    net = network(config, device, 1).requires_grad_(True)
    ema = copy.deepcopy(net).requires_grad_(False)
    net.recompute = recompute
    if not plain and cuda:
        for block in net.blocks:
            block.compile()
    params, averages = list(net.parameters()), list(ema.parameters())
    step = _step(net, params, averages, batch, plain, torch.Generator(device).manual_seed(0))
    with tf32() if plain else contextlib.nullcontext():
        took = seconds(step, 5, device)
    return took, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def _step(net, params, averages, batch, plain, g):
    """A function that takes one fine-tuning step on a fixed batch."""
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0, **(dict(foreach=False) if plain else dict(fused=True)))
    device, process = g.device, vp.Process()
    x0, eps = torch.randn(2, batch, *net.shape, device=device, generator=g)
    t, y = torch.randint(1000, (batch,), device=device, generator=g), torch.arange(batch, device=device)

    def step():
        x = process.noised(x0, t, eps)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and not plain):
            out = net(x, t, y)
        loss = vp.training_loss(out.float(), x0, x, t, eps, process)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            if not plain:
                return torch._foreach_lerp_(averages, params, 1e-4)
            for a, p in zip(averages, params, strict=True):
                a.mul_(0.9999).add_(p, alpha=1e-4)
    return step
