"""The whole way for one folder of pictures: which commands it takes, and what their results look like."""

import dataclasses
import pathlib

from ..checkpoint import write_text
from . import evaluate, extractors, finetune, pace, sample, table
from .image_sets import ImageFolder
from .latents import Latents
from .manifest import write_json
from .pictures import centre_crop
from .sheet import SHOWN, contact_sheet, gallery, write_png

SCORED = 50  # pictures per method from which on scores are computed: they scatter much with fewer
TEXT = (
    "Each column starts from the same noise. No guidance: the fine-tune as it is. CFG: guided by its own"
    " branch without a label. DoG, Domain Guidance: guided by the pre-trained model. The number is the"
    " weight w of guidance; 1 is off."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A fine-tune on the pictures of `folder`, and `count` samples of it without guidance, with CFG and with
    DoG at each of `weights`; all that is made lies in `out`."""

    folder: str | pathlib.Path
    out: pathlib.Path
    weights: list
    count: int

    def settings(self):
        """The methods to compare, by the name of their folder: none, then CFG and DoG at each weight."""
        found = {"none": ("none", 1.0)}
        for w in self.weights:
            if found.get(f"dog-{w:g}", ("dog", w)) != ("dog", w):
                raise ValueError(f"w is {w} and another that is {w:g} in six digits; expected one of them")
            found |= {f"{method}-{w:g}": (method, w) for method in ("cfg", "dog")}
        return found

    def check(self, recipe):
        """Raise for options that a later step would refuse, before the first one does any work."""
        finetune.Config(**recipe)
        for method, w in self.settings().values():
            sample.Config(method=method, w=w, count=self.count)
        held, _ = finetune.remembered(self.out / "finetune")
        if held and held.get("steps") != recipe["steps"] and any(self.out.glob("*/images")):
            raise ValueError(
                f"steps is {recipe['steps']}; {self.out} holds samples after {held.get('steps')} steps;"
                " expected as many, or another --out"
            )

    def commands(self, pretrained, held_out, recipe, common=()):
        """The commands of the whole way, each a list of words after `python -m dgtoy dit`.

        recipe: options of finetune by name. common: words that every command gets.
        """
        latents, tuned = self.out / "latents", self.out / "finetune"
        tune = [word for name, value in recipe.items() for word in (f"--{name}", value)]
        split = ("--held-out", held_out) if held_out else ()
        yield ["prepare", self.folder, "--out", latents, "--pretrained", pretrained, *split, *common]
        yield ["finetune", latents, "--out", tuned, *tune, *common]
        for name, (method, w) in self.settings().items():
            drawn = ("--method", method, "--w", w, "--count", self.count, "--sheet", 0)
            yield ["sample", tuned, "--out", self.out / name, *drawn, *common]

    def passes(self, recipe, net):
        """Passes over a picture that are left of the fine-tune of `net` and of all samples."""
        left = pace.of_finetune(finetune.Config(**recipe), self.out / "finetune")
        for name, (method, w) in self.settings().items():
            config = sample.Config(method=method, w=w, count=self.count, **sample.sampler_of(net))
            left += pace.of_sample(config, self.out / name)
        return left

    def show(self, notes=""):
        """Contact sheet and gallery, OUT/contact.png and OUT/index.html: the folder's own pictures, then a
        row per method, the first pictures of each, the same noise in each column; columns are in order of
        class.  -> their paths"""
        images = ImageFolder(self.folder)
        classes = images.classes
        order = sorted(range(min(self.count, SHOWN)), key=lambda i: (i % len(classes), i))
        rows = {"your pictures": _own(images, order, Latents(self.out / "latents").plan["size"])}
        for name, (method, w) in self.settings().items():
            rows[sample.named(method, w)] = [sample.image_path(self.out / name, i) for i in order]
        columns = [classes[i % len(classes)] for i in order]
        sheet, page = self.out / "contact.png", self.out / "index.html"
        write_png(contact_sheet(rows, columns), sheet)
        gallery(page, f"{pathlib.Path(self.folder).name}: Domain Guidance", TEXT, rows, columns, notes)
        return sheet, page

    def scores(self, device):
        """The table of the methods' scores against the folder, as OUT/scores.md, if there are pictures enough
        and features for photographs; else why there is none is said.  -> text"""
        if self.count < SCORED:
            came = f"{self.count} pictures per method"
            print(f"no scores: {came} are too few; expected --count {SCORED} or more")
            return ""
        try:
            extractor = extractors.extractor("lite0", device=device)
        except (ImportError, FileNotFoundError) as e:
            print(f"no scores: {e}")
            return ""
        files = [self.out / name / "scores.json" for name in self.settings()]
        for file in files:
            images, made = file.parent / "images", file.parent / "manifest.json"
            found = evaluate.evaluate(images, self.folder, extractor, "lite0", self.count, made=made)
            write_json(file, found)
        text = table.table(table.read(files)) + "\n"
        write_text(self.out / "scores.md", text)
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
