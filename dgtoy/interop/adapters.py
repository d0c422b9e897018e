"""peft adapters in a network: the network without them, and a batch in which some rows do without."""

import contextlib

import torch
from torch import nn

EXACT = (True, False, "gaussian", "eva")  # initializations that leave the base's weights alone


class WithoutAdapter(nn.Module):
    """A network with peft adapters as the network that it was without them; the weights are shared.

    adapter: which one is off, by name; by default all.
    """

    def __init__(self, net, adapter=None):
        super().__init__()
        self.__dict__["net"] = net  # not a submodule: moving and counting weights meets them once
        self.adapter = adapter

    config = property(lambda self: self.net.config)
    dtype = property(lambda self: self.net.dtype)
    device = property(lambda self: self.net.device)

    def forward(self, *args, **kwargs):
        """As the network's own forward, the adapter off."""
        with adapter_off(self.net, self.adapter):
            return self.net(*args, **kwargs)


@contextlib.contextmanager
def adapter_off(net, adapter=None, layers=None):
    """Within the block every peft layer of a network does without `adapter`, by default without any.

    layers: its `peft_layers`, where they are known.
    Raises ValueError if it is active in no layer, or where the weights below it are not the base's: fused,
    trained biases, an initialization that changed them.
    """
    layers = peft_layers(net) if layers is None else layers
    active = {name for m in layers for name in m.active_adapters}
    if not layers or adapter not in (None, *active):
        names = ", ".join(sorted(active)) or "none"
        raise ValueError(
            f"adapter is {adapter}; active in the network: {names}; expected one from load_lora_weights"
        )
    if any(getattr(m, "merged", False) for m in layers):
        raise ValueError("adapter is fused into the weights; expected it unfused: unfuse_lora()")
    for name, config in getattr(net, "peft_config", {}).items():
        bias, init = getattr(config, "bias", "none"), getattr(config, "init_lora_weights", True)
        if adapter in (None, name) and (bias != "none" or init not in EXACT):
            raise ValueError(
                f"adapter {name} has bias {bias}, init_lora_weights {init}: it changes the base's weights; "
                "expected none, and True, False, gaussian or eva"
            )
    states = [(m, m._disable_adapters, m._active_adapter) for m in layers]
    try:
        for m in layers:
            others = [name for name in m.active_adapters if adapter is not None and name != adapter]
            m._disable_adapters, m._active_adapter = not others, others or m._active_adapter
        yield
    finally:
        for m, disabled, names in states:
            m._disable_adapters, m._active_adapter = disabled, names


def peft_layers(net):
    """The layers of a network that peft put in: adapters, and modules trained whole (modules_to_save)."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return [m for m in net.modules() if isinstance(m, BaseTunerLayer | ModulesToSaveWrapper)]


class BatchMismatch(ValueError):
    """A layer is called on another number of rows than the batch has."""


def mixable_layers(net, adapter=None):
    """The `peft_layers` of a network if `mixed_batch` can take them, plain unmerged LoRA of one active
    adapter, or none of them.

    adapter: the name that it must have, or None for any.
    """
    layers = peft_layers(net)
    if not all(map(_is_plain_lora, layers)):
        return []
    names = {name for m in layers for name in m.active_adapters}
    return layers if len(names) == 1 and adapter in (None, *names) else []


def _is_plain_lora(layer):
    """Whether a layer adds scaling B A x to its output, and nothing else."""
    from peft.tuners.lora.layer import Conv2d, Linear

    if not isinstance(layer, Linear | Conv2d) or layer.merged or layer.disable_adapters:
        return False
    return not any(layer.use_dora.values()) and not getattr(layer, "lora_variant", None)


@contextlib.contextmanager
def mixed_batch(net, layers, k, n):
    """Within the block the first k rows of a batch of n see the adapter and the others do without: one
    forward for both. (peft's own way picks rows by lists of indices, for each of which a GPU waits.)

    layers: its `mixable_layers`.

    Raises BatchMismatch at a layer that is called on another number of rows.
    """
    (adapter,) = layers[0].active_adapters

    def added(layer, args, out):
        x = args[0]
        if len(x) != n:
            raise BatchMismatch(f"a layer is called on {len(x)} rows; expected {n}, as the batch has")
        down, up = layer.lora_A[adapter], layer.lora_B[adapter]
        step = up(down(layer.lora_dropout[adapter](x[:k].to(down.weight.dtype)))) * layer.scaling[adapter]
        return torch.cat([(out[:k] + step).to(out.dtype), out[k:]])

    hooks = [m.register_forward_hook(added) for m in layers if adapter in m.lora_A]
    try:
        with adapter_off(net, adapter, layers):
            yield
    finally:
        for hook in hooks:
            hook.remove()
