"""Where the notebooks say it: each sentence that cites a claim, with the record that carries it."""

import json
import pathlib
import re

LOADED = re.compile(r"""load\(\s*["'](\w+)["'],\s*["']\.\./figures["']""")


def sentences(folder="notebooks"):
    """Every sentence that names a claim such as C7.  -> [(notebook, id, sentence)]"""
    found = []
    for path in sorted(pathlib.Path(folder).glob("*.ipynb")):
        for kind, text in _cells(path):
            if kind == "markdown":
                found += [(path.stem, name, s) for s in _split(text) for name in re.findall(r"\bC\d+\b", s)]
    return found


def records(folder="notebooks"):
    """{notebook: names of the records that its cells load and quote}"""
    codes = {
        path.stem: "\n".join(text for kind, text in _cells(path) if kind == "code")
        for path in sorted(pathlib.Path(folder).glob("*.ipynb"))
    }
    return {stem: sorted(set(LOADED.findall(code))) for stem, code in codes.items()}


def table(figures="figures", folder="notebooks"):
    """The sentences with the verdicts of their claims, then the records of each notebook, as Markdown."""
    claims = {
        c["id"]: c for c in json.loads((pathlib.Path(figures) / "claims.json").read_text(encoding="utf-8"))
    }
    lines = ["| | said in | sentence | record | verdict |", "|---|---|---|---|---|"]
    for stem, name, sentence in sentences(folder):
        record, verdict = claims[name]["experiment"], claims[name]["verdict"]
        where = f"[{stem[:2]}](notebooks/{stem}.ipynb)"
        lines.append(f"| {name} | {where} | {_in_a_cell(sentence)} | `{record}` | {verdict} |")
    lines += [
        "",
        "| notebook | its other numbers come from its own cells and from these records |",
        "|---|---|",
    ]
    for stem, names in records(folder).items():
        known = ", ".join(f"`{name}`" for name in names) or "none: all is computed there"
        lines.append(f"| [{stem[:2]}](notebooks/{stem}.ipynb) | {known} |")
    return "\n".join(lines)


def _split(text):
    """The sentences of a Markdown text, each on one line; a cell of a table is a paragraph of its own."""
    text = re.sub(r"^\|.*\|$", lambda row: row[0].replace("|", "\n\n"), text, flags=re.MULTILINE)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", re.sub(r"</?\w+>", "", text))]
    return [s for part in paragraphs for s in re.split(r"(?<=[.!?)])\s+(?=[A-Z*(])", part)]


def _cells(path):
    """(kind, source) of a notebook's cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def _in_a_cell(sentence):
    """A sentence as it can stand in a table, without links."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", sentence).replace("|", "\\|").strip()
