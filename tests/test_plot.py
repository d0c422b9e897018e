import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import random_mixture, refuses
from PIL import Image

from dgtoy.course import plot
from dgtoy.course.intervals import student

METHODS = [m for m in plot.METHODS if m not in ("truth", "source")]  # those two are backdrop
# how a colour (linear RGB) looks to eyes without red, green or blue cones, severity 1:
# Machado, Oliveira & Fernandes 2009
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
FAR = 15  # in CIELAB; 2.3 is a just noticeable difference
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.fixture
def ax():
    with plot.style():
        fig, ax = plt.subplots(figsize=(3, 2))
        yield ax
        fig.canvas.draw()  # warnings are errors: drawing must not warn
        plt.close(fig)


def lab(color, eyes):
    """CIE L*a*b* of a colour as those eyes see it."""
    c = np.array(mpl.colors.to_rgb(color))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(eyes @ linear, 0, 1) / [0.9505, 1, 1.089], 1e-3))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
def test_methods_are_told_apart_by_colour_by_all_eyes(eyes):
    for one, other in itertools.combinations(METHODS, 2):
        distance = np.linalg.norm(
            lab(plot.METHODS[one]["color"], EYES[eyes]) - lab(plot.METHODS[other]["color"], EYES[eyes])
        )
        assert distance > FAR, f"{one} and {other} are {distance:.1f} apart"


def test_methods_are_told_apart_without_any_colour():
    assert len({plot.METHODS[m]["marker"] for m in METHODS}) == len(METHODS)
    assert all(plot.METHODS[m]["marker"] for m in METHODS)
    dark, light = (
        lab(plot.METHODS[m]["color"], np.eye(3))[0] for m in ("truth", "source")
    )  # lines without markers
    assert light - dark > 50


@pytest.mark.parametrize("eyes", EYES)
def test_neighbours_on_a_diverging_map_are_told_apart_by_all_eyes(eyes):
    """Help and harm are blue and red, for all eyes two colours; and each cell has its number."""
    low, high = (lab(mpl.colormaps["RdBu"](share), EYES[eyes]) for share in (0.15, 0.85))
    assert np.linalg.norm(low - high) > 3 * FAR


def test_the_methods_keep_the_colours_of_the_course():
    assert plot.METHODS["truth"]["color"] == "#000000"
    for method in ("none", "source"):
        r, g, b = mpl.colors.to_rgb(plot.METHODS[method]["color"])
        assert r == g == b
    blue, orange = (
        mpl.colors.to_rgb(plot.METHODS["DoG"]["color"]),
        mpl.colors.to_rgb(plot.METHODS["CFG"]["color"]),
    )
    assert blue[2] > max(blue[:2]) and orange[0] > orange[1] > orange[2]


def test_the_style_ends_where_its_block_ends():
    before = dict(mpl.rcParams)
    with plot.style():
        assert mpl.rcParams["font.size"] >= 12 and mpl.rcParams["axes.titlesize"] >= 14
    assert dict(mpl.rcParams) == before


def drawn_under(*theirs):
    """The pixels of a figure made in our style and saved after it, by a reader with settings of their own."""
    with mpl.style.context(["default", *theirs]):
        with plot.style():
            fig, ax = plt.subplots(figsize=(4, 3))
            plot.sweep(ax, [1, 1.5, 2], [[1.0, 2.0], [2.0, 2.5], [0.0, 1.0]], "DoG")
            ax.set(title="a title", xlabel="weight w", ylabel="σ")
            ax.legend()
        raw = io.BytesIO()
        fig.savefig(raw, dpi=50, facecolor=fig.get_facecolor())
        plt.close(fig)
    return np.asarray(Image.open(raw).convert("RGB"), dtype=float)


@pytest.mark.parametrize("theirs", ["dark_background", "ggplot", "grayscale", "seaborn-v0_8-dark"])
def test_a_figure_looks_alike_whatever_the_reader_s_own_style(theirs):
    assert np.array_equal(drawn_under(theirs), drawn_under())


def test_a_figure_looks_alike_whatever_the_reader_s_own_fonts_and_ticks():
    theirs = {
        "font.family": "no such font",
        "xtick.color": "white",
        "ytick.labelcolor": "white",
        "axes.grid": True,
    }
    assert np.array_equal(drawn_under(theirs), drawn_under())


def test_the_truth_is_seen_on_its_ground_under_a_dark_theme(monkeypatch):
    seen = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    with mpl.style.context(["dark_background", {"savefig.facecolor": "black"}]):
        with plot.style():
            fig, ax = plt.subplots(figsize=(2, 2))
            ax.plot([0, 1], [0, 1], color=plot.METHODS["truth"]["color"])
        plot.show(fig)
    pixels = np.asarray(Image.open(io.BytesIO(seen[0].data)).convert("L"))
    assert pixels[0, 0] == 255 and (pixels < 60).mean() > 0.01


def test_samples_are_drawn_where_they_are_in_the_method_s_colour(ax):
    x = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    plot.points(ax, x, "CFG", limit=3)
    (drawn,) = ax.collections
    assert np.allclose(drawn.get_offsets(), x) and ax.get_xlim() == ax.get_ylim() == (-3, 3)
    assert (
        mpl.colors.same_color(drawn.get_facecolor()[0, :3], plot.METHODS["CFG"]["color"])
        and drawn.get_rasterized()
    )
    assert ax.get_aspect() == 1


def test_a_contour_encloses_99_percent_of_the_mass_by_a_solid_line(ax, rng):
    mixture = random_mixture(3, 2, dtype=torch.float32)
    plot.contours(ax, mixture, limit=12)
    (drawn,) = ax.collections
    logp = mixture.logp(mixture.sample(20_000, generator=rng))
    assert (logp > drawn.levels[0]).float().mean().item() == pytest.approx(0.99, abs=0.003)
    assert drawn.levels[0] < 0 and drawn.get_linestyle()[0][1] is None  # not dashed, as negative levels are


def test_a_sweep_draws_the_mean_over_seeds_and_its_interval(ax):
    values = [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [0.0, 1.0, 5.0]]
    plot.sweep(ax, [1, 1.5, 2], values, "DoG")
    (line,) = ax.lines
    assert np.allclose(line.get_ydata(), [2, 2, 2]) and line.get_label() == "DoG"
    assert (line.get_color(), line.get_marker()) == (plot.METHODS["DoG"]["color"], "D")
    corners = ax.collections[0].get_paths()[0].vertices
    low, high = student(values[2])[1:]
    assert corners[:, 1].max() == pytest.approx(high) and corners[:, 1].min() == pytest.approx(low)


def test_a_heat_map_says_its_numbers(ax):
    values = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    image = plot.heat(ax, [1, 1.5, 2], [0, 1], values, "rate", fmt="{:.1f}")
    assert [t.get_text() for t in ax.texts] == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "1.5", "2"] and np.array_equal(
        image.get_array(), values
    )


@pytest.mark.parametrize("values", ([[0.9, 1.2]], [[1.0, 1.0]]))
def test_the_colours_of_a_centred_map_diverge_at_its_centre(ax, values):
    image = plot.heat(ax, [0, 1], [0], values, "w*", cmap="RdBu", centre=1.0)
    assert (
        image.norm(1.0) == pytest.approx(0.5)
        and 0 <= image.norm(min(values[0])) <= image.norm(max(values[0])) <= 1
    )


def test_maps_side_by_side_share_their_colours_by_a_common_reach(ax):
    image = plot.heat(ax, [0, 1], [0], [[0.9, 1.2]], "w*", centre=1.0, reach=2.0, bar=False)
    assert (
        image.norm([-1.0, 1.0, 3.0]).tolist() == pytest.approx([0.0, 0.5, 1.0]) and len(ax.figure.axes) == 1
    )


def test_a_bar_is_the_mean_with_its_interval(ax):
    plot.bar(ax, 2.0, [1.0, 2.0, 3.0], "CFG", label="CFG")
    assert ax.patches[0].get_height() == pytest.approx(2.0)
    assert mpl.colors.same_color(ax.patches[0].get_facecolor(), plot.METHODS["CFG"]["color"])


def test_bars_come_one_a_row_from_the_top(ax):
    plot.bars(ax, [[1.0, 2.0], [3.0, 5.0]], ["first", "second"], ["CFG", "DoG"])
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() in "sD"] == [1.5, 4.0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first", "second"]
    assert ax.get_yticks()[0] > ax.get_yticks()[1]


def test_plotting_draws_no_random_numbers(ax):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    plot.points(ax, torch.zeros(3, 2))
    plot.sweep(ax, [1], [[1.0, 2.0]], "none")
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(
        np.random.get_state()[1], before[1]
    )


def test_ink_stays_black_in_a_figure_of_many_blues():
    blues = np.zeros((40, 40, 3))
    blues[..., 2] = np.linspace(0.15, 1, 1600).reshape(40, 40)
    with plot.style():
        fig, ax = plt.subplots(figsize=(3, 3))
        ax.imshow(blues)
        ax.set_title("Ink")
    picture = Image.open(io.BytesIO(plot.png(fig, 24)))
    plt.close(fig)
    assert picture.mode == "P" and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert (np.asarray(picture.convert("RGB")) == 0).all(-1).any()


def test_a_sheet_holds_every_image_at_its_place():
    fig, ax = plt.subplots()
    x = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 3, 4, 5)
    plot.sheet(ax, x, columns=3)
    shown = ax.images[0].get_array()
    assert (
        shown.shape == (8, 15, 3)
        and shown[0, 0, 0] == 0
        and shown[-1, -1, 0] == 1
        and shown[0, 5, 0] == pytest.approx(0.2)
    )
    plt.close(fig)


def test_a_sheet_with_a_broken_row_is_refused():
    with refuses("x has shape (5, 3, 4, 4)", "divisible by 3"):
        plot.sheet(None, torch.zeros(5, 3, 4, 4), columns=3)


def test_a_shown_figure_is_a_small_png_and_closed(monkeypatch):
    seen = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    fig, ax = plt.subplots()
    plot.show(fig)
    assert seen[0].data.startswith(b"\x89PNG") and not plt.fignum_exists(fig.number)


def test_a_figure_of_photographs_is_shown_as_a_jpeg_with_its_words(monkeypatch):
    seen = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    plot.show(plt.figure(), alt="a plate", quality=85)
    assert seen[0].data.startswith(b"\xff\xd8") and seen[0]._repr_jpeg_()[1]["alt"] == "a plate"


def test_a_shown_figure_says_in_words_what_it_shows(monkeypatch):
    seen = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    fig, ax = plt.subplots()
    ax.plot([0, 1], [1, 0], label="DoG")
    ax.set(xlabel="weight w", ylabel="energy distance", title="Guidance\nhelps ...")
    plot.show(fig)
    assert seen[0]._repr_png_()[1]["alt"] == "Guidance helps. energy distance against weight w. shown: DoG"
    plot.show(plt.figure(), alt="two humps")
    assert seen[1].alt == "two humps" and plot.described(plt.figure()) == "A figure without titles"
    plt.close("all")


def test_rows_of_pictures_are_named_in_words():
    fig, axes = plt.subplots(2)
    for ax, name in zip(axes, ("none", "DoG"), strict=True):
        plot.sheet(ax, torch.zeros(4, 3, 2, 2), columns=4)
        ax.set_ylabel(name)
    assert plot.described(fig) == "rows of pictures: none, DoG"
    plt.close(fig)


def test_a_title_wider_than_its_figure_is_not_cut(monkeypatch):
    seen, size = [], lambda image: Image.open(io.BytesIO(image.data)).size
    monkeypatch.setattr("IPython.display.display", seen.append)
    for title in ("short", "a title that is a good deal wider than the small figure under it"):
        fig, ax = plt.subplots(figsize=(2, 2))
        ax.set_title(title)
        plot.show(fig)
    assert size(seen[1])[0] > 1.5 * size(seen[0])[0]


@pytest.mark.parametrize("options", [{}, dict(dpi=200), dict(quality=80)])
def test_a_figure_is_as_wide_on_the_page_however_sharp_it_is(monkeypatch, options):
    seen = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    plot.show(plt.subplots(figsize=(3, 2))[0], **options)
    _, metadata = seen[0]._repr_mimebundle_()
    (said,) = metadata.values() if "width" not in metadata else [metadata]
    assert abs(said["width"] - 300) < 40  # its margins are cut
    dots = Image.open(io.BytesIO(seen[0].data)).width
    assert dots == pytest.approx(said["width"] * options.get("dpi", 100 if options else 160) / 100, abs=1)


def test_a_png_has_few_colours_where_that_does_not_show():
    from PIL import Image

    rng = np.random.default_rng(0)
    with plot.style():
        lines, photograph = plt.subplots()[0], plt.subplots()[0]
        lines.axes[0].plot([0, 1], [1, 0])
        photograph.add_axes((0, 0, 1, 1)).imshow(rng.random((40, 40, 3)), aspect="auto")
        small, whole = (Image.open(io.BytesIO(plot.png(fig))) for fig in (lines, photograph))
        raw = io.BytesIO()
        photograph.savefig(raw, format="png")
    assert small.mode == "P" and whole.mode == "RGB"
    assert np.array_equal(np.asarray(whole), np.asarray(Image.open(raw).convert("RGB")))
    plt.close("all")
