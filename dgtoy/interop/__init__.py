"""Fine-tuned models from elsewhere: diffusers pipelines, and LoRA, guided by the network without it."""

from .calibrate import advice as advice
from .calibrate import calibrate_pipeline as calibrate_pipeline
from .card import model_card as model_card
from .denoisers import as_denoiser as as_denoiser
from .denoisers import denoiser as denoiser
from .guided import DomainGuidedModel as DomainGuidedModel
from .levels import sigma_to_t as sigma_to_t
from .levels import t_to_sigma as t_to_sigma
from .loading import load_guide as load_guide
from .lora import add_lora as add_lora
from .lora import lora_guide as lora_guide
from .pipelines import guide_pipeline as guide_pipeline
from .pipelines import unguide as unguide
