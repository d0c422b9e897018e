"""The world of photographs, on made-up pictures in the layout of the public data sets."""

import dataclasses
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
from helpers import refuses, together
from PIL import Image

from dgtoy import distributed, shipped
from dgtoy.checkpoint import load_state, read_safetensors
from dgtoy.course import cli, recipes, records
from dgtoy.course import photos as tuning
from dgtoy.course.claims import photos as photo_claims
from dgtoy.course.experiments import photos as photos_study
from dgtoy.course.experiments import photos_guides, photos_large, photos_plane, photos_stranger, posters
from dgtoy.course.intervals import ratio
from dgtoy.course.records import family, held_out, values
from dgtoy.course.worlds import packs, photos
from dgtoy.dit import VP, DiT, Flow
from dgtoy.interop import add_lora
from dgtoy.pipeline.finetune import Config, finetune
from dgtoy.pipeline.image_sets import HubImages, ImageFolder
from dgtoy.trainer import TrainingConfig

close = torch.testing.assert_close
ROOT = pathlib.Path(__file__).resolve().parents[1]


def picture(rng, size=(64, 64)):
    """A smooth one, which JPEG keeps."""
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def folder_of(root, counts, ending="jpg", size=(64, 64), inside=""):
    """A folder of class folders, the pictures numbered as the public sets are."""
    rng = np.random.default_rng(0)
    for name, n in counts.items():
        place = root / name / inside
        place.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(picture(rng, size)).save(place / f"{name}_{i:04d}.{ending}", quality=95)
    return root


@pytest.fixture
def few(monkeypatch):
    """A Tiny ImageNet of 200 classes with 5 pictures each, and a food10 of two classes."""
    monkeypatch.setitem(photos.SPLITS, "source", (slice(0, 4), slice(4, 5)))
    monkeypatch.setitem(photos.SPLITS, "held out", (slice(0, 3), slice(3, 5)))
    for name, classes in (("tiny", 200), ("food10", 2)):
        small = dataclasses.replace(photos.COLLECTIONS[name], classes=classes)
        monkeypatch.setitem(photos.COLLECTIONS, name, small)


# packed files


def test_a_pack_holds_each_picture_where_it_was_and_nothing_of_its_neighbours(tmp_path):
    """1,030 pictures of one colour each: two mosaics, the second with black tiles."""
    grey = np.random.default_rng(0).integers(0, 256, 1030, dtype=np.uint8)
    x = np.broadcast_to(grey[:, None, None, None], (1030, 64, 64, 3))
    label = np.arange(1030) % 3
    packs.write(tmp_path / "a.npz", x, label, ["one", "two", "three"])
    found, labels, names = packs.read(tmp_path / "a.npz")
    assert found.shape == (1030, 3, 64, 64) and names == ["one", "two", "three"]
    assert np.array_equal(labels, label)
    close(found.float(), torch.from_numpy(x.copy()).permute(0, 3, 1, 2).float(), rtol=0, atol=2)


def test_some_classes_are_what_is_read_of_all(tmp_path):
    rng = np.random.default_rng(1)
    x, label = np.stack([picture(rng) for _ in range(40)]), np.arange(40) % 4
    packs.write(tmp_path / "a.npz", x, label, list("abcd"))
    every, labels, _ = packs.read(tmp_path / "a.npz")
    some, chosen, names = packs.read(tmp_path / "a.npz", [3, 1])
    assert names == ["d", "b"]
    for new, old in enumerate((3, 1)):
        assert torch.equal(some[chosen == new], every[labels == old])


def test_a_mosaic_that_holds_no_chosen_class_is_not_opened(tmp_path):
    x = np.zeros((2048, 64, 64, 3), np.uint8)
    packs.write(tmp_path / "a.npz", x, np.arange(2048) // 1024, ["a", "b"])
    with np.load(tmp_path / "a.npz") as held:
        damaged = dict(held)
    damaged["jpeg"][: damaged["ends"][0]] = 0
    np.savez(tmp_path / "a.npz", **damaged)
    assert len(packs.read(tmp_path / "a.npz", [1])[0]) == 1024
    with refuses("a.npz cannot be read", "UnidentifiedImageError"):
        packs.read(tmp_path / "a.npz")


@pytest.mark.parametrize("what", ["cut", "text", "pickle", "labels", "missing", "mosaic"])
def test_a_file_that_is_no_pack_is_refused_in_one_line(tmp_path, what):
    path = tmp_path / "a.npz"
    packs.write(path, np.zeros((3, 64, 64, 3), np.uint8), [0, 1, 2], list("abc"))
    with np.load(path) as held:
        arrays = dict(held)
    if what == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif what == "text":
        path.write_text("no archive", encoding="utf-8")
    else:
        small = io.BytesIO()
        Image.new("RGB", (100, 100)).save(small, "JPEG")
        changes = dict(
            pickle=dict(classes=np.array([{}, {}, {}], dtype=object)),
            labels=dict(labels=np.array([0, 1, 3])),
            missing=dict(labels=np.array([0, 1])),
            mosaic=dict(
                jpeg=np.frombuffer(small.getvalue(), np.uint8), ends=np.array([len(small.getvalue())])
            ),
        )
        np.savez(path, **arrays | changes[what])
    with refuses("a.npz cannot be read", "expected a file that `dgtoy photos` wrote"):
        packs.read(path)


def test_other_sizes_are_cut_to_the_central_square():
    wide = np.zeros((80, 120, 3), np.uint8)
    wide[:, 20:100] = 200
    found = packs.squared(Image.fromarray(wide))
    assert found.shape == (64, 64, 3) and (found[:, 2:-2] == 200).all()  # the edge is smoothed


# the collections


def test_source_and_held_out_targets_share_no_class():
    held = [k for classes in photos.HELD_OUT.values() for k in classes]
    assert [len(classes) for classes in photos.HELD_OUT.values()] == [17, 16, 14]
    assert len(photos.SOURCE) == 153 and sorted([*photos.SOURCE, *held]) == list(range(200))
    assert len(photos.TARGETS) == 8 and "tiny" not in photos.TARGETS


@pytest.mark.parametrize("how", photos.SPLITS)
def test_training_and_true_pictures_are_never_the_same(how):
    train, truth = (set(range(500)[part]) for part in photos.SPLITS[how])
    assert train | truth == set(range(500)) and not train & truth


def test_tiny_imagenet_is_packed_and_split(few, tmp_path, capsys):
    """Its own layout: CLASS/images/CLASS_0000.JPEG, the names beside it; in five files, a class of five
    pictures has one in each."""
    ids = [f"n{k:08d}" for k in range(200)]
    root = folder_of(tmp_path / "tiny" / "train", dict.fromkeys(ids, 5), "JPEG", inside="images")
    words = "".join(f"{name}\tthing {name[-3:]}, other words\n" for name in ids)
    (tmp_path / "tiny" / "words.txt").write_text(words, encoding="utf-8")
    cli.main(["photos", "tiny", str(root), "--out", str(tmp_path / "packed")])
    assert len(capsys.readouterr().out.splitlines()) == 5

    found = photos.source(tmp_path / "packed")
    assert len(found.train) == 4 * 153 and len(found.truth) == 153
    assert found.train.classes[7] == "n00000011 thing 011"  # 7 to 10 are insects
    original = ImageFolder(root)
    food = photos.target("food", tmp_path / "packed")
    for part, numbers in ((food.train, (0, 1, 2)), (food.truth, (3, 4))):
        assert part.label.bincount().tolist() == [len(numbers)] * 17
        for row, i in enumerate(numbers):  # the first class of food is the 178th of all
            true = torch.from_numpy(np.array(original[177 * 5 + i][0])).permute(2, 0, 1)
            inner = (slice(None), slice(1, -1), slice(1, -1))
            close(part.x[row][inner].float(), true[inner].float(), rtol=0, atol=16)


def test_another_collection_takes_every_second_picture(few, tmp_path):
    root = folder_of(tmp_path / "food", {"pizza": 7, "salad": 5, "BACKGROUND_Google": 2}, size=(80, 70))
    assert [path.name for path in photos.pack("food10", ImageFolder(root), tmp_path)] == ["food10.npz"]
    x, label, names = photos.read("food10", tmp_path)
    assert names == ["pizza", "salad"] and label.tolist() == [0] * 7 + [1] * 5
    train, truth = photos.target("food10", tmp_path)
    assert torch.equal(train.x, x[[0, 2, 4, 6, 7, 9, 11]]) and torch.equal(truth.x, x[[1, 3, 5, 8, 10]])
    small = photos.target("food10", tmp_path, size=2).train
    assert torch.equal(small.x, train.x[[0, 1, 4, 5]]) and small.label.tolist() == [0, 0, 1, 1]
    largest = photos.target("food10", tmp_path, size=4).train  # of salad there are but three
    assert torch.equal(largest.x, train.x)


def test_pictures_of_your_own_are_split_alike(tmp_path):
    root = folder_of(tmp_path / "own", {"a": 4, "b": 3}, "png")
    train, truth = photos.split(ImageFolder(root))
    assert train.classes == ["a", "b"] and train.label.tolist() == [0, 0, 1, 1]
    assert truth.label.tolist() == [0, 0, 1]
    assert torch.equal(
        train.x[1], torch.from_numpy(np.array(Image.open(root / "a" / "a_0002.png"))).permute(2, 0, 1)
    )


def test_a_hub_data_set_is_packed_as_a_folder_is(few, tmp_path, monkeypatch):
    """By its name, which the hub is asked for, or saved in a folder."""
    import datasets

    root = folder_of(tmp_path / "food", {"pizza": 2, "salad": 1}, "png")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["salad", "pizza"]))
    rows = dict(image=[str(p) for p in sorted(root.rglob("*.png"))], label=[1, 1, 0])  # out of order
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(str(tmp_path / "hub"))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: {("me/food", "train"): data}[name, split]
    )
    cli.main(["photos", "food10", str(root), "--out", str(tmp_path / "a")])
    for images, out in ((tmp_path / "hub", "b"), ("me/food", "c")):
        cli.main(["photos", "food10", str(images), "--hub", "--out", str(tmp_path / out)])
        assert (tmp_path / "a" / "food10.npz").read_bytes() == (tmp_path / out / "food10.npz").read_bytes()
    own, named = photos.split(ImageFolder(root)), photos.split(HubImages("me/food"))
    for mine, theirs in zip(own, named, strict=True):
        assert torch.equal(mine.x, theirs.x.flip(0))  # in the order of the classes that the data set has


def test_what_is_missing_says_how_to_get_it(few, tmp_path, monkeypatch):
    words = ("food10.npz is not in", "DGTOY_PHOTOS", "git clone", "python -m dgtoy photos food10", "terms")
    with refuses(*words, error=FileNotFoundError):
        photos.target("food10", tmp_path)
    root = folder_of(tmp_path / "food", {"pizza": 2, "salad": 2})
    list(photos.pack("food10", ImageFolder(root), tmp_path))
    monkeypatch.setenv("DGTOY_PHOTOS", str(tmp_path))
    assert len(photos.target("food10").train) == 2


def test_what_cannot_be_a_target_is_refused(few, tmp_path):
    root = folder_of(tmp_path / "food", {"pizza": 2, "salad": 2, "soup": 2})
    with refuses("images hold 3 classes", "expected 2", "food10"):
        photos.pack("food10", ImageFolder(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with refuses("name is 'fod'", "food, vehicles"):
        photos.target("fod", tmp_path)
    own = ImageFolder(root)
    for size in (0, -1, 2):
        with refuses(f"size is {size}", "expected 1 to 1"):
            photos.split(own, size)


# as training data


def some(n=12, classes=3, seed=0):
    x = torch.randint(256, (n, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return photos.Photos(x, torch.arange(n) % classes, [f"class {k}" for k in range(classes)])


def test_a_draw_is_the_pictures_mirrored_where_asked():
    data = some()
    rows, flip = torch.tensor([5, 0, 5]), torch.tensor([False, True, True])
    x0, label = data.draw(rows, flip)
    close(127.5 * (x0[0] + 1), data.x[5].float())
    close(x0[2], x0[0].flip(-1))
    close(127.5 * (x0[1].flip(-1) + 1), data.x[0].float())
    assert label.tolist() == [2, 0, 2]


def test_the_fingerprint_is_of_all_that_it_holds():
    data = some()
    names = photos.Photos(data.x, data.label, ["a", "b", "c"])
    assert len({data.fingerprint, some(seed=1).fingerprint, names.fingerprint, data[:11].fingerprint}) == 4
    assert data.fingerprint == some().to("cpu").fingerprint


@pytest.mark.parametrize(
    "x, label, words",
    [
        (torch.zeros(2, 3, 64, 64), torch.zeros(2), "float32"),
        (torch.zeros(2, 3, 64, dtype=torch.uint8), torch.zeros(2), "(2, 3, 64)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(3), "(3,)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([0, 3]), "3 classes"),
    ],
)
def test_photos_of_other_kinds_are_refused(x, label, words):
    with refuses(words):
        photos.Photos(x, label, ["a", "b", "c"])


def test_fine_tuning_runs_on_photographs(tmp_path):
    """The pipeline's own function; the label table names the classes."""
    net = VP(DiT(64, 16, 3, 16, 1, 2, num_classes=3))
    config = Config(steps=3, batch=4)
    losses = [step.loss.item() for step in finetune(net, some(), config, tmp_path)]
    assert len(losses) == 3 and np.isfinite(losses).all()
    with refuses("data has latents (3, 64, 64) of 2 classes", "expected (3, 64, 64) and 3"):
        finetune(net, some(classes=2), config, tmp_path)


# the networks made from them

SMALL = recipes.Photos(
    recipes.Photos().network | dict(patch_size=32, hidden_size=16, depth=1, num_heads=2),
    TrainingConfig(steps=3, batch=6, muon=3.0),
)


@pytest.fixture(scope="module")
def few_photos():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (24, 3, 64, 64), generator=g, dtype=torch.uint8)
    return photos.Photos(x, torch.arange(24) % 4, list("abcd"))


def test_pretraining_goes_on_as_if_it_had_never_stopped(few_photos, tmp_path):
    never = recipes.pretrain_photos(SMALL, few_photos)
    short = dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, steps=2))
    recipes.pretrain_photos(short, few_photos, state=tmp_path)
    rest = recipes.pretrain_photos(SMALL, few_photos, state=tmp_path)
    assert max(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= 16 * 2**20
    for name, p in rest.params.items():
        assert torch.equal(p, never.params[name])


def goes_on(config, data, state):
    distributed.join("cpu")
    recipes.pretrain_photos(config, data, state=state)


@pytest.mark.parametrize("first, then", [(1, 2), (2, 1)])
def test_pretraining_goes_on_with_another_number_of_processes(first, then, few_photos, tmp_path):
    """Its global batch stays the same, and so does the run, but for rounding."""
    train = dataclasses.replace(SMALL.train, steps=8, batch=8)
    config, half = (dataclasses.replace(SMALL, train=dataclasses.replace(train, steps=n)) for n in (8, 4))
    for part, processes in ((half, first), (config, then)):
        assert together(goes_on, part, few_photos, tmp_path, processes=processes) == [0] * processes
    went, header = load_state(tmp_path)
    assert header["step"] == 8
    start = recipes.pretrain_photos(
        dataclasses.replace(SMALL, train=dataclasses.replace(train, steps=0)), few_photos
    )
    never = recipes.pretrain_photos(config, few_photos)
    flat = lambda params: torch.cat([p.detach().flatten() for p in params])
    wanted = flat(never.params.values())
    found = flat(went[f"ema.{name}"] for name in never.params)
    assert (found - wanted).norm() < 1e-3 * (wanted - flat(start.params.values())).norm()


def test_a_batch_of_pretraining_is_a_function_of_seed_and_step(few_photos):
    batch = lambda seed, step: recipes.photo_batch(few_photos, seed, SMALL.train, 4, step)
    for one, again in zip(batch(1, 7), batch(1, 7), strict=True):
        assert torch.equal(one, again)
    x0, label, time, eps = batch(1, 7)
    assert x0.shape == eps.shape == (6, 3, 64, 64) and label.shape == time.shape == (6,)
    assert not torch.equal(eps, batch(1, 8)[3]) and not torch.equal(eps, batch(2, 7)[3])
    rows = [
        int((few_photos.draw(torch.arange(24), torch.zeros(24, dtype=bool))[0] == x).flatten(1).all(1).any())
        for x in x0
    ]
    mirrored = [
        int((few_photos.draw(torch.arange(24), torch.ones(24, dtype=bool))[0] == x).flatten(1).all(1).any())
        for x in x0
    ]
    assert all(a + b for a, b in zip(rows, mirrored, strict=True)) and 0 < sum(mirrored) < 6


def test_what_is_made_of_photographs_is_what_is_loaded(few_photos, tmp_path, monkeypatch):
    """The base in one byte a weight, its fine-tune as a LoRA added to that."""
    monkeypatch.setattr(photos, "source", lambda: photos.Split(few_photos, few_photos))
    monkeypatch.setattr(photos, "target", lambda name: photos.Split(few_photos, few_photos))
    facts = recipes.make("photos64", SMALL, folder=tmp_path)
    base = shipped.load("photos64", folder=tmp_path)
    assert isinstance(base, Flow) and base.config == facts["config"] and facts["classes"] == list("abcd")
    made = recipes.pretrain_photos(SMALL, few_photos)
    for name, value in base.net.state_dict().items():
        exact = made.net.state_dict()[name]
        step = exact.abs().amax(-1, keepdim=True) / 127 if exact.ndim == 2 else exact.abs() * 2**-9
        assert ((value - exact).abs() <= 0.51 * step + 1e-7).all(), name
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped.load, "__defaults__", ("cpu", tmp_path))
    short = recipes.FineTune("food", dataclasses.replace(recipes.FineTune("food").train, steps=2, batch=4))
    facts = recipes.make("photos64-food", short, folder=tmp_path)
    tuned = shipped.load("photos64-food", folder=tmp_path)
    assert tuned.null == 4 and facts["base"] == "photos64" and facts["classes"] == list("abcd")
    # by the pipeline's own way: adapter and base as two parts
    net = add_lora(base, 4, 8, 0)
    tensors = read_safetensors(tmp_path / "photos64-food.safetensors")[0]
    assert tensors.keys() == net.params.keys()
    for name, p in net.params.items():
        p.data.copy_(tensors[name])
    x, sigma, label = torch.randn(2, 3, 64, 64), torch.tensor(3.0), torch.tensor([0, 3])
    close(tuned.denoiser(label)(x, sigma), net.denoiser(label)(x, sigma), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("study", ["second", "large"])
def test_a_further_pre_trained_model_lies_in_a_folder_of_its_own(study, few_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photos, "source", lambda: photos.Split(few_photos, few_photos))
    monkeypatch.setitem(recipes.STUDY, study, SMALL)
    cli.main(["weights", "--study", study, "--device", "cpu"])
    net = tuning.pretrained(f"build/{study}")
    assert net.config["hidden_size"] == 16 and not (shipped.FOLDER / study).exists()
    assert tuning.pretrained("photos64").config["hidden_size"] == 320


def test_the_studies_name_the_folders_of_the_further_models():
    assert {tuning.SECOND, tuning.LARGE} == {f"build/{name}" for name in recipes.STUDY}
    assert photos_study.Config.replica().base == photos_stranger.Config.full().stranger == tuning.SECOND
    assert photos_large.Config.full().base == tuning.LARGE
    again = (photos_guides, photos_plane, photos_stranger)
    assert {study.Config.replica().base for study in again} == {tuning.LARGE}


def test_the_larger_model_is_what_the_pages_call_it():
    """Eight times as large, pre-trained on half as many pictures; without guidance closer by a tenth on the
    source, by a seventh on its fine-tunes. DoG's lead over CFG is as large on food, on vehicles 19% and not
    23%, on insects 5% and not 9%; and the recipe in code is the one that the record was made with."""
    found, first = (records.load(name, ROOT / "figures") for name in ("photos_large", "photos"))
    made = found["results"]["pretraining"]
    assert made == json.loads(json.dumps(dataclasses.asdict(recipes.STUDY["large"])))
    large, shipped_ = (
        sum(p.numel() for p in DiT(**recipe.network, num_classes=153).parameters())
        for recipe in (recipes.STUDY["large"], recipes.Photos())
    )
    assert large // shipped_ == 8
    assert round(recipes.Photos().train.steps / made["train"]["steps"]) == 2
    assert all(recipe.train.steps < recipes.Photos().train.steps for recipe in recipes.STUDY.values())
    base = {name: found["config"][name] for name in ("base", "smaller")}
    source = [values(found, "frechet", target="source", base=b, method="none").mean() for b in base.values()]
    assert source[0] / source[1] == pytest.approx(1 - 1 / 10, abs=0.02)
    none, lead = [], {}
    for target in found["config"]["targets"]:
        none.append([values(r, "frechet", target=target, method="none").mean() for r in (found, first)])
        lead[target] = [
            ratio(*(photos_study.own(r, m, target) for m in ("DoG", "CFG")))[0] for r in (found, first)
        ]
    assert np.divide(*np.transpose(none)).mean() == pytest.approx(1 - 1 / 7, abs=0.02)
    assert lead["food"][0] == pytest.approx(lead["food"][1], abs=0.015)
    order = photo_claims.c13(found).parts
    assert all(held for part, held in order.items() if "<" in part)  # "the order is the same", says the title
    told = {target: [f"{1 - r:.0%}" for r in both] for target, both in lead.items()}
    assert told["vehicles"] == ["19%", "23%"] and told["insects"] == ["5%", "9%"]


def test_longer_fine_tuning_leaves_dogs_gain_and_narrows_its_lead_and_is_not_long_enough():
    """What notebook 10, the gallery and claims.md say beside C36: "16 to 18%" and the like."""
    record = records.load("photos_length", ROOT / "figures")
    stages, (rate,) = record["config"]["stages"], {lr for r in record["results"]["rows"] for lr in r["lr"]}
    usual = records.load("photos", ROOT / "figures")["config"]["setting"]["finetune"]
    assert rate == pytest.approx(3 * usual["lr"])
    assert min(record["config"]["rates"]) < rate < max(record["config"]["rates"])
    assert stages[-1] == 4 * usual["steps"]
    for target, gains, leads in (
        ("food", ("16%", "18%"), ("9%", "5%")),
        ("vehicles", ("23%", "26%"), ("18%", "14%")),
    ):
        of = lambda stage, method: held_out(family(record, method, target=target, stage=stage)).mean()
        plain = lambda metric: [
            values(record, metric, target=target, stage=s, method="none").mean() for s in stages
        ]
        below = lambda rival: [1 - of(s, "DoG") / of(s, rival) for s in stages]
        gain, lead = below("none"), below("CFG")
        assert (f"{min(gain):.0%}", f"{max(gain):.0%}") == gains
        assert (f"{lead[0]:.0%}", f"{lead[-1]:.0%}") == leads
        falls = -np.diff(plain("loss"))
        assert (falls > 0).all() and (np.diff(falls) < 0).all()  # all the way, ever more slowly
        shares = plain("class_accuracy")
        assert 0.25 < shares[0] < 0.35 and 0.42 < shares[-1] < 0.55  # of the class: a third, then half
        closer = {m: of(stages[-1], m) / of(stages[0], m) for m in ("none", "CFG", "DoG")}
        assert min(closer, key=closer.get) == "CFG" and max(closer.values()) < 1


def test_a_stranger_guides_about_as_well_and_the_network_trained_for_longer_is_ahead():
    """What the figures' title, notebook 11 and claims.md say.

    The shipped model, which was trained longest, is the ancestor in one record, the stranger in the other.
    """
    for folder, sure, told in (
        ("figures", {"food", "vehicles", "insects"}, ["2%", "5%"]),
        ("figures/replica", {"food", "insects"}, ["1%", "3%"]),
    ):
        record, sign = records.load("photos_stranger", ROOT / folder), 1 if folder == "figures" else -1
        of = lambda target: photo_claims.against(record, "stranger", "DoG", target)
        found = {t: sorted(sign * (end - 1) for end in of(t)) for t in record["config"]["targets"]}
        assert {t for t, (low, _, _) in found.items() if low > 0} == sure
        gaps = [gap for _, gap, _ in found.values()]
        assert [f"{gap:.0%}" for gap in (min(gaps), max(gaps))] == told


def test_an_early_checkpoint_nearly_replaces_the_pretrained_guide_and_a_width_does_not():
    """What pages say beside C15 and C24: on each target by itself, after 4,000 steps, on a larger network
    after 1,000; and on average, after 2,000."""
    found, larger = (
        records.load("photos_guides", ROOT / folder) for folder in ("figures", "figures/replica")
    )
    study = records.load("photos", ROOT / "figures")
    broad = ("own null", "unconditional", "own null, blurred", "self, blurred", "Gaussian")
    for record, sure, told, null in (
        (found, ["food"], {"2%", "5%"}, {"1%", "3%"}),
        (larger, ["food", "vehicles", "insects"], {"5%", "6%", "7%"}, {"4%"}),
    ):
        targets, last = record["config"]["targets"], record["config"]["stages"][-1]
        behind = lambda guide: [photo_claims.ahead(record, guide, t, last) for t in targets]
        assert all(high < 1 for guide in broad for _, _, high in behind(guide))
        checkpoint = behind("weaker self")
        assert [t for t, r in zip(targets, checkpoint, strict=True) if r[2] < 1] == sure
        assert {f"{1 / r[0] - 1:.0%}" for r in checkpoint} == told
        dear = [b[0] / a[0] - 1 for a, b in zip(behind("unconditional"), behind("own null"), strict=True)]
        assert {f"{min(dear):.0%}", f"{max(dear):.0%}"} == null
        for guide in ("a quarter of the way", "half-way", "three quarters"):
            assert min(r[0] for r in behind(guide)) < 1  # none is ahead of the old model on all three
    last = str(found["config"]["stages"][-1])
    assert not any(held for part, held in photo_claims.c15(found).parts.items() if part.startswith(last))
    level = [photo_claims.against(study, "autoguidance", "DoG", t) for t in study["config"]["targets"]]
    assert photo_claims.over_targets(level)[0] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("folder, ahead", [("figures", 1), ("figures/replica", 0)])
def test_a_blur_falls_behind_an_early_checkpoint_as_classes_are_learnt(folder, ahead):
    """Notebook 11; ahead: at how many stages, the first, the blur is nearer."""
    record = records.load("photos_guides", ROOT / folder)
    targets, stages = record["config"]["targets"], record["config"]["stages"]
    mean = lambda guide, stage: np.exp(
        np.mean([np.log(photos_guides.relative(record, t, stage, guide)) for t in targets])
    )
    for guide in ("none", "self, blurred", "own null", "weaker self", "half-way"):
        assert min(mean(guide, stage) for stage in stages) > 1
    gap = [mean("self, blurred", stage) / mean("weaker self", stage) for stage in stages]
    assert gap == sorted(gap) and [g < 1 for g in gap] == [True] * ahead + [False] * (len(stages) - ahead)
    error = [photos_guides.class_error(record, stage) for stage in stages]
    assert error == sorted(error, reverse=True)
    if ahead:
        assert error[0] == pytest.approx(0.9, abs=0.02) and error[1] == pytest.approx(5 / 6, abs=0.02)


def test_samples_at_their_own_weights_are_seldom_copies_and_the_means_bring_a_part_of_the_gain():
    """Notebook 10; its class shares in 11, too."""
    study = records.load("photos", ROOT / "figures")
    inside = [t for t in study["config"]["targets"] if t != photo_claims.OUTSIDE]
    own = lambda method, metric: [photos_study.own(study, method, t, metric).mean() for t in inside]
    for method in ("none", "CFG", "DoG", "autoguidance", "blurred self"):
        assert max(own(method, "copies")) < 0.01
    gain, of_means = (np.mean(own("none", m)) - np.mean(own("DoG", m)) for m in ("frechet", "frechet_means"))
    assert (round(gain), round(of_means)) == (15, 6)
    assert own(photos_study.IN_PROPORTION, "frechet") == own("none", "frechet")
    named, found = (np.mean(own("none", metric)) for metric in ("class_accuracy", "precision"))
    for method in ("CFG", "DoG", "autoguidance"):
        assert 1.7 < np.mean(own(method, "class_accuracy")) / named < 2
    assert np.mean(own("blurred self", "precision")) < found
    lost = {
        m: 1 - np.mean(own(m, "recall")) / np.mean(own("none", "recall")) for m in ("DoG", "autoguidance")
    }
    assert lost["DoG"] > 1 / 4 and lost["autoguidance"] < 0.05
    for target in ("food", "food10"):
        assert 0.016 < records.of_method(study, "copies", "DoG", 3.0, target=target).mean() < 0.02


def test_the_larger_model_finds_the_same_of_the_plane_the_learned_field_and_calibration():
    """Notebook 10's third column: vehicles from DiT-B after 500 steps, the shipped model's after 2,000."""
    first, larger = (records.load("photos_plane", ROOT / folder) for folder in ("figures", "figures/replica"))
    for rule in (photo_claims.c17_photos, photo_claims.c18_photos, photo_claims.c19_photos):
        parts, again = (
            {part.replace("500", "2000"): held for part, held in rule(r).parts.items()}
            for r in (first, larger)
        )
        assert again.items() <= parts.items()
    of_vehicles = lambda record: np.mean(record["results"]["fits"][-1]["plane"], 0)  # (levels, 2)
    assert (of_vehicles(larger)[-1] < of_vehicles(first)[-1]).all()  # the gallery: less at low noise,
    assert of_vehicles(larger)[0, 1] > 1.2 * of_vehicles(first)[0, 1]  # and more of the class at high
    for record, target, lost in (
        (first, "food", -0.04),
        (first, "vehicles", 0.03),
        (larger, "vehicles", 0.04),
    ):
        where = target, record["config"]["stages"][-1]
        own = {m: photos_plane.own(record, m, *where).mean() for m in ("none", "DoG", "plane", "DogFit")}
        assert round(own["plane"] / own["DoG"] - 1, 2) == lost
        assert own["DogFit"] < 1.05 * own["DoG"] and 0.17 <= round(1 - own["DoG"] / own["none"], 2) <= 0.27
        asked = values(record, "frechet", target=target, stage=where[1], method="DoG").mean()
        assert own["none"] < asked


@pytest.mark.parametrize("rank, files", [(0, 2), (1, 0)])
def test_of_several_processes_the_first_writes_what_was_made(rank, files, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.MAKERS, "photos64", lambda *given: (dict(w=torch.ones(2)), {}))
    monkeypatch.setattr(recipes.distributed, "rank", lambda: rank)
    facts = recipes.make("photos64", SMALL, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == files and (facts is None) == (rank == 1)


def test_a_fine_tune_that_does_not_fit_its_base_is_refused(few_photos, tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "source", lambda: photos.Split(few_photos, few_photos))
    recipes.make("photos64", SMALL, folder=tmp_path)
    path = tmp_path / "photos64-food.safetensors"
    shutil.copy(shipped.FOLDER / "photos64-food.safetensors", path)
    shutil.copy(shipped.FOLDER / "photos64-food.json", path.with_suffix(".json"))
    with refuses("photos64-food.safetensors"):
        shipped.load("photos64-food", folder=tmp_path)


def test_paintings_burn_and_sketches_do_not():
    """Notebook 10: how many channels are at their ends; and the judge likes burnt paintings."""
    found = records.load("posters", ROOT / "figures")

    def burnt(target, row):
        pixels = posters.strip(records.row(found, target=target, row=row)).astype(int)
        return np.mean(abs(pixels - 127.5) > 125)

    grows = lambda target, row: burnt(target, row) / burnt(target, "none")
    assert grows("photos64-art7", "DoG, w = 3") > 4 and grows("photos64-art7", "CFG, w = 3") < 2
    assert grows("photos64-sketch7", "DoG, w = 3") < 1.2
    study = records.load("photos", ROOT / "figures")
    of_truth = np.mean(study["results"]["floor"]["art7"]["precision"])
    assert records.of_method(study, "precision", "DoG", 3.0, target="art7").mean() > of_truth + 0.1
