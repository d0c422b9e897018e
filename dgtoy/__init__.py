"""Domain Guidance for fine-tuned diffusion models: sample the fine-tuned model, guided by the pre-trained.

    finetuned = model.denoiser(label=c)                # D(x, sigma) -> x0_hat
    pretrained = base.denoiser(label=base.null)
    guided = domain_guidance(finetuned, pretrained, w=1.5)
    x_T = sigmas[0] * torch.randn(256, 2, generator=rng)
    x0 = last(heun(guided, x_T, sigmas))               # (256, 2)

A denoiser is any callable D(x (B, *D), sigma () or (B,)) -> x0_hat (B, *D), with x = x0 + sigma eps.

Where to look:
    guidance     what composes denoisers; start here
    relatives    what else is done with a model and a guide: APG, CFG-Zero*, CFG++, ...
    samplers     noise levels, and generators from noise to data
    gmm, theory  Gaussian mixtures known exactly; closed forms
    nets, train  small networks and their training; trainer has the loop
    calibration  weights from held-out data
    likelihood   the log-likelihood of a point under a denoiser's flow
    metrics      distances between samples, with intervals
    dit, vp      the diffusion transformer and its process
    interop      diffusers pipelines and LoRA
    pipeline     a folder of pictures to guided samples and their scores
    shipped      networks that come with the package
    course       what the notebooks use

Names and modules load when they are asked for, so `import dgtoy` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_NAMES = {
    "calibration": ("calibrate",),
    "gmm": ("GaussianMixture", "LabelledMixture"),
    "guidance": ("autoguidance", "blurred", "cfg", "domain_guidance", "guided", "plane", "reused"),
    "nets": ("MLP", "Ensemble"),
    "samplers": ("ancestral", "dpmpp_2m", "euler", "heun", "karras", "last", "trajectory"),
    "train": ("Points", "Recipe", "fit"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = (
    *_NAMES,
    "course",
    "dit",
    "interop",
    "likelihood",
    "metrics",
    "pipeline",
    "relatives",
    "shipped",
    "theory",
    "trainer",
    "vp",
)
__all__ = sorted(_HOME)


def __getattr__(name):
    """The names of `__all__` and the modules above, loaded when asked for."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
