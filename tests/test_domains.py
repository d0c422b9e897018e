import math

import pytest
import torch
from helpers import refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from dgtoy import LabelledMixture
from dgtoy.course.worlds import domains

close = torch.testing.assert_close


@pytest.mark.parametrize("name", domains.NAMES)
@pytest.mark.parametrize("classes", (1, 2, 3, 4))
def test_every_name_makes_a_target_of_every_number_of_classes(name, classes):
    world = domains.make(name, classes=classes)
    assert world.name == name and world.target.num_classes == classes == world.target.null
    counts = world.target.labels.bincount()
    assert (counts == counts[0]).all()  # classes are equally heavy
    close(world.target.weights, torch.full_like(world.target.weights, 1 / len(counts) / counts[0]))
    close(world.target.covs, (0.08**2 * torch.eye(2)).double().expand_as(world.target.covs))


@pytest.mark.parametrize("name", domains.NAMES)
@pytest.mark.parametrize("classes", (2, 3, 4))
def test_classes_are_told_apart(name, classes):
    """Two classes hardly share a place: a true sample is given its own class 9 times in 10."""
    target = domains.make(name, classes=classes).target
    for c in range(classes):
        x = target.given(c).sample(500, generator=torch.Generator().manual_seed(c))
        share = target.responsibilities(x)[:, target.labels == c].sum(-1).mean()
        assert share > 0.9


@pytest.mark.parametrize("name", domains.NAMES)
def test_targets_differ_and_are_centred(name):
    means = domains.make(name).target.means
    assert means.mean(0).abs().max() < 0.7 and means.abs().max() < 2.5


def inside(world):
    """Share of target samples that the source finds no stranger than the strangest hundredth of its own."""
    generator = torch.Generator().manual_seed(0)
    own = world.source.logp(world.source.sample(5_000, generator=generator))
    return (
        (world.source.logp(world.target.sample(2_000, generator=generator)) > own.quantile(0.01))
        .float()
        .mean()
        .item()
    )


@pytest.mark.parametrize("name", domains.NAMES)
def test_the_target_lies_inside_the_source_at_gap_0_and_outside_at_gap_2(name):
    assert inside(domains.make(name)) > 0.7
    assert inside(domains.make(name, gap=2.0)) < 0.01


def test_the_gap_moves_the_target_in_units_of_the_source_s_half_width():
    near, far = domains.make(), domains.make(gap=1.5)
    close(
        far.target.means - near.target.means,
        torch.tensor([6.0, 0.0]).double().expand_as(near.target.means),
        rtol=0,
        atol=1e-5,
    )
    close(far.source.means, near.source.means)


def test_the_breadth_scales_the_source_alone():
    one, half = domains.make(), domains.make(breadth=0.5)
    close(half.source.means, 0.5 * one.source.means)
    close(half.source.covs, 0.25 * one.source.covs)
    close(half.target.means, one.target.means)
    assert one.source.means.abs().max() <= 4


def test_the_source_is_forty_components_in_ten_classes():
    source = domains.make().source
    assert len(source.weights) == 40 and source.num_classes == 10


def test_the_layout_is_the_seed_of_the_source():
    a, b, c = (domains.make(layout=k).source.means for k in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_data_come_by_class_in_the_size_asked_for():
    points = domains.make(classes=3).data(5, [0, 4])
    assert points.x0.shape == (2, 15, 2) and points.label.tolist() == 2 * [[0] * 5 + [1] * 5 + [2] * 5]


def test_data_are_samples_of_their_class():
    world = domains.make(classes=3)
    points = world.data(200, [0])
    for c in range(3):
        x = points.x0[0][points.label[0] == c]
        part = world.target.given(c)
        fresh = part.logp(part.sample(2_000, generator=torch.Generator().manual_seed(1)))
        assert part.logp(x).mean().item() == pytest.approx(fresh.mean().item(), abs=0.5)


def test_data_have_the_covariance_of_their_class():
    cov = torch.tensor([[2.0, 0.6], [0.6, 0.5]])
    one = LabelledMixture([1.0], torch.zeros(1, 2), cov[None], [0])
    x0 = domains.Domain("one", one, one).data(20_000, [3]).x0[0]
    close(torch.cov(x0.T), cov, rtol=0.05, atol=0)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 50))
def test_the_first_points_of_a_class_are_those_of_a_smaller_set(few, more, seed):
    world = domains.make()
    small, large = world.data(few, [seed]), world.data(few + more, [seed])
    for c in range(2):
        close(large.x0[0, large.label[0] == c][:few], small.x0[0, small.label[0] == c])


def test_a_seed_s_data_do_not_depend_on_the_other_seeds():
    world = domains.make()
    together = world.data(7, [3, 1, 8])
    for k, seed in enumerate((3, 1, 8)):
        assert torch.equal(together.x0[k], world.data(7, [seed]).x0[0])
    assert not torch.equal(together.x0[0], together.x0[1])


def test_classes_are_drawn_independently():
    """Both moons have sixteen modes: with common random numbers the k-th points came from twin modes."""
    world = domains.make()
    points = world.data(50, [0])
    mode = [
        torch.cdist(
            points.x0[0][points.label[0] == c].double(), world.target.means[world.target.labels == c]
        ).argmin(-1)
        for c in range(2)
    ]
    assert (mode[0] == mode[1]).double().mean() < 0.3


def test_moving_a_problem_keeps_it():
    world = domains.make().to("cpu")
    assert world.name == "moons" and torch.equal(world.target.means, domains.make().target.means)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(name="swiss"), ("name is 'swiss'", "moons, spirals, grid")),
        (dict(name=["moons"]), ("name is ['moons']", "moons, spirals, grid")),
        (dict(breadth=0.0), ("breadth is 0.0", "above 0")),
        (dict(breadth=-1.0), ("breadth is -1.0", "above 0")),
        (dict(breadth=math.nan), ("breadth is nan", "finite")),
        (dict(breadth=math.inf), ("breadth is inf", "finite")),
        (dict(breadth=None), ("breadth is None", "a finite number")),
        (dict(gap=math.nan), ("gap is nan", "finite")),
        (dict(gap=math.inf), ("gap is inf", "finite")),
        (dict(gap="far"), ("gap is 'far'", "a finite number")),
        (dict(classes=0), ("classes is 0", "at least 1")),
        (dict(classes=-2), ("classes is -2", "at least 1")),
        (dict(classes=2.0), ("classes is 2.0", "a whole number")),
        (dict(layout=0.5), ("layout is 0.5", "the seed of the source")),
        (dict(name="grid", classes=17), ("classes is 17", "at most 16")),
    ],
)
def test_a_problem_that_cannot_be_made_is_refused(change, words):
    with refuses(*words):
        domains.make(**change)


@pytest.mark.parametrize("classes", (5, 7, 8, 16))
def test_a_grid_has_room_for_sixteen_classes(classes):
    assert domains.make("grid", classes=classes).target.num_classes == classes


@pytest.mark.parametrize("size", (0, -1))
def test_data_of_no_points_are_refused(size):
    with refuses(f"size is {size}"):
        domains.make().data(size, [0])


def test_the_world_is_the_same_in_every_precision():
    single = domains.make("spirals", layout=3)
    torch.set_default_dtype(torch.float64)
    try:
        double = domains.make("spirals", layout=3)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in ((single.source, double.source), (single.target, double.target)):
        assert other.means.dtype == torch.float64
        torch.testing.assert_close(one.means.double(), other.means, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.covs.double(), other.covs, rtol=1e-4, atol=1e-6)
