import json

import numpy as np
import pytest
import torch
from helpers import refuses
from PIL import Image

from dgtoy.checkpoint import read_safetensors, write_safetensors
from dgtoy.dit import VP, DiT
from dgtoy.pipeline import finetune, latents
from dgtoy.pipeline.image_sets import HubImages, ImageFolder
from dgtoy.pipeline.latents import Latents, Unshuffle, prepare
from dgtoy.pipeline.pictures import centre_crop, open_picture, to_uint8

close = torch.testing.assert_close
pytestmark = pytest.mark.filterwarnings("ignore:.*lose their colour")  # most images here are random colours


def picture(height, width, seed=0):
    """A smooth random picture: noise at a quarter of the size, enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 5 and 4 pictures of several sizes and kinds."""
    for k, (name, count) in enumerate((("cat", 5), ("dog", 4))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            picture(20 + 3 * i, 30 - 2 * i, 10 * k + i).save(
                tmp_path / "images" / name / f"{i}.{'png' if i % 2 else 'jpg'}"
            )
    return tmp_path / "images"


def everything(images, out, **options):
    for _ in prepare(images, out, **options):
        pass
    return Latents(out)


# cropping


@pytest.mark.parametrize(
    "height, width, size", [(64, 64, 32), (65, 97, 32), (31, 40, 32), (128, 70, 16), (32, 32, 32)]
)
def test_the_crop_is_square_and_a_picture_of_that_size_passes_untouched(height, width, size):
    found = centre_crop(picture(height, width), size)
    assert found.shape == (3, size, size) and found.dtype == torch.uint8
    if (height, width) == (size, size):
        assert torch.equal(found, torch.from_numpy(np.array(picture(height, width))).permute(2, 0, 1))


@pytest.mark.parametrize("height", [150, 80])  # the second is twice too large to the pixel
def test_the_crop_is_what_the_published_arithmetic_gives(height):
    """Halve with a box filter while twice too large, bicubic to the short side, cut the middle."""
    image = picture(height, 203)
    once = image.resize((101, height // 2), Image.Resampling.BOX)
    scaled = np.asarray(once.resize((round(101 * 40 / (height // 2)), 40), Image.Resampling.BICUBIC))
    left = (scaled.shape[1] - 40) // 2
    assert torch.equal(
        centre_crop(image, 40), torch.from_numpy(scaled[:, left : left + 40].copy()).permute(2, 0, 1)
    )


def test_bytes_round_as_the_official_code_does():
    x = torch.linspace(-1, 1, 256)
    assert torch.equal(to_uint8(x)[[0, 255]], torch.tensor([0, 255], dtype=torch.uint8))
    pixels = torch.arange(256).to(torch.uint8)
    assert torch.equal(to_uint8(pixels.float() / 127.5 - 1), pixels)  # bytes survive the way there and back


# codecs


def test_unshuffling_is_exact_and_gives_the_shape_of_dit_256():
    grey = torch.rand(2, 1, 64, 64).expand(-1, 3, -1, -1) * 2 - 1
    mean, std = Unshuffle().encode(grey)
    assert mean.shape == (2, 4, 32, 32) and not std.any()
    close(Unshuffle().decode(mean), grey)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return saved_vae(tmp_path_factory.mktemp("vae"))


def saved_vae(path, **more):
    """A small autoencoder in a folder.  -> the folder, the network"""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    net = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.18215,
        **more,
    )
    net.save_pretrained(path)
    return path, net.eval()


def test_the_vae_gives_the_scaled_posterior_of_the_diffusers_one(vae):
    path, net = vae
    coder, x = latents.VAE(path), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        posterior = net.encode(x).latent_dist
        mean, std = coder.encode(x)
        close(mean, 0.18215 * posterior.mean)
        close(std, 0.18215 * posterior.std)
        close(coder.decode(mean), net.decode(posterior.mean).sample, rtol=1e-4, atol=1e-4)
    assert coder.shrink == 2 and coder.name.startswith("vae-")


def test_a_vae_that_shifts_its_latents_has_them_shifted_and_back(tmp_path):
    path, net = saved_vae(tmp_path, shift_factor=0.3)
    coder, x = latents.VAE(path), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        posterior = net.encode(x).latent_dist
        mean, std = coder.encode(x)
        close(mean, 0.18215 * (posterior.mean - 0.3)), close(std, 0.18215 * posterior.std)
        close(coder.decode(mean), net.decode(posterior.mean).sample, rtol=1e-4, atol=1e-4)


def test_a_vae_s_own_folder_goes_before_the_cache(tmp_path, monkeypatch):
    """As `git clone` names it."""
    saved_vae(tmp_path / "sd-vae-ft-ema")
    monkeypatch.chdir(tmp_path)
    assert latents.codec("sd-vae-ft-ema").name == latents.VAE(tmp_path / "sd-vae-ft-ema").name


def test_missing_weights_of_a_vae_say_where_they_are_published():
    with pytest.raises(
        FileNotFoundError, match=r"published as stabilityai/sd-vae-ft-ema .*licence: MIT.*--vae FOLDER"
    ):
        latents.codec("sd-vae-ft-ema")


@pytest.mark.parametrize(
    "vae, shape", (("pixels", (4, 8, 8)), ("unshuffle", (3, 8, 8)), ("pixels", (1, 8, 8)))
)
def test_a_codec_of_other_channels_than_a_network_makes_is_refused(vae, shape):
    """Pixels of four channels would be written as colours and an opacity."""
    with refuses(f"codec is {vae}", f"expected one of {shape[0]}, as NET makes latents {shape}"):
        latents.decoder(vae, shape, "cpu", name="NET")
    assert latents.decoder("pixels", (3, 8, 8), "cpu").name == "pixels"


# prepare


def test_latents_are_the_codes_of_the_crops_and_their_mirrors(folder, tmp_path, vae):
    images, coder = ImageFolder(folder), latents.VAE(vae[0])
    data = everything(images, tmp_path / "out", size=16, coder=coder, batch=4)
    assert (
        data.classes == ["cat", "dog"]
        and data.label.tolist() == [0] * 5 + [1] * 4
        and data.shape == (4, 8, 8)
    )
    for i in (0, 6):
        x = centre_crop(images[i][0], 16)[None].float() / 127.5 - 1
        with torch.no_grad():
            for view, picture_ in enumerate((x, x.flip(-1))):
                mean, std = coder.encode(picture_)
                close(data.mean[i, view].float(), mean[0], rtol=2e-3, atol=2e-3)
                close(data.std[i, view].float(), std[0], rtol=2e-3, atol=2e-3)


def test_every_draw_is_fresh_and_flips_on_request(folder, tmp_path, vae):
    data = everything(ImageFolder(folder), tmp_path / "out", size=16, coder=latents.VAE(vae[0]))
    rows, z = torch.tensor([2, 7]), torch.randn(2, 4, 8, 8)
    plain, label = data.draw(rows, torch.tensor([False, True]), z)
    close(plain[0], data.mean[2, 0].float() + data.std[2, 0].float() * z[0])
    close(plain[1], data.mean[7, 1].float() + data.std[7, 1].float() * z[1])
    assert label.tolist() == [0, 1] and not torch.equal(
        plain, data.draw(rows, torch.tensor([False, True]), -z)[0]
    )


def test_letters_are_not_mirrored_on_request(folder, tmp_path):
    both, plain = (
        everything(ImageFolder(folder), tmp_path / str(m), size=16, mirror=m) for m in (True, False)
    )
    rows, flip, z = torch.arange(9), torch.ones(9, dtype=torch.bool), torch.zeros(9, *plain.shape)
    assert torch.equal(plain.draw(rows, flip, z)[0], both.draw(rows, ~flip, z)[0]) and not torch.equal(
        plain.draw(rows, flip, z)[0], both.draw(rows, flip, z)[0]
    )
    with pytest.raises(ValueError, match="was prepared with mirror True; this run has False"):
        everything(ImageFolder(folder), tmp_path / "True", size=16, mirror=False)


def test_an_interrupted_preparation_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 4)
    images = ImageFolder(folder)
    whole = everything(images, tmp_path / "whole", size=16)
    steps = prepare(images, tmp_path / "part", size=16)
    next(steps)
    stamp = (tmp_path / "part" / "latents-00000.safetensors").stat().st_mtime_ns
    with pytest.raises(
        ValueError, match="latents-00001.safetensors is missing, one of 2; run `dit prepare` again"
    ):
        Latents(tmp_path / "part")
    found = everything(images, tmp_path / "part", size=16)
    assert torch.equal(found.mean, whole.mean) and torch.equal(found.label, whole.label)
    assert (tmp_path / "part" / "latents-00000.safetensors").stat().st_mtime_ns == stamp


def test_what_was_prepared_otherwise_is_refused(folder, tmp_path):
    everything(ImageFolder(folder), tmp_path / "out", size=16)
    with refuses("prepared with size 16; this run has 32"):
        prepare(ImageFolder(folder), tmp_path / "out", size=32)
    (folder / "cat" / "new.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    with refuses("was prepared with count 9; this run has 10"):
        prepare(ImageFolder(folder), tmp_path / "out", size=16)
    (tmp_path / "out" / "plan.json").unlink()  # latents of the nine would pass for the ten's
    with refuses("holds latents-00000.safetensors and no plan.json"):
        prepare(ImageFolder(folder), tmp_path / "out", size=16)


def test_unreadable_images_are_named_before_anything_is_written_and_mending_them_is_enough(folder, tmp_path):
    whole = (folder / "cat" / "0.jpg").read_bytes()
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    (folder / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])  # as an interrupted download leaves it
    (folder / "cat" / "9.png").symlink_to("nowhere.png")
    with refuses(
        "cat/0.jpg cannot be read (OSError: ",
        "nor can 2 more of 10: ",
        "cat/9.png",
        "dog/1.png; nothing is written: mend or remove",
    ):
        prepare(ImageFolder(folder), tmp_path / "out", size=16)
    assert not (tmp_path / "out").exists()
    (folder / "dog" / "1.png").unlink()
    (folder / "cat" / "9.png").unlink()
    (folder / "cat" / "0.jpg").write_bytes(whole)
    assert len(everything(ImageFolder(folder), tmp_path / "out", size=16)) == 8


def test_an_image_that_breaks_after_the_first_look_is_named_and_what_was_done_stays(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(latents, "SHARD", 4)
    steps = prepare(ImageFolder(folder), tmp_path / "out", size=16)
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    next(steps)
    with pytest.raises(ValueError, match=r"image .*dog/1.png cannot be read \(UnidentifiedImageError"):
        list(steps)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["latents-00000.safetensors", "plan.json"]


def test_images_that_are_enlarged_or_lose_their_colour_are_counted(folder, tmp_path):
    said = r"5 of 9 images are smaller than --size 24 and are enlarged, the smallest .*cat/0.jpg of 30 x 20"
    with pytest.warns(UserWarning, match=said):
        prepare(ImageFolder(folder), tmp_path / "big", size=24)
    for path in sorted(folder.rglob("*"))[2:5]:
        if path.is_file():  # grey but for a tint, as JPEG leaves one
            grey = np.array(Image.open(path).convert("L"))
            Image.fromarray(np.dstack([grey, grey, np.minimum(grey, 250) + 5])).save(path)
    with pytest.warns(UserWarning, match="6 of 9 images lose their colour, as --vae unshuffle keeps"):
        prepare(ImageFolder(folder), tmp_path / "grey", size=16)


def test_latents_inside_the_folder_of_images_are_refused(folder):
    with refuses("latents lies in the folder of images", "expected another place"):
        prepare(ImageFolder(folder), folder / "latents", size=16)


def test_a_picture_is_opened_in_rgb_whatever_it_comes_as(folder):
    path = folder / "cat" / "1.png"
    opened = open_picture(path)
    grey = Image.open(path).convert("L")
    assert opened.mode == open_picture(grey).mode == "RGB"
    assert np.array_equal(opened, open_picture(np.asarray(opened)))
    with refuses("image ndarray cannot be read (TypeError"):
        open_picture(np.zeros((2, 2, 3)))


def test_bad_folders(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder with one folder of images a class"):
        ImageFolder(tmp_path / "nowhere")
    with refuses("holds no class folders"):
        ImageFolder(folder / "cat")
    with refuses("holds 2 classes; expected 101"):
        ImageFolder(folder, expected=101)
    (folder / "dodo").symlink_to(tmp_path / "nowhere")
    with refuses("dodo, a link to nothing"):
        ImageFolder(folder)
    (folder / "dodo").unlink()
    (folder / "emu").mkdir()
    with refuses("emu holds no images"):
        ImageFolder(folder)
    for size in (18, 40_000):
        with refuses(f"size is {size}; expected a multiple of 4 for codec unshuffle, at most 4096"):
            prepare(HubLike(), tmp_path / "out", size=size)
    with pytest.raises(FileNotFoundError, match="holds no plan.json"):
        Latents(folder)


class HubLike:
    fingerprint, classes = "0", ["a"]

    def __len__(self):
        return 1


def test_a_damaged_shard_is_refused(folder, tmp_path):
    everything(ImageFolder(folder), tmp_path / "out", size=16)
    path = tmp_path / "out" / "latents-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with refuses("is not a complete checkpoint"):
        Latents(tmp_path / "out")


def test_a_hugging_face_dataset_gives_what_its_folder_gives(folder, tmp_path):
    import datasets

    plain = ImageFolder(folder)
    pictures = [plain[i] for i in range(len(plain))]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=plain.classes))
    datasets.Dataset.from_dict(
        dict(image=[p for p, _ in pictures], label=[k for _, k in pictures]), features=features
    ).save_to_disk(tmp_path / "hub")
    one, other = (
        everything(plain, tmp_path / "a", size=16),
        everything(HubImages(tmp_path / "hub"), tmp_path / "b", size=16),
    )
    assert (
        torch.equal(one.mean, other.mean)
        and torch.equal(one.label, other.label)
        and one.classes == other.classes
    )
    with refuses("holds 2 classes; expected 3"):
        HubImages(tmp_path / "hub", expected=3)


def test_a_full_disk_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    import dgtoy.checkpoint as checkpoint

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        list(prepare(ImageFolder(folder), tmp_path / "out", size=16))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["plan.json"]


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(classes=None), "classes is None"),
        (dict(count="9"), "count is '9'"),
        (dict(shard=0), "shard is 0"),
        (dict(held_out="x"), "held_out is 'x'"),
        (dict(codec=1), "codec is 1"),
    ],
)
def test_a_damaged_plan_is_named(change, said, folder, tmp_path):
    everything(ImageFolder(folder), tmp_path / "out", size=16)
    path = tmp_path / "out" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refuses(f"plan.json: {said}; expected what `dit prepare` writes"):
        Latents(tmp_path / "out")
    for broken in ("", "[]"):
        path.write_text(broken)
        with refuses("plan.json", "expected what `dit prepare` writes"):
            Latents(tmp_path / "out")


@pytest.mark.parametrize("damage", ["missing", "not finite"])
def test_latents_that_lack_numbers_are_refused(damage, folder, tmp_path):
    everything(ImageFolder(folder), tmp_path / "out", size=16)
    path = tmp_path / "out" / "latents-00000.safetensors"
    tensors, header = read_safetensors(path)
    if damage == "missing":
        del tensors["label"]
    else:
        tensors["mean"][3, 0, 0, 0, 0] = torch.inf
    write_safetensors(path, tensors, header)
    with refuses("latents-00000.safetensors lacks numbers, or holds some that are not finite"):
        Latents(tmp_path / "out")


def test_a_codec_that_overflows_names_the_image(folder, tmp_path):
    """Latents are kept in half precision, which ends at 65504."""

    class Large(Unshuffle):
        scale = 1e6

    with refuses(
        "codec unshuffle makes of image", "cat/0.jpg numbers that are not", error=FloatingPointError
    ):
        everything(ImageFolder(folder), tmp_path / "out", size=16, coder=Large())


# held in memory


def test_a_held_set_gives_its_rows_and_mirrors_none():
    x0, label = torch.randn(5, 4, 2, 2), torch.arange(5) % 3
    data = finetune.LatentTensors(x0, label, 3)
    found, its = data.draw(torch.tensor([4, 0]), torch.tensor([True, False]), torch.randn(2, 4, 2, 2))
    assert (
        torch.equal(found, x0[[4, 0]])
        and its.tolist() == [1, 0]
        and len(data) == 5
        and data.shape == (4, 2, 2)
    )


def test_the_kept_averages_are_those_that_the_pipeline_writes(tmp_path):
    x0, label = torch.randn(12, 4, 8, 8), torch.arange(12) % 3
    recipe = finetune.Config(steps=4, batch=6, lr=1e-3, ema=0.9, keep=(2,))
    make = lambda: VP(DiT(8, 2, 4, 16, 1, 2, 3, seed=1))
    kept = finetune.averaged(make(), finetune.LatentTensors(x0, label, 3), recipe, {2, 4})
    for _ in finetune.finetune(make(), finetune.LatentTensors(x0, label, 3), recipe, tmp_path):
        pass
    for step, name in ((2, "ema-000002.safetensors"), (4, "ema.safetensors")):
        written = read_safetensors(tmp_path / name)[0]
        assert all(torch.equal(v, written[k]) for k, v in kept[step].net.state_dict().items())
