"""Several processes that share a batch: those that `torchrun` or `accelerate launch` started.

One a card, or on the CPU. Every process draws the random numbers of the whole batch and computes its own
slice; losses and gradients are averaged. So the result does not depend on the number of processes, but for
rounding.
"""

import os

import torch
from torch import distributed


def join(device):
    """Join the other processes, if there are any.  -> the device of this one"""
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def rank():
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count():
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def barrier():
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def local(batch):
    """The slice of a batch that this process computes.

    Raises ValueError unless the batch is a multiple of the processes.
    """
    if batch % count():
        raise ValueError(f"batch is {batch}; expected a multiple of the {count()} processes")
    each = batch // count()
    return slice(rank() * each, (rank() + 1) * each)


@torch.no_grad()
def average_(tensors):
    """Replace tensors, in place, by their means over all processes."""
    if count() == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    distributed.all_reduce(flat)  # one call, whatever the number of tensors
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
