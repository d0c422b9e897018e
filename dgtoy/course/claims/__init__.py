"""The claims: what each says, which experiment tests it, and the rule in code that judges its record.

A rule is a function of one record. It returns a `Finding`: the number that the claim is about, its 95%
interval and a verdict, "holds", "holds in part" or "fails", by the parts of the claim. Metric and weight were
fixed before the runs; book/claims.md says which rules changed after a first look.
"""

import dataclasses
from collections.abc import Callable

from .blur import c32
from .closed import c31
from .completion import c4, c18, c29, c30
from .exact import c1, c2, c3, c8
from .guides import c9, c10
from .images import c14_glyphs, c17
from .nulls import c21, c22, c23
from .photos import c13, c14, c15, c16, c17_photos, c18_photos, c19_photos, c24, c25, c33, c34, c36
from .photos_why import c20
from .points import c5, c6, c7, c11, c12, c19
from .relatives import c28


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim in words, the experiment that tests it, the rule that judges its record, the paper's figure,
    and whether the rule was committed before the record existed."""

    id: str
    text: str
    experiment: str
    rule: Callable
    paper: str = "–"
    before: bool = False


CLAIMS = (
    Claim(
        "C1",
        "DoG is the conditional score plus (w − 1) times CFG's class term and a domain term",
        "exact",
        c1,
        "sec. 3: derived",
    ),
    Claim("C2", "Guided sampling does not sample the tilted density", "exact", c2),
    Claim(
        "C3",
        "Per direction DoG multiplies the std by (s_T/s_S)^(w−1) and overshoots the mean as the closed "
        "form says",
        "exact",
        c3,
    ),
    Claim(
        "C31",
        "The closed form foretells what DoG, and no other guide, does to each direction, whatever the "
        "target's shape",
        "closed",
        c31,
        before=True,
    ),
    Claim(
        "C4",
        "Fine-tuning forgets: the null branch is the worse estimate and has lost the source, more so "
        "with less data",
        "forgetting",
        c4,
        "sec. 3: argued",
    ),
    Claim(
        "C5",
        "On the trade-off of samples outside against match, over all w: DoG < CFG < none",
        "transfer",
        c5,
        "19.6% better FID than standard fine-tuning",
        before=True,
    ),
    Claim(
        "C6",
        "DoG works as well on fine-tunes made without label dropout",
        "dropout",
        c6,
        "no training needed",
    ),
    Claim(
        "C7",
        "DoG pays with diversity; an interval buys most of it back and has the better trade-off",
        "transfer",
        c7,
        before=True,
    ),
    Claim("C8", "The closed form tells where DoG helps and where it hurts", "gap", c8),
    Claim(
        "C9",
        "The ancestor guides better than a weaker self; a stranger of the same source will do",
        "guides",
        c9,
        before=True,
    ),
    Claim(
        "C10",
        "Controls: itself changes nothing; untrained, wrongly labelled and swapped guides are worse than DoG",
        "guides",
        c10,
        before=True,
    ),
    Claim(
        "C11", "The gain grows as target data shrinks, and no samples are copies", "size", c11, before=True
    ),
    Claim("C12", "The ordering holds across samplers and numbers of steps", "steps", c12, before=True),
    Claim(
        "C18",
        "Held-out data give the weight: above 1 unfinished, about 1 finished, below 1 overfitted; no "
        "search needed",
        "calibration",
        c18,
    ),
    Claim("C19", "Points of the plane off both lines beat CFG and DoG at once", "plane", c19),
    Claim(
        "C13",
        "Photographs, each guide at its own w: Fréchet distance DoG < CFG < none; precision up",
        "photos",
        c13,
        "19.6% better FID than standard fine-tuning",
        before=True,
    ),
    Claim(
        "C14",
        "Photographs far from the source, paintings: DoG harms where CFG does not",
        "photos",
        c14,
        before=True,
    ),
    Claim(
        "C14 glyphs",
        "Small images: outside the source DoG overshoots the style; inside, the closed form tells which "
        "directions sharpen",
        "images_gap",
        c14_glyphs,
    ),
    Claim(
        "C15",
        "Photographs: the pre-trained model is the best guide, however finished the fine-tune is",
        "photos_guides",
        c15,
        "sec. 3: argued",
        before=True,
    ),
    Claim(
        "C16",
        "LoRA fine-tunes: the guide is the same network with the adapter off, no second copy",
        "photos_recipes",
        c16,
        "asked by reviewers",
        before=True,
    ),
    Claim(
        "C17",
        "DogFit: the field learned in training gives DoG's quality in one call a step",
        "images_dogfit",
        c17,
    ),
    Claim(
        "C20",
        "The closed form beyond Gaussians: on photographs DoG changes the std of each direction by "
        "(s_T/s_S)^(w−1), and CFG and the blurred self do not",
        "photos_why",
        c20,
        before=True,
    ),
    Claim(
        "C21",
        "CFG is held back by its poor null branch: an ideal one would guide better",
        "nulls",
        c21,
        "sec. 3: argued",
    ),
    Claim(
        "C22",
        "DoG works by what the pre-trained model knows, not by its breadth alone",
        "nulls",
        c22,
        "sec. 3: argued",
    ),
    Claim(
        "C23",
        "The model's own density, blurred, guides on a better trade-off than CFG, DoG and autoguidance",
        "nulls",
        c23,
    ),
    Claim(
        "C32",
        "The blurred self wants a blur of a few strokes, which held-out points find, and overshoots nowhere, "
        "though DoG does",
        "blur",
        c32,
        before=True,
    ),
    Claim(
        "C24",
        "Photographs: CFG is held back by its null branch alone; with a well-trained one it becomes DoG",
        "photos_guides",
        c24,
        "sec. 3: argued",
        before=True,
    ),
    Claim(
        "C25",
        "Photographs: the order holds with less data, a LoRA, no label dropout, other lengths and samplers",
        "photos_recipes",
        c25,
        before=True,
    ),
    Claim(
        "C28",
        "Another guide gains more than another update: no relative of CFG or DoG reaches the blurred self's "
        "trade-off",
        "relatives",
        c28,
    ),
    Claim(
        "C33",
        "Photographs: another guide gains more than another update: none of CFG's relatives reaches DoG, and "
        "none of DoG's gains 5% on it",
        "photos_relatives",
        c33,
        before=True,
    ),
    Claim(
        "C34",
        "Photographs: the guide need not be the ancestor; a stranger of the same pictures is within 5% of it",
        "photos_stranger",
        c34,
        before=True,
    ),
    Claim(
        "C35",
        "Photographs: the order of C13 holds with a pre-trained model eight times as large",
        "photos_large",
        c13,
        "19.6% better FID than standard fine-tuning",
        before=True,
    ),
    Claim(
        "C36",
        "Photographs: DoG's gain is still there where the loss on held-out pictures no longer falls",
        "photos_length",
        c36,
        before=True,
    ),
    Claim(
        "C29",
        "Points for points, calibrated guidance completes an unfinished fine-tune and costs a finished one "
        "little",
        "budget",
        c29,
        before=True,
    ),
    Claim(
        "C30",
        "The null branch levels off for want of training, not of capacity or data",
        "null_branch",
        c30,
        "sec. 3: argued",
        before=True,
    ),
    Claim(
        "C17 photos",
        "Photographs: DogFit, one call a step, keeps what guidance gives",
        "photos_plane",
        c17_photos,
        before=True,
    ),
    Claim(
        "C18 photos",
        "Photographs: weights from held-out pictures beat training on those pictures, and need no search",
        "photos_plane",
        c18_photos,
        before=True,
    ),
    Claim(
        "C19 photos",
        "Photographs: a point off both lines of the plane beats CFG and DoG at once",
        "photos_plane",
        c19_photos,
        before=True,
    ),
)
