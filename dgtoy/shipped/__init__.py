"""The networks that come with the library: `shipped.load(name)` for a name of NAMES.

Each is one safetensors file in float16 beside this page, with a page of JSON: its SHA-256, the recipe that
made it, its sizes, how well it did. A file is read only if its checksum is the one written there.
"""

import hashlib
import json
import pathlib

from ..checkpoint import read_safetensors
from ..dit import EDM, VP, DiT, load_weights
from .judge import FeatureNet

FOLDER = pathlib.Path(__file__).parent
NETWORKS = {  # name: a fresh network of the sizes in its page of facts
    "features": lambda facts: FeatureNet(**facts["config"]).eval(),
    "glyphs": lambda facts: EDM(DiT(**facts["config"]), facts["sigma_data"]),
    "dit": lambda facts: VP(DiT(**facts["config"])),
}
NAMES = tuple(NETWORKS)


def load(name, device="cpu", folder=FOLDER):
    """A network that comes with the library, by name, in float32.

    "glyphs": a small pre-trained DiT -> EDM, compiled on a GPU. "dit": a smaller one of DiT's own process ->
    VP. "features": the judge of glyphs -> FeatureNet.
    Raises ValueError for another name, a file whose checksum is not the one in its JSON, and JSON that is
    damaged; FileNotFoundError if one is missing. Each names the remedy.
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
    path = pathlib.Path(folder) / f"{name}.safetensors"
    missing = [p.name for p in (path, path.with_suffix(".json")) if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}"
            f" is missing from {path.parent.name}; `python -m dgtoy weights --device cuda` makes it"
        )
    known, found = facts(name, folder), checksum(path)
    if found != known["sha256"]:
        raise ValueError(
            f"{path.name} has SHA-256 {found[:12]}...; expected {known['sha256'][:12]}...:"
            " the file is damaged, fetch it again"
        )
    net = NETWORKS[name](known)
    module = getattr(net, "net", net)
    state = {k: v.float() for k, v in read_safetensors(path)[0].items()}
    if hasattr(module, "pos_embed"):  # exact, not as rounded in the file
        state["pos_embed"] = module.pos_embed
    load_weights(module, state, path.name)
    net = net.to(device)
    return net.compile() if isinstance(net, EDM) else net


def facts(name, folder=FOLDER):
    """What NAME.json says of a shipped network: checksum, recipe, provenance, sizes, accuracy."""
    path = pathlib.Path(folder) / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(
            f"{path.name} is not a complete page of JSON: the file is damaged, fetch it again"
        ) from None


def checksum(path):
    """The SHA-256 of a file, as its page of facts holds it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
