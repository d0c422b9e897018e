"""Every cell of the book's table of pipelines, and that the table says what the cells do."""

import pytest
import torch
from matrix import FEATURES, KINDS, PAGE, verdict

SLOW = [("compile", kind) for kind in KINDS if kind != "DiT"]  # ten seconds each
CELLS = [
    pytest.param(feature, kind, marks=pytest.mark.slow if (feature, kind) in SLOW else ())
    for feature in FEATURES
    for kind in KINDS
]


def in_the_book():
    """{(feature, kind): words} as the page has them."""
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- pipelines -->\n")[2].partition("<!-- /pipelines -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    (_, *features), _, *rows = rows
    return {(name, kind): words for kind, *cells in rows for name, words in zip(features, cells, strict=True)}


@pytest.mark.filterwarnings("ignore")  # diffusers', of offloading without an accelerator
@pytest.mark.parametrize("feature, kind", CELLS)
def test_a_cell_of_the_table_holds(feature, kind):
    torch._dynamo.reset()
    assert verdict(kind, feature) == in_the_book()[feature, kind]


def test_the_table_has_every_cell_and_no_other():
    assert set(in_the_book()) == {(feature, kind) for feature in FEATURES for kind in KINDS}
