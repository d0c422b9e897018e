"""Speed of DiT on a CUDA device: training and guided sampling as `fit` and `EDM.compile` do them, against plain eager float32."""

import time

import torch

from ...dit import EDM, DiT
from ...guidance import domain_guidance
from ...samplers import dpmpp_2m, last
from ...schedules import karras
from ...train import Points, Recipe, denoising_loss, fit

SIZES = {  # name: (network, training batch, images sampled at once)
    "DiT 192 x 6, 64 tokens": (
        dict(input_size=32, patch_size=4, in_channels=3, hidden_size=192, depth=6, num_heads=3),
        1024,
        1024,
    ),
    "DiT-S/2, 256 tokens": (
        dict(input_size=32, patch_size=2, in_channels=4, hidden_size=384, depth=12, num_heads=6),
        256,
        512,
    ),
}


def benchmarks():
    """All rows, each with `ours`, `plain` and their ratio, timed in this process."""
    peak, found = matmul_peak(), []
    for name, (config, batch, n) in SIZES.items():
        found += [training(name, config, batch, peak), *sampling(name, config, n, peak)]
    return found


def matmul_peak(n=8192, repeats=20, device="cuda"):
    """FLOP/s of a dense bfloat16 matrix product of random matrices."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, repeats, device)


def flops(config):
    """Of one forward pass of one image, a multiplication and an addition counted as two."""
    d, tokens, pixels = (
        config["hidden_size"],
        (config["input_size"] // config["patch_size"]) ** 2,
        config["patch_size"] ** 2 * config["in_channels"],
    )
    layer = tokens * (12 * d * d + 2 * tokens * d) + 6 * d * d
    return 2 * (config["depth"] * layer + 2 * tokens * pixels * d + 2 * d * d + 256 * d + d * d)


def _net(config):
    """A network whose gates are open: fresh ones are zero."""
    net = DiT(**config, num_classes=62, learn_sigma=False)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p.data, std=0.02, generator=torch.Generator().manual_seed(1))
    return EDM(net).to("cuda")


def training(name, config, batch, peak, steps=128):
    """Images a second of a training step, data and averages included."""
    g = torch.Generator().manual_seed(0)
    data = Points(
        torch.randn(1, 4096, config["in_channels"], 32, 32, generator=g),
        torch.randint(62, (1, 4096), generator=g),
    ).to("cuda")
    net, marks = _net(config), {}
    torch.cuda.reset_peak_memory_stats()
    for step in fit(net.compile(), data, Recipe(steps=steps + 64, batch=batch, lr=1e-4), net.clone()):
        if step.step in (64, steps + 64):
            marks[step.step] = now()
    ours, memory = batch * steps / (marks[steps + 64] - marks[64]), torch.cuda.max_memory_allocated()
    plain = batch / seconds(_plain_step(config, data, batch), 10)
    return dict(
        what=f"training, {name}, batch {batch}",
        ours=ours,
        plain=plain,
        unit="images/s",
        ratio=ours / plain,
        note=f"{3 * flops(config) * ours / peak:.2f} of the measured bf16 peak of {peak / 1e12:.0f} TFLOP/s, {memory / 2**30:.1f} GiB; plain: eager float32",
    )


def _plain_step(config, data, batch):
    net = _net(config)
    net.amp, ema = False, net.clone()
    optimizer = torch.optim.Adam(net.net.parameters(), lr=1e-4)

    def step():
        rows = torch.randint(data.x0.shape[1], (batch,), device="cuda")
        x0, label = data.x0[0, rows], data.label[0, rows]
        sigma = torch.exp(1.4 * torch.randn(batch, device="cuda") - 1)
        x = x0 + sigma[:, None, None, None] * torch.randn_like(x0)
        loss = denoising_loss(net(x, sigma, label), x0, sigma, net.sigma_data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, p in zip(ema.net.parameters(), net.net.parameters(), strict=True):
                average.lerp_(p, 1e-3)
        return loss.item()

    return step


def sampling(name, config, n, peak, steps=32):
    """Images a second with Domain Guidance over `steps` steps; the error that bfloat16 makes; what an interval saves."""
    main, guide = _net(config), _net(config)
    guide.net.load_state_dict(
        {
            k: v + 0.01 * torch.randn_like(v) if v.is_floating_point() else v
            for k, v in main.net.state_dict().items()
        }
    )
    y, sigmas = torch.arange(n, device="cuda") % 62, karras(steps, 0.01, 80.0)
    x_T = 80 * torch.randn(
        n, config["in_channels"], 32, 32, device="cuda", generator=torch.Generator("cuda").manual_seed(0)
    )
    draw = lambda interval=(0.0, float("inf")): last(
        dpmpp_2m(domain_guidance(main.denoiser(y), guide.denoiser(guide.null), 1.5, interval), x_T, sigmas)
    )
    main.amp = guide.amp = False
    plain, exact = n / seconds(draw, 2), draw()
    main.amp = guide.amp = True
    main.compile(), guide.compile()
    took, found = seconds(draw, 5), draw()
    one = seconds(lambda: last(dpmpp_2m(main.denoiser(y), x_T, sigmas)), 5)
    part = seconds(lambda: draw((0.2, 2.0)), 5)
    share = 2 * steps * flops(config) * n / took / peak
    error = ((found - exact).norm() / exact.norm()).item()
    inside = int(((sigmas >= 0.2) & (sigmas <= 2.0)).sum())
    return [
        dict(
            what=f"sampling with DoG, {name}, {n} images, {steps} steps",
            ours=n / took,
            plain=plain,
            unit="images/s",
            ratio=n / took / plain,
            note=f"{share:.2f} of peak; bf16 samples differ by {error:.1e} of their norm; plain: eager float32",
        ),
        dict(
            what=f"the same in one call a step (DogFit), {name}",
            ours=n / one,
            plain=n / took,
            unit="images/s",
            ratio=took / one,
            note="plain: DoG",
        ),
        dict(
            what=f"the same on an interval, {name}",
            ours=n / part,
            plain=n / took,
            unit="images/s",
            ratio=took / part,
            note=f"guide called in {inside} of {steps} steps; plain: at every step",
        ),
    ]


def now(device="cuda"):
    """The time when all work so far is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(f, repeats, device="cuda"):
    """Mean time of a call after two to warm up."""
    f(), f()
    start = now(device)
    for _ in range(repeats):
        f()
    return (now(device) - start) / repeats
