"""The house: what imports what, what `import dgtoy` costs, and what the library needs."""

import ast
import importlib.metadata
import pathlib
import pydoc
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

import dgtoy

ROOT = pathlib.Path(__file__).resolve().parents[1]
NEEDS = {"torch", "numpy", "safetensors"}
GUESTS = ("dgtoy.interop", "dgtoy.pipeline", "dgtoy.dit.convert")  # may need more, in functions or `try`
EXTRA = {  # the one package more that a module is made for
    "dgtoy.dit.kernels": "triton",  # comes with torch for CUDA
    "dgtoy.interop.guider": "diffusers",  # a subclass of its guiders
    "dgtoy.interop.community.pipeline": "diffusers",  # and one of its pipelines
    "dgtoy.pipeline.cli": "tqdm",  # the package says in one line what it needs
}
DOOR = "dgtoy.__main__"  # the command line: opens both houses


def name_of(path):
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {name_of(path): path for path in sorted((ROOT / "dgtoy").rglob("*.py"))}
LIBRARY = [name for name in PATHS if name != DOOR and not name.startswith("dgtoy.course")]


def imports(module):
    """One (name, whether it is imported with the module itself, whether a failure is caught) per import."""
    path, found = PATHS[module], []
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node, always, caught):
        if isinstance(node, ast.Import):
            found.extend((alias.name, always, caught) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append((inner if inner in PATHS else base, always, caught))
        always = always and not isinstance(node, ast.FunctionDef | ast.Lambda)
        caught = caught or isinstance(node, ast.Try)
        for child in ast.iter_child_nodes(node):
            visit(child, always, caught)

    visit(ast.parse(path.read_text(encoding="utf-8")), True, False)
    return found


def test_the_library_never_imports_the_course():
    broken = [(m, name) for m in LIBRARY for name, *_ in imports(m) if name.startswith("dgtoy.course")]
    assert not broken


def test_with_a_library_module_come_torch_numpy_and_safetensors_and_nothing_else():
    allowed = NEEDS | sys.stdlib_module_names | {"dgtoy"}
    broken = [
        (module, name)
        for module in LIBRARY
        for name, always, caught in imports(module)
        if name.partition(".")[0] not in allowed | {EXTRA.get(module)}
        and not caught
        and (always or not module.startswith(GUESTS))
    ]
    assert not broken


def test_no_two_modules_import_each_other():
    """Module-level imports, followed until they end: none leads back to where it began."""
    edges = {
        module: {name for name, always, _ in imports(module) if always and name in PATHS and name != module}
        for module in PATHS
    }

    def circle(module, path):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        found = next(filter(None, (circle(name, [*path, module]) for name in sorted(edges[module]))), None)
        done.add(module)
        return found

    done = set()
    assert not [found for module in PATHS if (found := circle(module, []))]


def test_help_is_a_page_with_the_five_lines_of_the_readme():
    page = pydoc.plain(pydoc.render_doc(dgtoy))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    five = next(block for block in blocks if "domain_guidance(" in block).splitlines()
    assert len(page.splitlines()) <= 70 and all(line in page for line in five)


def test_a_name_that_is_not_there_is_missed_as_usual():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dgtoy.nothing
    assert dgtoy.theory.gaussian_guidance and dgtoy.guided is dgtoy.guidance.guided


def test_import_dgtoy_loads_nothing_else():
    script = "import sys, dgtoy; print(*[m for m in sys.modules if m in ('torch', 'numpy') or 'dgtoy.' in m])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not loaded.split()


BARE = """
import importlib, re, sys

from importlib.machinery import PathFinder

class Selected(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Selected
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        if not module.startswith("dgtoy.pipeline") or "install the extra" not in str(error):
            raise

import torch
from dgtoy import *

covs = torch.eye(2).expand(4, 2, 2)
model, base = (LabelledMixture(torch.ones(4) / 4, torch.randn(4, 2), covs, [0, 0, 1, 1]) for _ in range(2))
c, sigmas, rng = 0, karras(8, 0.01, 10.0), torch.Generator().manual_seed(0)
exec(lines)
assert x0.shape == (256, 2) and x0.isfinite().all()
from dgtoy import theory, metrics
assert abs(theory.gaussian_guidance((2, .3), (0, 3), 1.5)[0] - 2.0632) < 1e-4
assert metrics.energy_distance(x0, x0) <= 0
"""


def needed(names):
    """Those distributions and all that they ask for, extras aside, by normalised name."""
    found, todo = set(), list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        requirements = map(Requirement, asked)
        todo += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_torch_numpy_and_safetensors_are_enough():
    """Every library module imports, or says which extra it needs; the five lines run."""
    allowed = needed(NEEDS)
    normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
    absent = {
        top
        for top, owners in importlib.metadata.packages_distributions().items()
        if not allowed & set(map(normal, owners)) and top not in ("dgtoy", *sys.stdlib_module_names)
    }
    assert {"scipy", "matplotlib", "sklearn"} <= absent
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = next(block for block in blocks if "domain_guidance(" in block)
    modules = [m for m in LIBRARY if m not in EXTRA]
    script = f"absent, modules, lines = {absent!r}, {modules!r}, {lines!r}\n{BARE}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-2000:]
