"""The slides as built by `make book`: one deck a notebook, each slide within its frame. Skipped where the book is not built."""

import base64
import io
import json
import sys

import pytest
from PIL import Image
from test_book import COUNT, NOTEBOOKS, ROOT, SITE, browsed, browser, built, chrome, parsed, resolved  # noqa: F401  (chrome is a fixture)

sys.path.insert(0, str(ROOT / "book"))
DECKS = sorted((SITE / "slides").glob("[0-9]*.html"))


# without a browser


@built
def test_every_notebook_has_a_deck_that_the_book_links_to():
    assert [p.stem for p in DECKS] == [p.stem for p in NOTEBOOKS]
    linked = {resolved("slides/index.html", link)[0] for link in parsed("slides/index.html").links}
    assert set(DECKS) <= linked
    for page in ("index.html", "teaching.html"):
        assert "slides/index.html" in parsed(page).links
    for path in DECKS:
        assert f"../slides/{path.name}" in parsed(f"notebooks/{path.name}").links


def test_tags_stand_on_cells_that_make_slides():
    """Every figure of the lesson is on a slide, and so is every prediction; exercises and their solutions are not."""
    for path in (p for p in NOTEBOOKS if '"slide"' in p.read_text()):
        for cell in json.loads(path.read_text())["cells"]:
            tags = set(cell["metadata"].get("tags", ()))
            assert not ("slide" in tags and tags & {"exercise", "solution"}), path.name
            figure = any(
                {"image/png", "image/jpeg"} & set(o.get("data", {})) for o in cell.get("outputs", ())
            )
            if (figure or "**Predict.**" in "".join(cell["source"])) and not tags & {"exercise", "solution"}:
                assert "slide" in tags, (path.name, "".join(cell["source"])[:80])


def test_every_prediction_is_answered_on_the_next_slide():
    pytest.importorskip("mdit_py_plugins")
    import slides

    for path in NOTEBOOKS:
        _, shown = slides.deck(path)
        for asked, answer in zip(shown, [*shown[1:], ""]):
            if asked.startswith(slides.PREDICTION):
                heading = asked.splitlines()[1]
                assert heading in answer and not answer.startswith(slides.PREDICTION), (path.name, heading)


def test_the_talk_takes_slides_from_several_notebooks_and_names_a_heading_that_is_gone(monkeypatch):
    pytest.importorskip("mdit_py_plugins")
    import slides

    monkeypatch.setattr(slides, "TALK", (("01", "Second"), ("00", "First")))
    decks = {
        "00": [slides.slide("First of all", "a"), slides.slide("Last", "b")],
        "01": [slides.slide("Second", "c"), slides.slide("Second", "unanswered?", "predict")],
    }
    title, *chosen = slides.talk(decks)
    assert slides.TALK_TITLE in title and chosen == [decks["01"][0], decks["00"][0]]
    monkeypatch.setattr(slides, "TALK", (("00", "Gone"),))
    with pytest.raises(ValueError, match="notebook 00 has no slides below 'Gone'"):
        slides.talk(decks)


@built
def test_the_talk_shows_photographs_and_the_animation():
    page = (SITE / "slides" / "talk.html").read_text()
    assert page.count("<section") > 10 and "data:image/gif" in page and "data:image/jpeg" in page


def pictured(kind, size):
    """A code cell that shows a picture."""
    held, mime = io.BytesIO(), f"image/{kind}"
    Image.new("RGB", size).save(held, kind)
    shown = dict(data={mime: base64.b64encode(held.getvalue()).decode()}, metadata={mime: dict(alt="a < b")})
    return dict(source="f(x)", outputs=[dict(output_type="display_data", **shown)])


def test_a_slide_says_the_first_sentences_the_formula_and_every_prediction():
    pytest.importorskip("mdit_py_plugins")
    import slides

    text = f"An answer.\n\n## One thing\n\nIt is $x$. {'It goes on. ' * 50}\n\n$$D$$\n\nMore of it.\n\n**Predict.** Up?\n"
    first, second = slides.of_text(text, "")
    assert (
        "<h2>One thing</h2>" in first
        and r"\(x\)" in first
        and r"\[D\]" in first
        and "More" not in first
        and "An answer" not in first
        and r'<span class="whole"><span class="math inline">\(x\)</span>.</span>' in first
    )
    assert len(first) < slides.LONG + 200 and "Up?" in second
    assert r"\[E\]" in next(
        slides.of_text("## So\n\nLong ago.\n\nThen\n\n$$D$$\n\nat last\n\n$$E$$\n\n## Next", "")
    )
    sentence = next(slides.of_text("## So\n\nFirst\n\n$$D ,$$\n\nand so\n\n$$E .$$\n\n$$F$$", ""))
    assert (
        r"\[D ,\]" in sentence
        and "and so" in sentence
        and r"\[E .\]" in sentence
        and "F" not in sentence.replace("First", "")
    )
    assert r"\[\begin{gathered}D\\[1ex]E\end{gathered}\]" in next(
        slides.of_text("## So\n\nTwo:\n\n$$D\\qquad\\qquad E$$", "")
    )
    assert r"\[D\]" in next(slides.of_text("## So\n\nIt is\n\n$$D,$$\n\nwhatever it costs.", ""))
    (listed,) = slides.of_text("## So\n\nTwo ways:\n\n- *One.* It is good.\n- Two", "")
    assert (
        "Two ways:" in listed and "<li><em>One.</em> It is good.</li>" in listed and "<li>Two</li>" in listed
    )
    assert "<td>b</td>" in next(slides.of_text("## So\n\n| a |\n|---|\n| b |\n\nMore of it.", ""))
    assert (
        slides.first_sentences("1. One. Two.\n2. Three\n   more.", 20) == "1. One. Two.\n2. Three\n   more."
    )
    assert slides.first_sentences("1. One is long.\n   Two.\n2. Three.", 20) == "1. One is long.\n2. Three."
    for kind in ("png", "jpeg"):
        for size, place in (((300, 100), '"figure"'), ((100, 100), '"figure side"')):
            made, mime = slides.of_code(pictured(kind, size), "", "So it *is*."), f"image/{kind}"
            assert 'alt="a &lt; b"' in made and "<em>is</em>" in made
            assert f'src="data:{mime};base64' in made and f"class={place}" in made
    figure, answer = (
        pictured("png", (100, 100)),
        "<details><summary>Answer</summary>\n\nIt falls.\n\n</details>",
    )
    assert "It falls." in slides.of_code(figure, "", answer)
    assert 'class="figure"' in slides.of_code(figure, "", "")  # nothing to set beside it
    code = slides.of_code(dict(source="f(x)", outputs=[]), "", "So.")
    assert "<img" not in code and "printed" not in code and "So." not in code
    says = dict(source="f(x)", outputs=[dict(output_type="stream", text=["1 < 2\n", "yes\n"])])
    both = slides.of_code(says, "", answer)
    assert '<div class="highlight">' in both and ">1 &lt; 2\nyes</pre>" in both and "It falls." in both
    alone = slides.of_code(says | dict(source="f(x)\n" * 18), "", "")
    assert "highlight" not in alone and "--columns: 5" in alone and ">1 &lt; 2\nyes</pre>" in alone
    lines = dict(output_type="stream", text=["1\n"] * slides.TABLE)
    table, pictured_too = slides.with_table(figure | dict(outputs=[lines, *figure["outputs"]]), "", "")
    assert "printed" in table and "<img" in pictured_too and "printed" not in pictured_too
    few = lines | dict(text=lines["text"][1:])
    assert len(slides.with_table(figure | dict(outputs=[*figure["outputs"], few]), "", "")) == 1
    tabled = dict(source="f(x)", outputs=[dict(data={"text/markdown": ["| a |\n", "|---|\n", "| b |"]})])
    assert "<td>b</td>" in slides.of_code(tabled, "", "So.")
    assert "<code>run it" in next(slides.of_text("## So\n\nThe command:\n\n```\nrun it\n```", ""))


def test_a_notebook_without_tags_shows_headings_predictions_and_figures(tmp_path):
    pytest.importorskip("mdit_py_plugins")
    import slides

    cell = lambda source, *tags: dict(cell_type="markdown", source=source, metadata=dict(tags=list(tags)))
    notebook, cells = (
        tmp_path / "new.ipynb",
        [
            cell("# Why?\n\nFor it."),
            cell("So."),
            cell("**Predict.** Up?"),
            cell("## Exercises\n\nTry.", "exercise"),
        ],
    )
    notebook.write_text(json.dumps(dict(cells=cells)))
    title, found = slides.deck(notebook)
    assert title == "Why?" and len(found) == 2 and "For it." in found[0] and "Up?" in found[1]
    cells[1]["metadata"]["tags"] = ["slide"]
    notebook.write_text(json.dumps(dict(cells=cells)))
    assert len(slides.deck(notebook)[1]) == 1
    figure = pictured("png", (100, 100)) | dict(cell_type="code", metadata=dict(tags=["slide"]))
    for text, own in ((cell("It falls.", "slide"), 1), (cell("It falls."), 0)):  # told once, by whichever
        notebook.write_text(json.dumps(dict(cells=[cells[0], figure, text])))
        assert "".join(slides.deck(notebook)[1]).count("It falls.") == 1
        assert len(slides.deck(notebook)[1]) == 1 + own
    plain = dict(cell_type="code", source="f(x)", outputs=[], metadata={})
    answered = cell("<details>\n\nIt falls.\n\n</details>\n\n## Next\n\nMore.", "slide")
    for code, own in (
        (figure, 0),
        (plain, 1),
    ):  # an answer whose figure or numbers no slide shows has its own
        notebook.write_text(json.dumps(dict(cells=[cells[0], code, answered])))
        found = slides.deck(notebook)[1]
        assert "".join(found).count("It falls.") == 1 and len(found) == 2 + own - (code is plain)
    notebook.write_text(json.dumps(dict(cells=[cells[0], figure, plain, answered])))
    assert "".join(slides.deck(notebook)[1]).count("It falls.") == 1


# in a browser

OUTSIDE = """
const frame = document.querySelector("main").getBoundingClientRect(), foot = document.querySelector("footer").getBoundingClientRect(), found = [];
if (Math.abs(frame.width / frame.height - 16 / 9) > .01) found.push("the frame is not 16:9");
for (const [i, slide] of [...document.querySelectorAll("section")].entries()) {
  const head = slide.querySelector("h1, h2").getBoundingClientRect(), wrong = what => found.push(`slide ${i + 1}: ${what}`);
  for (const e of slide.querySelectorAll(":scope > :not(h1, h2)")) {
    const box = e.getBoundingClientRect();
    if (box.top < head.bottom && box.left < head.right) wrong(`${e.tagName} over the heading`);
    if (box.bottom > foot.top) wrong(`${e.tagName} too low`);
  }
  for (const e of slide.querySelectorAll("*:not(mjx-assistive-mml, mjx-assistive-mml *)")) {
    const box = e.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1) wrong(`${e.outerHTML.slice(0, 60)} too wide`);
    if (e.scrollWidth > e.clientWidth + 1 && e.matches("pre")) wrong("code overflows");
    if (e.matches("pre:not(.printed)") && e.clientHeight > (e.textContent.trim().split("\\n").length + 1.7) * parseFloat(getComputedStyle(e).lineHeight)) wrong("a broken line of code");
    if (e.matches("p, li, pre") && parseFloat(getComputedStyle(e).fontSize) < frame.width / (e.matches("pre") ? 70 : 55)) wrong("small type");
    if (e.matches("mjx-container") && parseFloat(getComputedStyle(e).fontSize) < frame.width / 60) wrong("small formula");
    const wide = +e.getAttribute("width") || e.naturalWidth, high = wide / e.naturalWidth * e.naturalHeight;
    if (e.matches("img") && Math.min(box.width / wide, box.height / high) * 1536 < frame.width) wrong("small figure");
  }
}
done(found);"""
TURN = """
const at = () => document.querySelector("output").textContent.split(" / ").map(Number), seen = [];
const key = name => { dispatchEvent(new KeyboardEvent("keydown", {key: name})); seen.push(at()[0]); };
const swipe = (from, to) => {
  const touch = x => ({changedTouches: [new Touch({identifier: 0, target: document.body, clientX: x, clientY: 9})]});
  dispatchEvent(new TouchEvent("touchstart", touch(from))); dispatchEvent(new TouchEvent("touchend", touch(to))); seen.push(at()[0]);
};
key("ArrowRight"); key(" "); key("ArrowLeft"); key("Home"); key("ArrowLeft"); swipe(300, 100); swipe(100, 300);
key("End"); seen.push(at()[1]); key("ArrowRight");
done([seen, document.querySelectorAll("section").length, getComputedStyle(document.querySelector("section:last-of-type")).visibility, location.hash]);"""


@browsed
@pytest.mark.parametrize("width", [390, 1300])
def test_every_slide_stays_in_its_frame_and_loads_alone_from_a_file(chrome, tmp_path, width):  # noqa: F811
    found = {}
    with browser(chrome, tmp_path, width=width) as b:
        for path in DECKS:
            console, asked = b.open(path.as_uri())
            b.run("document.querySelectorAll('section').forEach(s => s.classList.add('now')); done()")
            marked, rendered, wrong, text = b.run(COUNT)
            found[path.stem] = [*console, *(a for a in asked if not a.startswith("file:")), *b.run(OUTSIDE)]
            found[path.stem] += [f"{rendered} of {marked} formulas, {wrong} with errors"] * (
                rendered != marked or wrong > 0 or not marked
            )
            found[path.stem] += ["raw formula"] * ("\\(" in text or "$" in text)
    assert not {deck: problems for deck, problems in found.items() if problems}


@browsed
def test_keys_and_swipes_turn_the_page(chrome, tmp_path):  # noqa: F811
    with browser(chrome, tmp_path) as b:
        b.open(DECKS[0].as_uri())
        seen, n, last, where = b.run(TURN)
    assert seen == [2, 3, 2, 1, 1, 2, 1, n, n, n] and last == "visible" and where == f"#{n}"


@browsed
def test_a_deck_prints_one_slide_a_sheet(chrome, tmp_path):  # noqa: F811
    with browser(chrome, tmp_path) as b:
        b.open(DECKS[0].as_uri())
        n = b.run("done(document.querySelectorAll('section').length)")
        pdf = base64.b64decode(
            b.devtools("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        )
    assert pdf.count(b"/Type /Page\n") == n
