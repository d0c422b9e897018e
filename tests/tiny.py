"""Tiny pipelines with random weights in the real format, and the formulas of guidance spelled out out."""

import collections

import torch
from diffusers import (
    AutoencoderKLWan,
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from helpers import shaken

from dgtoy import blurred
from dgtoy.course.families import NETWORKS, ddim, pipeline, qwen_vae, random, vae
from dgtoy.interop import denoiser, guide_pipeline, t_to_sigma

close = torch.testing.assert_close
W = 2.5


def text(n, *shape, seed):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def made(family, **sizes):
    """What makes a family's network, of other sizes than on the course's toy pipelines."""
    kind, known = NETWORKS[f"{family}Pipeline"]
    return lambda: kind(**known | sizes)


def unet(**more):
    return made("StableDiffusion", cross_attention_dim=12, **more)


def around(family, net):
    """A pipeline without text encoders."""
    return pipeline(f"{family}Pipeline", net, prompts=False)


def pooled():
    return dict(pooled_prompt_embeds=text(2, 10, seed=5), negative_pooled_prompt_embeds=text(2, 10, seed=6))


def sd(net):
    return around("StableDiffusion", net), {}


def sdxl(net):
    return around("StableDiffusionXL", net), pooled()


def pixart(net):
    ones = torch.ones(2, 5)
    return around("PixArtAlpha", net), dict(
        prompt_attention_mask=ones,
        negative_prompt_attention_mask=ones,
        negative_prompt=None,
        use_resolution_binning=False,
    )


def sd3(net):
    return around("StableDiffusion3", net), pooled()


def flux(net):
    return around("Flux", net), pooled()


def qwen(net):
    mask = torch.ones(2, 5, dtype=torch.long)
    return around("QwenImage", net), dict(prompt_embeds_mask=mask, negative_prompt_embeds_mask=mask)


def lumina(net):
    pipe = Lumina2Pipeline(net, FlowMatchEulerDiscreteScheduler(), vae(), None, None)
    ones = torch.ones(2, 5, dtype=torch.long)
    masks = dict(prompt_attention_mask=ones, negative_prompt_attention_mask=ones)
    return pipe, dict(height=64, width=64, **masks)


def wan(net):
    coder = qwen_vae(AutoencoderKLWan, (1, 1, 1, 1), (False, True, True))
    pipe = WanPipeline(None, None, coder, FlowMatchEulerDiscreteScheduler(), net)
    return pipe, dict(height=64, width=64, num_frames=1)


def dit_pipeline(net):
    return DiTPipeline(net, vae(), ddim(steps_offset=0)), dict(class_labels=[0, 2])


XL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=2,
    projection_class_embeddings_input_dim=10 + 6 * 2,
)
WIDE = dict(joint_attention_dim=12, pooled_projection_dim=10)
KINDS = {  # name: network, pipeline with what its call needs, the argument that means w
    "Stable Diffusion": (unet(), sd, "guidance_scale"),
    "SDXL": (unet(**XL), sdxl, "guidance_scale"),
    "PixArt": (made("PixArtAlpha", caption_channels=12), pixart, "guidance_scale"),
    "Stable Diffusion 3": (made("StableDiffusion3", **WIDE), sd3, "guidance_scale"),
    "Flux, true CFG": (made("Flux", **WIDE), flux, "true_cfg_scale"),
    "Qwen-Image, true CFG": (made("QwenImage", joint_attention_dim=12), qwen, "true_cfg_scale"),
    "Lumina 2": (
        lambda: Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=16,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=4,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(32, 16, 16),
            cap_feat_dim=12,
        ),
        lumina,
        "guidance_scale",
    ),
    "Wan": (
        lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=12,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        wan,
        "guidance_scale",
    ),
}
APART = ("Flux, true CFG", "Qwen-Image, true CFG", "Lumina 2", "Wan")  # they call the two branches one by one


def order(kind):
    """Where the labelled half is."""
    return "first" if kind == "DiT" else "apart" if kind in APART else "second"


def images(kind, net, w, seed=7):
    """Two images of a pipeline around a network, as arrays."""
    _, build, scale = KINDS[kind]
    return drawn(kind, *build(net), w, seed, scale=scale)


def drawn(kind, pipe, more, w, seed=7, dtype=torch.float32, scale="guidance_scale"):
    """Two images of a pipeline, as arrays. more: what its call needs besides; scale: its name for w."""
    pipe.set_progress_bar_config(disable=True)
    prompts = dict(prompt_embeds=text(2, 5, 12, seed=3), negative_prompt_embeds=text(2, 5, 12, seed=4))
    given = more if kind == "DiT" else dict(height=16, width=16) | prompts | more
    given = {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in given.items()}
    given |= dict(num_inference_steps=3, generator=torch.Generator().manual_seed(seed), output_type="np")
    out = pipe(**given, **{scale: w})
    return out.frames if kind == "Wan" else out.images


Answer = collections.namedtuple("Answer", ["sample"])  # of a network, whichever form is asked for


class Like(torch.nn.Module):
    """Takes the place of a network, and answers for it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.net, name)

    @property
    def __class__(self):
        return type(self.net)


class Counted(Like):
    """A network that counts its calls."""

    def __init__(self, net):
        super().__init__(net)
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.net(*args, **kwargs)


class Spelled(Like):
    """Domain Guidance with no halves in it: both networks are called on the whole batch, and the answer is
    taken from either. steps: how many are guided; afterwards both halves are the labelled one.
    """

    def __init__(self, main, guide, order, steps=10):
        super().__init__(main)
        self.guide, self.order, self.steps = guide, order, steps
        self.calls, self.kept = 0, None  # the labelled branch's answer, where the two are called apart

    def forward(self, *args, **kwargs):
        kwargs["return_dict"] = False
        lists = lambda: {k: list(v) for k, v in kwargs.items() if isinstance(v, list)}  # which a UNet empties
        main, guide = (net(*args, **kwargs | lists())[0] for net in (self.net, self.guide))
        self.calls += 1
        if self.order == "apart":
            if self.calls % 2:
                self.kept = main
                return Answer(main)
            return Answer(self.null(self.kept, main, guide, self.calls // 2))
        n = len(main) // 2
        first, second = slice(n), slice(n, None)
        labelled, null = (first, second) if self.order == "first" else (second, first)
        stands = self.null(main[labelled], main[null], guide[null], self.calls)
        both = [main[labelled], stands] if self.order == "first" else [stands, main[labelled]]
        return Answer(torch.cat(both))

    def null(self, labelled, null, pre, step):
        """What stands for the null half."""
        return pre if step <= self.steps else labelled


class OnPlane(Spelled):
    """A point of the guidance plane likewise: the combination that the pipeline will make is put in the place
    of its null half. After the guided steps a is 1.
    """

    def __init__(self, main, guide, order, a, b, steps=10):
        super().__init__(main, guide, order, steps)
        self.a, self.b = a, b

    def null(self, labelled, null, pre, step):
        a = self.a if step <= self.steps else 1
        point = pre + a * (null - pre) + self.b * (labelled - null)
        return (point - self.b * labelled) / (1 - self.b)


class Blurred(Like):
    """The blurred self in a pipeline through `dgtoy.blurred` and `denoiser`, called on the whole batch."""

    def __init__(self, net, scheduler, b, kind):
        super().__init__(net)
        self.scheduler, self.b, self.kind = scheduler, b, kind
        self.labelled = None  # the condition, where the branches are called apart

    def forward(self, x=None, timestep=None, hidden_states=None, return_dict=None, **kwargs):
        x = hidden_states if x is None else x
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        main = self.net(x, timestep=timestep, **kwargs, return_dict=False)[0]
        if self.kind in APART:
            if self.labelled is None:
                self.labelled = kwargs
                return Answer(main)
            kwargs, self.labelled = self.labelled, None
        t = timestep.flatten()[0].double()
        if self.kind == "Lumina 2":
            t = 1 - t
        sigma = t_to_sigma(1000 * t if self.kind in APART[:3] else t, self.scheduler).item()
        flow = isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler)
        scale = 1 + sigma if flow else (1 + sigma**2) ** 0.5
        G = blurred(denoiser(self.net, self.scheduler, **kwargs), self.b)(scale * x.double(), sigma)
        eps = (scale * x.double() - G) / sigma
        prediction = ((eps - G) if flow else eps).to(x.dtype)
        if self.kind in APART:
            return Answer(-prediction if self.kind == "Lumina 2" else prediction)
        n, channels = len(x) // 2, x.shape[1]
        if self.kind == "DiT":
            return Answer(torch.cat([main[:n], torch.cat([prediction[:n], main[:n, channels:]], 1)]))
        return Answer(torch.cat([torch.cat([prediction[n:], main[n:, channels:]], 1), main[n:]]))


def dit(classes, seed):
    from dgtoy.dit import DiT
    from dgtoy.dit.convert import to_diffusers

    net = shaken(DiT(8, 2, 4, 16, 2, 2, classes, seed=seed), seed, by=0.2)
    return net, to_diffusers(net).requires_grad_(False)


def dit_images(net, w):
    pipe = DiTPipeline(net, vae(), ddim())
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        class_labels=[0, 2],
        guidance_scale=w,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        output_type="np",
    ).images


def draw(pipe, w=W, seeds=(7,), **more):
    """A Stable Diffusion pipeline's images, one per seed, each of its own prompt."""
    pipe.set_progress_bar_config(disable=True)
    n = len(seeds)
    return pipe(
        prompt_embeds=text(n, 5, 12, seed=3).to(pipe.unet.dtype),
        negative_prompt_embeds=text(n, 5, 12, seed=4).to(pipe.unet.dtype),
        guidance_scale=w,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **dict(num_inference_steps=2, output_type="np") | more,
        **{} if "image" in more else dict(height=16, width=16),
    ).images


def guided_sd(domain=None, **options):
    return guide_pipeline(sd(random(1, unet()))[0], random(2, unet()), domain=domain, **options)


def adapted(net, config, name="default"):
    """peft's adapter in a network, its weights and those that it trains whole drawn at random."""
    from peft import inject_adapter_in_model

    before = set(net.state_dict())
    inject_adapter_in_model(config, net, name)
    torch.manual_seed(5)
    for key, value in net.state_dict().items():
        if key not in before and "base_layer" not in key and "original_module" not in key:
            value.normal_(std=0.3)
    return net.requires_grad_(False)


def offload(pipe, how):
    """Offloading as on a machine with a GPU, executed here."""
    if how == "model":
        return pipe.enable_model_cpu_offload(device="cpu")
    cpu = torch.device("cpu")
    pipe.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type=f"{how}_level")
