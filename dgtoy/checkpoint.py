"""Tensors and a JSON header on disk: one safetensors file, or a folder of small parts; complete or not
there."""

import contextlib
import glob
import json
import os
import pathlib
import shutil
import time
import uuid

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PART_BYTES = 16 * 2**20


def save_state(path, tensors, header, part_bytes=PART_BYTES):
    """A state to go on from, into `path`: a file NAME.safetensors, or a folder, in files of at most
    `part_bytes` each.

    header: JSON, its "step" the steps taken. Within the folder a save has a folder of its own, STEP-ID, which
    appears when all its parts are written; only then those of earlier saves go. So a process that is killed
    leaves one that is complete.
    Raises ValueError if one row of a tensor is larger than a part.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return write_safetensors(path, tensors, header)
    save = f"{header['step']:08d}-{uuid.uuid4().hex[:8]}"
    parts = list(_parts(tensors, part_bytes - len(json.dumps(header)) - 1024))
    for k, part in enumerate(parts):
        about = dict(save=save, part=k, parts=len(parts), header=header if k == 0 else None)
        write_safetensors(path / f".{save}" / f"{k:05d}.safetensors", part, about)
    os.replace(path / f".{save}", path / save)
    for other in path.iterdir():
        if other.name != save:
            shutil.rmtree(other)


def load_state(path):
    """tensors, header of the latest state in `path`, or None where there is none.

    Raises ValueError if a file is damaged, parts are missing, or parts of several saves are mixed.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path) if path.exists() else None
    saves = sorted(path.glob("[0-9]*-*"))
    if not saves:
        return None
    read = [read_safetensors(p) for p in sorted(saves[-1].glob("*.safetensors"))]
    abouts = [about for _, about in read]
    found = sorted({about.get("save") or "none" for about in abouts})
    if any(save != saves[-1].name for save in found):
        raise ValueError(f"{saves[-1]} holds parts of {', '.join(found)}; expected those of one save")
    have = {about["part"] for about in abouts}
    expected = abouts[0]["parts"] if abouts else 1
    missing = sorted(set(range(expected)) - have)
    if missing:
        raise ValueError(
            f"{saves[-1]} is not complete: {missing[0]:05d}.safetensors"
            f" is missing, one of {len(missing)} of {expected} parts"
        )
    pieces = {}
    for tensors, _ in read:
        for name, piece in tensors.items():
            pieces.setdefault(name.partition("|")[0], []).append(piece)
    joined = {name: rows[0] if len(rows) == 1 else torch.cat(rows) for name, rows in pieces.items()}
    return joined, abouts[0]["header"]


def _parts(tensors, room):
    """Dictionaries of tensors, each of at most `room` bytes with its share of the file's own header."""
    part, left = {}, room
    for name, piece in _pieces(tensors, room - 512):
        size = piece.nbytes + len(name) + 128
        if part and size > left:
            yield part
            part, left = {}, room
        part[name] = piece
        left -= size
    yield part


def _pieces(tensors, room):
    """Every tensor by its name, one of more than `room` bytes cut into rows named "NAME|FIRST"."""
    for name, tensor in tensors.items():
        if tensor.nbytes <= room:
            yield name, tensor
            continue
        rows = room * len(tensor) // tensor.nbytes if tensor.ndim else 0
        if rows < 1:
            raise ValueError(f"part_bytes leaves {room} bytes for tensors; expected room for a row of {name}")
        for first in range(0, len(tensor), rows):
            yield f"{name}|{first:08d}", tensor[first : first + rows]


def write_safetensors(path, tensors, header):
    """Tensors and a JSON header into `path`, which appears complete or not at all."""
    path = pathlib.Path(path)
    part = _part(path)
    try:
        save_file(
            {k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part, {"json": json.dumps(header)}
        )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part(path):
    """The hidden file that is to become `path`, in a folder that exists. Those that killed processes left
    behind go: untouched for ten minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 600:
                left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_text(path, text):
    """Text into `path` as UTF-8, whatever the machine's own code page; it appears complete or not at all."""
    path = pathlib.Path(path)
    part = _part(path)
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path):
    """One process at a time makes `path`: others that come to it wait, until this one is done or dead.

    A file beside it is the lock. On Windows, which has no flock, both work and the last one's file stands.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_safetensors(path):
    """tensors, header of a file made by `write_safetensors`. Raises ValueError if it is damaged or another
    kind of file."""
    try:
        with safe_open(path, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, json.loads((f.metadata() or {})["json"])
    except FileNotFoundError:
        raise
    except Exception as e:
        raise ValueError(f"{path} is not a complete checkpoint ({type(e).__name__}: {str(e)[:80]})") from None
