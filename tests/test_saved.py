"""Guides that are saved with their pipelines and put back."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel, WanPipeline
from helpers import refuses
from test_pipelines import tuned  # noqa: F401  (a fixture)
from tiny import KINDS, close, draw, random, sd, text, unet

from dgtoy.interop import DomainGuidedModel, guide_pipeline, load_guide, lora_guide, unguide

NONE = dict.fromkeys(["safety_checker", "text_encoder", "tokenizer", "feature_extractor", "image_encoder"])


def load(folder):
    return StableDiffusionPipeline.from_pretrained(folder, requires_safety_checker=False, **NONE)


@pytest.fixture
def folders(tmp_path):
    """A fine-tuned and a pre-trained pipeline on the disk."""
    for seed, name in ((1, "finetuned"), (2, "pretrained")):
        sd(random(seed, unet()))[0].save_pretrained(tmp_path / name)
    return tmp_path


def test_a_guided_pipeline_is_saved_with_its_options_and_put_back(folders):
    options = dict(domain=1.4, interval=(0.1, 20.0), every=2)
    pipe = guide_pipeline(load(folders / "finetuned"), load(folders / "pretrained"), **options)
    pipe.save_pretrained(folders / "guided")
    files = {str(path.relative_to(folders / "guided")) for path in (folders / "guided").rglob("*unet/*")}
    assert files == {
        f"unet/{n}" for n in ("config.json", "diffusion_pytorch_model.safetensors", "domain_guidance.json")
    }
    again = load(folders / "guided")
    assert type(again.unet) is UNet2DConditionModel
    assert np.array_equal(draw(again), draw(load(folders / "finetuned")))  # not guided until it is asked for
    assert load_guide(again, folders / "guided") is again
    assert repr(again.unet) == repr(pipe.unet) and np.array_equal(draw(again), draw(pipe))


def test_the_interval_without_end_and_the_guides_own_null_condition_come_back(folders):
    own = dict(
        encoder_hidden_states=text(1, 5, 12, seed=9), added_cond_kwargs=dict(text_embeds=text(1, 3, seed=8))
    )
    pipe = guide_pipeline(load(folders / "finetuned"), load(folders / "pretrained").unet, own, domain=None)
    pipe.save_pretrained(folders / "guided")
    json.loads((folders / "guided/unet/domain_guidance.json").read_text(), parse_constant=pytest.fail)
    again = load_guide(load(folders / "guided"), folders / "guided").unet
    assert again.interval == (0.0, float("inf")) and again.domain is None
    close(again.null, own)


def test_an_adapter_and_the_blurred_self_come_back(tuned, tmp_path):  # noqa: F811
    pipe = lora_guide(sd(tuned[0])[0], "style", domain=1.5)
    pipe.save_pretrained(tmp_path)
    again = load_guide(sd(tuned[0])[0], tmp_path)
    assert repr(again.unet) == repr(pipe.unet) and np.array_equal(draw(again), draw(pipe))
    with refuses("adapter is style; active in the network: none"):
        load_guide(sd(random(1, unet()))[0], tmp_path)
    guide_pipeline(unguide(pipe), blur=0.5).save_pretrained(tmp_path)
    assert load_guide(sd(random(1, unet()))[0], tmp_path).unet.blur == 0.5


def test_a_guide_that_is_not_there_is_asked_for(folders):
    pipe = guide_pipeline(load(folders / "finetuned"), random(2, unet()))
    pipe.save_pretrained(folders / "guided")
    again = load(folders / "guided")
    with refuses("pretrained is None", "does not say where the guide is"):
        load_guide(again, folders / "guided")
    with refuses(f"pretrained is {folders / 'none'}, not on this disk; expected a folder"):
        load_guide(again, folders / "guided", folders / "none")
    with refuses("lacks domain_guidance.json; expected a guided pipeline's network"):
        load_guide(again, folders / "finetuned")
    assert type(again.unet) is UNet2DConditionModel
    for guide in (folders / "pretrained", folders / "pretrained/unet", load(folders / "pretrained")):
        assert np.array_equal(
            draw(load_guide(load(folders / "guided"), folders / "guided", guide)), draw(pipe)
        )


def test_a_compiled_guided_network_is_saved_as_well(folders):
    pipe = guide_pipeline(load(folders / "finetuned"), load(folders / "pretrained"))
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    pipe.save_pretrained(folders / "guided")
    assert type(load_guide(load(folders / "guided"), folders / "guided").unet) is DomainGuidedModel


def test_a_pipeline_of_two_networks_is_refused():
    make, build, _ = KINDS["Wan"]
    parts = build(random(1, make))[0].components
    pipe = WanPipeline(**parts | dict(transformer_2=random(3, make)), boundary_ratio=0.5)
    with refuses("pipe is a WanPipeline with a transformer_2; expected one network"):
        guide_pipeline(pipe, random(2, make))
