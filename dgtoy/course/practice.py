"""Pipelines of diffusers to practise on: the photo model that ships as a `DiTPipeline`, and each family of
text-to-image models at toy size, with random weights, in the real classes.
"""

import copy
import logging
import pathlib
import warnings

import torch
from torch import nn

from .. import shipped
from ..dit import DiT
from ..dit.convert import to_diffusers
from ..environment import needs
from ..interop.calls import latents_of
from ..interop.checks import network_name

needs("dit", "diffusers")
with warnings.catch_warnings():  # of what is deprecated inside them
    warnings.simplefilter("ignore")
    import diffusers
    import transformers
    from diffusers.configuration_utils import register_to_config
    from diffusers.models.autoencoders.vae import DecoderOutput

FAMILIES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "PixArtAlphaPipeline",
    "FluxPipeline",
    "QwenImagePipeline",
)
SIDE = 16  # pixels of a toy picture
CALLS = {  # what a family's pipeline wants besides a prompt and a weight
    "PixArtAlphaPipeline": dict(clean_caption=False, use_resolution_binning=False),
    "FluxPipeline": dict(negative_prompt=" "),
    "QwenImagePipeline": dict(negative_prompt=" "),
}


# the photo model


class Pixels(diffusers.ModelMixin, diffusers.ConfigMixin):
    """In the place of an autoencoder, for a network of pixels: it decodes z to z."""

    @register_to_config
    def __init__(self, scaling_factor=1.0):
        super().__init__()
        self.register_buffer("place", torch.zeros(1))

    def decode(self, z):
        return DecoderOutput(sample=z)


def photos(name="photos64"):
    """A photo network that ships, "photos64" or one of `shipped.FINE_TUNES`, as a `DiTPipeline`.

    Its network is a flow and works on pixels: the scheduler is one that knows flows, and the autoencoder does
    nothing.
    """
    net = shipped.load(name).net
    plain = DiT(**{k: v for k, v in net.config.items() if k != "flow"})  # here the scheduler says that
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k != "flow"})
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return quiet(diffusers.DiTPipeline(to_diffusers(plain), Pixels(), scheduler))


# text to image


def text_to_image(family, seed=0):
    """A pipeline of a family, one of FAMILIES, that draws SIDE x SIDE pixels of nothing from a prompt.

    seed: of its network's weights; all else is the same for every seed, as in two fine-tunes of one model.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(FAMILIES)}")
    return quiet(_BUILD[family](seed))


def with_lora(pipe, folder, seed=0):
    """Write a random LoRA for a pipeline's network, as its trainers write it.  -> the folder"""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    part = "unet" if hasattr(pipe, "unet") else "transformer"
    net = copy.deepcopy(getattr(pipe, part))
    torch.manual_seed(seed)
    net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(net)}
    pipe.save_lora_weights(folder, **layers)
    return pathlib.Path(folder)


def drawn(pipe, w, steps=4):
    """A toy picture at a weight of the prompt, and the network calls a step.  -> (SIDE, SIDE, 3), number"""
    family = type(pipe).__name__
    more = CALLS.get(family, {})
    weight = "true_cfg_scale" if "negative_prompt" in more else "guidance_scale"

    def draw():
        noise = torch.Generator().manual_seed(0)
        size = dict(height=SIDE, width=SIDE, num_inference_steps=steps)
        return pipe("a lighthouse", generator=noise, output_type="np", **size, **more, **{weight: w}).images[
            0
        ]

    image, calls = counted(pipe, draw)
    return image, calls / steps


def counted(pipe, draw):
    """draw() -> what it returns, and how many pictures went through the pipeline's network or its guide"""
    net, total = network(pipe), 0

    def count(module, args, kwargs):
        nonlocal total
        total += len(latents_of(args, kwargs))

    parts = {getattr(net, name, net) for name in ("finetuned", "pretrained")}
    whole = [
        part for part in parts if isinstance(part, diffusers.ModelMixin)
    ]  # a LoRA's guide is the network
    hooks = [part.register_forward_pre_hook(count, with_kwargs=True) for part in whole]
    try:
        return draw(), total
    finally:
        for hook in hooks:
            hook.remove()


def network(pipe):
    """A pipeline's network: its unet or its transformer."""
    return getattr(pipe, network_name(pipe))


def hush():
    """No progress bars and no advice from the libraries, for a notebook; errors are still shown."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def quiet(pipe):
    """A pipeline without a progress bar.  -> the pipeline"""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _random(make, seed=0):
    """A module with weights of a seed; those that begin at zero too, or no input would reach the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make().eval().requires_grad_(False)
        for p in net.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.1)
    return net


def _characters():
    """Every byte as the character that stands for it in byte-level tokenizers."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _clip_tokenizer():
    letters = _characters()
    special = ["<|startoftext|>", "<|endoftext|>"]
    words = special + letters + [f"{letter}</w>" for letter in letters]
    vocab = {word: i for i, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def _clip(projected=False):
    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return _random(lambda: kind(config))


def _t5_tokenizer():
    words = ["<pad>", "</s>", "<unk>", "▁", *_characters()]
    return transformers.T5Tokenizer(vocab=[(word, -1.0) for word in words], extra_ids=0)


def _t5():
    config = transformers.T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return _random(lambda: transformers.T5EncoderModel(config))


def _vae():
    return _random(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=SIDE,
            shift_factor=0.0,
        )
    )


def _unet(seed, **more):
    return _random(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=4,
            **more,
        ),
        seed,
    )


def _ddim():
    return diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


def _flow():
    return diffusers.FlowMatchEulerDiscreteScheduler()


def _sd(seed):
    return diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(seed, cross_attention_dim=8),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(seed):
    unet = _unet(
        seed,
        cross_attention_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=8 + 6 * 2,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        text_encoder_2=_clip(projected=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=_ddim(),
        add_watermarker=False,
    )


def _sd3(seed):
    transformer = _random(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            caption_projection_dim=8,
            joint_attention_dim=16,
            pooled_projection_dim=16,
        ),
        seed,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=_flow(),
        vae=_vae(),
        text_encoder=_clip(projected=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projected=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=None,  # as where memory is short
        tokenizer_3=None,
    )


def _pixart(seed):
    transformer = _random(
        lambda: diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=4,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=8,
            caption_channels=8,
        ),
        seed,
    )
    return diffusers.PixArtAlphaPipeline(
        tokenizer=_t5_tokenizer(), text_encoder=_t5(), vae=_vae(), transformer=transformer, scheduler=_ddim()
    )


def _flux(seed):
    transformer = _random(
        lambda: diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            axes_dims_rope=(2, 2, 4),
        ),
        seed,
    )
    return diffusers.FluxPipeline(
        scheduler=_flow(),
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )


def _qwen(seed):
    letters = _characters()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: i for i, word in enumerate([*letters, *special])}
    text = dict(
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_parameters=dict(rope_type="default", rope_theta=10_000.0, mrope_section=[1, 1, 0]),
    )
    vision = dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, out_hidden_size=8)
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    transformer = _random(
        lambda: diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            axes_dims_rope=(2, 2, 4),
        ),
        seed,
    )
    vae = _random(
        lambda: diffusers.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )
    return diffusers.QwenImagePipeline(
        scheduler=_flow(),
        vae=vae,
        text_encoder=_random(lambda: transformers.Qwen2_5_VLForConditionalGeneration(config)),
        tokenizer=transformers.Qwen2Tokenizer(vocab=vocab, merges=[]),
        transformer=transformer,
    )


_BUILD = dict(zip(FAMILIES, (_sd, _sdxl, _sd3, _pixart, _flux, _qwen), strict=True))
