"""python -m dgtoy COMMAND: the course, and `dit`, from your own pictures to guided samples."""

import argparse
import os
import sys
import warnings

COURSE = {
    "experiment": "run experiments by name: a record and a figure each",
    "records": "run every experiment: small ones into build/records, full ones into figures",
    "claims": "judge the records by the rules in code, and write the verdicts",
    "notebooks": "execute the notebooks two at a time into build/notebooks, then show the findings",
    "assignments": "write the notebooks as assignments for nbgrader",
    "animation": "draw the animation of notebook 00",
    "photos": "pack public data sets of photographs, for the studies on them",
    "weights": "train the networks that are shipped with dgtoy (a GPU's work)",
    "bench": "measure speed and memory against plain versions",
    "badges": "write the repository's address into README, notebooks and pyproject.toml",
}
DIT = {
    "dit run": "the whole way from a folder of pictures to a contact sheet",
    "dit prepare": "encode a folder of pictures as latents",
    "dit finetune": "fine-tune a DiT on them",
    "dit sample": "sample it with guidance",
    "dit evaluate": "score the samples against pictures",
    "dit calibrate": "find the weight that held-out pictures ask for",
    "dit table": "set scores side by side",
}
EXAMPLES = """examples:
  python -m dgtoy notebooks 00_five_minutes
  python -m dgtoy experiment transfer --preset full --device cuda
  python -m dgtoy dit run photos"""


def main(argv=None):
    """Run one command. An error is one line and exit status 1; a wrong call shows the usage, status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console whose code page lacks a sign shows it as \\u03c3
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog="python -m dgtoy",
        usage="python -m dgtoy COMMAND ...      (python -m dgtoy COMMAND --help lists its options)",
        description=f"{_listed('the course', COURSE)}\n\n{_listed('your own pictures', DIT)}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="of any command: show where an error came from"
    )
    parser.add_argument("command", choices=(*COURSE, "dit"), metavar="COMMAND", help=argparse.SUPPRESS)
    argv = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in argv
    argv = [_at_home(word) for word in argv if word != "--traceback"]
    if not argv:
        parser.print_help(sys.stderr)
        sys.exit(2)
    for previous, word in zip(["", *argv], argv):
        if not word or (word.startswith("--") and word.endswith("=")):
            name = word or f"the word after {previous}"
            parser.error(f"{name} is empty, as a variable that is not set leaves it; expected a value")
    command = parser.parse_args(argv[:1]).command  # what follows is the command's own
    shown = warnings.formatwarning
    warnings.formatwarning = lambda message, *where: f"{_name(argv)}: warning: {_one_line(message)}\n"
    try:
        if command == "dit":
            from .pipeline.cli import main as run

            run(argv[1:])
        else:
            from .course.cli import main as run

            run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as e:
        done = _one_line(e) or "the same command goes on from what is written"
        print(f"{_name(argv)}: interrupted; {done}", file=sys.stderr)
        sys.exit(130)  # as of any program that Ctrl-C ends
    except Exception as e:
        if traceback:
            raise
        sys.exit(f"{_name(argv)}: {_told(e)}")
    finally:
        warnings.formatwarning = shown


def _at_home(word):
    """A word, or what an option is set to, with ~ written out, which no shell does behind =."""
    option, equals, value = word.rpartition("=")
    return option + equals + os.path.expanduser(value)


def _name(argv):
    return " ".join(argv[:2] if argv[0] == "dit" else argv[:1])


def _told(e):
    """An error in one line; where it is none of the course's own, by its kind."""
    text = _one_line(e)
    foreseen = isinstance(e, ValueError | OSError | ImportError | FloatingPointError) or "; expected" in text
    if foreseen and text:
        return text
    return f"{type(e).__name__}: {text or 'no more is known'}; --traceback shows where"


def _one_line(message):
    return " ".join(str(message).split())


def _listed(title, commands):
    return "\n".join([f"{title}:", *(f"  {name:14s} {what}" for name, what in commands.items())])


if __name__ == "__main__":
    if sys.argv[1:2] == ["dit"]:
        # before torch is loaded: beside other work, threads that wait awake cost a long run most of its
        # speed; on an idle machine those that sleep make the course's small networks 1.6 times slower
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
