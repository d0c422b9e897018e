"""What lets the course run elsewhere: conda, Binder, Colab, nbgrader. And who else can read it: order of headings, words for figures."""

import html.parser
import json
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE = ROOT / "book" / "_build" / "html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(SITE.rglob("*.html"))
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def first_cell(path):
    return "".join(json.loads(path.read_text())["cells"][0]["source"])


# run anywhere


@every_notebook
def test_the_first_cell_opens_the_notebook_on_binder_and_on_colab(path):
    text, place, owner = (
        first_cell(path),
        path.relative_to(ROOT).as_posix(),
        ADDRESS.removeprefix("https://github.com/"),
    )
    assert f"run-binder.svg)](https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{place})" in text
    assert f"run-colab.svg)](https://colab.research.google.com/github/{owner}/blob/main/{place})" in text


class Shell:
    """What a notebook's first code cell meets: a shell of that name, which notes what is asked of it."""

    def __init__(self, name):
        self.name, self.asked = name, []

    def __str__(self):
        return self.name

    def system(self, command):
        self.asked.append(command)

    def run_line_magic(self, name, line):
        self.asked.append(f"{name} {line}")


@every_notebook
def test_the_first_code_cell_fetches_the_course_on_colab_and_does_nothing_elsewhere(path):
    from IPython.core.inputtransformer2 import TransformerManager

    code = next(c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
    assert code["metadata"]["tags"] == ["remove-cell"] and not code["outputs"]
    colab, here = (
        Shell("<google.colab._shell.Shell object>"),
        Shell("<ipykernel.zmqshell.ZMQInteractiveShell object>"),
    )
    for shell in (colab, here):
        exec(
            TransformerManager().transform_cell("".join(code["source"])),
            {"get_ipython": lambda shell=shell: shell},
        )
    assert colab.asked == [
        f"cd /content && git clone -q --depth 1 {ADDRESS} && pip install -q --no-deps ./dgtoy",
        "cd -q /content/dgtoy/notebooks",
    ]
    assert not here.asked


@every_notebook
def test_the_first_cell_leads_to_the_table_of_notation(path):
    assert "](../book/notation.md)" in first_cell(path)


def test_the_readme_opens_the_course_at_the_same_address():
    owner, readme = ADDRESS.removeprefix("https://github.com/"), (ROOT / "README.md").read_text()
    assert (
        f"](https://mybinder.org/v2/gh/{owner}/main" in readme
        and f"](https://colab.research.google.com/github/{owner})" in readme
    )


def test_binder_stages_the_repository_and_fetches_no_cuda():
    """Binder copies the whole repository before it installs if a line of pip's names a local file, as ours do."""
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
    """Places where a heading is more than one level below the one before; the first of a page is of level 1."""
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
    outputs = [
        o
        for c in json.loads(path.read_text())["cells"]
        for o in c.get("outputs", ())
        if "image/png" in o.get("data", {})
    ]
    words = [o["metadata"].get("image/png", {}).get("alt", "") for o in outputs]
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
