"""The losses of a fine-tune as they come: a bar, and a table of them, losses.csv."""

import time

from ..checkpoint import write_text

EVERY = 50  # steps to a line


def logged(steps, config, log, quiet):
    """The steps as they come, with a bar, and a line of the table `log` for every 50."""
    from tqdm import tqdm

    bar = tqdm(total=config.steps, desc="finetune", disable=quiet or None, mininterval=5)
    began, seen, recent = time.time(), 0, []
    for step in steps:
        seen += config.batch
        recent.append(step.loss)
        bar.update(step.step - bar.n)
        if step.step % EVERY == 0 or step.step == config.steps:
            loss = sum(recent).item() / len(recent)
            recent.clear()
            bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{seen / (time.time() - began):.0f}")
            append(log, step.step, loss)
        yield step


def append(log, step, loss):
    """A line to a table of losses, each the mean since the line before; step 0 is the pre-trained model.

    Lines of later steps, which a run that was stopped had written, go, and what is no such line. After a stop
    between two lines the next one is the mean of the steps since then.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    number = [line.split(",")[0] for line in lines]  # a table program may have added a head
    kept = [line for line, n in zip(lines, number) if n.isdigit() and int(n) < step]
    write_text(log, "\n".join([*kept, f"{step},{loss:.6f}"]) + "\n")
