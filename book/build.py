"""Builds the book: `make book`. The sources are laid side by side in book/_build/source, then Sphinx turns them into a site.

Notebooks, README and figures keep the places that they have in the repository, so their links to each other hold.
Nothing is executed. MathJax comes from a Python package and is copied into the site, so formulas need no network.
"""

import ast
import importlib.util
import pathlib
import re
import shutil
import sys

import slides
from sphinx.cmd.build import main as sphinx

import dgtoy

BOOK = pathlib.Path(__file__).resolve().parent
ROOT = BOOK.parent
SOURCE, SITE = BOOK / "_build" / "source", BOOK / "_build" / "html"
MATHJAX = ("tex-chtml.js", "output/chtml", "input/tex/extensions")
GROUPS = {
    "The exact world": ("gmm", "labelled", "domains", "theory"),
    "Guidance and sampling": ("guidance", "calibration", "schedules", "samplers"),
    "Networks and training": ("nets", "train", "dit", "vp", "lora", "checkpoint", "weights"),
    "Images": ("glyphs", "features", "latents", "pipeline"),
    "Models from elsewhere": ("interop", "pipelines", "guider"),
    "Measuring and drawing": ("metrics", "plot", "check"),
    "Experiments": ("experiments", "notebooks"),
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
        page.write_text(page.read_text().replace("](../", "]("))
    readme = (ROOT / "README.md").read_text()
    linked = [ROOT / link for link in re.findall(r"\]\(([^)\s:#]+)\)", readme)]
    for path in {
        ROOT / "README.md",
        *filter(pathlib.Path.exists, linked),
        *(ROOT / "notebooks").glob("*.ipynb"),
    }:
        copy(path, SOURCE / path.relative_to(ROOT))
    slides.write(
        sorted((ROOT / "notebooks").glob("*.ipynb")), SOURCE / "_extra" / "slides"
    )  # _extra goes into the site as it is
    if (BOOK / "explorable" / "index.html").exists():
        shutil.copytree(
            BOOK / "explorable",
            SOURCE / "_extra" / "explorable",
            ignore=shutil.ignore_patterns("*.py", "__pycache__"),
        )
    package = pathlib.Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for part in MATHJAX:
        copy(package / "static" / "mathjax" / part, SOURCE / "_static" / "mathjax" / part)


def modules(name):
    """dgtoy.name and, if it is a package, the modules in it."""
    folder = ROOT / "dgtoy" / name
    inner = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("__"))
    return [f"dgtoy.{name}", *(f"dgtoy.{name}.{stem}" for stem in inner)]


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


def api_pages():
    """One page a module of the package, and an index with the public names."""
    present = {
        p.stem for p in (ROOT / "dgtoy").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    } - {"__init__", "__main__"}
    groups = {title: [n for n in names if n in present] for title, names in GROUPS.items()}
    rest = sorted(present - {n for names in groups.values() for n in names})
    lines = ["# The package", "", (BOOK / "api.md").read_text(), "| name | what it is |", "|---|---|"]
    for name in dgtoy.__all__:
        thing = getattr(dgtoy, name)
        lines.append(f"| {{py:obj}}`{name} <{thing.__module__}.{name}>` | {first_sentence(thing.__doc__)} |")
    for title, names in (groups | ({"More": rest} if rest else {})).items():
        lines += [
            "",
            f"## {title}",
            "",
            *(f"- {{doc}}`{n} <{n}>`: {first_sentence(docstring(f'dgtoy.{n}'))}" for n in names),
        ]
        lines += ["", ":::{toctree}", ":hidden:", *names, ":::"]
        for name in names:
            page = [f"# {name}"]
            for module in modules(name):
                page += [
                    *([] if module == f"dgtoy.{name}" else ["", f"## {module.split('.')[-1]}"]),
                    "",
                    "```{eval-rst}",
                    f".. automodule:: {module}",
                    "   :members:",
                    "```",
                ]
            copy_text(SOURCE / "api" / f"{name}.md", page)
    copy_text(SOURCE / "api" / "index.md", lines)


def copy_text(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    lay_out()
    api_pages()
    (SOURCE / "api.md").unlink()
    failed = sphinx(
        [
            "-q",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "-d",
            str(BOOK / "_build" / "doctrees"),
            str(SOURCE),
            str(SITE),
        ]
    )
    sys.exit(failed or print(f"open {SITE.relative_to(ROOT)}/index.html"))
