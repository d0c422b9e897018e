"""The paper's pipeline, one module per step: prepare, finetune, sample, evaluate, calibrate, table."""

from ..environment import needs

needs("dit", "PIL", "tqdm")
