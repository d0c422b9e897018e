"""How experiments run: at once, or in cells that are kept one by one."""

import functools
import inspect
import time

from .. import cache
from ..records import merge, record


def recorded(run, where=None):
    """run(config, device, progress), which yields rows or returns results, made to return the record.

    where: the device that it always works on, whatever it is given.
    """

    @functools.wraps(run)
    def made(config, device="cpu", progress=False):
        started, results = time.time(), run(config, device, progress)
        if inspect.isgenerator(results):
            results = dict(rows=list(results))
        return record(_name(run), config, results, started, where or device)

    del made.__wrapped__  # help shows the signature of `made`
    return made


def merged(config, device, found):
    """The rows of all cells, each with a list over seeds in each metric."""
    return dict(rows=merge(found.values()))


def in_cells(cell, kinds=lambda config: [()], results=merged, together=False):
    """The functions `compute` and `run` of an experiment whose work falls into cells.

    cell(config, device, *kind, seed): a cell's result, for each of kinds(config) and every seed. together: a
    cell holds all seeds instead, and is given how many.
    results(config, device, {key: result}): what the record holds.
    """

    def compute(config, device="cpu", part=(0, 1), progress=False):
        """The results of every cell, or of a part of them, and the seconds they took."""
        seeds = [config.setting.seeds] if together else config.setting.each_seed()
        keys = [(*kind, s) for kind in kinds(config) for s in seeds]
        return cache.cells(cell, config, device, keys, part, progress)

    def run(config, device="cpu", progress=False):
        """The record, made from every cell."""
        found, seconds = compute(config, device, progress=progress)
        return record(_name(cell), config, results(config, device, found), time.time() - seconds, device)

    return compute, run


def _name(function):
    return function.__module__.rpartition(".")[2]
