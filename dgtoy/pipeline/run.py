"""The whole way for one folder of pictures: which commands it takes, and what their results look like."""

import pathlib

from ..checkpoint import write_text
from . import evaluate, finetune, sample, table
from .image_sets import ImageFolder
from .latents import Latents
from .pictures import centre_crop
from .sheet import contact_sheet, gallery, write_png

SCORED = 50  # pictures per method from which on scores are computed: they scatter much with fewer
SHOWN = 60  # pictures per method on a sheet: a thousand would be 134,000 pixels wide, and 225 MB
NAMES = dict(none="no guidance", cfg="CFG", dog="DoG")
TEXT = (
    "Each column starts from the same noise. No guidance: the fine-tune as it is. CFG: guided by its own"
    " branch without a label. DoG, Domain Guidance: guided by the pre-trained model. The number is the"
    " weight w of guidance; 1 is off."
)


def settings(weights):
    """The methods to compare, by the name of their folder: none, then CFG and DoG at each weight."""
    found = {"none": ("none", 1.0)}
    for w in weights:
        if found.get(f"dog-{w:g}", ("dog", w)) != ("dog", w):
            raise ValueError(f"w is {w} and another that is {w:g} in six digits; expected one of them")
        found |= {f"{method}-{w:g}": (method, w) for method in ("cfg", "dog")}
    return found


def check(out, recipe, weights, count):
    """Raise for options that a later step would refuse, before the first one does any work."""
    finetune.Config(**recipe)
    for method, w in settings(weights).values():
        sample.Config(method=method, w=w, count=count)
    held, _ = finetune.remembered(out / "finetune")
    if held and held.get("steps") != recipe["steps"] and any(out.glob("*/images")):
        raise ValueError(
            f"steps is {recipe['steps']}; {out} holds samples after {held.get('steps')} steps; expected as"
            " many, or another --out"
        )


def commands(folder, out, pretrained, held_out, recipe, weights, count, common=()):
    """The commands of the whole way, each a list of words after `python -m dgtoy dit`.

    recipe: options of finetune by name. common: words that every command gets.
    """
    out = pathlib.Path(out)
    tune = [word for name, value in recipe.items() for word in (f"--{name}", value)]
    split = ("--held-out", held_out) if held_out else ()
    yield ["prepare", folder, "--out", out / "latents", "--pretrained", pretrained, *split, *common]
    yield ["finetune", out / "latents", "--out", out / "finetune", *tune, *common]
    for name, (method, w) in settings(weights).items():
        drawn = ("--method", method, "--w", w, "--count", count)
        yield ["sample", out / "finetune", "--out", out / name, *drawn, *common]


def show(folder, out, weights, count, notes=""):
    """Contact sheet and gallery of a run, OUT/contact.png and OUT/index.html: the folder's own pictures, then
    a row per method, the first pictures of each, the same noise in each column; columns are in order of
    class.  -> their paths"""
    out, images = pathlib.Path(out), ImageFolder(folder)
    classes = images.classes
    order = sorted(range(min(count, SHOWN)), key=lambda i: (i % len(classes), i))
    size = Latents(out / "latents").plan["size"]
    rows = {"your pictures": _own(images, order, size)}
    for name, (method, w) in settings(weights).items():
        label = NAMES[method] if method == "none" else f"{NAMES[method]} {w:g}"
        rows[label] = [sample.image_path(out / name, i) for i in order]
    columns = [classes[i % len(classes)] for i in order]
    write_png(contact_sheet(rows, columns), out / "contact.png")
    gallery(out / "index.html", f"{pathlib.Path(folder).name}: Domain Guidance", TEXT, rows, columns, notes)
    return out / "contact.png", out / "index.html"


def scores(folder, out, weights, count, device):
    """The table of the methods' scores against the folder, as OUT/scores.md, if there are pictures enough and
    features for photographs; else why there is none is said.  -> text"""
    if count < SCORED:
        print(f"no scores: {count} pictures per method are too few; expected --count {SCORED} or more")
        return ""
    try:
        extractor = evaluate.extractor("lite0", device=device)
    except (ImportError, FileNotFoundError) as e:
        print(f"no scores: {e}")
        return ""
    files = [out / name / "scores.json" for name in settings(weights)]
    for file in files:
        images, made = file.parent / "images", file.parent / "manifest.json"
        evaluate.save(evaluate.evaluate(images, folder, extractor, "lite0", count, made=made), file)
    text = table.table(table.read(files)) + "\n"
    write_text(out / "scores.md", text)
    print(text, end="")
    return text


def _own(images, order, size):
    """A picture of the folder for each index: the k-th of its class, as training saw it, in turn."""
    found = []
    for i in order:
        label, k = i % len(images.classes), i // len(images.classes)
        rows = [row for row, own in enumerate(images.labels) if own == label]
        picture, _ = images[rows[k % len(rows)]]
        found.append(centre_crop(picture, size).permute(1, 2, 0).numpy())
    return found
