"""LoRA through peft: one network that is its own ancestor while the adapter is off."""

import sys

import pytest
import torch
from helpers import refuses, same_tensors
from test_images import SHAPE, WORLD, tiny, trained

from dgtoy import Recipe, domain_guidance
from dgtoy import shipped as shipped
from dgtoy.dit import save_checkpoint
from dgtoy.interop import add_lora, lora_guide

pytest.importorskip("peft")
close = torch.testing.assert_close
RECIPE = Recipe(steps=5, batch=4, lr=1e-2, dropout=0.2, ema=0.9)


@pytest.fixture(scope="module")
def base():
    """A pre-trained model of four classes; nothing may change it."""
    net = tiny(num_classes=4)
    before = {k: v.clone() for k, v in net.net.state_dict().items()}
    yield net
    assert same_tensors(before, net.net.state_dict())


@pytest.fixture(scope="module")
def tuned(base):
    """Its LoRA fine-tune on the two classes of WORLD."""
    return trained(add_lora(base, 2, rank=2), WORLD, RECIPE)[0]


def images(n=5):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(9)), torch.linspace(0.1, 3, n)


def equal(one, other):
    """Two denoisers give the same bits."""
    return torch.equal(one(*images()), other(*images()))


def test_with_the_adapter_off_it_is_the_pretrained_model_bit_for_bit(base, tuned):
    for net in (add_lora(base, 2, rank=2), tuned):
        guide = lora_guide(net)
        assert (guide.null, guide.config, guide.shape) == (4, base.config, SHAPE)
        assert all(equal(guide.denoiser(label), base.denoiser(label)) for label in (0, 3, guide.null))
    assert not equal(tuned.denoiser(tuned.null), base.denoiser(base.null)) and tuned.null == 2


def test_a_fresh_adapter_is_the_pretrained_body_with_a_fresh_table(base):
    low, full = add_lora(base, 2, rank=2, seed=7), base.with_classes(2, seed=7)
    assert (low.null, low.config, low.seeds) == (full.null, full.config, full.seeds)
    assert all(equal(low.denoiser(label), full.denoiser(label)) for label in (0, 1, 2))
    assert not equal(low.denoiser(0), add_lora(base, 2, rank=2, seed=8).denoiser(0))


def test_only_the_adapter_and_the_new_table_train(base, tuned):
    fresh = add_lora(base, 2, rank=2)
    table = "y_embedder.finetuned.embedding_table.weight"
    assert {k for k in tuned.params if "lora_" not in k} == {table}
    assert len(tuned.params) == 1 + 2 * 5 * base.config["depth"]  # A and B of the five matrices of a block
    before, after = fresh.net.state_dict(), tuned.net.state_dict()
    assert {k for k in before if not torch.equal(before[k], after[k])} == set(tuned.params)
    kept = {
        k.replace(".base_layer", "").replace("y_embedder.pretrained", "y_embedder"): v
        for k, v in after.items()
        if k not in tuned.params
    }
    assert same_tensors(kept, base.net.state_dict())


def test_the_guide_shares_every_weight_in_memory(tuned):
    guide = lora_guide(tuned)
    where = [sorted(v.data_ptr() for v in net.net.state_dict().values()) for net in (tuned, guide)]
    assert where[0] == where[1] and guide.net.tuned is tuned.net


def test_an_adapter_adds_less_than_15_percent_to_the_shipped_model():
    model = shipped.load("glyphs")
    size = lambda net: sum(v.numel() * v.element_size() for v in net.net.state_dict().values())
    low = add_lora(model, 10)
    added = sum(v.numel() * v.element_size() for v in low.params.values())
    assert size(low) == size(model) + added and 0 < added < 0.15 * size(model)


def test_domain_guidance_of_the_one_network_is_the_formula_of_two(base, tuned):
    guide = lora_guide(tuned)
    D = domain_guidance(tuned.denoiser(1), guide.denoiser(guide.null), 1.5)
    pretrained, finetuned = base.denoiser(base.null)(*images()), tuned.denoiser(1)(*images())
    close(D(*images()), pretrained + 1.5 * (finetuned - pretrained))
    assert equal(domain_guidance(tuned.denoiser(1), guide.denoiser(guide.null), 1), tuned.denoiser(1))


def test_training_with_the_guide_inside_is_training_with_the_pretrained_model(base):
    """DogFit turns the adapter off and on again in the middle of a step."""
    recipe, one, two = (
        Recipe(steps=5, batch=4, lr=1e-2, w=1.5, late=0.0),
        add_lora(base, 2, rank=2),
        add_lora(base, 2, rank=2),
    )
    inside = trained(one, WORLD, recipe, guide=lora_guide(one).denoiser(4))
    beside = trained(two, WORLD, recipe, guide=base.denoiser(4))
    assert inside[1] == beside[1] and same_tensors(one.net.state_dict(), two.net.state_dict())


def test_averages_and_clones_have_a_guide_of_their_own(base):
    low = add_lora(base, 2, rank=2)
    average = low.clone()
    trained(low, WORLD, RECIPE, average)
    assert not equal(low.denoiser(0), average.denoiser(0))
    for guide in (lora_guide(average), lora_guide(low).clone()):
        assert equal(guide.denoiser(guide.null), base.denoiser(4)) and guide.net is not low.net


def test_the_adapter_is_on_again_after_a_call_of_the_guide(tuned):
    guide, (x, sigma), before = lora_guide(tuned), images(), tuned.denoiser(0)(*images())
    names = set(tuned.params)
    guide.denoiser(guide.null)(x, sigma)
    assert torch.equal(tuned.denoiser(0)(x, sigma), before)
    with refuses("x has shape (5, 3, 4, 4)"):  # from within the network
        guide(x[..., :4, :4], sigma, guide.null)
    assert torch.equal(tuned.denoiser(0)(x, sigma), before) and set(tuned.params) == names


def test_each_has_the_labels_of_its_own_table(tuned):
    with refuses("label 3 is out of range for 2 classes (null is 2)"):
        tuned.denoiser(3)
    with refuses("label 5 is out of range for 4 classes (null is 4)"):
        lora_guide(tuned).denoiser(5)


def test_the_global_generators_are_left_alone(base, monkeypatch):
    """A GPU's as well, which torch.manual_seed would set."""
    seen = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seen.append)
    before = torch.get_rng_state()
    add_lora(base, 2)
    shipped.FeatureNet()
    assert torch.equal(before, torch.get_rng_state()) and not seen


WRONG = {
    "rank is 0; expected 1 or more": dict(rank=0),
    "rank is 2.5; expected a whole number": dict(rank=2.5),
    "rank is 1000; expected at most": dict(rank=1000),
    "num_classes is -1; expected 0 or more": dict(num_classes=-1),
    "seed is 'a'; expected a whole number": dict(seed="a"),
    "net is None; expected an EDM": dict(net=None),
}


@pytest.mark.parametrize("words", WRONG)
def test_an_adapter_that_cannot_be_is_refused(words, base):
    with refuses(words, error=(TypeError, ValueError)):
        add_lora(**dict(net=base, num_classes=2) | WRONG[words])


def test_a_second_adapter_is_refused(tuned):
    with refuses("net carries an adapter already"):
        add_lora(tuned, 3)


def test_what_no_checkpoint_can_hold_is_not_written(base, tuned, tmp_path):
    with refuses("net carries an adapter; expected a DiT without one"):
        save_checkpoint(tuned.net, tmp_path / "net.safetensors")
    with refuses("net is a EDM; expected a DiT", error=TypeError):
        save_checkpoint(base, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [dict(adapter="style"), dict(domain=1.4), dict(interval=(0.1, 5.0))])
def test_options_of_a_pipeline_do_not_go_unheard(options, tuned):
    with refuses("came with a EDM; expected none: weight and interval are those of domain_guidance"):
        lora_guide(tuned, **options)


def test_a_network_without_an_adapter_has_no_guide(base):
    with refuses("no adapter", "add_lora"):
        lora_guide(base)


def test_without_peft_the_extra_is_named(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with refuses("peft", "[dit]", error=ImportError):
        add_lora(base, 2)
