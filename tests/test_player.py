"""The sliders of notebooks 02 and 03: what they hold is what was given, and in a browser they move."""

import json
import re

import pytest
import torch
from test_book import CHROMIUM, DRIVER, browser, chrome  # noqa: F401

from dgtoy.course.player import player

CURVES = torch.arange(24.0).reshape(2, 3, 4)
SLIDERS = {"w": [1, 2], "σ": ["a", "b", "c"]}
LOOK = dict(x=[-1, 1], color="#123456", alt="Four heights")
MOVE = """
const heights = () => document.querySelector(".area").getAttribute("d"), seen = [heights()];
for (const [k, value] of [[1, 2], [0, 1]]) {
  const range = document.querySelectorAll("input")[k];
  range.value = value;
  range.dispatchEvent(new Event("input"));
  seen.push(heights());
}
done([seen, [...document.querySelectorAll("output")].map(e => e.textContent)]);"""


def test_a_player_holds_the_curves_in_the_order_of_its_sliders():
    page = player(CURVES, SLIDERS, start=[0, 0], **LOOK).data
    data = json.loads(re.search(r"const data = (\{.*?\}), at", page)[1])
    assert data["curves"] == CURVES.reshape(6, 4).tolist() and data["top"] == 23
    assert data["sliders"][1] == {"name": "σ", "values": ["a", "b", "c"]}
    assert "src=" not in page and "http://www.w3.org/2000/svg" in re.findall(r"\w+://[^\s\"]+", page)


def test_curves_that_do_not_match_the_sliders_are_refused():
    with pytest.raises(ValueError, match=r"curves has shape \(2, 3, 4\); expected \(2,\)"):
        player(CURVES, {"w": [1, 2]}, start=[0], **LOOK)


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_in_a_browser_each_slider_chooses_its_curve(chrome, tmp_path):  # noqa: F811
    page = tmp_path / "player.html"
    page.write_text(player(CURVES, SLIDERS, start=[0, 0], **LOOK).data, encoding="utf-8")
    height = lambda v: round(205 - 195 * v / 23, 1)
    with browser(chrome, tmp_path / "profile", width=700) as b:
        console, _ = b.open(page.as_uri())
        seen, shown = b.run(MOVE)
    first = [float(re.match(r"M0 205L0.0 ([\d.]+)", path)[1]) for path in seen]
    assert not console and first == [height(0), height(8), height(20)] and shown == ["2", "c"]
