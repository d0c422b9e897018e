"""Trained networks and finished cells on disk, each under a digest of all that
determines it: its inputs and its code.

Nobody keeps a list of modules. The code of a result is read from the syntax trees: from the functions and
classes that make it, every name that they use is followed through their package, and what is reached counts,
without comments, layout and docstrings. A figure is never reached, so a figure may change.
"""

import ast
import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import pathlib
import sys
import time

import torch
from tqdm import tqdm

from ..checkpoint import read_safetensors, write_text


def folder():
    """Where results are kept: DGTOY_CACHE, or ~/.cache/dgtoy. Deleting it is always safe."""
    return pathlib.Path(os.environ.get("DGTOY_CACHE") or "~/.cache/dgtoy").expanduser()


@contextlib.contextmanager
def writing():
    """The block writes into the cache. Raises OSError that says what to do where that cannot be done."""
    try:
        yield
    except OSError as e:
        place = pathlib.Path(str(e.filename))  # a file in the folder, or a folder above that cannot be made
        ours = place.is_relative_to(folder()) or folder().is_relative_to(place)
        if not ours and e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"the cache {folder()} cannot be written ({e.strerror}); set DGTOY_CACHE to a folder that can be"
        ) from None


def path(name, inputs, code):
    """The file of a network. inputs: all that it is made from (`digest`). code: the functions
    and classes that make it (`Code`)."""
    return folder() / f"{name}-{digest(inputs, torch.__version__, Code(*code).text())[:16]}.safetensors"


def cells(work, config, device, keys, part=(0, 1), progress=False):
    """work(config, device, *key) for every key, each result kept: what was interrupted goes on.

    The number of seeds is not part of a cell's name, so more seeds leave the cells of fewer as they are.
    part: (i, n) does the i-th of n shares of the keys, for several processes side by side.
    -> {key: result}, and the seconds that all of it took, whenever that was
    """
    found, seconds, name = {}, 0.0, work.__module__.rpartition(".")[2]
    code = Code(work, *_classes(config)).text()
    same = digest(_seedless(config), torch.device(device).type, torch.__version__, code)
    with writing():
        folder().mkdir(parents=True, exist_ok=True)  # found out before any work
    for key in tqdm(list(keys)[part[0] :: part[1]], name, disable=not progress, mininterval=5):
        file = folder() / f"{name}-{digest(same, key)[:16]}.json"
        if _kept(file) is None:
            started = time.time()
            result = work(config, device, *key)
            with writing():
                write_text(file, json.dumps(dict(seconds=time.time() - started, result=result)))
        found[key], spent = _kept(file)
        seconds += spent
    return found, seconds


def _kept(file):
    """A cell's result and seconds; None where a crash left less, or there are none."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept["result"], kept["seconds"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def drop_damaged(path):
    """Remove a network's file that cannot be read, as a crash of the machine leaves one: it is made again."""
    try:
        read_safetensors(path)
    except FileNotFoundError:
        pass
    except ValueError:
        path.unlink()


def _seedless(config):
    """A dataclass as a dict, at any depth without the number of seeds."""
    if not dataclasses.is_dataclass(config):
        return config
    names = [f.name for f in dataclasses.fields(config) if f.name != "seeds"]
    return {name: _seedless(getattr(config, name)) for name in names}


def _classes(config):
    """The class of a dataclass, and those of its fields at any depth."""
    if not dataclasses.is_dataclass(config):
        return set()
    return {type(config)}.union(*(_classes(getattr(config, f.name)) for f in dataclasses.fields(config)))


def digest(*values):
    """The SHA-256 of values: of a tensor its numbers, of an object what its constructor was given.

    Raises TypeError for an object that does not keep its constructor's arguments as
    attributes of their names.
    """
    sha = hashlib.sha256()
    for value in values:
        sha.update(_described(value))
    return sha.hexdigest()


def _described(value):
    name = type(value).__qualname__
    if value is None or isinstance(value, (str, int, float)):
        return f"{name} {value!r};".encode()
    if isinstance(value, torch.Tensor):
        numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return f"{value.dtype} {tuple(value.shape)} ".encode() + numbers.numpy().tobytes()
    if isinstance(value, (tuple, list)):
        return f"{name} {len(value)} {digest(*value)};".encode()
    if isinstance(value, dict):
        return f"{name} {digest(*value.items())};".encode()
    given = list(inspect.signature(type(value)).parameters)
    missing = [n for n in given if not hasattr(value, n)]
    if missing:
        raise TypeError(f"a {name} has no attribute {missing[0]}; expected each argument of its constructor")
    return f"{name} {digest({n: getattr(value, n) for n in given})};".encode()


class Code:
    """What functions and classes rest on: every definition of their package that they reach, as text.

    found: {(module, name): its syntax trees as text}; under the name "" what a module does beyond defining
    names, and digests of the data beside a package's code. Raises ValueError for a root outside the package.
    """

    def __init__(self, *roots, package=__name__.partition(".")[0]):
        self.package, self.found = package, {}
        self._source = functools.cache(self._source)  # a file's time is asked for once
        for root in roots:
            if self._source(root.__module__) is None:
                raise ValueError(f"{root.__qualname__} is of {root.__module__}; expected code of {package}")
            self._reach(root.__module__, root.__qualname__.partition(".")[0])

    def text(self):
        """All that was found, for `digest`."""
        return "\n".join(f"{key} {self.found[key]}" for key in sorted(self.found))

    def _reach(self, module, name, *rest):
        """What name.rest stands for in a module: a definition there, an import, or a module inside it, of
        which `rest` names what is used; without `rest` all that it defines."""
        source, inner = self._source(module), f"{module}.{name}".lstrip(".")
        if source:
            self._enter(module, "", source)
        known = source and (name in source.definitions or name in source.imports)
        if known and name in source.definitions:
            self._enter(module, name, source)
        if known:
            for origin in sorted(source.imports.get(name, ())):
                self._reach(*origin, *rest)
        elif self._source(inner):
            for names in [rest] if rest else [[name] for name in self._source(inner).definitions]:
                self._reach(inner, *names)
        elif source and "__getattr__" in source.definitions:
            self._enter(module, "__getattr__", source)

    def _enter(self, module, name, source):
        """Keep a definition, and reach what it uses."""
        if (module, name) in self.found:
            return
        self.found[module, name], used = told(source, name)
        for names in used:
            self._reach(module, *names)

    def _source(self, module):
        """A module of the package as read, None for any other."""
        top, *rest = module.split(".")
        if top != self.package:
            return None
        file = pathlib.Path(sys.modules[top].__file__).parent.joinpath(*rest)
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        return read(module, file, file.stat().st_mtime_ns) if file.exists() else None


@dataclasses.dataclass(eq=False)  # what is told of one is kept
class Source:
    """A module as read: definitions {name: syntax trees}, "" for its other statements and the data beside
    it; imports {name: {(module, name there)}}, several where functions import different things by it."""

    definitions: dict
    imports: dict


@functools.cache
def told(source, name):
    """A definition of a `Source`: its syntax trees as text, and what it refers to."""
    nodes = source.definitions[name]
    return "".join(map(ast.dump, nodes)), names_in(nodes)


@functools.cache
def read(module, file, changed):
    """A module's `Source`; changed: when its file was, so that it is read again if it changes."""
    tree = _Effective().visit(ast.parse(file.read_bytes()))
    definitions, imports, package = {"": []}, collections.defaultdict(set), module.rpartition(".")[0]
    if file.name == "__init__.py":
        package = module
        definitions[""].append(ast.Constant(_data_beside(file)))
    for node in tree.body:
        for name in _defines(node):
            definitions.setdefault(name, []).append(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                imports[alias.asname or alias.name].add((origin, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                above, _, name = whole.rpartition(".")
                imports[alias.asname or name].add((above, name))
    return Source(definitions, imports)


class _Effective(ast.NodeTransformer):
    """Takes out statements that are a mere constant, such as docstrings."""

    def visit_Expr(self, node):
        return None if isinstance(node.value, ast.Constant) else node


def _defines(node):
    """The names that a statement defines: of a function, a class or an assignment; "" for any other."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return []
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)] or [""]


def _data_beside(file):
    """Name and digest of each file in a package's folder that is not code, such
    as the networks of `shipped`."""
    data = [
        p for p in sorted(file.parent.iterdir()) if p.is_file() and p.suffix != ".py" and p.name[0] != "."
    ]
    return "".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()} " for p in data)


def names_in(nodes):
    """What pieces of code refer to: ("a", "b", "c") for a.b.c.  -> sorted"""
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if text.replace(".", "").isidentifier():
            found.add(tuple(text.split(".")))
        else:
            waiting += ast.iter_child_nodes(node)
    return sorted(found)
