"""What stands in a pipeline for its network, and answers for it: `isinstance`, `config`, saving, copying."""

import contextlib
import copy
import re

from torch import nn

from .adapters import WithoutAdapter
from .calls import HOOKS
from .checks import bare

# methods that change how a network computes or is held: the guide follows, adapters apart
CHANGES = re.compile(r"(enable|disable|set|reset|fuse|unfuse|compile)_(?!adapter|lora)")


class StandIn(nn.Module):
    """A pair of networks as the first, `finetuned`, in all that a pipeline asks besides a call.

    What changes how a network computes (FreeU, attention processors, casting) is done to `pretrained` too.
    """

    def __init__(self, finetuned, pretrained):
        super().__init__()
        self.finetuned, self.pretrained = finetuned, pretrained
        self.branch = "cond"  # where the branches are called apart
        self.__dict__["__module__"] = self.__class__.__module__  # a pipeline writes it down, with __class__

    @property
    def __class__(self):
        """The fine-tuned network's: pipelines look at it when they save and check their parts."""
        return bare(self.finetuned).__class__

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in HOOKS:
                raise
            of_finetuned = getattr(bare(super().__getattr__("finetuned")), name)
        if not CHANGES.match(name) or not self.has_second():
            return of_finetuned

        def change_both(*args, **kwargs):
            getattr(self.pretrained, name)(*map(copy.copy, args), **kwargs)  # a dict of processors is emptied
            return of_finetuned(*args, **kwargs)

        return change_both

    def __reduce_ex__(self, protocol):
        """Copied and pickled as what it is, not as its `__class__`."""
        return type(self).__new__, (type(self),), self.__dict__

    def has_second(self):
        """Whether the guide is a second network."""
        return not isinstance(self.pretrained, WithoutAdapter) and self.pretrained is not self.finetuned

    def compile(self, *args, **kwargs):
        """Compile both networks in place."""
        self.finetuned.compile(*args, **kwargs)
        if self.has_second():
            self.pretrained.compile(*args, **kwargs)

    @contextlib.contextmanager
    def cache_context(self, name, **step):
        """Which branch the next call is: "cond" or "uncond"."""
        self.branch = name
        with bare(self.finetuned).cache_context(name, **step):
            try:
                yield
            finally:
                self.branch = "cond"
