"""The paper's seven targets: where to get them, how many classes, which split."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Target:
    """A data set of the paper.

    classes: how many folders `prepare` expects. where: who publishes it. split: which images train. licence:
    as its publisher states it.
    """

    classes: int
    where: str
    split: str
    licence: str


TARGETS = {
    "food101": Target(
        101,
        "Food-101, ETH Zürich (Hugging Face: ethz/food101)",
        "train: 750 images a class",
        "research use, photographs by their authors",
    ),
    "sun397": Target(
        397,
        "SUN397, Princeton Vision & Robotics",
        "train of the first official partition",
        "research use, see its page",
    ),
    "caltech101": Target(101, "Caltech-101, CaltechDATA", "without the background class", "CC BY 4.0"),
    "cub200": Target(
        200,
        "CUB-200-2011, CaltechDATA",
        "train of train_test_split.txt",
        "research use, photographs by their authors",
    ),
    "cars": Target(
        196, "Stanford Cars, Stanford AI Lab", "train: 8,144 images", "research use, see its page"
    ),
    "df20m": Target(182, "DF-20M mini, Danish Fungi, Picek et al. 2022", "train", "see its page"),
    "artbench10": Target(10, "ArtBench-10, Liao et al. 2022", "train: 5,000 images a class", "see its page"),
}
