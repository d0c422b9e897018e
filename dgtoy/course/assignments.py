"""The notebooks as assignments for nbgrader: a student's copy keeps the checks and loses the solutions."""

import copy
import json
import pathlib
import re
import shutil

from ..checkpoint import write_text

CONFIG = """c = get_config()
c.CourseDirectory.course_id = "domain-guidance"
c.ClearSolutions.code_stub = {"python": ""}      # `answer = None` stands above it
c.ExecutePreprocessor.timeout = 600              # seconds that a cell may take
"""
WHAT_TO_DO = """## Exercises

Replace `None` by your answer, and run the cell and the one below it: that says what is off.
`check.NAME.hint()`, with the exercise's name, gives a hint, and a second one if you call it again."""


def write(names=(), out="build/assignments", folder="notebooks", figures="figures"):
    """Write a course of nbgrader's into OUT: its configuration, and source/NAME/NAME.ipynb.  -> the paths

    names: how the notebooks' names begin; none is all. Records that a notebook reads are copied beside it.
    Raises ValueError if a name fits no notebook with exercises.
    """
    books = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(_found(names, folder))}
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "nbgrader_config.py", CONFIG)
    written = [out / "source" / path.stem / path.name for path in books]
    for path, book in zip(written, books.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(assignment(book), indent=1, ensure_ascii=False)
        if "../figures" in text:
            shutil.copytree(figures, path.parent / "figures", dirs_exist_ok=True)
        write_text(path, text.replace("../figures", "figures") + "\n")
    return [out / "nbgrader_config.py", *written]


def _found(names, folder):
    """The notebooks of these names that hold exercises."""
    paths = [
        path
        for path in pathlib.Path(folder).glob("*.ipynb")
        if "nbgrader" in path.read_text(encoding="utf-8")
    ]
    if not paths:
        raise ValueError(f"folder {folder} holds no notebooks with exercises; expected a clone of dgtoy's")
    for name in names:
        if not any(path.stem.startswith(name) for path in paths):
            raise ValueError(f"NAME is {name}; expected how a notebook with exercises begins, like 04")
    return [path for path in paths if not names or path.stem.startswith(tuple(names))]


def assignment(book):
    """A notebook as nbgrader's source: each exercise is a cell to fill in, and a locked cell that checks it.

    The solution moves into the cell to fill in, between the marks that `nbgrader generate_assignment` clears.
    """
    book, cells = copy.deepcopy(book), []
    for cell in book["cells"]:
        tags = cell["metadata"].get("tags", ())
        if "nbgrader" in cell["metadata"]:
            cells += _split(cell)
        elif "solution" in tags and cell["cell_type"] == "code":
            _put_solution(cells[-2], "".join(cell["source"]))
        elif "exercise" in tags and "".join(cell["source"]).startswith("## Exercises"):
            cells.append(cell | dict(source=WHAT_TO_DO))
        else:
            cells.append(cell)
    return book | dict(cells=cells)


def _split(cell):
    """An exercise's cell as two: `answer = None`, and the check, which now also stops where it fails."""
    answer, check = "".join(cell["source"]).rsplit("\n", 1)
    exercise = re.fullmatch(r"(check\.\w+)\(answer\)", check)[1]
    check += f'\nassert {exercise}.solved, "not solved yet; {exercise}.hint() gives a hint"'
    graded = cell["metadata"]["nbgrader"]
    name, kept = graded["grade_id"], dict(schema_version=3, task=False)
    to_fill_in = dict(grade_id=f"{name}-answer", grade=False, solution=True, locked=False, **kept)
    locked = dict(grade_id=name, grade=True, solution=False, locked=True, points=graded["points"], **kept)
    return [_code(cell["id"], answer, to_fill_in), _code(f"{cell['id']}-check", check, locked)]


def _code(name, source, nbgrader):
    """A code cell that has not been run."""
    metadata = dict(nbgrader=nbgrader)
    return dict(cell_type="code", id=name, source=source, metadata=metadata, outputs=[], execution_count=None)


def _put_solution(cell, solution):
    """Append a solution, without its call of the check, to the cell to fill in."""
    solution = solution.rsplit("\n", 1)[0]
    cell["source"] += f"\n### BEGIN SOLUTION\n{solution}\nanswer = solution\n### END SOLUTION"
