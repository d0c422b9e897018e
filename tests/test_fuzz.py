"""The commands on whatever people bring: each outcome is a success that is checked, or one line of error with
nothing half-written behind it.
"""

import itertools
import json

import numpy as np
import pytest
import torch
from helpers import shaken
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from strategies import (
    arrays,
    class_names,
    examples,
    folders,
    label_sets,
    place,
    run,
    seen,
    unfinished,
    written,
)

from dgtoy.checkpoint import write_safetensors
from dgtoy.dit import DiT, load_checkpoint
from dgtoy.pipeline.image_sets import _classes, read_images

TINY = dict(input_size=16, patch_size=4, in_channels=3, hidden_size=16, depth=1, num_heads=2)
QUIET = ("--device", "cpu", "--heads", 2, "--quiet")


# folders, arrays, labels


@examples(30)
@given(folders())
def test_a_folder_is_read_as_it_shows_or_refused(classes):
    pictures = seen(classes)
    names = sorted({name for name, _ in pictures})
    visible = [name for name in classes if not name.startswith((".", "__"))]
    sound = visible and sorted(visible) == names and all(p.rgb is not None for _, p in pictures)
    with place() as here:
        out = here / "out"
        words = ("prepare", written(here / "in", classes), "--vae", "pixels", "--size", 16, "--out", out)
        status, line = run("dit", *words, *QUIET)
        assert bool(status) != bool(sound), line
        assert not unfinished(here)
        if not sound:
            assert not out.exists()
            return
        shard, plan = (
            load_file(out / "latents-00000.safetensors"),
            json.loads((out / "plan.json").read_text()),
        )
    assert plan["classes"] == names
    assert [plan["classes"][k] for k in shard["label"]] == [name for name, _ in pictures]
    for found, (_, picture) in zip(shard["mean"], pictures, strict=True):
        off = np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - picture.rgb)
        assert off.max() <= picture.off


@examples(25)
@given(arrays(), arrays())
def test_an_array_of_samples_is_scored_or_refused(one, other):
    with place() as here:
        for name, (data, images, _) in (("one", one), ("other", other)):
            (here / f"{name}.npz").write_bytes(data)
            if images is not None:
                assert np.array_equal(np.stack(list(read_images(here / f"{name}.npz"))), images)
        words = (here / "one.npz", here / "other.npz", "--features", "glyphs", "--out", here / "s.json")
        status, line = run("dit", "evaluate", *words, "--device", "cpu")
        sound = all(
            images is not None and len(images) > 5 and kind != "alike" for _, images, kind in (one, other)
        )
        assert bool(status) != sound, line
        assert (here / "s.json").exists() == sound and not unfinished(here)
        if sound:
            scores = json.loads((here / "s.json").read_text())["scores"]
            assert scores["frechet"] >= 0 and all(
                0 <= scores[k] <= 1 for k in ("precision", "recall", "coverage")
            )
            if np.array_equal(one[1], other[1]):
                assert scores["frechet"] < 1e-3 and scores["coverage"] == 1


@pytest.mark.filterwarnings("ignore:dataset d holds no images")
@examples(100)
@given(label_sets, class_names)
def test_labels_keep_their_names_or_are_refused(labels, names):
    try:
        classes, numbers = _classes("d", labels, names)
    except ValueError as e:
        assert "\n" not in str(e) and "dataset d" in str(e)
        return
    assert len(numbers) == len(labels)
    for label, number in zip(labels, numbers, strict=True):
        expected = label if isinstance(label, str) else names[label] if names else str(label)
        assert classes[number] == expected


# checkpoints and states


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Pictures of three classes as latents, others, a base, and a fine-tune of four steps."""
    path = tmp_path_factory.mktemp("fuzz")
    net = shaken(DiT(**TINY, num_classes=4))
    write_safetensors(path / "base.safetensors", net.state_dict(), {})
    rng = np.random.default_rng(0)
    for name in ("latents", "held out"):
        for label, i in itertools.product("abc", range(3)):
            place = path / f"{name} in" / label / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place)
        words = (path / f"{name} in", "--vae", "pixels", "--size", 16, "--out", path / name)
        assert not run("dit", "prepare", *words)[0]
    assert not finetune(path, path / "ft")[0]
    return path


def finetune(room, out, *words):
    base = ("--pretrained", room / "base.safetensors", "--out", out)
    steps = ("--steps", 4, "--batch", 2, "--every", 2)
    return run("dit", "finetune", room / "latents", *base, *steps, *words, *QUIET)


class Code:
    def __reduce__(self):
        return print, ("run",)


def spoiled(weights, kind):
    """A state dict with one thing wrong or odd; whether it is still a DiT's."""
    name = "blocks.0.attn.qkv.weight"
    change = {
        "half": {k: v.half() for k, v in weights.items()},
        "double": {k: v.double() for k, v in weights.items()},
        "missing": {k: v for k, v in weights.items() if k != name},
        "more": weights | {"extra": torch.ones(2)},
        "shape": weights | {name: torch.ones(3, 3)},
        "axes": weights | {"pos_embed": torch.ones(5)},
        "empty": {},
        "depth": weights | {"blocks.x.attn": torch.ones(1)},
    }
    return change.get(kind, weights), kind in ("right", "half", "double", "ema", "module")


KINDS = (
    "right",
    "half",
    "double",
    "ema",
    "missing",
    "more",
    "shape",
    "axes",
    "empty",
    "depth",
    "cut",
    "text",
)


@examples(30)
@given(st.sampled_from((*KINDS, "code", "list", "folder")), st.sampled_from((".pt", ".safetensors", ".bin")))
def test_a_checkpoint_gives_its_weights_or_is_refused(room, kind, ending):
    weights = load_file(room / "base.safetensors")
    state, sound = spoiled(weights, kind)
    with place() as here:
        path = here / f"x{ending}"
        if kind == "folder":
            path.mkdir()
        elif ending == ".safetensors":
            save_file(state, path)
            sound = sound or kind in ("code", "list")  # of which such a file knows nothing
        else:
            held = {"ema": {"ema": state}, "code": state | {"run": Code()}, "list": [1, 2]}.get(kind, state)
            torch.save(held, path)
        if kind in ("cut", "text"):
            path.write_bytes(path.read_bytes()[:-100] if kind == "cut" else b"not found")
        words = (
            path,
            "--method",
            "none",
            "--count",
            1,
            "--steps",
            2,
            "--vae",
            "pixels",
            "--out",
            here / "out",
        )
        status, line = run("dit", "sample", *words, "--sampler", "ddim", *QUIET)
        assert bool(status) != sound, line
        assert not unfinished(here) and (here / "out").exists() == sound
        if sound:
            held = load_checkpoint(path)
            assert held.keys() == weights.keys() and all(v.dtype == torch.float32 for v in held.values())
            for name in weights:
                torch.testing.assert_close(held[name], weights[name], rtol=2e-3, atol=1e-3)


STATES = ("right", "cut", "text", "empty", "header", "step", "recipe", "lr", "missing", "shape", "folder")


@pytest.mark.parametrize("kind", STATES)
def test_a_state_goes_on_as_if_never_stopped_or_is_refused(room, kind):
    with place() as here:
        out = here / "ft"
        out.mkdir()
        assert not finetune(room, out, "--steps", 2)[0]
        path = out / "last.safetensors"
        spoil_state(path, kind)
        before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
        status, line = finetune(room, out)
        assert bool(status) != (kind == "right"), line
        assert not unfinished(here)
        if status:
            assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
            assert (str(path) if kind != "lr" else "lr is 'x'; expected a number") in line
            return
        one, other = load_file(out / "ema.safetensors"), load_file(room / "ft" / "ema.safetensors")
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def spoil_state(path, kind):
    """Make one thing of a saved state wrong."""
    from dgtoy.checkpoint import read_safetensors

    data = path.read_bytes()
    tensors, header = read_safetensors(path)
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind in ("cut", "text", "empty"):
        path.write_bytes(dict(cut=data[:-9], text=b"oops", empty=b"")[kind])
    elif kind in ("missing", "shape"):
        name = sorted(tensors)[0]
        changed = {k: v for k, v in tensors.items() if k != name} | (
            {name: torch.ones(7)} if kind == "shape" else {}
        )
        write_safetensors(path, changed, header)
    else:
        changed = dict(
            right=header,
            header={},
            step=header | dict(step="x"),
            recipe=header | dict(recipe=5),
            lr=header | dict(recipe=header["recipe"] | dict(lr="x")),
        )
        write_safetensors(path, tensors, changed[kind])


# options


RIGHT = {  # values that each command takes, whatever the other options
    "finetune": {
        "--lr": ("1e-3", "1"),
        "--dropout": ("0", "1", "0.5"),
        "--ema": ("0", "0.5"),
        "--betas": ("0.5 0.9",),
        "--weight-decay": ("0", "0.1"),
        "--clip": ("0", "0.5"),
        "--muon": ("0", "2"),
        "--schedule": ("constant", "cosine", "wsd"),
        "--warmup": ("0", "5"),
        "--decay": ("0.5", "1"),
        "--seed": ("0", "3"),
        "--rank": ("0", "2"),
        "--checkpointing": ("",),
        "--keep": ("1",),
        "--batch": ("1", "4"),
        "--every": ("1", "7"),
    },
    "sample": {
        "--w": ("0", "1", "-2.5", "1e3"),
        "--method": ("none", "cfg", "dog"),
        "--steps": ("2", "3"),
        "--count": ("1", "4"),
        "--seed": ("0", "9"),
        "--interval": ("0.1 2", "0 inf"),
        "--batch": ("1", "5"),
        "--sheet": ("0", "1"),
        "--sampler": ("ddpm", "ddim", "heun", "dpmpp_2m"),
        "--vae": ("pixels",),
    },
    "prepare": {
        "--size": ("8", "12", "16", "20"),
        "--vae": ("pixels", "unshuffle"),
        "--no-mirror": ("",),
    },
    "calibrate": {
        "--levels": ("1", "5 0.5"),
        "--count": ("2", "50"),
        "--seed": ("0", "5"),
        "--batch": ("1", "7"),
    },
}
WRONG = {  # values that it refuses
    "finetune": {
        "--lr": ("0", "-1", "nan", "inf", "x"),
        "--dropout": ("-0.1", "1.5", "nan"),
        "--ema": ("1", "-1", "nan"),
        "--betas": ("0.9", "0.9 1", "nan 0.5", "0.5 0.5 0.5"),
        "--weight-decay": ("-1", "inf"),
        "--clip": ("-1", "nan"),
        "--muon": ("-1", "nan"),
        "--schedule": ("linear",),
        "--warmup": ("-1", "1.5"),
        "--decay": ("0", "2"),
        "--seed": ("x", "99999999999999999999999"),
        "--rank": ("-1", "x"),
        "--keep": ("x", "-1", "0", "99"),
        "--batch": ("0", "-4", "1.5"),
        "--every": ("0", "-1"),
        "--steps": ("-1", "x"),
        "--heads": ("3", "0", "-2"),
        "--device": ("cuda:9", "tpu", "meta"),
        "--pretrained": ("nowhere.pt", "nowhere", "."),
        "--tomorrow": ("1",),
    },
    "sample": {
        "--w": ("nan", "inf", "x"),
        "--method": ("dogs", "autoguidance"),
        "--steps": ("0", "-3", "x", "99999"),
        "--count": ("0", "-1"),
        "--seed": ("x", "99999999999999999999999", "-99999999999999999999"),
        "--interval": ("2 1", "1", "nan 2", "0 1 2", "-1 2"),
        "--batch": ("0", "-1"),
        "--sheet": ("-1", "61", "1.5"),
        "--sampler": ("euler",),
        "--vae": ("nowhere", "unshuffle"),
        "--channels": ("-1", "9"),
        "--heads": ("3", "0", "-2"),
        "--device": ("cuda:9", "tpu", "meta"),
        "--pretrained": ("nowhere.pt", "."),
    },
    "prepare": {
        "--size": ("0", "-2", "x"),
        "--vae": ("nowhere",),
        "--target": ("food101", "x"),
        "--device": ("tpu",),
        "--hub": ("",),
    },
    "calibrate": {
        "--levels": ("0", "-1", "nan", "inf", "x"),
        "--count": ("0", "-1"),
        "--seed": ("x", "99999999999999999999999"),
        "--batch": ("0", "-1"),
        "--heads": ("3",),
        "--device": ("tpu",),
        "--latents": ("nowhere",),
    },
}


@st.composite
def option_sets(draw, command):
    """Up to three options with right values, and perhaps one with a wrong one.  -> words, whether wrong"""
    chosen = draw(st.lists(st.sampled_from(sorted(RIGHT[command])), max_size=3, unique=True))
    words = {option: draw(st.sampled_from(RIGHT[command][option])) for option in chosen}
    wrong = draw(st.booleans())
    if wrong:
        option = draw(st.sampled_from(sorted(WRONG[command])))
        words[option] = draw(st.sampled_from(WRONG[command][option]))
    return [word for option, value in words.items() for word in (option, *value.split())], wrong


def first_words(command, room, out):
    """A call of a command that is right."""
    base, tuned = room / "base.safetensors", room / "ft" / "ema.safetensors"
    start = dict(
        finetune=(room / "latents", "--pretrained", base, "--steps", 2, "--batch", 2),
        sample=(tuned, "--pretrained", base, "--count", 2, "--steps", 2, "--sampler", "ddim"),
        prepare=(room / "latents in", "--size", 16, "--vae", "pixels"),
        calibrate=(tuned, "--pretrained", base, "--latents", room / "held out", "--levels", 1),
    )
    return "dit", command, *start[command], *QUIET, "--out", out


def check_options(command, room, words, wrong):
    with place() as here:
        out = here / "out"
        status, line = run(*first_words(command, room, out), *words)
        assert bool(status) == wrong, line
        assert not unfinished(here)
        assert not (wrong and out.exists()), sorted(out.rglob("*"))


@pytest.mark.parametrize("command", WRONG)
def test_every_wrong_value_of_an_option_is_refused_before_anything_is_written(room, command):
    for option, values in WRONG[command].items():
        for value in values:
            check_options(command, room, [option, *value.split()], wrong=True)


@examples(8)
@given(option_sets("prepare"))
def test_prepare_takes_or_refuses_options(room, drawn):
    check_options("prepare", room, *drawn)


@examples(6)
@given(option_sets("finetune"))
def test_finetune_takes_or_refuses_options(room, drawn):
    check_options("finetune", room, *drawn)


@examples(10)
@given(option_sets("sample"))
def test_sample_takes_or_refuses_options(room, drawn):
    check_options("sample", room, *drawn)


@examples(1)
@given(option_sets("calibrate"))
def test_calibrate_takes_or_refuses_options(room, drawn):
    check_options("calibrate", room, *drawn)


# scores


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("scores", "manifest", "a")), inner)
    ),
    max_leaves=5,
)


@st.composite
def score_files(draw):
    """Text of a file of scores, and whether it is right."""
    scores = dict(frechet=draw(st.floats(0, 1e4)), precision=0.5, recall=0.5, density=1.0, coverage=0.25)
    made = draw(st.sampled_from(({}, dict(method="none", w=2.0), dict(method="dog", w=1.5))))
    manifest = dict(
        features="glyphs",
        weights="w",
        crop="c",
        resize="r",
        reference="x",
        references=9,
        samples=9,
        made=made,
    )
    right = dict(scores=scores, manifest=manifest)
    kind = draw(st.sampled_from(("right", "right", "other", "cut", "less", "word")))
    if kind == "less":
        del right[draw(st.sampled_from(("scores", "manifest")))]
    if kind == "word":
        part = draw(st.sampled_from((scores, manifest)))
        part[draw(st.sampled_from(sorted(part)))] = draw(json_values)
    text = json.dumps(draw(json_values) if kind == "other" else right)
    return text[: len(text) // 2] if kind == "cut" else text, kind


@examples(40)
@given(st.lists(score_files(), min_size=1, max_size=3))
def test_scores_are_tabled_or_refused(files):
    with place() as here:
        for k, (text, _) in enumerate(files):
            (here / f"{k}.json").write_text(text, encoding="utf-8")
        status, line = run("dit", "table", *sorted(here.glob("*.json")))
    kinds = {kind for _, kind in files}
    if kinds == {"right"}:
        assert not status and line.count("\n|") == 2 + len(files)
    if kinds & {"cut", "less"}:
        assert status
