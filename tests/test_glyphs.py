import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from helpers import refuses, seeded
from torch.nn.functional import affine_grid, grid_sample

from dgtoy.course.worlds.glyphs import (
    FONTS,
    GLYPHS,
    KNOBS,
    SOURCE,
    World,
    atlas,
    digits,
    font_maps,
    render,
    target,
    to_edge,
)

close = torch.testing.assert_close
PLAIN = dict(
    rotation=0, shear=0, scale=1, x=0, y=0, weight=0, blur=0.1, hue=0, contrast=1, paper=1, texture=0
)
NARROW = tuple((knob, (lo + 0.4 * (hi - lo), lo + 0.5 * (hi - lo))) for knob, (lo, hi) in SOURCE.items())


def picture(glyph="R", size=64, **knobs):
    """One upright black glyph on white, but for the knobs given.  -> (1, 3, size, size)"""
    style = torch.tensor([[float((PLAIN | knobs)[k]) for k in KNOBS]])
    return render(
        torch.tensor([GLYPHS.index(glyph)]),
        torch.tensor([FONTS.index("DejaVuSerif")]),
        style,
        torch.tensor([[0.2, 0.7]]),
        size,
    )


def dark(image):
    """How much of white is missing, (..., 3, s, s) in [0, 1]."""
    return (1 - image) / 2


# the atlas


def test_every_glyph_of_every_font_has_a_map_of_its_own():
    maps = atlas().flatten(0, 1)
    assert atlas().shape == (21, 62, 64, 64) and (len(FONTS), len(GLYPHS)) == (21, 62)
    assert len(maps.flatten(1).unique(dim=0)) == 21 * 62
    assert (maps > 0).flatten(1).any(1).all()
    edge = torch.cat([maps[:, 0], maps[:, -1], maps[..., 0], maps[..., -1]], -1)
    assert edge.max() < -0.2  # room for every stroke around it


def test_the_atlas_is_drawn_once_however_the_device_is_spelled():
    assert (
        atlas() is atlas()
        and atlas().data_ptr() == atlas("cpu").data_ptr() == atlas(torch.device("cpu")).data_ptr()
    )


def test_distances_are_positive_inside_with_slope_1_at_the_edge():
    sans = atlas()[FONTS.index("DejaVuSans")]
    middle = {g: sans[GLYPHS.index(g), 32, 32].item() for g in "IOl"}
    assert 0 < middle["I"] < 0.15 and 0 < middle["l"] < 0.15 and middle["O"] < -0.1
    across, down = (
        (sans[:, 1:-1, 2:] - sans[:, 1:-1, :-2]) * 16,
        (sans[:, 2:, 1:-1] - sans[:, :-2, 1:-1]) * 16,
    )
    slope = (across**2 + down**2).sqrt()[sans[:, 1:-1, 1:-1].abs() < 0.05]
    assert slope.median().item() == pytest.approx(1, abs=0.05) and slope.max() < 1.2


@pytest.mark.parametrize("place", [np.s_[20:45, 30:50], np.s_[:9, 3:64], np.s_[:, :]])
def test_distances_to_the_edge_of_a_shape_are_scipy_s_of_the_whole_square(place):
    inside = np.zeros((64, 64), dtype=bool)
    inside[place] = np.random.default_rng(0).random(inside[place].shape) > 0.1
    edt = scipy.ndimage.distance_transform_edt
    assert (to_edge(inside) == np.where(inside, edt(inside) - 0.5, 0.5 - edt(~inside))).all()


def test_capitals_are_0_9_high_and_every_glyph_stands_in_the_middle():
    """From top to bottom to a pixel; across by the font's own spacing, up to 0.15 beside the middle."""
    inside, pixel = atlas() > 0, torch.arange(64) - 31.5
    high = inside[:, GLYPHS.index("H")].any(-1).sum(-1) * 2 / 64
    assert (high - 0.9).abs().max() < 0.05
    for line, limit in ((inside.any(-1), 0.032), (inside.any(-2), 0.15)):
        middle = (
            torch.where(line, pixel, math.inf).amin(-1) + torch.where(line, pixel, -math.inf).amax(-1)
        ) / 2
        assert middle.abs().max() * 2 / 64 < limit


# the knobs


@pytest.mark.parametrize("weight, blur", [(0.0, 0.1), (0.05, 0.1), (-0.02, 0.04)])
def test_ink_is_a_soft_step_of_distance_plus_weight_over_blur(weight, blur):
    distance = atlas()[FONTS.index("DejaVuSerif"), GLYPHS.index("R")]
    t = ((distance + weight) / blur + 0.5).clamp(0, 1)
    tint = torch.tensor([0.1, 0.775, 0.775])  # hue 0: red is left
    close(
        dark(picture(weight=weight, blur=blur))[0],
        tint[:, None, None] * (3 * t**2 - 2 * t**3),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "knobs, seen",
    [
        (dict(rotation=30), [[0.75**0.5, 0.5, 0], [-0.5, 0.75**0.5, 0]]),
        (dict(rotation=-90), [[0, -1, 0], [1, 0, 0]]),
        (dict(scale=1.5), [[1 / 1.5, 0, 0], [0, 1 / 1.5, 0]]),
        (dict(shear=0.4), [[1, 0.4, 0], [0, 1, 0]]),
        (dict(x=0.2, y=-0.1), [[1, 0, -0.2], [0, 1, 0.1]]),
        (dict(rotation=90, shear=0.4, scale=1.5), [[-0.4 / 1.5, 1 / 1.5, 0], [-1 / 1.5, 0, 0]]),
    ],
)
def test_a_knob_of_place_moves_the_picture_as_its_matrix(knobs, seen):
    """Positive angles turn clockwise; scaled, then sheared, then turned, then shifted."""
    grid = affine_grid(torch.tensor([seen], dtype=torch.float32), (1, 3, 64, 64), align_corners=False)
    moved = grid_sample(picture(), grid, padding_mode="border", align_corners=False)
    error = (picture(**knobs) - moved).abs()
    assert error.max() < 0.15 and error.mean() < 0.01 < 0.05 < (picture(**knobs) - picture()).abs().mean()


@pytest.mark.parametrize("x, y", [(0.25, 0.0), (0.0, 0.25), (-0.11, 0.2)])
def test_a_shift_moves_the_centre_of_the_ink_by_that_much(x, y):
    at = (2 * torch.arange(32) + 1) / 32 - 1

    def centre(image):
        ink = dark(image).sum((0, 1))
        return torch.stack([(ink * at).sum(), (ink * at[:, None]).sum()]) / ink.sum()

    close(
        centre(picture(size=32, x=x, y=y)) - centre(picture(size=32)), torch.tensor([x, y]), rtol=0, atol=3e-3
    )


def test_weight_adds_ink():
    ink = torch.stack([dark(picture(weight=w)).mean() for w in (-0.03, 0.0, 0.03, 0.06)])
    assert (ink.diff() > 0.005).all()


def test_ink_is_proportional_to_contrast_and_light_to_paper():
    close(dark(picture(contrast=0.5)), 0.5 * dark(picture(contrast=1)))
    close(1 - dark(picture(paper=0.7)), 0.7 * (1 - dark(picture(paper=1))))


def test_hue_turns_the_channels_and_changes_nothing_else():
    for hue in (0.0, 0.1, 0.5):
        close(picture(hue=hue + 1 / 3), picture(hue=hue).roll(1, dims=1), rtol=0, atol=1e-5)
        close(picture(hue=hue).mean(1), picture(hue=0.77).mean(1), rtol=0, atol=1e-5)
    close(picture(hue=1), picture(hue=0), rtol=0, atol=1e-5)


def test_without_texture_the_paper_is_flat_and_with_it_grained_that_deep():
    paper = lambda **knobs: 1 - dark(picture(contrast=0, paper=0.8, **knobs))
    close(paper(texture=0), torch.full((1, 3, 64, 64), 0.8))
    grained = paper(texture=0.15)
    assert grained.min().item() == pytest.approx(
        0.8 * 0.85, abs=0.01
    ) and grained.max().item() == pytest.approx(0.8, abs=0.01)


# worlds


def test_a_seed_names_its_images_and_another_seed_others():
    one, label = World().sample(20, generator=seeded(3))
    assert torch.equal(one, World().sample(20, generator=seeded(3))[0])
    assert (one - World().sample(20, generator=seeded(4))[0]).abs().flatten(1).mean(1).min() > 0.01
    assert (one[1:] - one[:-1]).abs().flatten(1).mean(1).min() > 0.01


def test_the_first_images_do_not_depend_on_how_many_follow():
    close(World().sample(7, generator=seeded(3))[0], World().sample(40, generator=seeded(3))[0][:7])


def test_sampling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    World().sample(3, generator=seeded(3))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "world",
    (World(), World(size=16), target(), target(narrow=1.0, gap=2.0)),
    ids=("source", "small", "target", "broad"),
)
def test_images_lie_in_minus_1_to_1(world):
    x0, label = world.sample(300, generator=seeded(0))
    assert (
        x0.shape == (300, 3, world.size, world.size)
        and x0.dtype == torch.float32
        and label.dtype == torch.long
    )
    assert -1 <= x0.min() < -0.3 and 0.8 < x0.max() <= 1


def test_labels_come_in_turn_or_as_given():
    world, sample = World("A7z"), lambda *given: World("A7z").sample(7, *given, generator=seeded(0))
    assert (
        sample()[1].tolist() == [0, 1, 2, 0, 1, 2, 0]
        and sample(2)[1].tolist() == [2] * 7
        and world.num_classes == 3
    )
    given = torch.tensor([2, 2, 1, 0, 0, 1, 2])
    x0, label = sample(given)
    assert torch.equal(label, given)
    for k in range(3):  # the label changes the glyph, not the style
        assert torch.equal(x0[given == k], sample(k)[0][given == k])


def test_a_class_shows_its_glyph():
    one = dict.fromkeys(KNOBS, 0.0) | PLAIN
    upright = World(
        "A7z", ("DejaVuSerif",), tuple((k, (float(v), float(v))) for k, v in one.items()), size=64
    )
    x0, _ = upright.sample(3, generator=seeded(0))
    for image, glyph in zip(x0, "A7z"):
        close(image, picture(glyph)[0])


def test_draws_are_the_styles_of_phi_of_z():
    world = World("0123456789", FONTS[3:7], NARROW, size=8)
    u, z = torch.rand(2, 5, generator=seeded(0)), torch.randn(2, 5, 20, generator=seeded(1))
    x0, label = world.draw(u, z)
    v = torch.special.ndtr(z)
    font = 3 + (4 * v[..., 0]).long()
    by_hand = render(
        (10 * u).long().flatten(),
        font.flatten(),
        world.styles(v[..., 3:14]).flatten(0, 1),
        v[..., 1:3].flatten(0, 1),
        8,
    )
    assert torch.equal(label, (10 * u).long())
    close(x0, by_hand.unflatten(0, (2, 5)), rtol=1e-5, atol=1e-5)


def test_uniforms_become_labels_evenly_and_extremes_are_still_images():
    world = World(size=4)
    u = (torch.arange(620) + 0.5) / 620
    _, label = world.draw(u, torch.zeros(620, 14))
    assert label.bincount().tolist() == [10] * 62
    x0, label = world.draw(torch.tensor([0.0, 1.0]), torch.tensor([-40.0, 40.0])[:, None].expand(2, 14))
    assert label.tolist() == [0, 61] and x0.isfinite().all()


def test_styles_and_fonts_lie_where_the_world_says():
    world = dataclasses.replace(World(size=4), ranges=NARROW, fonts=("cmr10", "STIXGeneral"))
    _, _, font, style = world.sample(400, generator=seeded(0), details=True)
    lo, hi = torch.tensor([r for _, r in NARROW]).T
    assert (style >= lo - 1e-6).all() and (style <= hi + 1e-6).all()
    assert ((style.amax(0) - style.amin(0)) > 0.9 * (hi - lo)).all()
    shares = font.bincount(minlength=21) / 400
    assert shares.nonzero().flatten().tolist() == sorted(map(FONTS.index, world.fonts))
    assert shares[FONTS.index("cmr10")].item() == pytest.approx(0.5, abs=0.1)


# targets


def test_a_target_of_full_width_is_the_source_in_few_fonts():
    ranges = dict(target(narrow=1.0).ranges)
    for knob, (lo, hi) in SOURCE.items():
        turned = 0.1 if knob == "hue" else 0  # a circle: the same hues from another start
        assert ranges[knob] == pytest.approx((lo + turned, hi + turned))
    assert (
        target().num_classes == 10
        and target(classes=62).num_classes == 62
        and len(target(fonts=2).fonts) == 2
    )


@pytest.mark.parametrize("gap", (0.0, 0.5, 1.0, 2.0))
@pytest.mark.parametrize("narrow", (0.2, 0.5))
def test_the_gap_moves_the_rotation_by_half_widths_of_the_source(narrow, gap):
    lo, hi = dict(target(narrow=narrow, gap=gap).ranges)["rotation"]
    assert (lo + hi) / 2 == pytest.approx(45 * gap, abs=1e-9) and hi - lo == pytest.approx(90 * narrow)
    others = dict(target(narrow=narrow).ranges)
    assert all(r == others[k] for k, r in target(narrow=narrow, gap=gap).ranges if k != "rotation")
    assert all(
        hi - lo == pytest.approx(narrow * (SOURCE[k][1] - SOURCE[k][0])) for k, (lo, hi) in others.items()
    )


def test_handwritten_digits_are_grey_images_of_ten_classes():
    x0, label = digits(16)
    assert (
        x0.shape == (1797, 3, 16, 16)
        and label.unique().tolist() == list(range(10))
        and label.shape == (1797,)
    )
    assert x0.min() >= -1 and x0.max() <= 1 and x0.dtype == torch.float32
    assert torch.equal(x0[:, 0], x0[:, 1]) and torch.equal(x0[:, 0], x0[:, 2])
    assert (
        x0[..., 0].mean() > 0.9 > 0 > x0[..., 6:10, 6:10].mean() - 0.5
    )  # dark ink in the middle of white paper


# what is refused


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: World(fonts=("Arial",)), ("Arial", "expected some of DejaVuSans")),
        (lambda: World(glyphs="0é"), ("glyphs holds 'é'", "0, 1, 2")),
        (lambda: World(glyphs=""), ("glyphs holds nothing",)),
        (lambda: World(fonts=()), ("fonts holds nothing",)),
        (lambda: World(size=0), ("size is 0", "at least 1 pixel")),
        (
            lambda: World(ranges=(*NARROW[1:], ("rotation", (3.0, 2.0)))),
            ("rotation: (3.0, 2.0)", "low <= high"),
        ),
        (
            lambda: World(ranges=(*NARROW[1:], ("rotation", (0.0, math.nan)))),
            ("rotation: (0.0, nan)", "finite"),
        ),
        (
            lambda: World(ranges=(*NARROW[1:], ("rotation", (0.0, math.inf)))),
            ("rotation: (0.0, inf)", "finite"),
        ),
        (lambda: World(ranges=(*NARROW, ("slant", (0.0, 1.0)))), ("slant: (0.0, 1.0)", "rotation, shear")),
        (
            lambda: World(ranges=NARROW[1:]),
            ("nothing for rotation", "expected a range for each of rotation, shear"),
        ),
        *(
            (lambda n=n: target(narrow=n), (f"narrow is {n}", "0 < narrow <= 1"))
            for n in (0.0, -0.1, 1.1, math.nan)
        ),
        *((lambda g=g: target(gap=g), (f"gap is {g}", "gap >= 0")) for g in (-0.1, math.inf, math.nan)),
        *((lambda c=c: target(classes=c), (f"classes is {c}", "1 to 62")) for c in (0, 63)),
        *((lambda f=f: target(fonts=f), (f"fonts is {f}", "1 to 21")) for f in (0, 22)),
        (lambda: target().sample(3, 10), ("label 10 is out of range for 10 classes",)),
        (lambda: target().sample(3, -1), ("label -1 is out of range for 10 classes",)),
        (lambda: target().sample(3, torch.tensor([0, -2, 9])), ("label -2 is out of range",)),
        (lambda: target().sample(3, torch.tensor([0, 1])), ("label has shape (2,)", "(3,)")),
        (lambda: target().sample(3, 1.0), ("label has shape ()", "torch.float32", "integers")),
        (lambda: target().sample(0), ("n is 0", "1 or more")),
    ],
)
def test_what_is_no_world_is_refused(make, words):
    with refuses(*words):
        make()


def test_a_font_that_matplotlib_does_not_ship_is_missed_by_name():
    with refuses("font Arial", "matplotlib", "Arial.ttf is missing", error=FileNotFoundError):
        font_maps("Arial")


@pytest.mark.parametrize("font", ("DejaVuSansDisplay", "STIXSizOneSymReg"))
def test_a_font_without_letters_is_refused(font):
    with refuses(f"font {font} has no glyph '0'", "expected all of 012"):
        font_maps(font)
