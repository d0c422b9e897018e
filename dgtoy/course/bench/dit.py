"""Speed of DiT-XL/2 on a CUDA device: a guided step and a fine-tuning step as the pipeline does them, against plain float32 with TF32
written as the official code is, and against diffusers where it is installed; step by step, and what did not pay."""

import contextlib
import copy
import functools
import importlib.util
import statistics

import torch

from ... import vp
from ...dit import CONFIGS, VP, DiT
from ...dit.fast import fast
from ...pipeline import finetune as tuning
from .images import flops, matmul_peak, seconds

XL = dict(CONFIGS["DiT-XL/2"], input_size=32, in_channels=4)
W = 1.5


def benchmarks(config=None, batch=64, training_batch=32, device="cuda"):
    """Rows, each with `ours`, `plain` and their ratio, timed in this process; one after the other, as they are found."""
    config, peak = config or XL, matmul_peak(device=device)
    net = network(config, device)
    yield from guided_step(
        net,
        batch,
        peak,
        matmul_peak(repeats=700 if torch.device(device).type == "cuda" else 1, device=device),
        device,
    )
    yield from training_step(net, training_batch, peak, device)


def network(config, device, seed=1):
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


def compiled(net):
    """The same network with its blocks compiled, on a CUDA device."""
    torch._dynamo.reset()
    for block in net.blocks if net.pos_embed.is_cuda else ():
        block.compile()
    return net


WAYS = {  # what is done to a network in bfloat16 without our layers
    "weights in bfloat16": lambda net: net,
    "and blocks compiled": compiled,
}


def guided_step(net, batch, peak, held, device):
    """Image steps a second of Domain Guidance: one forward of each network and their combination; a row for each way to run it."""
    g = torch.Generator(device).manual_seed(0)
    guide = copy.deepcopy(net)
    for p in guide.parameters():
        p.data += 0.1 * p.std() * torch.randn(p.shape, generator=g, device=device)
    x = torch.randn(batch, *net.shape, device=device, generator=g)
    t, y = torch.full((batch,), 500, device=device), torch.arange(batch, device=device)
    step = lambda nets: functools.partial(
        vp.guided_noise(nets[0].noise(y), nets[1].noise(nets[1].null), W), x, t
    )
    with torch.no_grad():
        plain = step([_as_is(n) for n in (net, guide)])
        exact = plain()
        with tf32():
            slow = seconds(plain, 3, device)
        row = functools.partial(
            _against_plain,
            exact=exact,
            slow=slow,
            work=2 * batch * flops(net.config),
            peak=peak,
            held=held,
            device=device,
        )
        shipped = {}
        for what, fp8 in (
            (f"DoG step, DiT-XL/2, batch {batch}", False),
            ("DoG step: products in 8 bits", True),
        ):
            nets = [VP(copy.deepcopy(n)) for n in (net, guide)]
            fast(*nets, fp8=fp8)
            shipped[what] = step(nets)
            yield row(what, shipped[what])
        for what, make in WAYS.items():
            yield row(
                f"DoG step: {what}", step([_as_is(make(copy.deepcopy(n).bfloat16())) for n in (net, guide)])
            )
        if importlib.util.find_spec("diffusers"):
            yield from _diffusers(net, guide, x, t, y, shipped, device)


def _against_plain(what, step, exact, slow, work, peak, held, device):
    """A row: `step` timed, against what took `slow` seconds and gave `exact`; `work` operations as a share of two peaks."""
    batch, error = len(exact), ((step() - exact).norm() / exact.norm()).item()
    took = seconds(step, 20, device)
    return dict(
        what=what,
        ours=batch / took,
        plain=batch / slow,
        unit="img-steps/s",
        ratio=slow / took,
        note=f"{work / took / peak:.2f} of the measured bf16 peak of {peak / 1e12:.0f} TFLOP/s, {work / took / held:.2f} of what the card holds "
        f"for a second; output differs by {error:.1e} of its norm; plain: eager float32, TF32",
    )


def _as_is(net):
    """A network as `VP`, in the precision of its weights."""
    found = VP(net)
    found.amp = False
    return found


def _diffusers(net, guide, x, t, y, shipped, device):
    """The same step by diffusers' class, bfloat16 and blocks compiled, both halves in one batch of one network; and what our wrapper adds to that."""
    from ...dit.convert import to_diffusers
    from ...interop.pipelines import DomainGuidedModel

    models = [to_diffusers(n).to(device, torch.bfloat16) for n in (net, guide)]
    torch._dynamo.reset()
    for model in models if torch.device(device).type == "cuda" else ():
        for block in model.transformer_blocks:
            block.compile()
    labels, twice, times = (
        torch.cat([y, torch.full_like(y, net.null)]),
        torch.cat([x, x]).bfloat16(),
        torch.cat([t, t]),
    )

    def step(model):
        labelled, null = model(twice, timestep=times, class_labels=labels).sample.float().chunk(2)
        return null + W * (labelled - null)

    def by_hand():
        labelled, null = (
            m(x.bfloat16(), timestep=t, class_labels=k).sample.float()
            for m, k in zip(models, labels.chunk(2), strict=True)
        )
        return null + W * (labelled - null)

    wrapped = DomainGuidedModel(*models)
    ways = {"CFG": lambda: step(models[0]), "by hand": by_hand, "wrapped": lambda: step(wrapped)} | shipped
    rate = {name: len(x) / took for name, took in _in_turn(ways, device).items()}
    for what in shipped:
        yield _versus(
            f"the same, against diffusers: {what.split(',')[0].split(': ')[-1]}",
            rate[what],
            rate["CFG"],
            "plain: DiTTransformer2DModel, bfloat16, blocks compiled, classifier-free guidance in one call",
        )
    yield _versus(
        "DoG in a diffusers pipeline, against its CFG",
        rate["wrapped"],
        rate["CFG"],
        "DomainGuidedModel; plain: one network, both halves in one call",
    )
    yield _versus(
        "what the wrapper itself costs",
        rate["wrapped"],
        rate["by hand"],
        "DomainGuidedModel; plain: the two networks called by hand, half a batch each",
    )


def _versus(what, ours, plain, note):
    return dict(
        what=what,
        ours=ours,
        plain=plain,
        unit="img-steps/s",
        ratio=ours / plain,
        note=f"{note}; timed in turn",
    )


def _in_turn(ways, device):
    """Median seconds of a call of each, timed in turn, every round from another one on and every second round backwards: a card slows as it warms up."""
    found, names = {name: [] for name in ways}, list(ways)
    for i in range(2 * len(names)):
        k = i // 2
        for name in (names[k:] + names[:k])[:: -1 if i % 2 else 1]:
            found[name].append(seconds(ways[name], 4, device))
    return {name: statistics.median(took) for name, took in found.items()}


def training_step(net, batch, peak, device):
    """Images a second of `dit finetune`, from drawn batch to averaged weights; and its memory, with activations kept and recomputed."""
    plain = _measured(lambda: _plain_step(net, batch, device), batch, device)
    ours = _measured(lambda: _pipeline_step(net, batch, device), batch, device)
    share = 3 * flops(net.config) * ours[0] / peak
    yield dict(
        what=f"fine-tuning, DiT-XL/2, batch {batch}",
        ours=ours[0],
        plain=plain[0],
        unit="images/s",
        ratio=ours[0] / plain[0],
        note=f"{share:.2f} of peak; {ours[1]:.1f} GiB, plain {plain[1]:.1f} GiB; plain: eager float32, TF32, AdamW and average in loops",
    )
    again = _measured(lambda: _pipeline_step(net, batch, device, recompute=True), batch, device)
    yield dict(
        what="the same, activations recomputed",
        ours=again[0],
        plain=ours[0],
        unit="images/s",
        ratio=again[0] / ours[0],
        note=f"{again[1]:.1f} GiB instead of {ours[1]:.1f}; plain: activations kept",
    )


def _measured(make, batch, device):
    """Images a second of the step that `make` returns, and its GiB."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
    rate = batch / seconds(make(), 8, device)
    return rate, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def _pipeline_step(net, batch, device, recompute=False):
    """A function that takes the next step of `dit finetune` on random latents."""
    g, model = torch.Generator().manual_seed(0), VP(compiled(copy.deepcopy(net).requires_grad_(True)))
    data = tuning.LatentTensors(
        torch.randn(256, *net.shape, generator=g), torch.randint(net.null, (256,), generator=g), net.null
    )
    config = tuning.Config(batch=batch, checkpointing=recompute)
    trainer, batch_fn = tuning.training(model, data, config, model.clone())
    steps = trainer.run(batch_fn)
    return lambda: next(steps)


def _plain_step(net, batch, device):
    """A function that takes one fine-tuning step on a fixed batch, written as the official code is."""
    net, process, g = (
        copy.deepcopy(net).requires_grad_(True),
        vp.Process(),
        torch.Generator(device).manual_seed(0),
    )
    ema, params = copy.deepcopy(net).requires_grad_(False), list(net.parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0, foreach=False)
    x0, eps = torch.randn(2, batch, *net.shape, device=device, generator=g)
    t, y = torch.randint(1000, (batch,), device=device, generator=g), torch.arange(batch, device=device)

    def step():
        x = process.noised(x0, t, eps)
        with tf32():
            loss = vp.training_loss(net(x, t, y), x0, x, t, eps, process)[0].mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(ema.parameters(), params, strict=True):
                a.mul_(0.9999).add_(p, alpha=1e-4)

    return step
