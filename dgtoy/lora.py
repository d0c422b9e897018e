"""A network with peft adapters as what it was without them."""

import contextlib

from torch import nn


class AdapterOff(nn.Module):
    """A network with peft adapters as the network that it was without them; the weights are shared."""

    def __init__(self, net, adapter=None):
        super().__init__()
        self.__dict__["net"] = net                         # not a submodule: moving and counting weights meets them once
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
        raise ValueError(f"adapter is {adapter}; active in the network: {', '.join(sorted({a for m in layers for a in m.active_adapters})) or 'none'}")
    try:
        for m in layers:
            rest = [a for a in m.active_adapters if adapter is not None and a != adapter]
            m._disable_adapters, m._active_adapter = not rest, rest or m._active_adapter
        yield
    finally:
        for m, disabled, active in before:
            m._disable_adapters, m._active_adapter = disabled, active
