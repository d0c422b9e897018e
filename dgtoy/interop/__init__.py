"""Fine-tuned models from elsewhere: diffusers pipelines, and LoRA, guided by the network without it."""

from .denoisers import denoiser as denoiser
from .lora import add_lora as add_lora
from .lora import lora_guide as lora_guide
from .pipelines import DomainGuidedModel as DomainGuidedModel
from .pipelines import guide_pipeline as guide_pipeline
