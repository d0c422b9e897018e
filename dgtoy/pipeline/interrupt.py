"""Ctrl-C as a wish, granted when what is being done is whole."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def deferred():
    """Within the block Ctrl-C only fills the list that it is given; a second one interrupts at once."""
    asked = []
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield asked
        return

    def note(number, frame):
        asked.append(number)
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note) or signal.default_int_handler
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)


def between(steps, state):
    """The steps of a generator as they come. Ctrl-C ends it after one, when it has written its `state`."""
    with deferred() as asked:
        for step in steps:
            yield step
            if asked:
                with contextlib.suppress(KeyboardInterrupt):
                    steps.throw(KeyboardInterrupt)
                raise KeyboardInterrupt(
                    f"the same command goes on after step {step.step}, which {state} holds"
                )
