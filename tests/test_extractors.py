"""Feature networks whose weights come with a package: what they see is checked on photographs."""

import pathlib

import pytest
import torch
from helpers import refuses

from dgtoy.pipeline import evaluate
from dgtoy.pipeline.pictures import centre_crop, open_picture

close = torch.testing.assert_close


@pytest.fixture(scope="module")
def lite0():
    return evaluate.extractor("lite0")


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
        evaluate.extractor("lite0", path)
