"""The benchmarks at toy size on a CPU: they run, and their plain versions compute what ours compute."""

import json

import pytest
import torch
from helpers import random_mixture, shaken

from dgtoy import domain_guidance, heun, karras, last
from dgtoy.course import bench
from dgtoy.course.bench import dit, machine_speed, pipelines, toy
from dgtoy.course.claims import report
from dgtoy.dit import EDM, DiT, Flow
from dgtoy.nets import MLP

TINY = dict(input_size=8, in_channels=4, patch_size=4, hidden_size=32, depth=1, num_heads=2)


def consistent(rows):
    for r in rows:
        assert r["ratio"] == pytest.approx(r["ours"] / r["plain"]) and r["ours"] > 0


def test_the_speed_of_a_machine_is_seconds_and_grows_with_the_product():
    """Five hundred times the operations take longer, on any machine."""
    assert 0 < machine_speed(n=128) < machine_speed(n=1024)


def test_ways_are_timed_in_turn_after_two_calls_to_warm_up():
    calls = []
    took = bench.seconds(dict(a=lambda: calls.append("a"), b=lambda: calls.append("b")), "cpu", rounds=3)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab" and set(took) == {"a", "b"}


def test_the_benchmark_of_dit_runs_and_its_ratios_are_its_figures():
    net = dit.network(TINY, "cpu")
    rows = [*dit.guided_step(net, 2, 1e12, "cpu"), dit.training_step(net, 2, 1e12, "cpu")]
    assert [r["what"].split(",")[0].split(":")[0] for r in rows] == [
        *["DoG step"] * 2,
        *["the same"] * 2,
        "DoG in a diffusers pipeline",
        "fine-tuning",
    ]
    consistent(rows)


def test_the_benchmark_of_small_dits_runs():
    net = EDM(dit.network(dict(TINY, num_classes=3, learn_sigma=False), "cpu"))
    consistent(
        [dit.small_training("tiny", net, 2, 1e12, "cpu"), dit.small_sampling("tiny", net, 2, 1e12, "cpu", 4)]
    )


def test_the_plain_score_is_the_score():
    mixture, x = random_mixture(), torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(
        toy.plain_score(mixture, x, torch.tensor(0.3)), mixture.score(x, torch.tensor(0.3))
    )


def test_the_plain_loop_of_heun_and_guidance_is_the_library_s():
    main, guide = (MLP(**toy.NETWORK, seed=seed) for seed in (0, 1))
    sigmas = karras(5, *toy.SIGMAS)
    torch.manual_seed(0)
    plain = toy.plain_heun(main, guide, 8, sigmas.tolist(), "cpu")
    torch.manual_seed(0)
    x_T = sigmas[0].item() * torch.randn(8, 2)
    D = domain_guidance(main.denoiser(0), guide.denoiser(guide.null), 1.5)
    torch.testing.assert_close(plain, last(heun(D, x_T, sigmas)), rtol=1e-4, atol=1e-4)


def test_a_record_reads_as_a_table():
    row = bench.rates("a thing", "things/s", "plain: by hand", dict(ours=0.5, plain=2.0), ours=3)
    assert (row["ours"], row["plain"], row["ratio"]) == (6, 0.5, 12)
    made = dict(
        provenance=dict(device="2-core CPU", torch="2"), results=dict(rows=[row, row | dict(ratio=None)])
    )
    first, second, third = bench.table(made).splitlines()
    assert first == "2-core CPU, torch 2" and "12.0x" in second and "x" not in third.removeprefix("a thing")


def test_the_benchmark_of_the_photo_model_computes_the_same_both_ways(rng):
    base = Flow(DiT(16, 4, 3, 32, 1, 2, 3, learn_sigma=False, flow=True))
    shaken(base.net)
    found = toy.photographs((base.with_classes(4), base))
    assert found["ratio"] == pytest.approx(found["plain"] / found["ours"])
    D, x, sigma = base.denoiser(1), torch.randn(2, 3, 16, 16, generator=rng), torch.tensor(1.0)
    torch.testing.assert_close(D(x, sigma), toy.in_plain_gelu(D, x, sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # diffusers', of a VAE without weights to load
def test_the_cost_of_guidance_in_a_pipeline_is_measured_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pipelines, "seconds", lambda ways, *a, **k: {n: 1 + len(f()) for n, f in ways.items()}
    )
    smaller = dict(sample_size=8, block_out_channels=(32, 64))
    monkeypatch.setattr(pipelines, "SMALL", pipelines.SMALL | smaller)
    text = bench.refresh_pipelines(tmp_path, "cpu")
    rows = json.loads((tmp_path / "bench_pipelines_cpu.json").read_text())["results"]["rows"]
    memory = {r["what"]: r["ours"] / r["plain"] for r in rows if r["unit"] == "GiB"}
    assert memory["the plane: memory"] == 2 and memory["the plane of the blurred self: memory"] == 1
    assert memory["a LoRA and its base, the plane: memory"] == 1
    assert len(rows) == 14 and all(r["what"] in text for r in rows)
    times = {r["what"]: r for r in rows if r["unit"] == "s/picture"}
    head, _, *lines, _, advice = report.cost_table(tmp_path).splitlines()
    assert "-core CPU | memory (GiB) |" in head and "-core CPU: 10 steps of 1 million weights" in advice
    assert advice.endswith("A second network adds 100% of memory, a LoRA's base 0%.")
    for line, (what, r) in zip(lines, times.items(), strict=True):
        name, seconds, gib = (cell.strip() for cell in line.strip("|").split("|"))
        assert name == what and gib.endswith(f"({memory[f'{what}: memory']:.2f}×)")
        assert seconds == f"{r['ours']:.2g} ({r['ours'] / r['plain']:.2f}×)"
    assert "s/picture" not in report.bench_table(tmp_path)


def test_each_benchmark_is_told_once_in_digits_and_stages_of_a_run_have_no_ratio(tmp_path):
    row = dict(what="training", ours=142_400.0, plain=0.00054321, unit="images/s", ratio=2.0, note="n")
    for name in ("bench_cuda", "bench_dit_cuda", "bench_stages_cuda"):
        rows = [row, row | dict(what=f"{name} alone")]
        made = dict(provenance=dict(device="card"), results=dict(rows=rows))
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    _, _, first, *others = report.bench_table(tmp_path).splitlines()
    assert first == "| card | training (n) | 142,000 | 0.000543 | images/s | **2×** |"
    assert [line.split("|")[2] for line in others] == [
        f" {name} alone (n) " for name in ("bench_cuda", "bench_dit_cuda", "bench_stages_cuda")
    ]
    assert "**2×**" in others[1] and others[2].endswith("| 142,000 | – | images/s | – |")


def test_of_pictures_drawn_at_once_there_is_a_column_and_of_single_ones_a_range(tmp_path):
    ways = {"the plane": 3.0, "the plane of the blurred self": 2.0, "a LoRA and its base, the plane": 4.0}
    size = "1.00 times the pipeline's own guidance; 20 steps of 3 million weights"
    cost = lambda what, ours: dict(what=what, ours=ours, plain=1.0, note=size)
    rows = [cost(f"{way}{end}", s) for way, s in ways.items() for end in ("", ": memory")]
    rows += [cost(f"{way}, {pipelines.TOGETHER} at once", 5 - s) for way, s in ways.items()]
    made = dict(provenance=dict(device="card"), results=dict(rows=rows))
    (tmp_path / "bench_pipelines_cuda.json").write_text(json.dumps(made))
    text = report.cost_table(tmp_path)
    assert "| seconds a picture | card, 4 at once | memory (GiB) |" in text
    assert "| the plane | 2 (2.00×) | 3 (3.00×) |" in text
    assert "One picture at a time takes the card 2.0 to 4.0 times as long as with CFG." in text
