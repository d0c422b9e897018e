"""Slides: one deck per notebook, made of the cells tagged `slide`. `make book` puts them into slides/.
Where no cell is tagged, as in a new notebook, headings, predictions and figures are taken.

A deck shows less than its notebook, by one rule. Of a text: each heading with the table or the first
sentences below it, and with the list that follows them or one formula, the next or else the last, which is
the result; and each prediction whole. Of a code cell: its figure, with the first sentences of the text that
comes after it, as a folded answer, unless they have a slide of their own, and a table that it prints as well;
or its table; or else what it prints, with the same sentences, below the code if there is room; or the code
alone, where nothing is printed. The rest is for the notebook.
"""

import base64
import html
import io
import json
import pathlib
import re

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

TEMPLATE = pathlib.Path(__file__).parent / "slides.html"
TALK = (  # of 45 minutes: (notebook, how a heading begins), as book/teaching.md tells it
    ("10", "Look first"),
    ("00", "The idea in one picture"),
    ("00", "See it move"),
    ("04", "See it first"),
    ("06", "The same weight is not the same strength"),
    ("08", "Must the guide be"),
    ("10", "The price"),
    ("10", "Where it fails"),
    ("08", "What to take away"),
)
TALK_TITLE = "Which model should guide a fine-tuned model?"
LONG = 330  # characters of text that are easily read on one slide
LINES = 19  # of code and printed text that fit on one slide
WIDE = 105  # characters of such a line
CAPTION = 3  # of these lines, the place that a caption takes
TABLE = 4  # printed lines beside a figure that have a slide of their own
SIDE = 1.75  # a figure less wide than this has its text beside it, not below
LISTS = ("ordered_list", "bullet_list")
PREDICTION = '<section class="predict">'
CODE = HtmlFormatter(style="a11y-light")
LIST = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Slides</title>
<link rel="icon" href="../_static/icon.svg">
<style>
:root { color-scheme: light dark }
body { font: 1.2rem/1.7 system-ui, sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em }
</style>
</head>
<body>
<h1>Slides</h1>
<p>The arrow keys or a swipe turn the page; printing gives one slide per sheet.
Back to <a href="../index.html">the book</a>.</p>
<ul style="list-style: none; padding: 0">
<!-- decks --></ul>
</body>
</html>
"""


def formula(tex, options):
    """A formula as MathJax wants it; what stands side by side in a notebook stands in lines here, larger."""
    if not options["display_mode"]:
        return html.escape(rf"\({tex}\)")
    lines = [tex] if r"\begin" in tex else re.split(r"\s*(?:\\qquad\s*)+", tex)
    return html.escape(
        r"\["
        + (r"\begin{gathered}" + r"\\[1ex]".join(lines) + r"\end{gathered}" if lines[1:] else tex)
        + r"\]"
    )


MARKDOWN = MarkdownIt().enable("table").use(dollarmath_plugin, double_inline=True, renderer=formula)


def picture(renderer, tokens, i, options, env):
    """A picture or animation that a notebook links to, inside the slide, which has to stand alone."""
    path = pathlib.Path(__file__).parents[1] / "notebooks" / tokens[i].attrs["src"]
    kind, data = ("gif", path.read_bytes()) if path.suffix == ".gif" else ("jpeg", as_jpeg(path))
    code, alt = base64.b64encode(data).decode(), html.escape(tokens[i].content)
    return f'<img alt="{alt}" src="data:image/{kind};base64,{code}">'


def as_jpeg(path):
    """A picture in fewer bytes."""
    held = io.BytesIO()
    Image.open(path).convert("RGB").save(held, "jpeg", quality=85)
    return held.getvalue()


MARKDOWN.add_render_rule("image", picture)
for rule in ("link_open", "link_close"):  # a slide leads nowhere but to its neighbours
    MARKDOWN.add_render_rule(rule, lambda *arguments: "")


def rendered(text, inline=False):
    """Markdown as HTML, with punctuation on the line of its formula."""
    page = MARKDOWN.renderInline(text) if inline else MARKDOWN.render(text)
    return re.sub(
        r"\(*<span class=\"math inline\">[^<]*</span>[).,;:?!]+", r'<span class="whole">\g<0></span>', page
    )


def blocks(source):
    """Kinds and texts of the blocks of a Markdown text: heading, paragraph, ordered_list, math_block ..."""
    lines = source.splitlines()
    tokens = [t for t in MARKDOWN.parse(source) if t.level == 0 and t.map and t.nesting >= 0]
    return [(t.type.removesuffix("_open"), "\n".join(lines[slice(*t.map)])) for t in tokens]


def first_sentences(text, limit=LONG):
    """As many whole first sentences as fit into `limit` characters, at least one; of a list, of each item."""
    if re.match(r"\d+\. |- ", text):
        items = re.split(r"\n(?=\d+\. |- )", text)
        return "\n".join(
            re.sub(
                r"(\d+\. |- )(.*)", lambda m: m[1] + first_sentences(m[2], limit // 2), item, flags=re.DOTALL
            )
            for item in items
        )
    said = ""
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z*$`])", text):
        if said and len(said) + len(sentence) > limit:
            break
        said += " " * bool(said) + sentence
    return said + "**" * (said.count("**") % 2)  # where a bold passage was cut


def slide(heading, body, kind="text"):
    """One slide as HTML."""
    title = rendered(heading, inline=True)
    return f'<section class="{kind}">\n<h2>{title}</h2>\n{body}\n</section>'


def shown_with(following, near):
    """Of the blocks that follow a text, what to show with it: the list or the code that comes next, or a
    formula: the next one with its sentence or, if it need not be near, the last of the section."""
    kinds = [kind for kind, _ in following]
    if kinds and kinds[0] in LISTS:
        return first_sentences(following[0][1], 100)
    if kinds[:1] == ["fence"]:
        return following[0][1]
    section = following[: kinds.index("heading")] if "heading" in kinds else following
    if kinds[:1] == ["math_block"] and not near:
        return whole_sentence(section)
    formulas = [text for kind, text in section[: 1 if near else None] if kind == "math_block"]
    return ended(formulas[-1]) if formulas else ""


def ended(formula):
    """A formula with which a slide ends: without the comma that leads on in the notebook."""
    return re.sub(r",(\s*\$\$)$", r"\1", formula)


def whole_sentence(section):
    """The formula that a section begins with and, if a comma ends it, the words and the formula after it."""
    said = section[:1]
    if re.search(r",\s*\$\$$", said[0][1]):
        more = section[1:3]
        if [kind for kind, _ in more] == ["paragraph", "math_block"] and len(more[0][1]) < LONG / 3:
            said += more
    return ended("\n\n".join(text for _, text in said))


def predicts(text):
    """Whether a block asks for a prediction."""
    return text.startswith("**Predict.**")


def continues(found):
    """Whether a cell of these blocks has a slide for its first text, as it neither asks nor has a heading."""
    return not any(predicts(text) or kind == "heading" for kind, text in found)


def of_text(source, heading, untold=False):
    """The slides of a Markdown cell. untold: whether no slide has shown the answer it begins with"""
    found = blocks(source)
    fresh = continues(found) or untold and found[0][0] == "html_block"
    for i, (kind, text) in enumerate(found):
        if kind == "heading":
            fresh, heading = True, text.lstrip("# ")
        elif predicts(text) or fresh and kind in ("paragraph", "table", *LISTS):
            said = text if predicts(text) or kind == "table" else first_sentences(text)
            body = rendered(said + "\n\n" + shown_with(found[i + 1 :], predicts(text)))
            yield slide(heading, body, "predict" if predicts(text) else "text")
            fresh = False


def mime_of_picture(output):
    """The type of a picture that a code cell shows, None where it shows none."""
    found = output.get("data", {})
    return next((mime for mime in ("image/png", "image/jpeg") if mime in found), None)


def height(text):
    """The number of lines that a text takes on a slide, where long ones are broken."""
    return sum(1 + max(len(line) - 1, 0) // WIDE for line in text.splitlines())


def printed(cell):
    """All that a code cell prints."""
    return "".join("".join(output.get("text", "")) for output in cell["outputs"]).strip("\n")


def caption_of(after):
    """The first sentences of the text after a code cell, "" where it begins with something else."""
    told = [block for block in blocks(after) if block[0] != "html_block"]  # an answer, unfolded
    kind, text = (told or [("", "")])[0]
    said = kind == "paragraph" and not predicts(text)
    return rendered(first_sentences(text, 180), inline=True) if said else ""


def of_code(cell, heading, after):
    """The slide of a code cell. after: the source of the Markdown cell that follows it"""
    caption = caption_of(after)
    below = f'<p class="caption">{caption}</p>'
    for output in cell["outputs"]:
        if mime := mime_of_picture(output):
            said_of = output["metadata"].get(mime, {})
            alt = html.escape(said_of.get("alt", ""))
            code = output["data"][mime].replace("\n", "")
            width, high = Image.open(io.BytesIO(base64.b64decode(code))).size
            wide = said_of.get("width", width)  # in the notebook
            shown = f'<img alt="{alt}" width="{wide}" src="data:{mime};base64,{code}">'
            side = caption and width / high <= SIDE
            return slide(heading, f"{shown}\n{below}", "figure side" if side else "figure")
        if table := output.get("data", {}).get("text/markdown"):
            return slide(heading, rendered("".join(table).partition("\n\n")[0]))  # the first of several
    source, text = "".join(cell["source"]), printed(cell)
    code = highlight(source, PythonLexer(), CODE)
    if not text:
        return slide(heading, code, "code")
    fits = height(source) + height(text) <= LINES - CAPTION * bool(caption)
    return slide(heading, f"{code * fits}{preformatted(text, not fits)}\n{below}", "code")


def preformatted(text, alone):
    """What a cell prints; where it stands alone, as large as its longest line allows."""
    larger = f' style="--columns: {max(map(len, text.splitlines()))}"' if alone else ""
    return f'<pre class="printed"{larger}>{html.escape(text)}</pre>'


def with_table(cell, heading, after):
    """The slides of a code cell: one, or two where it prints a table beside its figure, in their order"""
    figure, text = of_code(cell, heading, after), printed(cell)
    kinds = ["picture" if mime_of_picture(output) else "text" for output in cell["outputs"]]
    if "picture" not in kinds or height(text) < TABLE:
        return [figure]
    table = slide(heading, preformatted(text, True), "code")
    return [figure, table] if kinds[0] == "picture" else [table, figure]


def worth_showing(cell):
    """Whether a cell that nobody has tagged holds a heading, a prediction or a figure, and is no exercise."""
    if {"exercise", "solution"} & set(cell["metadata"].get("tags", ())):
        return False
    return (
        any(map(mime_of_picture, cell.get("outputs", ())))
        or cell["cell_type"] == "markdown"
        and re.search(r"^(#+ |\*\*Predict)", "".join(cell["source"]), re.MULTILINE) is not None
    )


def deck(notebook):
    """The title of a notebook and its slides."""
    cells, heading, slides = json.loads(notebook.read_text())["cells"], "", []
    told = None  # the text that the last code cell has taken its caption from
    tagged = [cell for cell in cells if "slide" in cell["metadata"].get("tags", ())] or list(
        filter(worth_showing, cells)
    )
    for i, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell in tagged:
            text = next((c for c in cells[i + 1 :] if c["cell_type"] == "markdown" or c in tagged), None)
            after = "".join(text["source"]) if text and text["cell_type"] == "markdown" else ""
            if text in tagged and continues(blocks(after)):
                after = ""
            plain = i > 0 and (cells[i - 1]["cell_type"] == "markdown" or cells[i - 1] not in tagged)
            untold = plain and cell is not told
            told = text if after and cell["cell_type"] == "code" else told
            slides += (
                of_text(source, heading, untold)
                if cell["cell_type"] == "markdown"
                else with_table(cell, heading, after)
            )
        if cell["cell_type"] == "markdown":
            heading = ([heading] + [text.lstrip("# ") for kind, text in blocks(source) if kind == "heading"])[
                -1
            ]
    slides[:1] = [first.replace("h2>", "h1>") for first in slides[:1]]
    return blocks("".join(cells[0]["source"]))[0][1].lstrip("# "), slides


def talk(decks):
    """The slides below the headings of TALK, without predictions that no slide there answers.

    decks: {notebook's number: its slides}

    Raises ValueError for a heading that has no slides, as after a notebook was rewritten.
    """
    chosen = [f'<section class="text">\n<h1>{TALK_TITLE}</h1>\n<p>A talk of 45 minutes.</p>\n</section>']
    for number, heading in TALK:
        found = [slide for slide in decks[number] if f"<h2>{heading}" in slide]
        if not found:
            raise ValueError(f"notebook {number} has no slides below {heading!r}; TALK names it")
        while found and found[-1].startswith(PREDICTION):
            found.pop()
        chosen += found
    return chosen


def write(notebooks, folder):
    """A deck for each notebook, one for the talk, and a page that lists them."""
    folder.mkdir(parents=True)
    decks = {path: deck(path) for path in notebooks}
    for path, (title, slides) in decks.items():
        home = f"../notebooks/{path.stem}.html"
        (folder / f"{path.stem}.html").write_text(as_page(path.stem[:2], title, home, slides))
    slides = talk({path.stem[:2]: slides for path, (_, slides) in decks.items()})
    (folder / "talk.html").write_text(as_page("Talk", TALK_TITLE, "../teaching.html", slides))
    items = "".join(
        f'<li><a href="{path.stem}.html">{path.stem[:2]} · {html.escape(title)}</a></li>\n'
        for path, (title, _) in decks.items()
    )
    items += '<li><a href="talk.html">A talk of 45 minutes, from several notebooks</a></li>\n'
    (folder / "index.html").write_text(LIST.replace("<!-- decks -->", items))


def as_page(number, title, home, slides):
    """A deck as a page of its own. home: where its foot leads"""
    page = TEMPLATE.read_text().replace("NUMBER", number).replace("TITLE", html.escape(title))
    page = page.replace("HOME", home).replace("/* code */", CODE.get_style_defs("pre"))
    return page.replace("<!-- slides -->", "\n".join(slides))
