"""Is a noised picture of the target or of the source? A small network that says so at every noise level."""

import math

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..checks import append_dims


class DomainClassifier(nn.Module):
    """log p(target | x) - log p(source | x) of noised pictures, from x / sqrt(1/4 + sigma^2) and ln sigma."""

    def __init__(self, width=64):
        super().__init__()
        layers = [nn.Conv2d(4, width, 4, 4), nn.SiLU()]  # (B, width, 16, 16)
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width, 1))

    def forward(self, x, sigma):
        """x (B, 3, 64, 64), sigma () or (B,) -> (B,)"""
        sigma = append_dims(sigma.to(x).expand(len(x)), x)
        noise = (sigma.log() / 4).expand_as(x[:, :1])
        return self.layers(torch.cat([x / (0.25 + sigma**2).sqrt(), noise], 1))[:, 0]


def domain_classifier(source, target, steps, sigmas, device, batch=64):
    """A classifier trained for so many steps on `Photos` of both in equal shares, mirrored or not.

    sigmas: the lowest and the highest noise level; between them they are log-uniform.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DomainClassifier().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    g, (low, high) = torch.Generator().manual_seed(23), map(math.log, sigmas)
    is_target = torch.arange(2 * batch, device=device) >= batch
    for _ in range(steps):
        x0 = torch.cat([_drawn(data, batch, g) for data in (source, target)])
        sigma = torch.exp(low + (high - low) * torch.rand(len(x0), generator=g))
        x = x0 + append_dims(sigma, x0) * torch.randn(x0.shape, generator=g)
        loss = binary_cross_entropy_with_logits(net(x.to(device), sigma.to(device)), is_target.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def _drawn(data, n, generator):
    """n pictures at random, mirrored or not.  -> x0 (n, 3, 64, 64)"""
    rows = torch.randint(len(data), (n,), generator=generator)
    return data.draw(rows, torch.rand(n, generator=generator) < 0.5)[0]
