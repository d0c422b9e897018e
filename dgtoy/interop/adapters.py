"""peft adapters in a network: the network without them, and a batch in which some rows do without."""

import contextlib

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
def adapter_off(net, adapter=None):
    """Within the block every peft layer of a network does without `adapter`, by default without any.

    Raises ValueError if it is active in no layer, or where the weights below it are not the base's: fused,
    trained biases, an initialization that changed them.
    """
    layers = peft_layers(net)
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


def sole_adapter(net, adapter=None):
    """The name of the one active adapter if `mixed_batch` can take it, plain unmerged LoRA in every layer, or
    None.

    adapter: the name that it must have, or None for any.
    """
    from peft.tuners.lora import LoraLayer

    layers = peft_layers(net)
    for m in layers:
        if not isinstance(m, LoraLayer) or m.merged or m.disable_adapters or any(m.use_dora.values()):
            return None
    names = {name for m in layers for name in m.active_adapters}
    return min(names) if len(names) == 1 and adapter in (None, *names) else None


@contextlib.contextmanager
def mixed_batch(net, names):
    """Within the block row i of a batch sees the adapter names[i], or none for "__base__": one forward for
    both.

    Raises BatchMismatch at a layer that is called on another number of rows.
    """
    from peft.tuners.lora import LoraLayer

    def name_rows(module, args, kwargs):
        if len(args[0]) != len(names):
            raise BatchMismatch(
                f"a layer is called on {len(args[0])} rows; expected {len(names)}, as the batch has"
            )
        return args, kwargs | dict(adapter_names=names)

    layers = [m for m in net.modules() if isinstance(m, LoraLayer)]
    hooks = [m.register_forward_pre_hook(name_rows, with_kwargs=True) for m in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
