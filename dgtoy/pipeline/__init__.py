"""The paper's pipeline at full scale, one step a module: prepare, finetune, sample, evaluate, calibrate, table."""
