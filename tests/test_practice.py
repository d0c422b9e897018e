"""The pipelines to practise on, and the snippets of notebook 12 and of the book, which run on them."""

import pathlib
import re

import diffusers
import nbformat
import numpy as np
import pytest
import torch
from helpers import refuses
from peft import LoraConfig, inject_adapter_in_model

from dgtoy import domain_guidance, dpmpp_2m, last, shipped
from dgtoy.course import practice
from dgtoy.interop import guide_pipeline, lora_guide

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "12_bring_your_own_model.ipynb"
PROSE = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "markdown"]
SNIPPETS = re.findall(r"```python\n(.*?)```", "\n".join(PROSE), re.DOTALL)
BOOK = (NOTEBOOK.parents[1] / "book" / "dit.md").read_text(encoding="utf-8")
PAGE = re.findall(r"```python\n(.*?)```", BOOK, re.DOTALL)
OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array__ implementation")  # within diffusers' solver


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Whatever name is loaded, a practice model of the class comes; what needs a GPU does nothing."""

    def loads(cls, make):
        monkeypatch.setattr(cls, "from_pretrained", lambda *_, **__: make())

    for name in ("StableDiffusionXLPipeline", "QwenImagePipeline"):
        family, pipe = getattr(diffusers, name), practice.text_to_image(name)
        folder, load = practice.with_lora(pipe, tmp_path / name), family.load_lora_weights
        loads(family, lambda pipe=pipe: pipe)
        replaced = lambda self, _, folder=folder, load=load, **names: load(self, folder)
        monkeypatch.setattr(family, "load_lora_weights", replaced)
    other = practice.text_to_image("StableDiffusionXLPipeline", seed=1)
    loads(diffusers.UNet2DConditionModel, lambda: other.unet)
    photos = iter(("photos64", "photos64-food"))
    loads(diffusers.DiTPipeline, lambda: practice.photos(next(photos)))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "enable_model_cpu_offload", lambda self: None)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", lambda self, device: self)


@OLD_NUMPY
@pytest.mark.parametrize("case", "ABCD")
def test_the_snippets_of_notebook_12_run_as_they_stand(case, hub):
    """But for the number of steps and the size."""
    small = "num_inference_steps=2" + ("" if case == "D" else ", height=16, width=16")
    snippet = re.sub(r"(\w+_scale=)", rf"{small}, \1", SNIPPETS["ABCD".index(case)])
    found = {}
    exec(snippet, found)
    assert found["image"].size == ((64, 64) if case == "D" else (16, 16))
    guided = repr(practice.network(found["pipe"]))
    assert "guided by itself without adapter" in guided if case in "AC" else "guided by" in guided


def test_the_sweep_of_notebook_12_writes_pictures_that_change_with_the_weight(hub, tmp_path, monkeypatch):
    (snippet,) = [text for text in SNIPPETS if "image.save" in text]
    monkeypatch.chdir(tmp_path)
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained("base")
    pipe.load_lora_weights("lora")
    exec(snippet.replace("=5", "=5, num_inference_steps=2"), dict(pipe=lora_guide(pipe), torch=torch))
    pictures = {path.name: path.read_bytes() for path in tmp_path.glob("lighthouse-*.png")}
    assert len(pictures) == len(set(pictures.values())) == 16


def test_the_snippet_for_a_lora_with_a_text_encoder_runs(hub):
    """Reading the empty prompt before, for a call with embeddings; with text it is read anew."""
    (snippet,) = [text for text in SNIPPETS if "encode_prompt" in text]
    pipe = practice.text_to_image("StableDiffusionXLPipeline")
    config = LoraConfig(r=2, target_modules=["q_proj", "to_q"], init_lora_weights=False)

    def load(name):
        inject_adapter_in_model(config, pipe.text_encoder)
        pipe.unet.add_adapter(config)

    pipe.load_lora_weights = load
    found = dict(pipe=pipe, lora_guide=lora_guide)
    exec(snippet, found)
    given, calls = practice.drawn(found["pipe"], 4.0)
    assert calls == 3
    assert np.abs(practice.drawn(lora_guide(pipe), 4.0)[0] - given).max() < 1e-4


@pytest.mark.parametrize("snippets, count", [(SNIPPETS, 4), (PAGE, 5)])
def test_the_conventions_of_other_projects_are_denoisers(snippets, count):
    (snippet,) = [text for text in snippets if "as_denoiser(" in text and "SiT" in text]
    head, *lines = re.split(r"^(?=D = )", snippet, flags=re.MULTILINE)
    assert len(lines) == count
    net = lambda x, t, y=None, class_labels=None, class_cond=None: torch.cat([x, x], 1)
    pipe = practice.text_to_image("StableDiffusionPipeline")
    for line in lines:
        found = dict(net=net, y=None, pipe=pipe, prompt=torch.zeros(1, 5, 8))
        exec(head + line, found)
        assert found["D"](torch.ones(2, 4, 8, 8), 0.5).shape == (2, 4, 8, 8)


def test_the_snippets_of_the_books_page_run(tmp_path, monkeypatch):
    """But for the number of steps and of noise levels."""
    guiding, weighing, _ = PAGE
    family = "StableDiffusionXLPipeline"
    folder = practice.with_lora(practice.text_to_image(family), tmp_path / "lora")

    def load(*_):
        pipe = practice.text_to_image(family, 1)
        pipe.load_lora_weights(folder)
        return pipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", load)
    found = dict(finetuned=load(), pretrained=practice.text_to_image(family), prompt="a lighthouse")
    exec(guiding.replace("=5)", "=5, num_inference_steps=2)"), found)
    guided = repr(practice.network(found["pipe"]))
    assert "itself without adapter" in guided and "domain=1.4, interval=(0.3, 10.0)" in guided
    (tmp_path / "held-out").mkdir()
    for name in "ab":
        found["image"].save(tmp_path / f"held-out/{name}.png")
        (tmp_path / f"held-out/{name}.txt").write_text(name)
    exec(weighing.replace('out="weights"', "levels=[1.0]"), found)
    assert found["found"]["plane"].sigmas.tolist() == [1.0]


@OLD_NUMPY
def test_the_photo_pipeline_is_the_photo_model():
    """The same noise through diffusers' network, scheduler and guidance, and through ours."""
    pipe = guide_pipeline(practice.photos("photos64-food"), practice.photos("photos64"))
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = pipe(
        class_labels=[14],
        guidance_scale=3.0,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    times = torch.cat([pipe.scheduler.timesteps / 1000, torch.zeros(1)]).double()
    sigmas = times / (1 - times)
    D_ft = shipped.load("photos64-food").denoiser(torch.tensor([14]))
    base = shipped.load("photos64")
    D = domain_guidance(D_ft, base.denoiser(base.null), 3.0)
    ours = last(dpmpp_2m(D, noise * (1 + sigmas[0]).float(), sigmas))
    assert (found - (ours / 2 + 0.5).clamp(0, 1)).abs().mean() < 0.01


@pytest.mark.parametrize("family", practice.FAMILIES)
def test_a_toy_family_draws_from_its_prompt_and_its_calls_are_counted(family):
    pipe = practice.text_to_image(family)
    image, calls = practice.drawn(pipe, 4.0)
    assert image.shape == (practice.SIDE, practice.SIDE, 3) and calls == 2
    assert np.ptp(image) > 0.05
    other, calls = practice.drawn(guide_pipeline(pipe, practice.text_to_image(family, 1)), 4.0)
    assert calls == 3 and np.abs(other - image).max() > 1e-3


def test_a_lora_on_disk_is_loaded_and_switched_off_for_its_guide(tmp_path):
    pipe = practice.text_to_image("StableDiffusionXLPipeline")
    plain, _ = practice.drawn(pipe, 1.0)
    state = torch.random.get_rng_state()
    pipe.load_lora_weights(practice.with_lora(pipe, tmp_path) / "pytorch_lora_weights.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)  # a reader's own random numbers go on
    assert np.abs(practice.drawn(pipe, 1.0)[0] - plain).max() > 1e-3
    pipe = lora_guide(pipe)
    assert practice.drawn(pipe, 4.0)[1] == 3
    pipe.unet.domain = None
    assert practice.drawn(pipe, 4.0)[1] == 2


def test_another_family_is_refused():
    with refuses("family is 'Wan'; expected one of StableDiffusionPipeline"):
        practice.text_to_image("Wan")
