import math

import pytest
import torch
from helpers import refuses
from hypothesis import given
from hypothesis import strategies as st

from dgtoy import karras
from dgtoy.checks import check_sigma
from dgtoy.samplers import log_normal, pairs

close = torch.testing.assert_close


def test_the_levels_are_evenly_spaced_in_their_seventh_root():
    sigmas = karras(5, 0.01, 80.0)
    roots = sigmas[:-1] ** (1 / 7)
    close(roots.diff(), torch.full((4,), (0.01 ** (1 / 7) - 80 ** (1 / 7)) / 4, dtype=torch.float64))


def test_rho_1_is_a_straight_line():
    close(karras(4, 1.0, 4.0, rho=1), torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0], dtype=torch.float64))


def test_one_step_goes_from_sigma_max_to_0():
    close(karras(1, 0.1, 5.0), torch.tensor([5.0, 0.0], dtype=torch.float64))


@given(st.integers(2, 200), st.floats(1e-4, 1.0), st.floats(1.5, 1e4), st.floats(1, 10))
def test_a_schedule_falls_from_sigma_max_to_sigma_min_and_then_to_0(n, sigma_min, ratio, rho):
    sigmas = karras(n, sigma_min, sigma_min * ratio, rho)
    assert sigmas.shape == (n + 1,) and sigmas.dtype == torch.float64 and sigmas[-1] == 0
    close(
        sigmas[[0, -2]], torch.tensor([sigma_min * ratio, sigma_min], dtype=torch.float64), rtol=1e-9, atol=0
    )
    assert len(pairs(sigmas)) == n  # strictly decreasing, or this raises


@pytest.mark.parametrize(
    "n, sigma_min, sigma_max, words",
    [
        (0, 0.1, 1.0, ("n is 0", "1 step")),
        (-3, 0.1, 1.0, ("n is -3",)),
        (5, 0.0, 1.0, ("sigma_min, sigma_max are 0.0, 1.0",)),
        (5, -1.0, 1.0, ("-1.0",)),
        (5, 1.0, 1.0, ("0 < sigma_min < sigma_max",)),
        (5, 2.0, 1.0, ("2.0, 1.0",)),
        (5, 0.1, math.inf, ("inf", "finite")),
        (5, math.nan, 1.0, ("nan",)),
        (5, 0.1, math.nan, ("nan",)),
    ],
)
def test_a_schedule_that_is_none_is_refused(n, sigma_min, sigma_max, words):
    with refuses(*words):
        karras(n, sigma_min, sigma_max)


def test_training_levels_are_log_normal():
    close(
        log_normal(torch.tensor([-1.0, 0.0, 2.0]), P_mean=0.5, P_std=2.0).log(),
        torch.tensor([-1.5, 0.5, 4.5]),
    )


def test_steps_are_the_pairs_of_neighbours():
    assert [(float(s), float(t)) for s, t in pairs([4.0, 1.0, 0.0])] == [(4.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    "sigmas, words",
    [
        ([1.0], ("sigmas has shape (1,)", "one step")),
        (torch.ones(2, 2), ("(2, 2)",)),
        (1.0, ("()",)),
        ([2.0, 3.0, 0.0], ("sigmas[1] = 3 follows 2", "decrease")),
        ([2.0, 1.0, 1.0, 0.0], ("sigmas[2] = 1 follows 1",)),
        ([2.0, -1.0], ("-1", "0 or above")),
        ([math.inf, 1.0], ("inf", "finite")),
        ([2.0, math.nan, 0.0], ("finite",)),
    ],
)
def test_levels_that_cannot_be_sampled_are_refused(sigmas, words):
    with refuses(*words):
        pairs(sigmas)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_steps_accept_exactly_the_strictly_decreasing_schedules(levels):
    falls = all(a > b for a, b in zip(levels, levels[1:], strict=False))
    if falls:
        assert len(pairs(torch.tensor(levels, dtype=torch.float64))) == len(levels) - 1
    else:
        with refuses("decrease"):
            pairs(torch.tensor(levels, dtype=torch.float64))


def test_a_level_becomes_a_tensor_that_broadcasts_against_x():
    x = torch.zeros(3, 4, 2, dtype=torch.float64)
    assert check_sigma(0.5, x).shape == ()
    assert check_sigma(torch.ones(3), x).shape == (3, 1, 1)
    assert check_sigma(torch.ones(3, 4), x).shape == (3, 4, 1)


def test_a_python_number_keeps_all_its_digits():
    assert check_sigma(0.1, torch.zeros(1, dtype=torch.float64)).item() == 0.1


@given(st.one_of(st.floats(max_value=0), st.just(math.nan), st.just(math.inf)))
def test_a_level_that_is_not_positive_and_finite_is_refused(sigma):
    with refuses("sigma is", "> 0"):
        check_sigma(sigma, torch.zeros(2))


def test_level_0_is_allowed_where_it_means_something():
    assert check_sigma(0.0, torch.zeros(2), zero=True) == 0
    with refuses("sigma is -0.5", ">= 0"):
        check_sigma(-0.5, torch.zeros(2), zero=True)


@pytest.mark.parametrize("shape", [(2,), (3, 3), (3, 4, 2, 1), (1,)])
def test_levels_must_match_the_leading_axes_of_x(shape):
    with refuses(f"sigma has shape {shape}", "() or (3,"):
        check_sigma(torch.ones(shape), torch.zeros(3, 4, 2))
