import dataclasses
import functools
import json
import math
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import refuses, seeded

from dgtoy import Recipe, shipped
from dgtoy.checkpoint import floats, one_byte, read_safetensors, write_safetensors
from dgtoy.course import recipes
from dgtoy.course.worlds import features
from dgtoy.course.worlds.features import accuracy, fractions
from dgtoy.course.worlds.glyphs import FONTS, GLYPHS, KNOBS, SOURCE, World, target
from dgtoy.dit import EDM, DiT
from dgtoy.shipped.judge import HUE, FeatureNet, Reading, style_of
from dgtoy.train import denoising_loss
from dgtoy.trainer import TrainingConfig, generator

close = torch.testing.assert_close
RECIPE = TrainingConfig(steps=2, batch=4, dropout=0.0, schedule="cosine")
QUICK = recipes.Config(16, 1, 2, 8, Recipe(steps=2, batch=2))


@pytest.fixture(scope="module")
def judge():
    return shipped.load("features")


@pytest.fixture(scope="module")
def pretrained():
    return shipped.load("glyphs")


# the judge


def test_the_judge_names_the_glyphs_of_fresh_images(judge):
    assert accuracy(judge, World(), n=200, seed=1234)["glyph"] >= 0.95


def test_the_judge_reads_the_target_world(judge):
    found = accuracy(judge, target(), n=100, seed=1234)
    assert set(found) == {"glyph", "font", *KNOBS}
    assert found["paper"] < 0.15 and found["hue"] < 0.15 and found["glyph"] > 0.9


@torch.no_grad()
def test_a_reading_does_not_depend_on_the_batch_it_is_read_in(judge):
    x, _ = World().sample(7, generator=seeded(0))
    one, other = judge.read(x), judge.read(x, batch=3)
    for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
        close(a, b, rtol=1e-4, atol=1e-4)
    assert [tuple(a.shape) for a in vars(one).values()] == [(7, 64), (7, 62), (7, 21), (7, 11)]
    close(one.features, judge(x), rtol=1e-4, atol=1e-4)
    close(one.glyph.exp().sum(-1), torch.ones(7))
    close(one.font.exp().sum(-1), torch.ones(7))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 32, 32), (3, 32, 32), (2, 3, 32, 33)])
def test_images_of_another_size_are_refused(shape):
    with refuses(f"x has shape {shape}", "('n', 3, 32, 32)"):
        FeatureNet().read(torch.zeros(shape))


def test_fractions_are_0_and_1_at_the_source_s_edges_and_undo_its_styles():
    lo, hi = torch.tensor(list(SOURCE.values())).T
    close(fractions(lo), torch.zeros(11))
    close(fractions(hi), torch.ones(11))
    u = torch.rand(5, 11, generator=seeded(0))
    close(fractions(World().styles(u)), u)


def test_the_hue_is_read_around_its_circle_and_the_rest_as_it_is():
    hue, out = torch.linspace(0, 0.99, 50), torch.rand(50, 12, generator=seeded(0))
    for radius in (0.3, 1.0, 2.0):  # a network's output need not lie on the circle
        out[:, 7], out[:, 11] = radius * torch.cos(2 * math.pi * hue), radius * torch.sin(2 * math.pi * hue)
        found = style_of(out)
        close(found[:, 7], hue, rtol=0, atol=1e-5)
        assert torch.equal(found[:, :7], out[:, :7]) and torch.equal(found[:, 8:], out[:, 8:11])


class Certain:
    """A network that is certain of the truth."""

    def __init__(self, label, font, style):
        aim = fractions(style)
        angle = 2 * math.pi * aim[:, 7:8]
        out = torch.cat([aim[:, :7], angle.cos(), aim[:, 8:], angle.sin()], -1)
        sure = lambda k, n: 100 * torch.nn.functional.one_hot(k, n).float()
        self.glyph, self.font, self.style = (
            lambda f: sure(label, len(GLYPHS)),
            lambda f: sure(font, len(FONTS)),
            lambda f: out,
        )

    def __call__(self, x):
        return x

    def read(self, x):
        return Reading(x, self.glyph(x), self.font(x), style_of(self.style(x)))


def test_certainty_of_the_truth_has_no_loss_and_no_error():
    x, label, font, style = features.WIDE.sample(40, generator=seeded(1), details=True)
    net = Certain(label, font, style)
    assert features.loss_of(net, x, label, font, style) < 1e-8
    found = accuracy(net, features.WIDE, n=40, seed=1)
    assert found["glyph"] == found["font"] == 1 and all(found[k] < 1e-5 for k in KNOBS)


def test_training_twice_is_training_once_and_lowers_the_loss():
    nets, losses = [FeatureNet(), FeatureNet()], [[], []]
    recipe = dataclasses.replace(RECIPE, steps=12, batch=8)
    for net, loss in zip(nets, losses):
        loss += [step.loss for step in features.train(net, recipe)]
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    assert sum(losses[0][-3:]) < sum(losses[0][:3]) and not nets[0].training
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(FeatureNet(seed=1).parameters()), next(FeatureNet().parameters()))


def test_a_step_of_the_judge_s_training_depends_on_seed_and_step_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(features, "loss_of", lambda net, x, *_: seen.append(x) or net(x).square().mean())
    for _ in features.train(FeatureNet(), dataclasses.replace(RECIPE, steps=3), seed=5):
        pass
    for step, x in enumerate(seen):
        g = generator(5, step)
        label = torch.randint(len(GLYPHS), (4,), generator=g)
        assert torch.equal(x, features.WIDE.sample(4, label, g)[0])


def test_the_library_s_judge_has_the_course_s_heads():
    assert FeatureNet().config == dict(glyphs=len(GLYPHS), fonts=len(FONTS), knobs=len(KNOBS))
    assert KNOBS[HUE] == "hue"
    assert shipped.facts("features")["config"] == FeatureNet().config


def test_shipped_networks_load_without_the_course_and_without_torch_s_compiler():
    code = """
        import sys
        import dgtoy.interop
        import dgtoy.pipeline.models
        from dgtoy import shipped
        for name in (*shipped.NETWORKS, shipped.FINE_TUNES[0]):
            shipped.load(name)
        assert not [m for m in sys.modules if m.startswith("dgtoy.course")]
        assert not {"matplotlib", "torch._dynamo"} & sys.modules.keys()
        assert all(hasattr(dgtoy.interop, name) for name in dir(dgtoy.interop))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# the pre-trained model


def test_the_pretrained_model_denoises_and_knows_its_labels(pretrained):
    """On fresh source images: better than an untrained network everywhere, and with the label better than
    without.
    """
    x0, label = World().sample(31, generator=seeded(77))
    eps, untrained = torch.randn(x0.shape, generator=seeded(78)), EDM(DiT(**pretrained.net.config))
    for level, ratio in ((0.3, 0.2), (1.0, 0.2), (3.0, 0.6)):
        sigma = torch.full((31,), level)
        loss = lambda D: denoising_loss(D(x0 + level * eps, sigma), x0, sigma, 0.5).item()
        labelled, null = loss(pretrained.denoiser(label)), loss(pretrained.denoiser(pretrained.null))
        assert labelled < null and labelled < ratio * loss(untrained.denoiser(label))


# the files


def test_what_is_shipped_is_light_and_as_it_was_written():
    files = [p for p in shipped.FOLDER.iterdir() if p.suffix in (".json", ".safetensors")]
    sizes = {p.name: p.stat().st_size for p in files}
    assert sizes["photos64.safetensors"] <= 16 * 2**20 and sum(sizes.values()) <= 26e6
    assert {p.name for p in files} == {f"{n}.{e}" for n in shipped.NAMES for e in ("json", "safetensors")}
    for name in shipped.NAMES:
        facts = json.loads((shipped.FOLDER / f"{name}.json").read_text())
        assert facts["sha256"] == shipped.checksum(shipped.FOLDER / f"{name}.safetensors")
        assert facts["recipe"] == json.loads(
            json.dumps(dataclasses.asdict(recipes.RECIPES[name]))
        )  # the recipe in the code made it
        assert {"device", "python", "torch", "seconds", "source"} <= set(facts["provenance"])


def test_a_loaded_network_is_in_float32_with_the_numbers_of_the_file(judge, pretrained):
    for name, net in (("features", judge), ("glyphs", pretrained.net)):
        tensors = floats(read_safetensors(shipped.FOLDER / f"{name}.safetensors")[0])
        state = {k: v for k, v in net.state_dict().items() if k != "pos_embed"}
        assert tensors.keys() == state.keys() and {v.dtype for v in state.values()} == {torch.float32}
        assert all(torch.equal(tensors[k], state[k]) for k in state)
    assert not judge.training and (pretrained.null, pretrained.shape, pretrained.sigma_data) == (
        62,
        (3, 32, 32),
        0.5,
    )


def test_one_byte_a_weight_hardly_changes_what_the_pretrained_model_says(pretrained):
    """Weights anywhere within half a step of those in the file, as the trained ones were."""
    near, g = pretrained.clone(), seeded(79)
    for value in near.net.state_dict().values():
        if value.ndim == 2:
            step = value.abs().amax(1, keepdim=True) / 127
            value += step * (torch.rand(value.shape, generator=g) - 0.5)
    x0, label = World().sample(20, generator=seeded(77))
    eps = torch.randn(x0.shape, generator=seeded(78))
    for sigma in (0.1, 1.0, 10.0):
        one, other = (net.denoiser(label)(x0 + sigma * eps, sigma) for net in (pretrained, near))
        assert 1e-5 < (one - other).norm() / one.norm() < 0.01
        assert (one - x0).square().mean() == pytest.approx((other - x0).square().mean().item(), rel=0.01)


@pytest.mark.parametrize("name", ("features", "glyphs"))
def test_what_is_made_is_read_back_and_nothing_half_written_is_left(name, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "accuracy", functools.partial(accuracy, n=20))
    facts = recipes.make(name, dict(features=RECIPE, glyphs=QUICK)[name], folder=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.json", f"{name}.safetensors"}
    assert json.loads((tmp_path / f"{name}.json").read_text()) == json.loads(json.dumps(facts))
    net = shipped.load(name, folder=tmp_path)
    if name == "glyphs":
        assert (
            net.config == facts["config"] | {"sigma_data": 0.5}
            and net.config["hidden_size"] == 16
            and net.null == 62
        )
        made = recipes.pretrain(QUICK).net.state_dict()
    else:
        assert set(facts["accuracy"]) == {"source", "wide"}
        made = recipes.judge(RECIPE).state_dict()
    state = (net if name == "features" else net.net).state_dict()
    kept = floats(one_byte(made)) if name == "glyphs" else {k: v.half().float() for k, v in made.items()}
    for k, v in made.items():
        assert torch.equal(state[k], v if k == "pos_embed" else kept[k])


@pytest.fixture
def copied(tmp_path):
    """A folder with the judge's two files."""
    for suffix in (".safetensors", ".json"):
        shutil.copy((shipped.FOLDER / "features").with_suffix(suffix), tmp_path)
    return tmp_path


def test_a_copy_loads_like_the_original(copied, judge):
    assert all(
        torch.equal(a, b)
        for a, b in zip(shipped.load("features", folder=copied).parameters(), judge.parameters(), strict=True)
    )


def test_an_unknown_name_is_refused():
    with refuses("name is 'other'", "features, glyphs"):
        shipped.load("other")


@pytest.mark.parametrize("suffix", (".safetensors", ".json"))
def test_a_missing_file_is_named_with_the_remedy(suffix, copied):
    (copied / f"features{suffix}").unlink()
    with refuses(f"features{suffix} is missing", "python -m dgtoy weights", error=FileNotFoundError):
        shipped.load("features", folder=copied)


@pytest.mark.parametrize(
    "damage",
    (
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        lambda b: b[:100] + bytes([b[100] ^ 128]) + b[101:],
        lambda b: b[:-1],
        lambda b: b[:5000],
        lambda b: b"",
        lambda b: b + b"\0",
    ),
    ids=("last byte", "byte 100", "one short", "short", "empty", "one more"),
)
def test_a_damaged_file_is_refused(damage, copied):
    path = copied / "features.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with refuses("features.safetensors has SHA-256", "expected", "damaged", "fetch it again"):
        shipped.load("features", folder=copied)


def test_a_damaged_page_of_facts_is_refused(copied):
    path = copied / "features.json"
    path.write_text(path.read_text()[:200])
    with refuses("features.json is not a complete page of JSON", "fetch it again"):
        shipped.load("features", folder=copied)


def test_a_file_of_another_network_is_refused_even_with_its_checksum(copied):
    path = copied / "features.safetensors"
    tensors, header = read_safetensors(path)
    write_safetensors(path, {k: v for k, v in tensors.items() if k != "glyph.1.bias"}, header)
    facts = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(facts | {"sha256": shipped.checksum(path)}))
    with refuses("features.safetensors: glyph.1.bias has shape nothing", "(62,)"):
        shipped.load("features", folder=copied)
