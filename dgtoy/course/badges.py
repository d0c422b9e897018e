"""The repository's address, which only its owner knows: badges for Binder and Colab, Colab's first cell."""

import json
import pathlib
import re

from ..checkpoint import write_text

# The first code cell of every notebook, before and after the address is known.
ASK = '''from importlib.util import find_spec

assert find_spec("dgtoy"), "dgtoy is missing: `pip install -e .` in its folder, then open this notebook"'''
FETCH = """from importlib.util import find_spec
from pathlib import Path

if not find_spec("dgtoy"):  # on Colab: fetch the course and install it
    !git clone -q --depth 1 https://github.com/{repository} dgtoy && pip install -q --no-deps ./dgtoy
if Path("dgtoy/notebooks").is_dir():  # also after a restart of the session
    %cd -q dgtoy/notebooks"""


def insert(repository, root="."):
    """Write the address OWNER/NAME into README.md, the notebooks and pyproject.toml.  -> the paths

    The same address again changes nothing, another takes its place. Raises ValueError for another form of it,
    FileNotFoundError for a root without README.md or pyproject.toml.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository is {repository}; expected OWNER/NAME")
    root = pathlib.Path(root)
    readme, project = root / "README.md", root / "pyproject.toml"
    for path in (readme, project):
        if not path.is_file():
            raise FileNotFoundError(f"root {root} holds no {path.name}; expected the repository's folder")
    pictures = _badges(repository, "figures", "notebooks", "")
    write_text(readme, _under_the_title(readme.read_text(encoding="utf-8"), pictures))
    write_text(project, _with_page(project.read_text(encoding="utf-8"), repository))
    books = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    for path in books:
        book = json.loads(path.read_text(encoding="utf-8"))
        place = f"notebooks/{path.name}"
        pictures = _badges(repository, "../figures", place, f"/blob/main/{place}")
        _change(book["cells"][0], lambda text, pictures=pictures: _under_the_title(text, pictures))
        first = next(cell for cell in book["cells"] if cell["cell_type"] == "code")
        _change(first, lambda _: FETCH.format(repository=repository))
        write_text(path, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    return [readme, project, *books]


def _badges(repository, figures, tree, blob):
    """Two pictures that are links, one a line."""
    return (
        f"[![Run on Binder]({figures}/run-binder.svg)]"
        f"(https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{tree})\n"
        f"[![Run on Colab]({figures}/run-colab.svg)]"
        f"(https://colab.research.google.com/github/{repository}{blob})"
    )


def _under_the_title(text, badges):
    """Put the badges under the first heading, in the place of those that are there."""
    text = re.sub(r"(\[!\[Run on \w+\].*\n)+\n?", "", text)
    return re.sub(r"^# .*\n", lambda title: f"{title[0]}\n{badges}\n", text, count=1, flags=re.M)


def _with_page(text, repository):
    """Name the repository among the project's addresses."""
    text = re.sub(r"\[project\.urls\]\n.*\n\n", "", text)
    page = f'[project.urls]\nRepository = "https://github.com/{repository}"\n\n'
    return text.replace("[project.optional-dependencies]", page + "[project.optional-dependencies]", 1)


def _change(cell, edit):
    """A cell's text, kept as a list of lines."""
    cell["source"] = edit("".join(cell["source"])).splitlines(keepends=True)
