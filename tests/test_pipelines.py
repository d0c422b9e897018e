"""Domain Guidance in diffusers pipelines, on tiny random ones in the real format: against the formula, and
against the plain pipeline.
"""

import contextlib
import copy
import io
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from helpers import refuses
from peft import LoraConfig
from tiny import (
    KINDS,
    WIDE,
    XL,
    Counted,
    OnPlane,
    Spelled,
    W,
    adapted,
    close,
    ddim,
    dit,
    dit_images,
    draw,
    guided_sd,
    images,
    made,
    random,
    sd,
    sd3,
    text,
    unet,
    vae,
)

from dgtoy import calibrate, guided, plane
from dgtoy.course import families
from dgtoy.interop import DomainGuidedModel, denoiser, guide_pipeline, lora_guide, t_to_sigma
from dgtoy.interop.adapters import WithoutAdapter, adapter_off, mixable_layers, mixed_batch, peft_layers
from dgtoy.interop.guider import DomainGuidance


def off(kind):
    """Those with true CFG say that they are not guided; for the others w = 1 asks for it."""
    if "true CFG" not in kind:
        return contextlib.nullcontext()
    name = KINDS[kind][1].__name__.capitalize().replace("Qwen", "QwenImage")
    return pytest.warns(UserWarning, match=f"true_cfg_scale is 1.0: this {name}Pipeline is not guided")


@pytest.mark.parametrize("kind", KINDS)
def test_with_guidance_off_it_is_the_fine_tuned_pipeline(kind):
    make = KINDS[kind][0]
    finetuned, pretrained = random(1, make), random(2, make)
    with off(kind):
        found = images(kind, DomainGuidedModel(finetuned, pretrained), 1.0)
    assert np.array_equal(found, images(kind, finetuned, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_guided_by_itself_it_is_the_plain_pipeline(kind):
    net = random(1, KINDS[kind][0])
    assert np.abs(images(kind, DomainGuidedModel(net, net), W) - images(kind, net, W)).max() < 1e-4


# DiT, whose pipeline knows the null label of ImageNet alone


def test_dit_of_five_classes_guided_by_one_of_seven_is_dgtoys_own_domain_guidance():
    """The pipeline asks for label 1000, which neither has: the guide sees its own null. The same through
    `vp.ddim`.
    """
    from dgtoy import last, vp
    from dgtoy.dit import VP

    (ours, tuned), (base, guide) = dit(5, 1), dit(7, 2)
    scheduler = ddim(steps_offset=0)
    pipe = DiTPipeline(DomainGuidedModel(tuned, guide), vae(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    found = pipe(
        class_labels=[0, 2],
        guidance_scale=W,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        output_type="np",
    ).images
    x_T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    model = vp.guided_noise(VP(ours).noise(torch.tensor([0, 2])), VP(base).noise(7), W)
    z = last(vp.ddim(model, x_T, vp.Process(vp.strided(4))))
    decoded = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    assert np.abs(found - (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()).max() < 1e-3


def test_dit_with_guidance_off_and_by_itself():
    (_, tuned), (_, guide) = dit(1000, 1), dit(1000, 2)
    assert np.array_equal(dit_images(DomainGuidedModel(tuned, guide), 1.0), dit_images(tuned, 1.0))
    assert np.abs(dit_images(DomainGuidedModel(tuned, tuned), W) - dit_images(tuned, W)).max() < 1e-4


def test_the_fine_tunes_own_null_branch_on_the_plane_has_its_own_null_label():
    """Of five classes: on the line a = 1 it is classifier-free guidance, which the fine-tune guided by itself
    is as well.
    """
    (_, tuned), (_, guide) = dit(5, 1), dit(7, 2)
    by_itself = dit_images(DomainGuidedModel(tuned, tuned), W)
    assert np.abs(dit_images(DomainGuidedModel(tuned, guide, domain=1.0), W) - by_itself).max() < 1e-4
    dog = dit_images(DomainGuidedModel(tuned, guide), W)
    assert np.abs(dit_images(DomainGuidedModel(tuned, guide, domain=W), W) - dog).max() < 1e-4
    assert np.abs(dog - by_itself).max() > 1e-3


# what pipelines do with their network besides calling it


def test_a_guided_pipeline_saves_and_loads_as_the_fine_tuned_one(tmp_path):
    finetuned, pretrained = random(1, unet()), random(2, unet())
    pipe, _ = sd(finetuned)
    guide_pipeline(pipe, pretrained).save_pretrained(tmp_path, safe_serialization=True)
    assert not list(tmp_path.rglob("*.bin"))
    again = StableDiffusionPipeline.from_pretrained(
        tmp_path,
        safety_checker=None,
        requires_safety_checker=False,
        text_encoder=None,
        tokenizer=None,
        feature_extractor=None,
        image_encoder=None,
    )
    assert type(again.unet) is UNet2DConditionModel
    guided = DomainGuidedModel(again.unet, pretrained)
    assert np.array_equal(
        images("Stable Diffusion", guided, W),
        images("Stable Diffusion", DomainGuidedModel(finetuned, pretrained), W),
    )


def test_it_answers_for_its_network():
    finetuned, pretrained = random(1, unet()), random(2, unet())
    both = DomainGuidedModel(finetuned, pretrained)
    assert both.config is finetuned.config and isinstance(both, UNet2DConditionModel)
    assert both.dtype == torch.float32 and both.device.type == "cpu"
    both.to(torch.float64)
    assert next(finetuned.parameters()).dtype == next(pretrained.parameters()).dtype == torch.float64


def test_the_guide_can_be_given_its_own_null_condition():
    finetuned, pretrained, own = random(1, unet()), random(2, unet()), text(1, 5, 12, seed=9)
    both = DomainGuidedModel(finetuned, pretrained, null=dict(encoder_hidden_states=own))
    x, hidden = text(2, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(4, 5, 12, seed=2)
    out = both(x, torch.tensor(10), encoder_hidden_states=hidden, return_dict=False)[0]
    close(out[:2], pretrained(x[:2], torch.tensor(10), encoder_hidden_states=own.expand(2, -1, -1)).sample)
    close(out[2:], finetuned(x[2:], torch.tensor(10), encoder_hidden_states=hidden[2:]).sample)
    close(both(x, torch.tensor(10), encoder_hidden_states=hidden).sample, out)


# LoRA


@pytest.fixture
def tuned():
    net = random(1, unet())
    plain = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(3)
    net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    return net, plain


def test_a_lora_is_guided_by_its_base_without_a_second_copy(tuned):
    net, plain = tuned
    base = random(1, unet())
    base.load_state_dict(plain)
    pipe, _ = sd(net)
    guided = lora_guide(pipe, domain=None).unet
    found = images("Stable Diffusion", guided, W)
    assert (
        np.abs(found - images("Stable Diffusion", DomainGuidedModel(net, WithoutAdapter(net)), W)).max() == 0
    )
    assert np.abs(found - images("Stable Diffusion", Spelled(net, base, "second"), W)).max() < 1e-4
    assert sum(p.numel() for p in guided.parameters()) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("make, order", [(unet(), "second"), (lambda: dit(5, 1)[1], "first")])
def test_one_forward_serves_a_lora_and_its_base(make, order, monkeypatch):
    """The reference is the plain way: the network twice, the adapter off the second time."""
    from peft import inject_adapter_in_model

    net = random(1, make)
    torch.manual_seed(3)
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), net, "style"
    )
    guided, calls = DomainGuidedModel(net, WithoutAdapter(net)), []
    net.register_forward_pre_hook(lambda *a: calls.append(1))
    x = text(2, 4, 8, 8, seed=1).repeat(2, 1, 1, 1)
    given = dict(encoder_hidden_states=text(4, 5, 12, seed=2))
    if order == "first":
        given = dict(class_labels=torch.tensor([0, 2, 1000, 1000]))
    time = torch.full((4,), 10)
    found = guided(x, timestep=time, **given).sample
    assert len(calls) == 1
    monkeypatch.setattr("dgtoy.interop.guided.mixable_layers", lambda *a: [])
    plain = guided(x, timestep=time, **given).sample
    assert len(calls) == 3
    close(found, plain, rtol=1e-4, atol=1e-5)
    own = {k: v.clamp(max=5) if k == "class_labels" else v for k, v in given.items()}  # its null label is 5
    assert (found - net(x, timestep=time, **own).sample).abs().max() > 1e-3


def test_adapters_that_cannot_be_mixed_take_two_forwards(tuned):
    net, _ = tuned
    assert mixable_layers(net) == mixable_layers(net, "style") == peft_layers(net) != []
    assert mixable_layers(net, "other") == []
    other = random(1, unet())
    other.add_adapter(LoraConfig(r=2, target_modules=["to_q"], use_dora=True), "style")
    assert mixable_layers(other) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.add_adapter(LoraConfig(r=2, target_modules=["to_k"]), "other")
    net.set_adapter(["style", "other"])
    assert mixable_layers(net, "style") == []


def test_a_layer_that_sees_other_rows_than_the_batch_makes_it_two_forwards(tuned):
    net, _ = tuned
    x, hidden = text(2, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(4, 5, 12, seed=2)
    guided = DomainGuidedModel(net, WithoutAdapter(net))
    expected = guided(x, torch.tensor(10), encoder_hidden_states=hidden).sample
    layer = net.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    folded = layer.register_forward_pre_hook(lambda m, args: (args[0].flatten(0, 1)[:, None],), prepend=True)
    unfolded = layer.register_forward_hook(
        lambda m, args, out: out.reshape(-1, x.shape[-1] ** 2 // 4, out.shape[-1])
    )
    with (
        refuses("a layer is called on", "expected 4, as the batch has"),
        mixed_batch(net, peft_layers(net), 4, 4),
    ):
        net(x, torch.tensor(10), encoder_hidden_states=hidden)
    close(guided(x, torch.tensor(10), encoder_hidden_states=hidden).sample, expected, rtol=1e-4, atol=1e-5)
    folded.remove()
    unfolded.remove()


def test_the_adapter_is_back_after_each_call_and_after_an_error(tuned):
    net, _ = tuned
    x, hidden = text(1, 4, 8, 8, seed=1), text(1, 5, 12, seed=2)
    call = lambda f: f(x, torch.tensor(3), encoder_hidden_states=hidden).sample
    with_adapter = call(net)
    off = call(WithoutAdapter(net))
    assert (off - with_adapter).abs().max() > 1e-4 and torch.equal(call(net), with_adapter)
    with pytest.raises(RuntimeError), adapter_off(net):
        raise RuntimeError
    assert torch.equal(call(net), with_adapter)


def test_one_of_two_adapters_can_be_the_domain(tuned):
    net, _ = tuned
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft: two adapters, "make sure to know what you are doing"
        net.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False), "other")
    net.set_adapter(["style", "other"])
    x, hidden = text(1, 4, 8, 8, seed=1), text(1, 5, 12, seed=2)
    call = lambda f: f(x, torch.tensor(3), encoder_hidden_states=hidden).sample
    without_style = call(WithoutAdapter(net, "style"))
    net.set_adapter(["other"])
    close(without_style, call(net))
    with refuses("adapter is none_such; active in the network: other"):
        with adapter_off(net, "none_such"):
            pass


# what cannot be


def test_networks_and_pipelines_that_do_not_fit_are_refused_before_the_first_step():
    from diffusers import UNet2DModel

    finetuned = random(1, unet())
    with refuses("finetuned is a UNet2DModel; expected one of DiTTransformer2DModel"):
        DomainGuidedModel(
            UNet2DModel(
                sample_size=8,
                block_out_channels=(8, 8),
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
                norm_num_groups=4,
            ),
            finetuned,
        )
    with refuses("pretrained is a DiTTransformer2DModel; expected a UNet2DConditionModel"):
        DomainGuidedModel(finetuned, dit(5, 1)[1])
    with refuses("pretrained has in_channels 5; finetuned has 4"):
        DomainGuidedModel(finetuned, random(1, unet(in_channels=5)))
    with refuses("pretrained has num_class_embeds 5; finetuned has None"):
        DomainGuidedModel(finetuned, random(1, unet(num_class_embeds=5)))
    schnell, dev = (made("Flux", **WIDE, guidance_embeds=told)() for told in (False, True))
    with refuses("pretrained has guidance_embeds False; finetuned has True"):
        DomainGuidedModel(dev, schnell)
    pipe, _ = sd(finetuned)
    other, _ = sd(random(2, unet()))
    other.scheduler = ddim(prediction_type="v_prediction")
    with refuses("pretrained has scheduler.prediction_type v_prediction; the pipeline has epsilon"):
        guide_pipeline(pipe, other)
    wide, _ = sd(random(2, unet()))
    wide.vae.register_to_config(scaling_factor=0.5)
    with refuses("pretrained has vae.scaling_factor 0.5; the pipeline has 0.18215"):
        guide_pipeline(pipe, wide)
    with refuses("expected a pipeline with a unet or a transformer"):
        guide_pipeline(object(), pipe)
    with refuses("null is a float; expected inputs by name"):
        guide_pipeline(sd(random(1, unet()))[0], random(2, unet()), 1.5)
    with refuses("adapter is None; active in the network: none; expected one from load_lora_weights"):
        lora_guide(pipe)
    assert type(pipe.unet) is UNet2DConditionModel


def refused(words, change, make=unet(), build=sd):
    """`guide_pipeline` on two pipelines that are alike but for what `change` does to the second."""
    pipe, other = build(random(1, make))[0], build(random(2, make))[0]
    guide_pipeline(build(random(1, make))[0], other)  # alike, they are taken
    change(other)
    with refuses(*words):
        guide_pipeline(pipe, other)
    assert type(pipe.unet if hasattr(pipe, "unet") else pipe.transformer).__name__ != "DomainGuidedModel"


def test_parts_around_the_networks_that_differ_are_refused_before_the_first_step():
    from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler

    own = [0.1 * i / 1000 + 1e-4 for i in range(1000)]
    betas = lambda p: setattr(p, "scheduler", ddim(trained_betas=own))
    refused(
        ["pretrained has scheduler.trained_betas 0.0001 ... 0.1 (1000 values); the pipeline has None"], betas
    )
    refused(
        ["pretrained has scheduler.rescale_betas_zero_snr True; the pipeline has False"],
        lambda p: setattr(p, "scheduler", ddim(rescale_betas_zero_snr=True)),
    )
    refused(
        ["pretrained has scheduler.prediction_type None; the pipeline has epsilon"],
        lambda p: setattr(p, "scheduler", FlowMatchEulerDiscreteScheduler()),
    )
    refused(
        ["pretrained has vae AutoencoderTiny; the pipeline has AutoencoderKL"],
        lambda p: setattr(p, "vae", AutoencoderTiny()),
    )
    refused(
        ["pretrained has vae.block_out_channels (8, 8, 8); the pipeline has (8, 8)"],
        lambda p: p.vae.register_to_config(block_out_channels=(8, 8, 8)),
    )
    pipe, other = sd(random(1, unet()))[0], sd(random(2, unet()))[0]
    other.scheduler = DPMSolverMultistepScheduler(
        beta_start=0.0001, beta_end=0.02
    )  # another solver of the same process
    assert guide_pipeline(pipe, other) is pipe
    with refuses("pretrained has sample_size 16; finetuned has 8"):
        DomainGuidedModel(
            random(1, unet()), UNet2DConditionModel(**{**random(2, unet()).config, "sample_size": 16})
        )


def test_another_text_encoder_is_refused():
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip = lambda **more: CLIPTextModel(
        CLIPTextConfig(
            **dict(
                vocab_size=20, hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
            )
            | more
        )
    )
    t5 = lambda **more: T5EncoderModel(
        T5Config(**dict(vocab_size=20, d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2) | more)
    )

    def with_text(part, encoder, build):
        def made(net):
            pipe, more = build(net)
            setattr(pipe, part, random(3, encoder))  # of the same weights in both
            return pipe, more

        return made

    wide = lambda part, encoder: lambda p: setattr(p, part, encoder)
    refused(
        ["pretrained has text_encoder.hidden_size 16; the pipeline has 12"],
        wide("text_encoder", clip(hidden_size=16)),
        build=with_text("text_encoder", clip, sd),
    )
    refused(
        ["pretrained has text_encoder.vocab_size 21; the pipeline has 20"],
        wide("text_encoder", clip(vocab_size=21)),
        build=with_text("text_encoder", clip, sd),
    )
    refused(
        ["pretrained has text_encoder T5EncoderModel; the pipeline has CLIPTextModel"],
        wide("text_encoder", t5()),
        build=with_text("text_encoder", clip, sd),
    )
    third = with_text("text_encoder_3", t5, sd3)
    refused(
        ["pretrained has text_encoder_3.vocab_size 21; the pipeline has 20"],
        wide("text_encoder_3", t5(vocab_size=21)),
        KINDS["Stable Diffusion 3"][0],
        third,
    )


def test_words_that_textual_inversion_added_need_not_be_the_bases():
    family = "StableDiffusionPipeline"
    pipe, base = (families.pipeline(family, families.network(family, seed)) for seed in (1, 2))
    pipe.load_textual_inversion(text(1, 8, seed=5), token="<cat>")
    main, guide = pipe.unet, base.unet
    given = dict(prompt="a <cat>", guidance_scale=W, height=16, width=16, output_type="np")

    def image():
        noise = torch.Generator().manual_seed(7)
        return pipe(**given, num_inference_steps=2, generator=noise).images

    guide_pipeline(pipe, base)
    found = image()
    pipe.unet = OnPlane(main, guide, "second", 1.25, W)
    assert np.abs(found - image()).max() < 1e-5
    base.text_encoder.resize_token_embeddings(516)
    with refuses("pretrained has text_encoder.vocab_size 516; the pipeline has 514"):
        guide_pipeline(pipe, base)


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_condition_that_the_guide_cannot_read_is_refused(kind):
    make = KINDS[kind][0]
    net, guide = random(1, make), random(2, make)
    give = lambda **null: DomainGuidedModel(net, guide, null=null)
    give(encoder_hidden_states=text(1, 5, 12, seed=9))
    with refuses("null has prompt_embeds; expected inputs of a"):
        give(prompt_embeds=text(1, 5, 12, seed=9))
    with refuses("null has encoder_hidden_states of (2, 5, 12); expected a tensor (1, ...)"):
        give(encoder_hidden_states=text(2, 5, 12, seed=9))
    with refuses("null has encoder_hidden_states of NoneType; expected a tensor (1, ...)"):
        give(encoder_hidden_states=None)
    with refuses("null has encoder_hidden_states of width 13; expected 12, as the network has"):
        give(encoder_hidden_states=text(1, 5, 13, seed=9))


def test_the_lora_guide_of_a_pipeline_is_its_base():
    net = random(1, unet())
    net.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    pipe, _ = sd(net)
    assert lora_guide(pipe, domain=None) is pipe
    assert np.array_equal(
        images("Stable Diffusion", pipe.unet, W),
        images("Stable Diffusion", DomainGuidedModel(net, WithoutAdapter(net)), W),
    )


# inputs as people have them


def test_one_seed_for_two_prompts_with_guidance_off_is_the_plain_pipeline():
    """Equal latents are no sign of guidance."""
    assert np.array_equal(draw(guided_sd(), 1.0, (7, 7)), draw(sd(random(1, unet()))[0], 1.0, (7, 7)))
    one, two = draw(guided_sd(), W, (7, 8)), draw(guided_sd(), W, (7, 9))
    assert np.abs(one[0] - two[0]).max() < 1e-5


def test_a_weight_below_one_is_warned_of_once_per_weight():
    pipe = guided_sd()
    for w in (0.5, 0.0):
        off = f"guidance_scale is {w}: this StableDiffusionPipeline is not"
        with pytest.warns(UserWarning, match=off) as said:
            draw(pipe, w)
        assert len(said) == 1
    draw(pipe, 0.0)


def test_a_weight_of_one_turns_the_domain_off_too_and_says_so():
    """It is what w = 1 asks for, but not what `domain` does."""
    pipe = guided_sd()
    plain = draw(pipe, 1.0)
    pipe.unet.domain = 1.25
    with pytest.warns(UserWarning, match="guidance_scale is 1.0: this StableDiffusionPipeline is not guided"):
        assert np.array_equal(draw(pipe, 1.0), plain)


def test_a_network_that_folds_guidance_in_is_warned_of():
    make = unet(time_cond_proj_dim=4)
    pipe = guide_pipeline(sd(random(1, make))[0], random(2, make))
    with pytest.warns(UserWarning, match="guidance_scale is 2.5: this StableDiffusionPipeline is not guided"):
        draw(pipe)


def test_pipelines_with_other_branches_are_refused_at_their_first_step(monkeypatch):
    from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPAGPipeline

    def made(cls, make, **more):
        parts = guide_pipeline(sd(random(1, make))[0], random(2, make)).components
        return cls(**parts, requires_safety_checker=False, **more)

    pix2pix = made(StableDiffusionInstructPix2PixPipeline, unet(in_channels=8))
    with refuses("a StableDiffusionInstructPix2PixPipeline calls its network 6 rows for 2 images"):
        draw(pix2pix, seeds=(7, 8), image=torch.rand(2, 3, 16, 16))
    with refuses("a StableDiffusionPAGPipeline calls its network 3 rows for 1 images; expected two branches"):
        draw(made(StableDiffusionPAGPipeline, unet(), pag_applied_layers=["mid"]), pag_scale=1.0)
    x = torch.zeros(2, 4, 8, 8)  # LEDITS++ with one edit
    monkeypatch.setattr("dgtoy.interop.guided.pipeline_call", lambda: dict(self=pix2pix, latents=x[:1]))
    with refuses("calls its network without a guidance_scale"):
        DomainGuidedModel(random(1, unet()), random(2, unet()))(
            x, 10, encoder_hidden_states=text(2, 5, 12, seed=1)
        )


def test_a_pipeline_made_of_a_guided_one_is_asked_itself():
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe, image = guided_sd(), torch.rand(1, 3, 16, 16)
    again = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    plain = StableDiffusionImg2ImgPipeline(
        **sd(random(1, unet()))[0].components, requires_safety_checker=False
    )
    draw(pipe)  # its own scale is not the other's
    assert np.array_equal(draw(again, 1.0, image=image), draw(plain, 1.0, image=image))
    assert np.abs(draw(again, image=image) - draw(plain, image=image)).max() > 1e-3


def test_flux_pipelines_that_name_no_branch_are_guided():
    from diffusers import FluxImg2ImgPipeline

    make, build, _ = KINDS["Flux, true CFG"]

    def drawn(net):
        pipe, more = build(net)
        pipe = FluxImg2ImgPipeline(**pipe.components)
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            prompt_embeds=text(2, 5, 12, seed=3),
            negative_prompt_embeds=text(2, 5, 12, seed=4),
            image=torch.ones(2, 3, 16, 16) / 2,
            height=16,
            width=16,
            strength=1.0,
            num_inference_steps=2,
            true_cfg_scale=W,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
            **more,
        ).images

    main, guide = random(1, make), Counted(random(2, make))
    assert np.abs(drawn(DomainGuidedModel(main, main)) - drawn(main)).max() < 1e-4
    assert np.abs(drawn(DomainGuidedModel(main, guide)) - drawn(main)).max() > 1e-3 and guide.calls == 2


@pytest.mark.parametrize("mine, its", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_guide_in_another_dtype_answers_in_its_own(mine, its):
    main, guide = random(1, unet()).to(mine), random(2, unet()).to(its)
    null = text(1, 5, 12, seed=9)
    both = DomainGuidedModel(main, guide, null=dict(encoder_hidden_states=null))
    x, hidden = text(1, 4, 8, 8, seed=1).repeat(2, 1, 1, 1).to(mine), text(2, 5, 12, seed=2).to(mine)
    found = both(x, torch.tensor(981.0), encoder_hidden_states=hidden).sample
    alone = guide(x[:1].to(its), torch.tensor(981.0), encoder_hidden_states=null.to(its)).sample
    assert found.dtype == mine and guide.dtype == its and torch.equal(found[:1], alone.to(mine))


def test_a_quantized_guide_gets_the_latents_as_they_are():
    """bitsandbytes' networks of 4 bits call their dtype uint8."""
    main, guide = random(1, unet()), Counted(random(2, unet()))
    guide.dtype = torch.uint8
    expected = draw(guided_sd())
    assert np.array_equal(draw(guide_pipeline(sd(main)[0], guide, domain=None)), expected)


def test_a_guide_moves_to_the_latents():
    guide, moved = Counted(random(2, unet())), []
    guide.device, guide.to = torch.device("meta"), moved.append
    draw(guide_pipeline(sd(random(1, unet()))[0], guide))
    assert moved and set(moved) == {torch.device("cpu")}


def test_a_guided_network_is_copied_and_pickled_whole(tuned):
    for net in (guided_sd().unet, lora_guide(sd(tuned[0])[0]).unet):
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        for again in (copy.deepcopy(net), torch.load(file, weights_only=False)):
            assert type(again) is DomainGuidedModel and again.finetuned is not net.finetuned
            assert np.array_equal(draw(sd(again)[0]), draw(sd(net)[0]))
            shares = isinstance(net.pretrained, WithoutAdapter)
            assert not shares or again.pretrained.net is again.finetuned


@pytest.mark.parametrize("domain", [None, 1.5])
def test_a_guided_network_compiles_around_and_in_place(domain):
    expected = draw(guided_sd(domain))
    for compiled in (lambda net: torch.compile(net, backend="eager", fullgraph=True), in_place):
        torch._dynamo.reset()
        pipe = guided_sd(domain)
        pipe.unet = compiled(pipe.unet)
        assert np.abs(draw(pipe) - expected).max() < 1e-5


def in_place(net):
    net.compile(backend="eager", fullgraph=True)
    assert net.finetuned._compiled_call_impl and net.pretrained._compiled_call_impl
    return net


@pytest.mark.parametrize("kind", ["FreeU", "processor", "casting", "qkv"])
def test_what_changes_the_network_later_changes_its_guide(kind):
    from diffusers.models.attention_processor import AttnProcessor

    change = dict(
        FreeU=lambda net: net.enable_freeu(s1=0.5, s2=0.5, b1=1.5, b2=1.5),
        processor=lambda net: net.set_attn_processor({k: AttnProcessor() for k in net.attn_processors}),
        casting=lambda net: net.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
        qkv=lambda net: net.fuse_qkv_projections(),
    )[kind]
    main, guide, both = random(1, unet()), random(2, unet()), guided_sd().unet
    for net in (main, guide, both):
        change(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, expected = draw(sd(both)[0]), draw(sd(Spelled(main, guide, "second"))[0])
        assert np.abs(found - expected).max() < 1e-4
        assert np.abs(found - draw(guided_sd())).max() > (1e-4 if kind in ("FreeU", "casting") else -1)


def test_class_labels_of_other_networks_are_theirs():
    """The x4 upscaler's are noise levels."""
    make = unet(num_class_embeds=20)
    main, guide = random(1, make), random(2, make)
    x, hidden = text(1, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(2, 5, 12, seed=2)
    given = dict(encoder_hidden_states=hidden, class_labels=torch.tensor([7, 7]))
    found = DomainGuidedModel(main, guide)(x, 10, **given).sample
    close(found[:1], guide(x, 10, **given).sample[:1], rtol=1e-4, atol=1e-5)


# adapters of every kind


def test_the_guide_of_any_adapter_is_the_base():
    from peft import LoHaConfig

    low = dict(r=2, target_modules=["to_q", "conv1"])
    kinds = [
        [LoraConfig(**low)],
        [LoraConfig(**low, modules_to_save=["conv_in"])],
        [LoraConfig(**low, use_dora=True)],
        [LoHaConfig(**low)],
        [LoraConfig(**low), LoraConfig(r=2, target_modules=["to_k", "to_q"])],
    ]
    x, hidden = text(1, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(2, 5, 12, seed=2)
    call = lambda net, **more: net(x, 10, encoder_hidden_states=hidden, **more).sample
    base = random(1, unet())
    for configs in kinds:
        net = random(1, unet())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft, of a second adapter
            for i, config in enumerate(configs):
                adapted(net, config, f"a{i}")
        if len(configs) > 1:
            net._hf_peft_config_loaded = True
            net.set_adapter(["a0", "a1"])
        guided = lora_guide(sd(net)[0], domain=None).unet
        assert torch.equal(call(guided.pretrained), call(base))
        for scale in (1.0, 0.5):
            options = dict(cross_attention_kwargs=dict(scale=scale))
            found, with_adapter = call(guided, **options), call(net, **options)
            close(found, torch.cat([call(base)[:1], with_adapter[1:]]), rtol=1e-4, atol=1e-4)
        assert (call(net) - call(base)).abs().max() > 1e-3


def test_adapters_that_hide_the_base_are_refused(tuned):
    from transformers import CLIPTextConfig, CLIPTextModel

    low = dict(r=2, target_modules=["to_q"])
    with refuses("adapter default has bias lora_only, init_lora_weights True: it changes the base's weights"):
        lora_guide(sd(adapted(random(1, unet()), LoraConfig(**low, bias="lora_only")))[0])
    with refuses("adapter default has bias none, init_lora_weights pissa"):
        lora_guide(sd(adapted(random(1, unet()), LoraConfig(**low, init_lora_weights="pissa")))[0])
    pipe = lora_guide(sd(tuned[0])[0])
    pipe.unet.fuse_lora()
    with refuses("adapter is fused into the weights; expected it unfused: unfuse_lora()"):
        draw(pipe)
    sizes = dict(
        vocab_size=20, hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    pipe = sd(adapted(random(1, unet()), LoraConfig(**low)))[0]
    pipe.text_encoder = adapted(
        CLIPTextModel(CLIPTextConfig(**sizes)), LoraConfig(r=2, target_modules=["q_proj"])
    )
    own = text(1, 5, 12, seed=9)
    assert lora_guide(pipe, null=dict(encoder_hidden_states=own)).unet.null["encoder_hidden_states"] is own


def test_a_loras_guide_and_nested_conditions_are_denoisers(tuned):
    net, x = tuned[0], text(2, 4, 8, 8, seed=1)
    hidden = text(1, 5, 12, seed=2)
    D = denoiser(WithoutAdapter(net), ddim(), encoder_hidden_states=hidden)
    plain = random(1, unet())
    plain.load_state_dict(tuned[1])
    close(D(x, 1.0), denoiser(plain, ddim(), encoder_hidden_states=hidden)(x, torch.tensor(1.0)))
    nested = dict(text_embeds=text(1, 10, seed=5), time_ids=torch.ones(1, 6))
    D = denoiser(random(1, unet(**XL)), ddim(), encoder_hidden_states=hidden, added_cond_kwargs=nested)
    close(D(x, 1.0)[:1], D(x[:1], 1.0), rtol=1e-4, atol=1e-4)


def test_a_condition_of_other_rows_than_x_is_named():
    net, x, hidden = random(1, unet(**XL)), text(3, 4, 8, 8, seed=1), lambda n: text(n, 5, 12, seed=2)
    nested = lambda n: dict(text_embeds=text(n, 10, seed=5), time_ids=torch.ones(1, 6))
    D = denoiser(net, ddim(), encoder_hidden_states=hidden(2), added_cond_kwargs=nested(3))
    with refuses("encoder_hidden_states has shape (2, 5, 12); expected 1 row or as many as x (3, 4, 8, 8)"):
        D(x, 1.0)
    D = denoiser(net, ddim(), encoder_hidden_states=hidden(1), added_cond_kwargs=nested(2))
    with refuses("text_embeds has shape (2, 10); expected 1 row or as many as x (3, 4, 8, 8)"):
        D(x, 1.0)
    with refuses(
        "text_embeds has shape (2, 10); expected 1 row or as many as x (1, 4, 8, 8)"
    ):  # which torch would broadcast
        D(x[:1], 1.0)


# velocities


def test_guidance_on_velocities_is_guidance_on_denoisers():
    """Flow matching: x_t = (1 - t) x0 + t eps, v = eps - x0 = (x_t - x0_hat) / t. Weights that sum to 1 pass
    through: w means the same.
    """
    x, t = text(3, 4, 2, 2, seed=1).double(), torch.tensor(0.7, dtype=torch.float64)
    main, guide = (
        lambda x, sigma, k=k: torch.tanh(k * x) for k in (1.0, 2.0)
    )  # two denoisers, as estimates of x0 from x_t
    velocity = lambda D: (x - D(x, t)) / t
    by_velocity = velocity(guide) + W * (velocity(main) - velocity(guide))
    close(by_velocity, velocity(guided(main, guide, W)))
    v_prediction = lambda D: (0.6 * x - D(x, t)) / 0.8  # alpha = 0.6, s = 0.8: v = (alpha x - x0) / s
    close(
        v_prediction(guide) + W * (v_prediction(main) - v_prediction(guide)),
        v_prediction(guided(main, guide, W)),
    )


# the plane, and cheaper steps


def halves(net, x, t, labelled, null, w):
    """What a pipeline makes of its network's answer."""
    unlabelled, on = net(
        torch.cat([x, x]), t, encoder_hidden_states=torch.cat([null, labelled]), return_dict=False
    )[0].chunk(2)
    return unlabelled + w * (on - unlabelled)


@pytest.mark.parametrize("a, b", [(1.0, 2.0), (2.0, 2.0), (1.3, 1.8)])
def test_a_domain_weight_makes_it_a_point_of_the_guidance_plane(a, b, modular):
    main, guide, x, t, labelled, null = modular
    call = lambda net, y: lambda x, sigma: net(x, t, encoder_hidden_states=y).sample
    counted = Counted(guide)
    found = halves(DomainGuidedModel(main, counted, domain=a), x, t, labelled, null, b)
    point = plane(call(guide, null), call(main, null), call(main, labelled), a, b)
    close(found, point(x, 1.0), rtol=1e-4, atol=1e-4)
    assert counted.calls == (a != 1)
    if a == b:  # the line of Domain Guidance
        close(found, halves(DomainGuidedModel(main, guide), x, t, labelled, null, b), rtol=1e-4, atol=1e-4)


def test_without_an_interval_the_time_is_not_read_so_a_device_need_not_be_waited_for(monkeypatch):
    monkeypatch.setattr("dgtoy.interop.levels.t_to_sigma", lambda *a: pytest.fail("the time was read"))
    images("Stable Diffusion", DomainGuidedModel(random(1, unet()), random(2, unet())), W)


def test_outside_the_interval_the_guide_rests_and_the_prompts_guidance_goes_on(modular):
    main, guide, x, _, labelled, null = modular
    counted = Counted(guide)
    interval = tuple(t_to_sigma((100.0, 500.0), ddim()).tolist())
    far = DomainGuidedModel(main, counted, domain=1.5, interval=interval, scheduler=ddim())
    for time, calls in ((50, 0), (300, 1), (501, 1)):
        found = halves(far, x, torch.tensor(time), labelled, null, W)
        plain = halves(main, x, torch.tensor(time), labelled, null, W)
        assert counted.calls == calls and torch.equal(found, plain) == (time != 300)
    counted.calls = 0
    both = DomainGuidedModel(main, counted, interval=interval, scheduler=ddim())
    for time, calls in ((50, 0), (300, 1), (501, 1)):
        found = halves(both, x, torch.tensor(time), labelled, null, W)
        assert counted.calls == calls
        if calls == 0 or time > 500:
            alone = main(x, torch.tensor(time), encoder_hidden_states=labelled).sample
            close(found, alone, rtol=1e-4, atol=1e-5)


def test_every_second_step_uses_the_guides_last_answer(modular):
    main, guide, x, _, labelled, null = modular
    counted = Counted(guide)
    both, seen = DomainGuidedModel(main, counted, every=2), []
    twice, hidden = torch.cat([x, x]), torch.cat([null, labelled])
    for time in (900, 600, 300):
        seen.append(both(twice, torch.tensor(time), encoder_hidden_states=hidden).sample[:2])
    assert counted.calls == 2 and torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    for time in (300, 300):  # a new run never starts with what the last one left
        both(twice, torch.tensor(time), encoder_hidden_states=hidden)
    assert counted.calls == 4


def test_flux_takes_an_interval_as_well():
    make = KINDS["Flux, true CFG"][0]
    main, guide = random(1, make), Counted(random(2, make))
    with pytest.warns(UserWarning, match="the guide is never asked"):  # its last level is 0.5
        found = images("Flux, true CFG", DomainGuidedModel(main, guide, interval=(0.0, 0.1)), W)
    assert guide.calls == 0 and np.abs(found - images("Flux, true CFG", main, 1.0)).max() < 1e-4


# pipelines as denoisers


def test_a_network_that_knows_the_answer_is_a_denoiser_that_does():
    """For epsilon, v and velocity: a network that returns the truth about x0 gives D(x, sigma) = x0 at every
    level.
    """
    x0 = text(2, 4, 4, 4, seed=1).double()
    for kind, scheduler in (
        ("epsilon", ddim()),
        ("v_prediction", ddim(prediction_type="v_prediction")),
        ("flow", FlowMatchEulerDiscreteScheduler()),
    ):

        class Oracle:
            dtype = torch.float64

            def __call__(self, x, timestep, return_dict, kind=kind, scheduler=scheduler):
                t = timestep[:, None, None, None].double()
                if kind == "flow":
                    t = t / 1000
                    return ((x - x0) / t,)  # noise - x0, from x = (1 - t) x0 + t noise
                log_abar = scheduler.alphas_cumprod.double().log().numpy()
                abar = torch.from_numpy(np.exp(np.interp(t.numpy(), np.arange(1000), log_abar)))
                noise = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
                return (noise if kind == "epsilon" else abar.sqrt() * noise - (1 - abar).sqrt() * x0,)

        D = denoiser(Oracle(), scheduler)
        for sigma in (0.1, 1.0, 9.0):
            x = x0 + sigma * text(2, 4, 4, 4, seed=2).double()
            close(D(x, sigma), x0, rtol=2e-3, atol=2e-3)


def test_dits_network_as_a_denoiser_is_dgtoys_vp():
    from dgtoy.dit import VP

    ours, theirs = dit(5, 1)
    D = denoiser(theirs, ddim(steps_offset=0), class_labels=torch.tensor([2]))
    x = 3 * text(3, 4, 8, 8, seed=1)
    for sigma in (0.05, 1.0, 30.0):
        close(D(x, sigma), VP(ours).denoiser(2)(x, sigma), rtol=1e-3, atol=1e-3 * sigma)


def test_held_out_latents_calibrate_a_pipeline(modular):
    """`calibrate` on two pipelines' networks: where the fine-tune is the guide plus half of what is missing,
    w* is 2 at every level.
    """
    _, guide, x0, _, labelled, null = modular
    base = denoiser(guide, ddim(), encoder_hidden_states=null)
    half = lambda x, sigma: base(x, sigma) + 0.5 * (x0 - base(x, sigma))
    found = calibrate(half, base, x0, (2.0, 0.5), generator=torch.Generator().manual_seed(0), resamples=10)
    close(found.weights, torch.full((2, 1), 2.0, dtype=torch.float64), rtol=1e-4, atol=0)
    with refuses("scheduler predicts sample; expected epsilon, v_prediction or a flow"):
        denoiser(guide, ddim(prediction_type="sample"))
    for scheduler in (None, "ddim"):
        with refuses(f"scheduler is {scheduler!r}; expected one of diffusers, or a pipeline"):
            denoiser(guide, scheduler)
        with refuses(f"scheduler is {scheduler!r}; expected one of diffusers, or a pipeline"):
            t_to_sigma(500, scheduler)
    with refuses("t is 'a'; expected numbers", error=TypeError):
        t_to_sigma("a", ddim())


# the guider of modular pipelines


def one_step(guider, net, x, t, labelled, null, step=0, steps=4):
    """What a modular pipeline's denoising block does with its guider and its network in one step."""
    guider.set_state(step=step, num_inference_steps=steps, timestep=t)
    batches = guider.prepare_inputs(dict(encoder_hidden_states=(labelled, null)))
    for batch in batches:
        guider.prepare_models(net)
        batch.noise_pred = net(x, t, encoder_hidden_states=batch.encoder_hidden_states, return_dict=False)[0]
        guider.cleanup_models(net)
    return guider(batches).pred


@pytest.fixture
def modular():
    x, t = text(2, 4, 8, 8, seed=1), torch.tensor(11)
    return random(1, unet()), random(2, unet()), x, t, text(2, 5, 12, seed=2), text(2, 5, 12, seed=3)


def test_the_guider_is_the_formula_and_leaves_the_network_as_it_was(modular):
    main, guide, x, t, labelled, null = modular
    call = lambda net, y: net(x, t, encoder_hidden_states=y).sample
    expected = call(guide, null) + W * (call(main, labelled) - call(guide, null))
    close(one_step(DomainGuidance(guide, W), main, x, t, labelled, null), expected)
    assert "forward" not in main.__dict__
    close(one_step(DomainGuidance(guide, 1.0), main, x, t, labelled, null), call(main, labelled))
    close(
        one_step(DomainGuidance(main, W), main, x, t, labelled, null),
        call(main, null) + W * (call(main, labelled) - call(main, null)),
    )


def test_a_hook_on_the_networks_forward_stays(modular):
    """Offloading puts one there: it runs in the labelled call and afterwards, also after an error."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    main, guide, x, t, labelled, null = modular
    expected, runs = one_step(DomainGuidance(guide, W), main, x, t, labelled, null), []

    class Mover(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            runs.append(1)
            return args, kwargs

    add_hook_to_module(main, Mover())
    hooked = main.__dict__["forward"]
    guider = DomainGuidance(guide, W)
    close(one_step(guider, main, x, t, labelled, null), expected)
    assert len(runs) == 1 and main.__dict__["forward"] is hooked
    with pytest.raises(RuntimeError):
        one_step(guider, main, x, t, labelled, null[..., :3])
    close(one_step(guider, main, x, t, labelled, null), expected)
    assert main.__dict__["forward"] is hooked


def test_outside_its_steps_the_guide_is_not_called(modular):
    main, guide, x, t, labelled, null = modular
    guider = DomainGuidance(guide, W, start=0.5)
    plain = main(x, t, encoder_hidden_states=labelled).sample
    close(one_step(guider, main, x, t, labelled, null, step=1), plain)
    assert (one_step(guider, main, x, t, labelled, null, step=2) - plain).abs().max() > 1e-3


def test_a_guider_with_a_folder_is_saved_and_loaded_with_its_reference(modular, tmp_path):
    main, guide, x, t, labelled, null = modular
    guide.save_pretrained(tmp_path / "guide")
    guider = DomainGuidance(tmp_path / "guide", W, stop=0.75)
    guider.save_pretrained(tmp_path / "guider")
    again = DomainGuidance.from_pretrained(tmp_path / "guider")
    assert again.config.pretrained == str(tmp_path / "guide")
    assert again.guidance_scale == W and again.config.stop == 0.75
    close(
        one_step(again, main, x, t, labelled, null),
        one_step(DomainGuidance(guide, W), main, x, t, labelled, null),
    )


def test_a_guider_without_a_fitting_network_is_refused(modular):
    main, _, x, t, labelled, null = modular
    with refuses("pretrained is missing; expected the pre-trained network"):
        one_step(DomainGuidance(None, W), main, x, t, labelled, null)
    with refuses("pretrained is a DiTTransformer2DModel; expected a UNet2DConditionModel"):
        one_step(DomainGuidance(dit(5, 1)[1], W), main, x, t, labelled, null)
    assert torch.equal(
        one_step(DomainGuidance(main, 1.0), main, x, t, labelled, null),
        main(x, t, encoder_hidden_states=labelled).sample,
    )
