"""Tensors and a JSON header on disk: one safetensors file, or a folder of small parts; whole or not there."""

import collections
import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import time
import uuid
import zlib

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

PART_BYTES = 16 * 2**20
PART = re.compile(r"\..+\.\d+\.part")  # a file while it is being written: see `whole`
SAVE = re.compile(r"\.?\d{8}-[0-9a-f]{8}")  # the folder of one save; hidden while it is being written


def save_state(path, tensors, header, part_bytes=PART_BYTES):
    """A state to go on from, into `path`: a file NAME.safetensors, or a folder of small files.

    part_bytes: of such a file, at most. header: JSON, its "step" the steps taken. Within the folder a save
    has a folder of its own, STEP-ID, which appears when all its parts are written; only then those of earlier
    saves go. So a process that is killed leaves one that is complete.
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
        if SAVE.fullmatch(other.name) and other.name != save:
            shutil.rmtree(other)


def load_state(path):
    """tensors, header of the latest state in `path`, or None where there is none.

    Raises ValueError if a file is damaged, parts are missing, parts of several saves are mixed, or the folder
    holds other things.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path) if path.exists() else None
    if path.is_file():
        raise ValueError(f"checkpoint {path} is a file; expected NAME.safetensors, or a folder of its own")
    saves = sorted(p for p in path.glob("*") if not p.name.startswith("."))
    other = [p.name for p in saves if not SAVE.fullmatch(p.name)]
    if other:
        raise ValueError(
            f"checkpoint {path} holds {other[0]}; expected NAME.safetensors, or a folder of its own"
        )
    if not saves:
        return None
    read = [read_safetensors(p) for p in sorted(saves[-1].glob("*.safetensors"))]
    abouts = [about for _, about in read]
    found = {about.get("save") or "none" for about in abouts}
    if found - {saves[-1].name}:
        raise ValueError(f"{saves[-1]} holds parts of {', '.join(sorted(found))}; expected those of one save")
    expected = abouts[0]["parts"] if abouts else 1
    missing = sorted(set(range(expected)) - {about["part"] for about in abouts})
    if missing:
        raise ValueError(
            f"{saves[-1]} is not complete: {missing[0]:05d}.safetensors"
            f" is missing, one of {len(missing)} of {expected} parts"
        )
    pieces = collections.defaultdict(list)
    for tensors, _ in read:
        for name, piece in tensors.items():
            pieces[name.partition("|")[0]].append(piece)
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
    """Tensors and a JSON header into `path`, which appears complete or not at all; tied ones each in full.

    Raises OSError, naming `path`, where it cannot be written.
    """
    own = dict(device="cpu", copy=True, memory_format=torch.contiguous_format)
    tensors = {k: v.detach().to(**own) for k, v in tensors.items()}
    if isinstance(header, dict):
        header = header | dict(crc32=crc32(tensors))
    with whole(path) as part:
        part.touch()
        mode = part.stat().st_mode  # as of any file here; safetensors lets none but its owner read
        try:
            save_file(tensors, part, {"json": json.dumps(header)})
        except SafetensorError as e:  # a full disk, say
            if code := re.search(r"os error (\d+)", str(e)):
                raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
            raise
        part.chmod(mode)


def check_room(folder, nbytes):
    """Raise OSError if a folder's disk has not so many bytes left; one that tells no size is trusted."""
    total, _, free = shutil.disk_usage(folder)
    if total and free < nbytes:
        raise OSError(
            f"the disk of {folder} has {free / 1e6:.0f} MB left; expected {nbytes / 1e6:.0f} MB, which will"
            " be written there"
        )


def write_text(path, text):
    """Text into `path` as UTF-8, whatever the machine's own code page; it appears complete or not at all.

    What is no text, in the name of a file that is no UTF-8, becomes "?".
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")


@contextlib.contextmanager
def whole(path):
    """A hidden file that becomes `path` when it has been written, in a folder that is made.

    It is this process's own, so several may write one path at a time: the last one's file stands. An OSError
    of the block names `path`.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent.absolute())
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as e:
        if e.errno is not None:
            e.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@functools.cache  # once a process: a folder may get 50,000 pictures
def _sweep(folder):
    """Remove from a folder what killed processes left half-written there: untouched for ten minutes."""
    for left in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):
            if PART.fullmatch(left.name) and time.time() - left.stat().st_mtime > 600:
                left.unlink()


@contextlib.contextmanager
def alone(path):
    """One process at a time makes `path`: others that come to it wait, until this one is done or dead.

    A file beside it is the lock. On Windows, which has no flock, and on disks of a network that lock nothing,
    both work and the last one's file stands.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w", encoding="utf-8") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_shapes(path, tensors, expected):
    """Raise ValueError naming the first tensor that is missing, superfluous or of another shape."""
    for name in sorted(tensors.keys() | expected.keys()):
        came, wanted = (tuple(d[name].shape) if name in d else "nothing" for d in (tensors, expected))
        if came != wanted:
            raise ValueError(f"{path}: {name} has shape {came}; expected {wanted}")


def one_byte(state):
    """Weights in one byte each: a matrix W as int8 Q and a scale for each row; all else in float16.

    W_ij ~ s_i Q_ij with s_i = max_j |W_ij| / 127, under the names NAME and NAME.scale: an error of at most
    s_i / 2. `floats` is the way back.
    """
    found = {}
    for name, value in state.items():
        if value.ndim == 2:
            scale = (value.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12).float()
            found[name] = (value / scale).round().to(torch.int8)
            found[f"{name}.scale"] = scale
        else:
            found[name] = value.half()
    return found


def floats(state):
    """Weights in float32, whether in float16 or as `one_byte` left them."""
    scales = {name for name in state if name.endswith(".scale")}
    return {
        name: value.float() * state.get(f"{name}.scale", 1.0)
        for name, value in state.items()
        if name not in scales
    }


def crc32(tensors):
    """A checksum of the bytes of tensors, by which a changed bit shows."""
    found = 0
    for _, value in sorted(tensors.items()):
        found = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy(), found)
    return found


def check_crc32(tensors, header):
    """Take the checksum out of a header that has one. Raises ValueError if it is not that of the tensors."""
    told = header.pop("crc32", None) if isinstance(header, dict) else None
    if told not in (None, crc32(tensors)):
        raise ValueError("its numbers have changed since they were written")


def opened(path):
    """The tensors and the metadata of a .safetensors file, both of one and the same save.

    safetensors opens a file twice by its name. Where another has replaced it in between, it is read again.
    """
    while True:
        before = _identity(path)
        try:
            with safe_open(path, "pt") as f:
                found = {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}
        except Exception:
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return found


def _identity(path):
    """Which file a name stands for now."""
    about = os.stat(path)
    return about.st_ino, about.st_mtime_ns


def read_safetensors(path):
    """tensors, header of what `write_safetensors` wrote. Raises ValueError for any other file, and for
    numbers that have changed since."""
    try:
        tensors, told = opened(path)
        header = json.loads(told["json"])
        check_crc32(tensors, header)
        return tensors, header
    except FileNotFoundError:
        raise
    except Exception as e:
        raise ValueError(f"{path} is not a complete checkpoint ({type(e).__name__}: {str(e)[:80]})") from None
