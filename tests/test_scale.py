"""The study at scale: its world, its data and its judge. (That it runs and makes a
record: test_experiments.)"""

import base64
import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import together
from PIL import Image

from dgtoy import distributed, domain_guidance, vp
from dgtoy.checkpoint import load_state
from dgtoy.course.claims.scale import c15, c20
from dgtoy.course.experiments import directions, scale, scale_setup, why
from dgtoy.course.worlds import glyphs
from dgtoy.dit import VP, DiT
from dgtoy.pipeline import finetune, sample
from dgtoy.pipeline.latents import Unshuffle

close = torch.testing.assert_close


def test_codes_have_the_input_shape_of_dit_256_and_lose_only_colour():
    x = glyphs.World(size=64).sample(4, generator=torch.Generator().manual_seed(0))[0]
    z = scale_setup.codes(x)
    assert z.shape == (4, 4, 32, 32)
    close(Unshuffle().decode(z)[:, 0], x.mean(1))


def test_a_held_set_gives_its_rows_and_mirrors_none():
    x0, label = torch.randn(5, 4, 2, 2), torch.arange(5) % 3
    data = finetune.LatentTensors(x0, label, 3)
    found, its = data.draw(torch.tensor([4, 0]), torch.tensor([True, False]), torch.randn(2, 4, 2, 2))
    assert (
        torch.equal(found, x0[[4, 0]])
        and its.tolist() == [1, 0]
        and len(data) == 5
        and data.shape == (4, 2, 2)
    )


def test_the_target_of_a_name_is_what_the_table_says():
    worlds = {name: scale_setup.world(name) for name in scale_setup.TARGETS}
    assert worlds["ten digits"].num_classes == 10 and worlds["course"].num_classes == 62
    assert worlds["course"].size == 64 and worlds["other fonts"].fonts != worlds["course"].fonts


def test_the_kept_averages_are_those_that_the_pipeline_writes(tmp_path):
    x0, label = torch.randn(12, 4, 8, 8), torch.arange(12) % 3
    recipe = finetune.Config(steps=4, batch=6, lr=1e-3, ema=0.9, keep=(2,))
    make = lambda: VP(DiT(8, 2, 4, 16, 1, 2, 3, seed=1))
    kept = finetune.averaged(make(), finetune.LatentTensors(x0, label, 3), recipe, {2, 4})
    for _ in finetune.finetune(make(), finetune.LatentTensors(x0, label, 3), recipe, tmp_path):
        pass
    from safetensors.torch import load_file

    for step, name in ((2, "ema-000002.safetensors"), (4, "ema.safetensors")):
        written = load_file(tmp_path / name)
        assert all(torch.equal(v, written[k]) for k, v in kept[step].net.state_dict().items())


def test_the_judge_draws_what_the_pipeline_draws_and_true_codes_score_as_true_pictures():
    config = scale.Config(samples=62, truth=400)
    judge = scale_setup.LatentJudge(config, "course", "cpu")
    net = VP(DiT(**scale.SMALL, num_classes=62).requires_grad_(False))
    how = sample.Config(method="none", sampler=config.sampler, steps=config.steps, seed=3)
    parts = [sample.draw_latents(net, None, how, images, 62) for images in (range(10), range(10, 62))]
    one, other = judge.latents(net, None, seed=3, method="none"), torch.cat(parts)
    close(one, other, rtol=1e-4, atol=1e-4)
    close(judge.sample(net.denoiser, 3), other, rtol=1e-4, atol=1e-4)
    true, noise = judge.score(judge.draw(62, 77)), judge.score(torch.randn(62, 4, 32, 32))
    assert true["frechet"] < noise["frechet"] / 3 and true["class_error"] < 0.2 < noise["class_error"]


def test_pre_training_learns_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DGTOY_CACHE", str(tmp_path))
    config = scale.Config(images=640, lr=1e-2)
    net = scale_setup.pretrained(config, scale.SMALL)
    again = scale_setup.pretrained(config, scale.SMALL)
    assert (
        all(torch.equal(a, b) for a, b in zip(net.net.parameters(), again.net.parameters(), strict=True))
        and len(list(tmp_path.iterdir())) == 1
    )
    x0, label = glyphs.World(size=64).sample(62, generator=torch.Generator().manual_seed(5))
    x0, process, i = scale_setup.codes(x0), vp.Process(), torch.full((62,), 600)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6))
    x = process.noised(x0, i, eps)
    mse = lambda n: vp.training_loss(n.net(x, i, label), x0, x, i, eps, process)[1].mean().item()
    fresh = VP(DiT(**scale.SMALL, num_classes=62))
    with torch.no_grad():
        assert mse(net) < 0.95 * mse(fresh)


def row(table, score, **where):
    return dict(table=table, frechet=score, **where)


def test_a_replica_pre_trains_a_model_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(
        scale, "pretrained", lambda config, network, seed, device: asked.append(seed) or 1 / 0
    )
    for config in (scale.Config(), dataclasses.replace(scale.Config(), first=100)):
        with pytest.raises(ZeroDivisionError):
            scale._cell(config, "cpu", "course", "full", config.first)
    again = dataclasses.replace(scale.Config(), first=100)
    assert asked == [0, 100] and [key[-1] for key in scale.keys(again)] == [100, 101]
    assert scale.Config.replica().first == 100


@pytest.mark.parametrize("dog, verdict", [(80.0, "holds"), (130.0, "holds in part")])
def test_the_rule_of_c15(dog, verdict):
    """Made-up records: DoG at 80 against CFG at 100 holds, DoG at 130 does not,
    though CFG still beats none."""
    seeds = lambda v: [v - 1, v, v + 1]
    rows = [
        row("weight", seeds(v), target="course", variant="full", step=8, method=m, w=w)
        for m, w, v in (("none", 1.0, 120.0), ("cfg", 1.5, 100.0), ("dog", 1.5, dog))
    ]
    rows += [
        row("steps", seeds(v), sampler="ddim", steps=4, method=m) for m, v in (("cfg", 100.0), ("dog", dog))
    ]
    rows += [
        row("guide", seeds(v), guide=g)
        for g, v in zip(scale.GUIDES, (dog, 90.0, 100.0, 85.0, 85.0), strict=True)
    ]
    found = c15(dict(config=dataclasses.asdict(scale.Config()), seeds=[0, 1, 2], results=dict(rows=rows)))
    assert found.verdict == verdict and (found.value > 15) == (dog < 100)


def judge_of(target):
    """A world and a device, in the place of the judge."""
    return SimpleNamespace(world=scale_setup.world(target), device="cpu")


def test_the_two_terms_are_those_of_domain_guidance():
    """With w, D_dog - D_ft = (w - 1) (domain + class): the two terms that `why` measures."""
    config, judge = why.Config(points=3, levels=(2.0,)), judge_of("course")
    base, tuned = (VP(DiT(**scale.SMALL, num_classes=62, seed=s).requires_grad_(False)) for s in (1, 2))
    g = torch.Generator().manual_seed(9)
    for p in [*base.net.parameters(), *tuned.net.parameters()]:
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    tuned.net.y_embedder.embedding_table.weight.data += 0.5 * torch.randn(63, 32, generator=g)
    x0, label = why._images(config, judge, judge.world, 0)
    x, w = why._noised(x0, 2.0, 0), 1.7
    pre, null, labelled = base.denoiser(base.null), tuned.denoiser(tuned.null), tuned.denoiser(label)
    domain, by_class = null(x, 2.0) - pre(x, 2.0), labelled(x, 2.0) - null(x, 2.0)
    added = domain_guidance(labelled, pre, w)(x, 2.0) - labelled(x, 2.0)
    close(added, (w - 1) * (domain + by_class), rtol=1e-3, atol=1e-3)
    found = why.over_sigma(config, judge, base, tuned, 0)
    of_source = why._images(config, judge, scale_setup.SOURCE, 0)[0]
    x_source, mse = why._noised(of_source, 2.0, 0), lambda a: a.square().mean().item()
    expected = {
        "pre-trained null, source": mse(pre(x_source, 2.0) - of_source),
        "fine-tuned null, source": mse(null(x_source, 2.0) - of_source),
        "pre-trained null, target": mse(pre(x, 2.0) - x0),
        "fine-tuned null, target": mse(null(x, 2.0) - x0),
        "fine-tuned label, target": mse(labelled(x, 2.0) - x0),
    }
    assert {k: v[0] for k, v in found["errors"].items()} == pytest.approx(expected, rel=1e-3, abs=1e-4)
    sizes = [found["terms"]["domain"][0], found["terms"]["class"][0]]
    assert sizes == pytest.approx([mse(domain) ** 0.5, mse(by_class) ** 0.5], rel=1e-3, abs=1e-4)


def test_the_domain_classifier_learns_to_tell_the_target():
    judge = judge_of("course")
    net = why.domain_classifier(why.Config(classifier=60), judge, batch=32)
    g = lambda s: torch.Generator().manual_seed(s)
    source, target = (
        scale_setup.codes(w.sample(40, generator=g(3))[0]) for w in (scale_setup.SOURCE, judge.world)
    )
    sigma = torch.full((40,), 0.1)
    assert net(target, sigma).mean() > net(source, sigma).mean() + 0.5


def test_along_generalized_directions_the_ratio_of_stds_is_r():
    """Gaussian source and target: in each direction found, the std within a class over the source's is r."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=g, dtype=torch.float64)
    source = torch.randn(4000, 6, generator=g, dtype=torch.float64) @ mix
    label = torch.arange(4000) % 2
    target = 0.3 * torch.randn(4000, 6, generator=g, dtype=torch.float64) @ mix + 5 * label[:, None]
    v, r = directions.generalized(source, target, label, rank=6)
    close(directions.within(target @ v, label) / (source @ v).std(0), torch.from_numpy(r), rtol=1e-3, atol=0)
    assert abs(r.mean() - 0.3) < 0.02


@pytest.mark.parametrize("n", [20, 60])
def test_principal_directions_are_those_of_the_covariance(n):
    """For fewer points than dimensions, and for more; up to their signs."""
    x = torch.randn(n, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    v = directions.principal(x, rank=5)
    close((v.T @ torch.linalg.eigh(torch.cov(x.T))[1][:, -5:]).abs(), torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("slope, verdict", [(1.0, "holds"), (0.1, "holds in part")])
def test_the_rule_of_c20(slope, verdict):
    """Made-up stds that change by r^slope: the order is right in both, the amount only with slope 1."""
    r = np.linspace(0.1, 1, 64)
    cell = dict(
        stds={
            "none": {v: [1.0] * 64 for v in ("features", "latents")},
            "DoG, w = 2": {v: (r**slope).tolist() for v in ("features", "latents")},
        }
    )
    found = c20(
        dict(
            seeds=[0, 1],
            results=dict(cells=[cell, cell], ratio=dict(features=r.tolist(), latents=r.tolist())),
        )
    )
    assert found.verdict == verdict and found.value == pytest.approx(1)


class Broken(glyphs.World):
    """A world that is interrupted at the fourth batch."""

    calls = 0

    def draw(self, u, z):
        Broken.calls += 1
        if Broken.calls == 4:
            raise KeyboardInterrupt
        return super().draw(u, z)


def pre_trained(source, checkpoint):
    """Seven steps of pre-training from the same start.  -> the averaged weights, and those of the start"""
    net = VP(DiT(**scale.SMALL, num_classes=62))
    start = torch.cat([p.detach().flatten() for p in net.net.parameters()])
    ema = scale_setup.pretrain(net, source, scale.Config(batch=8, images=56), checkpoint=checkpoint, every=1)
    return torch.cat([p.detach().flatten() for p in ema.net.parameters()]), start


def pre_trained_in_a_group(path):
    """Both processes end with one network; then they begin another, and are interrupted."""
    distributed.join("cpu")
    net, sums = scale_setup.pretrained(scale.Config(images=128), scale.SMALL), [None, None]
    torch.distributed.all_gather_object(sums, sum(p.double().sum().item() for p in net.net.parameters()))
    assert sums[0] == sums[1], sums
    try:
        pre_trained(Broken(size=64), path)
    except KeyboardInterrupt:
        distributed.barrier()


def test_two_processes_pre_train_one_model_together(tmp_path):
    """One file is written, and both go on with it; what they began, one ends as if it had done it alone."""
    cache, state = tmp_path / "cache", tmp_path / "state"
    assert together(pre_trained_in_a_group, state, DGTOY_CACHE=str(cache)) == [0, 0]
    assert len(list(cache.iterdir())) == 1
    assert load_state(state)[1]["step"] == 2
    found, start = pre_trained(glyphs.World(size=64), state)
    alone, _ = pre_trained(glyphs.World(size=64), None)
    assert (found - alone).norm() < 1e-3 * (alone - start).norm()


def test_a_sheet_holds_the_pictures_of_its_latents():
    x = glyphs.World(size=64).sample(3, generator=torch.Generator().manual_seed(0))[0]
    held = Image.open(io.BytesIO(base64.b64decode(why.sheet(scale_setup.codes(x)))))
    shown = torch.from_numpy(np.asarray(held).astype("float32")) / 127.5 - 1
    close(shown, x.mean(1).permute(1, 0, 2).flatten(1), rtol=0, atol=1 / 127)
