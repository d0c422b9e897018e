"""The explorable page: its JavaScript gives dgtoy's numbers, and in a browser it runs from a file, alone and
without errors.

The first needs node, the second Chromium with its driver; without them these tests are skipped.
"""

import contextlib
import importlib.util
import json
import math
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
import torch
from helpers import random_mixture

from dgtoy import GaussianMixture, cfg, domain_guidance, guided, heun, karras, last, metrics, plane, theory
from dgtoy.course.worlds import domains
from dgtoy.guidance import blurred

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "explorable"
NODE = shutil.which("node")
with_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
LEVELS = (0.005, 0.1, 0.7, 5.0, 80.0)
RANGES = ((0.0, math.inf), (0.2, 3.0))


def node(*jobs):
    """The results of jobs (name, arguments), computed by the page's own code."""
    text = json.dumps([[name, arguments] for name, arguments in jobs]).replace("Infinity", "null")
    done = subprocess.run(
        [NODE, ROOT / "tests" / "explorable.mjs"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tensor(flat):
    return torch.tensor(flat, dtype=torch.float64)


def points(flat):
    return tensor(flat).reshape(-1, 2)


def part(m):
    return dict(
        weights=m.weights.tolist(), means=m.means.tolist(), covs=m.covs[:, [0, 1, 1], [0, 0, 1]].tolist()
    )  # the lower half, as eigh reads it


def trio(name="moons", gap=0.0, breadth=1.0):
    """Source, domain and class 0 as dgtoy's mixtures."""
    world = domains.make(name, gap, breadth)
    return world.source, world.target, world.target.given(0)


def noise(n, seed=0, scale=1.0):
    return scale * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the page's numbers against dgtoy's


@with_node
def test_the_page_s_worlds_are_dgtoy_s():
    """worlds.js is what worlds.py writes, but for rounding."""
    spec = importlib.util.spec_from_file_location("explorable_worlds", PAGE / "worlds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def same(a, b):
        assert type(a) is type(b) or {type(a), type(b)} == {int, float}
        if isinstance(a, dict):
            assert a.keys() == b.keys()
        if isinstance(a, dict | list):
            for x, y in (
                zip(a.values(), b.values(), strict=True) if isinstance(a, dict) else zip(a, b, strict=True)
            ):
                same(x, y)
        else:
            assert a == b if isinstance(a, str) else abs(a - b) < 5e-5  # a cut rests on float32 samples

    same(module.worlds(), node(("data", {}))[0])


@with_node
@pytest.mark.parametrize("name", domains.NAMES)
def test_gap_and_breadth_move_the_page_s_world_as_dgtoy_s(name):
    (ours,) = node(("world", dict(name=name, gap=0.8, breadth=1.7)))
    for mine, theirs in zip(ours, trio(name, 0.8, 1.7), strict=True):
        for field, value in part(theirs).items():
            torch.testing.assert_close(tensor(mine[field]), tensor(value), rtol=0, atol=1e-5)


@with_node
def test_densities_and_denoisers_agree():
    mixtures = [random_mixture(k=5, seed=s) for s in range(2)] + list(trio("spirals", 0.5, 1.4))
    cases = [(m, s, noise(50, i, 2 + s)) for i, m in enumerate(mixtures) for s in LEVELS]
    jobs = [
        (what, dict(part=part(m), x=x.flatten().tolist(), sigma=s))
        for m, s, x in cases
        for what in ("logp", "denoise")
    ]
    found = iter(node(*jobs))
    for m, s, x in cases:
        torch.testing.assert_close(tensor(next(found)), m.logp(x, s), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(points(next(found)), m.denoise(x, s), rtol=1e-9, atol=1e-9)


def guided_cases():
    """(a, b, interval, learned) with the denoiser that dgtoy makes of it."""
    target = domains.make().target
    pre, null, main = trio()
    for range_ in RANGES:
        yield (1, 1, range_, (1, 1)), main.denoise
        yield (1, 1.7, range_, (1, 1)), cfg(target, 0, target.null, 1.7, range_)
        yield (1.7, 1.7, range_, (1, 1)), domain_guidance(main.denoise, pre.denoise, 1.7, range_)
        yield (1.3, 2.2, range_, (1, 1)), plane(pre.denoise, null.denoise, main.denoise, 1.3, 2.2, range_)
        half = [
            plane(pre.denoise, null.denoise, main.denoise, *p) for p in ((0.8, 0), (0.8, 0.4))
        ]  # an unfinished fine-tune
        yield (1.3, 2.2, range_, (0.8, 0.4)), plane(pre.denoise, *half, 1.3, 2.2, range_)


@with_node
def test_guided_denoisers_agree():
    parts = [part(m) for m in trio()]
    cases = [(point, D, s, noise(40, i, 1 + s)) for i, s in enumerate(LEVELS) for point, D in guided_cases()]
    named = lambda a, b, range_, learned: dict(a=a, b=b, range=range_, learned=learned, parts=parts)
    found = node(
        *[("guided", named(*point) | dict(x=x.flatten().tolist(), sigma=s)) for point, _, s, x in cases]
    )
    for flat, (_, D, s, x) in zip(found, cases, strict=True):
        torch.testing.assert_close(points(flat), D(x, tensor(s)), rtol=1e-9, atol=1e-9)


@with_node
def test_schedules_agree():
    cases = [(1, 0.01, 10.0), (2, 0.01, 10.0), (32, 0.005, 80.0)]
    for found, case in zip(
        node(*[("karras", dict(zip(("n", "lo", "hi"), c))) for c in cases]), cases, strict=True
    ):
        torch.testing.assert_close(tensor(found), karras(*case), rtol=1e-12, atol=0)


@with_node
def test_samples_from_given_noise_agree_and_so_do_their_measures():
    sigmas, x_T = karras(24, 0.005, 80.0), noise(300, 1, 80.0)
    parts, target = [part(m) for m in trio()], domains.make().target.given(0)
    shared = dict(parts=parts, x=x_T.flatten().tolist(), sigmas=sigmas.tolist())
    cases = list(guided_cases())
    found = node(*[("heun", shared | dict(zip(("a", "b", "range", "learned"), point))) for point, _ in cases])
    for flat, (_, D) in zip(found, cases, strict=True):
        x0 = last(heun(D, x_T, sigmas))
        torch.testing.assert_close(points(flat), x0, rtol=1e-7, atol=1e-7)
        y, cut = (
            target.sample(200, generator=torch.Generator().manual_seed(2)).double(),
            metrics.threshold(target),
        )
        outside, energy = node(
            ("outOfDomain", dict(part=part(target), x=flat, cut=cut)),
            ("energy", dict(x=flat, y=y.flatten().tolist())),
        )
        assert outside == pytest.approx(metrics.out_of_domain(x0, target, cut).item(), abs=1e-6)
        assert energy == pytest.approx(metrics.energy_distance(x0, y).item(), abs=1e-8)


@with_node
def test_the_closed_form_agrees():
    """Three Gaussians, weights on and off the lines, all intervals: dgtoy's ends, and for an unfinished
    fine-tune the sampler's.
    """
    stds, means = (2.3, 0.9, 0.3), (0.2, 3.1, 4.0)
    points_ = [(1, 1), (1, 2), (2, 2), (0.3, 1.4), (1.25, 2.5)]
    cases = [(a, b, r) for a, b in points_ for r in (*RANGES, (0.0, 0.3), (0.5, math.inf))]
    weigh = lambda a, b: (1 - a, a - b, b)
    found = node(
        *[
            ("end", dict(means=means, stds=stds, inside=weigh(a, b), outside=(0, 0, 1), range=r))
            for a, b, r in cases
        ]
    )
    for (mean, std), (a, b, r) in zip(found, cases, strict=True):
        closed = theory.gaussian_endpoint(list(zip(weigh(a, b), means, stds)), r)
        assert (mean, std) == pytest.approx(closed, rel=1e-5)


@with_node
def test_the_closed_form_foretells_an_unfinished_fine_tune():
    """Weights outside the interval other than (0, 0, 1): the formula against sampling, three paths of a
    linear flow.
    """
    a, b, range_, learned = 1.5, 2.0, (0.1, 2.0), (0.8, 0.4)
    stds, means = (2.3, 0.9, 0.3), (0.2, 3.1, 4.0)
    gaussians = [
        GaussianMixture([1.0], [[m, 0.0]], [[[s * s, 0.0], [0.0, 1.0]]]) for m, s in zip(means, stds)
    ]
    weigh = lambda a, b: (1 - 0.8 * a, 0.8 * a - 0.4 * b, 0.4 * b)
    sigmas = karras(1500, 0.001, 5000.0, rho=15)
    ends, (mean, std) = node(
        (
            "heun",
            dict(
                parts=[part(g) for g in gaussians],
                x=[0, 0, sigmas[0].item(), 0],
                sigmas=sigmas.tolist(),
                a=a,
                b=b,
                range=range_,
                learned=learned,
            ),
        ),
        ("end", dict(means=means, stds=stds, inside=weigh(a, b), outside=weigh(1, 1), range=range_)),
    )
    assert mean == pytest.approx(ends[0], rel=3e-3) and std == pytest.approx(ends[2] - ends[0], rel=3e-3)


@with_node
def test_what_the_page_shows_is_what_dgtoy_gives():
    """The page's own particles, computed in pieces while a control moved, sampled and measured again by
    dgtoy.
    """
    params = dict(w=1.5, a=1.2, b=0.9, gap=0.3, breadth=1.2, steps=16, hi=3.0)
    shown, told = node(
        ("flow", dict(params=params | dict(w=2.0), touched=dict(w=1.5))), ("predict", dict(params=params))
    )
    pre, null, main = trio("moons", 0.3, 1.2)
    widths = source_and_target_stds(pre)
    for method, foretold in zip(shown["methods"], told, strict=True):
        a, b = method["a"], method["b"]
        x0 = last(
            heun(
                plane(pre.denoise, null.denoise, main.denoise, a, b, (0.0, 3.0)),
                points(shown["noise"]),
                tensor(shown["sigmas"]),
            )
        )
        torch.testing.assert_close(points(method["x0"]), x0, rtol=1e-3, atol=1e-3)
        assert method["outside"] == pytest.approx(
            metrics.out_of_domain(x0, main, metrics.threshold(main)).item(), abs=1e-3
        )
        assert method["shift"] == pytest.approx((x0 - main.weights @ main.means).mean(0)[0].item(), abs=1e-3)
        closed = (
            theory.gaussian_guidance((0, domains.STD), (0, widths), a, interval=(0.0, 3.0))[1] / domains.STD
        )
        assert foretold["thickness"] == pytest.approx(closed, rel=1e-3)
    assert [(m["name"], m["a"], m["b"]) for m in shown["methods"]] == [
        ("none", 1, 1),
        ("CFG", 1, 1.5),
        ("DoG", 1.5, 1.5),
        ("plane", 1.2, 0.9),
    ]


@with_node
@pytest.mark.parametrize("guide", ["null", "blur"])
def test_the_fourth_panel_s_other_guides_are_dgtoy_s(guide):
    """CFG with an exact null, and the blurred self; the fine-tune has learned 80% and 50% of its steps."""
    w, range_, b = 1.75, (0.0, 3.0), 0.2
    params = dict(w=w, guide=guide, blur=b, domain=0.8, label=0.5, steps=16, hi=range_[1])
    shown = node(("flow", dict(params=params)))[0]
    pre, null, asked = trio()

    def finetuned(x, sigma):
        return plane(pre.denoise, null.denoise, asked.denoise, 0.8, 0.5)(x, sigma)

    guiding = null.denoise if guide == "null" else blurred(finetuned, b)
    expected = last(
        heun(guided(finetuned, guiding, w, range_), points(shown["noise"]), tensor(shown["sigmas"]))
    )
    torch.testing.assert_close(points(shown["methods"][3]["x0"]), expected, rtol=1e-3, atol=1e-3)


@with_node
def test_the_closed_form_foretells_the_blurred_self():
    """Three Gaussians: the width of dgtoy's formula, s_T (s_T^2 / (s_T^2 + b^2))^((w - 1) / 2)."""
    params = dict(world="gaussians", w=2.0, guide="blur", blur=0.4)
    told, found = node(("predict", dict(params=params)), ("flow", dict(params=params | dict(steps=64))))
    assert told[3]["thickness"] == pytest.approx((0.5**2 / (0.5**2 + 0.4**2)) ** 0.5, rel=1e-6)
    assert found["methods"][3]["thickness"] == pytest.approx(told[3]["thickness"], rel=0.05)


def source_and_target_stds(m):
    """The width of a whole mixture, taken for round."""
    spread = m.means - m.weights @ m.means
    cov = torch.einsum("k,kij->ij", m.weights, m.covs + spread[:, :, None] * spread[:, None])
    return (cov.trace() / 2).sqrt().item()


@with_node
@pytest.mark.parametrize("name", [*domains.NAMES, "gaussians"])
def test_the_page_s_truth_is_true(name):
    """Its own samples are 1% out of domain, as thick as the target, 90% inside the contour, and its normals
    are normal.
    """
    data, world, flat, widths = node(
        ("data", {}),
        ("world", dict(name=name, gap=0, breadth=1)),
        ("truth", dict(name=name, n=20_000)),
        ("widths", dict(name=name)),
    )
    target = data["targets"][name]
    reach = 4.5 if name == "gaussians" else 2.2
    outside, thickness, drawn = node(
        ("outOfDomain", dict(part=world[2], x=flat, cut=target["cut"])),
        ("thickness", dict(x=flat, stroke=target["stroke"])),
        ("height", dict(name=name, which="asked", reach=reach, n=220)),
    )
    logp, edge = node(
        ("logp", dict(part=world[2], x=flat, sigma=0)),
        ("logp", dict(part=world[2], x=[v for line in drawn["lines"] for v in line], sigma=0)),
    )
    assert outside == pytest.approx(0.01, abs=0.003)
    assert thickness == pytest.approx(widths["across"][2], rel=0.05)
    assert (tensor(logp) > drawn["height"]).double().mean().item() == pytest.approx(0.9, abs=0.015)
    assert (
        tensor(edge) - drawn["height"]
    ).abs().max() < 0.5  # the contour lies at its height, up to the grid's interpolation


@with_node
@pytest.mark.parametrize("kind", ["seeded", "even"])
def test_the_page_s_normals_are_normal(kind):
    z = tensor(node(("normals", dict(n=20_000, kind=kind)))[0])
    assert (
        abs(z.mean()) < 0.03
        and abs(z.std() - 1) < 0.02
        and abs((z.abs() < 1).double().mean() - 0.6827) < 0.01
    )


# the page as files


def test_the_page_asks_nobody_for_anything():
    """No address but the name of SVG, no modules (they do not load from a file), every file it names is
    there.
    """
    html = (PAGE / "index.html").read_text()
    for path in [p for p in PAGE.iterdir() if p.suffix in (".html", ".css", ".js")]:
        assert not set(re.findall(r"\w+://[\w./]+", path.read_text())) - {"http://www.w3.org/2000/svg"}, (
            path.name
        )
    named = re.findall(r'(?:src|href)="([^"#]+)"', html)
    assert 'type="module"' not in html and len(named) >= 8
    assert not [name for name in named if not name.startswith("data:") and not (PAGE / name).is_file()]


def test_settings_that_notebooks_link_to_are_the_page_s_own():
    links = [
        (path.stem[:2], preset)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for preset in re.findall(r'explorable/index\.html#?([^"\\]*)', path.read_text(encoding="utf-8"))
    ]
    assert {"00", "02", "03", "04"} <= {n for n, _ in links}
    start = re.search(r"START = \{(.*?)\};", (PAGE / "flow.js").read_text(), re.S)[1]
    known, words = set(re.findall(r"(\w+): ", start)), ("moons", "gaussians", "null", "blur")
    for n, preset in links:
        for key, value in (pair.split("=") for pair in preset.split("&") if pair):
            assert key in known and (value in words or math.isfinite(float(value))), (n, preset)


# the page in a browser


class Browser:
    """Chromium through its driver's own protocol (WebDriver), with nothing but the standard library."""

    FLAGS = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
    )

    def __init__(self, port, profile):
        self.base = f"http://127.0.0.1:{port}/session"
        options = {"args": [*self.FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        always = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.base += "/" + self.ask("", {"capabilities": {"alwaysMatch": always}})["sessionId"]

    def ask(self, path, data=None, method="POST"):
        request = urllib.request.Request(
            self.base + path,
            json.dumps(data or {}).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def js(self, code):
        return self.ask("/execute/sync", {"script": code, "args": []})

    def touch(self, command, **parameters):
        """A command of the browser's own tools, which alone send a touch that the page may scroll by."""
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not self.js(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"still not: {condition}"
            time.sleep(0.1)

    def rest(self):
        self.until(
            "!dgtoy.page.busy() && dgtoy.page.flow.methods.every((m) => m.reported === m.key + m.fresh)"
        )

    def readout(self, panel, row):
        return self.js(f"return document.querySelector('.panel.{panel} .{row} dd').textContent")

    def complaints(self):
        return [entry["message"] for entry in self.ask("/se/log", {"type": "browser"})]

    def requests(self):
        """What the page itself has asked for; the browser's own first page is another document."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.ask("/se/log", {"type": "performance"})
        ]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [e["request"]["url"] for e in sent if e["documentURL"].startswith(PAGE.as_uri())]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("Chromium and its driver are not installed")
    with subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        try:
            port = next(
                found[1]
                for line in driver.stdout
                if (found := re.search(r"successfully on port (\d+)", line))
            )
            it = Browser(port, tmp_path_factory.mktemp("profile"))
            it.ask("/url", {"url": (PAGE / "index.html").as_uri()})
            it.rest()
            yield it
            with contextlib.suppress(OSError):
                it.ask("", method="DELETE")
        finally:
            driver.terminate()


def test_in_a_browser_the_page_runs_from_a_file_alone_and_without_errors(browser):
    assert browser.complaints() == []
    requests = browser.requests()
    assert len(requests) >= 9 and all(url.startswith(("file:", "data:")) for url in requests)
    for panel in ("none", "CFG", "DoG", "plane"):
        for row, shape in (("outside", r"\d+\.\d%"), ("energy", r"−?\d\.\d{3}"), ("thickness", r"×\d\.\d+")):
            assert re.fullmatch(shape, browser.readout(panel, row)), (panel, row)
    drawn = browser.js(
        "return [...document.querySelectorAll('canvas.stage')].map((c) => "
        "new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size)"
    )
    assert len(drawn) == 4 and min(drawn) > 20  # colours in each panel


def test_in_a_browser_controls_and_keys_move_what_they_should(browser):
    before = {p: browser.readout(p, "thickness") for p in ("none", "DoG")}
    browser.js("const w = document.getElementById('w'); w.value = 2.5; w.dispatchEvent(new Event('input'))")
    browser.rest()
    assert browser.readout("none", "thickness") == before["none"]
    assert float(browser.readout("DoG", "thickness")[1:]) < 0.5 * float(before["DoG"][1:])
    a, b = browser.js("return [dgtoy.page.flow.params.a, dgtoy.page.flow.params.b]")
    browser.js(
        "for (const key of ['ArrowRight', 'ArrowUp', 'ArrowUp']) "
        "document.querySelector('.star').dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
    )
    browser.rest()
    assert browser.js("return [dgtoy.page.flow.params.a, dgtoy.page.flow.params.b]") == pytest.approx(
        [a + 0.05, b + 0.1]
    )
    assert browser.complaints() == []


def test_in_a_browser_the_page_goes_on_after_its_panels_were_hidden(browser):
    """A canvas without a width cannot be drawn; an error there would end the loop of frames."""
    browser.js(
        "document.getElementById('stage').style.display = 'none';"
        "const w = document.getElementById('w'); w.value = 2; w.dispatchEvent(new Event('input'))"
    )
    browser.rest()
    browser.js("document.getElementById('stage').style.display = ''")
    assert browser.complaints() == []


def test_in_a_browser_the_page_is_as_dark_as_the_book_was_made(browser):
    paper = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    bright = (  # whether the contours are drawn in light ink
        "const panel = document.querySelector('.panel.DoG canvas'), { width, height } = panel;"
        "const copy = Object.assign(document.createElement('canvas'), { width, height }).getContext('2d');"
        "copy.drawImage(panel, 0, 0);"
        "return new Uint32Array(copy.getImageData(0, 0, width, height).data.buffer).includes(0xFFECF0F1);"
    )
    for theme, is_dark in (("dark", True), ("light", False)):
        browser.js(f"localStorage.theme = '{theme}'; dispatchEvent(new Event('storage'))")
        assert (sum(browser.js(paper)) < 200) == is_dark
        browser.until(f"(() => {{ {bright} }})() === {str(is_dark).lower()}", seconds=5)
    browser.js("localStorage.removeItem('theme')")


def test_in_a_browser_each_suggestion_shows_what_it_says(browser):
    """Completion: DoG at 1 / 0.6 repairs the unfinished fine-tune, CFG does not; too far: DoG overshoots."""
    for number, settings, better in ((1, "w = 1 / 0.6", "DoG"), (4, "w = 2", "CFG")):
        browser.js(f"document.getElementById('tries').children[{number}].click()")
        browser.js(
            "const w = document.getElementById('w'); w.step = 'any';"
            f"w.value = {settings.split('= ')[1]}; w.dispatchEvent(new Event('input'))"
        )
        browser.rest()
        distance = {p: float(browser.readout(p, "energy").replace("−", "-")) for p in ("CFG", "DoG")}
        worse = {"DoG": "CFG", "CFG": "DoG"}[better]
        assert distance[better] < 0.1 and distance[worse] > 5 * max(distance[better], 0.005)
    assert browser.complaints() == []


def test_in_a_browser_a_link_brings_the_words_of_its_suggestion_and_no_other_s(browser):
    links = {"w=1": 0, "w=2&a=1&hi=0.3": 3, "gap=1.25&breadth=0.7&w=1.5&a=1": 4, "world=gaussians&w=2": None}
    for link, number in links.items():
        browser.js(f"location.hash = '{link}'; dispatchEvent(new Event('hashchange'))")
        tries = "[...document.getElementById('tries').children]"
        pressed = browser.js(f"return {tries}.map((b) => b.getAttribute('aria-pressed') === 'true')")
        assert pressed == [i == number for i in range(7)], link
        told = browser.js("return document.getElementById('try-text').textContent")
        assert told.startswith("These settings came with a link") == (number is None)
    browser.js("location.hash = ''; document.getElementById('reset').click()")
    browser.rest()
    assert browser.complaints() == []


def test_in_a_browser_a_finger_drags_the_star_and_does_not_scroll(browser):
    where = (
        "const star = document.querySelector('.star');"
        "star.scrollIntoView({block: 'end', behavior: 'instant'});"
        "const box = star.getBoundingClientRect(), at = dgtoy.page.flow.params;"
        "return [box.left + box.width / 2, box.top + box.height / 2, at.a, at.b, scrollY]"
    )
    browser.touch("Emulation.setTouchEmulationEnabled", enabled=True)
    x, y, a, b, scrolled = browser.js(where)
    browser.touch("Input.dispatchTouchEvent", type="touchStart", touchPoints=[dict(x=x, y=y)])
    for i in range(1, 9):
        browser.touch(
            "Input.dispatchTouchEvent", type="touchMove", touchPoints=[dict(x=x + 4 * i, y=y - 6 * i)]
        )
    browser.touch("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.touch("Emulation.setTouchEmulationEnabled", enabled=False)
    unit = browser.js("return document.querySelector('svg.plane').getBoundingClientRect().width")
    after = browser.js("return [dgtoy.page.flow.params.a, dgtoy.page.flow.params.b, scrollY]")
    assert (after[1] - b) / (after[0] - a) == pytest.approx(48 / 32, abs=0.2) and after[2] == scrolled
    assert after[1] - b > 48 / unit
    browser.js("document.getElementById('reset').click()")
    browser.rest()


def test_in_a_browser_an_exact_null_makes_cfg_worse_and_the_blurred_self_is_better_than_dog(browser):
    for number, title in ((5, "Exact null"), (6, "Blurred self")):
        browser.js(f"document.getElementById('tries').children[{number}].click()")
        browser.rest()
        assert browser.js("return document.querySelector('.panel.plane h3').textContent") == title
        outside = {p: float(browser.readout(p, "outside").rstrip("%")) for p in ("CFG", "plane")}
        distance = {p: float(browser.readout(p, "energy").replace("−", "-")) for p in ("DoG", "plane")}
        if number == 5:
            assert outside["plane"] > 2 * outside["CFG"]
        else:
            assert outside["plane"] < 2 and distance["plane"] < 0.3 * distance["DoG"]
    assert browser.complaints() == []


def test_in_a_browser_every_control_has_a_name(browser):
    nameless = browser.js(
        "return [...document.querySelectorAll('input, select, button, [tabindex], canvas, [role=slider]')]"
        ".filter((e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
