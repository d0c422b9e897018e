"""Execute the course's notebooks, two at a time, and record how long each took."""

import asyncio
import contextlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from .. import environment
from ..checkpoint import write_text
from ..checks import check_whole

NOTEBOOKS, FIGURES = pathlib.Path("notebooks"), pathlib.Path("figures")
TIMEOUT = 600  # seconds that a cell may take; `make test` has the same
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # so that two kernels fit on two cores


def execute(names=(), out="build/notebooks", stamp=False, jobs=2):
    """Run notebooks top to bottom, each in a fresh kernel, `jobs` at a time, the longest first.

    names: how their names begin; none is all. out: where the executed ones go, with the seconds of each in
    notebooks.json. None is in place: NOTEBOOKS and FIGURES; a notebook is rewritten only if it ran to its
    end.
    stamp: also write the seconds into each notebook's "Runtime" line, for a release.
    Raises ImportError, naming the extra, without nbclient; ValueError at the end if a notebook failed.
    """
    environment.needs("notebooks", "nbclient", "ipykernel")
    check_whole("jobs", jobs, 1)
    paths, known = _find(names), timed(FIGURES)
    expected = {path.stem: known["seconds"].get(path.stem, 60) for path in paths}
    paths.sort(key=lambda path: -expected[path.stem])
    progress = Progress(expected, jobs)
    asyncio.run(_execute_all(paths, pathlib.Path(out or NOTEBOOKS), jobs, stamp, progress))
    progress.close()
    if progress.errors:
        failed = "; ".join(f"{name}: {error}" for name, error in sorted(progress.errors.items()))
        raise ValueError(f"{len(progress.errors)} of {len(paths)} notebooks failed: {failed}")
    _record(progress.seconds, jobs, pathlib.Path(out or FIGURES))


def time_commands(figures=FIGURES):
    """Time `make run` and `make test`, each from an empty cache, into FIGURES/notebooks.json.  -> as text"""
    took = {}
    _make("env", None)
    for command in ("run", "test"):
        with tempfile.TemporaryDirectory() as cache:
            started = time.time()
            _make(command, cache)
            took[f"make {command}"] = round(time.time() - started, 1)
    found = timed(figures) | dict(commands=took)
    write_text(pathlib.Path(figures) / "notebooks.json", json.dumps(found, indent=1) + "\n")
    return "\n".join(f"{command} {seconds:.0f} s" for command, seconds in took.items())


class Progress:
    """The notebooks that run and the time left: a table rewritten in place on a terminal, else a line each.

    expected: seconds by name, as measured before; what has run by now corrects them for this machine.
    """

    def __init__(self, expected, jobs, stream=None):
        self.expected, self.jobs, self.stream = expected, jobs, stream or sys.stdout
        self.began, self.started, self.seconds, self.errors = time.time(), {}, {}, {}
        self.peak, self.rows = 0, 0

    def start(self, name):
        """A notebook's kernel starts."""
        self.started[name] = time.time()

    def end(self, name, error=None):
        """A notebook ended, well or with an error in one line."""
        self.seconds[name] = round(time.time() - self.started.pop(name), 1)
        if error:
            self.errors[name] = error
        self._say([f"{name:36s} {self.seconds[name]:6.1f} s   {error or self._total()}"])

    def tick(self):
        """Look at the memory, and on a terminal rewrite the table."""
        self.peak = max(self.peak, _memory())
        if self.stream.isatty():
            table = [*map(self._row, self.started), self._total()]
            self._say(table)
            self.rows = len(table)

    def close(self):
        """The last line: how long all took, and the most memory at one time."""
        took, memory = _clock(time.time() - self.began), f"{self.peak / 2**30:.1f} GiB of memory at most"
        self._say([f"{len(self.seconds)} notebooks in {took}, {memory}"])

    def left(self):
        """Seconds until the last notebook ends."""
        now, ended = time.time(), sum(self.expected[name] for name in self.seconds)
        ratio = sum(self.seconds.values()) / ended if ended else 1.0
        rest = {name: ratio * s for name, s in self.expected.items() if name not in self.seconds}
        for name, start in self.started.items():
            rest[name] = max(rest[name] - (now - start), 0)
        return max(sum(rest.values()) / self.jobs, max(rest.values(), default=0))

    def _row(self, name):
        return f"{name:36s} {time.time() - self.started[name]:6.1f} s   of about {self.expected[name]:.0f}"

    def _total(self):
        left = _clock(self.left())
        done = f"{len(self.seconds)} of {len(self.expected)}"
        return f"{done}; {_clock(time.time() - self.began)} so far, about {left} left"

    def _say(self, lines):
        """Print lines in the place of the table."""
        back = f"\x1b[{self.rows}A\x1b[J" if self.rows else ""
        print(back + "\n".join(lines), file=self.stream, flush=True)
        self.rows = 0


async def _execute_all(paths, place, jobs, stamp, progress):
    free = asyncio.Semaphore(jobs)

    async def one(path):
        async with free:
            await _execute_one(path, place, jobs, stamp, progress)

    async def watch():
        while True:
            progress.tick()
            await asyncio.sleep(1)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*map(one, paths))
    watcher.cancel()


async def _execute_one(path, place, jobs, stamp, progress):
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = nbformat.read(path, 4)
    client = NotebookClient(
        book,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # what a cell prints is one text, however it came
        extra_arguments=["--log-level=40"],
        resources=dict(metadata=dict(path=path.parent)),
    )
    progress.start(path.stem)
    error = None
    try:
        await client.async_execute(env=os.environ | (ONE_THREAD if jobs > 1 else {}))
    except CellExecutionError as e:
        error = f"{e.ename}: {' '.join(e.evalue.split())}"
    except (TimeoutError, RuntimeError) as e:  # a cell that does not end, a kernel that died
        error = " ".join(str(e).split())[:200]
    progress.end(path.stem, error)
    if error and place == path.parent:
        return
    book.metadata["language_info"] = {"name": "python"}  # not the version of whoever ran it last
    if stamp:
        _stamp(book, progress.seconds[path.stem])
    write_text(place / path.name, nbformat.writes(book) + "\n")


def _find(names):
    """All notebooks, or those whose names begin so."""
    every = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not every:
        raise FileNotFoundError(f"folder is {NOTEBOOKS}; expected notebooks named 00_... there")
    unknown = [name for name in names if not any(path.stem.startswith(name) for path in every)]
    if unknown:
        raise ValueError(f"notebook is {unknown[0]}; expected {', '.join(path.stem for path in every)}")
    return [path for path in every if not names or path.stem.startswith(tuple(names))]


def timed(folder):
    """What notebooks.json says of the last run, or of none."""
    path = pathlib.Path(folder) / "notebooks.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(seconds={})


def _record(seconds, jobs, folder):
    """Seconds and the machine's own speed into notebooks.json; a notebook that did not run keeps its own."""
    from .bench import machine_speed

    found = timed(folder)
    found["seconds"] = dict(sorted((found["seconds"] | seconds).items()))
    found |= dict(device=f"{os.cpu_count()}-core CPU", jobs=jobs, machine_speed=round(machine_speed(), 5))
    write_text(folder / "notebooks.json", json.dumps(found, indent=1) + "\n")


def _make(command, cache):
    """Run `make COMMAND`, with its networks cached in `cache`."""
    done = subprocess.run(["make", command], env=os.environ | ({"DGTOY_CACHE": cache} if cache else {}))
    if done.returncode:
        raise ValueError(f"make {command} ended with status {done.returncode}; expected 0")


def _memory():
    """Bytes that this process and all its descendants hold; memory that they share counts once for each."""
    import psutil

    total, me = 0, psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _clock(seconds):
    """minutes:seconds"""
    return "{}:{:02d}".format(*divmod(int(seconds), 60))


def _stamp(book, seconds):
    """Round up to 5 s and write it into the first cell where it says how long the notebook takes."""
    runtime = r"(about\s+)\S+(\s+s(?:econds)?\s+on\s+two\s+CPU\s+cores)"
    book.cells[0].source = re.sub(runtime, rf"\g<1>{5 * math.ceil(seconds / 5)}\2", book.cells[0].source)
