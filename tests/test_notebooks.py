"""Executing the notebooks: beside the tracked files or in place, two at a time, with progress and times."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from types import SimpleNamespace as Box

import nbformat
import pytest
from helpers import refuses, started

from dgtoy.checkpoint import alone
from dgtoy.course import bench, notebooks
from dgtoy.course.notebooks import Progress, execute

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAKEFILE = ROOT / "Makefile"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "machine_speed", lambda: 0.01)
    return tmp_path


def write(name, code):
    """A notebook of one title and one code cell."""
    cells = [
        nbformat.v4.new_markdown_cell("# Why?\n\nIt runs in about 5 seconds on two CPU cores."),
        nbformat.v4.new_code_cell(code),
    ]
    path = pathlib.Path("notebooks", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)) + "\n")
    return path


def output(path):
    return nbformat.read(path, 4).cells[1].outputs[0].text


def files():
    return sorted(p.as_posix() for p in pathlib.Path().rglob("*") if p.is_file())


def test_notebooks_are_executed_beside_the_tracked_ones_and_timed(capsys):
    before = write("00_sum.ipynb", "print(1 + 1)").read_bytes()
    write("01_other.ipynb", "print(3)")
    execute(["00"])
    assert output("build/notebooks/00_sum.ipynb") == "2\n"
    assert pathlib.Path("notebooks/00_sum.ipynb").read_bytes() == before
    assert files() == [
        "build/notebooks/00_sum.ipynb",
        "build/notebooks/notebooks.json",
        "notebooks/00_sum.ipynb",
        "notebooks/01_other.ipynb",
    ]
    said = capsys.readouterr().out
    assert re.search(r"00_sum +\d+\.\d s   1 of 1", said) and "GiB of memory at most" in said


def test_notebooks_are_executed_in_place_and_their_seconds_join_those_of_the_others():
    path = write("00_sum.ipynb", "print(1 + 1)")
    pathlib.Path("figures").mkdir()
    known = dict(seconds={"01_other": 7.0}, commands={"make test": 9.0})
    pathlib.Path("figures/notebooks.json").write_text(json.dumps(known))
    execute(out=None, stamp=True)
    book = nbformat.read(path, 4)
    assert (
        output(path) == "2\n"
        and book.cells[1].execution_count == 1
        and re.search(r"about \d+ s", book.cells[0].source)
    )
    timed = json.loads(pathlib.Path("figures/notebooks.json").read_text())
    assert timed["seconds"].keys() == {"00_sum", "01_other"} and timed["seconds"]["00_sum"] > 0
    assert timed["commands"] == {"make test": 9.0} and timed["machine_speed"] == 0.01 and timed["jobs"] == 2
    assert files() == ["figures/notebooks.json", "notebooks/00_sum.ipynb"]


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs_at_a_time_would_wait_for_ever(jobs):
    write("00_sum.ipynb", "print(1 + 1)")
    with refuses(f"jobs is {jobs}; expected 1 or more"):
        execute(jobs=jobs)


def test_two_run_at_a_time_each_on_one_thread_and_the_longest_starts_first():
    """The two that are expected to take longest wait for each other; the third finds that they have met."""
    code = (
        "import os, pathlib, time\n"
        "pathlib.Path({name!r}).touch()\n"
        "print(os.environ['OMP_NUM_THREADS'], *sorted(p.name for p in pathlib.Path().glob('0?_?')))\n"
        "last = time.time() + 60\n"
        "while not all(map(os.path.exists, {awaited})):\n"
        "    assert time.time() < last\n"
        "    time.sleep(0.01)"
    )
    for name, awaited in (("00_a", []), ("01_b", ["02_c"]), ("02_c", ["01_b"])):
        write(f"{name}.ipynb", code.format(name=name, awaited=awaited))
    pathlib.Path("figures").mkdir()
    seconds = {"00_a": 1, "01_b": 5, "02_c": 9}
    pathlib.Path("figures/notebooks.json").write_text(json.dumps(dict(seconds=seconds)))
    execute()
    one, *found = output("build/notebooks/00_a.ipynb").split()
    assert one == "1" and found == ["00_a", "01_b", "02_c"]
    assert all(output(f"build/notebooks/{n}.ipynb").split()[0] == "1" for n in ("01_b", "02_c"))


def test_a_notebook_that_fails_in_place_is_left_as_it_was_and_the_others_go_on(capsys):
    bad = write("00_bad.ipynb", "1 / 0")
    good = write("01_good.ipynb", "print(5)")
    before = bad.read_bytes()
    with refuses("1 of 2 notebooks failed", "00_bad: ZeroDivisionError: division by zero"):
        execute(out=None)
    assert bad.read_bytes() == before and output(good) == "5\n"
    assert files() == ["notebooks/00_bad.ipynb", "notebooks/01_good.ipynb"]
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_a_kernel_that_dies_is_reported_with_its_traceback_kept_elsewhere():
    write("00_dies.ipynb", "import os; os._exit(1)")
    write("01_bad.ipynb", "1 / 0")
    with refuses("2 of 2 notebooks failed", "00_dies: Kernel died"):
        execute()
    kept = nbformat.read("build/notebooks/01_bad.ipynb", 4).cells[1].outputs[0]
    assert kept.output_type == "error" and kept.ename == "ZeroDivisionError"


def test_a_folder_without_notebooks_and_a_name_that_none_has_are_refused():
    with refuses("folder is notebooks", error=FileNotFoundError):
        execute()
    write("00_sum.ipynb", "1")
    with refuses("notebook is 77; expected 00_sum"):
        execute(["77"])


def test_executing_without_nbclient_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nbclient", None)
    with refuses("nbclient missing", "'.[notebooks]'", error=ImportError):
        execute()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """What a terminal shows after text with "up n lines" and "clear below"."""
    lines = [""]
    for up, plain in re.findall(r"\x1b\[(\d+)A\x1b\[J|([^\x1b]+)", text):
        if up:
            del lines[-1 - int(up) :]
            lines.append("")
        first, *more = plain.split("\n")
        lines[-1] += first
        lines += more
    return lines


def test_the_table_is_rewritten_in_place_on_a_terminal():
    terminal = Terminal()
    progress = Progress({"a": 10, "b": 20}, 2, terminal)
    progress.start("a")
    progress.start("b")
    progress.tick()
    progress.tick()
    assert [line[:1] for line in screen(terminal.getvalue())] == ["a", "b", "0", ""]
    progress.end("b")
    progress.tick()
    shown = screen(terminal.getvalue())
    assert [line[:1] for line in shown] == ["b", "a", "1", ""]
    progress.end("a", "ValueError: no")
    progress.close()
    shown = screen(terminal.getvalue())
    assert [line[:1] for line in shown] == ["b", "a", "2", ""] and "ValueError: no" in shown[1]


def test_elsewhere_a_line_is_written_when_a_notebook_ends():
    stream = io.StringIO()
    progress = Progress({"a": 10, "b": 20}, 2, stream)
    progress.start("a")
    progress.tick()
    assert stream.getvalue() == "" and progress.peak > 2**20
    progress.end("a")
    assert len(stream.getvalue().splitlines()) == 1


def test_the_time_left_follows_what_was_measured_on_this_machine(monkeypatch):
    clock = Box(now=0.0)
    monkeypatch.setattr(time, "time", lambda: clock.now)
    progress = Progress({"a": 10, "b": 20, "c": 30}, 2, io.StringIO())
    assert progress.left() == 30
    assert Progress({"a": 10, "c": 30}, 2, io.StringIO()).left() == 30  # of the longest, while one rests
    progress.start("a")
    progress.start("c")
    clock.now = 20.0
    progress.end("a")  # twice as long as expected
    assert progress.left() == 40  # both left: c 60 - 20, b 40; two at a time
    progress.start("b")
    clock.now = 100.0
    assert progress.left() == 0


def test_a_stamp_rounds_up_and_keeps_the_sentence():
    book = Box(cells=[Box(source="It runs in\nabout 10 seconds on two\nCPU cores. Another 10 stays.")])
    notebooks._stamp(book, 21.3)
    assert book.cells[0].source == "It runs in\nabout 25 seconds on two\nCPU cores. Another 10 stays."


# the course's own


def test_code_is_narrow_and_cells_are_short():
    """As a reader sees them beside the text: 110 columns, 20 lines, solutions too."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for i, cell in enumerate(nbformat.read(path, 4).cells):
            lines = cell.source.splitlines() if cell.cell_type == "code" else []
            found += [f"{path.stem}, cell {i}, {len(lines)} lines"] * (len(lines) > 20)
            found += [f"{path.stem}, cell {i}: {line}" for line in lines if len(line) > 110]
    assert not found


# what two notebooks share


def make_once(path, log, seconds):
    """What a notebook does that needs a trained network: it makes the file if it is not there."""
    with alone(path):
        if not path.exists():
            with log.open("a") as lines:
                lines.write("made\n")
            time.sleep(seconds)
            path.write_text("network")


def test_two_processes_make_a_shared_file_once(place):
    path, log = place / "cache" / "net.safetensors", place / "log"
    for process in [started(make_once, path, log, 0.5) for _ in range(3)]:
        process.join(60)
        assert process.exitcode == 0 and path.exists()
    assert log.read_text() == "made\n"


def test_a_process_that_is_killed_lets_the_next_one_in(place):
    path, log = place / "net.safetensors", place / "log"
    killed = started(make_once, path, log, 600)
    while not (log.exists() and log.read_text()):
        time.sleep(0.01)
    killed.kill()
    started(make_once, path, log, 0).join(60)
    assert path.exists() and log.read_text() == "made\nmade\n"


# make


def test_both_commands_give_a_cell_the_same_time():
    assert re.findall(r"--nbval-cell-timeout (\d+)", MAKEFILE.read_text()) == [str(notebooks.TIMEOUT)]


def test_make_test_keeps_a_notebook_in_order_in_one_process_and_is_strict(place):
    """The very command, on notebooks whose cells need the ones before; one prints what it does not hold."""
    said = lambda text: [nbformat.v4.new_output("stream", name="stdout", text=text)]
    for name, recorded in (("00_right", "1 6\n"), ("01_wrong", "1 7\n")):
        book = nbformat.read(write(f"{name}.ipynb", "import os; x = 1"), 4)
        book.cells += [nbformat.v4.new_code_cell(f"x = {k} * x") for k in (2, 3)]
        code = "print(os.environ['OMP_NUM_THREADS'], x)"
        book.cells.append(nbformat.v4.new_code_cell(code, execution_count=4, outputs=said(recorded)))
        pathlib.Path("notebooks", f"{name}.ipynb").write_text(nbformat.writes(book))
    words = ["make", "-f", str(MAKEFILE), "-n", "-o", "env", "test", f"PY={sys.executable}"]
    alone = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # as if no make ran this
    listed = subprocess.run(words, capture_output=True, text=True, check=True, env=alone).stdout
    clear, command = listed.splitlines()
    cache = re.search(r"DGTOY_CACHE=(\S+)", command)[1]
    assert clear == f"rm -rf {cache}" and pathlib.Path(cache).is_absolute()
    done = subprocess.run(
        command.removesuffix("tests notebooks") + "notebooks", shell=True, capture_output=True
    )
    assert done.returncode == 1 and b"1 failed, 7 passed" in done.stdout, done.stdout.decode()


def test_both_commands_are_timed_from_an_empty_cache(monkeypatch):
    asked = []
    monkeypatch.setattr(notebooks, "_make", lambda *words: asked.append(words))
    pathlib.Path("figures").mkdir(exist_ok=True)
    pathlib.Path("figures/notebooks.json").write_text(json.dumps(dict(seconds={"00_sum": 3.0})))
    assert notebooks.time_commands().splitlines() == ["make run 0 s", "make test 0 s"]
    timed = json.loads(pathlib.Path("figures/notebooks.json").read_text())
    assert timed == dict(seconds={"00_sum": 3.0}, commands={"make run": 0.0, "make test": 0.0})
    (env, none), (run, first), (test, second) = asked
    assert (env, none, run, test) == ("env", None, "run", "test") and first != second


def test_a_command_that_fails_is_not_timed(place):
    (place / "Makefile").write_text("run:\n\t@exit 3\n")
    with refuses("make run ended with status 2; expected 0"):
        notebooks._make("run", "cache")
