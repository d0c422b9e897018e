"""Every pipeline in every way that the book names, and that it names these and no others."""

import re

import pytest
import torch
from matrix import FEATURES, KINDS, PAGE, Case, named

SLOW = [("compile", kind) for kind in KINDS if kind != "DiT"]  # ten seconds each
PAIRS = [
    pytest.param(feature, kind, marks=pytest.mark.slow if (feature, kind) in SLOW else ())
    for feature in FEATURES
    for kind in KINDS
]


@pytest.mark.filterwarnings("ignore")  # diffusers', of offloading without an accelerator
@pytest.mark.parametrize("feature, kind", PAIRS)
def test_a_pipeline_draws_what_the_formula_says(feature, kind):
    torch._dynamo.reset()
    FEATURES[feature](Case(kind))


def test_the_page_names_these_pipelines_and_these_ways():
    text = PAGE.read_text(encoding="utf-8")
    assert f"<!-- pipelines -->\n{named()}\n<!-- /pipelines -->" in text
    listed = text.partition("<!-- /pipelines -->")[2].partition("## ")[0]
    named_ways = " ".join(re.findall(r"^- (\*.*?):", listed, re.MULTILINE))
    assert re.findall(r"\*(.+?)\*", named_ways) == list(FEATURES)
