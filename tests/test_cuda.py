"""What runs only on a CUDA device: captured graphs, fused layers and the kernel, each against the plain way.
Skipped elsewhere, and so in CI.
"""

import copy

import pytest
import torch
from helpers import refuses, together

from dgtoy import calibrate, distributed
from dgtoy.course import recipes
from dgtoy.course.bench.dit import network
from dgtoy.course.worlds.photos import Photos
from dgtoy.dit import EDM, VP, DiT
from dgtoy.dit.fast import fast, fused, gated_norm, quantized
from dgtoy.graphs import Captured
from dgtoy.interop import add_lora, lora_guide
from dgtoy.pipeline import finetune
from dgtoy.train import Points, Recipe, fit
from dgtoy.trainer import TrainingConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TINY = dict(input_size=8, in_channels=4, patch_size=2, hidden_size=64, depth=2, num_heads=2)


def near(a, b, error):
    assert a.shape == b.shape and (a - b).norm() < error * b.norm()


def test_a_captured_function_follows_its_inputs_and_what_it_reads_in_place():
    weight = torch.ones(3, device="cuda")
    f = Captured(lambda x: weight * x)
    for n, value in ((3, 1.0), (1, 2.0), (3, 4.0)):
        weight.fill_(value)
        x = torch.randn(n, 3, device="cuda")
        assert torch.equal(f(x), value * x)


def test_compiled_blocks_and_captured_graphs_compute_what_the_plain_way_does():
    """bfloat16 against float32 to 2%, and the graph follows weights that change in place."""
    net = EDM(DiT(8, 2, 3, 64, 2, 4, 5, learn_sigma=False)).to("cuda")
    for p in net.net.parameters():
        torch.nn.init.normal_(p.data, std=0.05)
    quick, x = net.clone().compile(), torch.randn(16, 3, 8, 8, device="cuda")
    net.amp = False
    for _ in range(2):
        near(quick.denoiser(1)(x, 0.7), net.denoiser(1)(x, 0.7), 0.02)
        for p, q in zip(net.net.parameters(), quick.net.parameters(), strict=True):
            p.data.mul_(1.1)
            q.data.mul_(1.1)


@pytest.mark.parametrize("width", [64, 1152])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_its_three_lines(width, dtype):
    g = torch.Generator().manual_seed(0)
    h, y = 3 * torch.randn(2, 5, 16, width, generator=g).to(dtype)
    gate, shift, scale = torch.randn(5, 1, 3 * width, generator=g).to(dtype).chunk(3, -1)
    for tensors in ((h, y, gate, shift, scale), (h[:1], y, gate, shift, scale)):
        for mine, exact, kind in zip(
            gated_norm(*(a.cuda() for a in tensors)),
            gated_norm(*(a.double() for a in tensors)),
            (torch.float32, dtype),
            strict=True,
        ):
            assert mine.dtype == kind
            near(mine.cpu().double(), exact, 1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("with_gelu", [False, True])
def test_rounding_to_fp8_is_its_formula(with_gelu):
    x = 3 * torch.randn(7, 5, 4608, generator=torch.Generator().manual_seed(0)).bfloat16()
    mine, exact = quantized(x.cuda(), with_gelu), quantized(x, with_gelu)
    near(mine.scale.cpu(), exact.scale, 1e-5)
    near(mine.values.cpu().float(), exact.values.float(), 5e-3)  # few land on the other side of a rounding


@pytest.mark.parametrize("velocity", [False, True])
def test_a_fused_network_is_the_plain_one(velocity):
    net = network(TINY | dict(velocity=velocity), "cuda")
    x, t, y = (
        torch.randn(6, 4, 8, 8, device="cuda"),
        torch.arange(0, 996, 166, device="cuda")[:6],
        torch.tensor([0, 1, 2, 3, 4, net.null], device="cuda"),
    )
    half = copy.deepcopy(net).bfloat16()
    with torch.no_grad():
        near(fused(net)(x, t, y), net(x, t, y), 1e-5)
        near(fused(half)(x, t, y).float(), net(x, t, y), 0.02)
        eight = fused(half, fp8=True)
        on_cpu = fused(copy.deepcopy(half).cpu(), fp8=True)
        near(eight(x, t, y).float(), net(x, t, y), 0.02)
        near(eight(x, t, y).float().cpu(), on_cpu(x.cpu(), t.cpu(), y.cpu()).float(), 0.01)


def test_a_lora_pair_is_made_fast_once_and_stays_a_pair():
    tuned = add_lora(VP(network(TINY, "cuda")), 3, 2, 0)
    for p in tuned.params.values():
        torch.nn.init.normal_(p.data, std=0.5)
    guide, x = lora_guide(tuned), torch.randn(2, 4, 8, 8, device="cuda")
    plain = tuned.denoiser(1)(x, 0.7), guide.denoiser(guide.null)(x, 0.7)
    fast(tuned, guide)
    assert (plain[0] - plain[1]).norm() > 0.03 * plain[0].norm()
    near(tuned.denoiser(1)(x, 0.7), plain[0], 0.01)
    near(guide.denoiser(guide.null)(x, 0.7), plain[1], 0.01)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_captured_fine_tune_is_the_plain_one(rank, recompute, monkeypatch):
    g = torch.Generator().manual_seed(0)
    data, config = (
        finetune.LatentTensors(
            torch.randn(20, 4, 8, 8, generator=g), torch.randint(3, (20,), generator=g), 3
        ),
        finetune.Config(steps=6, batch=4, checkpointing=recompute),
    )

    def run():
        net = VP(network(TINY, "cuda"))
        net = add_lora(net, 3, rank, 0) if rank else net.with_classes(3)
        if not rank:
            net.net.requires_grad_(True)
        ema = net.clone()
        trainer, batch_fn = finetune.training(net, data, config, ema)
        losses = [s.loss.item() for s in trainer.run(batch_fn)]
        return torch.tensor(losses), torch.cat([p.flatten() for p in ema.params.values()])

    quick = run()
    monkeypatch.setattr("dgtoy.trainer.Captured", lambda f, warm=3: f)
    plain = run()
    near(quick[0], plain[0], 1e-4)
    near(quick[1], plain[1], 1e-4)
    assert len(set(quick[0].tolist())) == 6


def test_a_loss_that_is_not_finite_stops_a_captured_fine_tune():
    data = finetune.LatentTensors(torch.full((4, 4, 8, 8), float("nan")), torch.zeros(4, dtype=torch.long), 3)
    net = VP(network(TINY, "cuda")).with_classes(3)
    net.net.requires_grad_(True)
    with refuses("not finite at step 1", error=FloatingPointError):
        trainer, batch_fn = finetune.training(net, data, finetune.Config(steps=3, batch=2), net.clone())
        list(trainer.run(batch_fn))


def test_captured_training_of_small_images_is_the_plain_one(monkeypatch):
    """The learned guidance comes half way, with another graph."""
    g = torch.Generator().manual_seed(0)
    data = Points(torch.randn(1, 40, 4, 8, 8, generator=g), torch.randint(3, (1, 40), generator=g)).to("cuda")

    def run():
        net = EDM(DiT(**TINY, num_classes=3, learn_sigma=False)).to("cuda")
        net.amp = False
        guide, ema = net.clone(), net.clone()
        losses = [
            s.loss.item()
            for s in fit(net, data, Recipe(steps=8, batch=8, w=1.5), ema, guide=guide.denoiser(guide.null))
        ]
        return torch.tensor(losses), torch.cat([p.flatten() for p in ema.params.values()])

    quick = run()
    monkeypatch.setattr("dgtoy.trainer.Captured", lambda f, warm=3: f)
    plain = run()
    near(quick[0], plain[0], 1e-3)
    near(quick[1], plain[1], 1e-3)


def pretrained(path):
    """The averaged weights of a short pre-training, of the first process, in a file."""
    device, g = distributed.join("cuda"), torch.Generator().manual_seed(0)
    x = torch.randint(256, (24, 3, 64, 64), generator=g, dtype=torch.uint8)
    config = recipes.Photos(
        recipes.Photos().network | dict(patch_size=16, hidden_size=64, depth=2, num_heads=2),
        TrainingConfig(steps=12, batch=8, muon=3.0, clip=1.0),
    )
    ema = recipes.pretrain_photos(config, Photos(x, torch.arange(24) % 4, list("abcd")), device=device)
    if distributed.rank() == 0:
        torch.save({name: p.cpu() for name, p in ema.params.items()}, path)
    distributed.barrier()


@pytest.mark.filterwarnings("ignore")  # of the compiler, about gradients it looks for
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_processes_pretrain_as_one_with_their_steps_captured(tmp_path):
    pretrained(tmp_path / "one.pt")
    assert together(pretrained, tmp_path / "two.pt") == [0, 0]
    one, two = (
        torch.cat([p.flatten() for p in torch.load(tmp_path / f"{n}.pt").values()]) for n in ("one", "two")
    )
    near(two, one, 2e-3)


def test_the_bootstrap_of_a_calibration_is_drawn_by_its_generator_too():
    before, x0 = torch.get_rng_state(), torch.randn(9, 2, device="cuda")
    D, guide = lambda x, sigma: x / 2, lambda x, sigma: x / 3
    a, b = (
        calibrate(D, guide, x0, [0.5], generator=torch.Generator("cuda").manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(a.low, b.low) and torch.equal(torch.get_rng_state(), before)
