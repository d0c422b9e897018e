"""DiT on a CUDA device: small ones as `fit` and `EDM` run them, DiT-XL/2 as the pipeline does.

Each against plain float32 written as the official code is (for DiT-XL/2 with TF32), and against diffusers
where it is installed.
"""

import copy
import functools
import importlib.util

import torch

from ... import vp
from ...dit import CONFIGS, EDM, VP, DiT
from ...dit.fast import fast
from ...guidance import domain_guidance
from ...pipeline import finetune as tuning
from ...samplers import dpmpp_2m, karras, last, log_normal
from ...train import Points, Recipe
from . import advance, fit_seconds, machine_speed, plain_loss, plain_step, rates, seconds

XL = dict(CONFIGS["DiT-XL/2"], input_size=32, in_channels=4)
SMALL = {  # name: (network, training batch, images sampled at once)
    "DiT 192 x 6, 64 tokens": (
        dict(input_size=32, patch_size=4, in_channels=3, hidden_size=192, depth=6, num_heads=3),
        1024,
        1024,
    ),
    "DiT-S/2, 256 tokens": (dict(CONFIGS["DiT-S/2"], input_size=32, in_channels=4), 256, 512),
    "DiT-B/4, 64 pixels": (dict(CONFIGS["DiT-B/4"], input_size=64, in_channels=3), 256, 256),
}
W = 1.5


def benchmarks(device="cuda"):
    """All rows, one after the other."""
    peak = 2 * 8192**3 / machine_speed(8192, device, torch.bfloat16)  # FLOP/s of dense products
    for name, (config, batch, n) in SMALL.items():
        net = EDM(network(dict(config, num_classes=62, learn_sigma=False), device))
        yield small_training(name, net, batch, peak, device)
        yield small_sampling(name, net, n, peak, device)
    net = network(XL, device)
    yield from guided_step(net, 64, peak, device)
    yield training_step(net, 32, peak, device)


def flops(config):
    """Of one forward pass of one image, a multiplication and an addition counted as two."""
    d, tokens = config["hidden_size"], (config["input_size"] // config["patch_size"]) ** 2
    pixels = config["patch_size"] ** 2 * config["in_channels"]
    layer = tokens * (12 * d * d + 2 * tokens * d) + 6 * d * d
    return 2 * (config["depth"] * layer + 2 * tokens * pixels * d + 2 * d * d + 256 * d + d * d)


def network(config, device, seed=1):
    """A DiT without gradient whose gates are open (fresh ones are zero), so that everything in it matters."""
    net, g = DiT(**dict(num_classes=1000, seed=seed) | config), torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p.data, std=0.02, generator=g)
    return net.to(device).requires_grad_(False)


def nearby(net):
    """A copy of a network with its weights moved by a tenth: its guide."""
    guide, g = copy.deepcopy(net), torch.Generator(net.pos_embed.device).manual_seed(0)
    for p in guide.parameters():
        p.data += 0.1 * p.std() * torch.randn(p.shape, generator=g, device=p.device)
    return guide


def in_tf32(f):
    """f with matrix products of float32 in TF32, as the official code sets it."""

    def quick():
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return f()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return quick


def in_float32(*models):
    """Have models run in the precision of their weights."""
    for model in models:
        model.amp = False


def of_peak(work, seconds, peak):
    """FLOP in so many seconds as a share of the peak, in words."""
    return f"{work / seconds / peak:.2f} of the measured bf16 peak of {peak / 1e12:.0f} TFLOP/s"


def difference(found, exact):
    """How far an output lies from the exact one, as a share of its norm, in words."""
    return f"output differs by {((found - exact).norm() / exact.norm()).item():.1e} of its norm"


def small_training(name, net, batch, peak, device, steps=8):
    """Images per second of `fit`, data and averages included."""
    config, g = net.config, torch.Generator().manual_seed(0)
    x0 = torch.randn(1, 4096, *net.shape, generator=g)
    data = Points(x0, torch.randint(net.null, (1, 4096), generator=g)).to(device)
    quick, plain = net.clone(), net.clone()
    for model in (quick, plain):
        model.net.requires_grad_(True)
    in_float32(plain)

    def loss():
        rows = torch.randint(data.x0.shape[1], (batch,), device=device)
        sigma = log_normal(torch.randn(batch, device=device), -1.0, 1.4)
        return plain_loss(plain, data.x0[0, rows], sigma, data.label[0, rows])

    recipe = Recipe(steps=10_000, batch=batch, lr=1e-4)
    took = fit_seconds(quick.compile(), data, recipe, steps, plain.net, loss, device)
    note = f"{of_peak(3 * flops(config) * steps * batch, took['ours'], peak)}; plain: eager float32"
    return rates(f"training, {name}, batch {batch}", "images/s", note, took, steps * batch, batch)


def small_sampling(name, net, n, peak, device, steps=32):
    """Images per second with Domain Guidance in `steps` steps, and the error of bfloat16."""
    sigmas, y = karras(steps, 0.01, 80.0), torch.arange(n, device=device) % net.null
    g = torch.Generator(device).manual_seed(0)
    x_T = 80 * torch.randn(n, *net.shape, device=device, generator=g)
    exact = [net.clone(), net.with_net(nearby(net.net))]
    quick = [model.clone().compile() for model in exact]
    in_float32(*exact)

    def draw(main, guide):
        D = domain_guidance(main.denoiser(y), guide.denoiser(guide.null), W)
        return last(dpmpp_2m(D, x_T, sigmas))

    took = seconds(dict(ours=lambda: draw(*quick), plain=lambda: draw(*exact)), device)
    share = of_peak(2 * steps * flops(net.config) * n, took["ours"], peak)
    note = f"{share}; {difference(draw(*quick), draw(*exact))}; plain: eager float32"
    what = f"sampling with DoG, {name}, {n} images, {steps} steps"
    return rates(what, "images/s", note, took, n, n)


@torch.no_grad()
def guided_step(net, batch, peak, device):
    """Image steps per second of Domain Guidance, one forward of each network: bfloat16, fp8, diffusers."""
    guide, g = nearby(net), torch.Generator(device).manual_seed(0)
    x = torch.randn(batch, *net.shape, device=device, generator=g)
    t, y = torch.full((batch,), 500, device=device), torch.arange(batch, device=device)

    def way(prepare):
        models = [VP(copy.deepcopy(n)) for n in (net, guide)]
        prepare(*models)
        step = vp.guided_noise(models[0].noise(y), models[1].noise(net.null), W)
        return lambda: step(x, t)

    ours = {
        f"DoG step, DiT-XL/2, batch {batch}": way(fast),
        "DoG step: products in 8 bits": way(functools.partial(fast, fp8=True)),
    }
    eager = way(in_float32)
    took = seconds(ours | {"plain": in_tf32(eager)} | _diffusers(net, guide, x, t, y), device)
    exact, work = eager(), 2 * batch * flops(net.config)

    def row(what, mine, other, note):
        return rates(what, "img-steps/s", note, dict(ours=took[mine], plain=took[other]), batch, batch)

    for what, step in ours.items():
        note = f"{of_peak(work, took[what], peak)}; {difference(step(), exact)}; plain: eager float32, TF32"
        yield row(what, what, "plain", note)
    if "CFG" in took:
        note = "plain: DiTTransformer2DModel, bfloat16, blocks compiled, classifier-free guidance in one call"
        for what in ours:
            yield row(f"the same, against diffusers: {what}", what, "CFG", note)
        yield row("DoG in a diffusers pipeline, against its CFG", "DomainGuidedModel", "CFG", note)


def _diffusers(net, guide, x, t, y):
    """The step by diffusers' class: CFG by one network, and Domain Guidance.  -> {way: function}"""
    if importlib.util.find_spec("diffusers") is None:
        return {}
    from ...dit.convert import to_diffusers
    from ...interop import DomainGuidedModel

    models = [to_diffusers(n).to(x.device, torch.bfloat16) for n in (net, guide)]
    for model in models if x.is_cuda else ():
        for block in model.transformer_blocks:
            block.compile()
    twice, times = torch.cat([x, x]).bfloat16(), torch.cat([t, t])
    labels = torch.cat([y, torch.full_like(y, net.null)])

    def step(model):
        labelled, null = model(twice, timestep=times, class_labels=labels).sample.float().chunk(2)
        return null + W * (labelled - null)

    wrapped = DomainGuidedModel(*models)
    return {"CFG": lambda: step(models[0]), "DomainGuidedModel": lambda: step(wrapped)}


def training_step(net, batch, peak, device):
    """Images per second of `dit finetune`, from drawn batch to averaged weights, and its memory."""
    took, memory = {}, {}
    for name, make in dict(plain=_official_step, ours=finetune_step).items():  # in turn: each fills the card
        cuda = torch.device(device).type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        took |= seconds({name: make(net, batch, device)}, device)
        memory[name] = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    note = (
        f"{of_peak(3 * flops(net.config) * batch, took['ours'], peak)}; "
        f"{memory['ours']:.1f} GiB, plain {memory['plain']:.1f} GiB; "
        "plain: eager float32, TF32, AdamW and average in loops"
    )
    return rates(f"fine-tuning, DiT-XL/2, batch {batch}", "images/s", note, took, batch, batch)


def finetune_step(net, batch, device):
    """A function that takes the next step of `dit finetune` on random latents."""
    g, model = torch.Generator().manual_seed(0), VP(copy.deepcopy(net).requires_grad_(True))
    x0, label = torch.randn(256, *net.shape, generator=g), torch.randint(net.null, (256,), generator=g)
    data, config = tuning.LatentTensors(x0, label, net.null), tuning.Config(batch=batch)
    trainer, batch_fn = tuning.training(model.compile_blocks(), data, config, model.clone())
    return advance(trainer.run(batch_fn), 1)


def _official_step(net, batch, device):
    """A function that takes one fine-tuning step on a fixed batch, written as the official code is."""
    net, process = copy.deepcopy(net).requires_grad_(True), vp.Process()
    g = torch.Generator(device).manual_seed(0)
    x0, eps = torch.randn(2, batch, *net.shape, device=device, generator=g)
    t, y = torch.randint(1000, (batch,), device=device, generator=g), torch.arange(batch, device=device)

    def loss():
        x = process.noised(x0, t, eps)
        return vp.training_loss(net(x, t, y), x0, x, t, eps, process)[0].mean()

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0, foreach=False)
    return in_tf32(plain_step(net, loss, optimizer))
