"""Every exercise of the notebooks: its stub waits, its solution passes, and three plausible wrong answers
each meet a hint that names the mistake.
"""

import importlib
import math
import pathlib
import re
import sys

import nbformat
import numpy as np
import pytest
import torch

from dgtoy.course import check

sys.path.insert(0, str(pathlib.Path(__file__).parent))
NOTEBOOKS = {p.name[:2]: p for p in sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))}
WITH = [n for n in NOTEBOOKS if (pathlib.Path(check.__file__).parent / f"n{n}.py").exists()]


def exercises(n):
    module = importlib.import_module(f"dgtoy.course.check.n{n}")
    return {name: f for name, f in vars(module).items() if hasattr(f, "declare")}


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
    for cell in solutions:  # JupyterLab shows the first line of a folded cell, so that gives nothing away
        assert re.match(r"# Solution\n# Why: (.+\n# )*.+[.!]\n", cell.source)
        assert cell.metadata["jupyter"] == {"outputs_hidden": True, "source_hidden": True}


@pytest.mark.parametrize("n", WITH)
def test_stubs_carry_what_nbgrader_asks_for(n):
    for cell in (c for c in cells(n, "exercise") if c.cell_type == "code"):
        grader = cell.metadata["nbgrader"]
        assert (
            grader | dict(schema_version=3, grade=True, solution=True, locked=False, task=False) == grader
            and grader["points"] >= 1
        )
        assert grader["grade_id"] == f"n{n}-" + re.search(r"check\.(\w+)\(", cell.source)[1]


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


@pytest.mark.parametrize("n", WITH)
def test_every_exercise_has_two_hints(n):
    for name, exercise in exercises(n).items():
        assert len(exercise.hints) == 2, name
        assert all(20 < len(hint) < 320 and hint.rstrip()[-1] in ".?" for hint in exercise.hints), name
        assert len(set(exercise.hints)) == 2


# the three kinds of exercise


@check.number()
def half():
    return 0.5, {"that is the third": 0.3, "that is the fourth": 0.295, "far too large": (3.0, math.inf)}


@check.function(cases=[(torch.arange(3.0), 2.0), (torch.arange(4.0), 3.0)])
def product(x, k):
    return k * x, {"that is a sum": k + x}


@check.choice
def letter():
    return "b", dict(a="not a", c="not c")


def said(exercise, answer, capsys):
    exercise(answer)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    return line[:-1]


@pytest.mark.parametrize(
    "answer", ["b", "B", " b\n", "b)", "(b)", "B.", "'b'", '"b"', "b,", ["b"], "b) not a"]
)
def test_a_choice_may_be_spelled_in_many_ways(answer, capsys):
    assert said(letter, answer, capsys) == "✓ letter"


@pytest.mark.parametrize("answer", ["bc", "", "?", 2, torch.zeros(30, 3)])
def test_what_is_no_option_is_told_the_options_in_one_line(answer, capsys):
    assert said(letter, answer, capsys).endswith("is none of the options; expected one of a, b, c")


@pytest.mark.parametrize(
    "answer, words",
    [
        (0.5, "✓ half"),
        (torch.tensor(0.505), "✓ half"),
        (torch.tensor([0.5], requires_grad=True), "✓ half"),
        (np.array([0.5]), "✓ half"),
        (0.3, "yours is 0.3: that is the third"),
        (0.296, "yours is 0.296: that is the fourth"),  # both are within 2%: the nearest counts
        (1000.0, "yours is 1000: far too large"),
        (0.6, "too large in size by a factor of 1.2"),
        (0.25, "too small in size by a factor of 2"),
        (0, "too small in size"),
        (0.52, "yours is 0.52: close, but 2% is asked; keep more digits, or find the slip"),
        (-0.5, "of the wrong sign"),
        (-1.0, "of the wrong sign, and too large in size by a factor of 2"),
        ("1/2", "yours is a str; expected a number"),
        (np.zeros(2), "yours is a ndarray of shape (2,); expected a number"),
        (torch.zeros(2), "yours is a Tensor of shape (2,); expected a number"),
        ([0.5], "yours is a list; expected a number"),
        (-math.inf, "yours is -inf; expected a finite number"),
    ],
)
def test_a_number_is_told_what_is_off(answer, words, capsys):
    assert said(half, answer, capsys).endswith(words)


def test_a_percentage_is_named_where_no_mistake_is(capsys):
    @check.number()
    def share():
        return 0.5, {"that is the rest, per cent": 60}

    assert said(share, 50, capsys).endswith("that is a percentage; the plain number was asked")
    assert said(share, 60.5, capsys).endswith("that is the rest, per cent")


def test_a_narrow_tolerance_is_told_as_it_is(capsys):
    @check.number(rtol=0.001)
    def third():
        return 0.3, {"that is a half": 0.5}

    assert "close, but 0.1% is asked" in said(third, 0.31, capsys)


def multiplies_in_place(x, k):
    x *= k
    return x


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda x, k: k * x, "✓ product"),
        (lambda x, k: (k * x).float().numpy(), "✓ product"),
        (lambda x, k: (k * x).tolist(), "✓ product"),
        (multiplies_in_place, "✓ product"),
        (lambda x, k: k + x, "that is a sum"),
        (lambda x, k: 2 * k * x, "its values are all too large in size by a factor of 2"),
        (lambda x, k: -k * x, "its values are all of the wrong sign"),
        (
            lambda x, k: -2 * k * x,
            "its values are all of the wrong sign, and too large in size by a factor of 2",
        ),
        (lambda x, k: 2.0, "its values are off by up to 7"),
        (lambda x, k: 0 * x, "its values are all too small in size"),
        (lambda x, k: k * x + 0.25, "its values are off by up to 0.25"),
        (lambda x, k: k * x / x, "2 of its 7 values are infinite or nan"),
        (lambda x, k: lambda: k * x, "it returns a function; call it, and return its values"),
        (lambda x, k: (x, k * x), "it returns a tuple; expected a tensor of shape (3,)"),
        (lambda x, k: None, "it returns None; it has to end with return"),
        (lambda x, k: (k * x)[:2], "it returns shape (2,); expected (3,)"),
        (lambda x: x, "takes 1 positional argument but 2 were given"),
        (6.0, "yours is a float; expected a function"),
    ],
)
def test_a_function_is_told_what_is_off(answer, words, capsys):
    assert said(product, answer, capsys).endswith(words)


def test_one_number_may_come_in_any_shape(capsys):
    @check.function(cases=[(2.0, 3.0)])
    def once(x, k):
        return torch.tensor(k * x), {}

    assert said(once, lambda x, k: torch.full((1, 1), k * x), capsys).endswith("✓ once")


def in_a_notebook(line, **names):
    """Run a notebook's line, with its names."""
    exec(line, dict(half=half, letter=letter) | names)


def test_own_answers_are_counted_and_folded_solutions_are_not(capsys):
    in_a_notebook("letter(answer)", answer=None)
    in_a_notebook("letter(solution)", answer=None, solution="b")
    assert capsys.readouterr().out == "letter: not attempted\n✓ letter\n" and not letter.solved
    in_a_notebook("letter(answer)", answer="b")
    in_a_notebook("half(answer)", answer=0.5)
    n = len(half.notebook)  # the exercises of this file
    assert capsys.readouterr().out == f"✓ letter: 1 of {n} solved\n✓ half: 2 of {n} solved\n"
    in_a_notebook("half(answer)", answer=0.4)
    in_a_notebook("letter(solution)", answer="a", solution="b")
    assert letter.solved and not half.solved
    in_a_notebook("letter(answer)", answer=None)
    assert not letter.solved


def test_hints_come_one_by_one(capsys):
    @check.number()
    def third():
        """What is a third?

        It is less than
        a half.

        Divide by three.
        """
        return 1 / 3, {"that is a half": 0.5}

    for _ in range(3):
        third.hint()
    hints = ["It is less than a half.", "Divide by three.", "There are no more hints."]
    assert capsys.readouterr().out.splitlines() == hints


def test_a_check_says_in_one_line_that_its_record_is_missing(monkeypatch, tmp_path, capsys):
    check.record.cache_clear()
    monkeypatch.setattr(check, "FIGURES", tmp_path)
    line = said(exercises("12")["weight"], 2.0, capsys)
    assert line.startswith("? weight: cannot be checked, ") and "posters.json is missing; a clone" in line
    right = said(exercises("09")["overshoot"], 6.317, capsys)  # records only add hints to this one
    assert right == "✓ overshoot"
    check.record.cache_clear()


def test_checks_find_their_records_from_every_working_directory(monkeypatch, tmp_path, capsys):
    check.record.cache_clear()
    monkeypatch.chdir(tmp_path)
    assert "that is the factor" in said(exercises("06")["seeds_needed"], 22.8, capsys)
