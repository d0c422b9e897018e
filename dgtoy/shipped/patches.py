"""Features of photographs learnt without a label: another opinion beside networks trained on ImageNet."""

import torch
from torch import nn

PATCH, STRIDE = 6, 2  # pixels
SIDE = 64  # of a picture; (64 - 6) / 2 + 1 = 30 patches fit into a row
FLAT = 10  # grey levels below which a patch counts as flat


class PatchNet(nn.Module):
    """How near the patches of a picture are to typical ones, averaged over each quarter: 4 `centres` numbers.

    With d_k the distance of a whitened patch to centre k, response k is max(0, mean_j d_j - d_k). Coates,
    Lee & Ng 2011. As the centres come from k-means, which `course.worlds.kmeans` runs on the source of
    photographs, neither a label nor a picture of a target is in them.
    """

    def __init__(self, centres=320):
        super().__init__()
        self.config = dict(centres=centres)
        fixed = lambda start: nn.Parameter(start, requires_grad=False)
        self.mean, self.whiten = fixed(torch.zeros(3 * PATCH**2)), fixed(torch.eye(3 * PATCH**2))
        self.centres = fixed(torch.zeros(centres, 3 * PATCH**2))

    def forward(self, images):
        """images (B, 3, 64, 64) in 0 to 255 -> (B, 4 centres)"""
        d = torch.cdist(self.white(patches(images)), self.centres)  # (B, 900, centres)
        response = (d.mean(-1, keepdim=True) - d).clamp(min=0).mT  # (B, centres, 900)
        return nn.functional.adaptive_avg_pool2d(response.unflatten(-1, (30, 30)), 2).flatten(1)

    def white(self, p):
        """Patches (..., 108) without the correlation of neighbouring pixels."""
        return (p - self.mean) @ self.whiten


def patches(images):
    """Every second patch of pictures (B, 3, 64, 64), mean and contrast taken off.  -> (B, 900, 108)

    Raises ValueError for pictures of another shape.
    """
    if tuple(images.shape[1:]) != (3, SIDE, SIDE):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected ('B', 3, {SIDE}, {SIDE})")
    p = nn.functional.unfold(images.float(), PATCH, stride=STRIDE).mT
    p = p - p.mean(-1, keepdim=True)
    return p / (p.square().mean(-1, keepdim=True) + FLAT**2).sqrt()
