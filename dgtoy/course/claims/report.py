"""From the records to claims.json and to the tables of the README: nothing there is typed by hand."""

import dataclasses
import json
import pathlib
import re

from ...checkpoint import write_text
from ..records import load
from . import CLAIMS

NOTEBOOKS = {  # what each answers, for the README
    "00_five_minutes": "The whole idea: pre-train, fine-tune, sample four ways, one picture",
    "01_one_dimension": "What a denoiser knows: density, score and posterior mean of a world that is known exactly",
    "02_sampling_is_an_ode": "How a denoiser makes samples: the flow, the samplers, their order of convergence",
    "03_what_guidance_really_samples": "Why guided sampling does not sample the tilted density, with the closed form for Gaussians",
    "04_domain_guidance_exactly": "Domain Guidance from Bayes' rule, each line verified; what it sharpens, what it overshoots",
    "05_pretrain_then_finetune": "Real training: what fine-tuning keeps and what it forgets",
    "06_domain_guidance_vs_cfg": "The comparison, paired over seeds, and its price in diversity",
    "07_the_guidance_plane": "None, CFG and DoG on one plane; completion against sharpening; weights from held-out data",
    "08_when_it_fails": "Predict from the formula where it fails, then see it",
    "09_small_images": "The same story on pictures: a small DiT, fine-tuned live, and the study behind it",
    "10_dit_transfer": "The paper's pipeline live on a tiny DiT, its tables on DiT-B/2, and what the real run takes",
    "11_why_it_sharpens_at_scale": "What the guide adds, term by term and direction by direction, on DiT-B/2",
    "12_bring_your_own_model": "Two lines for an existing fine-tune: diffusers pipelines, LoRA, calibration, cheap steps",
}

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
    """Judge the full records and the quick ones, write OUT/claims.json and the README's tables.  -> the claims as text"""
    out = pathlib.Path(out)
    entries = judge(out)
    for other in ("replica", "quick"):
        again = {c["id"]: c for c in judge(out / other)}
        entries = [
            dict(e, **{other: {k: again[e["id"]][k] for k in AGAIN} if e["id"] in again else None})
            for e in entries
        ]
    entries.sort(key=lambda c: (int(re.search(r"\d+", c["id"])[0]), c["id"]))
    write_text(out / "claims.json", json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    readme = out.parent / "README.md"
    if readme.exists():
        text = readme.read_text()
        for name, table in (
            ("claims", claims_table(entries)),
            ("notebooks", notebooks_table(out)),
            ("bench", bench_table(out)),
        ):
            text = put(text, name, table)
        write_text(readme, text)
    return findings(entries)


def findings(entries):
    """The claims for a terminal: how many hold, then one line each with its value and 95% interval."""
    verdicts = [e["verdict"] for e in entries]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("holds", "holds in part", "fails"))
    lines = [f"{len(entries)} claims: {counts}"]
    for e in entries:
        value = f"{e['value']:.3g} [{e['low']:.3g}, {e['high']:.3g}]"
        lines.append(f"{e['id']:11s} {e['verdict']:14s} {value:32s} {e['claim']}")
    return "\n".join(lines)


def claims_table(entries):
    """The claims as a Markdown table."""
    span = lambda c: f"{c['value']:.3g} [{c['low']:.3g}, {c['high']:.3g}]"
    lines = [
        "| | claim | the paper | ours, with 95% interval | seeds | verdict | replica | quick rerun |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        failed = [part for part, held in e["parts"].items() if not held]
        note = e["note"][0].upper() + e["note"][1:] + (f". **Not so: {', '.join(failed)}**" if failed else "")
        again = [f"{c['verdict']}: {span(c)}" if c else "–" for c in (e["replica"], e["quick"])]
        lines.append(
            f"| {e['id']} | {e['claim']} | {e['paper']} | {span(e)} {e['unit']}. {note}. | {e['n']} | **{e['verdict']}** | {' | '.join(again)} |"
        )
    return "\n".join(lines)


def notebooks_table(out):
    """The notebooks with the runtimes that `python -m dgtoy notebooks` measured."""
    path = pathlib.Path(out) / "notebooks.json"
    timed = json.loads(path.read_text()) if path.exists() else dict(seconds={}, device="not measured")
    lines = [f"| notebook | what it answers | seconds ({timed['device']}) |", "|---|---|---|"]
    for name, answer in NOTEBOOKS.items():
        lines.append(f"| [{name}](notebooks/{name}.ipynb) | {answer} | {timed['seconds'].get(name, '–')} |")
    return "\n".join(lines)


def bench_table(out):
    """The benchmarks of each device."""
    lines = ["| device | what | ours | plain, same run | unit | ratio |", "|---|---|---|---|---|---|"]
    for path in sorted(pathlib.Path(out).glob("bench_*.json")):
        made = json.loads(path.read_text())
        for r in made["results"]["rows"]:
            ratio = f"**{r['ratio']:.3g}×**" if r.get("ratio") else "–"
            what = f"{r['what']} ({r['note']})".replace("|", "\\|")
            lines.append(
                f"| {made['provenance']['device']} | {what} | {r['ours']:,.3g} | {r['plain']:,.3g} | {r['unit']} | {ratio} |"
            )
    return "\n".join(lines)


def put(text, name, table):
    """Replace what stands between <!-- name --> and <!-- /name --> in a Markdown text. Raises ValueError without such a place."""
    new, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: m[1] + table + "\n" + m[2], text, flags=re.S
    )
    if count != 1:
        raise ValueError(f"the README holds {count} places <!-- {name} -->; expected 1")
    return new
