"""What ties the book together: numbered notebooks, names that lead to the package, docstrings as written.

The docstrings are plain text with formulas in ASCII. Their paragraphs become paragraphs, what is indented
stays as it stands, and no character is taken for markup. Below each stands where its formula is and which
notebooks use it.
"""

import ast
import functools
import importlib
import json
import pathlib
import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms import SphinxTransform

import dgtoy

HERE = pathlib.Path(__file__).parent
NOTEBOOKS = sorted((HERE / "notebooks").glob("*.ipynb"))
FORMULAS = re.findall(r"^\$\$ \(([\w-]+)\)$", (HERE / "formulas.md").read_text(), re.MULTILINE)
DRAWN = re.findall(r"/(\w+)\.png\)", (HERE / "gallery.md").read_text())  # records with a figure


@functools.cache
def address(text):
    """The full name that the book documents for an inline one such as `theory.alignment`, or None."""
    path, _, name = text.removesuffix("()").removeprefix("dgtoy.").rpartition(".")
    if not name.isidentifier() or not path and name not in dgtoy.__all__:
        return None
    try:
        thing = getattr(importlib.import_module(f"dgtoy.{path}".rstrip(".")), name)
        return f"{thing.__module__}.{thing.__qualname__}"
    except (ImportError, AttributeError):
        return None


class LinkNames(SphinxTransform):
    """Inline code that names something of the package becomes a link to its page, and after the word
    "record", or among the claims, one to that record's figure in the gallery.
    """

    default_priority = 400

    def apply(self):
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, pending_xref | nodes.reference):
                continue
            name = literal.astext()
            before = literal.previous_sibling()
            named = self.env.docname == "claims" or before and before.astext().endswith("record ")
            if named and name in DRAWN:
                place = self.app.builder.get_relative_uri(self.env.docname, "gallery")
                literal.replace_self(nodes.reference("", "", literal.deepcopy(), refuri=f"{place}#{name}"))
            elif target := address(name):
                link = pending_xref(
                    "",
                    literal.deepcopy(),
                    refdomain="py",
                    reftype="obj",
                    reftarget=target,
                    refexplicit=True,
                    refwarn=False,
                    refdoc=self.env.docname,
                )
                literal.replace_self(link)


class NameFigures(SphinxTransform):
    """A figure of the gallery can be linked to by its record's name."""

    default_priority = 400

    def apply(self):
        if self.env.docname == "gallery":
            for image in self.document.findall(nodes.image):
                image.parent["ids"].append(pathlib.Path(image["uri"]).stem)


class NumberTitles(SphinxTransform):
    """The notebooks call each other by number, so their titles show it."""

    default_priority = 400

    def apply(self):
        number = re.match(r"notebooks/(\d\d)_", self.env.docname)
        if number:
            next(self.document.findall(nodes.title)).insert(0, nodes.Text(f"{number[1]} · "))


@functools.cache
def uses():
    """{full name: [notebooks that import it or reach it by its module]}"""
    found = {}
    for path in NOTEBOOKS:
        shown = [
            c
            for c in json.loads(path.read_text())["cells"]
            if "remove-cell" not in c["metadata"].get("tags", ())
        ]
        tree = ast.parse("\n".join("".join(c["source"]) for c in shown if c["cell_type"] == "code"))
        names = {
            f"{node.module}.{a.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for a in node.names
        }
        names |= {
            f"dgtoy.{n.value.id}.{n.attr}"
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        }
        for full in {address(name) for name in names if name.startswith("dgtoy.")} - {None}:
            found.setdefault(full, []).append(path.stem)
    return found


def readable(lines):
    """Plain text as reStructuredText: paragraphs, literal blocks where indented, code between backticks."""
    out, literal = [], False
    for line in lines:
        indented = line.startswith(" ")
        if line.strip() and indented != literal:
            out += ["", "::", ""] if indented else [""]
            literal = indented
        out.append(line if literal else plain(line))
    return out


def plain(line):
    parts = line.split("`")
    if len(parts) % 2 == 0:  # code that goes on in the next line: leave the backticks alone
        return re.sub(r"([\\`*_|])", r"\\\1", line)
    parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [rf"\ ``{part}``\ " for part in parts[1::2]]
    return "".join(parts)


def docstring(app, what, name, thing, options, lines):
    """Sphinx's hook: the docstring as it was written, then where it belongs in the course."""
    label = name.removeprefix("dgtoy.").replace(".", "-").lower()
    formula = [f"Formula :eq:`{label}`."] if label in FORMULAS else []
    places = [f":doc:`{stem[:2]} </notebooks/{stem}>`" for stem in uses().get(name, ())]
    used = [f"Used in notebook{'s' * (len(places) > 1)} {', '.join(places)}."] if places else []
    lines[:] = [
        *readable(lines),
        "",
        *([".. container:: used", "", "   " + " ".join(formula + used), ""] if formula + used else []),
    ]


def beside(app, name, source):
    """Sphinx's hook: links to book/ lose that folder, since its pages stand beside notebooks/ here; links
    within a notebook, written as Jupyter has them, get the anchors of this book.
    """
    text = source[0].replace("](../book/", "](../").replace('href=\\"../book/', 'href=\\"../')
    source[0] = re.sub(r"\]\(#([^)]+)\)", lambda link: f"](#{anchor(link[1])})", text)


def describe(app, name, source):
    """Sphinx's hook: what a figure says of itself for those who cannot see it, where MyST-NB looks for it."""
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            for said in output.get("metadata", {}).values():
                if "alt" in said:
                    cell["metadata"]["mystnb"] = {"image": {"alt": said["alt"]}}
    source[0] = json.dumps(notebook)


def anchor(heading):
    """A heading in a link, with the spaces as hyphens, as MyST writes it: "E.-My-own" is "e-my-own"."""
    return re.sub(r"[^\w-]", "", heading.lower())


def page(app, pagename, templatename, context, doctree):
    """Notebook pages know their file and their slides, for the line at their top."""
    name = pagename.removeprefix("notebooks/") if pagename.startswith("notebooks/") else None
    context["notebook"] = name and f"{name}.ipynb"
    context["slides"] = (
        name and f"{name}.html" if (HERE / "_extra" / "slides" / f"{name}.html").exists() else None
    )


def setup(app):
    app.add_transform(LinkNames)
    app.add_transform(NameFigures)
    app.add_transform(NumberTitles)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("source-read", beside)
    app.connect("source-read", describe)
    app.connect("html-page-context", page)
    return {"parallel_read_safe": True}
