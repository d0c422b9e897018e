"""Wrong answers to the exercises of notebook 01, and the words of the hint each must meet."""

import math

import torch

from dgtoy.course.check.n01 import WORLD

P = WORLD.logp(torch.tensor([[1.0], [3.0]]).double(), 0.7).exp().tolist()


def bells(x, sigma, data):
    return torch.exp(-((x - data.T) ** 2) / (2 * sigma**2))


def densities(x, sigma, data):
    return bells(x, sigma, data) / (sigma * math.sqrt(2 * math.pi))


def mean(x, sigma, data):
    return bells(x, sigma, data) @ data / bells(x, sigma, data).sum(1, keepdim=True)


WRONG = {
    "frequency": [
        (P[1] / P[0], "the other way round"),
        (math.log(P[0] / P[1]), "difference of log densities"),
        (math.log(P[1] / P[0]), "with the wrong sign"),
        ((P[0] / P[1]) ** 0.49, "not yet the score"),
        ((P[0] / P[1]) ** 0.7, "you divided by sigma"),
        ((0.45 / 0.35) / (0.30 / 0.20), "for clean numbers"),
        (1.5, "ratio of the clumps' shares"),
    ],
    "training_set": [
        (
            lambda x, sigma, data: (-((x - data.T) ** 2) / (2 * sigma)).softmax(1) @ data,
            "sigma for their variance",
        ),
        (
            lambda x, sigma, data: (-((x - data.T) ** 2) / sigma**2).softmax(1) @ data,
            "too narrow by a constant factor",
        ),
        (lambda x, sigma, data: (-(x - data.T).abs() / sigma).softmax(1) @ data, "square of the distance"),
        (lambda x, sigma, data: data[(x - data.T).abs().argmin(1)], "nearest training number"),
        (lambda x, sigma, data: bells(x, 1.0, data) / bells(x, 1.0, data).sum(1, True) @ data, "the width 1"),
        (lambda x, sigma, data: x, "that is x itself"),
        (lambda x, sigma, data: x + (mean(x, sigma, data) - x) / sigma**2, "added the score to x"),
        (lambda x, sigma, data: 0 * x + data.mean(), "counts all training numbers alike"),
        (lambda x, sigma, data: bells(x, sigma, data) @ data, "do not sum to 1 over the training numbers"),
        (lambda x, sigma, data: (bells(x, sigma, data) * data.T).mean(1, True), "by how many there are"),
        (lambda x, sigma, data: densities(x, sigma, data) @ data, "each bell has the area 1"),
        (lambda x, sigma, data: densities(x, sigma, data) @ data / len(data), "not yet Bayes' rule"),
        (
            lambda x, sigma, data: (bells(x, sigma, data) / bells(x, sigma, data).sum(0)) @ data,
            "over the noisy numbers",
        ),
        (
            lambda x, sigma, data: (mean(x, sigma, data) - x) / sigma**2,
            "that is the score",
        ),
        (lambda x, sigma, data: (bells(x, sigma, data) @ data)[:, 0], "expected (9, 1)"),
        (0.5, "expected a function"),
    ],
    "loss": [
        ("a", "floor under it differs"),
        ("C", "is a bound"),
        ("d", "proves nothing"),
        ("e", "none of the options"),
    ],
    "clump_level": [
        (1.12, "multiplied by sigma"),
        (0.355, "the whole world"),
        (0.35, "the width of the clump"),
        (0.35, "the whole world"),
        (3.16, "at clean numbers"),
        (4, "whole distance"),
        (100, "divide by sigma"),
    ],
}
