"""What lets the course run elsewhere: conda, Binder, Colab, nbgrader; headings and words for figures."""

import html.parser
import json
import pathlib
import re
import shutil
import sys
import tomllib

import pytest
from helpers import refuses
from IPython.core.inputtransformer2 import TransformerManager

from dgtoy.course import badges

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(SITE.rglob("*.html"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def first_cell(path):
    return "".join(json.loads(path.read_text())["cells"][0]["source"])


# run anywhere


def first_code(path):
    return next(c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")


class Shell:
    """What a notebook's first code cell meets; it notes what is asked of it."""

    def __init__(self):
        self.asked = []

    def system(self, command):
        self.asked.append(command)

    def run_line_magic(self, name, line):
        self.asked.append(f"{name} {line}")


def run_first_code(path, installed, monkeypatch):
    """What the first code cell asks of the shell where dgtoy is installed, or is not."""
    code = TransformerManager().transform_cell("".join(first_code(path)["source"]))
    shell = Shell()
    with monkeypatch.context() as patch:
        if not installed:
            patch.setitem(sys.modules, "dgtoy", None)
        exec(code, {"get_ipython": lambda: shell})
    return shell.asked


@every_notebook
def test_the_first_code_cell_does_nothing_where_dgtoy_is_installed_and_else_says_what_to_do(
    path, monkeypatch
):
    cell = first_code(path)
    assert "".join(cell["source"]) == badges.ASK
    assert cell["metadata"]["tags"] == ["remove-cell"] and not cell["outputs"]
    assert run_first_code(path, True, monkeypatch) == []
    with pytest.raises(AssertionError, match="dgtoy is missing: `pip install -e .`"):
        run_first_code(path, False, monkeypatch)


def test_no_text_shows_a_placeholder_for_the_address():
    shown = [ROOT / "README.md", ROOT / "pyproject.toml", *NOTEBOOKS, *(ROOT / "book").glob("*.*")]
    assert not [p.name for p in shown if "OWNER" in p.read_text()]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A copy of what a reader sees, after `make badges REPO=ada/course`."""
    root = tmp_path_factory.mktemp("published")
    (root / "notebooks").mkdir()
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *NOTEBOOKS):
        shutil.copy(path, root / path.relative_to(ROOT))
    badges.insert("ada/course", root)
    return root


def texts(root):
    return {p.relative_to(root): p.read_text() for p in root.rglob("*.*")}


@every_notebook
def test_badges_open_a_notebook_on_binder_and_on_colab_where_its_first_cell_fetches_the_course(
    path, published, monkeypatch, tmp_path
):
    place = path.relative_to(ROOT).as_posix()
    lines = first_cell(published / place).splitlines()
    assert lines[0].startswith("# ") and lines[1] == lines[4] == ""
    assert lines[2].endswith(
        f"../figures/run-binder.svg)](https://mybinder.org/v2/gh/ada/course/main?urlpath=lab/tree/{place})"
    )
    assert lines[3].endswith(
        f"../figures/run-colab.svg)](https://colab.research.google.com/github/ada/course/blob/main/{place})"
    )
    monkeypatch.chdir(tmp_path)
    assert run_first_code(published / place, True, monkeypatch) == []
    (tmp_path / "dgtoy" / "notebooks").mkdir(parents=True)  # as the clone leaves it
    assert run_first_code(published / place, False, monkeypatch) == [
        "git clone -q --depth 1 https://github.com/ada/course dgtoy && pip install -q --no-deps ./dgtoy",
        "cd -q dgtoy/notebooks",
    ]
    assert run_first_code(published / place, True, monkeypatch) == ["cd -q dgtoy/notebooks"]  # restarted


def test_badges_change_nothing_else(published):
    """What was there is there, but for the first code cell; the readme's badges follow its title."""
    for name, text in texts(published).items():
        before, after = (set(t.splitlines()) for t in ((ROOT / name).read_text(), text))
        added = after - before
        assert len(added) <= 9 and len(before - after) <= 1 and any("ada/course" in line for line in added)
    readme = (published / "README.md").read_text().splitlines()
    assert readme[2].startswith(
        "[![Run on Binder](figures/run-binder.svg)](https://mybinder.org/v2/gh/ada/cou"
    )
    assert readme[3].startswith(
        "[![Run on Colab](figures/run-colab.svg)](https://colab.research.google.com/gi"
    )
    project = tomllib.loads((published / "pyproject.toml").read_text())["project"]
    assert project.pop("urls") == {"Repository": "https://github.com/ada/course"}
    assert project == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_badges_twice_are_badges_once_and_another_address_takes_the_place_of_the_first(published, tmp_path):
    root = shutil.copytree(published, tmp_path / "again")
    badges.insert("bob/other", root)
    assert not [name for name, text in texts(root).items() if "ada/course" in text]
    badges.insert("ada/course", root)
    assert texts(root) == texts(published)


def test_badges_ask_for_the_repository_s_folder_before_they_write_anything(tmp_path):
    with refuses(f"root {tmp_path} holds no README.md; expected the rep", error=FileNotFoundError):
        badges.insert("ada/course", tmp_path)
    (tmp_path / "README.md").write_text("# Mine\n")
    with refuses("holds no pyproject.toml", error=FileNotFoundError):
        badges.insert("ada/course", tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


@every_notebook
def test_the_first_cell_leads_to_the_table_of_notation(path):
    assert "](../book/notation.md)" in first_cell(path)


def test_binder_stages_the_repository_and_fetches_no_cuda():
    """Binder copies the repository before it installs if a line for pip names a local file, as ours do."""
    yaml = pytest.importorskip("yaml")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"] and "pip" in conda
    assert all(line.startswith(("-c ", "-e .")) for line in pip["pip"])
    torch = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert f"pytorch-cpu={torch}" in conda


@every_notebook
def test_exercises_pass_nbgrader_s_own_validator(path):
    nbgrader = pytest.importorskip("nbgrader.nbgraderformat")
    notebook = nbgrader.read(path, as_version=4)
    nbgrader.MetadataValidator().validate_nb(notebook)
    graded = [c.metadata["nbgrader"]["grade_id"] for c in notebook.cells if "nbgrader" in c.metadata]
    assert len(set(graded)) == len(graded) and (len(graded) >= 3 or path.stem.startswith("00"))


def test_nbgrader_s_validator_refuses_what_is_wrong():
    nbgrader = pytest.importorskip("nbgrader.nbgraderformat")
    notebook = nbgrader.read(NOTEBOOKS[1], as_version=4)
    del next(c for c in notebook.cells if "nbgrader" in c.metadata).metadata["nbgrader"]["grade_id"]
    with pytest.raises(nbgrader.ValidationError):
        nbgrader.MetadataValidator().validate_nb(notebook)


# read by everyone


def jumps(levels):
    """Places where a heading is more than one level below the one before; a page begins at level 1."""
    return [(a, b) for a, b in zip([0, *levels], levels) if b > a + 1]


@every_notebook
def test_headings_of_a_notebook_come_in_order(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"]
    text = re.sub(
        r"^```.*?^```", "", "\n".join("".join(c["source"]) for c in cells), flags=re.MULTILINE | re.DOTALL
    )
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels.count(1) == 1 and not jumps(levels)


@every_notebook
def test_every_figure_of_a_notebook_has_words_for_who_cannot_see_it(path):
    words = [
        o["metadata"].get(mime, {}).get("alt", "")
        for c in json.loads(path.read_text())["cells"]
        for o in c.get("outputs", ())
        for mime in o.get("data", {})
        if mime.startswith("image/")
    ]
    assert all(len(w) > 15 for w in words) and "A figure without titles" not in words


class Page(html.parser.HTMLParser):
    """The levels of a page's headings, its language, and its pictures without words."""

    def __init__(self, text):
        super().__init__()
        self.levels, self.silent, self.language = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "img" and not a.get("alt"):
            self.silent.append(a.get("src", "")[:60])
        if tag == "html":
            self.language = a.get("lang")


@pytest.mark.skipif(not PAGES, reason="the book is not built: make book")
def test_pages_of_the_book_have_a_language_headings_in_order_and_words_for_every_picture():
    found = {}
    for path in PAGES:
        page = Page(path.read_text())
        wrong = [*jumps(page.levels), *page.silent, *["no language"] * (page.language != "en")]
        if wrong and "_static" not in path.parts:
            found[path.relative_to(SITE).as_posix()] = wrong
    assert not found
