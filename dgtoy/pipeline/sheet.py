"""Pictures side by side: a contact sheet as one PNG, and a gallery as one HTML page."""

import base64
import html
import importlib.util
import io
import pathlib
import re

import numpy as np

from ..checkpoint import whole, write_text
from .pictures import open_picture

CELL, GAP = 128, 6  # pixels
SHOWN = 60  # pictures in a row: a thousand would be 134,000 pixels wide, and 225 MB


def contact_sheet(rows, columns):
    """Pictures in rows, each row behind its name and each picture under that of its column.  -> PIL image

    rows: {name: pictures}, a picture an array (H, W, 3) uint8 or a path; a row may be shorter than columns.
    columns: names, one per picture.
    """
    from PIL import Image, ImageDraw

    font = _font(16)
    margin = round(max(map(font.getlength, rows))) + 2 * GAP
    step, top = CELL + GAP, 16 + 2 * GAP
    size = margin + len(columns) * step, top + len(rows) * step
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for x, name in enumerate(columns):
        pen.text((margin + x * step, GAP), _fitted(name, font), "black", font)
    for y, (name, pictures) in enumerate(rows.items()):
        pen.text((GAP, top + y * step + CELL / 2), name, "black", font, anchor="lm")
        for x, picture in enumerate(pictures):
            image = open_picture(picture).resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(image, (margin + x * step, top + y * step))
    return sheet


def _font(size):
    """A font: matplotlib's DejaVu, where it is, as it has the letters of many languages."""
    from PIL import ImageFont

    if matplotlib := importlib.util.find_spec("matplotlib"):
        path = pathlib.Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def _fitted(name, font):
    """As much of a name as fits above a picture, with dots for what does not. ImageNet's number before a word
    would leave it no room."""
    name = re.sub(r"^n\d{8} (?=.)", "", " ".join(name.split()))
    if font.getlength(name) <= CELL:
        return name
    while name and font.getlength(name + "...") > CELL:
        name = name[:-1]
    return name + "..."


def write_png(image, path):
    """A PIL image or an array (H, W, 3) uint8 into `path`, which appears complete or not at all."""
    from PIL import Image

    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    with whole(path) as part:
        image.save(part, "PNG")


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 100em; padding: 0 1em;
  color-scheme: light dark; }}
.sheet {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th {{ font-weight: 600; padding: 2px 8px; text-align: left; }}
td {{ padding: 2px; }}
img {{ width: {cell}px; height: {cell}px; display: block; }}
</style>
<h1>{title}</h1>
<p>{text}</p>
<div class="sheet"><table>
{rows}
</table></div>
<pre>{notes}</pre>
</html>
"""


def gallery(path, title, text, rows, columns, notes=""):
    """The same rows as a page of HTML that needs no other file. notes: plain text below."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *columns))
    lines = [f"<tr>{head}</tr>"]
    for name, pictures in rows.items():
        cells = (_cell(picture, f"{name}, {column}") for picture, column in zip(pictures, columns))
        lines.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
    words = {k: html.escape(v) for k, v in dict(title=title, text=text, notes=notes).items()}
    write_text(path, PAGE.format(rows="\n".join(lines), cell=CELL, **words))


def _cell(picture, alt):
    """A picture inside the page, as JPEG of high quality."""
    data = io.BytesIO()
    open_picture(picture).save(data, "JPEG", quality=92, subsampling=0)
    code = base64.b64encode(data.getvalue()).decode()
    return f'<td><img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{code}"></td>'
