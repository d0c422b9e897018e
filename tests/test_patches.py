"""Features of photographs learnt without labels: the network, k-means, and what is shipped."""

import torch
from helpers import refuses

from dgtoy import shipped
from dgtoy.course.worlds import kmeans
from dgtoy.pipeline.extractors import extractor
from dgtoy.shipped.patches import PatchNet, patches

close = torch.testing.assert_close


def some(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 8, 8, generator=g)
    smooth = torch.nn.functional.interpolate(small, size=(64, 64), mode="bilinear")
    return (255 * smooth).to(torch.uint8)


def test_a_patch_is_cut_where_it_lies_and_loses_its_mean_and_contrast():
    images = some(2)
    p = patches(images)
    assert p.shape == (2, 900, 108)
    row, column = 7, 21
    cut = images[1, :, 2 * row : 2 * row + 6, 2 * column : 2 * column + 6].float().flatten()
    cut = cut - cut.mean()
    close(p[1, 30 * row + column], cut / (cut.var(correction=0) + 100).sqrt())
    close(patches(images.float() + 30), p)  # a brighter picture has the same


def test_features_are_the_responses_of_each_quarter():
    """By the definition, one patch and one centre at a time, in the upper right quarter."""
    net = PatchNet(centres=3)
    g = torch.Generator().manual_seed(0)
    net.mean.copy_(0.1 * torch.randn(108, generator=g))
    net.whiten.copy_(torch.randn(108, 108, generator=g) / 10)
    net.centres.copy_(torch.randn(3, 108, generator=g))
    images = some(2)
    found = net(images)
    assert found.shape == (2, 12)
    total = torch.zeros(3)
    for row in range(15):
        for column in range(15, 30):
            white = (patches(images)[0, 30 * row + column] - net.mean) @ net.whiten
            d = (white - net.centres).norm(dim=-1)
            total += (d.mean() - d).clamp(min=0)
    close(found[0].unflatten(0, (3, 2, 2))[:, 0, 1], total / 225, rtol=1e-4, atol=1e-5)


def test_pictures_of_another_size_are_refused_by_the_network():
    with refuses("images have shape (2, 3, 32, 32)", "64"):
        PatchNet(3)(torch.zeros(2, 3, 32, 32))


def test_k_means_finds_clusters_and_revives_a_centre_without_points():
    g = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(4)
    x = centres.repeat_interleave(50, 0) + 0.1 * torch.randn(200, 4, generator=g)
    found = kmeans.kmeans(x, 8, 30, g)
    assert torch.cdist(centres, found).amin(1).max() < 0.3
    assert torch.cdist(found, x).amin(1).max() < 0.3  # none is left where no point is


def test_patches_are_white_after_learning():
    config = kmeans.Config(centres=5, pictures=40, patches=20_000, rounds=2, floor=1e-6)
    net = kmeans.learn(some(40), config)
    again = net.white(patches(some(40)).flatten(0, 1))
    spread = torch.cov(again.T).diagonal()
    assert 0.5 < spread.median() < 1.5 and again.mean(0).abs().max() < 0.2
    assert net.config == dict(centres=5) and torch.equal(net.centres, kmeans.learn(some(40), config).centres)


@torch.no_grad()
def test_the_shipped_ones_are_an_extractor():
    net = extractor("patches")
    images = some(3)
    assert net(images).shape == (3, 1280)
    close(net(images), shipped.load("patches")(images), rtol=1e-4, atol=1e-4)
    larger = images.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert (net(larger) - net(images)).norm() < (net(some(3, seed=1)) - net(images)).norm()
