"""DiT at every size: the network, its checkpoints, and the adapters that make it a denoiser."""

from .checkpoints import (  # noqa: F401
    config_of,
    load_checkpoint,
    load_pretrained,
    load_weights,
    save_checkpoint,
)
from .denoisers import EDM, VP, Flow, Preconditioned, SiT, preconditioned  # noqa: F401
from .network import CONFIGS, DiT, LabelEmbedder, position_embedding  # noqa: F401
