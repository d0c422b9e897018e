"""Every exercise of the notebooks: its stub waits, its solution passes, and three plausible wrong answers each meet a hint that names the mistake."""

import importlib
import pathlib
import re
import sys

import nbformat
import pytest

from dgtoy.course import check

sys.path.insert(0, str(pathlib.Path(__file__).parent))
NOTEBOOKS = {p.name[:2]: p for p in sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))}
WITH = [n for n in NOTEBOOKS if (pathlib.Path(check.__file__).parent / f"n{n}.py").exists()]


def exercises(n):
    module = importlib.import_module(f"dgtoy.course.check.n{n}")
    return {name: f for name, f in vars(module).items() if hasattr(f, "judge")}


def cells(n, tag):
    return [c for c in nbformat.read(NOTEBOOKS[n], 4).cells if tag in c.metadata.get("tags", ())]


def text(cell):
    return "".join(o.get("text", "") for o in cell.outputs)


@pytest.mark.parametrize("n", WITH)
def test_every_exercise_has_its_stub_and_its_solution_in_the_notebook(n):
    stubs, solutions = (
        [c for c in cells(n, tag) if c.cell_type == "code"] for tag in ("exercise", "solution")
    )
    names = list(exercises(n))
    assert len(names) >= 3 and [text(c) for c in stubs] == [f"{name}: not attempted\n" for name in names]
    assert [text(c).splitlines()[-1] for c in solutions] == [f"✓ {name}" for name in names]
    for cell in solutions:
        assert re.match(r"# Why: .*[.!]\n", cell.source) and cell.metadata["jupyter"]["source_hidden"]


@pytest.mark.parametrize("n", WITH)
def test_stubs_carry_what_nbgrader_asks_for(n):
    for cell in (c for c in cells(n, "exercise") if c.cell_type == "code"):
        grader = cell.metadata["nbgrader"]
        assert (
            grader | dict(schema_version=3, grade=True, solution=True, locked=False, task=False) == grader
            and grader["points"] >= 1
        )
        assert re.fullmatch(rf"n{n}-\w+", grader["grade_id"])


@pytest.mark.parametrize(
    ("n", "name", "answer", "hint"),
    [
        pytest.param(n, name, answer, hint, id=f"{n}-{name}-{k}")
        for n in WITH
        for name, wrong in importlib.import_module(f"exercises.n{n}").WRONG.items()
        for k, (answer, hint) in enumerate(wrong)
    ],
)
def test_a_plausible_wrong_answer_is_refused_with_a_hint_that_names_the_mistake(
    n, name, answer, hint, capsys
):
    exercises(n)[name](answer)
    said = capsys.readouterr().out
    assert said.startswith(f"✗ {name}: ") and hint in said and said.count("\n") == 1


@pytest.mark.parametrize("n", WITH)
def test_every_exercise_has_three_wrong_answers_and_never_raises(n, capsys):
    wrong = importlib.import_module(f"exercises.n{n}").WRONG
    for name, f in exercises(n).items():
        assert len(wrong[name]) >= 3, name
        for nonsense in ("?", [], object(), float("nan"), lambda: 1 / 0):
            f(nonsense)
            assert capsys.readouterr().out.startswith(f"✗ {name}: ")
