"""The README and the written pages of the book: short, in order, true to the records; what they show runs."""

import inspect
import json
import pathlib
import re
import shlex

import pytest
import torch
from helpers import random_labelled, refuses

import dgtoy
from dgtoy import shipped
from dgtoy.course.claims import report
from dgtoy.course.records import load
from dgtoy.pipeline import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "book").glob("*.md"))]
every_page = pytest.mark.parametrize("path", PAGES, ids=[p.name for p in PAGES])


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_is_read_to_its_end():
    assert len(README.read_text().splitlines()) <= 150 and README.stat().st_size <= 13_000


def test_the_readme_says_things_in_the_order_in_which_a_newcomer_asks():
    text = README.read_text()
    order = ("which model should guide it?", "$$D_w", "figures/posters.png", "make run", "make test")
    order += ("domain_guidance(", "<!-- findings -->", "you are |", "<!-- notebooks -->", "guide_pipeline(")
    order += ("dit prepare", "## How it is tested", "@inproceedings")
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_the_papers_headline_stands_beside_the_follow_up_s_numbers():
    paragraph = next(p for p in README.read_text().split("\n\n") if "19.6%" in p)
    assert "standard fine-tuning" in paragraph
    assert all(
        number in paragraph for number in ("23.4%", "14.46", "13.09", "9.5%", "311.03", "245.31", "21%")
    )
    assert round(100 * (1 - 13.09 / 14.46), 1) == 9.5 and round(100 * (1 - 245.31 / 311.03)) == 21


@pytest.mark.parametrize("page", report.PLACES)
def test_a_page_says_what_the_records_say(page):
    text = (ROOT / page).read_text()
    assert text == report.filled(text, report.PLACES[page], ROOT / "figures")


def test_a_finding_is_a_claim_and_what_was_measured_with_an_interval_and_where_to_look():
    findings = report.sentences(ROOT / "figures").splitlines()
    assert len(findings) == 7
    for i, finding in enumerate(findings, 1):
        assert finding.startswith(f"{i}. **") and finding.endswith(").")
        assert ".** " in finding and len(re.sub(r"\]\([^)]*\)", "", finding).split()) <= 80
        assert re.search(r"\[-?[\d.]+, [\d.]+\]", finding)
        assert "(notebooks/" in finding and "(figures/" in finding


def test_the_table_of_notebooks_has_their_questions_and_the_measured_seconds(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "notebooks").mkdir()
    cells = [dict(source=["# Is it so?\n", "\n", "Perhaps."])]
    (tmp_path / "notebooks" / "00_so.ipynb").write_text(json.dumps(dict(cells=cells)))
    assert "| 00 | [Is it so?](notebooks/00_so.ipynb) | – |" in report.notebooks_table(tmp_path / "figures")
    timed = dict(seconds={"00_so": 3.4}, device="2-core CPU", commands={"make run": 61.2})
    (tmp_path / "figures" / "notebooks.json").write_text(json.dumps(timed))
    table = report.notebooks_table(tmp_path / "figures")
    assert "seconds (2-core CPU)" in table and "(notebooks/00_so.ipynb) | 3 |" in table
    assert table.endswith("| | all of them: `make run` | 61 |")


def test_a_page_without_the_place_for_a_table_is_refused():
    with refuses("holds 0 places <!-- claims -->", "expected 1"):
        report.put("no place", "claims", "table")


def test_the_picture_is_small_and_shows_what_its_titles_say():
    assert (ROOT / "figures" / "idea.png").stat().st_size < 200_000
    rows = {r["method"]: r for r in load("idea", ROOT / "figures")["results"]["rows"]}
    outside = {m: sum(map(sum, rows[m]["outside"])) for m in ("truth", "none", "CFG", "DoG")}
    assert outside["DoG"] < outside["truth"] < outside["CFG"] < outside["none"] / 2
    assert rows["DoG"]["coverage"] < rows["CFG"]["coverage"] < rows["none"]["coverage"]
    words = re.search(r"!\[(Four panels[^]]*)\]", (ROOT / "book" / "index.md").read_text())[1]
    assert all(str(outside[m]) in words for m in ("none", "CFG")) and outside["DoG"] == 0


def test_the_poster_is_the_record_s_and_of_what_ships():
    record = load("posters", ROOT / "figures")
    assert record["config"]["targets"] == list(shipped.FINE_TUNES) and record["provenance"]["clean"]
    for page in (README, ROOT / "book" / "index.md"):
        text = " ".join(page.read_text().split())
        assert "figures/posters.png" in text and "first ten pictures, none picked" in text
    assert record["config"]["count"] == 10
    facts = shipped.facts("photos64"), shipped.facts("photos64-food")
    assert [len(f["classes"]) for f in facts] == [153, 17]


def test_the_lines_of_the_readme_run():
    """The five lines that show the whole idea, with exact mixtures in the networks' place."""
    code = next(block for block in blocks(README, "python") if "domain_guidance(" in block)
    names = {name: getattr(dgtoy, name) for name in dgtoy.__all__}
    names |= dict(
        torch=torch,
        c=0,
        rng=torch.Generator().manual_seed(0),
        sigmas=dgtoy.karras(8, 0.01, 10.0),
        model=random_labelled(seed=1, dtype=torch.float32),
        base=random_labelled(seed=2, dtype=torch.float32),
    )
    exec(code, names)
    assert names["x0"].shape == (256, 2) and names["x0"].isfinite().all()


@pytest.mark.parametrize("page", ["README.md", "book/dit.md"])
def test_the_two_lines_for_a_pipeline_call_what_there_is(page):
    pytest.importorskip("diffusers")
    code = next(block for block in blocks(ROOT / page, "python") if "guide_pipeline" in block)
    names = {}
    exec(next(line for line in code.splitlines() if "import guide_pipeline" in line), names)
    inspect.signature(names["guide_pipeline"]).bind("finetuned", "pretrained")
    inspect.signature(names["lora_guide"]).bind("pipe")


@pytest.mark.parametrize("page", ["README.md", "book/dit.md"])
def test_the_commands_for_a_folder_are_understood(page):
    lines = [line for block in blocks(ROOT / page, "sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("python -m dgtoy dit")]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command, comments=True)
        assert callable(cli.parser().parse_args(words[4:]).run)


@every_page
def test_every_link_of_a_page_leads_somewhere(path):
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", path.read_text())]
    places = [t for t in targets if t and not re.match(r"\w+:", t) and not t.startswith("api/")]
    assert not [t for t in places if not (path.parent / t).exists()]


def test_every_place_named_for_a_change_is_there():
    text = (ROOT / "book" / "modules.md").read_text()
    places = re.findall(r"`((?:dgtoy|tests)/[\w/.]+)`", text)
    assert len(places) > 20 and not [p for p in places if not (ROOT / p).exists()]


@every_page
def test_a_page_shows_no_placeholder_for_an_address(path):
    assert "OWNER" not in path.read_text()


def test_every_claim_is_on_the_page_of_claims():
    claims = json.loads((ROOT / "figures" / "claims.json").read_text())
    text = (ROOT / "book" / "claims.md").read_text().partition("<!-- /claims -->")[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| C")}
    for c in claims:
        shown, folded = rows[c["id"]].split("<details class='numbers'>")  # parts that fail are never folded
        assert c["claim"] in shown and f"**{c['verdict']}**" in shown and c["unit"] in shown
        assert c["note"][1:] in folded and c["interval"] in folded
        assert all(c["parts"].values()) or "**Holds" in shown or "**Not so" in shown
    assert len(claims) == len(rows) > 30
    assert not [c["id"] for c in claims if "than CFG" in c["paper"]]  # the paper compares with fine-tuning


def test_every_figure_of_the_records_hangs_in_the_gallery():
    text = (ROOT / "book" / "gallery.md").read_text()
    drawn = {p.stem for p in (ROOT / "figures").glob("*.png")} - {"idea", "posters"}
    assert drawn == set(re.findall(r"\(\.\./figures/(\w+)\.png\)", text))


def test_every_picture_says_in_words_what_it_shows():
    for path in (ROOT / "README.md", *(ROOT / "book").glob("*.md")):
        for said, picture in re.findall(r"!\[(.*?)\]\((.*?)\)", path.read_text(encoding="utf-8")):
            assert len(said.split()) > 5, (path.name, picture)
