"""Guided pipelines in use: options, the blurred self, offloading, wrappers, other pipelines, modular ones."""

import math
import threading

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DiTPipeline,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from helpers import random_mixture, refuses, shaken
from peft import LoraConfig
from test_pipelines import tuned  # noqa: F401  (a fixture)
from tiny import (
    KINDS,
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
    offload,
    random,
    sd,
    sdxl,
    text,
    unet,
    vae,
)

from dgtoy import MLP, GaussianMixture, blurred, plane
from dgtoy.dit import EDM, DiT
from dgtoy.interop import (
    DomainGuidedModel,
    denoiser,
    guide_pipeline,
    lora_guide,
    sigma_to_t,
    t_to_sigma,
    unguide,
)
from dgtoy.interop.adapters import peft_layers
from dgtoy.interop.calls import with_input
from dgtoy.interop.checks import check_tokens
from dgtoy.interop.levels import blurred_prediction

# options


def test_a_class_label_has_no_prompt_so_the_scale_is_w():
    pipe = DiTPipeline(dit(5, 1)[1], vae(), ddim())
    assert guide_pipeline(pipe, dit(7, 2)[1]).transformer.domain is None


def test_the_rescaling_of_guidance_sees_the_labelled_prediction():
    main, guide = random(1, unet()), random(2, unet())
    found = draw(guide_pipeline(sd(main)[0], guide), guidance_rescale=0.7)
    expected = draw(sd(OnPlane(main, guide, "second", 1.25, W))[0], guidance_rescale=0.7)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - draw(guide_pipeline(sd(main)[0], guide))).max() > 1e-3


def test_a_scale_so_near_1_that_the_domain_s_part_is_rounded_is_told():
    def off(w):
        pipes = [guided_sd(domain=1.25).to(dtype) for dtype in (torch.bfloat16, torch.float32)]
        found, exact = (draw(pipe, w, output_type="latent").float() for pipe in pipes)
        return (found - exact).norm() / exact.norm()

    said = "guidance_scale is 1.0005, so near 1 that torch.bfloat16 rounds .*; expected 1.0625 or more"
    with pytest.warns(UserWarning, match=said):
        assert off(1.0005) > 0.1
    assert off(1.0625) < 0.01


def test_options_change_between_calls_are_checked_and_told():
    pipe, main = guided_sd(), random(1, unet())
    plain = draw(pipe)
    text = repr(pipe.unet)
    assert text.startswith(
        "DomainGuidedModel(UNet2DConditionModel guided by UNet2DConditionModel, domain=None"
    )
    assert text.endswith("2 network calls a step)") and "\n" not in text
    pipe.unet.domain, pipe.unet.interval, pipe.unet.every = 1.3, (0.1, 5.0), 2
    assert "domain=1.3, interval=(0.1, 5.0), every=2, blur=None: 3 network calls" in repr(pipe.unet)
    assert np.abs(draw(pipe) - plain).max() > 1e-3
    for name, value, words in (
        ("domain", math.nan, "domain is nan; expected a finite number, or None"),
        ("domain", "1.3", "domain is '1.3'; expected a finite number, or None"),
        ("domain", True, "domain is True; expected a finite number, or None"),
        ("every", 0, "every is 0; expected a whole number, 1 or more"),
        ("every", 1.5, "every is 1.5; expected a whole number, 1 or more"),
        ("interval", (3.0, 1.0), "interval is (3.0, 1.0); expected 0 <= low < high"),
        ("blur", 0.0, "blur is 0.0; expected a finite width above 0, or None"),
    ):
        with refuses(words):
            setattr(pipe.unet, name, value)
        with refuses(words):
            guide_pipeline(sd(main)[0], None if name == "blur" else main, **{name: value})
    with refuses("domian is no option; expected domain", error=AttributeError):
        pipe.unet.domian = 2.0
    with refuses("pretrained is the pipeline's own network; expected the one it was tuned from"):
        guide_pipeline(pipe, pipe)
    assert pipe.unet.domain == 1.3 and pipe.unet.every == 2
    pipe.unet.domain, pipe.unet.interval, pipe.unet.every = None, (0.0, math.inf), 1
    assert np.array_equal(draw(pipe), plain)


def test_what_is_set_where_nothing_reads_it_is_refused():
    pipe = guided_sd()
    pipe.domain = 1.3
    with refuses("pipe.domain is set; expected pipe.unet.domain, and del pipe.domain", error=AttributeError):
        draw(pipe)
    del pipe.domain
    pipe.intervall = (0.3, 5.0)
    with refuses("pipe.intervall is set; expected pipe.unet.interval", error=AttributeError):
        draw(pipe, 1.0)
    del pipe.intervall
    draw(pipe)
    with refuses("w is no option; expected one of domain, interval, every, blur", error=AttributeError):
        pipe.unet.w = 1.5
    with refuses("null has text; expected inputs of a UNet2DConditionModel"):
        pipe.unet.null = dict(text=text(1, 5, 12, seed=9))
    pipe.unet.null = {}


def test_what_the_network_has_is_changed_there():
    guided = guided_sd().unet
    layer = torch.nn.Conv2d(4, 8, 3, padding=1)
    guided.conv_in = layer
    assert guided.finetuned.conv_in is layer and guided.pretrained.conv_in is not layer


def test_unguided_a_pipeline_has_its_own_network_again(tuned):  # noqa: F811
    for pipe, guide in ((sd(random(1, unet()))[0], random(2, unet())), (sd(tuned[0])[0], None)):
        network, plain = pipe.unet, draw(pipe)
        lora_guide(pipe) if guide is None else guide_pipeline(pipe, guide)
        again = guide_pipeline(pipe, random(3, unet()))  # the guide is replaced
        assert again.unet.finetuned is network and not np.array_equal(draw(pipe), plain)
        assert unguide(pipe) is pipe and pipe.unet is network and np.array_equal(draw(pipe), plain)
        with refuses("pipe is a StableDiffusionPipeline without a guide; expected a guided one"):
            unguide(pipe)
    guide = guided_sd()  # a guided pipeline as the guide lends its own network
    assert guide_pipeline(sd(network)[0], guide).unet.pretrained is guide.unet.finetuned


# noise levels


def test_levels_and_timesteps_are_inverses():
    t = torch.tensor([0.0, 12.5, 500.0, 999.0], dtype=torch.float64)
    for scheduler in (ddim(), ddim(rescale_betas_zero_snr=True), FlowMatchEulerDiscreteScheduler()):
        close(sigma_to_t(t_to_sigma(t, scheduler), scheduler), t, rtol=1e-6, atol=1e-6)
    process = ddim()
    close(t_to_sigma(7.0, process), (1 / process.alphas_cumprod[7].double() - 1).sqrt(), rtol=1e-5, atol=0)
    close(t_to_sigma(750.0, FlowMatchEulerDiscreteScheduler()), torch.tensor(3.0, dtype=torch.float64))
    assert 0 < sigma_to_t(1.0, guided_sd()) < 999  # a pipeline tells as well
    ends = 0.0, math.inf
    assert sigma_to_t(ends, process).tolist() == [0, 999]
    assert sigma_to_t(ends, FlowMatchEulerDiscreteScheduler()).tolist() == [0, 1000]
    for scheduler in (process, FlowMatchEulerDiscreteScheduler()):
        for wrong in (-1.0, math.nan):
            with refuses(f"sigma is {wrong}; expected noise levels from 0 on"):
                sigma_to_t(wrong, scheduler)
        for wrong in (1200.0, math.nan):
            with refuses(f"t is {wrong}; expected timesteps from 0 to 1000"):
                t_to_sigma(wrong, scheduler)
    assert t_to_sigma(-20.0, process) == t_to_sigma(0.0, process)  # where a solver that inverts begins
    with refuses("t is -20.0; expected timesteps from 0 to 1000"):
        t_to_sigma(-20.0, FlowMatchEulerDiscreteScheduler())
    with refuses("scheduler is a EDMEulerScheduler; expected one with alphas_cumprod, or of flow matching"):
        t_to_sigma(1.0, EDMEulerScheduler())
    pipe = sd(random(1, unet()))[0]
    pipe.scheduler = EDMEulerScheduler()
    with refuses("scheduler is a EDMEulerScheduler"):
        guide_pipeline(pipe, random(2, unet()), interval=(0.3, 5.0))


@pytest.mark.parametrize("kind", ["Stable Diffusion", "Stable Diffusion 3", "Flux, true CFG"])
def test_an_interval_is_one_of_noise_levels(kind):
    make, build, _ = KINDS[kind]
    main, guide = random(1, make), Counted(random(2, make))
    pipe = build(main)[0]
    pipe.scheduler.set_timesteps(3)
    middle = 2.0 if "Flux" in kind else t_to_sigma(pipe.scheduler.timesteps, pipe)[1].item()
    images(kind, DomainGuidedModel(main, guide, interval=(0.9 * middle, 1.1 * middle)), W)
    assert guide.calls == 1
    images(kind, DomainGuidedModel(main, guide, domain=1.5, interval=(0.9 * middle, math.inf)), W)
    assert guide.calls == 3


def test_an_interval_in_timesteps_is_warned_of_once_a_run():
    pipe, plain = guided_sd(), draw(sd(random(1, unet()))[0], 1.0)
    pipe.unet.interval = (200, 800)
    for _ in range(2):
        lost = r"interval is \(200.0, 800.0\): .* lies in it; expected sigma"
        with pytest.warns(UserWarning, match=lost) as said:
            assert np.abs(draw(pipe) - plain).max() < 1e-5
        assert len(said) == 1


def test_outside_a_pipeline_an_interval_needs_the_scheduler():
    x, hidden = text(1, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(2, 5, 12, seed=2)
    both = DomainGuidedModel(random(1, unet()), random(2, unet()), interval=(1.0, 2.0))
    with refuses("scheduler is None; expected the pipeline's"):
        both(x, 10, encoder_hidden_states=hidden)


def test_a_new_run_never_begins_with_the_last_answer_of_another():
    """The second run's only guided step comes later in time than the first's."""
    pipe = guided_sd(domain=1.5, every=2)
    pipe.scheduler.set_timesteps(2)
    high, low = t_to_sigma(pipe.scheduler.timesteps, pipe).tolist()
    pipe.unet.interval = (0.9 * high, math.inf)
    draw(pipe)
    pipe.unet.interval = (0.0, 1.1 * low)
    fresh = guided_sd(domain=1.5, every=2, interval=(0.0, 1.1 * low))
    assert np.array_equal(draw(pipe, seeds=(8,)), draw(fresh, seeds=(8,)))


@pytest.mark.filterwarnings("ignore")  # numpy's, of diffusers' solvers
@pytest.mark.parametrize("scheduler", [HeunDiscreteScheduler, PNDMScheduler])
def test_a_solver_that_goes_back_in_time_is_still_in_the_same_run(scheduler):
    guide = Counted(random(2, unet()))
    main = Counted(random(1, unet()))
    pipe = guide_pipeline(sd(main)[0], guide, every=3)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    draw(pipe, num_inference_steps=4)
    assert guide.calls == math.ceil(main.calls / 3)


# the blurred self


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0, 4096.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_a_prediction_for_the_blurred_density_is_the_formula(kind, sigma):
    scheduler = FlowMatchEulerDiscreteScheduler() if kind == "flow" else ddim(prediction_type=kind)
    net = lambda x, timestep, return_dict: (torch.tanh(x + timestep.double()[:, None, None, None] / 500),)
    net.dtype = torch.float64
    x_t, b = text(2, 4, 4, 4, seed=1).double(), 0.3
    scale = 1 + sigma if kind == "flow" else (1 + sigma**2) ** 0.5
    x = scale * x_t
    G = blurred(denoiser(net, scheduler), b)(x, sigma)
    eps = (x - G) / sigma
    expected = dict(epsilon=eps, v_prediction=(eps - sigma * G) / scale, flow=eps - G)[kind]
    t, r, k, c = blurred_prediction(sigma, b, scheduler)
    time = torch.full((2,), t, dtype=torch.float64 if kind == "flow" else torch.float32)
    found = k * net(r * x_t, time, False)[0] - c * x_t
    close(found, expected, rtol=1e-5, atol=1e-5 * max(1, sigma / 100))


def test_a_pipeline_guided_by_its_blurred_self_says_so_and_takes_no_second_network():
    net = random(1, unet())
    guided = guide_pipeline(sd(net)[0], blur=0.5, domain=None).unet
    assert "guided by itself, domain=None" in repr(guided) and "blur=0.5: 2 network calls" in repr(guided)
    with refuses("blur is None; expected a width: this pipeline has no second network"):
        guided.blur = None
    with refuses("pretrained, blur: both came; expected one of the two"):
        DomainGuidedModel(net, net, blur=0.5)
    with refuses("pretrained, blur: neither came; expected one of the two"):
        guide_pipeline(sd(net)[0])
    with refuses("null came with blur 0.5, whose guide sees the prompt itself; expected none"):
        guide_pipeline(sd(net)[0], blur=0.5, null=dict(encoder_hidden_states=torch.ones(1, 5, 12)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_blurred_self_adds_to_the_pipelines_own_guidance(kind):
    """D_null + b (D_c - D_null) + (a - 1) (D_c - D_blur): nothing at a = 1, and in proportion to a - 1."""
    net = random(1, KINDS[kind][0])
    guided = DomainGuidedModel(net, blur=0.5, domain=1.0)
    plain = images(kind, net, W)
    assert np.abs(images(kind, guided, W) - plain).max() < 1e-4
    guided.domain = 1.5
    assert np.abs(images(kind, guided, W) - plain).max() > 1e-4
    x, hidden = text(1, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(2, 5, 12, seed=2)
    if kind == "Stable Diffusion":
        call = lambda net: net(x, torch.tensor(300), encoder_hidden_states=hidden).sample
        point = lambda net: (lambda null, c: null + W * (c - null))(*call(net).chunk(2))
        guided.scheduler = ddim()
        D_null, D_c = call(net).chunk(2)
        D_blur = call(DomainGuidedModel(net, blur=0.5, scheduler=ddim())).chunk(2)[0]
        close(point(guided), D_null + W * (D_c - D_null) + 0.5 * (D_c - D_blur), rtol=1e-4, atol=1e-4)


# how networks are held


def lora_sd():
    net = random(1, unet())
    torch.manual_seed(3)
    net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    return sd(net)[0]


@pytest.mark.filterwarnings("ignore")  # diffusers', of a device that is no accelerator
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("how", ["model", "leaf"])
def test_offloading_before_and_after_changes_nothing(how, lora):
    guide = lambda pipe: lora_guide(pipe) if lora else guide_pipeline(pipe, random(2, unet()))
    made = lambda: lora_sd() if lora else sd(random(1, unet()))[0]
    expected = draw(guide(made()))
    for order in ((guide, lambda p: offload(p, how)), (lambda p: offload(p, how), guide)):
        pipe = made()
        for change in order:
            change(pipe)
        assert how != "model" or hasattr(pipe.unet, "_hf_hook")
        assert np.array_equal(draw(pipe), expected)
        assert np.array_equal(draw(pipe), expected)  # hooks are taken off and put back after each run
        network = unguide(pipe).unet
        assert how != "model" or hasattr(network, "_hf_hook")


def test_a_guide_that_offloading_moves_in_parts_is_not_moved_whole():
    guide, moved = Counted(random(2, unet())), []
    guide.device, guide.to = torch.device("meta"), moved.append
    guide.net.conv_in._hf_hook = object()
    draw(guide_pipeline(sd(random(1, unet()))[0], guide))
    assert not moved and guide.calls == 2


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    import torch.distributed as dist

    file = tmp_path_factory.mktemp("gloo") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def wrapped(how, net):
    """A network as others hold it."""
    if how == "compile":
        return torch.compile(net, backend="eager")
    if how == "DDP":
        return torch.nn.parallel.DistributedDataParallel(net.requires_grad_(True))
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    if how == "FSDP":
        return fsdp.FullyShardedDataParallel(net, device_id=torch.device("cpu"))
    return fsdp.fully_shard(net, mesh=init_device_mesh("cpu", (1,)))


@pytest.mark.filterwarnings("ignore")  # torch's, of sharding over one process
@pytest.mark.parametrize("how", ["compile", "DDP", "FSDP", "fully_shard"])
def test_networks_in_wrappers_are_guided(how, one_process):
    torch._dynamo.reset()
    (_, main), (_, guide) = dit(1000, 1), dit(1000, 2)
    expected = dit_images(DomainGuidedModel(main, guide), W)
    guide = wrapped(how, guide)
    for net in (main, wrapped(how, main)):
        both = DomainGuidedModel(net, guide)
        assert isinstance(both, DiTTransformer2DModel)
        assert np.abs(dit_images(both, W) - expected).max() < 1e-5
    with refuses("pretrained is a UNet2DConditionModel; expected a DiTTransformer2DModel"):
        DomainGuidedModel(net, random(1, unet()))


@pytest.mark.parametrize("name", ["mixture", "MLP", "DiT"])
def test_the_library_s_own_denoisers_compile_whole(name):
    torch._dynamo.reset()
    D, x = dict(
        mixture=(random_mixture(dtype=torch.float32).denoise, torch.randn(5, 2)),
        MLP=(shaken(MLP(width=8)).denoiser(0), torch.randn(5, 2)),
        DiT=(EDM(shaken(DiT(4, 2, 1, 16, 1, 2, 3))).denoiser(1), torch.randn(5, 1, 4, 4)),
    )[name]
    whole = torch.compile(D, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x, torch.ones(5)), D(x, torch.ones(5)))


def test_a_peft_model_is_guided_by_its_base():
    from peft import get_peft_model

    pipe, net = lora_sd(), random(1, unet())
    torch.manual_seed(3)
    held = sd(random(2, unet()))[0]
    torch.manual_seed(3)
    held.unet = get_peft_model(net, LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    assert np.abs(draw(lora_guide(held)) - draw(lora_guide(pipe))).max() < 1e-5


def test_the_plane_of_a_lora_takes_one_forward(tuned, monkeypatch):  # noqa: F811
    """The reference is the plain way: all networks by themselves."""
    pipe, calls = lora_guide(sd(tuned[0])[0]), []
    hook = tuned[0].register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    found = draw(pipe)
    assert calls == [3, 3]
    monkeypatch.setattr("dgtoy.interop.guided.mixable_layers", lambda *a: [])
    assert np.abs(draw(pipe) - found).max() < 1e-5 and calls == [3, 3, 2, 1, 2, 1]
    hook.remove()


def test_a_pipeline_made_from_a_guided_one_is_guided():
    from diffusers import AutoPipelineForImage2Image, StableDiffusionImg2ImgPipeline

    pipe, image = guided_sd(), torch.rand(1, 3, 16, 16)
    again = AutoPipelineForImage2Image.from_pipe(pipe)
    by_type = StableDiffusionImg2ImgPipeline.from_pipe(pipe, requires_safety_checker=False)
    assert again.unet is by_type.unet is pipe.unet
    assert np.array_equal(draw(again, image=image), draw(by_type, image=image))


# two pictures at once


def in_thread(do):
    """A thread, after its end or 0.2 s, and the list that gets what a function returns in it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(do()))
    thread.start()
    thread.join(0.2)
    return thread, found


def flux_inputs(x):
    """What Flux' network is given with tokens x (2, 4, C)."""
    ids = dict(img_ids=torch.zeros(4, 3), txt_ids=torch.zeros(5, 3), timestep=torch.ones(2) / 2)
    more = dict(encoder_hidden_states=text(2, 5, 12, seed=3), pooled_projections=text(2, 10, seed=5))
    return dict(hidden_states=x, **ids, **more)


def test_two_threads_may_draw_with_one_guided_network():
    """Between the two branches of a picture another one is drawn."""
    make = KINDS["Flux, true CFG"][0]
    both = DomainGuidedModel(random(1, make), random(2, make), every=2)
    given = lambda seed: flux_inputs(text(2, 4, 16, seed=seed))

    def null(seed, between=lambda: None):
        both.answer_labelled((), given(seed))
        between()
        return both.answer_null((), given(seed), {}, None).sample

    expected = [null(1), null(2)]
    other = []
    close(null(1, lambda: other.extend(in_thread(lambda: null(2)))), expected[0])
    close(other[1][0], expected[1])


def test_no_other_thread_calls_a_network_while_its_adapter_is_off(tuned):  # noqa: F811
    net, other = tuned[0], []
    guided = lora_guide(sd(net)[0], domain=None, every=2).unet  # so the two are called by themselves
    x, hidden = text(1, 4, 8, 8, seed=1).repeat(2, 1, 1, 1), text(2, 5, 12, seed=2)
    call = lambda: guided(x, 10, encoder_hidden_states=hidden).sample
    expected = call()

    def meanwhile(module, args):
        if peft_layers(net)[0].disable_adapters:
            hook.remove()
            other.extend(in_thread(call))

    hook = net.conv_in.register_forward_pre_hook(meanwhile)
    close(call(), expected)
    thread, found = other
    thread.join()
    close(found[0], expected)


# other pipelines


def made(cls, pipe, **more):
    """A pipeline of another class from the parts of one of Stable Diffusion."""
    parts = {name: part for name, part in pipe.components.items() if name in cls._get_signature_types()}
    pipe = cls(**parts, **more, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guided_and_spelled(cls, make, parts, **call):
    """What a guided pipeline draws, what the formula in its place draws, and what it draws unguided."""
    main, guide = random(1, make), random(2, make)
    point = OnPlane(main, guide, "second", 1.25, W)
    nets = guide_pipeline(sd(main)[0], guide).unet, point, main
    return [draw(made(cls, sd(net)[0], **parts()), **call) for net in nets]


def controlnet():
    from diffusers import ControlNetModel

    base = random(4, unet())
    make = lambda: ControlNetModel.from_unet(base, conditioning_embedding_out_channels=(4, 4))
    return dict(controlnet=random(5, make))


def t2i_adapter():
    from diffusers import T2IAdapter

    make = lambda: T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return dict(adapter=random(5, make))


ALIKE = dict(  # blocks of which the first keeps its size, as a T2I-Adapter's does
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
IMAGE, MASK = torch.linspace(0, 1, 768).reshape(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
OTHERS = {
    "StableDiffusionImg2ImgPipeline": (unet(), dict, dict(image=IMAGE, strength=1.0)),
    "StableDiffusionInpaintPipeline": (unet(), dict, dict(image=IMAGE, mask_image=MASK, strength=1.0)),
    "inpainting with a mask": (unet(in_channels=9, out_channels=4), dict, dict(image=IMAGE, mask_image=MASK)),
    "StableDiffusionControlNetPipeline": (unet(), controlnet, dict(image=IMAGE)),
    "StableDiffusionAdapterPipeline": (unet(**ALIKE), t2i_adapter, dict(image=IMAGE)),
    "StableDiffusionPanoramaPipeline": (unet(), dict, {}),
}


@pytest.mark.filterwarnings("ignore")  # diffusers', of pipelines that it will drop
@pytest.mark.parametrize("name", OTHERS)
def test_other_pipelines_of_two_branches_are_guided(name):
    import diffusers

    make, parts, call = OTHERS[name]
    cls = getattr(diffusers, name, diffusers.StableDiffusionInpaintPipeline)
    found, expected, plain = guided_and_spelled(cls, make, parts, **call)
    assert np.abs(found - expected).max() < 1e-4 and np.abs(found - plain).max() > 1e-4


def test_the_blur_is_refused_where_a_part_of_the_input_has_other_noise():
    """A picture to edit, in tokens behind the latents; a first frame that is given, at its own timestep."""
    x = torch.zeros(2, 8, 16)
    call = dict(self=guided_sd(), latents=x[:, :4])
    with refuses("blur is on, and a StableDiffusionPipeline calls its network on 8 tokens, 4 of them noisy"):
        check_tokens(x, call)
    check_tokens(x[:, :4], call)
    with refuses("blur is on, and the timesteps of a picture differ; expected one"):
        with_input((x, torch.tensor([[0.0, 500.0]])), {}, x, 3.0)


def test_the_blur_leaves_a_mask_behind_the_latents_as_it_is():
    net, seen = random(1, unet(in_channels=9, out_channels=4)), []
    both = DomainGuidedModel(net, blur=0.5, scheduler=ddim())
    net.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    x = text(1, 9, 8, 8, seed=1)
    both(torch.cat([x, x]), torch.tensor(300), encoder_hidden_states=text(2, 5, 12, seed=2))
    assert torch.equal(seen[1][:, 4:], x[:, 4:]) and not torch.equal(seen[1][:, :4], x[:, :4])


def test_the_blur_of_tokens_leaves_the_channels_behind_the_latents_as_they_are():
    """As Flux' inpainting has them: tokens (B, L, C), of whose channels the first are noisy."""
    net = random(1, tiny.made("Flux", **tiny.WIDE, in_channels=20, out_channels=16))
    both, seen = DomainGuidedModel(net, blur=0.5, scheduler=FlowMatchEulerDiscreteScheduler()), []
    net.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    given = flux_inputs(text(2, 4, 20, seed=1))
    both.answer_labelled((), given)
    both.answer_null((), given, {}, None)
    x, blurred_x = seen
    assert torch.equal(x[..., 16:], blurred_x[..., 16:]) and not torch.equal(x[..., :16], blurred_x[..., :16])


@pytest.mark.filterwarnings("ignore")
def test_self_attention_guidance_calls_a_third_branch_and_is_refused():
    from diffusers import StableDiffusionSAGPipeline

    sag = made(StableDiffusionSAGPipeline, guided_sd())
    with refuses("a StableDiffusionSAGPipeline calls its network a third time; expected two branches"):
        draw(sag, sag_scale=0.75)


# modular pipelines


def modular_blocks(**more):
    """The denoising part of a modular SDXL pipeline."""
    from diffusers.modular_pipelines import SequentialPipelineBlocks
    from diffusers.modular_pipelines.stable_diffusion_xl import before_denoise, denoise
    from diffusers.modular_pipelines.stable_diffusion_xl import modular_blocks_stable_diffusion_xl as auto

    steps = dict(
        input=before_denoise.StableDiffusionXLInputStep(),
        before=auto.StableDiffusionXLBeforeDenoiseStep(),
        denoise=denoise.StableDiffusionXLDenoiseStep(),
    )
    return SequentialPipelineBlocks.from_blocks_dict(more | steps)


def modular_sdxl(net):
    """Such a pipeline around a network; `latents_of` is what it draws with a guidance_scale."""
    from diffusers import EulerDiscreteScheduler

    pipe = modular_blocks().init_pipeline()
    pipe.update_components(unet=net, scheduler=EulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


PROMPTS = dict(
    prompt_embeds=text(1, 5, 12, seed=3),
    negative_prompt_embeds=text(1, 5, 12, seed=4),
    pooled_prompt_embeds=text(1, 10, seed=5),
    negative_pooled_prompt_embeds=text(1, 10, seed=6),
)


def latents_of(pipe):
    noise = torch.Generator().manual_seed(0)
    size = dict(num_inference_steps=3, height=64, width=64)
    return pipe(**PROMPTS, **size, generator=noise, output="latents")


def whole_sdxl(net):
    """The same by the pipeline of one piece, at the same guidance_scale."""
    from diffusers import EulerDiscreteScheduler

    pipe, _ = sdxl(net)
    pipe.scheduler = EulerDiscreteScheduler()
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        **PROMPTS,
        num_inference_steps=3,
        latents=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        height=16,
        width=16,
        original_size=(64, 64),
        target_size=(64, 64),
        guidance_scale=7.5,
        output_type="latent",
    ).images


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options", [{}, dict(domain=None), dict(interval=(0.3, 5.0)), dict(every=2), dict(blur=0.5)]
)
def test_a_modular_pipeline_draws_what_the_one_of_one_piece_does(options):
    make = unet(**XL)
    main, guide = random(1, make), None if "blur" in options else random(2, make)
    pipe = modular_sdxl(main)
    guider, plain = pipe.guider, latents_of(pipe)
    close(plain, whole_sdxl(main), rtol=1e-3, atol=1e-3)
    assert guide_pipeline(pipe, guide, **options) is pipe and type(pipe.unet) is UNet2DConditionModel
    found = latents_of(pipe)
    expected = whole_sdxl(DomainGuidedModel(main, guide, **dict(domain=1.25) | options))
    close(found, expected, rtol=1e-3, atol=1e-3)
    assert (found - plain).abs().max() > 1e-2
    pipe.guider.domain = 1.0 if options == {} else pipe.guider.domain
    assert options or (latents_of(pipe) - plain).abs().max() < 1e-3
    pipe.domain = 1.3
    with refuses("pipe.domain is set; expected pipe.guider.domain", error=AttributeError):
        latents_of(pipe)
    del pipe.domain
    assert unguide(pipe).guider is guider and torch.equal(latents_of(pipe), plain)


@pytest.mark.filterwarnings("ignore")
def test_the_scale_of_a_guider_that_is_replaced_keeps_its_meaning():
    """In Ho & Salimans' own formula 0 is off, and w is one less."""
    from diffusers.guiders import ClassifierFreeGuidance

    make = unet(**XL)
    pipe = modular_sdxl(random(1, make))
    pipe.update_components(guider=ClassifierFreeGuidance(3.0, use_original_formulation=True))
    plain = latents_of(pipe)
    close(latents_of(guide_pipeline(pipe, random(2, make), domain=1.0)), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_modular_pipeline_with_a_lora_and_one_with_a_guided_network():
    net = random(1, unet(**XL))
    net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    pipe = lora_guide(modular_sdxl(net))
    close(latents_of(pipe), whole_sdxl(lora_guide(sdxl(net)[0]).unet), rtol=1e-3, atol=1e-3)
    guided = DomainGuidedModel(net, random(2, unet(**XL)))
    with refuses("the network of a modular pipeline is guided; expected guide_pipeline(pipe, ...)"):
        latents_of(modular_sdxl(guided))


def test_a_guider_keeps_its_options_and_refuses_wrong_ones(tmp_path):
    from dgtoy.interop.guider import DomainGuidance

    guider = DomainGuidance(tmp_path, 5.0, domain=1.3, interval=(0.3, 5.0), every=2)
    guider.save_pretrained(tmp_path)
    again = DomainGuidance.from_pretrained(tmp_path)
    assert (again.domain, tuple(again.interval), again.every, again.blur) == (1.3, (0.3, 5.0), 2, None)
    with refuses("every is 0; expected a whole number, 1 or more"):
        again.every = 0


@pytest.mark.filterwarnings("ignore")
def test_a_modular_pipeline_has_the_guide_as_a_component_saved_by_reference(tmp_path):
    import json

    from diffusers import EulerDiscreteScheduler
    from diffusers.modular_pipelines import ComponentSpec

    from dgtoy.interop.guider import DomainGuidance, Guide

    make = unet(**XL)
    main, guide = random(1, make), random(2, make)
    main.save_pretrained(tmp_path / "finetuned")
    guide.save_pretrained(tmp_path / "pretrained")
    load = lambda name, folder: ComponentSpec(
        name, UNet2DConditionModel, pretrained_model_name_or_path=str(tmp_path / folder)
    ).load()
    pipe = modular_blocks(guide=Guide(UNet2DConditionModel)).init_pipeline()
    pipe.update_components(
        unet=load("unet", "finetuned"),
        guide=load("guide", "pretrained"),
        scheduler=EulerDiscreteScheduler(),
        guider=DomainGuidance(guidance_scale=7.5, domain=1.25),
    )
    pipe.set_progress_bar_config(disable=True)
    found = latents_of(pipe)
    close(found, whole_sdxl(DomainGuidedModel(main, guide, domain=1.25)), rtol=1e-3, atol=1e-3)
    pipe.save_config(str(tmp_path / "saved"))  # the index, without weights
    assert not list((tmp_path / "saved").rglob("*.safetensors"))
    index = json.loads((tmp_path / "saved/modular_model_index.json").read_text())
    assert index["guide"][2]["pretrained_model_name_or_path"] == str(tmp_path / "pretrained")
    again = modular_blocks(guide=Guide(UNet2DConditionModel)).init_pipeline(str(tmp_path / "saved"))
    again.load_components()
    again.update_components(scheduler=EulerDiscreteScheduler(), guider=pipe.guider)
    again.set_progress_bar_config(disable=True)
    assert again.guide is not pipe.guide
    close(latents_of(again), found)


# conditions of other kinds


def ip_adapter(pipe):
    """An IP-Adapter with random weights in a pipeline, in the format of the published ones."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    layers = sum(name.endswith("attn2.processor") for name in pipe.unet.attn_processors)
    torch.manual_seed(6)
    names = [f"{2 * i + 1}.to_{kind}_ip.weight" for i in range(layers) for kind in ("k", "v")]
    weights = dict(
        image_proj={
            "proj.weight": torch.randn(4 * 12, 7),
            "proj.bias": torch.zeros(4 * 12),
            "norm.weight": torch.ones(12),
            "norm.bias": torch.zeros(12),
        },
        ip_adapter={name: torch.randn(16, 12) for name in names},
    )
    pipe.load_ip_adapter(weights, subfolder="", weight_name="ip.bin", image_encoder_folder=None)
    assert any(isinstance(p, IPAdapterAttnProcessor2_0) for p in pipe.unet.attn_processors.values())
    return pipe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["before", "after"])
def test_an_image_prompt_reaches_the_fine_tuned_network_alone(order):
    """The guide is asked without it, as it has no adapter for it."""
    guide, image = random(2, unet()), dict(ip_adapter_image_embeds=[text(2, 1, 7, seed=8)])
    pipe = sd(random(1, unet()))[0]
    if order == "before":
        guide_pipeline(ip_adapter(pipe), guide, domain=None)
    else:
        ip_adapter(guide_pipeline(pipe, guide, domain=None))
    found = draw(pipe, **image)
    main = ip_adapter(sd(random(1, unet()))[0])
    expected = draw(sd(Spelled(main.unet, random(2, unet()), "second"))[0], **image)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - draw(guided_sd())).max() > 1e-3
    pipe.unload_ip_adapter()
    assert np.array_equal(draw(pipe), draw(guided_sd()))


@pytest.mark.filterwarnings("ignore")
def test_the_upscaler_is_guided_and_keeps_its_noise_level():
    from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline

    make = unet(in_channels=7, out_channels=4, num_class_embeds=400)

    def drawn(net):
        parts = {k: v for k, v in sd(net)[0].components.items() if k != "image_encoder"}
        pipe = StableDiffusionUpscalePipeline(**parts, low_res_scheduler=DDPMScheduler())
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            image=IMAGE[..., :8, :8],
            prompt_embeds=text(1, 5, 12, seed=3),
            negative_prompt_embeds=text(1, 5, 12, seed=4),
            guidance_scale=W,
            noise_level=7,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images

    main, guide = random(1, make), random(2, make)
    found = drawn(DomainGuidedModel(main, guide, domain=1.25))
    assert np.abs(found - drawn(OnPlane(main, guide, "second", 1.25, W))).max() < 1e-4
    assert np.abs(found - drawn(main)).max() > 1e-4


# adapters in text encoders


def with_text_encoder(build, make, part="text_encoder"):
    """A pipeline whose network and text encoder have adapters."""
    from transformers import CLIPTextConfig, CLIPTextModel

    low = dict(r=2, init_lora_weights=False)
    sizes = dict(
        vocab_size=20, hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    pipe = build(adapted(random(1, make), LoraConfig(target_modules=["to_q"], **low)))[0]
    encoder = CLIPTextModel(CLIPTextConfig(**sizes))
    setattr(pipe, part, adapted(encoder, LoraConfig(target_modules=["q_proj"], **low)))
    return pipe


def test_all_that_an_adapter_in_a_text_encoder_reads_must_be_given_without_it():
    hidden, pooled, two = text(1, 5, 12, seed=9), text(1, 10, seed=8), text(2, 10, seed=8)
    pipe = with_text_encoder(sdxl, unet(**XL), "text_encoder_2")
    for call in (lambda **null: lora_guide(pipe, **null), lambda **null: guide_pipeline(pipe, guide, **null)):
        guide = random(2, unet(**XL))
        with refuses("null lacks text_embeds and text_encoder_2 has an adapter"):
            call(null=dict(encoder_hidden_states=hidden))
        with refuses("null has added_cond_kwargs of (2, 10); expected a tensor (1, ...)"):
            call(null=dict(encoder_hidden_states=hidden, added_cond_kwargs=dict(text_embeds=two)))
    make, build, _ = KINDS["Stable Diffusion 3"]
    pipe = with_text_encoder(build, make)
    with refuses("null lacks pooled_projections and text_encoder has an adapter"):
        lora_guide(pipe, null=dict(encoder_hidden_states=hidden))
    lora_guide(pipe, null=dict(encoder_hidden_states=hidden, pooled_projections=pooled))


def test_the_guide_sees_its_own_pooled_prompt():
    main, guide = random(1, unet(**XL)), random(2, unet(**XL))
    hidden, pooled, own = text(1, 5, 12, seed=9), text(1, 10, seed=8), text(1, 10, seed=7)
    both = DomainGuidedModel(main, guide, null=dict(added_cond_kwargs=dict(text_embeds=own)))
    x, ids = text(1, 4, 8, 8, seed=1), torch.ones(1, 6)
    twice = lambda v: torch.cat([v, v])
    given = dict(text_embeds=twice(pooled), time_ids=twice(ids))
    found = both(twice(x), 10, encoder_hidden_states=twice(hidden), added_cond_kwargs=given).sample
    alone = dict(text_embeds=own, time_ids=ids)
    close(found[:1], guide(x, 10, encoder_hidden_states=hidden, added_cond_kwargs=alone).sample)


def peft_is_too_old():
    import peft
    from packaging.version import parse
    from transformers.integrations.peft import MIN_PEFT_VERSION

    return parse(peft.__version__) < parse(MIN_PEFT_VERSION)


@pytest.mark.skipif(peft_is_too_old(), reason="transformers 5.24 asks for a peft that is not out")
def test_a_lora_of_a_text_encoder_loads_and_is_guided(tmp_path):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    def make():
        pipe = with_text_encoder(sd, unet())
        for net in (pipe.unet, pipe.text_encoder):
            net._hf_peft_config_loaded = True
        return pipe

    pipe = make()
    layers = {
        name: convert_state_dict_to_diffusers(get_peft_model_state_dict(net))
        for name, net in dict(unet_lora_layers=pipe.unet, text_encoder_lora_layers=pipe.text_encoder).items()
    }
    StableDiffusionPipeline.save_lora_weights(tmp_path, **layers)
    plain = sd(random(1, unet()))[0]
    torch.manual_seed(0)
    plain.text_encoder = type(pipe.text_encoder)(pipe.text_encoder.config)
    plain.load_lora_weights(tmp_path)
    assert set(plain.get_list_adapters()) == {"unet", "text_encoder"}
    lora_guide(plain)


# what the two weights mean


def test_the_plane_sharpens_the_domain_and_the_prompt_by_bayes_rule():
    """p(x) p(domain | x)^a p(prompt | x, domain)^b at every noise level, of exact mixtures."""
    a, b, x = 1.25, 5.0, torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None].requires_grad_(True)
    mixture = lambda weights: GaussianMixture(
        torch.tensor(weights).double(),
        torch.tensor([[-2.0], [0.0], [1.0], [2.0]]).double(),
        torch.tensor([[[1.0]], [[0.1]], [[0.2]], [[0.5]]]).double(),
    )
    weights = [0.4, 0.2, 0.2, 0.2], [0.01, 0.4, 0.4, 0.19], [0.01, 0.01, 0.8, 0.18]
    source, domain, prompt = (mixture(w) for w in weights)
    for sigma in (0.1, 1.0, 10.0):
        p, p_domain, p_prompt = (m.logp(x, sigma) for m in (source, domain, prompt))
        log_density = p + a * (p_domain - p) + b * (p_prompt - p_domain)
        score = torch.autograd.grad(log_density.sum(), x)[0]
        D = plane(source.denoise, domain.denoise, prompt.denoise, a, b)
        close(D(x.detach(), sigma), x.detach() + sigma**2 * score, rtol=1e-6, atol=1e-6)
