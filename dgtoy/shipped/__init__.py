"""The networks that come with the library: `shipped.load(name)` for a name of NAMES.

Each is one safetensors file beside this page, in float16 or in one byte a weight, with a page of JSON: its
SHA-256, the recipe that made it, its sizes, how well it did. A file is read only if its checksum is the one
written there. The photo networks were trained on ImageNet's pictures: they are for research.
"""

import hashlib
import json
import pathlib

import torch

from .. import environment
from ..checkpoint import check_shapes, floats, read_safetensors
from ..dit import EDM, DiT, Flow, load_weights
from .judge import FeatureNet
from .patches import PatchNet

FOLDER = pathlib.Path(__file__).parent
NETWORKS = {  # name: a fresh network of the sizes in its page of facts
    "features": lambda facts: FeatureNet(**facts["config"]).eval(),
    "glyphs": lambda facts: EDM(DiT(**facts["config"]), facts["sigma_data"]),
    "photos64": lambda facts: Flow(DiT(**facts["config"])),
    "patches": lambda facts: PatchNet(**facts["config"]),
}
FINE_TUNES = tuple(f"photos64-{target}" for target in ("food", "vehicles", "insects", "art7", "sketch7"))
NAMES = (*NETWORKS, *FINE_TUNES)


def load(name, device="cpu", folder=FOLDER):
    """A network that comes with the library, by name, in float32.

    "photos64": a DiT of photographs of 64 pixels, pre-trained on 153 classes -> Flow; "photos64-food" and so
    on, see FINE_TUNES: its fine-tunes, LoRAs added to its weights. "glyphs": a small pre-trained DiT -> EDM,
    compiled on a GPU. "features": the judge of glyphs -> FeatureNet. "patches": features of photographs ->
    PatchNet. What their labels mean is in their `facts`.
    Raises ValueError for another name, a file whose checksum is not the one in its JSON, and JSON that is
    damaged; FileNotFoundError if one is missing. Each names the remedy.
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
    device = environment.device(str(device))
    path = pathlib.Path(folder) / f"{name}.safetensors"
    missing = [p.name for p in (path, path.with_suffix(".json")) if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}"
            f" is missing from {path.parent.name}; `python -m dgtoy weights --device cuda` makes it"
        )
    known = facts(name, folder)
    found = checksum(path)
    if found != known["sha256"]:
        raise ValueError(
            f"{path.name} has SHA-256 {found[:12]}...; expected {known['sha256'][:12]}...:"
            " the file is damaged, fetch it again"
        )
    state = floats(read_safetensors(path)[0])
    if name in FINE_TUNES:
        net = with_lora(load(known["base"], "cpu", folder), state, len(known["classes"]), path.name)
    else:
        net = NETWORKS[name](known)
        module = getattr(net, "net", net)
        kept = {k: v for k, v in module.named_buffers() if k in ("pos_embed", "flow")}
        load_weights(module, state | kept, path.name)  # positions are exact, not as rounded in the file
    net = net.to(device)
    return net.compile() if isinstance(net, EDM) else net


TABLE, DOWN, UP = "y_embedder.embedding_table.weight", ".lora_A.default.weight", ".lora_B.default.weight"


def with_lora(net, state, num_classes, file):
    """A network with what `pipeline.finetune` wrote of a LoRA added: W + B A, and the new label table.

    Raises ValueError, naming `file`, for a weight that is missing, superfluous or of another shape.
    """
    net = net.with_classes(num_classes)
    weights = net.net.state_dict()
    state = {name.replace(".finetuned", ""): value for name, value in state.items()}
    layers = [name.removesuffix(DOWN) for name in state if name.endswith(DOWN)]
    expected = {TABLE: weights[TABLE]}
    for layer in layers:
        out, given = weights[f"{layer}.weight"].shape if f"{layer}.weight" in weights else (0, 0)
        rank = len(state[layer + DOWN])
        expected |= {layer + DOWN: torch.empty(rank, given), layer + UP: torch.empty(out, rank)}
    check_shapes(file, state, expected)
    weights[TABLE].copy_(state[TABLE])
    for layer in layers:
        weights[f"{layer}.weight"] += state[layer + UP] @ state[layer + DOWN]
    return net


def facts(name, folder=FOLDER):
    """What NAME.json says of a shipped network: checksum, recipe, provenance, sizes, accuracy.

    Raises ValueError, naming the remedy, if it is damaged.
    """
    path = pathlib.Path(folder) / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "sha256" not in found:
        raise ValueError(f"{path.name} is not a complete page of JSON: the file is damaged, fetch it again")
    return found


def checksum(path):
    """The SHA-256 of a file, as its page of facts holds it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
