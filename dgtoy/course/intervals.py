"""95% intervals: of a mean, of any statistic, of a ratio. All allow for how few numbers there are.

What is drawn at random is the unit: a training or a source, not a sample. Where several numbers share a draw,
`clusters` names that of each.
"""

import numpy as np
from scipy.special import ndtr, stdtrit

STUDENT = "95% t interval"
LOGS = "95% t interval of the log ratio"
RESAMPLED = "95% bootstrap, joint, tails widened by Student's t"
TAIL = 0.025


def student(values, clusters=None):
    """The mean of independent numbers (n,), and its 95% t interval.  -> (mean, low, high)

    clusters (n,): numbers that share one count once, by their mean. Raises ValueError for fewer than 2
    numbers or clusters, or for one that is not finite. Student 1908.
    """
    values = _by_cluster(clusters, values)[0]
    n = len(values)
    half = stdtrit(n - 1, 1 - TAIL) * values.std(ddof=1) / n**0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def resampled(statistic, *samples, clusters=None, resamples=4000, seed=0):
    """statistic(*samples), and its 95% bootstrap interval; places are drawn alike from all samples.

    statistic: of arrays (..., n) over their last axis; samples (n,) each. The tails are cut farther out than
    at 2.5%, as Student's t reaches farther than the normal. Below n = 6 it has no end: drawn places never
    leave the samples, which lie on one side of the truth 2^(1 - n) of the time. -> (value, low, high)
    Hesterberg 2015. Raises ValueError as `student` does, and for a statistic over another axis.
    """
    samples = _by_cluster(clusters, *samples)
    n = samples.shape[-1]
    tail = ndtr(-np.sqrt(n / (n - 1)) * stdtrit(n - 1, 1 - TAIL))
    picks = np.random.default_rng(seed).integers(n, size=(resamples, n))
    found = np.asarray(statistic(*samples[:, picks]))
    if found.shape != (resamples,):
        raise ValueError(f"statistic gives shape {found.shape}; expected {(resamples,)}, over the last axis")
    low, high = np.quantile(found, [tail, 1 - tail]) if n > 5 else (-np.inf, np.inf)
    return float(statistic(*samples)), float(low), float(high)


def ratio(numerator, denominator, clusters=None):
    """mean(numerator) / mean(denominator), paired, with its 95% interval.  (n,) each -> (ratio, low, high)

    A t interval of the logarithm, by its linear part at each pair: x / mean(x) - y / mean(y). Raises
    ValueError as `student` does, and for a mean that is not positive.
    """
    x, y = _by_cluster(clusters, numerator, denominator)
    if min(x.mean(), y.mean()) <= 0:
        raise ValueError(f"the means are {x.mean():g} and {y.mean():g}; expected positive ones for a ratio")
    _, low, high = student(x / x.mean() - y / y.mean())
    value = float(x.mean() / y.mean())
    return value, value * float(np.exp(low)), value * float(np.exp(high))


def _by_cluster(clusters, *samples):
    """Samples (n,) as one array, each cluster its mean.  -> (samples, n or number of clusters)"""
    shapes = {np.shape(s) for s in samples} | ({np.shape(clusters)} if clusters is not None else set())
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"values have shapes {sorted(shapes)}; expected (n,), all alike")
    samples = np.array(samples, dtype=float)
    if clusters is not None:
        clusters = np.asarray(clusters)
        samples = np.stack([samples[:, clusters == c].mean(1) for c in np.unique(clusters)], 1)
    n, finite = samples.shape[1], np.isfinite(samples).all()
    if n < 2 or not finite:
        came = f"{n} independent numbers{'' if finite else ', not all finite'}"
        raise ValueError(f"values hold {came}; expected 2 or more, finite")
    return samples
