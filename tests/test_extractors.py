"""Feature networks: what each sees, on photographs where its weights come with a package; what it refuses."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
import torch
from helpers import refuses
from PIL import Image

from dgtoy.pipeline import extractors
from dgtoy.pipeline.extractors import extractor
from dgtoy.pipeline.pictures import centre_crop, open_picture

close = torch.testing.assert_close
fidelity = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None,
    reason="torch-fidelity is not installed; `make env` does",
)


@pytest.fixture(scope="module")
def lite0():
    return extractor("lite0")


@torch.no_grad()
def test_lite0_names_photographs(lite0):
    """Those that come with matplotlib and scikit-learn, by the network's own head: the scale of its input,
    its resize and its weights are right together."""
    import matplotlib
    from sklearn.datasets import load_sample_image

    hopper = pathlib.Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    china, flower = (load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    classes = {"military uniform": (652, hopper), "palace": (698, china), "daisy": (985, flower)}
    for name, (number, photo) in classes.items():
        found = lite0(centre_crop(open_picture(photo), 400)[None])
        assert found.shape == (1, 1280)
        assert lite0.net._fc(found).argmax() == number, name


@torch.no_grad()
def test_lite0_pools_what_the_package_extracts(lite0):
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    scaled = (images.float() - 127) / 128
    close(lite0(images), lite0.net.extract_features(scaled).mean((2, 3)))
    close(lite0.net._fc(lite0(images)), lite0.net(scaled))


@pytest.mark.parametrize("what", ["missing", "cut", "code", "another"])
def test_lite0_reads_weights_alone(lite0, tmp_path, what):
    path = tmp_path / "weights.pth"
    if what == "cut":
        path.write_bytes(b"PK")
    elif what == "code":
        torch.save({"_fc.weight": pathlib.Path("harmless")}, path)
    elif what == "another":
        torch.save({"_fc.weight": torch.zeros(2)}, path)
    error = FileNotFoundError if what == "missing" else ValueError
    with refuses("weights", str(path), error=error):
        extractor("lite0", path)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dinov2")
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=518, patch_size=14)
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(path)
    return path


def test_dinov2_sees_what_pil_resizes():
    """Bicubic with antialiasing to 224 pixels, as PIL resizes floats, then ImageNet's normalisation."""
    pixels = np.random.default_rng(2).integers(0, 256, (3, 300, 300), dtype=np.uint8)
    resized = [Image.fromarray(c.astype(np.float32)).resize((224, 224), Image.BICUBIC) for c in pixels]
    expected = np.stack(resized).clip(0, 255) / 255
    mean, std = (np.array(v)[:, None, None] for v in (extractors.MEAN, extractors.STD))
    found = extractors.prepared(torch.from_numpy(pixels)[None])[0]
    close(found, torch.from_numpy((expected - mean) / std).float(), rtol=0, atol=2e-3)


@torch.no_grad()
def test_dinov2_features_are_the_normed_class_token(dinov2):
    from transformers import Dinov2Model

    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    tokens = Dinov2Model.from_pretrained(dinov2).eval()(extractors.prepared(images)).last_hidden_state
    close(extractor("dinov2", dinov2)(images), tokens[:, 0])


def test_weights_that_are_missing_say_where_they_are_published(tmp_path):
    published = "published as facebook/dinov2-large on the Hugging Face hub (licence: Apache 2.0)"
    with refuses(published, error=FileNotFoundError):
        extractor("dinov2", tmp_path / "nowhere")
    with refuses("features is vgg; expected inception, dinov2, lite0, patches, glyphs"):
        extractor("vgg")
    for name in ("patches", "glyphs"):
        with refuses(f"weights is w.pt with features {name}, which come with dgtoy; expected none"):
            extractor(name, "w.pt")


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """torch-fidelity's extractor with small random weights, in its own file format."""
    module = extractors._part_of("torch_fidelity", "feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, *a, **k: None)
        network = module.FeatureExtractorInceptionV3
        plain = network("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    torch.save(plain.state_dict(), path)
    return path, plain.eval()


@fidelity
@torch.no_grad()
def test_inception_reads_its_file_and_gives_pooled_features(inception):
    path, plain = inception
    net, images = extractor("inception", path), torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
    close(net(images), plain(images)[0])
    assert net(images).shape == (2, 2048) and len(net.checksum) == 16


@fidelity
def test_inception_needs_no_torchvision(monkeypatch):
    """Its package imports torchvision, of which the extractor uses nothing."""
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    module = extractors._part_of("torch_fidelity", "feature_extractor_inceptionv3")
    assert "weights-inception-2015-12-05" in module.URL_INCEPTION_V3
    assert "torch_fidelity" not in sys.modules


@fidelity
def test_weights_that_are_not_inceptions_are_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    for write in (lambda: path.write_bytes(b"PK"), lambda: torch.save({"a": torch.zeros(1)}, path)):
        write()
        with refuses(f"weights {path} are not those of inception ("):
            extractor("inception", path)


def test_torch_fidelity_that_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refuses("pip install --no-deps torch-fidelity", error=ImportError):
        extractors.Inception()


def test_the_features_of_an_image_do_not_depend_on_its_neighbours():
    """A bright image alone, and beside a dark one: resizing once took its range from the batch."""
    net, g = extractor("glyphs"), torch.Generator().manual_seed(0)
    bright, dark = (
        torch.randint(lo, hi, (1, 3, 64, 64), generator=g, dtype=torch.uint8)
        for lo, hi in ((130, 256), (0, 100))
    )
    bright[..., ::2] = 128  # sharp edges at the middle: where a wrong range would cut
    close(net(torch.cat([bright, dark]))[:1], net(bright), rtol=1e-4, atol=1e-4)
