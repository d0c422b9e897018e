import inspect
import math
import weakref

import numpy as np
import pytest
import torch
from helpers import Counted, gaussian, random_mixture, refuses
from hypothesis import given
from hypothesis import strategies as st

from dgtoy import ancestral, dpmpp_2m, euler, guided, heun, karras, last, theory, trajectory
from dgtoy.samplers import exponential

close = torch.testing.assert_close
SAMPLERS = (euler, heun, dpmpp_2m, ancestral)
DETERMINISTIC = (euler, heun, dpmpp_2m)


def flow(x, mean, std, s, t):
    """The closed-form probability flow of N(mean, std^2) from level s to level t: distances from the mean
    scale."""
    return mean + (x - mean) * math.sqrt((std**2 + t**2) / (std**2 + s**2))


@pytest.mark.parametrize("sampler, order", [(euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_the_order_of_convergence_is_the_one_promised(sampler, order):
    x_T, counts = torch.tensor([[-8.0], [3.0], [11.0]], dtype=torch.float64), (32, 64, 128, 256)
    D, truth = gaussian(1.5, 0.7).denoise, flow(x_T, 1.5, 0.7, 10.0, 0.1)
    errors = [(last(sampler(D, x_T, karras(n, 0.1, 10.0)[:-1])) - truth).abs().max().item() for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope + order) < 0.2


@pytest.mark.parametrize("sampler, order", [(euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_the_order_holds_on_uneven_steps(sampler, order):
    """Steps of ln sigma in the ratio 1 : 3, alternately; the multistep method must weigh them."""
    x_T, counts = torch.tensor([[-8.0], [3.0], [11.0]], dtype=torch.float64), (32, 64, 128, 256)
    uneven = lambda n: torch.cat(
        [torch.zeros(1), torch.tensor([1.0, 3.0]).repeat(n // 2).cumsum(0) / (2 * n)]
    ).double()
    levels = lambda n: 10.0 * torch.exp(math.log(0.01) * uneven(n))
    D, truth = gaussian(1.5, 0.7).denoise, flow(x_T, 1.5, 0.7, 10.0, 0.1)
    errors = [(last(sampler(D, x_T, levels(n))) - truth).abs().max().item() for n in counts]
    assert abs(np.polyfit(np.log(counts), np.log(errors), 1)[0] + order) < 0.25


@given(st.floats(-3, 3), st.floats(0.2, 3), st.floats(0.3, 20))
def test_one_euler_step_is_its_formula(mean, std, s):
    x, D, t = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), gaussian(mean, std).denoise, s / 2
    sigmas = torch.tensor([s, t], dtype=torch.float64)
    close(last(euler(D, x, sigmas)), x + (t - s) * (x - D(x, s)) / s)


def test_the_last_step_to_0_lands_on_the_denoised_point():
    x, D = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), gaussian(1.0, 0.5).denoise
    for sampler in SAMPLERS:
        close(last(sampler(D, x, [0.5, 0.0])), D(x, 0.5))


def test_dpmpp_is_algorithm_2_of_its_paper_on_uneven_steps():
    """In the paper's letters: lambda = -ln sigma, h = steps of lambda, r = h_before / h, D = (1 + 1/2r) x0 -
    1/2r x0_before."""
    x, D, sigmas = (
        torch.tensor([[-1.0], [2.0]], dtype=torch.float64),
        gaussian(1.0, 0.5).denoise,
        [5.0, 4.0, 1.0, 0.7, 0.2],
    )
    found, before = list(dpmpp_2m(D, x, torch.tensor(sigmas, dtype=torch.float64))), None
    for i, (s, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        x0, h = D(x, s), math.log(s / t)
        r = math.log(sigmas[i - 1] / s) / h if i else None
        mixed = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before if i else x0
        x, before = t / s * x - (math.exp(-h) - 1) * mixed, x0
        close(found[i], x)


def test_dpmpp_and_euler_agree_on_their_first_step():
    x, D = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), gaussian(1.0, 0.5).denoise
    close(next(dpmpp_2m(D, x, karras(5, 0.1, 3.0))), next(euler(D, x, karras(5, 0.1, 3.0))))


def test_dpmpp_is_exact_for_a_denoiser_that_does_not_move():
    x, D = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), lambda x, s: torch.full_like(x, 0.3)
    for x_t, t in zip(dpmpp_2m(D, x, karras(6, 0.1, 3.0)), karras(6, 0.1, 3.0)[1:], strict=True):
        close(x_t, 0.3 + (x - 0.3) * t / 3.0)


@pytest.mark.parametrize("sampler", (heun, dpmpp_2m))
@pytest.mark.parametrize(
    "source, target, w, interval",
    [
        ((0.0, 3.0), (2.0, 0.3), 1.5, (0.0, math.inf)),
        ((0.0, 1.0), (3.0, 0.9), 1.5, (0.0, math.inf)),
        ((0.0, 3.0), (0.0, 0.3), 1.5, (0.0, 1.0)),
    ],
)
def test_guided_samples_of_gaussians_end_where_the_theory_says(sampler, source, target, w, interval):
    """The flow is affine: the starts 0 and +-sigma_max become the mean and the mean +- one std."""
    mean, std = theory.gaussian_guidance(target, source, w, interval)
    D = guided(gaussian(*target).denoise, gaussian(*source).denoise, w, interval)
    x_T = 1_000 * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    low, middle, high = last(sampler(D, x_T, karras(400, 1e-3, 1_000.0)))[:, 0].tolist()
    assert (high - low) / 2 == pytest.approx(std, rel=0.01)
    assert middle == pytest.approx(mean, rel=0.01, abs=0.01 * std)


def test_ancestral_sampling_reproduces_the_mixture_s_moments(rng):
    mixture = random_mixture(3, 2, dtype=torch.float32)
    x = last(
        ancestral(
            mixture.denoise, mixture.sample(8_000, sigma=10.0, generator=rng), karras(150, 0.05, 10.0), rng
        )
    )
    truth = mixture.sample(100_000, generator=rng)
    shares = mixture.responsibilities(x).mean(0)
    close(shares, mixture.weights.float(), rtol=0, atol=0.02)
    close(x.mean(0), truth.mean(0), rtol=0, atol=0.1)
    close(torch.cov(x.T), torch.cov(truth.T), rtol=0, atol=0.05 * torch.cov(truth.T).trace().item())


def test_one_ancestral_step_has_the_exact_variance_of_the_level_below(rng):
    x0, s, t = 0.7, 2.0, 0.5
    x_s = x0 + s * torch.randn(200_000, 1, generator=rng)
    x_t = next(ancestral(lambda x, sigma: torch.full_like(x, x0), x_s, [s, t], rng))
    assert x_t.mean().item() == pytest.approx(x0, abs=0.01) and x_t.std().item() == pytest.approx(t, rel=0.01)
    assert torch.corrcoef(torch.cat([x_s, x_t], 1).T)[0, 1].item() == pytest.approx(t / s, abs=0.01)


def test_ancestral_noise_comes_from_its_generator_alone():
    x, D, sigmas = torch.ones(4, 2), random_mixture(dtype=torch.float32).denoise, karras(5, 0.1, 3.0)
    before = torch.get_rng_state()
    a, b = (last(ancestral(D, x, sigmas, torch.Generator().manual_seed(3))) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(a, last(ancestral(D, x, sigmas, torch.Generator().manual_seed(4))))


def test_a_list_of_generators_gives_each_seed_the_noise_it_has_alone():
    x, D, sigmas = torch.ones(3, 4, 2), random_mixture(dtype=torch.float32).denoise, karras(5, 0.1, 3.0)
    generators = lambda: [torch.Generator().manual_seed(s) for s in (5, 6, 7)]
    together = last(ancestral(D, x, sigmas, generators()))
    for k, generator in enumerate(generators()):
        close(together[k], last(ancestral(D, x[k], sigmas, generator)))


def test_no_generators_draw_nothing_and_a_point_alone_takes_no_list():
    D, sigmas = gaussian(0.0, 1.0).denoise, karras(5, 0.1, 3.0)
    assert last(ancestral(D, torch.ones(0, 1), sigmas, [])).shape == (0, 1)
    with refuses("generator holds 1 generators"):
        ancestral(lambda x, sigma: x / 2, torch.tensor(1.0), sigmas, [torch.Generator()])


def test_a_list_of_too_few_generators_is_refused():
    with refuses("generator", "2", "3"):
        D = random_mixture(dtype=torch.float32).denoise
        ancestral(D, torch.ones(3, 4, 2), [2.0, 1.0], [torch.Generator()] * 2)


@pytest.mark.parametrize("sampler, calls", [(euler, 12), (heun, 23), (dpmpp_2m, 12), (ancestral, 12)])
def test_a_sampler_makes_no_call_more_than_it_must(sampler, calls):
    D = Counted(gaussian(1.0, 0.5).denoise)
    assert len(list(sampler(D, torch.ones(3, 1), karras(12, 0.1, 5.0)))) == 12
    assert D.calls == calls


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_a_generator_that_works_only_when_asked(sampler):
    D = Counted(gaussian(1.0, 0.5).denoise)
    steps = sampler(D, torch.ones(3, 1), karras(50, 0.1, 5.0))
    assert inspect.isgenerator(steps) and D.calls == 0
    next(steps)
    assert D.calls <= 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_schedule_that_does_not_decrease_is_refused_at_the_call(sampler):
    D = Counted(gaussian(1.0, 0.5).denoise)
    with refuses("sigmas[2] = 4 follows 3", "decrease"):
        sampler(D, torch.ones(3, 1), torch.tensor([5.0, 3.0, 4.0, 0.0]))
    with refuses("sigmas"):
        sampler(D, torch.ones(3, 1), torch.tensor([5.0, -3.0]))
    assert D.calls == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_memory_does_not_grow_with_the_steps(sampler):
    """Arrays, not tensors, are watched: they live as long as any view of the memory does."""
    watched = []

    def D(x, sigma):
        values = 0.5 * x.numpy()
        watched.append(weakref.ref(values))
        return torch.from_numpy(values)

    alive = lambda refs: sum(r() is not None for r in refs)
    iterates = []
    for x in sampler(D, torch.ones(3, 1), karras(40, 0.1, 5.0)):
        iterates.append(weakref.ref(x))
        assert alive(iterates) <= 2 and alive(watched) <= 2
    assert len(iterates) == 40 and len(watched) >= 40


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_start_is_left_as_it_was(sampler):
    x_T = torch.ones(3, 1)
    last(sampler(gaussian(1.0, 0.5).denoise, x_T, karras(4, 0.1, 5.0)))
    assert torch.equal(x_T, torch.ones(3, 1))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_samples_keep_precision_and_shape_of_the_start(sampler, dtype):
    x = last(sampler(lambda x, s: 0.5 * x, torch.ones(2, 3, 4, 5, dtype=dtype), karras(4, 0.1, 5.0)))
    assert x.dtype == dtype and x.shape == (2, 3, 4, 5)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_samples_do_not_depend_on_their_neighbours(sampler, rng):
    x_T, D = 5 * torch.randn(6, 2, generator=rng, dtype=torch.float64), random_mixture().denoise
    close(last(sampler(D, x_T, karras(8, 0.1, 5.0)))[2:4], last(sampler(D, x_T[2:4], karras(8, 0.1, 5.0))))


class Foreign(torch.nn.Module):
    """A network as others write them: its parameters ask for gradients, and sigma is a number of x's kind."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)).to(
            dtype
        )

    def forward(self, x, sigma):
        return x - sigma * self.body(torch.cat([x, sigma.expand(len(x), 1)], 1))


def graph_nodes(x):
    """How many steps of arithmetic x remembers for a backward pass."""
    seen, todo = set(), [x.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_a_foreign_network_is_sampled_in_its_precision_and_leaves_no_graph(sampler, dtype):
    D, x_T = Foreign(dtype), torch.ones(5, 2, dtype=dtype, requires_grad=True)
    assert graph_nodes(D(x_T, torch.tensor(1.0, dtype=dtype))) > 5
    for x in sampler(D, x_T, karras(6, 0.1, 5.0)):
        assert x.dtype == dtype and not x.requires_grad and graph_nodes(x) == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_caller_s_gradient_mode_is_its_own_between_the_steps(sampler):
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            for _ in sampler(Foreign(), torch.ones(5, 2), karras(3, 0.1, 5.0)):
                assert torch.is_grad_enabled() is mode
            assert torch.is_grad_enabled() is mode


def test_memory_with_a_foreign_network_is_the_same_for_10_40_and_160_steps():
    """Bytes that live tensors hold at once, counted by the profiler while 2,000 points are sampled."""
    peaks = []
    for steps in (10, 40, 160):
        with torch.profiler.profile(profile_memory=True) as profile:
            last(heun(Foreign(), torch.ones(2_000, 2), karras(steps, 0.1, 5.0)))
        held, peak = 0, 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        peaks.append(peak)
    assert 0 < max(peaks) < 1.2 * min(peaks)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_sigma_reaches_the_denoiser_as_a_number_of_x_s_own_kind(sampler, dtype):
    seen, sigmas = [], karras(4, 0.1, 5.0)

    def D(x, sigma):
        seen.append(sigma)
        return 0.5 * x

    last(sampler(D, torch.ones(3, 1, dtype=dtype), sigmas))
    assert all(s.dtype == dtype and s.shape == () and s.device == torch.ones(1).device for s in seen)
    assert {s.item() for s in seen} == set(sigmas[:-1].to(dtype).tolist())


def test_steps_are_as_long_as_in_double_precision():
    """A step between levels that are one number in float32 still has its length."""
    sigmas = torch.tensor([1.0 + 2e-9, 1.0, 0.0], dtype=torch.float64)
    x = next(euler(lambda x, sigma: torch.zeros_like(x), torch.tensor([[1e8]]), sigmas))
    close(x, torch.tensor([[1e8 - 0.2]]), rtol=0, atol=8)
    close(
        1e8 - next(euler(lambda x, s: 0 * x, torch.tensor([[1e8]]).double(), sigmas)).item(),
        0.2,
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_callback_sees_every_step_where_it_starts(sampler):
    D, x_T, sigmas, seen = gaussian(1.0, 0.5).denoise, torch.ones(3, 1), karras(5, 0.1, 5.0), []
    iterates = list(sampler(D, x_T, sigmas, callback=lambda *step: seen.append(step)))
    assert [i for i, *_ in seen] == list(range(5))
    close(torch.tensor([sigma for _, sigma, *_ in seen], dtype=torch.float64), sigmas[:-1])
    for (_, sigma, x, x0_hat), start in zip(seen, [x_T, *iterates], strict=False):
        assert torch.equal(x, start)
        close(x0_hat, D(start, sigma))


# levels of other kinds


def test_exponential_levels_are_karras_levels_of_a_large_rho():
    close(exponential(9, 0.01, 80.0), karras(9, 0.01, 80.0, rho=1e7), rtol=1e-5, atol=0)
    steps = exponential(9, 0.01, 80.0)[:-1].log().diff()
    close(steps, steps[:1].expand(8))
    with refuses("sigma_min, sigma_max are 2.0, 1.0; expected 0 < sigma_min < sigma_max"):
        exponential(9, 2.0, 1.0)
    with refuses("expected room for 9 levels between them"):
        exponential(9, 1.0, 1.0 + 1e-15)


# noise on the way


def seeds():
    return torch.Generator().manual_seed(3)


def test_without_noise_the_stochastic_samplers_are_the_others():
    x, D, sigmas = torch.ones(4, 2), random_mixture(dtype=torch.float32).denoise, karras(6, 0.1, 5.0)
    close(last(ancestral(D, x, sigmas, seeds(), eta=0.0)), last(euler(D, x, sigmas)))
    assert torch.equal(last(heun(D, x, sigmas, churn=5.0, interval=(6.0, 9.0))), last(heun(D, x, sigmas)))
    assert torch.equal(last(heun(D, x, sigmas, churn=0.0)), last(heun(D, x, sigmas)))
    noisy = next(dpmpp_2m(D, x, sigmas, eta=0.7, generator=seeds()))
    close(noisy, next(ancestral(D, x, sigmas, seeds(), eta=0.7)))  # its first order


@pytest.mark.parametrize("eta", (0.3, 1.0, 1.5))
def test_a_step_of_the_sde_has_the_exact_variance_of_the_level_below(eta, rng):
    x0, s, t = 0.7, 2.0, 0.5
    x_s = x0 + s * torch.randn(200_000, 1, generator=rng)
    known = lambda x, sigma: torch.full_like(x, x0)
    for sampler in (ancestral, dpmpp_2m):
        x_t = next(sampler(known, x_s, [s, t], eta=eta, generator=rng))
        assert x_t.mean().item() == pytest.approx(x0, abs=0.01)
        assert x_t.std().item() == pytest.approx(t, rel=0.01)
        together = torch.corrcoef(torch.cat([x_s, x_t], 1).T)[0, 1].item()
        assert together == pytest.approx((t / s) ** eta, abs=0.01)


@pytest.mark.parametrize("options", (dict(churn=20.0), dict(churn=20.0, interval=(0.1, 3.0))))
def test_churn_keeps_the_distribution(options, rng):
    D, sigmas = gaussian(1.5, 0.7).denoise, karras(40, 0.02, 20.0)
    x_T = 1.5 + (20.0**2 + 0.7**2) ** 0.5 * torch.randn(20_000, 1, generator=rng, dtype=torch.float64)
    x = last(heun(D, x_T, sigmas, generator=rng, **options))
    assert x.mean().item() == pytest.approx(1.5, abs=0.03) and x.std().item() == pytest.approx(0.7, rel=0.03)
    assert abs(torch.corrcoef(torch.cat([x_T, x], 1).T)[0, 1].item()) < 0.9  # it has been moved about


def test_heun_with_churn_is_algorithm_2_of_its_paper():
    x, D, sigmas = torch.ones(4, 2), random_mixture(dtype=torch.float32).denoise, karras(6, 0.1, 5.0).tolist()
    churn, lo, hi, S_noise, g = 2.0, 0.2, 4.0, 1.007, seeds()
    found = last(heun(D, x, sigmas, churn=churn, interval=(lo, hi), inflate=S_noise, generator=seeds()))
    for t, t_next in zip(sigmas, sigmas[1:]):
        gamma = min(churn / 6, 2**0.5 - 1) if lo <= t <= hi else 0.0
        t_hat = t + gamma * t
        if gamma:
            x = x + (t_hat**2 - t**2) ** 0.5 * S_noise * torch.randn(x.shape, generator=g)
        d = (x - D(x, t_hat)) / t_hat
        x_next = x + (t_next - t_hat) * d
        if t_next:
            d_next = (x_next - D(x_next, t_next)) / t_next
            x_next = x + (t_next - t_hat) * (d / 2 + d_next / 2)
        x = x_next
    close(found, x)


@pytest.mark.parametrize(
    "sampler, name", [(ancestral, "eta"), (dpmpp_2m, "eta"), (heun, "churn"), (heun, "inflate")]
)
def test_a_strength_below_0_is_refused_at_the_call(sampler, name):
    with refuses(f"{name} is -1.0; expected a number in [0, inf)"):
        sampler(gaussian(0.0, 1.0).denoise, torch.ones(2, 1), [2.0, 1.0], **{name: -1.0})


@given(st.lists(st.integers(), min_size=1))
def test_last_is_the_last_item(items):
    assert last(iter(items)) == items[-1]
    with refuses("steps is None; expected a sampler", error=TypeError):
        last(None)


def test_last_agrees_with_the_list():
    run = lambda: heun(gaussian(1.0, 0.5).denoise, torch.ones(3, 1), karras(6, 0.1, 5.0))
    assert torch.equal(last(run()), list(run())[-1])


@pytest.mark.parametrize("every, kept", [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 2, 4, 6]), (4, [0, 4])])
def test_a_trajectory_is_the_start_and_every_so_many_iterates(every, kept):
    x_T, run = (
        torch.ones(3, 1),
        lambda: heun(gaussian(1.0, 0.5).denoise, torch.ones(3, 1), karras(6, 0.1, 5.0)),
    )
    every_x = [x_T, *run()]
    close(trajectory(x_T, run(), every), torch.stack([every_x[i] for i in kept]))
