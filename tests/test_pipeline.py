"""The pipeline on tiny networks and pictures: each step against its definition, interruptions, two processes
against one.
"""

import dataclasses
import json
import math
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest
import torch
from helpers import refuses, same_tensors, shaken, started, together
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dgtoy import distributed, dpmpp_2m, guided, karras, last, shipped, vp
from dgtoy.__main__ import main
from dgtoy.calibration import Calibration
from dgtoy.checkpoint import write_safetensors
from dgtoy.dit import VP, DiT, Flow, SiT, load_checkpoint, load_pretrained, save_checkpoint
from dgtoy.pipeline import calibrate as calibration
from dgtoy.pipeline import (
    evaluate,
    extractors,
    finetune,
    losses,
    models,
    objectives,
    pace,
    sample,
    sheet,
)
from dgtoy.pipeline import run as pipeline_run
from dgtoy.pipeline.image_sets import ImageFolder
from dgtoy.pipeline.latents import Latents, Pixels, Unshuffle, prepare
from dgtoy.pipeline.pictures import to_uint8

close = torch.testing.assert_close
pytestmark = [  # images here are few, of random colours, by random networks, read by the judge of glyphs
    pytest.mark.filterwarnings(f"ignore:.*{said}")
    for said in ("lose their colour", "too few", "say little", "are saturated", "hardly guide")
]
TINY = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=16, depth=2, num_heads=2)
RECIPE = finetune.Config(steps=5, batch=6, lr=1e-3, ema=0.9)
DRAWS = sample.Config(count=6, steps=4, sampler="ddim")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures of three classes, their latents, and a pre-trained checkpoint."""
    path = tmp_path_factory.mktemp("pipeline")
    random_ = np.random.default_rng(0)
    for name in "abc":
        (path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(random_.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
                path / "images" / name / f"{i}.png"
            )
    list(prepare(ImageFolder(path / "images"), path / "latents", 16, Unshuffle()))
    net = shaken(DiT(**TINY, num_classes=7), 1)
    write_safetensors(path / "pre.safetensors", net.state_dict(), {})
    return path


def train(place, out, config=RECIPE, stop=None):
    """Fine-tune into `out`, or only to a step.  -> losses"""
    net, losses = finetune.start(place / "pre.safetensors", 3, config, num_heads=2), []
    for step in finetune.finetune(net, Latents(place / "latents"), config, out, every=2):
        losses.append(step.loss.item())
        if step.step == stop:
            break
    return losses


@pytest.fixture(scope="module")
def tuned(place):
    train(place, place / "ft")
    return place / "ft" / "ema.safetensors"


def equal(one, other):
    return same_tensors(load_file(one), load_file(other))


# fine-tuning


def test_the_default_is_the_papers_recipe():
    c = finetune.Config()
    assert (c.steps, c.batch, c.lr, c.dropout, c.rank) == (24_000, 32, 1e-4, 0.1, 0)


def test_one_step_is_adamw_on_the_official_loss(place, tmp_path):
    """The same step written out with torch.optim.AdamW, from the batch that the step says it sees."""
    config = dataclasses.replace(RECIPE, steps=1)
    data, net = Latents(place / "latents"), finetune.start(place / "pre.safetensors", 3, config, num_heads=2)
    plain = net.clone()
    list(finetune.finetune(net, data, config, tmp_path))
    x0, label, t, eps = finetune.batch_of(data, 0, config, plain.null)
    process = vp.Process()
    x = process.noised(x0, t, eps)
    optimizer = torch.optim.AdamW(plain.net.parameters(), lr=config.lr, weight_decay=0)
    vp.training_loss(plain.net(x, t, label), x0, x, t, eps, process)[0].mean().backward()
    optimizer.step()
    for a, b in zip(net.net.parameters(), plain.net.parameters(), strict=True):
        close(a, b, rtol=1e-4, atol=1e-6)


def test_the_normal_loss_is_what_training_sees_of_the_pretrained_model_with_every_label_dropped(place):
    still = dataclasses.replace(RECIPE, steps=5, dropout=1.0, lr=1e-12)
    data, net = Latents(place / "latents"), VP(load_pretrained(place / "pre.safetensors", num_heads=2))
    trainer, batch_fn = finetune.training(net, data, still, net.clone())
    trainer.step = 2
    seen = [s.loss for s in trainer.run(batch_fn)]
    found = finetune.normal_loss(
        place / "pre.safetensors", data, dataclasses.replace(RECIPE, steps=2), num_heads=2, batches=3
    )
    close(torch.tensor(found), torch.stack([torch.stack(seen).mean(), torch.stack(seen).std()]))


def test_a_pass_over_the_data_sees_every_image_once_and_every_pass_another_order(place):
    data = Latents(place / "latents")
    data.mean = torch.arange(15.0).reshape(15, 1, 1, 1, 1).expand(15, 2, 4, 8, 8).half()
    seen = [
        int(v) for step in range(5) for v in finetune.batch_of(data, step, RECIPE, 3)[0][:, 0, 0, 0].round()
    ]
    assert sorted(seen[:15]) == sorted(seen[15:30]) == list(range(15)) and seen[:15] != seen[15:30]


def test_the_share_of_dropped_labels_and_mirrors():
    class Data:
        shape = (1, 1, 1)

        def __len__(self):
            return 10

        def draw(self, rows, flip, z):
            return flip.float()[:, None, None, None], torch.zeros_like(rows)

    data = Data()
    x0, label, t, _ = finetune.batch_of(data, 0, finetune.Config(batch=20_000), null=3)
    assert abs((label == 3).float().mean() - 0.1) < 0.01 and abs(x0.mean() - 0.5) < 0.02
    assert t.min() == 0 and t.max() == 999
    assert not (finetune.batch_of(data, 0, finetune.Config(batch=100, dropout=0.0), null=3)[1] == 3).any()


def test_the_average_follows_its_definition(place, tmp_path):
    config = dataclasses.replace(RECIPE, keep=(1, 2, 3, 4))
    net = finetune.start(place / "pre.safetensors", 3, config, num_heads=2)
    name, average = "blocks.0.attn.qkv.weight", None
    average = net.net.state_dict()[name].clone()
    for step in finetune.finetune(net, Latents(place / "latents"), config, tmp_path):
        decay = min(0.9, step.step / (9 + step.step))
        average = decay * average + (1 - decay) * net.net.state_dict()[name]
        file = "ema.safetensors" if step.step == 5 else f"ema-{step.step:06d}.safetensors"
        close(load_checkpoint(tmp_path / file)[name], average, rtol=1e-5, atol=1e-7)


def test_a_stopped_run_resumes_as_if_it_had_never_stopped(place, tuned, tmp_path):
    train(place, tmp_path, stop=3)
    assert not (tmp_path / "ema.safetensors").exists()
    assert len(train(place, tmp_path)) == 3  # the last state was that of step 2
    assert all(equal(tmp_path / f, tuned.parent / f) for f in ("ema.safetensors", "last.safetensors"))


def test_another_recipe_does_not_resume(place, tmp_path):
    train(place, tmp_path, stop=3)
    with refuses("was made with recipe"):
        train(place, tmp_path, dataclasses.replace(RECIPE, lr=1e-2))


def another_base(place, path):
    """A checkpoint of the same shape with other weights."""
    weights = {k: 1.5 * v for k, v in load_file(place / "pre.safetensors").items()}
    write_safetensors(path / "other.safetensors", weights, {})
    return path / "other.safetensors"


@pytest.mark.parametrize("rank", [0, 2])
def test_other_data_and_another_base_do_not_resume(rank, place, tmp_path):
    config = dataclasses.replace(RECIPE, rank=rank)
    train(place, tmp_path, config, stop=3)
    start = lambda path: finetune.start(path, 3, config, num_heads=2)
    renamed, redrawn = Latents(place / "latents"), Latents(place / "latents")
    renamed.classes = ["a", "c", "b"]
    redrawn.mean = redrawn.mean + 1
    for data in (renamed, redrawn):
        with refuses("was made with data", f"this run has {data.fingerprint}"):
            finetune.finetune(start(place / "pre.safetensors"), data, config, tmp_path)
    with refuses("was made with base", "this run has"):
        net = start(another_base(place, tmp_path))
        finetune.finetune(net, Latents(place / "latents"), config, tmp_path)


def test_a_fine_tune_does_not_replace_what_it_starts_from(photos, tmp_path):
    flow = photos / "flow.safetensors"
    run("prepare", photos / "images", "--out", tmp_path / "latents", "--pretrained", flow)
    (tmp_path / "run").mkdir()
    base = shutil.copy(flow, tmp_path / "run" / "ema.safetensors")
    before = base.read_bytes()
    for pretrained in (base, tmp_path / "run", flow):
        with refuses("ema.safetensors, of another run, is there without last", error=SystemExit):
            run("finetune", tmp_path / "latents", "--pretrained", pretrained, "--out", tmp_path / "run")
    assert base.read_bytes() == before


def test_weights_without_a_state_are_made_again_and_not_replaced_by_those_of_another_run(place, tmp_path):
    train(place, tmp_path)
    weights, made = tmp_path / "ema.safetensors", (tmp_path / "ema.safetensors").read_bytes()
    (tmp_path / "last.safetensors").unlink()
    with refuses("ema.safetensors, of another run, is there without last.safetensors"):
        train(place, tmp_path, dataclasses.replace(RECIPE, steps=7))
    train(place, tmp_path)
    assert weights.read_bytes() == made


def test_a_lora_on_another_base_is_refused(place, tmp_path):
    train(place, tmp_path, dataclasses.replace(RECIPE, rank=2))
    other = another_base(place, tmp_path)
    with refuses("ema.safetensors is a LoRA on the base", "other.safetensors is", "expected the one it was"):
        models.pair(tmp_path / "ema.safetensors", other, num_heads=2)


def test_names_of_classes_travel_with_weights_and_samples_and_are_matched_by_name(place, tuned, tmp_path):
    assert models.header(tuned)["classes"] == ["a", "b", "c"]
    main(sampling(place, tuned, tmp_path / "s"))
    made = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    assert made["classes"] == ["a", "b", "c"]
    data = Latents(place / "latents")
    names = [data.classes[k] for k in data.label]
    data.matched(["c", "d", "a", "b"])
    assert [data.classes[k] for k in data.label] == names and data.classes == ["c", "d", "a", "b"]
    with refuses("latents hold class c; expected of a, b"):
        Latents(place / "latents").matched(["a", "b"])


def test_a_finished_run_that_lost_its_weights_writes_them_again(place, tuned, tmp_path):
    shutil.copy(tuned.with_name("last.safetensors"), tmp_path)
    assert train(place, tmp_path) == []
    assert equal(tmp_path / "ema.safetensors", tuned)


def test_recomputing_activations_changes_nothing_but_memory(place, tuned, tmp_path):
    train(place, tmp_path, dataclasses.replace(RECIPE, checkpointing=True))
    one, other = load_file(tmp_path / "ema.safetensors"), load_file(tuned)
    for k in one:
        close(one[k], other[k], rtol=1e-5, atol=1e-7)


def test_a_lora_file_holds_what_trained_and_makes_the_pair_again(place, tmp_path):
    train(place, tmp_path, dataclasses.replace(RECIPE, rank=2))
    tuned, guide = models.pair(tmp_path / "ema.safetensors", place / "pre.safetensors", num_heads=2)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    base = VP(models.load_pretrained(place / "pre.safetensors", num_heads=2))
    assert load_file(tmp_path / "ema.safetensors").keys() == tuned.params.keys()
    assert guide.null == 7 and tuned.null == 3
    close(guide.denoiser(7)(x, 1.0), base.denoiser(7)(x, 1.0), rtol=0, atol=0)
    assert not torch.equal(tuned.denoiser(1)(x, 1.0), base.denoiser(1)(x, 1.0))


def test_a_lora_needs_its_own_base_and_guides_itself_from_an_earlier_step(place, tmp_path):
    train(place, tmp_path, dataclasses.replace(RECIPE, rank=2, keep=(2,)))
    last, early = tmp_path / "ema.safetensors", tmp_path / "ema-000002.safetensors"
    with refuses("holds a LoRA alone; expected --pretrained"):
        models.load(last, num_heads=2)
    write_safetensors(
        tmp_path / "deep.safetensors", DiT(**TINY | dict(depth=3), num_classes=7).state_dict(), {}
    )
    with refuses("trained weights that do not fit", "expected those of a LoRA of rank 2 on it"):
        models.load(last, tmp_path / "deep.safetensors", num_heads=2)
    words = ("--weaker", early, "--method", "autoguidance", "--count", 2, "--steps", 2)
    main(sampling(place, last, tmp_path / "s", *words))
    nets = [models.load(path, place / "pre.safetensors", num_heads=2) for path in (last, early)]
    z = sample.draw_latents(*nets, sample.Config(method="autoguidance", count=2, steps=2), range(2), 3)
    found = np.load(tmp_path / "s" / "samples.npz")["arr_0"].astype(int)
    assert np.abs(found - to_uint8(Unshuffle().decode(z)).permute(0, 2, 3, 1).numpy()).max() <= 1


def test_only_autoguidance_takes_a_weaker_model_and_never_does_without(place, tuned):
    """Its guide would be the base under labels of another meaning; another method's would go unused."""
    with refuses("weaker is None with method autoguidance; expected an earlier checkpoint"):
        models.guided_by("autoguidance", tuned, place / "pre.safetensors", num_heads=2)
    with refuses("with method dog; expected none, as autoguidance alone takes one"):
        models.guided_by("dog", tuned, place / "pre.safetensors", tuned, num_heads=2)


def test_a_null_label_that_was_never_trained_is_warned_of_wherever_it_is_asked_for(place, tmp_path):
    train(place, tmp_path / "ft", dataclasses.replace(RECIPE, dropout=0.0))
    bare, pre = tmp_path / "ft" / "ema.safetensors", place / "pre.safetensors"
    never = lambda use: pytest.warns(UserWarning, match=f"dropout 0, so its null label never was, and {use}")
    models.guided_by("none", bare, num_heads=2)
    models.guided_by("dog", bare, pre, num_heads=2)  # whose null is its own
    with never("CFG asks"):
        models.guided_by("cfg", bare, num_heads=2)
    with never("Domain Guidance asks"):
        models.guided_by("dog", pre, bare, num_heads=2)
    with never("its own loss, as Domain Guidance later, asks"):
        finetune.normal_loss(bare, Latents(place / "latents"), RECIPE, num_heads=2, batches=2)
    words = ("--pretrained", pre, "--latents", place / "latents", "--out", tmp_path / "cal", "--heads", 2)
    with never("w. of CFG and of the plane asks"), pytest.raises(SystemExit, match="was trained on"):
        run("calibrate", bare, *words)


def test_a_fine_tune_is_not_its_own_guide(tuned, tmp_path):
    copied = shutil.copy(tuned, tmp_path / "copy.safetensors")
    with refuses("pretrained is", "copy.safetensors, the fine-tune itself; expected the model"):
        models.guided_by("dog", tuned, copied, num_heads=2)
    with refuses("weaker is", "copy.safetensors, the fine-tune itself; expected the earlier checkpoint"):
        models.guided_by("autoguidance", tuned, weaker=copied, num_heads=2)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_base_that_was_trained_on_since_guides_only_if_it_is_asked_for(rank, photos, tmp_path):
    """A fine-tune of a fine-tune finds its guide by name; the name may hold other weights by now."""
    first, second, latents = tmp_path / "first", tmp_path / "second", tmp_path / "l"
    run("prepare", photos / "images", "--out", latents, "--pretrained", photos / "flow.safetensors")
    tune = ("finetune", latents, "--batch", 2, "--lr", 0.1, "--ema", 0.1)
    run(*tune, "--steps", 2, "--out", first)
    run(*tune, "--steps", 2, "--out", second, "--pretrained", first, "--rank", rank)
    models.guided_by("dog", second)
    run(*tune, "--steps", 4, "--out", first)
    with refuses(str(first), "expected"):
        models.guided_by("dog", second)
    if not rank:  # which is nothing without its base
        models.guided_by("none", second)
        models.guided_by("dog", second, first)


def test_a_lora_fine_tune_is_a_base_as_any_other(photos, tmp_path):
    """As one network it estimates what base and adapter do together; the next LoRA knows it again."""
    base, first, second = photos / "flow.safetensors", tmp_path / "first", tmp_path / "second"
    run("prepare", photos / "images", "--out", tmp_path / "l", "--pretrained", base)
    tune = ("finetune", tmp_path / "l", "--rank", 2, "--steps", 2, "--batch", 2, "--lr", 0.1, "--ema", 0.1)
    run(*tune, "--out", first)
    run(*tune, "--out", second, "--pretrained", first)
    x, y = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(2)
    tuned, whole = models.load(first, base), models.pretrained_net(first)
    assert not whole.params.keys() & tuned.params.keys() and whole.null == tuned.null == 2
    close(whole.denoiser(y)(x, 1.0), tuned.denoiser(y)(x, 1.0), atol=1e-5, rtol=0)
    pair = models.pair(second, models.header(second)["pretrained"])
    assert models.header(second)["pretrained"] == str(first)
    close(pair[1].denoiser(y)(x, 1.0), tuned.denoiser(y)(x, 1.0), atol=1e-5, rtol=0)


def test_data_of_another_kind_is_refused(place, tmp_path, monkeypatch):
    data = Latents(place / "latents")
    with refuses("data has latents (4, 8, 8) of 3 classes; expected (4, 8, 8) and 4"):
        finetune.finetune(
            finetune.start(place / "pre.safetensors", 4, RECIPE, num_heads=2), data, RECIPE, tmp_path
        )
    monkeypatch.setattr(distributed, "count", lambda: 4)
    with refuses("batch is 6; expected a multiple of the 4 processes"):
        finetune.finetune(
            finetune.start(place / "pre.safetensors", 3, RECIPE, num_heads=2), data, RECIPE, tmp_path
        )
    with refuses("batch is 0"):
        dataclasses.replace(RECIPE, batch=0)
    with refuses("dropout is 2"):
        dataclasses.replace(RECIPE, dropout=2)
    with refuses("rank is -1"):
        dataclasses.replace(RECIPE, rank=-1)


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_last_good_state(place, tmp_path):
    train(place, tmp_path, stop=3)

    class Broken(Latents):
        def draw(self, rows, flip, z):
            return math.nan * z, self.label[rows]

    data = Broken(place / "latents")
    net = finetune.start(place / "pre.safetensors", 3, RECIPE, num_heads=2)
    with refuses("the loss of seed 0 is not finite at step 3", error=FloatingPointError):
        list(finetune.finetune(net, data, RECIPE, tmp_path))
    assert all(v.isfinite().all() for v in load_file(tmp_path / "last.safetensors").values())


# processes and kills


def command(step, *options):
    """The words after `python -m dgtoy`."""
    return ["dit", step, *map(str, options), "--device", "cpu", "--heads", "2"]


def options(place, out, steps=5):
    """Those of `dit finetune` by RECIPE."""
    recipe = ("--steps", steps, "--batch", 6, "--lr", 0.001, "--ema", 0.9, "--every", 2)
    return place / "latents", "--pretrained", place / "pre.safetensors", "--out", out, *recipe


THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
ENV = os.environ | THREADS


def test_progress_bars_are_for_terminals(place, tmp_path, capfd):
    """Into a file or a pipe none is written, with or without --quiet."""
    main(command("finetune", *options(place, tmp_path)))
    assert "it/s" not in capfd.readouterr().err


def launched(words):
    """A command as torchrun starts it, in two processes that find each other; they are forked, not begun
    anew, since importing torch takes longer than the run."""
    group = dict(min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=0, start_method="fork")
    meeting = dict(run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0")
    elastic_launch(LaunchConfig(**group, **meeting), main)(words)


def test_two_processes_fine_tune_as_one(place, tuned, tmp_path):
    """As a user starts them: by torchrun, over gloo."""
    process = started(launched, command("finetune", *options(place, tmp_path)), **THREADS)
    process.join(300)
    assert process.exitcode == 0
    one, other, start = (
        load_file(tuned),
        load_file(tmp_path / "ema.safetensors"),
        finetune.start(place / "pre.safetensors", 3, RECIPE, num_heads=2).net.state_dict(),
    )
    distance = lambda a, b: torch.cat([(a[k] - b[k]).flatten() for k in one]).norm()
    # not each weight by itself: Adam divides by small moments, so rounding shows
    assert distance(one, other) < 1e-3 * distance(one, start)


def sampling(place, tuned, out, *options):
    guide = ("--pretrained", place / "pre.safetensors", "--vae", "unshuffle")
    return command("sample", tuned, *guide, *options, "--out", out)


def test_two_processes_sample_as_one(place, tuned, tmp_path):
    words = sampling(place, tuned, tmp_path, "--count", 6, "--steps", 4, "--sampler", "ddim")
    assert together(main, words) == [0, 0]
    assert np.array_equal(np.load(tmp_path / "samples.npz")["arr_0"], drawn(place, tuned, tmp_path / "one"))


def logged(words, log):
    """A command that writes down which process draws which images with which method."""
    draw = sample.draw_latents

    def draw_latents(tuned, guide, config, images, classes):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{distributed.rank()} {config.method} {list(images)}\n")
        return draw(tuned, guide, config, images, classes)

    sample.draw_latents = draw_latents  # in a process of its own
    main(words)


def test_of_two_processes_the_first_draws_the_sheet_when_both_have_their_samples(place, tuned, tmp_path):
    words = sampling(place, tuned, tmp_path / "s", "--count", 6, "--steps", 4, "--sheet", 3)
    assert together(logged, words, tmp_path / "log") == [0, 0]
    drawn = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert sorted(drawn[:2]) == ["0 dog [0, 2, 4]", "1 dog [1, 3, 5]"]
    assert drawn[2:] == ["0 none [0, 1, 2]", "0 cfg [0, 1, 2]"]
    assert (tmp_path / "s" / "contact.png").exists()


def killed(words, out, times, seed):
    """Start a command `times` times and kill it within 0.3 s of its first new file in `out`; then let it end.

    -> kills, fewer than `times` if it ended before
    """
    chance, kills = random.Random(seed), 0
    newest = lambda: max((p.stat().st_mtime_ns for p in list(out.rglob("*")) if p.exists()), default=0)
    while kills < times:
        before, process = newest(), started(main, words)
        while process.is_alive() and newest() == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    assert ends(words)
    return kills


def ends(words):
    """The command comes to its end by itself."""
    process = started(main, words)
    process.join(300)
    return process.exitcode == 0


def all_killed(place, tuned, tmp_path, times):
    """Each step of the pipeline, killed `times` times, ends as the same step that never was."""
    train_ = lambda out: command("finetune", *options(place, out, steps=120 * times))
    assert killed(train_(tmp_path / "k"), tmp_path / "k", times, seed=1) == times
    assert ends(train_(tmp_path / "w"))
    assert equal(tmp_path / "k" / "ema.safetensors", tmp_path / "w" / "ema.safetensors")
    draw = lambda out: sampling(place, tuned, out, "--count", 120 * times, "--steps", 10, "--batch", 4)
    assert killed(draw(tmp_path / "s"), tmp_path / "s", times, seed=2) == times and ends(draw(tmp_path / "t"))
    assert np.array_equal(*(np.load(tmp_path / k / "samples.npz")["arr_0"] for k in "st"))
    (tmp_path / "many" / "a").mkdir(parents=True)
    for i in range(400 * times):
        (tmp_path / "many" / "a" / f"{i}.png").write_bytes(
            (place / "images" / "abc"[i % 3] / f"{i % 5}.png").read_bytes()
        )
    words = ("prepare", tmp_path / "many", "--size", 16, "--vae", "unshuffle", "--out")
    code = lambda out: ["dit", *map(str, (*words, out))]
    assert killed(code(tmp_path / "p"), tmp_path / "p", times, seed=3) > 0 and ends(code(tmp_path / "q"))
    assert all(equal(path, tmp_path / "q" / path.name) for path in (tmp_path / "p").glob("*.safetensors"))


def test_a_killed_run_ends_as_one_that_was_not(place, tuned, tmp_path):
    all_killed(place, tuned, tmp_path, times=2)


@pytest.mark.slow
def test_twenty_kills(place, tuned, tmp_path):
    all_killed(place, tuned, tmp_path, times=20)


# sampling


def drawn(place, tuned, out, config=DRAWS, batch=4, part=(0, 1), guide="pre.safetensors"):
    nets = models.pair(tuned, place / guide, num_heads=2)
    for _ in sample.sample(*nets, Unshuffle(), config, out, dict(finetuned="f"), batch, part):
        pass
    return np.load(sample.collect(out, config.count))["arr_0"] if part == (0, 1) else None


@pytest.mark.parametrize("sampler", sample.SAMPLERS)
@pytest.mark.parametrize("method", sample.METHODS)
def test_image_i_does_not_depend_on_batches(sampler, method, place, tuned, tmp_path):
    config = dataclasses.replace(DRAWS, sampler=sampler, method=method)
    guide = "ft/ema.safetensors" if method == "autoguidance" else "pre.safetensors"
    one, other = (drawn(place, tuned, tmp_path / str(b), config, b, guide=guide) for b in (2, 6))
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1  # rounding of another batch size


def test_a_picture_that_two_write_at_once_is_whole(tmp_path, monkeypatch):
    """As two commands in one folder do: one comes while the other is writing."""
    path, pictures, save = tmp_path / "0.png", np.zeros((2, 8, 8, 3), np.uint8), Image.Image.save

    def interrupted(image, part, kind):
        save(image, part, kind)
        monkeypatch.setattr(Image.Image, "save", save)
        monkeypatch.setattr("os.getpid", lambda: 7)
        sheet.write_png(pictures[1], path)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    sheet.write_png(pictures[0] + 9, path)
    assert [p.name for p in tmp_path.iterdir()] == ["0.png"] and np.asarray(Image.open(path)).max() == 9


def test_shares_of_several_processes_make_the_same_set(place, tuned, tmp_path):
    for k in range(3):
        drawn(place, tuned, tmp_path / "parts", part=(k, 3))
    assert np.array_equal(
        np.load(sample.collect(tmp_path / "parts", 6))["arr_0"],
        drawn(place, tuned, tmp_path / "whole", batch=2),
    )


def test_what_is_missing_is_drawn_again_and_alone(place, tuned, tmp_path):
    whole = drawn(place, tuned, tmp_path)
    kept = sample.image_path(tmp_path, 1).stat().st_mtime_ns
    sample.image_path(tmp_path, 4).unlink()
    with refuses("holds 5 of 6 images; 000004.png is missing"):
        sample.collect(tmp_path, 6)
    assert np.array_equal(drawn(place, tuned, tmp_path), whole)
    assert sample.image_path(tmp_path, 1).stat().st_mtime_ns == kept
    Image.new("RGB", (3, 3)).save(sample.image_path(tmp_path, 4))
    with refuses("000004.png is of another size than 000000.png; delete it to draw it again"):
        sample.collect(tmp_path, 6)


def test_at_weight_one_every_method_is_none_and_guidance_differs(place, tuned, tmp_path):
    made = {
        (m, w): drawn(place, tuned, tmp_path / f"{m}{w}", dataclasses.replace(DRAWS, method=m, w=w))
        for m in ("none", "cfg", "dog")
        for w in (1.0, 3.0)
    }
    same = {setting: np.array_equal(pictures, made["none", 1.0]) for setting, pictures in made.items()}
    assert same == {(m, w): m == "none" or w == 1 for m, w in made}


@pytest.mark.parametrize("method, file, label", [("dog", "pre", 7), ("autoguidance", "ft/ema", 2)])
def test_ddim_draws_are_those_of_the_process(method, file, label, place, tuned):
    """Image 2, of class 2, from its own noise, through `vp` alone; a weaker self has the label as well."""
    main, guide = models.pair(tuned, place / f"{file}.safetensors", num_heads=2)
    shaken(guide.net, 4)
    x_T = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))[None]
    eps = lambda net, y: lambda x, t: net.net(x, t, torch.tensor([y]))
    model = vp.guided_noise(eps(main, 2), eps(guide, label), 1.5)
    expected = last(vp.ddim(model, x_T, vp.Process(vp.strided(4))))
    close(sample.draw_latents(main, guide, dataclasses.replace(DRAWS, method=method), [2], 3), expected)


def test_a_run_starts_with_the_variance_of_data_and_noise():
    """x = x0 + sigma eps, of data of unit variance."""
    close(sample.scaled(torch.ones(1), torch.tensor([2.0, 1.0])), torch.tensor([5**0.5]))


def test_each_image_of_each_seed_starts_from_noise_of_its_own():
    """Of a seed torch's CPU generator takes the lowest 32 bits alone."""
    found = [
        tuple(sample.noise(sample.Config(seed=seed), [i], (1, 2, 2))[0].flatten().tolist())
        for seed in (-1, 0, 1, 2)
        for i in (0, 1, 49_999)
    ]
    assert len(set(found)) == len(found)


def test_samples_made_otherwise_are_refused(place, tuned, tmp_path):
    drawn(place, tuned, tmp_path)
    with refuses("was made with w 1.5; this run has 2.0"):
        drawn(place, tuned, tmp_path, dataclasses.replace(DRAWS, w=2.0))
    with refuses("method is dog and there is no guide; expected --pretrained CHECKPOINT"):
        sample.sample(None, None, Unshuffle(), DRAWS, tmp_path, {})
    assert sample.remembered(tmp_path)["w"] == 1.5
    (tmp_path / "manifest.json").write_text(json.dumps(dict(interval=3)))  # of another tool
    assert sample.remembered(tmp_path) == {}
    with refuses("was made with kind None; this run has samples"):
        drawn(place, tuned, tmp_path)
    (tmp_path / "manifest.json").unlink()  # pictures of w 1.5 would pass for others
    with refuses("holds images/000000.png and no manifest.json"):
        drawn(place, tuned, tmp_path, dataclasses.replace(DRAWS, w=2.0))
    for change, message in (
        (dict(method="dgo"), "method is dgo; expected none, cfg"),
        (dict(sampler="ddmp"), "sampler is ddmp"),
        (dict(w=math.nan), "w is nan"),
        (dict(sampler="heun", channels=3), "channels is 3 with sampler heun"),
    ):
        with refuses(message):
            dataclasses.replace(DRAWS, **change)


@pytest.mark.parametrize("sampler", sample.SAMPLERS)
def test_samples_that_are_not_finite_stop_before_a_picture_is_written(sampler, place, tuned, tmp_path):
    nets = models.pair(tuned, place / "pre.safetensors", num_heads=2)
    config = dataclasses.replace(DRAWS, sampler=sampler, w=1e30)
    with refuses("image 0 of seed 0 is not finite at step", "of 4, w = 1e+30", error=FloatingPointError):
        list(sample.sample(*nets, Unshuffle(), config, tmp_path, {}))
    assert not (tmp_path / "images").exists()


def test_a_codec_that_overflows_stops_before_a_picture_is_written(place, tuned, tmp_path):
    class Broken(Unshuffle):
        def decode(self, z):
            return super().decode(z) * math.inf

    nets = models.pair(tuned, place / "pre.safetensors", num_heads=2)
    with refuses("codec unshuffle decodes images 0 to 5 of seed 0", error=FloatingPointError):
        list(sample.sample(*nets, Broken(), DRAWS, tmp_path, {}))
    assert not (tmp_path / "images").exists()


def test_a_guide_of_other_latents_is_refused(place, tuned, tmp_path):
    write_safetensors(
        tmp_path / "wide.safetensors", DiT(**TINY | dict(input_size=4), num_classes=7).state_dict(), {}
    )
    with refuses("makes latents (4, 4, 4)", "(4, 8, 8); a guide must share them"):
        models.pair(tuned, tmp_path / "wide.safetensors", num_heads=2)


def test_the_table_of_losses_forgets_steps_that_a_stopped_run_was_ahead(tmp_path):
    for step, loss in ((50, 1.0), (100, 0.5), (150, 0.4), (100, 0.6)):
        losses.append(tmp_path / "losses.csv", step, loss)
    assert (tmp_path / "losses.csv").read_text() == "50,1.000000\n100,0.600000\n"
    (tmp_path / "losses.csv").write_text("step,loss\n50,1.0\n")
    losses.append(tmp_path / "losses.csv", 100, 0.5)
    assert (tmp_path / "losses.csv").read_text() == "50,1.0\n100,0.500000\n"
    (tmp_path / "losses.csv").write_bytes(b"\xff\xfe\n50,1.0\n")  # as another program left it
    losses.append(tmp_path / "losses.csv", 100, 0.5)
    assert (tmp_path / "losses.csv").read_text() == "50,1.0\n100,0.500000\n"


# calibration and commands


class Stub:
    """A model of given estimates: one for labels, one for its null."""

    null = 3

    def __init__(self, labelled, null):
        self.labelled, self.unlabelled = labelled, null

    def denoiser(self, label):
        return lambda x, sigma: self.labelled if torch.is_tensor(label) else self.unlabelled


def test_calibration_finds_the_weights_that_complete_a_fine_tune_gone_half_way(place):
    """The null branch knows the domain, u; the labelled one has gone half the way from u to the truth. What
    completes it: a = 1, b = 2.
    """
    data, config = Latents(place / "latents"), calibration.Config(levels=(1.0, 0.5), count=15)
    g = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(15, generator=g)
    truth = data.draw(rows, torch.rand(15, generator=g) < 0.5, torch.zeros(15, *data.shape))[0]
    u = torch.randn(truth.shape, generator=g)
    half = u + 0.5 * (truth - u)
    found = calibration.calibrate(Stub(half, u), Stub(None, torch.zeros_like(u)), data, config)
    exact = lambda *w: torch.tensor(w, dtype=torch.float64).expand(2, -1)
    of_dog = ((truth * half).sum() / half.square().sum()).item()
    for method, weights in dict(CFG=exact(2.0), plane=exact(1.0, 2.0), DoG=exact(of_dog)).items():
        close(found[method].weights, weights, rtol=1e-5, atol=0)
    held = calibration.to_json(found)
    assert set(held) == {"DoG", "CFG", "plane"} and held["DoG"]["sigmas"] == [1.0, 0.5]


def test_an_interval_without_an_end_is_null_in_json():
    """Of one held-out picture: Infinity would be no JSON."""
    one = torch.ones(1, 1, dtype=torch.float64)
    held = calibration.to_json({"DoG": Calibration(one[0], one, -torch.inf * one, torch.inf * one)})
    assert json.loads(json.dumps(held, allow_nan=False))["DoG"]["low"] == [[None]]


def test_the_whole_pipeline_from_the_command_line(place, tmp_path, capsys):
    step = lambda *words: main(command(*words))
    tuned, pre = tmp_path / "ft" / "ema.safetensors", ("--pretrained", place / "pre.safetensors")
    code = ("--size", 16, "--vae", "unshuffle", "--held-out", 0.4)
    step("prepare", place / "images", "--out", tmp_path / "l", *code)
    assert "15 images of 3 classes" in (told := capsys.readouterr().out) and "6 of them held out" in told
    capsys.readouterr()
    words = ("--out", tuned.parent, "--steps", 4, "--batch", 3, "--quiet")
    step("finetune", tmp_path / "l", *pre, *words)
    assert capsys.readouterr().err == ""
    scores = []
    for method in ("none", "cfg", "dog"):
        out = tmp_path / method
        main(sampling(place, tuned, out, "--method", method, "--count", 8, "--steps", 5))
        scores.append(out / "score.json")
        words = (out, place / "images", "--features", "glyphs", "--out", scores[-1], "--device", "cpu")
        main(["dit", "evaluate", *map(str, words)])
    main(["dit", "table", *map(str, scores), "--out", str(tmp_path / "table.md")])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:7]] == ["cfg", "dog", "none"]
    assert all("its samples are saturated" in line for line in lines[8:])  # a random network's: none is bold
    made = json.loads(scores[2].read_text())["manifest"]["made"]
    assert made["step"] == 4 and made["dropout"] == 0.1
    assert {"finetuned", "guide", "codec", "seed"} <= made.keys()
    words = ("--out", tmp_path / "cal", "--count", 12, "--levels", 2.0, 0.5)
    step("calibrate", tuned, *pre, "--latents", tmp_path / "l", *words)
    said = capsys.readouterr().out
    assert re.search(r"about \d+ s \(cpu.*\nw\*.*the fine-tune is", said)
    assert (tmp_path / "cal" / "calibration.png").exists()
    lines = (tmp_path / "ft" / "losses.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["0", "4"]


# flows and pixels


FLOW = dict(TINY, patch_size=4, in_channels=3, learn_sigma=False, flow=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A flow in pixels that tells its sizes, and the pictures' own pixels as it takes them."""
    path = tmp_path_factory.mktemp("photos")
    random_ = np.random.default_rng(5)
    for name in ("käse", "brot"):
        (path / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random_.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / "images" / name / f"{i}.png")
    save_checkpoint(shaken(DiT(**FLOW, num_classes=7), 1), path / "flow.safetensors")
    return path


def run(*words):
    main(["dit", *map(str, words), "--device", "cpu", "--quiet"])


def test_one_step_of_a_flow_is_adamw_on_the_velocity_of_the_straight_path(photos, tmp_path):
    run("prepare", photos / "images", "--out", tmp_path / "l", "--pretrained", photos / "flow.safetensors")
    config, data = dataclasses.replace(RECIPE, steps=1), Latents(tmp_path / "l")
    net = finetune.start(photos / "flow.safetensors", 2, config)
    plain = net.clone()
    list(finetune.finetune(net, data, config, tmp_path))
    x0, label, t, eps = finetune.batch_of(data, 0, config, 2, objectives.FlowObjective.times)
    assert 0 < t.min() and t.max() < 1
    s = t[:, None, None, None]
    optimizer = torch.optim.AdamW(plain.net.parameters(), lr=config.lr, weight_decay=0)
    velocity = plain.net((1 - s) * x0 + s * eps, 1000 * t, label)
    ((velocity - eps + x0) ** 2).mean().backward()
    optimizer.step()
    for a, b in zip(net.net.parameters(), plain.net.parameters(), strict=True):
        close(a, b, rtol=1e-4, atol=3e-5)  # of keys' biases, whose gradient is 0, rounding shows


def test_a_flow_s_times_have_their_density():
    t = objectives.FlowObjective.times(100_000, torch.Generator().manual_seed(0))
    normal = torch.logit(t)
    assert abs(normal.mean() - 0.3) < 0.02 and abs(normal.std() - 1) < 0.02


def test_the_flow_s_denoiser_at_the_loss_s_own_times_predicts_the_loss_s_velocity(photos):
    """D = x_t - t v at sigma = t / (1 - t): what is trained is what is sampled."""
    net = models.pretrained_net(photos / "flow.safetensors")
    g = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 5, *net.shape, generator=g)
    t = objectives.FlowObjective.times(5, g)
    s = t[:, None, None, None]
    label = torch.arange(5)
    x0_hat = net.denoiser(label)(x0 + s / (1 - s) * eps, t / (1 - t))
    loss = objectives.FlowObjective()(net, x0, label, t, eps)
    close(((x0 - x0_hat) / s).square().mean(), loss, rtol=1e-4, atol=1e-5)


def test_pixels_are_kept_to_the_byte_and_their_mirrors_are_made_when_drawn(photos, tmp_path):
    run("prepare", photos / "images", "--out", tmp_path / "l", "--pretrained", photos / "flow.safetensors")
    data = Latents(tmp_path / "l")
    assert data.plan["codec"] == "pixels" and data.shape == (3, 8, 8) and data.classes == ["brot", "käse"]
    names = [f"{name}/{i}.png" for name in data.classes for i in range(4)]
    for i, name in enumerate(names):
        pixels = torch.from_numpy(np.array(Image.open(photos / "images" / name))).permute(2, 0, 1)
        for flip in (False, True):
            rows, mirrored = torch.tensor([i]), torch.tensor([flip])
            x0, label = data.draw(rows, mirrored, torch.randn(1, 3, 8, 8))
            assert torch.equal(to_uint8(Pixels().decode(x0))[0], pixels.flip(-1) if flip else pixels)
            assert data.classes[label] == name.partition("/")[0]
    size = sum(p.stat().st_size for p in (tmp_path / "l").glob("*.safetensors"))
    assert size < 8 * 3 * 8 * 8 + 1000  # one byte a value
    run("prepare", photos / "images", "--out", tmp_path / "m", "--vae", "pixels", "--size", 8, "--no-mirror")
    plain = Latents(tmp_path / "m")
    rows, flip, z = torch.arange(8), torch.ones(8, dtype=torch.bool), torch.zeros(8, 3, 8, 8)
    assert torch.equal(plain.draw(rows, flip, z)[0], data.draw(rows, ~flip, z)[0])


@pytest.mark.parametrize("rank", [0, 2])
def test_a_flow_goes_through_the_whole_pipeline_and_files_tell_what_they_know(rank, photos, tmp_path, capsys):
    """No option says heads, size, codec or base again; samples are dpmpp_2m's, from 80 to 0.004."""
    (tmp_path / "flow.safetensors").write_bytes((photos / "flow.safetensors").read_bytes())
    run("prepare", photos / "images", "--out", tmp_path / "l", "--pretrained", tmp_path / "flow.safetensors")
    words = ("--steps", 3, "--batch", 4, "--rank", rank, "--lr", 0.01)
    run("finetune", tmp_path / "l", "--out", tmp_path / "ft", *words)
    run("sample", tmp_path / "ft", "--out", tmp_path / "s", "--count", 3)
    made = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    expected = dict(method="dog", sampler="dpmpp_2m", steps=24, codec="pixels")
    assert expected.items() <= made.items()
    assert made["classes"] == ["brot", "käse"]

    tuned, guide = models.pair(tmp_path / "ft", tmp_path / "flow.safetensors")
    assert isinstance(tuned, Flow) and isinstance(guide, Flow) and guide.null == 7
    x_T = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    sigmas = karras(24, 0.004, 80.0)
    D = guided(tuned.denoiser(torch.arange(3) % 2), guide.denoiser(7), 1.5)
    expected = to_uint8(last(dpmpp_2m(D, (1 + 80**2) ** 0.5 * x_T, sigmas))).permute(0, 2, 3, 1).numpy()
    found = np.load(tmp_path / "s" / "samples.npz")["arr_0"]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1

    config = calibration.Config(levels=(1.0, 0.3), count=8)
    fits = calibration.calibrate(tuned, guide, Latents(tmp_path / "l"), config)
    assert fits["DoG"].weights.isfinite().all()


@pytest.mark.parametrize("kind", [VP, SiT])
def test_a_sit_that_is_read_as_a_dit_is_told_and_one_whose_file_says_so_goes_the_whole_way(kind, tmp_path):
    """Both trained by their own objective, in a file of the same names; what answers noise with noise is
    not warned of."""
    g = torch.Generator().manual_seed(0)
    net = kind(DiT(**TINY | dict(hidden_size=32), num_classes=2))
    x0 = torch.randn(64, 4, 1, 1, generator=g) * torch.ones(8, 8)  # one colour each
    config = finetune.Config(steps=200, batch=16, lr=3e-3, ema=0.9)
    trained = finetune.averaged(net, finetune.LatentTensors(x0, torch.arange(64) % 2, 2), config, [200])[200]
    weights = {k: v for k, v in trained.net.state_dict().items() if k != "sit"}
    torch.save(weights, tmp_path / "official.pt")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = models.pretrained_net(tmp_path / "official.pt", num_heads=2)
    assert type(read) is VP and len(told) == (kind is SiT)
    if kind is VP:
        return
    assert f"{tmp_path / 'official.pt'} is read as a DiT that predicts noise" in str(told[0].message)

    file, images = tmp_path / "sit.safetensors", tmp_path / "images"
    save_checkpoint(SiT(load_pretrained(tmp_path / "official.pt", num_heads=2)).net, file)
    for name in "ab":
        (images / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((16, 16, 3), 100 * (name == "b") + 50 * i, dtype=np.uint8)
            Image.fromarray(pixels).save(images / name / f"{i}.png")
    run("prepare", images, "--out", tmp_path / "l", "--pretrained", file, "--vae", "unshuffle")
    for rank in (0, 2):
        out = tmp_path / f"ft{rank}"
        run("finetune", tmp_path / "l", "--out", out, "--steps", 3, "--batch", 4, "--rank", rank)
        run("sample", out, "--out", tmp_path / f"s{rank}", "--count", 2, "--steps", 2, "--vae", "unshuffle")
        tuned, guide = models.pair(out, file)
        assert type(tuned) is type(guide) is SiT
        x, sigma = torch.randn(3, 4, 8, 8, generator=g), torch.tensor([0.1, 1.0, 20.0])
        close(guide.denoiser(2)(x, sigma), trained.denoiser(2)(x, sigma))


def test_a_flow_refuses_steps_that_it_does_not_have_before_any_file_is_written(photos, tmp_path):
    for sampler in ("ddpm", "ddim"):
        words = ("--out", tmp_path / "s", "--method", "cfg", "--sampler", sampler)
        with refuses(f"sampler is {sampler} and the network a flow; expected dpmpp_2m", error=SystemExit):
            run("sample", photos / "flow.safetensors", *words)
    assert not (tmp_path / "s").exists()


def test_a_network_without_variance_refuses_ddpm_before_any_file_is_written(tmp_path):
    net, config = VP(DiT(**TINY, num_classes=2, learn_sigma=False)), sample.Config(method="none", count=1)
    with refuses("sampler is ddpm and the network gives no variance; expected ddim"):
        sample.sample(net, None, Unshuffle(), config, tmp_path / "s", {})
    assert not (tmp_path / "s").exists()
    list(sample.sample(net, None, Unshuffle(), dataclasses.replace(config, sampler="ddim"), tmp_path, {}))
    assert (tmp_path / "images" / "000000.png").exists()


def test_heads_that_a_file_tells_are_not_overruled(photos):
    with refuses("num_heads is 4", "flow.safetensors says 2"):
        models.pretrained_net(photos / "flow.safetensors", num_heads=4)
    with refuses("num_heads is 4; photos64 has 5"):
        models.pretrained_net("photos64", num_heads=4)


def test_size_and_codec_must_make_what_the_network_takes(photos, tmp_path):
    words = ("--out", tmp_path / "l", "--pretrained", photos / "flow.safetensors")
    for vae, came in (((), "(3, 16, 16)"), (("--vae", "unshuffle"), "(4, 8, 8)")):
        with refuses(f"which make {came}", "takes (3, 8, 8)", error=SystemExit):
            run("prepare", photos / "images", *words, *vae, "--size", 16)
    with refuses("size is 1000000000", "at most 4096", error=SystemExit):
        run("prepare", photos / "images", *words, "--size", 10**9)
    assert not (tmp_path / "l").exists()


def test_samples_are_not_decoded_by_another_codec_than_the_fine_tune_saw(photos, tmp_path):
    run("prepare", photos / "images", "--out", tmp_path / "l", "--pretrained", photos / "flow.safetensors")
    run("finetune", tmp_path / "l", "--out", tmp_path / "ft", "--steps", 1, "--batch", 2)
    with refuses("codec is unshuffle", "was trained on latents of pixels", error=SystemExit):
        run("sample", tmp_path / "ft", "--out", tmp_path / "s", "--vae", "unshuffle")


@pytest.mark.parametrize("name", ["ema", "last"])
def test_a_fine_tune_in_a_folder_of_that_name_goes_before_what_ships(name, tuned, tmp_path, monkeypatch):
    """As of `dit finetune ... --out photos64-food`; a folder of pictures of that name is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos64-food").mkdir()
    assert models.is_shipped("photos64-food") and models.whole_name("photos64-food") == "photos64-food"
    shutil.copy(tuned, f"photos64-food/{name}.safetensors")
    assert not models.is_shipped("photos64-food")
    assert models.whole_name("photos64-food") == str(tmp_path / "photos64-food")
    if name == "ema":
        assert models.header("photos64-food")["classes"] == ["a", "b", "c"]


def test_a_network_that_ships_is_named_and_a_missing_one_says_what_works_at_once(place, tmp_path):
    with pytest.warns(UserWarning, match="are enlarged"):
        run("prepare", place / "images", "--out", tmp_path / "l", "--pretrained", "photos64")
    data = Latents(tmp_path / "l")
    assert data.shape == (3, 64, 64) and data.plan["codec"] == "pixels"
    run("finetune", tmp_path / "l", "--out", tmp_path / "ft", "--steps", 1, "--batch", 2, "--rank", 1)
    tuned, guide = models.pair(tmp_path / "ft", "photos64")
    x, base = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), shipped.load("photos64")
    assert torch.equal(guide.denoiser(guide.null)(x, 1.0), base.denoiser(base.null)(x, 1.0))
    with refuses("pretrained glyphs is of kind EDM; expected photos64"):
        models.pretrained_net("glyphs")
    missing = "XL.pt is not on this machine"
    published = ("DiT-XL-2-256x256.pt is published at https", "licence: CC BY-NC", "photos64")
    with refuses(missing, *published, error=FileNotFoundError):
        models.pretrained_net(tmp_path / "XL.pt")
    with refuses(missing, error=SystemExit):  # the base has moved
        run("sample", tmp_path / "ft", "--pretrained", tmp_path / "XL.pt", "--out", tmp_path / "s")
    with refuses("holds no ema.safetensors", error=FileNotFoundError):
        models.pretrained_net(tmp_path)


def test_more_samples_are_drawn_beside_those_that_are_there(photos, tmp_path):
    """`--count` may be raised: picture i depends on i alone."""
    words = ("sample", photos / "flow.safetensors", "--method", "cfg", "--steps", 3)
    run(*words, "--count", 2, "--out", tmp_path / "s")
    first = sample.image_path(tmp_path / "s", 0).stat().st_mtime_ns
    manifest = tmp_path / "s" / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["interval"] == [0.0, None]
    manifest.write_text(text.replace("null", "Infinity"), encoding="utf-8")  # as an older version wrote it
    run(*words, "--count", 5, "--out", tmp_path / "s")
    assert sample.image_path(tmp_path / "s", 0).stat().st_mtime_ns == first
    run(*words, "--count", 5, "--out", tmp_path / "t")
    assert np.array_equal(*(np.load(tmp_path / k / "samples.npz")["arr_0"] for k in "st"))


def test_a_fine_tune_that_the_disk_has_no_room_for_is_refused_before_its_first_step(
    place, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=50_000))
    with refuses("has 0 MB left; expected", "will be written there", error=OSError):
        train(place, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


# the contact sheet beside the samples


def holds(path, rows, names):
    """Whether a contact sheet holds these rows of picture files, the last ones, and nothing to their right;
    of the `names` of all its rows and columns something is written."""
    found, step, top = np.asarray(Image.open(path)), sheet.CELL + sheet.GAP, 16 + 2 * sheet.GAP
    left, above = found.shape[1] - len(rows[0]) * step, found.shape[0] - len(rows) * step
    assert (above - top) % step == 0
    for y, row in enumerate(rows):
        for x, file in enumerate(row):
            picture = Image.open(file).resize((sheet.CELL, sheet.CELL), Image.Resampling.BICUBIC)
            at = np.s_[above + y * step :, left + x * step :]
            assert np.array_equal(found[at][: sheet.CELL, : sheet.CELL], np.asarray(picture))
    written = [*np.split(found[top:, :left], range(step, len(found) - top, step))]
    written += [found[:top, left + x * step :][:, :step] for x in range(len(rows[0]))]
    return len(written) == names and all((part < 100).any() for part in written)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m"])
def test_the_rows_of_a_sheet_are_what_sample_writes_with_each_method(sampler, place, tuned, tmp_path):
    """To the byte, with ddpm's own noise of each picture; the last row is the samples themselves."""
    settings = ("--count", 6, "--steps", 4, "--w", 3, "--seed", 2, "--sampler", sampler)
    main(sampling(place, tuned, tmp_path / "dog", *settings))
    for method in ("none", "cfg"):
        words = ("--method", method, *settings, "--sheet", 0, "--out", tmp_path / method)
        main(command("sample", tuned, "--vae", "unshuffle", *words))
        for i in range(6):
            shown, alone = (sample.image_path(tmp_path / k, i) for k in (f"dog/sheet/{method}", method))
            assert shown.read_bytes() == alone.read_bytes()
        assert not (tmp_path / method / "contact.png").exists()
    rows = [[sample.image_path(tmp_path / k, i) for i in range(6)] for k in ("none", "cfg", "dog")]
    assert holds(tmp_path / "dog" / "contact.png", rows, names=3 + 6)
    assert len({path.read_bytes() for row in rows for path in row}) == 18
    held = json.loads((tmp_path / "dog" / "sheet" / "cfg" / "manifest.json").read_text(encoding="utf-8"))
    assert held == json.loads((tmp_path / "cfg" / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "method, w, shown, null, names",
    [
        ("dog", 1.5, 8, True, "no guidance, CFG 1.5, DoG 1.5"),
        ("autoguidance", 2.0, 8, True, "no guidance, CFG 2, autoguidance 2"),
        ("cfg", 1.5, 8, True, "no guidance, CFG 1.5"),
        ("none", 1.5, 8, True, "no guidance, CFG 1.5"),
        ("dog", 1.5, 8, False, "no guidance, DoG 1.5"),
        ("cfg", 1.5, 8, False, "no guidance, CFG 1.5"),  # it was asked for
        ("none", 1.5, 8, False, "no guidance"),
        ("dog", 1.0, 8, True, "DoG 1"),  # which is no guidance
        ("dog", 1.5, 0, True, "DoG 1.5"),
    ],
)
def test_no_row_of_a_sheet_comes_twice(method, w, shown, null, names):
    config = sample.Config(method, w, count=20, seed=4)
    rows = sample.sheet_rows(config, "out", shown, null)
    assert ", ".join(sample.named(row.method, row.w) for row in rows.values()) == names
    for folder, row in rows.items():
        own = row.method == method
        assert row == (config if own else dataclasses.replace(config, method=row.method, count=8))
        assert str(folder) == ("out" if own else os.path.join("out", "sheet", row.method))


def test_a_sheet_asks_for_no_other_model_and_shows_no_null_label_that_was_never_trained(
    place, photos, tmp_path, recwarn
):
    run("sample", photos / "flow.safetensors", "--method", "none", "--count", 3, "--out", tmp_path / "s")
    rows = [[sample.image_path(tmp_path / k, i) for i in range(3)] for k in ("s", "s/sheet/cfg")]
    assert holds(tmp_path / "s" / "contact.png", rows, names=2 + 3)
    train(place, tmp_path / "ft", dataclasses.replace(RECIPE, dropout=0.0))
    main(sampling(place, tmp_path / "ft", tmp_path / "d", "--count", 3, "--steps", 2))
    assert [path.name for path in (tmp_path / "d" / "sheet").iterdir()] == ["none"]
    assert not [str(w.message) for w in recwarn if "null label" in str(w.message)]


def test_a_sheet_that_is_there_is_not_drawn_again(place, tuned, tmp_path, monkeypatch):
    """Of more samples it shows the first 8, and draws those that it lacks."""
    draw, seen = sample.draw_latents, []

    def counted(tuned, guide, config, images, classes):
        seen.append((config.method, list(images)))
        return draw(tuned, guide, config, images, classes)

    monkeypatch.setattr(sample, "draw_latents", counted)
    words = lambda count: sampling(place, tuned, tmp_path, "--count", count, "--steps", 2, "--batch", 9)
    for count, missing in ((3, range(3)), (10, range(3, 8)), (10, ()), (11, ())):
        seen.clear()
        main(words(count))
        others = [draws for draws in seen if draws[0] != "dog"]
        assert others == [(method, list(missing)) for method in ("none", "cfg") if missing]
    rows = [[sample.image_path(tmp_path / k, i) for i in range(8)] for k in ("sheet/none", "sheet/cfg", "")]
    assert holds(tmp_path / "contact.png", rows, names=3 + 8)


def test_an_interrupted_run_has_its_samples_and_no_half_sheet(place, tuned, tmp_path, monkeypatch):
    draw = sample.draw_latents

    def interrupted(tuned, guide, config, images, classes):
        if config.method == "cfg" and 4 in images:
            raise KeyboardInterrupt
        return draw(tuned, guide, config, images, classes)

    words = lambda out: sampling(place, tuned, tmp_path / out, "--count", 6, "--steps", 2)
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        patch.setattr(sample, "draw_latents", interrupted)
        main(words("s"))
    assert (tmp_path / "s" / "samples.npz").exists() and not (tmp_path / "s" / "contact.png").exists()
    for out in ("s", "t"):
        main(words(out))
    assert len({(tmp_path / out / "contact.png").read_bytes() for out in ("s", "t")}) == 1


def test_a_row_that_is_not_finite_is_left_out_and_named_beside_samples_that_are(photos, tmp_path):
    weights = load_file(photos / "flow.safetensors")
    weights["y_embedder.embedding_table.weight"][-1] = 1e38
    write_safetensors(tmp_path / "ft.safetensors", weights, {})
    words = ("sample", tmp_path / "ft.safetensors", "--pretrained", photos / "flow.safetensors", "--heads", 2)
    with pytest.warns(UserWarning, match="contact.png is without CFG 1.5, as image 0 of seed 0 is not fin"):
        run(*words, "--count", 3, "--out", tmp_path / "s")
    rows = [[sample.image_path(tmp_path / k, i) for i in range(3)] for k in ("s/sheet/none", "s")]
    assert holds(tmp_path / "s" / "contact.png", rows, names=2 + 3)
    assert len(np.load(tmp_path / "s" / "samples.npz")["arr_0"]) == 3


# the whole way


def in_process(words, **environment):
    """A command in a process of its own.  -> Popen"""
    env = ENV | environment
    line = [sys.executable, "-m", "dgtoy", *map(str, words)]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_ctrl_c_writes_a_state_says_so_in_a_line_and_the_run_goes_on_exactly(place, tmp_path):
    words = lambda out: command("finetune", *options(place, out, steps=400), "--every", 1000, "--quiet")
    process = in_process(words(tmp_path / "k"))
    log = tmp_path / "k" / "losses.csv"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 1):
        time.sleep(0.01)  # until 50 steps are done
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    said = [line for line in err.splitlines() if ": warning: " not in line]  # a random network is far off
    assert process.returncode == 130 and len(said) == 1
    step = int(re.search("interrupted; .* after step (\\d+), which .*last.safetensors holds", err)[1])
    assert 50 <= step < 400 and not (tmp_path / "k" / "ema.safetensors").exists()
    for out in ("k", "w"):
        assert ends(words(tmp_path / out))
    assert equal(tmp_path / "k" / "ema.safetensors", tmp_path / "w" / "ema.safetensors")


def test_threads_wait_asleep_in_dit_commands_without_the_makefile():
    """As OpenMP itself says, once torch has loaded it."""
    env = {k: v for k, v in ENV.items() if k != "OMP_WAIT_POLICY"} | dict(OMP_DISPLAY_ENV="TRUE")
    line = [sys.executable, "-m", "dgtoy", "dit", "table", "nowhere.json"]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    if "OPENMP DISPLAY ENVIRONMENT" not in done.stderr:
        pytest.skip("torch has no OpenMP here")
    assert re.search("OMP_WAIT_POLICY ?= ?'PASSIVE'", done.stderr)


@pytest.mark.parametrize("given, kept", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_how_threads_wait_is_the_user_s_to_say(given, kept, monkeypatch):
    monkeypatch.delitem(sys.modules, "dgtoy.__main__")  # runpy warns of a module that runs twice
    monkeypatch.setattr(sys, "argv", ["dgtoy", "dit", "table", "nowhere.json"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "of this test")  # so that its end restores what was
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    with pytest.raises(SystemExit, match="dit table: .*nowhere.json"):
        runpy.run_module("dgtoy", run_name="__main__")
    assert os.environ["OMP_WAIT_POLICY"] == kept


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """`dit run` on the pictures of `photos`, in small."""
    out = tmp_path_factory.mktemp("whole") / "run"
    words = ("--pretrained", photos / "flow.safetensors", "--steps", 3, "--count", 5, "--w", 1.5, 3)
    run("run", photos / "images", "--out", out, *words)
    return out


def test_a_run_ends_with_a_command_that_works_as_it_stands(photos, whole, capsys):
    words = ("--pretrained", photos / "flow.safetensors", "--steps", 3, "--count", 5, "--w", 1.5, 3)
    run("run", photos / "images", "--out", whole, *words, "--heads", 2, "--device", "cpu")
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("python -m dgtoy ")[2])
    assert command[-4:] == ["--device", "cpu", "--heads", "2"]
    main(command)
    assert (whole / "weights" / "calibration.json").exists()


@pytest.mark.parametrize(
    "wrong",
    ["--w nan", "--w 1.5 inf", "--w 1.5 1.5000001", "--count 0", "--steps 0", "--held-out 1"],
)
def test_a_run_refuses_what_a_later_step_would_before_it_writes_anything(wrong, photos, tmp_path):
    words = ("--pretrained", photos / "flow.safetensors", "--out", tmp_path / "run")
    option, *values = wrong.split()
    with refuses(option[2:].replace("-", "_"), values[-1], error=SystemExit):
        run("run", photos / "images", *words, *wrong.split())
    assert not (tmp_path / "run").exists()


def test_a_run_looks_at_its_pictures_before_it_tells_a_time(tmp_path, capsys):
    with refuses("images, which is not there", error=SystemExit):
        main(["dit", "run", str(tmp_path / "images"), "--out", str(tmp_path / "run")])
    assert "about" not in capsys.readouterr().out


def test_an_unknown_option_is_refused_by_the_command_that_it_was_given_to(capsys):
    with pytest.raises(SystemExit):
        run("sample", "run", "--out", "dog", "--rank", 4)
    said = capsys.readouterr().err
    assert "dit sample: error: unrecognized arguments: --rank 4" in said and "[--interval" in said
    with pytest.raises(SystemExit):
        main(["notebooks", "00", "--preset", "full"])
    said = capsys.readouterr().err
    assert "dgtoy notebooks: error: unrecognized arguments: --preset full" in said and "[--jobs" in said


def test_steps_that_would_fill_the_memory_are_refused():
    with refuses("steps is 1000000000; expected a number in [1, 10000]"):
        sample.Config(sampler="heun", steps=10**9)


@pytest.mark.parametrize("levels", ((), (0.0,), (1.0, -1.0), (math.nan,), (1.0, math.inf)))
def test_noise_levels_that_no_picture_has_are_refused_by_the_name_of_their_option(levels):
    with refuses("levels is", "expected positive, finite noise levels"):
        calibration.Config(levels=levels)


def test_a_split_without_hub_is_refused(photos, tmp_path):
    with refuses("split is test without --hub; expected --hub", error=SystemExit):
        run("prepare", photos / "images", "--out", tmp_path / "l", "--split", "test")


def test_names_of_classes_may_be_any_that_a_folder_has(photos, tmp_path, capsys):
    """Several lines, no UTF-8, markup, or longer than a sheet is wide. A class of one picture has none to
    hold out, so none to calibrate on."""
    names = (b"a\nb", b"caf\xe9", b"<b> & co", b"x" * 200)
    for name, picture in zip(names, sorted((photos / "images" / "brot").iterdir()), strict=True):
        folder = tmp_path / "odd" / os.fsdecode(name)
        folder.mkdir(parents=True)
        shutil.copy(picture, folder)
    words = ("--pretrained", photos / "flow.safetensors", "--steps", 1, "--count", 4, "--w", 2)
    with pytest.warns(UserWarning, match="4 of 4 classes have one image"):
        run("run", tmp_path / "odd", "--out", tmp_path / "run", *words)
    assert "held-out" not in capsys.readouterr().out.rpartition("index.html")[2]
    page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert "caf?" in page and "&lt;b&gt; &amp; co" in page
    head = lambda *names: np.asarray(
        sheet.contact_sheet({"": [np.zeros((8, 8, 3), np.uint8)] * len(names)}, names)
    )[: 16 + 2 * sheet.GAP]
    assert (head("x" * 200, "")[:, -sheet.CELL :] == 255).all()  # no name goes on above the next picture
    assert np.array_equal(head("n07615774 lolly", "n07615774"), head("lolly", "n07615774"))


def test_a_run_makes_all_methods_from_the_same_noise(photos, whole):
    """Without guidance the samples are those of the fine-tune alone; at equal noise the others differ."""
    names = ["none", "cfg-1.5", "dog-1.5", "cfg-3", "dog-3"]
    made = {name: json.loads((whole / name / "manifest.json").read_text(encoding="utf-8")) for name in names}
    settings = [("none", 1.0), ("cfg", 1.5), ("dog", 1.5), ("cfg", 3.0), ("dog", 3.0)]
    assert [(m["method"], m["w"]) for m in made.values()] == settings
    assert {(m["seed"], m["finetuned"], m["sampler"]) for m in made.values()} == {
        (0, made["none"]["finetuned"], "dpmpp_2m")
    }
    assert models.header(whole / "finetune")["rank"] == 8
    assert len(Latents(whole / "latents")) == 6 and len(Latents(whole / "latents", held_out=True)) == 2
    images = {name: np.load(whole / name / "samples.npz")["arr_0"] for name in names}
    assert images["none"].shape == (5, 8, 8, 3)
    assert len({image.tobytes() for image in images.values()}) == 5
    assert list(whole.rglob("contact.png")) == [whole / "contact.png"]  # sheets that no one asked for cost


def test_a_contact_sheet_holds_every_picture_in_its_place(whole):
    order = [0, 2, 4, 1, 3]  # by class, then by number
    folders = [whole / name for name in ("none", "cfg-1.5", "dog-1.5", "cfg-3", "dog-3")]
    rows = [[sample.image_path(folder, i) for i in order] for folder in folders]
    assert holds(whole / "contact.png", rows, names=6 + 5)


def test_a_gallery_is_one_page_that_needs_no_other_file(photos, whole, tmp_path, monkeypatch):
    page = (whole / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6 * 5 and not re.search(r'(src|href)="(?!data:)', page)
    for word in ("brot", "käse", "DoG 3", "CFG 1.5", "no guidance", "your pictures"):
        assert f"<th>{word}</th>" in page
    out = shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(pipeline_run, "SHOWN", 3)
    contact, index = pipeline_run.Comparison(photos / "images", out, [1.5, 3.0], 5).show()
    assert index.read_text(encoding="utf-8").count("<img") == 6 * 3
    with Image.open(contact) as few, Image.open(whole / "contact.png") as all_:
        assert few.width < all_.width
    sheet.gallery(whole / "x.html", "<b>", "", {"<i>": [np.zeros((4, 4, 3), np.uint8)]}, ["a & b"])
    page = (whole / "x.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in page and "<i>" not in page and "a &amp; b" in page


def test_a_run_of_enough_pictures_is_scored_against_the_folder(photos, whole, monkeypatch):
    monkeypatch.setattr("dgtoy.pipeline.run.SCORED", 6)
    glyphs = extractors.extractor("glyphs")
    monkeypatch.setattr(extractors, "extractor", lambda name, device: glyphs)
    words = ("--pretrained", photos / "flow.safetensors", "--steps", 3, "--count", 6, "--w", 1.5)
    run("run", photos / "images", "--out", whole, *words)
    held = json.loads((whole / "dog-1.5" / "scores.json").read_text(encoding="utf-8"))
    expected = evaluate.evaluate(whole / "dog-1.5" / "images", photos / "images", glyphs, "lite0")
    assert held["scores"] == expected["scores"] and held["manifest"]["made"]["w"] == 1.5
    text = (whole / "scores.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == ["cfg", "dog", "none"]
    assert "precision" in (whole / "index.html").read_text(encoding="utf-8")


def test_a_second_run_goes_on_and_draws_only_what_is_missing(photos, whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("images/*.png")}
    words = ("--pretrained", photos / "flow.safetensors", "--steps", 3, "--count", 6, "--w", 1.5, 3)
    again = ["dit", "run", *map(str, (photos / "images", "--out", whole, *words, "--device", "cpu"))]
    main(again)
    after = {p: p.stat().st_mtime_ns for p in whole.rglob("images/*.png")}
    assert len(before) < len(after) == 30 and before.items() <= after.items()
    said = capsys.readouterr().out
    assert re.search(r"held out\nthe rest takes about \d+ s", said)
    main(again)
    assert "about" not in capsys.readouterr().out  # nothing is left to do
    compared = pipeline_run.Comparison(photos / "images", whole, [1.5, 3.0], 8)
    recipe, net = dict(steps=3, batch=8), models.pretrained_net(photos / "flow.safetensors")
    assert compared.passes(recipe, net) == 2 * 24 * (1 + 4 * 2)  # two more pictures: none, and both guides
    assert said.count("\npython -m dgtoy dit ") == 7  # the single steps, as one could type them
    assert f"--latents {whole / 'latents'} --out {whole / 'weights'} --device cpu\n" in said
    with refuses("steps is 4;", "holds samples after 3 steps; expected as many", error=SystemExit):
        run("run", photos / "images", "--out", whole, *words[:2], "--steps", 4)  # before it trains on
    assert models.header(whole / "finetune")["step"] == 3


def test_a_run_folder_remembers_its_settings_and_names_a_changed_one(photos, tmp_path):
    run("prepare", photos / "images", "--out", tmp_path / "l", "--pretrained", photos / "flow.safetensors")
    tune = ("finetune", tmp_path / "l", "--out", tmp_path / "ft")
    run(*tune, "--steps", 4, "--batch", 2, "--lr", 0.01, "--rank", 2)
    last = (tmp_path / "ft" / "last.safetensors").stat().st_mtime_ns
    run(*tune)  # the same settings: nothing is left to do
    assert (tmp_path / "ft" / "last.safetensors").stat().st_mtime_ns == last
    with refuses("made with recipe lr = 0.01; this run has lr = 0.1", error=SystemExit):
        run(*tune, "--lr", 0.1)
    run(*tune, "--steps", 6)
    assert models.header(tmp_path / "ft")["step"] == 6

    draw = ("sample", tmp_path / "ft", "--out", tmp_path / "s")
    run(*draw, "--w", 2.5, "--steps", 4, "--seed", 3, "--count", 2)
    run(*draw, "--count", 4)
    made = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    assert (made["w"], made["steps"], made["seed"], made["count"]) == (2.5, 4, 3, 4)
    with refuses("made with w 2.5; this run has 3.0", error=SystemExit):
        run(*draw, "--w", 3)


def test_on_a_cpu_the_default_recipe_is_a_laptop_s_and_the_time_is_told_first(
    photos, tmp_path, monkeypatch, capsys
):
    laptop = dict(rank=2, steps=2, batch=3, lr=0.01, ema=0.5)
    monkeypatch.setitem(pace.RECIPES, "cpu", laptop)
    monkeypatch.setattr(pace, "seconds_a_pass", lambda net: 60.0)
    run("prepare", photos / "images", "--out", tmp_path / "l", "--vae", "pixels", "--size", 8)
    loud = lambda *words: main(["dit", *map(str, words), "--device", "cpu"])
    tune = ("finetune", tmp_path / "l", "--pretrained", photos / "flow.safetensors", "--out", tmp_path / "ft")
    loud(*tune)
    made = models.header(tmp_path / "ft")
    assert {k: made[k] for k in laptop} == laptop
    said = capsys.readouterr().out
    assert "about 63 min (cpu" in said  # 3 pictures a minute each: 2 steps of 2.5 passes, 16 for the own loss
    loud(*tune)
    assert "about" not in capsys.readouterr().out  # it is finished
    for count, told in ((2, "4.0 h"), (10, "13.6 h"), (12, "1.6 h")):
        # with none, CFG and DoG 5 calls for each of 24 steps; from the ninth picture on only 2, of DoG
        loud("sample", tmp_path / "ft", "--out", tmp_path / "s", "--count", count)
        said = capsys.readouterr().out
        assert f"about {told} (cpu" in said and said.endswith(f"{tmp_path / 's' / 'contact.png'}\n")
    loud("sample", tmp_path / "ft", "--out", tmp_path / "s", "--count", 12)
    assert "about" not in capsys.readouterr().out


def test_an_estimate_counts_the_calls_that_are_made(photos, tmp_path):
    """Against a count of the passes themselves, one per picture."""
    net = models.pretrained_net(photos / "flow.safetensors")
    seen, forward = [], type(net.net).forward
    net.net.forward = lambda x, t, y: (seen.append(len(x)), forward(net.net, x, t, y))[1]
    settings = [("none", 2.0), ("cfg", 1.0), ("cfg", 2.0)]
    for (method, w), sampler in [*((s, "dpmpp_2m") for s in settings), (settings[-1], "heun")]:
        config = sample.Config(method, w, sampler, steps=4, count=3)
        sample.draw_latents(net, None, config, range(3), 2)
        assert sum(seen) == pace.of_sample(config, tmp_path)
        seen.clear()
    pixels = finetune.LatentTensors(torch.randn(5, 3, 8, 8), torch.arange(5) % 7, 7)
    config = calibration.Config(levels=(2.0, 0.5), count=4)
    zero = lambda x, sigma: (seen.append(len(x)), 0 * x)[1]
    calibration.calibrate(net, types.SimpleNamespace(denoiser=lambda _: zero, null=7), pixels, config)
    assert sum(seen) == pace.of_calibrate(config, 5)
    assert [pace.duration(s) for s in (0, 40, 89, 400, 9000)] == ["1 s", "40 s", "89 s", "7 min", "2.5 h"]


def test_a_fine_tune_that_ships_is_sampled_by_name_and_guided_by_its_base(tmp_path):
    """Dog and elephant as painted; two steps, to see that the pieces are the right ones."""
    run("sample", "photos64-art7", "--out", tmp_path / "s", "--count", 2, "--steps", 2)
    made = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    assert made["classes"][:2] == ["dog", "elephant"] and made["codec"] == "pixels"
    tuned, base = shipped.load("photos64-art7"), shipped.load("photos64")
    D = guided(tuned.denoiser(torch.arange(2)), base.denoiser(base.null), 1.5)
    x_T = torch.stack([torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    x0 = last(dpmpp_2m(D, (1 + 80**2) ** 0.5 * x_T, karras(2, 0.004, 80.0)))
    found = np.load(tmp_path / "s" / "samples.npz")["arr_0"].astype(int)
    assert np.abs(found - to_uint8(x0).permute(0, 2, 3, 1).numpy()).max() <= 1
