"""A network with peft adapters as what it was without them."""

import contextlib

from torch import nn


class AdapterOff(nn.Module):
    """A network with peft adapters as the network that it was without them; the weights are shared."""

    def __init__(self, net, adapter=None):
        super().__init__()
        self.__dict__["net"] = net  # not a submodule: moving and counting weights meets them once
        self.adapter = adapter

    config = property(lambda self: self.net.config)

    def forward(self, *args, **kwargs):
        """As the network's own forward, the adapter off."""
        with adapter_off(self.net, self.adapter):
            return self.net(*args, **kwargs)


@contextlib.contextmanager
def adapter_off(net, adapter=None):
    """Within the block every peft layer of a network does without `adapter`, by default without any.

    Raises ValueError if no layer carries it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in net.modules() if isinstance(m, BaseTunerLayer)]
    before = [(m, m._disable_adapters, m._active_adapter) for m in layers]
    if not any(adapter is None or adapter in m.active_adapters for m in layers):
        raise ValueError(
            f"adapter is {adapter}; active in the network: {', '.join(sorted({a for m in layers for a in m.active_adapters})) or 'none'}"
        )
    try:
        for m in layers:
            rest = [a for a in m.active_adapters if adapter is not None and a != adapter]
            m._disable_adapters, m._active_adapter = not rest, rest or m._active_adapter
        yield
    finally:
        for m, disabled, active in before:
            m._disable_adapters, m._active_adapter = disabled, active


class OtherRows(ValueError):
    """A layer's rows are not those of the batch."""


def sole_adapter(net, adapter=None):
    """The name of the one active adapter if a batch can mix rows with and without it, or None: plain unmerged
    LoRA in every layer that has one.

    adapter: the name that it must have, or None for any.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in net.modules() if isinstance(m, BaseTunerLayer)]
    names = {a for m in layers for a in m.active_adapters}
    plain = all(
        isinstance(m, LoraLayer) and not m.merged and not m.disable_adapters and not any(m.use_dora.values())
        for m in layers
    )
    return min(names) if plain and len(names) == 1 and adapter in (None, *names) else None


@contextlib.contextmanager
def mixed(net, names):
    """Within the block row i of a batch sees the adapter names[i], or none for "__base__": one forward for a
    LoRA and its base.

    Raises OtherRows at a layer that is called on another number of rows.
    """
    from peft.tuners.lora import LoraLayer

    def tell(module, args, kwargs):
        if len(args[0]) != len(names):
            raise OtherRows(
                f"a layer is called on {len(args[0])} rows; expected {len(names)}, those of the batch"
            )
        return args, kwargs | dict(adapter_names=names)

    hooks = [
        m.register_forward_pre_hook(tell, with_kwargs=True) for m in net.modules() if isinstance(m, LoraLayer)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
