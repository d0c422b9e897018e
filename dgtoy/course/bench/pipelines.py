"""What guidance costs in a text-to-image pipeline: seconds and memory a picture, with random weights.

On a CUDA device the network is SDXL's, in half precision, at 1024 pixels; elsewhere a small one of its kind.
The autoencoder and the text encoders are left out: they are the same for every way.
"""

import copy
import functools

import torch

from ...environment import needs
from . import row, seconds

ROUNDS = 3
TOGETHER = 4  # pictures at once, beside one, on a device that has room for them
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=1280 + 6 * 256,
    use_linear_projection=True,
)
SMALL = SDXL | dict(
    sample_size=32,
    block_out_channels=(64, 128),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=1,
    attention_head_dim=(2, 4),
    cross_attention_dim=32,
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=32 + 6 * 4,
)


def benchmarks(device):
    """Each way beside the plain pipeline at the same scale, as rows: seconds and memory a picture."""
    needs("dit", "diffusers", "peft")
    from peft import LoraConfig

    from ...interop import guide_pipeline, lora_guide

    config, steps = (SDXL, 20) if torch.device(device).type == "cuda" else (SMALL, 10)
    pipe, base, styled = (pipeline(config, device, seed) for seed in (0, 1, 0))
    styled.unet.add_adapter(LoraConfig(r=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), "style")
    ways = {
        "one weight": guide_pipeline(copy.copy(pipe), base, domain=None),
        "the plane": guide_pipeline(copy.copy(pipe), base),
        "the plane on sigma 0.3 to 5": guide_pipeline(copy.copy(pipe), base, interval=(0.3, 5.0)),
        "the plane, the guide in every 2nd step": guide_pipeline(copy.copy(pipe), base, every=2),
        "the plane of the blurred self": guide_pipeline(copy.copy(pipe), blur=0.3),
        "a LoRA and its base, one weight": lora_guide(copy.copy(styled), domain=None),
        "a LoRA and its base, the plane": lora_guide(copy.copy(styled)),
    }
    plain = {what: "a LoRA" if "LoRA" in what else "a pipeline" for what in ways}
    ways |= {"a pipeline": pipe, "a LoRA": styled}
    draw = lambda pictures: {
        what: functools.partial(sample, way, config, steps, device, pictures) for what, way in ways.items()
    }
    took = seconds(draw(1), device, ROUNDS)
    together = seconds(draw(TOGETHER), device, ROUNDS) if config is SDXL else {}
    held = {what: memory(way.unet, draw(1)[what], device) / 2**30 for what, way in ways.items()}
    size = f"{steps} steps of {sum(p.numel() for p in base.unet.parameters()) / 1e6:,.0f} million weights"
    for what, other in plain.items():
        yield cost(what, took[what], took[other], "s/picture", size)
        if together:
            ours, theirs = together[what] / TOGETHER, together[other] / TOGETHER
            yield cost(f"{what}, {TOGETHER} at once", ours, theirs, "s/picture", size)
        note = "weights in use" + ", and a picture" * (config is SDXL)
        yield cost(f"{what}: memory", held[what], held[other], "GiB", note)


def cost(what, ours, plain, unit, note):
    """A row of what our way takes and the plain pipeline's own guidance, as a multiple of it."""
    return row(what, ours, plain, unit, f"{ours / plain:.2f} times the pipeline's own guidance; {note}")


def pipeline(config, device, seed):
    """An SDXL pipeline around a network with random weights, without autoencoder and text encoders."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    torch.manual_seed(seed)
    with torch.device(device):
        net = UNet2DConditionModel(**config).to(dtype).eval().requires_grad_(False)
    coder = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4)
    pipe = StableDiffusionXLPipeline(
        coder, None, None, None, None, net, EulerDiscreteScheduler(), add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe, config, steps, device, pictures=1):
    """Latents of pictures drawn at once."""
    draw = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(
        device, pipe.unet.dtype
    )
    width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    prompt, pooled = draw(1, 77, config["cross_attention_dim"]), draw(1, width)
    return pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=torch.zeros_like(prompt),
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=torch.zeros_like(pooled),
        guidance_scale=5.0,
        num_inference_steps=steps,
        num_images_per_prompt=pictures,
        height=8 * config["sample_size"],
        width=8 * config["sample_size"],
        output_type="latent",
    ).images


def memory(net, call, device):
    """Bytes of a network's weights, of both where it is a guided one, and on CUDA of a call's tensors."""
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    if torch.device(device).type != "cuda":
        return weights
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return weights + torch.cuda.max_memory_allocated() - before
