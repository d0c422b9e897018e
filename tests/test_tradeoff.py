"""Trade-offs over w: interpolation, budgets, areas and weights chosen on other seeds."""

import numpy as np
import pytest

from dgtoy.course import tradeoff


def rows(curve, seeds=2):
    """A family from (w, energy, out of domain)."""
    return [dict(w=w, energy=[e] * seeds, out_of_domain=[o] * seeds) for w, e, o in curve]


LINE = rows([(1.0, 0.1, 0.4), (2.0, 0.14, 0.0)])  # a rise of e costs 0.4 - 10 e


def test_between_weights_a_curve_is_linear_and_beyond_the_last_it_stays():
    found = tradeoff.best_within(LINE, [0.0, 0.01, 0.02, 0.04, 1.0])
    assert found[:, 0] == pytest.approx([0.4, 0.3, 0.2, 0.0, 0.0], abs=0.4 / 64)


def test_the_area_is_the_mean_over_budgets():
    assert tradeoff.area(LINE, reach=0.04) == pytest.approx([0.2, 0.2], abs=0.005)


def test_a_method_that_only_harms_is_as_good_as_none():
    worse = rows([(1.0, 0.1, 0.4), (1.5, 0.2, 0.6)])
    assert tradeoff.area(worse) == pytest.approx([0.4, 0.4])


def test_no_guidance_alone_is_a_curve_of_one_point():
    assert tradeoff.area(LINE[:1]) == pytest.approx([0.4, 0.4])


def test_a_curve_below_another_has_the_smaller_area_whatever_its_weights():
    """The same curve walked in longer steps: w is not a common scale."""
    path = np.linspace(0, 1, 9)
    curve = lambda ws: rows([(w, 0.1 + 0.03 * s, 0.4 * (1 - s)) for w, s in zip(ws, path)])
    short, long = curve(1 + path), curve(1 + 5 * path)
    assert tradeoff.area(short) == pytest.approx(tradeoff.area(long))
    lower = rows([(1.0, 0.1, 0.4), (1.1, 0.11, 0.0)])
    assert (tradeoff.area(lower) < tradeoff.area(short)).all()


def test_a_method_that_improves_the_match_costs_nothing():
    better = rows([(1.0, 0.1, 0.4), (2.0, 0.05, 0.1)])
    assert tradeoff.best_within(better, [0.0])[0] == pytest.approx([0.1, 0.1])


def test_the_own_weight_is_chosen_on_the_other_half_of_the_seeds():
    family = [
        dict(w=1.0, energy=[0.1] * 4, out_of_domain=[0.5] * 4),
        dict(w=1.5, energy=[0.1] * 4, out_of_domain=[0.1, 0.4, 0.1, 0.4]),
        dict(w=2.0, energy=[0.1] * 4, out_of_domain=[0.4, 0.1, 0.4, 0.1]),
        dict(w=3.0, energy=[0.2] * 4, out_of_domain=[0.0] * 4),  # beyond the budget
    ]
    found = tradeoff.at_own_weight(family, "out_of_domain")
    assert found["w"].tolist() == [2.0, 1.5, 2.0, 1.5] and found["out_of_domain"].tolist() == [0.4] * 4
    free = tradeoff.at_own_weight(family, "out_of_domain", budget=1.0)
    assert free["w"].tolist() == [3.0] * 4


def test_contraction_is_a_cost_like_any_other():
    family = lambda lost: [r | dict(thickness=[t] * 2) for r, t in zip(LINE, (1 + lost, 1.0))]
    found = tradeoff.area(tradeoff.with_contraction(family(0.1)), cost="contraction", reach=0.1)
    assert found == pytest.approx([0.2, 0.2], abs=0.005)
    assert tradeoff.area_by_thickness(family(tradeoff.CONTRACTION)) == pytest.approx([0.2, 0.2], abs=0.005)


def test_at_equal_cost_match_and_thickness_are_bounded_both():
    row = lambda outside, energy, thickness: dict(
        out_of_domain=np.array([outside]), energy=np.array([energy]), thickness=np.array([thickness])
    )
    none = row(0.1, 0.0, 1.0)
    of_match, of_thickness = row(0.0, 0.03, 1.0), row(0.0, 0.0, 0.85)  # each as dear as is allowed
    for dear in (of_match, of_thickness):
        np.testing.assert_allclose(
            tradeoff.at_equal_cost([none, dear]), 0.05, atol=1e-3
        )  # from 0.1 to 0 in equal steps
    assert tradeoff.at_equal_cost([none, row(0.0, -0.01, 1.2)]) == 0  # what costs nothing
    np.testing.assert_allclose(tradeoff.at_equal_cost([none, row(0.0, 0.0, 0.7)]), 0.075, atol=1e-3)
