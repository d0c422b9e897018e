"""Families of text-to-image pipelines at toy size: random weights in the real classes of diffusers."""

import warnings

import torch
from torch import nn

from ..environment import needs

needs("dit", "diffusers")
with warnings.catch_warnings():  # of what is deprecated inside them
    warnings.simplefilter("ignore")
    import diffusers
    import transformers

SIDE = 16  # pixels of a picture
UNET = dict(
    sample_size=8,
    block_out_channels=(8, 16),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=8,
    attention_head_dim=4,
    norm_num_groups=4,
)
TRANSFORMER = dict(num_layers=1, num_attention_heads=2)
LATENTS = dict(sample_size=8, patch_size=2, in_channels=4, attention_head_dim=4)
TOKENS = dict(in_channels=16, attention_head_dim=8, joint_attention_dim=8, axes_dims_rope=(2, 2, 4))
NETWORKS = {  # family: class and sizes of its network
    "StableDiffusionPipeline": (diffusers.UNet2DConditionModel, UNET),
    "StableDiffusionXLPipeline": (
        diffusers.UNet2DConditionModel,
        UNET
        | dict(
            cross_attention_dim=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=2,
            projection_class_embeddings_input_dim=8 + 6 * 2,
        ),
    ),
    "StableDiffusion3Pipeline": (
        diffusers.SD3Transformer2DModel,
        TRANSFORMER
        | LATENTS
        | dict(out_channels=4, caption_projection_dim=8, joint_attention_dim=16, pooled_projection_dim=16),
    ),
    "PixArtAlphaPipeline": (
        diffusers.PixArtTransformer2DModel,
        TRANSFORMER | LATENTS | dict(out_channels=8, cross_attention_dim=8, caption_channels=8),
    ),
    "FluxPipeline": (
        diffusers.FluxTransformer2DModel,
        TRANSFORMER | TOKENS | dict(patch_size=1, num_single_layers=1, pooled_projection_dim=8),
    ),
    "QwenImagePipeline": (
        diffusers.QwenImageTransformer2DModel,
        TRANSFORMER | TOKENS | dict(patch_size=2, out_channels=4),
    ),
}
FLOWS = ("StableDiffusion3Pipeline", "FluxPipeline", "QwenImagePipeline")


def network(family, seed=0):
    """A family's network with weights of a seed."""
    kind, sizes = NETWORKS[family]
    return random(seed, lambda: kind(**sizes))


def pipeline(family, net, prompts=True):
    """A family's pipeline around a network. Without `prompts` it has no text encoder and takes embeddings."""
    part = "unet" if NETWORKS[family][0] is diffusers.UNet2DConditionModel else "transformer"
    texts = {name: make() if prompts and make else None for name, make in TEXTS[family].items()}
    return getattr(diffusers, family)(
        vae=qwen_vae() if family == "QwenImagePipeline" else vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler() if family in FLOWS else ddim(),
        **{part: net},
        **texts,
        **OPTIONS.get(family, {}),
    )


def random(seed, make):
    """A module with weights of a seed; those that begin at zero too, or no input would reach the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make().eval().requires_grad_(False)
        for p in net.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.1)
    return net


def vae(channels=4):
    """An autoencoder that halves the sides."""
    return random(
        0,
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=channels,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=SIDE,
            shift_factor=0.1,
        ),
    )


def qwen_vae(kind=diffusers.AutoencoderKLQwenImage, dim_mult=(1, 1), temporal=(False,)):
    """An autoencoder of Qwen-Image's kind, or of Wan's."""
    latents = dict(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    sizes = dict(base_dim=4, z_dim=4, dim_mult=list(dim_mult), temperal_downsample=list(temporal))
    return random(0, lambda: kind(**sizes, num_res_blocks=1, **latents))


def ddim(**changes):
    """DDIM's scheduler as these pipelines want it."""
    return diffusers.DDIMScheduler(**dict(clip_sample=False, steps_offset=1) | changes)


# texts


def _characters():
    """Every byte as the character that stands for it in byte-level tokenizers."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _clip_tokenizer():
    letters = _characters()
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {word: i for i, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def _clip(kind=transformers.CLIPTextModel):
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
    return random(0, lambda: kind(config))


def _projected_clip():
    return _clip(transformers.CLIPTextModelWithProjection)


def _t5_tokenizer():
    words = ["<pad>", "</s>", "<unk>", "▁", *_characters()]
    return transformers.T5Tokenizer(vocab=[(word, -1.0) for word in words], extra_ids=0)


def _t5():
    config = transformers.T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return random(0, lambda: transformers.T5EncoderModel(config))


def _qwen_tokenizer():
    words = [*_characters(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return transformers.Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def _qwen():
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
    return random(0, lambda: transformers.Qwen2_5_VLForConditionalGeneration(config))


CLIP = dict(text_encoder=_clip, tokenizer=_clip_tokenizer)
TEXTS = {  # family: what makes its text encoders and tokenizers
    "StableDiffusionPipeline": CLIP,
    "StableDiffusionXLPipeline": CLIP | dict(text_encoder_2=_projected_clip, tokenizer_2=_clip_tokenizer),
    "StableDiffusion3Pipeline": dict(
        text_encoder=_projected_clip,
        tokenizer=_clip_tokenizer,
        text_encoder_2=_projected_clip,
        tokenizer_2=_clip_tokenizer,
        text_encoder_3=None,  # as where memory is short
        tokenizer_3=None,
    ),
    "PixArtAlphaPipeline": dict(text_encoder=_t5, tokenizer=_t5_tokenizer),
    "FluxPipeline": CLIP | dict(text_encoder_2=_t5, tokenizer_2=_t5_tokenizer),
    "QwenImagePipeline": dict(text_encoder=_qwen, tokenizer=_qwen_tokenizer),
}
OPTIONS = {
    "StableDiffusionPipeline": dict(
        safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ),
    "StableDiffusionXLPipeline": dict(add_watermarker=False),
}
