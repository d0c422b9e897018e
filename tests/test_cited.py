"""Every claim that a notebook cites is in the table of claims, and every record that it reads is there."""

import json
import pathlib
import re

from dgtoy.course.claims import cited

ROOT = pathlib.Path(__file__).resolve().parents[1]


def notebook(folder, *cells):
    kinds = ({"cell_type": kind, "source": source.splitlines(keepends=True)} for kind, source in cells)
    (folder / "03_title.ipynb").write_text(json.dumps({"cells": list(kinds)}))


def test_sentences_that_cite_a_claim_are_found_whole(tmp_path):
    text = "# Title\n\nHm. DoG leaves\nfewer outside (claim C5). That is C7 and C18!\n\nC60s are cars."
    notebook(tmp_path, ("markdown", text), ("code", "C3 = 1"))
    assert cited.sentences(tmp_path) == [
        ("03_title", "C5", "DoG leaves fewer outside (claim C5)."),
        ("03_title", "C7", "That is C7 and C18!"),
        ("03_title", "C18", "That is C7 and C18!"),
    ]


def test_a_cell_of_a_table_is_cited_without_its_row(tmp_path):
    notebook(
        tmp_path, ("markdown", "| The fine-tune | What to do |\n|---|---|\n| has begun | Go on (C29). |")
    )
    assert cited.sentences(tmp_path) == [("03_title", "C29", "Go on (C29).")]


def test_records_are_found_by_their_calls(tmp_path):
    code = 'a = records.load("size", "../figures")\nb = load(\'plane\', \'../figures\')\nload("food")'
    notebook(tmp_path, ("code", code))
    assert cited.records(tmp_path) == {"03_title": ["plane", "size"]}


def test_the_table_names_record_and_verdict(tmp_path):
    notebook(tmp_path, ("markdown", "This is [claim C2](x.md)."))
    claims = [dict(id="C2", experiment="exact", verdict="fails")]
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    line = "| C2 | [03](notebooks/03_title.ipynb) | This is claim C2. | `exact` | fails |"
    assert line in cited.table(tmp_path, tmp_path).splitlines()


def test_what_the_notebooks_cite_is_there():
    known = {c["id"] for c in json.loads((ROOT / "figures" / "claims.json").read_text())}
    said = cited.sentences(ROOT / "notebooks")
    assert len(said) > 5 and not [(stem, name) for stem, name, _ in said if name not in known]
    read = cited.records(ROOT / "notebooks").items()
    assert not [
        (s, name) for s, names in read for name in names if not (ROOT / "figures" / f"{name}.json").exists()
    ]


def test_the_glossary_names_notebooks_that_speak_of_the_term():
    entries = (ROOT / "book" / "glossary.md").read_text().split("\n\n")
    linked = [(entry, stem) for entry in entries for stem in re.findall(r"notebooks/(\w+)\.ipynb", entry)]
    assert len(linked) > 15
    for entry, stem in linked:
        terms = [line.split()[0].lower() for line in entry.splitlines() if line[0] not in " :"]
        said = (ROOT / "notebooks" / f"{stem}.ipynb").read_text().lower()
        assert any(term in said for term in terms), (terms, stem)
