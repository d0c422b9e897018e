"""Guides that are saved with their pipelines and put back."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiTPipeline, StableDiffusionPipeline, UNet2DConditionModel, WanPipeline
from helpers import refuses
from peft import LoraConfig, PeftModel, get_peft_model
from test_pipelines import tuned  # noqa: F401  (a fixture)
from tiny import KINDS, XL, W, close, dit, dit_pipeline, draw, drawn, random, sd, sdxl, text, unet

from dgtoy.course import practice
from dgtoy.interop import DomainGuidedModel, guide_pipeline, load_guide, lora_guide, model_card, unguide

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
    for without in (unguide(again), load(folders / "finetuned")):
        without.save_pretrained(folders / "guided")
        with refuses("unet has domain_guidance.json of a network that was there before"):
            load_guide(load(folders / "guided"), folders / "guided")


@pytest.mark.filterwarnings("ignore:.*torch_dtype")
def test_a_guide_in_half_precision_is_read_as_diffusers_reads_it(tmp_path):
    """Parts that a network keeps in float32, DiT's places, stay so."""
    for seed, name in ((1, "finetuned"), (2, "pretrained")):
        dit_pipeline(dit(5, seed)[1])[0].save_pretrained(tmp_path / name)
    half = lambda name: DiTPipeline.from_pretrained(tmp_path / name, torch_dtype=torch.float16)
    pipe = guide_pipeline(half("finetuned"), half("pretrained"))
    pipe.save_pretrained(tmp_path / "guided")
    again = load_guide(half("guided"), tmp_path / "guided")
    weights, expected = (
        [*p.transformer.pretrained.buffers(), *p.transformer.pretrained.parameters()] for p in (again, pipe)
    )
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


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
    pipe.unet.null = {}
    pipe.save_pretrained(folders / "guided")
    assert not load_guide(load(folders / "guided"), folders / "guided").unet.null


def test_an_adapter_and_the_blurred_self_come_back(tuned, tmp_path):  # noqa: F811
    pipe = lora_guide(sd(tuned[0])[0], "style", domain=1.5)
    pipe.save_pretrained(tmp_path)
    again = load_guide(sd(tuned[0])[0], tmp_path)
    assert repr(again.unet) == repr(pipe.unet) and np.array_equal(draw(again), draw(pipe))
    with refuses("adapter is style; active in the network: none"):
        load_guide(sd(random(1, unet()))[0], tmp_path)
    base = load(tmp_path)  # what lies there is the base, in which the adapter is loaded again
    torch.testing.assert_close(base.unet.state_dict(), random(1, unet()).state_dict(), rtol=0, atol=0)
    guide_pipeline(unguide(pipe), blur=0.5).save_pretrained(tmp_path)
    assert load_guide(sd(random(1, unet()))[0], tmp_path).unet.blur == 0.5
    with refuses("pretrained is given", "tells of the guide 'blur'; expected None"):
        load_guide(sd(random(1, unet()))[0], tmp_path, random(2, unet()))


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


def test_options_of_other_kinds_of_numbers_are_saved_and_broken_ones_refused(folders):
    one = dict(domain=np.float32(1.5), every=np.int64(2), interval=torch.tensor([0.5, 20.0]))
    pipe = guide_pipeline(load(folders / "finetuned"), load(folders / "pretrained"), **one)
    pipe.save_pretrained(folders / "guided")
    again = load(folders / "guided")
    assert repr(load_guide(again, folders / "guided").unet) == repr(pipe.unet)
    assert "domain=1.5, interval=(0.5, 20.0), every=2" in repr(pipe.unet)
    told = folders / "guided/unet/domain_guidance.json"
    whole = json.loads(told.read_text())
    for text_, words in (
        ("{", "has a broken domain_guidance.json; expected the one that was saved"),
        ('{"guide": "network"}', "has a broken domain_guidance.json"),
        (
            json.dumps(whole | dict(guide="friend")),
            "tells of a guide 'friend'; expected one of adapter, blur",
        ),
        (json.dumps(whole | dict(domain="1.5")), "domain is '1.5'; expected a finite number, or None"),
    ):
        told.write_text(text_)
        with refuses(words):
            load_guide(load(folders / "guided"), folders / "guided")


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


def on_disk(build, make, seed, folder):
    """A pipeline's network, autoencoder and scheduler on the disk, as in any repository."""
    build(random(seed, make))[0].save_pretrained(folder)
    return folder


def test_the_community_pipeline_is_loaded_from_its_folder_and_remembers_its_guide(tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    from dgtoy.interop.community import FOLDER

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    make = unet(**XL)
    finetuned, pretrained = (on_disk(sdxl, make, seed, tmp_path / str(seed)) for seed in (1, 2))
    none = dict.fromkeys(["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"])
    more = sdxl(random(1, make))[1]
    load = lambda folder, **given: DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=FOLDER, trust_remote_code=True, **none, **given
    )
    pipe = load(finetuned, guide=str(pretrained), domain=1.4)
    assert type(pipe).__name__ == "DomainGuidancePipeline" and pipe.unet.domain == 1.4
    expected = drawn("SDXL", guide_pipeline(sdxl(random(1, make))[0], random(2, make), domain=1.4), more, W)
    close(drawn("SDXL", pipe, more, W), expected)
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert (index["guide"], index["domain"]) == (str(pretrained), 1.4)
    again = load(tmp_path / "saved")
    assert again.unet.domain == 1.4
    close(drawn("SDXL", again, more, W), expected)
    plain = load(finetuned)
    assert type(plain.unet) is UNet2DConditionModel
    with refuses("pretrained is", "none, not on this disk"):
        load(finetuned, guide=str(tmp_path / "none"))


def code(card):
    """The card's Python, from where the pipeline is loaded."""
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].split('")\n', 1)[1].replace("image =", "#")


def test_a_model_card_names_the_guide_and_its_lines_do_what_it_says(folders):
    options = dict(domain=1.4, interval=(0.1, float("inf")), every=2)
    pipe = guide_pipeline(load(folders / "finetuned"), load(folders / "pretrained"), **options)
    card = model_card(pipe, "me/style")
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == str(folders / "pretrained") and head["library_name"] == "diffusers"
    assert "| every | 2 |" in card and 'from_pretrained("me/style")' in card
    here = dict(pipe=load(folders / "finetuned"), guide_pipeline=guide_pipeline)
    here["DiffusionPipeline"] = type("", (), dict(from_pretrained=staticmethod(load)))
    exec(code(card), here)
    assert repr(here["pipe"].unet) == repr(pipe.unet)
    named = model_card(guide_pipeline(load(folders / "finetuned"), random(2, unet())), "me/style", "you/base")
    assert "the guide is [you/base]" in named and "every=" not in named


def test_a_model_card_of_a_lora_and_of_what_has_no_guide_or_no_name(tuned):  # noqa: F811
    pipe = lora_guide(sd(tuned[0])[0], domain=1.3)
    card = model_card(pipe, "me/lora")
    assert "with its LoRA switched off" in card and "lora_guide(pipe, domain=1.3)" in card
    assert "base_model" not in card and "base_model: you/base" in model_card(pipe, "me/lora", "you/base")
    with refuses("pipe is a StableDiffusionPipeline without a guide; expected a guided one"):
        model_card(unguide(pipe), "me/lora")
    with refuses("base is None, and the guide was made in memory; expected its name or folder"):
        model_card(guide_pipeline(sd(random(1, unet()))[0], random(2, unet())), "me/style")
    assert "blur=0.5" in model_card(guide_pipeline(sd(random(1, unet()))[0], blur=0.5), "me/style")


@pytest.mark.parametrize(
    "kind, domain, call",
    [
        ("SDXL", 1.3, "prompt, guidance_scale=5"),
        ("SDXL", None, "prompt, guidance_scale=1.5"),
        ("Flux, true CFG", 1.3, 'prompt, negative_prompt="", true_cfg_scale=5'),
        ("DiT", "default", "class_labels, guidance_scale=1.5"),
    ],
)
def test_a_model_card_calls_the_pipeline_so_that_it_is_guided_at_a_usual_weight(kind, domain, call):
    make, around, _ = KINDS.get(kind) or (lambda: dit(5, 1)[1], dit_pipeline, None)
    guided = guide_pipeline(around(random(1, make))[0], random(2, make), domain=domain)
    assert f"image = pipe({call}).images[0]" in model_card(guided, "me/style", "you/base")


# a LoRA from disk through peft, where diffusers loads none, and the formula step by step


def steps_of(pipe):
    """The noise that the pipeline begins with, and its scheduler at three steps."""
    pipe.scheduler.set_timesteps(3)
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)), pipe.scheduler


def pixart_by_hand(pipe, base, main):
    """D_pre + 1.25 (D_null - D_pre) + W (D_c - D_null) in noise, by three calls a step.  -> latents"""
    hidden, mask, null, null_mask = pipe.encode_prompt("a lighthouse", True, "")
    x, scheduler = steps_of(pipe)
    for t in scheduler.timesteps:

        def eps(net, hidden, mask, t=t, x=x):
            more = dict(
                encoder_attention_mask=mask, added_cond_kwargs=dict(resolution=None, aspect_ratio=None)
            )
            return net(x, encoder_hidden_states=hidden, timestep=t[None], **more).sample[:, :4]

        pre, own, labelled = eps(base, null, null_mask), eps(main, null, null_mask), eps(main, hidden, mask)
        x = scheduler.step(pre + 1.25 * (own - pre) + W * (labelled - own), t, x).prev_sample
    return x


def dit_by_hand(pipe, base, main):
    """D_pre + W (D_c - D_pre) in noise, by two calls a step.  -> latents"""
    x, scheduler = steps_of(pipe)
    for t in scheduler.timesteps:
        eps = lambda net, label, t=t, x=x: net(x, t[None], torch.tensor([label])).sample[:, :4]
        pre = eps(base, 1000)
        x = scheduler.step(pre + W * (eps(main, 3) - pre), t, x).prev_sample
    return x


PIXART = dict(prompt="a lighthouse", height=16, width=16, clean_caption=False, use_resolution_binning=False)
BY_PEFT = {
    "PixArt": (lambda: practice.text_to_image("PixArtAlphaPipeline"), PIXART, pixart_by_hand),
    "DiT": (lambda: dit_pipeline(dit(1000, 1)[1])[0], dict(class_labels=[3]), dit_by_hand),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", BY_PEFT)
def test_a_lora_by_peft_is_the_formula_and_comes_back(kind, tmp_path):
    make, call, by_hand = BY_PEFT[kind]
    made = make()
    made.save_pretrained(tmp_path / "base")
    torch.manual_seed(5)
    low = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    get_peft_model(made.transformer, low).save_pretrained(tmp_path / "lora")

    untuned = lambda folder: practice.quiet(type(made).from_pretrained(tmp_path / folder))

    def load(folder):
        pipe = untuned(folder)
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, tmp_path / "lora")
        return pipe

    def image(pipe):
        noise = torch.Generator().manual_seed(7)
        return pipe(**call, guidance_scale=W, num_inference_steps=3, generator=noise, output_type="np").images

    pipe = load("base")
    base = untuned("base").transformer
    z = by_hand(pipe, base, pipe.transformer) / pipe.vae.config.scaling_factor
    expected = (pipe.vae.decode(z).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    plain, found = image(pipe), image(lora_guide(pipe))
    assert np.abs(found - expected).max() < 1e-4 and np.abs(found - plain).max() > 1e-3
    pipe.save_pretrained(tmp_path / "guided")
    assert np.array_equal(image(load_guide(load("guided"), tmp_path / "guided")), found)
