"""DiT at every size: the network, its checkpoints, and the adapters that make it a denoiser."""

from .checkpoints import config_of as config_of
from .checkpoints import load_checkpoint as load_checkpoint
from .checkpoints import load_pretrained as load_pretrained
from .checkpoints import load_weights as load_weights
from .denoisers import EDM as EDM
from .denoisers import VP as VP
from .denoisers import Flow as Flow
from .denoisers import Preconditioned as Preconditioned
from .network import CONFIGS as CONFIGS
from .network import DiT as DiT
from .network import LabelEmbedder as LabelEmbedder
from .network import position_embedding as position_embedding
