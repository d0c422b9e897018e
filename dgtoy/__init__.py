"""dgtoy: Domain Guidance, taught, verified and reproduced. Start with the notebooks, or with `guidance.py`."""

from .calibration import calibrate
from .gmm import GaussianMixture, LabelledMixture
from .guidance import autoguidance, blurred, cfg, domain_guidance, guided, plane, reused
from .nets import MLP, Ensemble
from .samplers import ancestral, dpmpp_2m, euler, heun, karras, last, trajectory
from .train import Points, Recipe, fit

__version__ = "0.1.0"
__all__ = [
    "GaussianMixture",
    "LabelledMixture",
    "MLP",
    "Ensemble",
    "Points",
    "Recipe",
    "ancestral",
    "autoguidance",
    "blurred",
    "calibrate",
    "cfg",
    "domain_guidance",
    "dpmpp_2m",
    "euler",
    "fit",
    "guided",
    "heun",
    "karras",
    "last",
    "plane",
    "reused",
    "trajectory",
]
