"""From the records to claims.json, the README's findings and the book's tables: no number is typed."""

import dataclasses
import json
import pathlib
import re

from ...checkpoint import write_text
from ..bench.pipelines import TOGETHER
from ..notebooks import timed
from ..records import load
from . import CLAIMS, decisions
from .sentences import sentences

AGAIN = ("value", "low", "high", "n", "verdict", "parts", "note", "device", "source")


def judge(folder):
    """Every claim whose record lies in `folder`, as plain dicts."""
    found = []
    for claim in CLAIMS:
        try:
            record = load(claim.experiment, folder)
        except FileNotFoundError:
            continue
        result = claim.rule(record)
        clean = {
            k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in dataclasses.asdict(result).items()
        }
        clean["parts"] = {k: bool(v) for k, v in result.parts.items()}
        found.append(
            dict(
                id=claim.id,
                claim=claim.text,
                experiment=claim.experiment,
                paper=claim.paper,
                verdict=result.verdict,
                **clean,
                device=record["provenance"]["device"],
                source=record["provenance"]["source"],
            )
        )
    return found


def refresh(out="figures"):
    """Judge the records, write OUT/claims.json, README and book.  -> the claims as text

    Raises FileNotFoundError for a folder without a record of a claim.
    """
    out = pathlib.Path(out)
    again = {c["id"]: {k: c[k] for k in AGAIN} for c in judge(out / "replica")}
    entries = [dict(e, replica=again.get(e["id"])) for e in judge(out)]
    if not entries:
        raise FileNotFoundError(f"--out {out} holds no record that a claim is about; expected figures")
    entries.sort(key=lambda c: (int(re.search(r"\d+", c["id"])[0]), c["id"]))
    write_text(out / "claims.json", json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    for page, places in PLACES.items():
        path = out.parent / page
        if path.exists():
            write_text(path, filled(path.read_text(encoding="utf-8"), places, out))
    return findings(entries)


def filled(text, places, out):
    """A Markdown text with every place <!-- name --> of `places` filled from the records in `out`, or with
    what is missing."""
    for name in places:
        try:
            table = TABLES[name](pathlib.Path(out))
        except FileNotFoundError as missing:
            table = f"{missing}."
        text = put(text, name, table)
    return text


def counted(entries):
    """How many claims there are, and how many of them hold."""
    held, part, failed = (
        sum(e["verdict"] == v for e in entries) for v in ("holds", "holds in part", "fails")
    )
    return f"{len(entries)} claims ({held} hold, {part} hold in part, {failed} fail)"


def findings(entries):
    """The claims for a terminal: how many hold, then one line each with its value and 95% interval."""
    lines = [counted(entries)]
    for e in entries:
        lines.append(f"{e['id']:11s} {e['verdict']:14s} {_span(e):32s} {e['claim']}")
    return "\n".join(lines)


def _span(entry):
    return "{:#.3g} [{:#.3g}, {:#.3g}]".format(*(entry[k] for k in ("value", "low", "high")))


def claims_table(out):
    """The claims as a Markdown table, further numbers folded away; a dagger marks a rule that was committed
    before its record existed."""
    lines = ["| | claim | verdict | ours, with its interval | replica |", "|---|---|---|---|---|"]
    before = {claim.id for claim in CLAIMS if claim.before}
    for e in json.loads((out / "claims.json").read_text(encoding="utf-8")):
        paper = "" if e["paper"] == "–" else f". *The paper: {e['paper']}.*"
        note = f"{e['note'][0].upper()}{e['note'][1:]}. ({e['interval']}.)"
        more = f"<details class='numbers'><summary>more numbers</summary>{note}</details>"
        ours = " ".join(filter(None, (f"{_span(e)} {e['unit']}.", told(e["parts"]), more)))
        again = f"{e['replica']['verdict']}: {_span(e['replica'])}" if e["replica"] else "–"
        verdict = f"**{e['verdict']}**" + (" †" if e["id"] in before else "")
        lines.append(f"| {e['id']} | {e['claim']}{paper} | {verdict} | {ours} | {again} |")
    return "\n".join(lines)


def told(parts):
    """Which parts of a claim hold, in words, "" where all do; parts that differ only after a colon are one.

    parts: {"what" or "what: where": whether it holds}
    """
    if all(parts.values()):
        return ""
    places = {}
    for part, held in parts.items():
        what, _, where = part.partition(": ")
        places.setdefault(what, {})[where] = held
    found = {"Holds": [], "Holds in part": [], "Not so": []}
    for what, held_at in places.items():
        held = [where for where, holds in held_at.items() if holds]
        lost = [where for where, holds in held_at.items() if not holds]
        if held and lost:
            few = f"not {' / '.join(lost)}" if len(lost) < len(held) else f"only {' / '.join(held)}"
            found["Holds in part"].append(f"{what} ({len(held)} of {len(held_at)}: {few})")
        else:
            where = f" ({' / '.join(held_at)})" if any(held_at) and len(held_at) < 4 else ""
            found["Holds" if held else "Not so"].append(what + where)
    sentences = [f"{how}: {'; '.join(those)}" for how, those in found.items() if those]
    return "**" + ". ".join(sentences).replace("*", "\\*") + ".**"  # a part may be about a weight a*


def notebooks_table(out):
    """The notebooks by their titles, with the runtimes that `python -m dgtoy notebooks` measured."""
    measured = timed(out)
    device = measured.get("device", "not measured")
    lines = [f"| | it asks | seconds ({device}) |", "|---|---|---|"]
    for notebook in sorted((out.parent / "notebooks").glob("[0-9]*.ipynb")):
        opening = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
        title = opening.splitlines()[0].removeprefix("# ")
        seconds = measured["seconds"].get(notebook.stem)
        took = "–" if seconds is None else f"{seconds:.0f}"
        lines.append(f"| {notebook.stem[:2]} | [{title}](notebooks/{notebook.name}) | {took} |")
    for command, seconds in measured.get("commands", {}).items():
        lines.append(f"| | all of them: `{command}` | {seconds:.0f} |")
    return "\n".join(lines)


def bench_table(out):
    """The benchmarks of each device, each once, but for what guidance costs in a pipeline, which is no speed
    of ours. Stages of a whole run have seconds and no plain version."""
    lines = ["| device | what | ours | plain, same run | unit | ratio |", "|---|---|---|---|---|---|"]
    told = set()
    for path in sorted(set(out.glob("bench_*.json")) - set(out.glob("bench_pipelines_*.json"))):
        made, timed_alone = json.loads(path.read_text(encoding="utf-8")), path.name.startswith("bench_stages")
        for r in made["results"]["rows"]:
            if (key := (_device(made), r["what"])) in told:
                continue
            told.add(key)
            ratio = f"**{r['ratio']:.3g}×**" if r.get("ratio") and not timed_alone else "–"
            plain = "–" if timed_alone else _in_digits(r["plain"])
            what = f"{r['what']} ({r['note']})".replace("|", "\\|")
            row = (_device(made), what, _in_digits(r["ours"]), plain, r["unit"], ratio)
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _in_digits(value):
    """A number to three digits, without an exponent where it is large."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:.3g}"


def cost_table(out):
    """Seconds and memory that a picture takes with each guide, and as multiples of the same pipeline's own
    guidance, from each record in `out`, that of a CUDA device first; what memory and single pictures cost.

    Raises FileNotFoundError with the command that makes the record.
    """
    found = sorted(pathlib.Path(out).glob("bench_pipelines_*.json"), reverse=True)
    if not found:
        raise FileNotFoundError("no bench_pipelines_*.json; `python -m dgtoy bench --pipelines` makes it")
    made = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    memory = _ending(made[0], ": memory")
    columns = dict(map(_timed, made)) | {"memory (GiB)": memory}
    cell = lambda r: f"{r['ours']:.2g} ({_times(r):.2f}×)"
    lines = [f"| seconds a picture | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {way} | {' | '.join(cell(rows[way]) for rows in columns.values())} |" for way in memory]
    sizes = (f"{_device(m)}: {m['results']['rows'][0]['note'].partition('; ')[2]}" for m in made)
    return "\n".join([*lines, "", f"({'; '.join(sizes)}.) {_what_else(made[0], memory)}"])


def _device(made):
    return made["provenance"]["device"]


def _times(row):
    """What a row of costs is as a multiple of the same pipeline's own guidance."""
    return row["ours"] / row["plain"]


def _ending(made, end):
    """The rows of a record whose names have an end, by the name without it."""
    return {r["what"].removesuffix(end): r for r in made["results"]["rows"] if r["what"].endswith(end)}


def _timed(made):
    """What a record of costs timed, several pictures at once where it did.  -> (column's head, {way: row})"""
    rows = {r["what"]: r for r in made["results"]["rows"]}
    if together := _ending(made, f", {TOGETHER} at once"):
        return f"{_device(made)}, {TOGETHER} at once", together
    return _device(made), {way: rows[way] for way in _ending(made, ": memory")}


def _what_else(made, memory):
    """What a second network and a LoRA's base add to the memory, and what single pictures cost in time."""
    second, lora = (_times(memory[way]) - 1 for way in ("the plane", "a LoRA and its base, the plane"))
    text = f"A second network adds {second:.0%} of memory, a LoRA's base {lora:.0%}."
    alone = [_times(r) for r in made["results"]["rows"] if r["what"] in memory]
    if _ending(made, f", {TOGETHER} at once"):
        span = f"{min(alone):.1f} to {max(alone):.1f}"
        text += f" One picture at a time takes the {_device(made)} {span} times as long as with CFG."
    return text


TABLES = dict(
    findings=sentences,
    notebooks=notebooks_table,
    claims=claims_table,
    decisions=decisions.table,
    which=decisions.short,
    bench=bench_table,
    cost=cost_table,
)
PLACES = {  # page: what is written into it
    "README.md": ("findings", "which", "notebooks"),
    "book/claims.md": ("claims", "decisions"),
    "book/speed.md": ("bench",),
    "book/pipelines.md": ("cost",),
}


def put(text, name, table):
    """Replace what stands between <!-- name --> and <!-- /name -->. Raises ValueError if there is none."""
    new, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + table + "\n" + m[2], text, flags=re.S
    )
    if count != 1:
        raise ValueError(f"the page holds {count} places <!-- {name} -->; expected 1")
    return new
