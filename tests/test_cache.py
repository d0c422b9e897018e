"""The cache of trained networks and finished cells: what changes a key, what does not, and what is kept."""

import dataclasses
import errno
import importlib
import itertools
import sys
import types

import pytest
import torch
from helpers import refuses

from dgtoy import Ensemble, Points, Recipe
from dgtoy.course import cache, lab
from dgtoy.course.experiments import images, transfer
from dgtoy.course.worlds import glyphs

FILES = {
    "__init__.py": "",
    "work.py": '''
"""What is done."""
import math
from . import tools
from .parts import Part as Piece

SIZE = 3

def work(x):
    """Doubled."""
    return tools.double(x) * SIZE + Piece().value + math.pi

def figure(record):
    return tools.paint(record)
''',
    "tools.py": """
from .deep.inner import FACTOR

def double(x):
    return FACTOR * x

def paint(record):
    return record
""",
    "parts.py": """
class Base:
    value = 1

class Part(Base):
    pass
""",
    "deep/__init__.py": "from .inner import FACTOR",
    "deep/inner.py": "FACTOR = 2",
}
names = (f"toy{i}" for i in itertools.count())


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A small package on disk: edit(file, old, new) changes it, text() is what its
    function `work` rests on."""
    name = next(names)
    folder = tmp_path / name
    for file, text in FILES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module(f"{name}.work").work
    cache.read.cache_clear()

    class Toy:
        code = staticmethod(lambda: cache.Code(work, package=name))
        text = staticmethod(lambda: cache.Code(work, package=name).text())

        @staticmethod
        def edit(file, old, new):
            before = (folder / file).read_text()
            assert old in before
            (folder / file).write_text(before.replace(old, new))
            cache.read.cache_clear()

    yield Toy
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("work.py", '"""What is done."""', '"""What is done here."""'),
        ("work.py", '"""Doubled."""', "# a comment\n    "),
        ("work.py", "SIZE = 3", "SIZE  =  (3)  # as many as there are"),
        ("work.py", "return tools.paint(record)", "return None"),
        ("tools.py", "def paint(record):", "def paint(record, ax=None):"),
        ("parts.py", "class Part(Base):", "class Unused:\n    pass\n\nclass Part(Base):"),
    ],
)
def test_comments_docstrings_layout_and_figures_change_nothing(toy, file, old, new):
    before = toy.text()
    toy.edit(file, old, new)
    assert toy.text() == before


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("work.py", "SIZE = 3", "SIZE = 4"),
        ("work.py", "math.pi", "math.e"),
        ("tools.py", "FACTOR * x", "x * FACTOR"),
        ("parts.py", "value = 1", "value = 2"),
        ("deep/inner.py", "FACTOR = 2", "FACTOR = 3"),
        ("tools.py", "def double", "print('imported')\n\ndef double"),
    ],
)
def test_a_change_in_anything_that_is_reached_changes_the_code(toy, file, old, new):
    before = toy.text()
    toy.edit(file, old, new)
    assert toy.text() != before


def test_what_functions_import_by_one_name_is_all_counted(toy, tmp_path):
    """A name that is also the module's own, and in each of two functions stands for something else."""
    folder = next(p for p in tmp_path.iterdir())
    text = "SHIFT = 0\n"
    for file in ("first", "second"):
        (folder / f"{file}.py").write_text("SHIFT = 1")
        text += f"def in_{file}():\n    from .{file} import SHIFT\n    return SHIFT\n"
    toy.edit("tools.py", "def double", text + "def double")
    toy.edit("tools.py", "return FACTOR * x", "return FACTOR * x + in_first() + in_second()")
    for file in ("first", "second"):
        before = toy.text()
        toy.edit(f"{file}.py", "SHIFT = 1", "SHIFT = 2")
        assert toy.text() != before


def test_a_module_added_later_is_counted(toy, tmp_path):
    folder = next(p for p in tmp_path.iterdir())
    (folder / "new.py").write_text("SHIFT = 1")
    before = toy.text()
    toy.edit("tools.py", "return FACTOR * x", "from . import new\n\n    return FACTOR * x + new.SHIFT")
    after = toy.text()
    assert (f"{folder.name}.new", "SHIFT") in toy.code().found and after != before
    toy.edit("new.py", "SHIFT = 1", "SHIFT = 2")
    assert toy.text() != after


def test_data_beside_a_reached_package_is_counted(toy, tmp_path):
    before = toy.text()
    (next(p for p in tmp_path.iterdir()) / "deep" / "weights.bin").write_bytes(b"1")
    toy.edit("deep/__init__.py", "from .inner import FACTOR", "from .inner import FACTOR\n\nNAMES = ()")
    toy.edit("tools.py", "from .deep.inner", "from .deep")
    one = toy.text()
    (next(p for p in tmp_path.iterdir()) / "deep" / "weights.bin").write_bytes(b"2")
    cache.read.cache_clear()
    assert len({before, one, toy.text()}) == 3


def test_code_of_another_package_is_refused(toy):
    with refuses("is of torch", "expected code of"):
        cache.Code(torch.nn.Linear)


def test_the_code_of_a_cell_reaches_networks_and_judge_but_no_figure():
    found = cache.Code(images._cell).found
    assert {("dgtoy.dit.network", "DiT"), ("dgtoy.metrics", "prdc"), ("dgtoy.shipped", "load")} <= set(found)
    assert not [key for key in found if "plot" in key[0] or key[1] in ("figure", "gains")]
    assert ("dgtoy.gmm", "GaussianMixture") in cache.Code(lab.pretrained).found


# digests


def test_one_number_of_one_input_changes_the_digest():
    net, x0 = Ensemble.of(range(2), width=4), torch.zeros(2, 3, 2)
    label, recipe = torch.zeros(2, 3, dtype=torch.long), Recipe()
    inputs = lambda: (net.params, Points(x0, label), recipe, glyphs.target())
    before = cache.digest(inputs())
    assert cache.digest(inputs()) == before
    seen = {before}
    net.params["body.0.bias"].data[1, 2] += 1e-6
    seen.add(cache.digest(inputs()))
    x0[1, 2, 0] = 1e-30
    seen.add(cache.digest(inputs()))
    recipe = dataclasses.replace(recipe, ema=0.9991)
    seen.add(cache.digest(inputs()))
    assert len(seen) == 4


@pytest.mark.parametrize(
    "one, other",
    [
        (1, 1.0),
        (1, "1"),
        ((1, 2), [1, 2]),
        (((1,), 2), ((1, 2),)),
        (dict(a=1), dict(b=1)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (glyphs.target(), glyphs.target(layout=1)),
    ],
)
def test_values_that_differ_in_type_shape_or_order_differ_in_digest(one, other):
    assert cache.digest(one) != cache.digest(other)


def test_what_does_not_keep_its_arguments_has_no_digest():
    class Forgetful:
        def __init__(self, n):
            self.m = n

    with refuses("Forgetful", "no attribute n", error=TypeError):
        cache.digest(Forgetful(1))


# what is kept


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DGTOY_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


TINY = lab.PointSetting(
    seeds=2, size=4, width=4, pretrain=Recipe(steps=2, batch=4), finetune=Recipe(steps=2, batch=4)
)


def test_a_network_is_trained_once_for_each_content(folder):
    count = lambda: len(list(folder.glob("*.safetensors")))
    one = lab.finetuned(TINY)
    assert count() == 2  # pre-trained, fine-tuned
    again = lab.finetuned(lab.replace(TINY, samples=3, steps=2))  # nothing that training sees
    assert count() == 2 and all(torch.equal(p, again.params[k]) for k, p in one.params.items())
    lab.finetuned(lab.replace(TINY, size=5))
    assert count() == 3
    lab.finetuned(lab.replace(TINY, pretrain=dict(lr=2e-3)))  # the fine-tune starts elsewhere
    assert count() == 5
    lab.finetuned(lab.replace(TINY, first=1))
    assert count() == 7


DONE = []


def tenfold(config, device, key):
    DONE.append(key)
    return 10 * key


def test_cells_are_done_once_in_shares_or_at_once(folder, monkeypatch):
    monkeypatch.setattr(cache, "Code", lambda *roots: types.SimpleNamespace(text=lambda: "code"))
    DONE.clear()
    config = transfer.Config(TINY)
    keys = [(k,) for k in range(7)]
    parts = [cache.cells(tenfold, config, "cpu", keys, (i, 3))[0] for i in range(3)]
    assert sorted(k for p in parts for k in p) == keys and sorted(DONE) == list(range(7))
    expected = {(k,): 10 * k for k in range(7)}
    assert cache.cells(tenfold, config, "cpu", keys)[0] == expected and len(DONE) == 7
    more = transfer.Config(lab.replace(TINY, seeds=5))
    assert cache.cells(tenfold, more, "cpu", keys)[0] == expected and len(DONE) == 7
    other = transfer.Config(lab.replace(TINY, steps=31))
    assert cache.cells(tenfold, other, "cpu", keys)[0] == expected and len(DONE) == 14


@pytest.mark.parametrize("left", [b"", b"{}", b"[1]", b'{"seconds": 1'])
def test_what_a_crash_left_of_a_file_is_made_again(left, folder, monkeypatch):
    monkeypatch.setattr(cache, "Code", lambda *roots: types.SimpleNamespace(text=lambda: "code"))
    work = lambda: cache.cells(tenfold, transfer.Config(TINY), "cpu", [(1,)])[0]
    net = lab.pretrained(TINY)
    assert work() == {(1,): 10}
    for file in (*folder.glob("*.json"), *folder.glob("*.safetensors")):
        file.write_bytes(left)
    assert work() == {(1,): 10}
    assert all(torch.equal(p, net.params[k]) for k, p in lab.pretrained(TINY).params.items())


@pytest.mark.parametrize("make", ["a file", "a file above", "a device without room"])
def test_a_cache_that_cannot_be_written_is_named_with_the_remedy_before_any_work(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    where = {"a file": tmp_path / "file", "a file above": tmp_path / "file" / "a" / "b"}.get(make, tmp_path)
    monkeypatch.setenv("DGTOY_CACHE", str(where))
    said = [f"the cache {where} cannot be written", "set DGTOY_CACHE to a folder that can be"]
    if where == tmp_path:
        with refuses(*said, "No space left on device", error=OSError), cache.writing():
            raise OSError(errno.ENOSPC, "No space left on device")
        return
    with refuses(*said, error=OSError):
        lab.finetuned(TINY)
    DONE.clear()
    monkeypatch.setattr(cache, "Code", lambda *roots: types.SimpleNamespace(text=lambda: "code"))
    with refuses(*said, error=OSError):
        cache.cells(tenfold, transfer.Config(TINY), "cpu", [(1,)])
    assert not DONE


def test_what_fails_elsewhere_while_the_cache_is_written_is_told_as_it_is(folder):
    with refuses("photos", error=FileNotFoundError), cache.writing():
        open(folder.parent / "photos")
