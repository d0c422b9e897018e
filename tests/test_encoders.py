"""Adapters in text encoders: the base is asked with the null prompt as it was read without them."""

import numpy as np
import pytest
import torch
from helpers import refuses
from peft import LoraConfig
from PIL import Image
from tiny import adapted, close, offload

from dgtoy.course import practice
from dgtoy.interop import calibrate_pipeline, guide_pipeline, lora_guide

SD, XL, SD3 = practice.FAMILIES[:3]
NETWORK, ENCODERS = ("unet", "transformer"), ("text_encoder", "text_encoder_2")
HINTS = "ignore::UserWarning"  # peft's, of a second adapter; diffusers', of a device that is no accelerator


def tune(pipe, *parts, name="style"):
    """Adapters in parts of a pipeline, its network and its text encoders. In place.  -> the pipeline"""
    for part in parts or NETWORK + ENCODERS:
        if getattr(pipe, part, None) is not None:
            modules = ["to_q"] if part in NETWORK else ["q_proj", "fc1"]
            adapted(getattr(pipe, part), LoraConfig(r=2, target_modules=modules), name)
    return pipe


def drawn(pipe, **call):
    """Pictures of two prompts with one negative prompt."""
    given = dict(prompt=["a lighthouse", "a red fox"], negative_prompt=["blurry"] * 2, height=16, width=16)
    noise = torch.Generator().manual_seed(0)
    call = given | dict(guidance_scale=4.0, num_inference_steps=2, generator=noise, output_type="np") | call
    return pipe(**call).images


def read_before(family, negative="blurry"):
    """The null prompt as text encoders read it that were never tuned, by the network's names."""
    pipe, call = practice.text_to_image(family), dict(prompt="", negative_prompt=negative)
    if family == SD:
        call |= dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    if family == SD3:
        call |= dict(prompt_2=None, prompt_3=None)
    _, hidden, *pooled = pipe.encode_prompt(**call)
    null = dict(encoder_hidden_states=hidden)
    if family == XL:
        null["added_cond_kwargs"] = dict(text_embeds=pooled[1])
    if family == SD3:
        null["pooled_projections"] = pooled[1]
    return null


@pytest.mark.filterwarnings(HINTS)
@pytest.mark.parametrize(
    "family, how",
    [
        (SD, "before"),
        (XL, "before"),
        (SD3, "before"),
        (SD, "after"),
        (SD3, "offloaded"),
        (XL, "two networks"),
    ],
)
def test_the_base_sees_the_negative_prompt_as_read_without_the_adapter(family, how):
    guide = lora_guide
    if how == "two networks":
        base = practice.network(practice.text_to_image(family, seed=1))
        guide = lambda pipe, null=None: guide_pipeline(pipe, base, null)
    expected = drawn(guide(tune(practice.text_to_image(family)), null=read_before(family)))
    pipe = practice.text_to_image(family)
    if how == "after":  # the text encoders' part is loaded when the guide is there
        tune(guide(tune(pipe, *NETWORK)), *ENCODERS)
    else:
        guide(tune(pipe))
    if how == "offloaded":
        offload(pipe, "model")
    found = drawn(pipe)
    assert np.abs(found - expected).max() < 1e-4
    as_tuned = guide(tune(practice.text_to_image(family)), null=read_before(family, "other words"))
    assert np.abs(found - drawn(as_tuned)).max() > 1e-4
    dark = dict(negative_prompt=["dark"] * 2)  # it is read anew for each call
    expected = drawn(guide(tune(practice.text_to_image(family)), null=read_before(family, "dark")), **dark)
    assert np.abs(drawn(pipe, **dark) - expected).max() < 1e-4


@pytest.mark.parametrize("negative, forwards", [(None, 2), (["blurry"] * 2, 4)])
def test_without_a_negative_prompt_sdxl_reads_none_and_one_forward_serves_all(negative, forwards):
    pipe, calls = lora_guide(tune(practice.text_to_image(XL))), []
    pipe.unet.finetuned.register_forward_pre_hook(lambda *a: calls.append(1))
    drawn(pipe, negative_prompt=negative)
    assert len(calls) == forwards  # in two steps


def test_an_adapter_that_hardly_changes_the_null_prompt_is_off_for_the_base_too():
    pipe, seen = lora_guide(tune(practice.text_to_image(SD))), []
    for name, weight in pipe.text_encoder.named_parameters():
        weight.mul_(2e-4 if "lora_B" in name else 1)
    pipe.unet.pretrained.register_forward_pre_hook(
        lambda net, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    drawn(pipe)
    null = read_before(SD)["encoder_hidden_states"].expand(2, -1, -1)
    close(seen[0], null, rtol=0, atol=1e-6)
    off = (pipe.encode_prompt("", "cpu", 1, True, "blurry")[1] - null).abs().max()
    assert 1e-5 < off < 1e-3


@pytest.mark.parametrize("part", ["weight", "bias", "q_proj.weight"])
def test_a_text_encoder_that_was_trained_too_is_warned_of_unless_the_null_prompt_is_given(part):
    """The base then sees the null prompt as its own encoder reads it. A fused LoRA changes matrices alone."""
    pipe, base = practice.text_to_image(SD), practice.text_to_image(SD, seed=1)
    guide_pipeline(pipe, base)  # alike, nothing is said
    for name, weight in pipe.text_encoder.named_parameters():
        weight.add_(0.1 * name.endswith(part))
    with pytest.warns(UserWarning, match="text_encoder has other weights than pretrained's"):
        guide_pipeline(pipe, base)
    own = base.encode_prompt("", "cpu", 1, True, "blurry")[1]
    guide_pipeline(pipe, base, dict(encoder_hidden_states=own))


@pytest.mark.filterwarnings(HINTS)
def test_of_two_adapters_the_one_that_is_the_domain_is_off():
    make = lambda: tune(tune(practice.text_to_image(SD), name="other"))  # the second is active
    pipe = make()
    pipe.text_encoder = practice.text_to_image(SD).text_encoder
    null = tune(pipe, "text_encoder", name="other").encode_prompt("", "cpu", 1, True, "blurry")[1]
    both = make()
    for part in (both.unet, both.text_encoder):
        for layer in part.modules():
            if hasattr(layer, "set_adapter") and hasattr(layer, "lora_A"):
                layer.set_adapter(["style", "other"])
    found = drawn(lora_guide(both, "style"))
    expected = drawn(lora_guide(both, "style", dict(encoder_hidden_states=null)))
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - drawn(lora_guide(both))).max() > 1e-4


def test_a_null_prompt_that_cannot_be_read_again_is_refused_at_the_first_step():
    words = (
        "null is None and text_encoder has an adapter; expected prompts as text, or the null prompt as read"
    )
    pipe = tune(practice.text_to_image(SD))
    prompt, null = pipe.encode_prompt("a lighthouse", "cpu", 2, True, "blurry")
    lora_guide(pipe)
    with refuses(words):
        drawn(pipe, prompt=None, negative_prompt=None, prompt_embeds=prompt, negative_prompt_embeds=null)
    with refuses(words):
        drawn(pipe, negative_prompt=None, negative_prompt_embeds=null)
    flux = practice.text_to_image("FluxPipeline")
    with refuses(words):
        lora_guide(tune(flux, "transformer", "text_encoder"))


def test_calibration_reads_the_null_prompt_without_the_adapter_too(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    weights = {}
    for name, null in (("read", None), ("given", read_before(SD, "")), ("other", read_before(SD, "words"))):
        pipe = lora_guide(tune(practice.text_to_image(SD)), null=null)
        weights[name] = calibrate_pipeline(pipe, tmp_path, "a fox", levels=(2.0, 0.5), batch=2)["DoG"].weights
    close(weights["read"], weights["given"], rtol=1e-3, atol=1e-3)
    assert (weights["read"] - weights["other"]).abs().max() > 1e-3
