"""The state of a run in parts: whole, exact or compact, never half, never of two saves."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
import types

import pytest
import torch
from helpers import refuses, same_tensors, shaken

from dgtoy import checkpoint, dit
from dgtoy.checkpoint import load_state, read_safetensors, save_state, write_safetensors
from dgtoy.dit import EDM, VP, DiT, SiT
from dgtoy.interop import add_lora
from dgtoy.pipeline import finetune, objectives
from dgtoy.trainer import Trainer, TrainingConfig, generator

close = torch.testing.assert_close
PART = 20_000
RECIPE = finetune.Config(steps=12, batch=4, lr=3e-3, ema=0.9, betas=(0.9, 0.95))
TENSORS = {
    "large": torch.randn(300, 70),
    "odd": torch.randn(3, 4999).half(),
    "small": torch.arange(5),
    "none": torch.ones(0, 3),
    "scalar": torch.tensor(2.5),
}


def data():
    g = torch.Generator().manual_seed(0)
    return finetune.LatentTensors(
        torch.randn(10, 4, 8, 8, generator=g), torch.randint(3, (10,), generator=g), 3
    )


def fresh():
    """A network and its average."""
    net = VP(DiT(8, 2, 4, 32, 1, 2, 3, seed=1))
    return net, net.clone()


def run(path=None, stop=None, recipe=RECIPE, compact=False, every=3):
    """A fine-tune in small parts, up to a step; from the state in `path` if there is one.  -> weights and
    averages by name"""
    net, ema = fresh()
    trainer, batch_fn = finetune.training(net, data(), recipe, ema)
    if path is None:
        steps = trainer.run(batch_fn)
    else:
        trainer.resume(path)
        steps = trainer.saved(batch_fn, path, every, compact=compact, part_bytes=PART)
    for step in steps:
        if step.step == stop:
            break
    return trainer._state()


def parts(path):
    """The files of the one save in a folder."""
    (save,) = path.iterdir()
    return sorted(save.iterdir())


@pytest.mark.parametrize("part_bytes", (12_000, PART, 1_000_000))
def test_what_is_saved_in_parts_is_read_back_and_no_part_is_larger(part_bytes, tmp_path):
    save_state(tmp_path, TENSORS, {"step": 3, "name": "σ"}, part_bytes)
    found, header = load_state(tmp_path)
    assert header == {"step": 3, "name": "σ"} == json.loads(json.dumps(header))
    assert same_tensors(found, TENSORS) and all(found[k].dtype == v.dtype for k, v in TENSORS.items())
    sizes = [p.stat().st_size for p in parts(tmp_path)]
    total = sum(v.nbytes for v in TENSORS.values())
    assert max(sizes) <= part_bytes and len(sizes) <= math.ceil(2 * total / part_bytes) + 1


def test_by_default_a_part_has_at_most_16_mib(tmp_path):
    save_state(tmp_path, {"a": torch.zeros(5, 2**20), "b": torch.zeros(2**20)}, {"step": 0})
    sizes = [p.stat().st_size for p in parts(tmp_path)]
    assert len(sizes) == 2 and max(sizes) <= 16 * 2**20 < sum(sizes)


def test_tied_tensors_and_views_are_written_each_in_full(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    given = {"a": whole, "tied": whole, "rows": whole[:2], "turned": whole.T}
    save_state(tmp_path / "x.safetensors", given, {"step": 0})
    assert same_tensors(load_state(tmp_path / "x.safetensors")[0], given)


def test_a_row_larger_than_a_part_is_refused(tmp_path):
    with refuses("part_bytes", "a row of large"):
        save_state(tmp_path, {"large": torch.zeros(2, 5000)}, {"step": 0}, 4_000)
    assert load_state(tmp_path) is None


def test_a_folder_that_holds_anything_else_is_refused_and_spared(tmp_path):
    (tmp_path / "2024-holidays").mkdir()
    (tmp_path / "2024-holidays" / "beach.jpg").write_bytes(b"sand")
    for path in (tmp_path, tmp_path / "2024-holidays" / "beach.jpg"):
        with refuses(f"checkpoint {path}", "expected NAME.safetensors, or a folder of its own"):
            run(path)
    save_state(tmp_path, TENSORS, {"step": 3})
    assert (tmp_path / "2024-holidays" / "beach.jpg").read_bytes() == b"sand"


@pytest.mark.parametrize("stop", (3, 4, 11))
def test_a_run_that_goes_on_from_parts_ends_as_if_it_never_stopped(stop, tmp_path):
    run(tmp_path / "state", stop)
    assert same_tensors(run(tmp_path / "state"), run()) and len(parts(tmp_path / "state")) > 5


def test_a_compact_state_is_smaller_and_ends_close(tmp_path):
    """Moments in bfloat16 twice on the way: the end differs by less than 1% of what training changed."""
    for stop in (4, 8):
        run(tmp_path / "small", stop, compact=True)
    run(tmp_path / "large", 8)
    found, whole, start = run(tmp_path / "small", compact=True), run(), fresh()[0].params
    size = lambda name: sum(p.stat().st_size for p in (tmp_path / name).rglob("*.safetensors"))
    assert size("small") < 0.8 * size("large")
    for kind in ("net", "ema"):
        near = torch.cat([(found[f"{kind}.{k}"] - whole[f"{kind}.{k}"]).flatten() for k in start]).norm()
        far = torch.cat([(start[k] - whole[f"{kind}.{k}"]).flatten() for k in start]).norm()
        assert 0 < near < 0.01 * far


def test_weights_and_averages_of_a_compact_state_are_exact(tmp_path):
    run(tmp_path / "state", 3, compact=True)
    found, exact = load_state(tmp_path / "state")[0], run(stop=3)
    for name, value in exact.items():
        if name.startswith(("net.", "ema.")):
            assert torch.equal(found[name], value)
        else:
            assert found[name].dtype == torch.bfloat16
            close(found[name].float(), value, rtol=2**-8, atol=0)


def saved(folder, step, value):
    save_state(folder, {"a": torch.full((300, 70), value)}, {"step": step}, PART)
    return folder


def test_a_missing_part_is_named(tmp_path):
    for k in (0, 2):
        files = parts(saved(tmp_path / str(k), 3, 1.0))
        files[k].unlink()
        with refuses("is not complete", f"{k:05d}.safetensors is missing", f"one of 1 of {len(files)} parts"):
            load_state(tmp_path / str(k))
    for path in parts(saved(tmp_path / "all", 3, 1.0)):
        path.unlink()
    with refuses("is not complete"):
        load_state(tmp_path / "all")


def test_parts_of_two_saves_are_refused(tmp_path):
    """Even of the same step of two runs."""
    one, other = parts(saved(tmp_path / "a", 3, 1.0)), parts(saved(tmp_path / "b", 3, 2.0))
    shutil.copy(one[1], other[1])
    with refuses("holds parts of", one[0].parent.name, other[0].parent.name, "expected those of one save"):
        load_state(tmp_path / "b")


def test_a_truncated_part_is_refused(tmp_path):
    path = parts(saved(tmp_path, 3, 1.0))[1]
    path.write_bytes(path.read_bytes()[:-1])
    with refuses(path.name, "is not a complete checkpoint"):
        load_state(tmp_path)


@pytest.mark.parametrize("before", (True, False))
@pytest.mark.parametrize("written", (0, 1, 3))
def test_a_save_that_is_broken_off_leaves_the_one_before(written, before, tmp_path, monkeypatch):
    if before:
        saved(tmp_path, 3, 1.0)
    count = []

    def broken(path, tensors, header):
        if len(count) == written:
            raise KeyboardInterrupt
        count.append(path)
        write_safetensors(path, tensors, header)

    monkeypatch.setattr(checkpoint, "write_safetensors", broken)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 4, 2.0)
    monkeypatch.undo()
    found = load_state(tmp_path)
    assert (found[1]["step"] == 3 and (found[0]["a"] == 1).all()) if before else found is None
    saved(tmp_path, 5, 3.0)  # and what was half written goes with the next
    assert len(list(tmp_path.iterdir())) == 1 and load_state(tmp_path)[1]["step"] == 5


def test_of_two_whole_saves_the_later_one_is_read(tmp_path):
    """A process killed before it could remove the save before."""
    saved(tmp_path / "a", 900, 1.0)
    saved(tmp_path / "b", 1000, 2.0)
    shutil.copytree(parts(tmp_path / "b")[0].parent, tmp_path / "a" / parts(tmp_path / "b")[0].parent.name)
    assert load_state(tmp_path / "a")[1]["step"] == 1000


def test_another_recipe_does_not_go_on_and_nothing_changes(tmp_path):
    run(tmp_path / "state", 3)
    before = {p: p.read_bytes() for p in parts(tmp_path / "state")}
    with refuses("was made with recipe"):
        run(tmp_path / "state", recipe=dataclasses.replace(RECIPE, clip=1.0))
    assert before == {p: p.read_bytes() for p in parts(tmp_path / "state")}


# the optimizer's settings


def test_the_learning_rate_follows_its_schedule():
    make = lambda **how: [TrainingConfig(steps=10, lr=2.0, **how).lr_at(t) for t in range(10)]
    assert make() == [2.0] * 10
    close(torch.tensor(make(warmup=4)), torch.tensor([0.5, 1.0, 1.5, *[2.0] * 7]))
    cosine = [1 + math.cos(math.pi * t / 10) for t in range(10)]
    close(torch.tensor(make(schedule="cosine")), torch.tensor(cosine))
    wsd = make(schedule="wsd", warmup=2, decay=0.4)
    close(torch.tensor(wsd), torch.tensor([1.0, *[2.0] * 6, 1.5, 1.0, 0.5]))


@pytest.mark.parametrize(
    "how",
    [
        dict(schedule="wsd", warmup=3, decay=0.5),
        dict(schedule="cosine", warmup=2),
        dict(weight_decay=0.3, betas=(0.8, 0.9)),
        dict(clip=0.05),
    ],
)
def test_a_training_is_the_plain_loop_of_torch(how):
    """AdamW with its rate set by hand, the gradient clipped by hand."""
    recipe = TrainingConfig(steps=9, lr=0.03, **how)
    nets = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    nets[1].load_state_dict(nets[0].state_dict())
    batch_fn = lambda step: [torch.randn(5, 3, generator=generator(0, step))]
    loss_fn = lambda net, x: (net(x) - x[:, :2].exp()).square().mean()
    losses = [step.loss for step in Trainer(nets[0], loss_fn, recipe).run(batch_fn)]
    plain = torch.optim.AdamW(nets[1].parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay)
    for t in range(9):
        loss = loss_fn(nets[1], *batch_fn(t))
        plain.zero_grad()
        loss.backward()
        if recipe.clip:
            norm = torch.cat([p.grad.flatten() for p in nets[1].parameters()]).norm()
            for p in nets[1].parameters():
                p.grad *= min(1.0, recipe.clip / norm)
        plain.param_groups[0]["lr"] = recipe.lr_at(t)
        plain.step()
        close(loss.detach(), losses[t], rtol=1e-4, atol=1e-5)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(betas=(0.9, 1.0)), "betas is (0.9, 1.0)"),
        (dict(betas=(0.9,)), "betas is (0.9,)"),
        (dict(weight_decay=-1.0), "weight_decay is -1.0"),
        (dict(clip=math.nan), "clip is nan"),
        (dict(schedule="linear"), "schedule is 'linear'; expected constant, cosine or wsd"),
        (dict(warmup=-1), "warmup is -1"),
        (dict(decay=0.0), "decay is 0.0; expected a number in (0, 1]"),
    ],
)
def test_settings_out_of_range_are_refused(change, word):
    with refuses(word):
        TrainingConfig(**change)


def test_a_run_goes_on_for_longer_where_its_schedule_allows_it(tmp_path):
    """wsd: as long as the rate has not begun to fall; cosine: never."""
    wsd = dataclasses.replace(RECIPE, schedule="wsd", decay=0.25)  # falls from step 9 on
    longer = dataclasses.replace(wsd, steps=20)
    run(tmp_path / "a", 9, recipe=wsd)
    assert same_tensors(run(tmp_path / "a", recipe=longer), run(recipe=longer))
    run(tmp_path / "b", 10, recipe=wsd, every=1)
    with refuses("was made with recipe"):
        run(tmp_path / "b", recipe=longer)
    cosine = dataclasses.replace(RECIPE, schedule="cosine")
    run(tmp_path / "c", 3, recipe=cosine)
    with refuses("was made with recipe"):
        run(tmp_path / "c", recipe=dataclasses.replace(cosine, steps=20))


# other objectives


@pytest.mark.parametrize("variance", (False, True))
@pytest.mark.parametrize("kind", (dit.Flow, SiT))
def test_what_a_flow_trains_is_what_it_samples(kind, variance, rng):
    net = kind(shaken(DiT(8, 2, 4, 32, 1, 2, 3, learn_sigma=variance, flow=kind is dit.Flow)))
    x0, eps = torch.randn(2, 5, *net.shape, generator=rng)
    t, label = torch.linspace(0.1, 0.9, 5), torch.tensor([0, 1, 2, 3, 0])
    s = t[:, None, None, None]
    x0_hat = net.denoiser(label)(x0 + s / (1 - s) * eps, t / (1 - t))
    loss = objectives.FlowObjective()(net, x0, label, t, eps)
    close(((x0 - x0_hat) / s).square().mean(), loss)


FLOW = lambda: dit.Flow(DiT(8, 2, 4, 32, 1, 2, 3, learn_sigma=False, flow=True))
WRONG = {
    "net is a EDM; expected a VP": lambda: dict(net=EDM(DiT(8, 2, 4, 32, 1, 2, 3))),
    "net is a VP; expected a Flow": lambda: dict(objective=objectives.FlowObjective()),
    "net is a Flow; expected a VP": lambda: dict(net=FLOW(), objective=objectives.NoiseObjective()),
    "guide is a VP; expected a Flow": lambda: dict(net=FLOW(), objective=objectives.DogFit(fresh()[0], 1.5)),
    "rank is 2 and net has no adapter": lambda: dict(config=dataclasses.replace(RECIPE, rank=2)),
    "rank is 0 and net has an adapter": lambda: dict(net=add_lora(fresh()[0], 3, 2)),
    "label 3 is out of range for 2 classes": lambda: dict(
        data=finetune.LatentTensors(torch.zeros(4, 4, 8, 8), torch.arange(4), 2)
    ),
    "x0, label have shapes (4, 4, 8, 8), (3,)": lambda: dict(
        data=finetune.LatentTensors(torch.zeros(4, 4, 8, 8), torch.arange(3), 3)
    ),
    "w is inf; expected a number in [1, inf)": lambda: dict(objective=objectives.DogFit(FLOW(), math.inf)),
    "told and data.classes are for a header; expected what JSON holds": lambda: dict(told=dict(a=RECIPE)),
    "keep is 2; expected a tuple of steps": lambda: dict(config=dataclasses.replace(RECIPE, keep=2)),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_fine_tune_that_would_be_no_model_is_refused_at_the_call(words, tmp_path):
    with refuses(words, error=(TypeError, ValueError)):
        finetune.finetune(
            **dict(net=fresh()[0], data=data(), config=RECIPE, out=tmp_path / "x") | WRONG[words]()
        )
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    with refuses("file", error=OSError):
        finetune.finetune(fresh()[0], data(), RECIPE, tmp_path / "file")
    with refuses("file", error=OSError):
        run(tmp_path / "file" / "state", every=100)


class Flow:
    """x_t = (1 - t) x0 + t eps, the network gives eps - x0, ln(t / (1 - t)) is normal."""

    @staticmethod
    def times(n, generator):
        return torch.randn(n, generator=generator).sigmoid()

    def __call__(self, net, x0, label, time, eps):
        t = time[:, None, None, None]
        v = net.predict((1 - t) * x0 + t * eps, 1000 * time, label)[:, : x0.shape[1]]
        return (v - (eps - x0)).square().mean()


def test_a_flow_is_trained_by_an_objective_of_a_few_lines(tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=60, lr=1e-2)
    one = finetune.LatentTensors(torch.ones(10, 4, 8, 8), torch.zeros(10, dtype=torch.long), 3)
    losses = [s.loss.item() for s in finetune.finetune(fresh()[0], one, recipe, tmp_path, objective=Flow())]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.skipif(os.name == "nt", reason="no limit on a file's size")
def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    """As on a full disk, which safetensors tells by an error of its own."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with refuses("File too large", "a.safetensors", error=OSError):
            write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(1000)}, {})
        with refuses("File too large", "a.txt", error=OSError):
            checkpoint.write_text(tmp_path / "a.txt", "x" * 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no flock")
def test_on_a_disk_that_locks_nothing_the_work_is_done_all_the_same(tmp_path, monkeypatch):
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with checkpoint.alone(tmp_path / "net"):
        checkpoint.write_text(tmp_path / "net", "done")
    assert (tmp_path / "net").read_text() == "done"


@pytest.mark.skipif(os.name == "nt", reason="rights of another kind")
def test_whoever_may_read_the_folder_may_read_the_weights(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    checkpoint.write_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.txt").stat().st_mode


def test_a_file_that_another_process_replaces_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """safetensors opens a file twice by its name, for what it says and for its numbers: they were mixed."""
    path, actual, saves = tmp_path / "run.safetensors", checkpoint.safe_open, [1, 2]
    save = lambda step: write_safetensors(path, dict(x=torch.full((2,), float(step))), dict(step=step))

    @contextlib.contextmanager
    def replaced_in_between(path, framework):
        with actual(path, framework) as f:
            said = f.metadata()
        if saves:
            save(saves.pop(0))
        with actual(path, framework) as f:
            yield types.SimpleNamespace(keys=f.keys, get_tensor=f.get_tensor, metadata=lambda: said)

    save(0)
    monkeypatch.setattr(checkpoint, "safe_open", replaced_in_between)
    tensors, header = read_safetensors(path)
    assert header["step"] == 2 and tensors["x"].tolist() == [2.0, 2.0]
