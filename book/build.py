"""Builds the book: `make book`. Sphinx turns sources that are laid out in book/_build/source into a site.

Notebooks and figures keep the places that they have in the repository, so their links to each other hold.
Nothing is executed. MathJax comes from a Python package and is copied into the site, so formulas need no
network.
"""

import ast
import importlib.util
import json
import pathlib
import re
import shutil
import sys

import slides
from sphinx.cmd.build import main as sphinx

import dgtoy
from dgtoy.course.claims import cited, report

BOOK = pathlib.Path(__file__).resolve().parent
ROOT = BOOK.parent
SOURCE, SITE = BOOK / "_build" / "source", BOOK / "_build" / "html"
MATHJAX = ("tex-chtml.js", "output/chtml", "input/tex/extensions")
COURSE = (
    "worlds",
    "lab",
    "records",
    "recipes",
    "plot",
    "player",
    "experiments",
    "claims",
    "check",
    "bench",
    "notebooks",
)
GROUPS = {
    "The exact world": ("gmm", "theory"),
    "Guidance and sampling": ("guidance", "relatives", "calibration", "samplers", "likelihood", "metrics"),
    "Networks and training": (
        "nets",
        "train",
        "trainer",
        "checkpoint",
        "distributed",
        "graphs",
        "shipped",
        "environment",
    ),
    "Diffusion transformers": ("dit", "vp", "pipeline", "interop"),
    "The course": ("course", *(f"course.{name}" for name in COURSE)),
}
TABLES = {  # what only the site shows
    "findings": lambda figures: folded(report.sentences(figures)),
    "modules": lambda figures: module_table(),
    "cards": lambda figures: cards(),
    "cited": lambda figures: cited.table(figures, ROOT / "notebooks"),
}


def copy(path, to):
    """A file or a folder, to the same place under `to`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, to, dirs_exist_ok=True) if path.is_dir() else shutil.copy2(path, to)


def lay_out():
    """Everything that Sphinx reads, where it will look for it."""
    shutil.rmtree(BOOK / "_build", ignore_errors=True)
    shutil.copytree(BOOK, SOURCE, ignore=shutil.ignore_patterns("_build", "explorable", "__pycache__"))
    for page in SOURCE.glob("*.md"):  # here the pages of book/ stand beside notebooks/, not below
        text = page.read_text().replace("](../", "](")
        for name, table in TABLES.items():
            if f"<!-- {name} -->" in text:
                text = report.put(text, name, table(ROOT / "figures"))
        page.write_text(text)
        for link in re.findall(r"\]\(([^)\s:#]+)\)", text):
            if (ROOT / link).is_file() and not (SOURCE / link).exists():
                copy(ROOT / link, SOURCE / link)
    for path in (*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "figures").glob("*.svg")):  # svg: badges
        copy(path, SOURCE / path.relative_to(ROOT))
    slides.write(
        sorted((ROOT / "notebooks").glob("*.ipynb")), SOURCE / "_extra" / "slides"
    )  # _extra goes into the site as it is
    lay_out_explorable(SOURCE / "_extra" / "explorable")
    package = pathlib.Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for part in MATHJAX:
        copy(package / "static" / "mathjax" / part, SOURCE / "_static" / "mathjax" / part)


def lay_out_explorable(folder):
    """The page to play with, which in the book links back to the course."""
    shutil.copytree(BOOK / "explorable", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    notebooks = [path.stem for path in sorted((ROOT / "notebooks").glob("0[03478]_*.ipynb"))]
    places = [f'<a href="../notebooks/{stem}.html">{stem[:2]}</a>' for stem in notebooks]
    links = (
        f'<p class="small">Part of <a href="../index.html">the course</a>: notebooks {", ".join(places)}.</p>'
    )
    page = folder / "index.html"
    text, count = re.subn("<!-- links to the course.* -->", links, page.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{page} holds {count} places for links to the course; expected 1")
    page.write_text(text, encoding="utf-8")


def folded(findings):
    """A numbered list of findings, each as its first, bold sentence; what was measured opens on a click."""
    found = re.findall(r"^(\d+)\. \*\*(.*?)\*\* (.*)$", findings, re.MULTILINE)
    return "\n\n".join(
        f"<details class='finding'><summary>{i}. {claim}</summary>\n\n{measured}\n\n</details>"
        for i, claim, measured in found
    )


def cards():
    """The cards that end the notebooks, each under a title that leads there."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            card = re.search(r"^\| Card \d\d \|(.*)\|\n((\|.*\n?)+)", "".join(cell["source"]), re.MULTILINE)
            if card:
                title = f"[{card[1].strip()}](notebooks/{path.name})"
                found.append(f"| {path.stem[:2]} | {title} |\n{card[2].rstrip()}")
    return "\n\n".join(found)


def modules(name):
    """dgtoy.name and, if a package, every module below it; those of the course have their own pages."""
    if name == "course":
        return ["dgtoy.course"]
    place = ROOT.joinpath("dgtoy", *name.split("."))
    files = [path.relative_to(ROOT).with_suffix("").parts for path in place.rglob("*.py")]
    found = {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in files}
    return sorted(found) or [f"dgtoy.{name}"]


def first_sentence(text):
    """The first sentence of a docstring as Markdown, with what is not between backticks taken literally."""
    text = re.split(r"(?<=\.)\s", " ".join((text or "").split("\n\n")[0].split()))[0].rstrip(".")
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_\[\]|<>$~{}^])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def docstring(module):
    path = ROOT.joinpath(*module.split("."))
    return ast.get_docstring(
        ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    )


def groups():
    """The modules of GROUPS that there are, and under "More" those that it does not name."""
    package = ROOT / "dgtoy"
    present = [path.relative_to(package).with_suffix("") for path in package.glob("*")]
    present += [path.relative_to(package).with_suffix("") for path in (package / "course").glob("*")]
    names = {".".join(path.parts) for path in present if exists(path)}
    names = {name for name in names if not name.endswith("__")}
    found = {title: [n for n in listed if n in names] for title, listed in GROUPS.items()}
    rest = sorted(names - {n for listed in found.values() for n in listed})
    return found | ({"More": rest} if rest else {})


def exists(path):
    """Whether dgtoy holds this module or package."""
    place = ROOT / "dgtoy" / path
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def module_table():
    """Every module with the first sentence of its docstring, by group."""
    lines = ["| module | its one job |", "|---|---|"]
    for title, names in groups().items():
        lines.append(f"| **{title}** | |")
        for module in (module for name in names for module in modules(name)):
            lines.append(f"| {{py:mod}}`{module.removeprefix('dgtoy.')} <{module}>` | {job(module)} |")
    return "\n".join(lines)


def job(module):
    """The first sentence of a module's docstring, as Markdown."""
    return first_sentence(docstring(module))


def api_pages():
    """One page per module of the package, and an index with the public names."""
    lines = ["# The package", "", (BOOK / "api.md").read_text(), "| name | what it is |", "|---|---|"]
    for name in dgtoy.__all__:
        thing = getattr(dgtoy, name)
        lines.append(f"| {{py:obj}}`{name} <{thing.__module__}.{name}>` | {first_sentence(thing.__doc__)} |")
    for title, names in groups().items():
        lines += ["", f"## {title}", ""]
        lines += [f"- {{doc}}`{name} <{name}>`: {job(f'dgtoy.{name}')}" for name in names]
        lines += ["", ":::{toctree}", ":hidden:", *names, ":::"]
        for name in names:
            copy_text(SOURCE / "api" / f"{name}.md", api_page(name))
    copy_text(SOURCE / "api" / "index.md", lines)


def api_page(name):
    """The lines of a module's page; the modules of a package follow under headings of their own."""
    page = [f"# {name}"]
    for module in modules(name):
        if module != f"dgtoy.{name}":
            page += ["", f"## {module.removeprefix(f'dgtoy.{name}.')}"]
        page += ["", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```"]
    return page


def copy_text(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    lay_out()
    api_pages()
    (SOURCE / "api.md").unlink()
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(BOOK / "_build" / "doctrees")]
    failed = sphinx([*options, str(SOURCE), str(SITE)])
    sys.exit(failed or print(f"open {SITE.relative_to(ROOT)}/index.html"))
