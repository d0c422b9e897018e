"""The notebooks as assignments for nbgrader, whose scores tell right answers from wrong ones."""

import json
import os
import pathlib
import subprocess
import sys

import nbformat
import pytest

from dgtoy.course import assignments

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))[1:]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
RIGHT = {
    "narrowing": "answer = 0.7644",
    "domain_term": "def answer(labelled, null, pretrained, x, sigma):\n"
    "    return (null(x, sigma) - pretrained(x, sigma)) / sigma[:, None] ** 2",
    "share": 'answer = "b"',
    "ceiling": "answer = 0.5505",
    "mended": "def answer(model, base, c, w, x, sigma):\n"
    "    main, guide = model.denoiser(c)(x, sigma), base.denoiser(base.null)(x, sigma)\n"
    "    return guide + w * (main - guide)",
}
HALF_WRONG = RIGHT | {"narrowing": "answer = 0.4 / 3", "share": 'answer = "a"'}  # 3 points of 9 lost


def source(cell):
    return "".join(cell["source"])


def graded(book, grade):
    return [c for c in book["cells"] if c["metadata"].get("nbgrader", {}).get("grade") is grade]


@every_notebook
def test_an_exercise_is_a_cell_to_fill_in_and_a_locked_cell_with_its_points(path):
    book = json.loads(path.read_text())
    stubs = [c for c in book["cells"] if "nbgrader" in c["metadata"]]
    made = assignments.assignment(book)
    answers, checks = graded(made, False), graded(made, True)
    assert len(answers) == len(checks) == len(stubs) and book == json.loads(path.read_text())
    for stub, answer, check in zip(stubs, answers, checks):
        locked, before = check["metadata"]["nbgrader"], stub["metadata"]["nbgrader"]
        assert locked["locked"] and not locked["solution"] and locked["points"] == before["points"]
        assert source(check).startswith(source(stub).splitlines()[-1] + "\nassert check.")
        to_fill_in, solution = source(answer).split("\n### BEGIN SOLUTION\n")
        assert source(stub).startswith(to_fill_in) and to_fill_in.splitlines()[-1].startswith("answer = None")
        assert solution.endswith("\nanswer = solution\n### END SOLUTION") and "check." not in solution
    assert not [c for c in made["cells"] if "solution" in c["metadata"].get("tags", ())]


@every_notebook
def test_everything_outside_the_exercises_stays(path):
    book = json.loads(path.read_text())
    made = assignments.assignment(book)
    lesson = [c for c in book["cells"] if not {"exercise", "solution"} & set(c["metadata"].get("tags", ()))]
    assert [c for c in made["cells"] if c in lesson] == lesson


def test_records_lie_beside_an_assignment_that_reads_them(tmp_path):
    paths = assignments.write(["04", "05"], tmp_path, ROOT / "notebooks", ROOT / "figures")
    exact, trained = paths[1:]
    assert [p.name[:2] for p in (exact, trained)] == ["04", "05"] and not (exact.parent / "figures").exists()
    assert (
        trained.parent / "figures" / "forgetting.json"
    ).exists() and "../figures" not in trained.read_text()


def test_a_name_without_exercises_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NAME is 00; expected"):
        assignments.write(["00"], tmp_path, ROOT / "notebooks", ROOT / "figures")
    with pytest.raises(ValueError, match="folder nowhere holds no notebooks with exercises"):
        assignments.write([], tmp_path / "none", "nowhere")
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.iterdir())


# two students, one wrong in two answers of five, and one who has not begun

STUDENTS = {"ada": (RIGHT, 9), "bob": (HALF_WRONG, 6), "eve": ({}, 0)}


@pytest.fixture
def course(tmp_path):
    """A course with the exercises of notebook 04, and of its lesson only the import of the checks."""
    book = json.loads((ROOT / "notebooks" / "04_domain_guidance_exactly.ipynb").read_text())
    exercises = [c for c in book["cells"] if {"exercise", "solution"} & set(c["metadata"].get("tags", ()))]
    imports = next(c for c in book["cells"] if "import n04 as check" in source(c))
    imports["source"] = "from dgtoy.course.check import n04 as check"
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "04.ipynb").write_text(json.dumps(book | dict(cells=[imports, *exercises])))
    assignments.write([], tmp_path / "course", folder, ROOT / "figures")
    return tmp_path / "course"


def fill_in(book, answers):
    """Put a student's answers into a released notebook; a cell without one stays as it is."""
    for cell in graded(book, False):
        name = cell["metadata"]["nbgrader"]["grade_id"].removeprefix("n04-").removesuffix("-answer")
        cell["source"] = answers.get(name, cell["source"])


def execute(book):
    """Run the code cells in order; an error becomes a cell's output, as nbgrader has it."""
    names = {"__name__": "notebook"}
    for cell in (c for c in book.cells if c.cell_type == "code"):
        try:
            exec(source(cell), names)
        except Exception as e:
            error = dict(output_type="error", ename=type(e).__name__, evalue=str(e), traceback=[])
            cell.outputs = [nbformat.from_dict(error)]


@pytest.mark.parametrize("student", STUDENTS)
def test_scores_tell_right_answers_from_wrong_ones(student, course, capsys):
    nbgrader = pytest.importorskip("nbgrader")
    from nbgrader.preprocessors import ClearSolutions

    answers, score = STUDENTS[student]
    made = nbformat.read(course / "source" / "04" / "04.ipynb", 4)
    release, _ = ClearSolutions(code_stub=dict(python="")).preprocess(made, {})
    assert "answer = solution" not in json.dumps(release)
    fill_in(release, answers)
    execute(release)
    points = [nbgrader.utils.determine_grade(cell) for cell in graded(release, True)]
    assert (sum(got for got, _ in points), sum(most for _, most in points)) == (score, 9)


def nbgrader(course, *words):
    there = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nbgrader", *words]
    done = subprocess.run(
        command, cwd=course, env=os.environ | dict(PATH=there), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_nbgrader_s_own_commands_give_these_scores(course):
    api = pytest.importorskip("nbgrader.api")
    nbgrader(course, "generate_assignment", "04")
    release = (course / "release" / "04" / "04.ipynb").read_text()
    assert release.count("answer = None") == 5 == release.count("assert check.")
    assert "SOLUTION" not in release and "answer = solution" not in release
    for student, (answers, _) in STUDENTS.items():
        book = json.loads(release)
        fill_in(book, answers)
        place = course / "submitted" / student / "04"
        place.mkdir(parents=True)
        (place / "04.ipynb").write_text(json.dumps(book))
    nbgrader(course, "autograde", "04")
    with api.Gradebook(f"sqlite:///{course / 'gradebook.db'}") as grades:
        found = grades.assignment_submissions("04")
        scores = {s.student.id: (s.score, s.max_score, s.needs_manual_grade) for s in found}
    assert scores == {student: (score, 9, False) for student, (_, score) in STUDENTS.items()}
