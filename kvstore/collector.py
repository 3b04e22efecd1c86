"""When Python's garbage collector runs, in a program that is a store or the controllers on one."""

from __future__ import annotations

import gc

# After how many new objects it looks at the young, the older and all. With Python's own numbers it takes for old what
# thousands of calls hold while they are under way, and looks at everything several times a second: a quarter of the
# processor's time.
COLLECT_AFTER = (10_000, 3, 10)


def collect_less() -> None:
    """Let it run more seldom, and never look again at what is there now. For a program once it has started: it changes
    the whole process, so a library leaves it alone."""
    gc.set_threshold(*COLLECT_AFTER)
    gc.freeze()
