"""What a folder was made with, and checksums to tell it by."""

import hashlib
import json
import os
import pathlib

from ..checkpoint import write_text


def read_json(path, expected="what a command of `dit` writes"):
    """The object of a JSON file. Raises ValueError, one line naming the file, for anything else."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        found = json.loads(text, parse_constant=lambda infinity: None)  # which older manifests hold
    except ValueError as e:  # no UTF-8, no JSON
        raise ValueError(f"{path} is not JSON ({str(e)[:60]}); expected {expected}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected {expected}")
    return found


def write_json(path, value):
    """A value as JSON, which has no Infinity and no NaN, into `path`, complete or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def check_out(out, file=False):
    """Raise OSError if nothing can be written at --out: it, or what lies above it, is of the other kind."""
    out, kinds = pathlib.Path(out), ("file", "folder") if file else ("folder", "file")
    if out.exists() and out.is_dir() == file:
        raise FileExistsError(f"--out {out} is a {kinds[1]}; expected a {kinds[0]}")
    above = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if above != out.absolute() and not above.is_dir():
        raise NotADirectoryError(f"--out {out} lies below {above}, which is a file; expected another place")
    if not os.access(above, os.W_OK):
        raise PermissionError(f"--out {out} cannot be written, as {above} may not; expected another place")


def agree(path, manifest, work, made="made", free=()):
    """Write a manifest, or refuse with a ValueError if a different one is there, or only what it tells of.

    work: a pattern of that, in the manifest's folder. made: the word for it. free: what may change from run
    to run.
    """
    if not path.exists() and (left := sorted(path.parent.glob(work))):
        raise ValueError(
            f"{path.parent} holds {left[0].relative_to(path.parent)} and no {path.name}, which says what it"
            " was made with; delete the folder or give another --out"
        )
    held = read_json(path) if path.exists() else manifest
    for what in [key for key in manifest | held if key not in free]:
        theirs, mine = held.get(what), manifest.get(what)
        if theirs != mine:
            raise ValueError(
                f"{path.parent} was {made} with {what} {str(theirs)[:60]}; this run has {str(mine)[:60]}:"
                f" {path.name} there decides, so delete the folder or give another --out"
            )
    if held is manifest or any(held.get(what) != manifest.get(what) for what in free):
        write_json(path, manifest)


def checksum(path):
    """The first 16 digits of a file's SHA-256."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


def data_checksum(tensors, classes):
    """The first 16 digits of the SHA-256 over a data set's tensors and the names of its classes."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_checksum(weights):
    """The first 16 digits of the SHA-256 over weights {name: tensor} in float32."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
