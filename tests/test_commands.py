"""The command line: a page of help for a stranger, every option explained, errors of one line."""

import argparse
import contextlib
import dataclasses
import io
import json
import pathlib
import re
import subprocess
import sys
import zipfile

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import refuses
from PIL import Image

from dgtoy import environment
from dgtoy.__main__ import COURSE, DIT, main
from dgtoy.course import cli, experiments, notebooks, records
from dgtoy.pipeline import cli as pipeline

ROOT = pathlib.Path(__file__).resolve().parents[1]


def commands(parser):
    """{name: parser} of a parser's subcommands."""
    return next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices


ALL = {**commands(cli.parser()), **{f"dit {k}": p for k, p in commands(pipeline.parser()).items()}}


def test_the_page_of_help_lists_every_command_and_three_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    page = capsys.readouterr().out
    assert ended.value.code == 0 and {**COURSE, **DIT}.keys() == ALL.keys()
    assert all(f"  {name} " in page for name in ALL)
    examples = page.partition("examples:\n")[2].strip().splitlines()
    assert len(examples) == 3
    for line in examples:  # each is a call that the parsers accept
        words = line.split()[3:]
        parser, words = (pipeline, words[1:]) if words[0] == "dit" else (cli, words)
        assert callable(parser.parser().parse_args(words).run)


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_explained_with_its_default(name):
    assert ALL[name].description
    for action in ALL[name]._actions:
        assert action.help
        needs_default = action.option_strings and not action.required and action.nargs != 0
        assert not needs_default or "default: " in action.help


def test_the_sampler_s_defaults_are_told_of_both_kinds_of_network():
    told = {action.dest: action.help for action in ALL["dit sample"]._actions}
    for name, official, flow in (("sampler", "ddpm", "dpmpp_2m"), ("steps", "50", "24")):
        _, defaults = told[name].split("default: ")
        of_dit, of_flow = defaults.split(", of a flow")
        assert of_dit == official and of_flow.endswith(f" {flow}")


def test_help_imports_neither_the_course_nor_the_pipeline():
    script = "import sys; from dgtoy.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "sys.exit([m for m in sys.modules if m.startswith(('dgtoy.course.', 'dgtoy.pipeline.'))] or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["alchemy"],
        ["experiment", "alchemy"],
        ["experiment", "images", "--part", "3/2"],
        ["dit", "prepare", "photos", "--out", ""],
        ["dit", "finetune", "latents", "--out=x", "--pretrained="],
        ["bench", "--pipelines", "--commands"],
    ],
)
def test_a_wrong_call_is_usage_and_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and all(word in err for word in words[-1:] or ALL)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "dit prepare nowhere --out x --target food101",
            "dit prepare: folder is nowhere, which is not there; .*food101 is Food-101",
        ),
        ("dit finetune nowhere --pretrained p --out x", "dit finetune: latents nowhere holds no plan.json"),
        ("dit sample nowhere.pt --out x", "dit sample: .*nowhere.pt"),
        ("dit evaluate a b --features vgg --out x", "dit evaluate: features is vgg"),
        ("notebooks 77", "notebooks: notebook is 77; expected 00_five_minutes"),
        ("notebooks --stamp", "notebooks: --stamp needs --in-place"),
        ("notebooks 00 --in-place --out x", "notebooks: --out is x with --in-place"),
        ("weights glyphs --study large", "weights: NAME is glyphs with --study large"),
        ("experiment exact --part 1/2", "experiment: --part is of exact, which is not computed in parts"),
        ("badges nobody", "badges: repository is nobody; expected OWNER/NAME"),
    ],
)
def test_errors_are_one_line(words, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=message) as caught:
        main(words.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words, said", [("~/x.json", "scores is {}/x"), ("x --out=~/a/b", "--out {}/a/b")])
def test_home_is_written_out_behind_an_equals_sign_too(words, said, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").touch()
    with refuses(said.format(tmp_path), error=SystemExit):
        main(["dit", "table", *words.split()])


def test_a_device_that_is_not_there_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment.device() == "cpu"
    for name in ("cuda", "cuda:1", "gpu", "meta", "cpu:x"):
        with refuses(f"device is {name}; this machine has no CUDA device", error=SystemExit):
            main(["experiment", "exact", "--device", name])
    assert environment.device("cpu") == "cpu"


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    environment.needs("course", "torch")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with refuses("matplotlib missing", "pip install -e '.[course]'", error=ImportError):
        environment.needs("course", "torch", "matplotlib")


@pytest.mark.parametrize("words, missing", [("claims", "scipy"), ("dit table x.json", "PIL")])
def test_a_command_without_its_extra_says_so_in_one_line(words, missing):
    script = (
        f"import sys; sys.modules['{missing}'] = None\nfrom dgtoy.__main__ import main; main({words.split()})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and f"{missing} missing; install the extra" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# the course's commands


def test_a_part_of_an_experiment_is_computed_and_told_and_no_record_made(monkeypatch, tmp_path, capsys):
    asked = []

    def compute(config, device, part, progress):
        asked.append(part)
        return {0: None, 3: None}, 0.0

    monkeypatch.setattr(experiments.get("images"), "compute", compute)
    main(["experiment", "images", "--part", "2/3", "--device", "cpu", "--out", str(tmp_path)])
    assert asked == [(1, 3)] and not any(tmp_path.iterdir())
    assert re.fullmatch(r"images +[\d.]+ s   2 cells of its part, kept\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "words, said",
    [
        ("transfer idea --preset replica", "preset is replica; idea has none of that name"),
        ("images exact --part 1/2", "--part is of exact, which is not computed in parts"),
    ],
)
def test_what_a_later_experiment_would_refuse_is_told_before_the_first_runs(words, said, monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda name, args: pytest.fail(f"{name} runs"))
    with refuses(said, error=SystemExit):
        main(["experiment", *words.split()])


def test_after_the_notebooks_the_findings_are_shown_with_where_to_look(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(notebooks, "execute", lambda *args, **options: None)
    main(["notebooks"])
    said = capsys.readouterr().out
    assert all(f"\n{i}. " in said for i in range(1, 7)) and "(notebooks/" in said
    assert "**" not in said and "](" not in said and max(map(len, said.splitlines())) <= 100
    assert "claims (" in said and "build/notebooks" in said
    for path in re.findall(r"(?:notebooks|figures)/\w+\.\w+", said):
        assert (ROOT / path).exists()


def tiny():
    """`exact`, which trains nothing, and its configuration at toy size."""
    module = experiments.get("exact")
    return module, dataclasses.replace(module.Config.quick(), seeds=2, points=16, steps=8)


@pytest.fixture
def exact(monkeypatch, tmp_path):
    """The command line in an empty folder, with `exact` as the one experiment, at toy size."""
    module, config = tiny()
    monkeypatch.setattr(module.Config, "quick", lambda: config)
    monkeypatch.setattr(module.Config, "full", lambda: config)
    monkeypatch.setattr(experiments, "NAMES", ("exact",))
    monkeypatch.setattr(records, "WIDTH", 480)
    monkeypatch.chdir(tmp_path)


def files(folder="."):
    return sorted(p.as_posix() for p in pathlib.Path(folder).rglob("*") if p.is_file())


def test_one_experiment_runs_into_the_build_folder(exact, capsys):
    main(["experiment", "exact", "--device", "cpu"])
    assert "exact" in capsys.readouterr().out
    assert files() == ["build/records/exact.json", "build/records/exact.png"]


def test_all_records_are_made_and_judged(exact, capsys):
    main(["records", "--device", "cpu", "--preset", "full"])
    assert files() == ["figures/exact.json", "figures/exact.png"]
    assert "3 claims" in capsys.readouterr().out


def test_a_check_of_records_lists_all_that_do_not_agree_and_refuses_what_is_not_true(monkeypatch, capsys):
    said = {records.AGREE: ["a"], records.UNNAMED: ["b", "c"], records.OTHER: ["d"]}
    monkeypatch.setattr(records, "by_source", lambda folders: said)
    with refuses("d names a commit that is not its own", error=SystemExit):
        main(["records", "--check"])
    lines = [f"1 {records.AGREE}", f"2 {records.UNNAMED}", "  b", "  c", f"1 {records.OTHER}", "  d"]
    assert capsys.readouterr().out.splitlines() == lines
    said[records.OTHER] = []
    main(["records", "--check"])


def test_a_check_of_a_folder_without_records_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with refuses("holds no record; expected a folder of them", error=SystemExit):
            main(["records", "--check", "--out", str(folder)])


@pytest.mark.parametrize(
    "words, said",
    [
        ("records --check --preset quick", "--preset is quick with --check, which does not use it"),
        ("records --check --device cpu", "--device is cpu with --check"),
        ("bench --commands --device cpu", "--device is cpu with --commands"),
    ],
)
def test_an_option_that_means_nothing_beside_another_is_refused(words, said, monkeypatch):
    for does in (notebooks, "time_commands"), (cli, "_check_sources"):
        monkeypatch.setattr(*does, lambda _: pytest.fail("it runs"))
    with refuses(said, "expected none", error=SystemExit):
        main(words.split())


def test_the_claims_command_writes_claims_and_their_page(tmp_path, capsys):
    module, config = tiny()
    records.save(module.run(config), plt.figure(), tmp_path / "figures")
    page = tmp_path / "book" / "claims.md"
    page.parent.mkdir()
    page.write_text(
        "# Claims\n<!-- decisions -->\n<!-- /decisions -->\n<!-- claims -->\nstale\n<!-- /claims -->\n"
    )
    main(["claims", "--out", str(tmp_path / "figures")])
    assert "C1" in capsys.readouterr().out
    found = json.loads((tmp_path / "figures" / "claims.json").read_text())
    assert [c["id"] for c in found] == ["C1", "C2", "C3"]
    text = page.read_text()
    assert "| C1 |" in text and "stale" not in text and text.endswith("<!-- /claims -->\n")


def test_claims_without_a_record_are_refused_and_nothing_is_written(tmp_path):
    with refuses(f"--out {tmp_path} holds no record", error=SystemExit):
        main(["claims", "--out", str(tmp_path)])
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "error, said",
    [
        (KeyError("arr_0"), "KeyError: 'arr_0'; --traceback shows where"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines; --traceback shows where"),
        (AssertionError(), "AssertionError: no more is known; --traceback shows where"),
        (zipfile.BadZipFile("cut"), "BadZipFile: cut; --traceback shows where"),
        (ValueError("w is nan"), "w is nan"),
    ],
)
def test_every_failure_is_one_line_and_a_traceback_on_request(error, said, monkeypatch):
    def fails(scores):
        raise error

    monkeypatch.setattr("dgtoy.pipeline.table.read", fails)
    with pytest.raises(SystemExit) as ended:
        main(["dit", "table", "scores.json"])
    assert ended.value.code == f"dit table: {said}"
    with pytest.raises(type(error)):
        main(["dit", "table", "scores.json", "--traceback"])


@pytest.mark.parametrize(
    "error, said",
    [
        (KeyboardInterrupt(), "the same command goes on from what is written"),
        (KeyboardInterrupt("after\nstep 3"), "after step 3"),
    ],
)
def test_what_ctrl_c_ends_says_so_in_a_line_with_status_130(error, said, monkeypatch, capsys):
    def fails(scores):
        raise error

    monkeypatch.setattr("dgtoy.pipeline.table.read", fails)
    with pytest.raises(SystemExit) as ended:
        main(["dit", "table", "scores.json"])
    assert ended.value.code == 130 and capsys.readouterr().err == f"dit table: interrupted; {said}\n"


def test_a_console_that_lacks_a_sign_shows_it_escaped(monkeypatch):
    monkeypatch.setattr("dgtoy.pipeline.table.read", list)
    monkeypatch.setattr("dgtoy.pipeline.table.table", lambda _: "σ − 1")
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    with contextlib.redirect_stdout(console):
        main(["dit", "table", "x"])
    assert console.buffer.getvalue().strip() == b"\\u03c3 \\u2212 1"


def test_a_warning_is_one_line_that_names_the_command_and_a_closed_pipe_ends_it_quietly():
    """As `python -m dgtoy ... | head -1` does."""
    script = "import warnings, dgtoy.pipeline.table as t; t.read = lambda _: warnings.warn('a\\nb')"
    script += "; t.table = lambda _: 'row\\n' * 100_000"
    script += "; from dgtoy.__main__ import main; main(['dit', 'table', 'x'])"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as command:
        assert command.stdout.readline() == b"row\n"
        command.stdout.close()
        assert command.stderr.read() == b"dit table: warning: a b\n"
    assert command.returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "dit prepare x",
        "dit finetune x --pretrained p",
        "dit sample x",
        "dit calibrate x --latents l",
        "dit evaluate a b",
        "dit table a",
        "experiment exact",
        "claims",
        "animation",
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(words, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    makes_file = words in ("dit evaluate a b", "dit table a", "animation")
    wrong, kinds = ("folder", "folder; expected a file") if makes_file else ("file", "file; expected a")
    for out, said in (
        (wrong, f"is a {kinds}"),
        ("file/x/y", "file, which is a file; expected another place"),
    ):
        with refuses(f"--out {tmp_path / out} ", said, error=SystemExit):
            main([*words.split(), "--out", str(tmp_path / out)])
    assert files(tmp_path) == [f"{tmp_path}/file"]


def test_the_findings_of_make_run_keep_the_words_of_their_links(capsys):
    """A path stands for a notebook and a record; any other link was words of a sentence."""
    cli._show_findings("build/notebooks")
    told = " ".join(capsys.readouterr().out.split())
    assert "one eight times as large" in told and "another model of these pictures by" in told
    assert "(notebooks/10_photographs.ipynb, figures/photos.json)" in told and "](" not in told


def test_the_figure_of_posters_has_an_inch_of_96_dots_for_each_picture(tmp_path, monkeypatch):
    record = records.load("posters", ROOT / "figures")
    monkeypatch.setattr(experiments.get("posters"), "run", lambda *_, **__: record)
    main(["experiment", "posters", "--out", str(tmp_path)])
    with Image.open(tmp_path / "posters.png") as picture:
        assert picture.width == round(96 * (1.2 + record["config"]["count"]))
