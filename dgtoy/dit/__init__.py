"""DiT at every size: the network, its checkpoints, and the adapters that make it a denoiser."""

from .checkpoints import config_of, load_checkpoint, load_pretrained, load_weights, save_checkpoint  # noqa: F401
from .denoisers import EDM, VP, Flow, Preconditioned, preconditioned  # noqa: F401
from .network import CONFIGS, DiT, LabelEmbedder, position_embedding  # noqa: F401
