import json

import nbformat
import pytest
from helpers import refuses
from nbclient.exceptions import CellExecutionError

from dgtoy.course import notebooks


def write(folder, name, code):
    """A notebook of one title and one code cell."""
    folder.mkdir(exist_ok=True)
    cells = [
        nbformat.v4.new_markdown_cell("# Why?\n\nIt runs in about 5 seconds on two CPU cores."),
        nbformat.v4.new_code_cell(code),
    ]
    (folder / name).write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)) + "\n")


def test_notebooks_are_executed_in_place_and_timed(tmp_path, capsys):
    write(tmp_path / "notebooks", "00_sum.ipynb", "print(1 + 1)")
    notebooks.execute(tmp_path / "notebooks", tmp_path / "figures")
    book = nbformat.read(tmp_path / "notebooks" / "00_sum.ipynb", 4)
    assert book.cells[1].outputs[0].text == "2\n" and book.cells[1].execution_count == 1
    assert json.loads((tmp_path / "figures" / "notebooks.json").read_text())["seconds"]["00_sum"] > 0
    assert "00_sum" in capsys.readouterr().out


def test_a_notebook_that_fails_is_left_as_it_was(tmp_path):
    write(tmp_path / "notebooks", "00_bad.ipynb", "1 / 0")
    before = (tmp_path / "notebooks" / "00_bad.ipynb").read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(tmp_path / "notebooks", tmp_path / "figures")
    assert (tmp_path / "notebooks" / "00_bad.ipynb").read_bytes() == before
    assert [p.name for p in (tmp_path / "notebooks").iterdir()] == ["00_bad.ipynb"]


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with refuses("folder is", str(tmp_path), error=FileNotFoundError):
        notebooks.execute(tmp_path, tmp_path)


def test_a_stamp_rounds_up_and_keeps_the_sentence():
    from types import SimpleNamespace as Box

    from dgtoy.course.notebooks import _stamp

    book = Box(cells=[Box(source="It runs in\nabout 10 seconds on two\nCPU cores. Another 10 stays.")])
    _stamp(book, 21.3)
    assert book.cells[0].source == "It runs in\nabout 25 seconds on two\nCPU cores. Another 10 stays."
