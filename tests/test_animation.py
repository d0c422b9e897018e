"""The animation of notebook 00: every path is a sampler's own, and the file says how it was made."""

import pathlib

import pytest
import torch
from helpers import refuses
from PIL import Image

from dgtoy import heun
from dgtoy.course import animation
from dgtoy.course.lab import PointSetting, methods, prepared, replace
from dgtoy.train import Recipe

FILE = pathlib.Path(__file__).resolve().parents[1] / "figures" / "flow.gif"
SMALL = PointSetting(seeds=1, samples=12, steps=6, pretrain=Recipe(steps=20), finetune=Recipe(steps=10))


def test_a_flow_begins_in_the_judge_s_noise_and_ends_in_its_samples():
    pre, ft, judge = prepared(SMALL)
    for _, _, method in methods(ft, pre, [1.5], animation.NAMES, (0.0, 0.5)):
        flow = animation.flow(judge, method)  # (levels, classes, n, 2)
        assert flow.shape == (7, 2, 12, 2)
        torch.testing.assert_close(flow[-1], judge.sample(method, sampler=heun)[:, 0])
        torch.testing.assert_close(flow[0, 1], 20 * judge.start(1)[0])


def test_an_animation_holds_the_levels_shown_and_the_samples(tmp_path):
    path = animation.write(tmp_path / "new" / "flow.gif", replace(SMALL, steps=8), shown=(6.0, 0.5))
    levels = [s for s in replace(SMALL, steps=8).sigmas() if 0.5 <= s <= 6]
    with Image.open(path) as gif:
        assert gif.n_frames == len(levels) + 1


def test_an_animation_of_another_ending_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(animation, "prepared", lambda *_: pytest.fail("it works"))
    with refuses("path is x.mp4; expected a name that ends in .gif"):
        animation.write("x.mp4")


def test_the_committed_animation_is_small_stops_and_names_its_command():
    with Image.open(FILE) as gif:
        assert FILE.stat().st_size < 1_000_000 and gif.n_frames > 25
        assert gif.info["loop"] == 2 and gif.info["comment"] == animation.COMMAND
