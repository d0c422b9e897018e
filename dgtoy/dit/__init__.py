"""DiT at every size: the network, its checkpoints, and the adapters that make it a denoiser."""

from .adapters import EDM as EDM
from .adapters import VP as VP
from .adapters import Adapter as Adapter
from .adapters import time_of as time_of
from .files import config_of as config_of
from .files import load_checkpoint as load_checkpoint
from .files import load_pretrained as load_pretrained
from .files import load_weights as load_weights
from .network import CONFIGS as CONFIGS
from .network import DiT as DiT
from .network import LabelEmbedder as LabelEmbedder
from .network import position_embedding as position_embedding
