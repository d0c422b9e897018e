"""What stands in a pipeline for its network, and answers for it: `isinstance`, `config`, saving, copying."""

import contextlib
import copy
import math
import re
import threading

from torch import nn

from .adapters import WithoutAdapter
from .calls import HOOKS
from .checks import LAYOUTS, bare

# methods that change how a network computes or is held: the guide follows, adapters apart
CHANGES = re.compile(r"(enable|disable|set|reset|fuse|unfuse|compile)_(?!adapter|lora)")


class Run(threading.local):
    """What is remembered of a pipeline's run: in each thread its own, and nothing in a copy."""

    def __init__(self):
        self.timesteps = None  # the scheduler's, of each run others
        self.checked = None  # those that `interval` was compared with
        self.prompt = {}  # its null prompt as read without an adapter
        self.steps, self.last_time, self.last_guide = 0, -math.inf, None  # for `every`
        self.branch, self.step, self.labelled = "cond", None, None  # where two branches are called apart

    def __reduce__(self):
        return Run, ()


class AnyNetwork(type):
    """A class that is equal to each of LAYOUTS: `from_pipe` takes over what is of a class it knows."""

    def __eq__(cls, other):
        return cls is other or getattr(other, "__name__", None) in LAYOUTS

    __hash__ = type.__hash__


class StandIn(nn.Module, metaclass=AnyNetwork):
    """A pair of networks as the first, `finetuned`, in all that a pipeline asks besides a call.

    What changes how a network computes (FreeU, attention processors, casting) is done to `pretrained` too.
    """

    def __init__(self, finetuned, pretrained):
        super().__init__()
        self.finetuned, self.pretrained = finetuned, pretrained
        self.run = Run()
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
        self.run.branch = name
        with bare(self.finetuned).cache_context(name, **step):
            try:
                yield
            finally:
                self.run.branch = "cond"
