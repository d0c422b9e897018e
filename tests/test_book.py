"""The book as built by `make book`: links, files and, in headless Chromium, what a reader gets."""

import collections
import contextlib
import functools
import html.parser
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dgtoy

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
built = pytest.mark.skipif(not PAGES, reason="the book is not built: make book")
browsed = pytest.mark.skipif(
    not (PAGES and CHROMIUM and DRIVER), reason="needs the built book, chromium and chromedriver"
)


def test_what_the_book_needs_is_pinned():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["book"]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, extra):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)


def test_links_within_a_notebook_get_the_book_s_anchors(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "book")
    import links

    source = [json.dumps('[a](#E.-My-own-code) [b](../book/dit.md) <a href="../book/explorable/index.html">')]
    links.beside(None, "notebooks/12", source)
    expected = '[a](#e-my-own-code) [b](../dit.md) <a href="../explorable/index.html">'
    assert json.loads(source[0]) == expected


# without a browser


class Page(html.parser.HTMLParser):
    """The ids of a page, its links, what it loads, and its text outside code and scripts."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.text, self.open = set(), [], [], [], collections.Counter()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.open[tag] += 1
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if a.get("src") or tag == "link" and a.get("href") and a.get("rel") not in ("canonical", "license"):
            self.loads.append(a.get("src") or a["href"])

    def handle_endtag(self, tag):
        self.open[tag] -= 1

    def handle_data(self, data):
        if not any(self.open[tag] > 0 for tag in ("script", "style", "pre", "code", "title")):
            self.text.append(data)


@functools.cache
def parsed(name):
    return Page((SITE / name).read_text(encoding="utf-8"))


def resolved(page, link):
    """The file of the site that a link on a page leads to, and the place in it."""
    path, _, anchor = urllib.parse.unquote(link).partition("#")
    return (SITE / page).parent.joinpath(path.partition("?")[0]).resolve() if path else SITE / page, anchor


def unchanged(path):
    """Whether the book was built from this version of a notebook; a copy keeps its time."""
    copy = SITE.parent / "source" / "notebooks" / path.name
    return copy.exists() and copy.stat().st_mtime == path.stat().st_mtime


def outside(link):
    return re.match(r"(\w+:)?//|mailto:", link) is not None


@built
def test_every_link_and_anchor_leads_somewhere():
    broken = []
    for page in PAGES:
        for link in filter(lambda link: not outside(link), parsed(page).links):
            path, anchor = resolved(page, link)
            path = path / "index.html" if path.is_dir() else path
            if not path.is_file() or not path.is_relative_to(SITE):
                broken.append((page, link))
            elif (
                anchor
                and "=" not in anchor  # settings of the page to play with
                and path.suffix == ".html"
                and anchor not in parsed(path.relative_to(SITE).as_posix()).ids
            ):
                broken.append((page, link))
    assert not broken


@built
def test_nothing_is_loaded_from_outside():
    loads = [(page, load) for page in PAGES for load in parsed(page).loads if not load.startswith("data:")]
    assert not [
        (page, load) for page, load in loads if outside(load) or not resolved(page, load)[0].is_file()
    ]
    styles = [
        (p, url)
        for p in SITE.rglob("*.css")
        for url in re.findall(r"url\(['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", p.read_text())
    ]
    assert not [(p, urls) for p, urls in styles if any(map(outside, urls))]


@built
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_a_notebook_has_a_page_that_offers_it_as_it_is(path):
    page = f"notebooks/{path.stem}.html"
    assert page in PAGES
    offered = [
        resolved(page, link)[0]
        for link in parsed(page).links
        if link.endswith(".ipynb") and not outside(link)
    ]
    assert [p.name for p in offered] == [path.name]  # others are linked as pages, and itself elsewhere
    if not unchanged(path):
        pytest.skip("the notebook has changed since the book was built: make book")
    assert offered[0].read_bytes() == path.read_bytes()


@built
def test_neighbouring_notebooks_are_linked():
    for a, b in zip(NOTEBOOKS, NOTEBOOKS[1:]):
        assert f"{b.stem}.html" in parsed(f"notebooks/{a.stem}.html").links
        assert f"{a.stem}.html" in parsed(f"notebooks/{b.stem}.html").links


@built
def test_solutions_are_folded():
    for path in filter(unchanged, NOTEBOOKS):
        hidden = [
            c for c in json.loads(path.read_text())["cells"] if "hide-input" in c["metadata"].get("tags", ())
        ]
        assert (SITE / "notebooks" / f"{path.stem}.html").read_text().count(
            '<details class="admonition hide'
        ) == len(hidden)


@built
def test_figures_and_tables_of_cells_reach_the_page():
    for page in PAGES:
        named = 'alt="../_images' in (SITE / page).read_text(encoding="utf-8")  # by a path, not described
        text = "".join(parsed(page).text)
        raw = re.search(r"\|\s?[-—]+\|", text)  # a table left as Markdown
        raw = raw or "**" in text and not page.startswith("api/")  # there it is Python
        assert not named and not raw, page


@built
def test_every_public_name_and_every_module_is_documented():
    documented = set().union(*(parsed(page).ids for page in PAGES if page.startswith("api/")))
    things = [getattr(dgtoy, name) for name in dgtoy.__all__]
    assert {f"{thing.__module__}.{thing.__qualname__}" for thing in things} <= documented
    parts = [
        p.relative_to(ROOT).with_suffix("").parts
        for p in (ROOT / "dgtoy").rglob("*.py")
        if p.stem != "__main__"
    ]
    modules = {".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts} - {"dgtoy"}
    assert modules <= {i.removeprefix("module-") for i in documented}


@built
def test_the_landing_page_shows_the_picture_and_the_findings():
    page = parsed("index.html")
    assert any(load.endswith("idea.png") for load in page.loads)
    text = " ".join(" ".join(page.text).split())
    assert "Seven findings" in text and "Equal weight flatters DoG" in text
    source = (SITE / "index.html").read_text(encoding="utf-8")
    folded = re.findall(r"<details class='finding'>(.*?)</details>", source, re.DOTALL)
    assert len(folded) == 7 and all(">record<" in finding for finding in folded)


@built
def test_a_record_that_is_named_leads_to_its_figure():
    """The record `plane`, though a function has that name, too."""
    for page in ("relatives.html", "claims.html"):
        assert "gallery.html#plane" in parsed(page).links
    assert "../gallery.html#calibration" in parsed("notebooks/07_the_guidance_plane.html").links


@built
def test_the_page_of_cards_holds_the_card_of_every_notebook():
    shown = (SITE.parent / "source" / "notebooks").glob("*.ipynb")
    with_card = [p for p in shown if re.search(r"\| Card \d\d \|", p.read_text())]
    page = parsed("cards.html")
    linked = [link for link in page.links if link.startswith("notebooks/")]
    assert len(with_card) > 4 and {f"notebooks/{p.stem}.html" for p in with_card} <= set(linked)
    assert " ".join(page.text).count("Use it") == len(with_card)


@built
def test_the_page_to_play_with_links_back_to_the_course():
    links = parsed("explorable/index.html").links
    assert "../index.html" in links and sum(link.startswith("../notebooks/") for link in links) == 5


@built
def test_the_map_names_every_module_with_its_job():
    page = parsed("modules.html")
    linked = {link.split("#module-")[1] for link in page.links if "#module-" in link}
    files = [p.relative_to(ROOT).with_suffix("").parts for p in (ROOT / "dgtoy").rglob("*.py")]
    modules = {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in files}
    assert linked == {m for m in modules - {"dgtoy"} if not m.endswith("__main__")}


# in a browser


class Browser:
    """Headless Chromium through its driver's HTTP protocol."""

    def __init__(self, port, folder, width=1300, dark=False):
        self.at = f"http://127.0.0.1:{port}/session"
        options = {
            "binary": CHROMIUM,
            "args": [*FLAGS, f"--user-data-dir={folder}", f"--window-size={max(width, 500)},900"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.at += "/" + self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.devtools(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.at + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, cmd, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": cmd, "params": params})

    def run(self, script):
        return self.call(
            "POST", "/execute/async", {"script": f"const done = arguments[0]; {script}", "args": []}
        )

    def open(self, url):
        """Load a page and let MathJax finish.  -> (console messages, addresses that were asked for)"""
        for kind in ("browser", "performance"):  # what the browser's own first page did
            self.call("POST", "/se/log", {"type": kind})
        self.call("POST", "/url", {"url": url})
        self.run(
            "const m = window.MathJax; (m && m.startup && m.startup.promise || Promise.resolve())"
            ".then(() => setTimeout(done, 50))"
        )
        console = [
            entry["message"]
            for entry in self.call("POST", "/se/log", {"type": "browser"})
            if entry["level"] in ("SEVERE", "WARNING")
        ]
        events = [
            json.loads(entry["message"])["message"]
            for entry in self.call("POST", "/se/log", {"type": "performance"})
        ]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return console, [a for a in asked if not a.startswith(("data:", "blob:"))]

    def close(self):
        self.call("DELETE", "")


@contextlib.contextmanager
def driver():
    """A running chromedriver: its port."""
    process = subprocess.Popen(
        [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = next(int(m[1]) for m in (re.search(r"on port (\d+)\.", line) for line in process.stdout) if m)
        for _ in range(100):
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5).close()
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def served():
    """The site over HTTP on this machine: its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        log_message = lambda self, *args: None

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def chrome():
    with driver() as port:
        yield port


@contextlib.contextmanager
def browser(port, folder, **kinds):
    b = Browser(port, folder, **kinds)
    try:
        yield b
    finally:
        b.close()


COUNT = """
const count = what => document.querySelectorAll(what).length;
done([count('.math'), count('mjx-container'), count('mjx-merror, [data-mjx-error]'),
      document.querySelector('article, main, body').innerText])"""
WIDE = """
const scrolls = e => e && !e.matches('body, article, :has(article)')
    && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const apart = e => e.closest('mjx-assistive-mml, .toc-drawer, .sidebar-drawer, svg');
const beyond = e => e.getBoundingClientRect().right > WIDTH + 1;
done([...document.querySelectorAll('body *')].filter(e => !apart(e) && beyond(e) && !scrolls(e.parentElement))
    .map(e => e.outerHTML.slice(0, 120)).slice(0, 5))"""

TABLES = """
const tables = [...document.querySelectorAll(".table-wrapper")];
done(tables.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 80)));"""


@browsed
def test_every_page_loads_alone_and_shows_its_formulas(chrome, tmp_path):
    found = {}
    with served() as site, browser(chrome, tmp_path) as b:
        for page in PAGES:
            console, asked = b.open(site + page)
            marked, rendered, wrong, text = b.run(COUNT)
            found[page] = [*console, *(a for a in asked if not a.startswith(site))]
            found[page] += [f"{rendered} of {marked} formulas"] * (rendered < marked) + [
                f"{wrong} errors in formulas"
            ] * (wrong > 0)
            found[page] += re.findall(r"\\\(.{20}|\$\$.{20}", text)
    assert not {page: problems for page, problems in found.items() if problems}


@browsed
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_wider_than_the_window(chrome, tmp_path, width):
    found = {}
    with served() as site, browser(chrome, tmp_path, width=width) as b:
        for page in PAGES:
            b.open(site + page)
            found[page] = b.run(WIDE.replace("WIDTH", str(width)))
            if width > 1000:  # nor does a table scroll
                found[page] += b.run(TABLES)
    assert not {page: elements for page, elements in found.items() if elements}


@browsed
def test_a_folded_solution_does_not_show_its_output(chrome, tmp_path):
    tagged = [p for p in NOTEBOOKS if '"solution"' in p.read_text()]
    if not tagged:
        pytest.skip("no notebook has a solution")
    seen = (
        "[...document.querySelectorAll('.tag_solution .cell_output')].filter(e => e.offsetHeight > 0).length"
    )
    with served() as site, browser(chrome, tmp_path) as b:
        b.open(f"{site}notebooks/{tagged[0].stem}.html")
        assert b.run(f"done({seen})") == 0
        assert b.run(f"document.querySelectorAll('details').forEach(e => e.open = true); done({seen})") > 0


@browsed
def test_the_page_to_play_with_says_what_it_needs_only_where_its_scripts_are_missing(chrome, tmp_path):
    assert "JupyterLab" in " ".join(parsed("explorable/index.html").text)
    with served() as site, browser(chrome, tmp_path) as b:
        b.open(site + "explorable/index.html")
        assert "JupyterLab" not in b.run("done(document.body.innerText)")


@browsed
def test_a_page_works_from_a_file(chrome, tmp_path):
    with browser(chrome, tmp_path) as b:
        console, asked = b.open((SITE / "notebooks" / f"{NOTEBOOKS[1].stem}.html").as_uri())
        marked, rendered, wrong, _ = b.run(COUNT)
    assert not console and all(a.startswith("file:") for a in asked) and rendered >= marked > 0 and not wrong


@browsed
def test_the_search_finds_what_the_course_says_before_the_package_s_pages(chrome, tmp_path):
    with served() as site, browser(chrome, tmp_path) as b:
        console, _ = b.open(site + "search.html?q=thickness")
        hits = b.run(
            "const found = () => [...document.querySelectorAll('#search-results li a')];"
            "setTimeout(() => done(found().map(a => a.getAttribute('href'))), 3000)"
        )
    assert not console and "notebooks/06_domain_guidance_vs_cfg.html" in hits[:8]


SCROLLS = "e => e.scrollWidth > e.clientWidth + 1"
CUT = """
const cut = [...document.querySelectorAll("article mjx-container")].filter(e => {
  const place = e.closest("td, p:not(td p), li, dd, div");
  const ratio = parseFloat(e.style.fontSize) / parseFloat(e.dataset.size);
  return e.getBoundingClientRect().right > place.getBoundingClientRect().right + 1 && ratio > .59;
});
done(cut.map(e => e.textContent.slice(0, 80)));"""
SMALL = """
const formulas = [...document.querySelectorAll("article mjx-container")];
const small = formulas.filter(e => parseFloat(e.style.fontSize) < .65 * parseFloat(e.dataset.size));
done(small.map(e => e.textContent));"""
BROKEN = """
const rows = line => {
  const range = document.createRange(), begins = new Map();
  range.selectNodeContents(line);
  for (const r of [...range.getClientRects()].filter(r => r.width > 0)) {
    const row = Math.round(r.top / 6);
    begins.set(row, Math.min(begins.get(row) ?? Infinity, r.left));
  }
  return [...begins.values()];
};
const lines = [...document.querySelectorAll("article .cell_input .code-line")].map(rows);
const broken = lines.filter(r => r.length > 1);
const texts = [...document.querySelectorAll("article .cell_input pre")].map(e => e.textContent.trim());
done([broken.length, broken.filter(([first, ...rest]) => rest.some(x => x <= first + 5)).length, texts]);"""
CUT_SHORT = """
const longest = e => Math.max(...e.textContent.split("\\n").map(line => line.length));
const printed = [...document.querySelectorAll("article .cell_output pre")].filter(e => longest(e) < 75);
done(printed.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent));"""
TAP = """
const figure = document.querySelector("article .cell_output img"), before = figure.clientWidth;
figure.click();
const large = document.querySelector("dialog[open] img");
const found = [before, large.clientWidth];
large.click();
setTimeout(() => done([...found, document.querySelectorAll("dialog").length]), 50);"""


@browsed
def test_on_a_phone_code_is_broken_formulas_fit_and_a_tap_shows_a_figure_large(chrome, tmp_path):
    with served() as site, browser(chrome, tmp_path, width=390) as b:
        for page in ("notebooks/04_domain_guidance_exactly.html", "cards.html"):
            b.open(site + page)
            assert b.run(CUT) == [], page
        for name in ("03_what_guidance_really_samples", "07_the_guidance_plane"):
            b.open(f"{site}notebooks/{name}.html")
            assert b.run(SMALL) == [], name  # what stands side by side in a wide window stands in lines here
        b.open(site + "notebooks/04_domain_guidance_exactly.html")
        assert b.run(f"done([...document.querySelectorAll('.cell_input pre')].filter({SCROLLS}).length)") == 0
        before, large, left = b.run(TAP)
        count, flush, texts = b.run(BROKEN)
        assert count > 20 and flush == 0  # a broken line goes on to the right of where it began
        cells = json.loads((SITE.parent / "source/notebooks/04_domain_guidance_exactly.ipynb").read_text())[
            "cells"
        ]
        assert set(texts) <= {"".join(cell["source"]).strip() for cell in cells}  # what is copied
        b.open(site + "notebooks/06_domain_guidance_vs_cfg.html")
        assert b.run(CUT_SHORT) == []
    assert before < 390 and large > 800 and left == 0


@browsed
def test_on_a_phone_the_claims_are_blocks_that_name_their_columns(chrome, tmp_path):
    label = "getComputedStyle(document.querySelector('table.blocks td:nth-child(4)'), '::before').content"
    with served() as site, browser(chrome, tmp_path, width=390) as b:
        b.open(site + "claims.html")
        assert "ours, with its interval" in b.run(f"done({label})")
        assert (
            b.run(
                f"done([...document.querySelectorAll('.table-wrapper:has(.blocks)')].filter({SCROLLS}).length)"
            )
            == 0
        )
        for page, count in (("pipelines.html", 1), ("cards.html", 0)):
            b.open(site + page)  # names as long as a column; words of three letters
            assert b.run("done(document.querySelectorAll('table.blocks').length)") == count, page
        b.open(site + "relatives.html")
        assert b.run(SMALL) == []
