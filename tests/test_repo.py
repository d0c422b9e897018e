"""What holds for the repository as a whole: the import, the public names, the texts, the notebooks."""

import ast
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import dgtoy

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "dgtoy").rglob("*.py"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
every_module = pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(ROOT)) for p in MODULES])


# the package


def test_the_import_is_light():
    """Under half a second of work more than torch's own import, and neither matplotlib nor scikit-learn."""
    script = (
        "import sys, time, torch; t = time.process_time(); import dgtoy; print(time.process_time() - t, "
        "*[m for m in ('matplotlib', 'sklearn', 'scipy') if m in sys.modules])"
    )
    seconds, *heavy = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 0.5 and not heavy


def test_the_public_surface_is_about_twenty_names():
    assert 15 <= len(dgtoy.__all__) <= 25 and len(set(dgtoy.__all__)) == len(dgtoy.__all__)
    assert all(hasattr(dgtoy, name) for name in dgtoy.__all__)
    told = ", ".join(re.findall(r"^    (\w+(?:, \w+)*)  ", dgtoy.__doc__, re.M)).split(", ")
    assert len(told) > 10 and set(told) <= set(dgtoy._MODULES)


@every_module
def test_every_public_function_and_class_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    public = [
        n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")
    ]
    silent = [n.name for n in public if not ast.get_docstring(n)]
    silent = [
        name for name in silent if not re.fullmatch(r"c\d+", name)
    ]  # a claim's rule is told by the claim's text
    assert not silent


@every_module
def test_no_function_is_longer_than_sixty_lines(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    body = lambda f: f.body[1:] if ast.get_docstring(f) else f.body
    long = [f.name for f in functions if body(f) and body(f)[-1].end_lineno - body(f)[0].lineno + 1 > 60]
    assert not long


@every_module
def test_every_text_is_read_and_written_as_utf_8(path):
    """Windows has code pages that know neither sigma nor a minus sign."""
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    methods = [c for c in calls if getattr(c.func, "attr", "") in ("read_text", "write_text")]
    opened = [c for c in calls if getattr(c.func, "id", "") == "open"]
    texts = methods + [c for c in opened if not any("b" in getattr(a, "value", "") for a in c.args[1:2])]
    assert not [c.lineno for c in texts if "encoding" not in [k.arg for k in c.keywords]]


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_text_names_a_place_on_somebody_s_machine():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures
        hits = re.findall(r"(?<![\w.+/:-])/(?:home|root|Users|work|tmp|mnt|private)/\w+", text)
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert not found


def test_ruff_has_nothing_to_say():
    """Lines of 110 columns, no unused name, imports in order; laid out as `ruff format` does."""
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "dgtoy", "tests", "book"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stdout


def test_nothing_half_written_is_tracked():
    assert not [p.name for p in tracked() if p.suffix == ".part" or "checkpoint" in p.parent.name]


def test_the_environment_is_said_once():
    """Every package that pyproject.toml asks for is pinned at a version it allows; conda goes by both."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pins = {canonicalize_name(name): version.split(";")[0].strip() for name, version in pins}
    extras = project["optional-dependencies"]
    asked = [Requirement(r) for r in sum(extras.values(), project["dependencies"])]
    own = [r for r in asked if r.name == "dgtoy"]  # an extra that brings another
    assert all(r.extras <= extras.keys() for r in own)
    unpinned = {"torchvision"}  # `make env` does without: see the Makefile
    for requirement in [r for r in asked if r not in own and r.name not in unpinned]:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)
    environment = (ROOT / "environment.yml").read_text()
    assert "-c constraints.txt" in environment and "-e .[notebooks,dev,dit]" in environment
    python = re.search(r"python=(\d+\.\d+)", environment)[1]
    assert SpecifierSet(project["requires-python"]).contains(python)


def test_the_library_asks_for_three_packages_and_each_extra_for_what_its_modules_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = lambda requirements: {canonicalize_name(Requirement(r).name) for r in requirements}
    assert names(project["dependencies"]) == {"torch", "numpy", "safetensors"}
    extras = {extra: names(asked) for extra, asked in project["optional-dependencies"].items()}
    course = {"matplotlib", "scipy", "scikit-learn", "tqdm", "pillow"}
    assert extras["course"] == course and "dgtoy" in extras["notebooks"]
    assert {"diffusers", "peft", "datasets", "transformers", "pillow", "tqdm"} <= extras["dit"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `pip install .` builds, unpacked: its folder."""
    root = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "dgtoy", root / "dgtoy", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    run = [sys.executable, "-W", "ignore", "-c", build]
    name = subprocess.run(run, cwd=root, capture_output=True, text=True, check=True).stdout.split()[-1]
    with zipfile.ZipFile(root / name) as archive:
        archive.extractall(root / "unpacked")
    return root / "unpacked"


def test_a_wheel_holds_every_module_and_every_shipped_network(wheel):
    listed = lambda root: {
        p.relative_to(root).as_posix()
        for p in (root / "dgtoy").rglob("*")
        if p.suffix in (".py", ".json", ".safetensors")
    }
    assert listed(wheel) == listed(ROOT) and "dgtoy/shipped/glyphs.safetensors" in listed(wheel)


def test_an_installed_wheel_loads_what_it_ships(wheel):
    code = (
        "import dgtoy, dgtoy.shipped as s; print(dgtoy.__file__, *[s.load(n) is not None for n in s.NAMES])"
    )
    env = os.environ | {"PYTHONPATH": str(wheel)}
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, cwd=wheel, env=env, capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(wheel)) and "False" not in said


# the notebooks


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def text(cell):
    return "".join(cell["source"])


def neighbours(path):
    """The notebooks before and after, by number."""
    by_number = {int(p.stem[:2]): p.name for p in NOTEBOOKS}
    number = int(path.stem[:2])
    return by_number.get(number - 1), by_number.get(number + 1)


def links(cell):
    """Names of the files that a markdown cell links to; neither web addresses nor places in the same page."""
    return [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text(cell)) if not re.match(r"\w+:|#", t)]


@every_notebook
def test_a_notebook_is_executed_from_top_to_bottom(path):
    counts = [c["execution_count"] for c in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_what_a_cell_prints_is_one_text_however_it_came(path):
    for cell in cells(path, "code"):
        kinds = [o["output_type"] for o in cell["outputs"]]
        assert ("stream", "stream") not in set(itertools.pairwise(kinds)), cell["id"]


@every_notebook
def test_a_notebook_shows_neither_errors_nor_warnings(path):
    outputs = [o for c in cells(path, "code") for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    shown = "".join(
        "".join(o.get("text", "")) + "".join(o.get("data", {}).get("text/plain", "")) for o in outputs
    )
    assert not re.search(r"0x[0-9a-f]{6,}|Warning|\bnan\b", shown)


@every_notebook
def test_a_notebook_is_at_most_300_kB_and_those_of_pictures_600(path):
    of_pictures = path.name[:2] in ("09", "10", "11")
    assert path.stat().st_size <= (600_000 if of_pictures else 300_000)


@every_notebook
def test_code_cells_are_short_and_none_ends_in_a_semicolon(path):
    for cell in cells(path, "code"):
        lines = [line for line in text(cell).splitlines() if line.strip()]
        assert 0 < len(lines) <= 20, text(cell)
        assert not lines[-1].rstrip().endswith(";"), text(cell)


@every_notebook
def test_a_notebook_has_20_to_45_cells_and_more_prose_than_code(path):
    prose, code = (sum(len(text(c)) for c in cells(path, kind)) for kind in ("markdown", "code"))
    lesson = [
        c
        for c in cells(path, "markdown") + cells(path, "code")
        if not {"exercise", "solution"} & set(c["metadata"].get("tags", ()))
    ]
    assert 20 <= len(lesson) <= 46  # one of them introduces the exercises
    assert prose > code


@every_notebook
def test_the_title_is_a_question(path):
    title = text(cells(path, "markdown")[0]).splitlines()[0]
    assert re.fullmatch(r"# .+\?", title)


@every_notebook
def test_a_notebook_opens_with_goals_needs_runtime_and_neighbours(path):
    first = cells(path, "markdown")[0]
    assert 2 <= len(re.findall(r"^- ", text(first), re.MULTILINE)) <= 4
    assert re.search(r"\bneeds?\b", text(first), re.IGNORECASE)
    assert re.search(
        r"(about|under) (\d+|a|one|half a) (s|second|minute)s? on two CPU cores",
        " ".join(text(first).split()),
    )
    assert all(name in links(first) for name in neighbours(path) if name)


@every_notebook
def test_a_notebook_closes_with_three_takeaways_a_limitation_and_the_next(path):
    last = cells(path, "markdown")[-1]
    assert json.loads(path.read_text())["cells"][-1]["cell_type"] == "markdown"
    assert re.search(r"take[ -]?aways?", text(last), re.IGNORECASE)
    assert re.findall(r"^(\d)\. ", text(last), re.MULTILINE) == ["1", "2", "3"]
    assert len(re.findall(r"limitation", text(last), re.IGNORECASE)) == 1
    following = neighbours(path)[1]
    assert following is None or following in links(last)


@every_notebook
def test_every_prediction_is_asked_before_its_answer(path):
    """They take turns: an edit once took a question away, and its folded answer stood alone."""
    prose = "\n".join(text(c) for c in cells(path, "markdown"))
    turns = re.findall(r"\*\*Predict\.\*\*|## Your turn|<b>Answer</b>", prose)
    assert len(turns) % 2 == 0 and set(turns[1::2]) == {"<b>Answer</b>"}
    assert "<b>Answer</b>" not in turns[::2]


@every_notebook
def test_no_line_inside_a_paragraph_begins_like_a_list(path):
    """Markdown would break the paragraph there: after "the widths 0.4 and" a line "3. The target"."""
    marked = re.compile(r"\s*(\d+[.)]|[-+*>#])\s")
    for cell in cells(path, "markdown"):
        for paragraph in text(cell).split("\n\n"):
            first, *others = paragraph.splitlines()
            opens_a_list = marked.match(first) or first.startswith("**After this notebook")
            assert opens_a_list or not any(marked.match(line) for line in others), paragraph


@every_notebook
def test_every_link_leads_somewhere(path):
    missing = [
        name for c in cells(path, "markdown") for name in links(c) if not (path.parent / name).exists()
    ]
    assert not missing


@every_notebook
def test_a_notebook_carries_no_more_metadata_than_its_kernel(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3" and "jupytext" not in notebook["metadata"]
    ids = [c["id"] for c in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_jupyterlab_is_opened_where_it_finds_figures_and_pages_with_one_thread_a_kernel():
    """It shows nothing from above the folder that it serves: here the one in which `make lab` runs."""
    recipe = re.search(r"^lab: env\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    threads, _, _, *options = recipe.partition("#")[0].split()
    assert threads == "OMP_NUM_THREADS=1"  # what book/running.md says about Jupyter without make
    assert options and all(option.startswith("--") for option in options)
    assert "--LabApp.default_url=/lab/tree/notebooks" in options
