"""`dgtoy.calibrate` through a pipeline's own autoencoder, text encoder and scheduler."""

import json
import types

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, QwenImagePipeline, WanPipeline
from helpers import refuses
from PIL import Image
from tiny import (
    KINDS,
    XL,
    close,
    dit,
    dit_pipeline,
    flux,
    pixart,
    qwen,
    random,
    sd,
    sd3,
    sdxl,
    text,
    unet,
    vae,
    wan,
)

from dgtoy import calibrate
from dgtoy.course import practice
from dgtoy.interop import advice, calibrate_pipeline, denoiser, guide_pipeline, lora_guide

LEVELS = (5.0, 0.5)
N = 3
SIZE = (16, 16)


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of 16 pixels, two with a caption beside."""
    draw = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "0.txt").write_text("a red fox\n")
    (tmp_path / "2.txt").write_text("two")
    return tmp_path


def latents(pipe, folder):
    """What the network of a pipeline sees of the pictures: a video of one frame for Wan, and tokens of 2 x 2
    latents for Flux and Qwen-Image."""
    images = [torch.from_numpy(np.array(Image.open(folder / f"{i}.png"))).permute(2, 0, 1) for i in range(N)]
    images, config = torch.stack(images) / 127.5 - 1, pipe.vae.config
    if isinstance(pipe, WanPipeline | QwenImagePipeline):
        z = pipe.vae.encode(images[:, :, None]).latent_dist.mode()
        mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        z = (z - mean) / std
    else:
        z = (pipe.vae.encode(images).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    if isinstance(pipe, FluxPipeline | QwenImagePipeline):
        z = torch.nn.functional.unfold(z.flatten(1, -3), 2, stride=2).mT  # (N, L, 4 C)
    return z


def expected(pipe, z, main, guide, labelled, null, pre=None):
    """The plane's weights by `calibrate`, from conditions that are given, one picture's after the other's."""
    label = torch.arange(N)
    D = lambda k: denoiser(main, pipe.scheduler, **labelled(k))
    own, other = denoiser(main, pipe.scheduler, **null), denoiser(guide, pipe.scheduler, **(pre or null))
    rng = torch.Generator().manual_seed(0)
    return calibrate(D, other, (z, label), LEVELS, own, rng, resamples=100, batch=8)


HIDDEN, NULL = text(N, 5, 12, seed=3), text(N, 5, 12, seed=4)
POOLED, POOLED_NULL = text(N, 10, seed=5), text(N, 10, seed=6)
TEXT = dict(prompt_embeds=HIDDEN, negative_prompt_embeds=NULL[:1].expand(N, -1, -1))
WITH_POOLED = TEXT | dict(
    pooled_prompt_embeds=POOLED, negative_pooled_prompt_embeds=POOLED_NULL[:1].expand(N, -1)
)
ONES = torch.ones(N, 5)
MASKS = dict(prompt_attention_mask=ONES, negative_prompt_attention_mask=ONES)
IDS = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]])
PLACES = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))  # of 16 tokens
CASES = {
    "Stable Diffusion": (unet(), sd, TEXT, lambda h, p: dict(encoder_hidden_states=h)),
    "SDXL": (
        unet(**XL),
        sdxl,
        WITH_POOLED,
        lambda h, p: dict(encoder_hidden_states=h, added_cond_kwargs=dict(text_embeds=p, time_ids=IDS)),
    ),
    "PixArt": (
        KINDS["PixArt"][0],
        pixart,
        TEXT | MASKS | dict(negative_prompt=None, use_resolution_binning=False),
        lambda h, p: dict(
            encoder_hidden_states=h,
            encoder_attention_mask=torch.ones(1, 5),
            added_cond_kwargs=dict(resolution=None, aspect_ratio=None),
        ),
    ),
    "Stable Diffusion 3": (
        KINDS["Stable Diffusion 3"][0],
        sd3,
        WITH_POOLED,
        lambda h, p: dict(encoder_hidden_states=h, pooled_projections=p),
    ),
    "Flux, true CFG": (
        KINDS["Flux, true CFG"][0],
        flux,
        WITH_POOLED,
        lambda h, p: dict(
            encoder_hidden_states=h, pooled_projections=p, txt_ids=torch.zeros(5, 3), img_ids=PLACES
        ),
    ),
    "Qwen-Image, true CFG": (
        KINDS["Qwen-Image, true CFG"][0],
        qwen,
        TEXT | dict(prompt_embeds_mask=ONES.long(), negative_prompt_embeds_mask=ONES.long()),
        lambda h, p: dict(encoder_hidden_states=h, img_shapes=[[(1, 4, 4)]]),
    ),
    "Wan": (KINDS["Wan"][0], wan, TEXT, lambda h, p: dict(encoder_hidden_states=h)),
}


@pytest.mark.parametrize("kind", CASES)
def test_through_a_pipeline_it_is_calibrate_on_the_same_latents(kind, pictures):
    make, build, call, condition = CASES[kind]
    main, guide = random(1, make), random(2, make)
    pipe = guide_pipeline(build(main)[0], guide)
    if getattr(pipe.vae.config, "latents_mean", None):  # in tests 0, of std 1
        pipe.vae.register_to_config(latents_mean=[0.1, 0.0, -0.2, 0.3], latents_std=[0.5, 1.0, 2.0, 0.7])
    before = pipe.components
    size = None if hasattr(practice.network(pipe).config, "sample_size") else 16
    found = calibrate_pipeline(pipe, pictures, levels=(1e4, *LEVELS), size=size, **call)
    assert all(pipe.components[name] is part for name, part in before.items())
    z = latents(pipe, pictures)
    labelled = lambda k: condition(HIDDEN[k], POOLED[k])
    reference = expected(pipe, z, main, guide, labelled, condition(NULL[:1], POOLED_NULL[:1]))
    close(found["plane"].sigmas, torch.tensor(LEVELS).double())
    close(found["plane"].weights, reference.weights, rtol=1e-3, atol=1e-3)
    again = calibrate_pipeline(pipe, pictures, levels=LEVELS[:1], size=size, batch=2, **call)  # other noise
    assert again["DoG"].weights.isfinite().all()


def test_a_setting_that_is_as_long_as_there_are_pictures_is_not_cut(pictures):
    (pictures / "2.png").unlink()
    make, build, call, _ = CASES["SDXL"]
    pipe = guide_pipeline(build(random(1, make))[0], random(2, make))
    how = dict(levels=LEVELS[:1], batch=1) | {name: rows[:2] for name, rows in call.items()}
    plain, told = (calibrate_pipeline(pipe, pictures, **how, **more) for more in ({}, dict(target_size=SIZE)))
    close(plain["DoG"].weights, told["DoG"].weights)


def test_classes_take_each_networks_own_null_label(pictures):
    (_, main), (_, guide) = dit(5, 1), dit(7, 2)
    pipe = guide_pipeline(dit_pipeline(main)[0], guide)
    found = calibrate_pipeline(pipe, pictures, levels=LEVELS, class_labels=[0, 2, 4])
    label = lambda *y: dict(class_labels=torch.tensor(y))
    classes = torch.tensor([0, 2, 4])
    labelled = lambda k: dict(class_labels=classes[k])
    reference = expected(pipe, latents(pipe, pictures), main, guide, labelled, label(5), label(7))
    close(found["plane"].weights, reference.weights, rtol=1e-3, atol=1e-3)


class Tokenizer:
    """Words by their lengths, five tokens."""

    model_max_length = 5
    added_tokens_encoder = {}

    def tokenize(self, words):
        return words.split()

    def __call__(self, texts, **options):
        texts = [texts] if isinstance(texts, str) else texts
        ids = [[min(len(word), 18) + 1 for word in t.split()][:5] for t in texts]
        return types.SimpleNamespace(input_ids=torch.tensor([row + [0] * (5 - len(row)) for row in ids]))


def test_captions_beside_the_pictures_go_through_the_text_encoder_and_an_adapter_is_left_out(
    pictures, tmp_path_factory
):
    from peft import LoraConfig
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = dict(hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    net, out = random(1, unet()), tmp_path_factory.mktemp("out")
    torch.manual_seed(3)
    net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    pipe = sd(net)[0]
    pipe.text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=20, **sizes)).eval()
    pipe.tokenizer = Tokenizer()
    lora_guide(pipe)
    found = calibrate_pipeline(pipe, pictures, levels=LEVELS, out=out)
    read = lambda *texts: pipe.text_encoder(Tokenizer()(list(texts)).input_ids)[0].detach()
    hidden, null = read("a red fox", "", "two"), dict(encoder_hidden_states=read(""))
    labelled = lambda k: dict(encoder_hidden_states=hidden[k])
    reference = expected(pipe, latents(pipe, pictures), net, random(1, unet()), labelled, null)
    close(found["plane"].weights, reference.weights, rtol=1e-3, atol=1e-3)
    told = json.loads((out / "calibration.json").read_text())
    assert told["DoG"]["weights"] == found["DoG"].weights.tolist()
    assert (out / "calibration.png").stat().st_size > 1000
    words = advice(found)
    assert (
        words.startswith("w* of Domain Guidance is")
        and "draw the same seeds with domain 1, 1.25 and 1.5" in words
    )
    one = calibrate_pipeline(pipe, pictures, captions="two", levels=LEVELS[:1])
    assert not torch.equal(one["CFG"].weights, found["CFG"].weights[:1])
    with refuses("captions holds 2 for 3 pictures; expected one for each"):
        calibrate_pipeline(pipe, pictures, captions=["a", "b"])


def test_what_cannot_be_calibrated_is_refused_and_the_pipeline_stays_guided(pictures, tmp_path):
    plain = sd(random(1, unet()))[0]
    with refuses(
        "pipe is a StableDiffusionPipeline without a second network; expected guide_pipeline(pipe, base)"
    ):
        calibrate_pipeline(plain, pictures, **TEXT)
    (tmp_path / "none").mkdir()
    guided = guide_pipeline(plain, random(2, unet()))
    with refuses(f"pictures {tmp_path / 'none'} holds none"):
        calibrate_pipeline(guided, tmp_path / "none", **TEXT)
    for words, given in (
        ("batch is 0; expected 1 or more", dict(batch=0)),
        ("size is 0; expected 1 or more", dict(size=0)),
        ("captions and prompt_embeds both came; expected one of them", dict(captions="a dog")),
        ("network on 12 rows for 3 pictures; expected one image per prompt", dict(num_images_per_prompt=2)),
        ("levels are (1000000.0,); expected some of the scheduler's, 0.0", dict(levels=(1e6,))),
        ("prompt_embeds has 1 rows for 3 pictures; expected as many", dict(prompt_embeds=HIDDEN[:1])),
    ):
        with refuses(words):
            calibrate_pipeline(guided, pictures, **TEXT | given)
    for words, given in (
        ("size is 16.5; expected a whole number", dict(size=16.5)),
        ("levels is ('a',); expected numbers", dict(levels=("a",))),
        ("seed is 'a'; expected a whole number", dict(seed="a")),
    ):
        with refuses(words, error=TypeError):
            calibrate_pipeline(guided, pictures, **TEXT | given)
    with refuses("is a file; expected a folder", error=FileExistsError):
        calibrate_pipeline(guided, pictures, out=min(pictures.glob("*.png")), **TEXT)
    with refuses(f"pictures {tmp_path / 'nowhere'} holds none"):
        calibrate_pipeline(guided, tmp_path / "nowhere", **TEXT)
    for caption in pictures.glob("*.txt"):
        caption.unlink()
    with refuses("captions are '', as the null prompt is; expected them, or NAME.txt beside pictures"):
        calibrate_pipeline(guided, pictures)
    guided.vae = practice.Pixels()
    with refuses("vae is a Pixels; expected an autoencoder with a latent_dist"):
        calibrate_pipeline(guided, pictures, **TEXT)
    with refuses("class_labels is missing, and a DiTPipeline has no prompts; expected it"):
        calibrate_pipeline(guide_pipeline(dit_pipeline(dit(5, 1)[1])[0], dit(7, 2)[1]), pictures)
    make = KINDS["Flux, true CFG"][0]
    one, pipe = text(N, 5, 12, seed=3), guide_pipeline(flux(random(1, make))[0], random(2, make))
    with refuses("size is None, and the network does not tell it: sample_size is None"):
        calibrate_pipeline(pipe, pictures, **WITH_POOLED)
    with refuses("a FluxPipeline calls its network once; expected a negative prompt as well"):
        calibrate_pipeline(pipe, pictures, size=16, prompt_embeds=one, pooled_prompt_embeds=POOLED)
    pipe.vae = vae(8)
    with refuses("a FluxPipeline's network takes latents (16, 16); expected (16, 32), its autoencoder's"):
        calibrate_pipeline(pipe, pictures, size=16, **WITH_POOLED)
    assert pipe.transformer.domain == 1.25
