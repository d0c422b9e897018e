"""Figures: functions of (ax, data) in one palette. They never sample and never train."""

import contextlib
import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

from .intervals import student

# Okabe & Ito's palette, safe for the colour-blind; a method keeps its colour, marker and line everywhere
METHODS = {
    method: dict(color=color, marker=marker, linestyle=line)
    for method, color, marker, line in (
        ("truth", "#000000", "", "-"),
        ("source", "#C4C4C4", "", "-"),
        ("none", "#666666", "o", ":"),
        ("CFG", "#E69F00", "s", "--"),
        ("DoG", "#0072B2", "D", "-"),
        ("DoG on an interval", "#56B4E9", "^", "-."),
        ("autoguidance", "#CC79A7", "v", "--"),
        ("blurred self", "#770000", "X", "-"),
        ("DogFit", "#D55E00", "P", ":"),
        ("plane", "#009E73", "*", "-"),
    )
}
NAMES = {
    "out_of_domain": "out-of-domain rate",
    "energy": "energy distance to the truth",
    "coverage": "share of modes covered",
    "thickness": "thickness, relative to the truth",
    "class_error": "class error",
    "frechet": "Fréchet distance",
    "style_error": "share with a foreign style",
}


PAGE = 100  # pixels of a notebook's page per inch of a figure
LOOK = {
    "font.size": 13,
    "axes.titlesize": 15,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 72,
    "savefig.dpi": 110,
    "lines.linewidth": 2.2,
    "figure.constrained_layout.use": True,
}


@contextlib.contextmanager
def style():
    """Large type and thin frames on white, legible from the back of a lecture hall.

    It starts from matplotlib's own defaults, so that a reader's dark theme or missing font changes nothing.
    """
    before = plt.get_fignums()
    with mpl.style.context(["default", LOOK]):
        yield
        for number in set(plt.get_fignums()) - set(before):
            plt.figure(number).draw_without_rendering()  # ticks are made when first drawn: in this style


def points(ax, x, method="truth", size=3, limit=None):
    """A scatter of samples x (n, 2) in the method's colour, on square axes, from -limit to limit if given."""
    x = torch.as_tensor(x).cpu()
    color = METHODS[method]["color"]
    ax.scatter(*x.T, s=size, color=color, alpha=0.5, linewidths=0, rasterized=True)
    ax.set(aspect="equal", xticks=[], yticks=[])
    if limit:
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit))


def sheet(ax, x, columns=10, title=None):
    """Images x (n, 3, H, W) in [-1, 1] side by side, `columns` to a row; n is divisible by it."""
    x = torch.as_tensor(x).cpu()
    if x.ndim != 4 or len(x) % columns:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, 3, H, W) with n divisible by {columns}")
    rows = x.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # (rows, H, columns, W, 3)
    ax.imshow((rows.flatten(2, 3).flatten(0, 1) / 2 + 0.5).clamp(0, 1).numpy(), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)


def show(fig, alt=None, colors=32, dpi=None, quality=None):
    """Show a figure in a notebook as a PNG of few colours, a third of the bytes, and close it.

    alt: what it shows, in words, for those who cannot see it; by default what its titles and axes say.
    dpi: how sharp it is, by default 160, of a JPEG 100; on the page an inch is PAGE pixels wide in any case.
    quality: of a JPEG instead, from 1 to 95; for photographs, which take a tenth of the bytes that way.
    """
    from IPython.display import Image, display
    from PIL import Image as Picture

    dpi = dpi or (100 if quality else 160)
    options = dict(dpi=dpi, bbox_inches="tight", pad_inches=0.08)
    data = jpeg(fig, quality, **options) if quality else png(fig, colors, **options)
    plt.close(fig)
    width = round(Picture.open(io.BytesIO(data)).width * PAGE / dpi)
    display(Image(data=data, alt=alt or described(fig), width=width))


def png(fig, colors=256, **options):
    """A figure as a PNG of so many colours, a third of the bytes; of all where it shows, as in photographs.

    options: of `savefig`.
    """
    from PIL import Image as Picture
    from PIL import ImageChops

    raw, small = io.BytesIO(), io.BytesIO()
    options = dict(facecolor=fig.get_facecolor(), pil_kwargs=dict(compress_level=0)) | options
    fig.savefig(raw, format="png", **options)  # a title wider than the figure widens it
    whole = Picture.open(raw).convert("RGB")
    few = whole.quantize(colors, dither=Picture.Dither.NONE)
    pixels, palette = np.asarray(whole).reshape(-1, 3), np.reshape(few.getpalette(), (-1, 3))
    darkest = pixels.sum(-1).argmin()
    palette[np.asarray(few).flat[darkest]] = pixels[darkest]  # black ink stays black among many blues
    few.putpalette(palette.flatten().tolist())
    error = np.asarray(ImageChops.difference(few.convert("RGB"), whole)).mean()
    (few if error < 3 else whole).save(small, "png", optimize=True)  # of 255 levels
    return small.getvalue()


def jpeg(fig, quality, **options):
    """A figure as a JPEG of a quality from 1 to 95. options: of `savefig`."""
    held, how = io.BytesIO(), dict(quality=quality, optimize=True)
    fig.savefig(held, format="jpeg", facecolor=fig.get_facecolor(), pil_kwargs=how, **options)
    return held.getvalue()


def described(fig):
    """A figure's titles, rows of pictures, axes and curves as a sentence each."""
    said = [fig.get_suptitle()]
    rows = [ax.get_ylabel() for ax in fig.axes if ax.images and ax.get_ylabel() and not ax.get_xlabel()]
    if rows:
        said.append(f"rows of pictures: {', '.join(rows)}")
    for ax in fig.axes:
        said.append(ax.get_title() or ax.get_title("left"))
        if ax.get_xlabel() and ax.get_ylabel():
            said.append(f"{ax.get_ylabel()} against {ax.get_xlabel()}")
        curves = dict.fromkeys(ax.get_legend_handles_labels()[1])
        if curves:
            said.append(f"shown: {', '.join(curves)}")
    texts = (" ".join(text.split()).strip(" .") for text in said)  # without the dots of "falls ..."
    sentences = dict.fromkeys(filter(None, texts))  # each once
    return ". ".join(sentences) or "A figure without titles"


def contours(ax, mixture, limit, method="truth", n=200):
    """Lines that enclose 99% of a 2-D mixture's mass, on a grid of n x n points over [-limit, limit]^2."""
    grid = torch.linspace(-limit, limit, n)
    x = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)  # (n, n, 2)
    logp = mixture.logp(x).double()
    ordered = logp.flatten().sort(descending=True).values
    mass = ordered.exp().cumsum(0) / ordered.exp().sum()
    height = ordered[(mass < 0.99).sum().clamp(max=len(mass) - 1)].item()
    look = dict(colors=METHODS[method]["color"], linewidths=1.0, linestyles="solid")  # not dashed below 0
    ax.contour(grid, grid, logp, levels=[height], **look)


def sweep(ax, x, values, method, label=None, **changes):
    """A method's mean over seeds against x, with its 95% band.  values (len(x), seeds)"""
    mean, low, high = np.array([student(v) for v in values]).T
    look = METHODS[method] | changes
    ax.plot(x, mean, label=label or method, markersize=7, **look)
    ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def heat(ax, x, y, values, label, cmap="viridis", centre=None, fmt="{:.3f}", bar=True, reach=None):
    """A map of values (len(y), len(x)), each cell with its number.

    `centre`: where the colours diverge, as far as `reach` to each side (by default the largest distance).
    """
    values = np.asarray(values)
    norm = None
    if centre is not None:
        reach = reach or np.abs(values - centre).max() or 1.0
        norm = mpl.colors.Normalize(centre - reach, centre + reach)
    image = ax.imshow(values, origin="lower", aspect="auto", cmap=cmap, norm=norm)
    ax.set_xticks(range(len(x)), [f"{v:g}" for v in x])
    ax.set_yticks(range(len(y)), [f"{v:g}" for v in y])
    ax.spines[:].set_visible(False)
    for (i, j), v in np.ndenumerate(values):
        ink = "white" if np.mean(image.to_rgba(v)[:3]) < 0.5 else "black"
        ax.text(j, i, fmt.format(v), ha="center", va="center", fontsize=10, color=ink)
    if bar:
        ax.figure.colorbar(image, ax=ax, label=label)
    return image


def _whiskers(values):
    """The mean over seeds, and how far its 95% interval reaches: [[down], [up]]."""
    mean, low, high = student(values)
    return mean, [[mean - low], [high - mean]]


def bar(ax, x, values, method, label=None, width=0.18):
    """One bar: the mean over seeds with its 95% interval, in the method's colour."""
    mean, reach = _whiskers(values)
    ax.bar(x, mean, width, color=METHODS[method]["color"], label=label, yerr=reach, capsize=3)


def bars(ax, values, names, methods):
    """Horizontal points with 95% intervals, one per row from the top.  values (rows, seeds)"""
    for i, (seeds, method) in enumerate(zip(values, methods, strict=True)):
        mean, reach = _whiskers(seeds)
        look = METHODS[method]
        ax.errorbar(mean, -i, xerr=reach, fmt=look["marker"], color=look["color"], markersize=9, capsize=4)
    ax.set_yticks([-i for i in range(len(names))], names)
    ax.grid(axis="x", alpha=0.3)
