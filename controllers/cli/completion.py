"""Shell completion: the scripts for bash, zsh and fish, and the answer to what they ask.

The shell calls `listwatch` itself at every Tab. So it has to be quick, and whatever goes wrong shows nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import click
from click.shell_completion import ShellComplete, get_completion_class, shell_complete

from controllers.cli.options import COMPLETE_VARIABLE, KubectlCommand, Settings

TIMEOUT_VARIABLE = "LISTWATCH_COMPLETION_TIMEOUT"  # seconds for what is asked of the store; 1 if it is not set
TIMEOUT = 1.0
REST = 3.0  # seconds more until all of it is given up, whatever it is that takes so long
MOST = 60.0  # of both together


@click.command(
    cls=KubectlCommand,
    epilog="bash: `source <(listwatch completion bash)` in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, after "
    "compinit. fish: `listwatch completion fish > ~/.config/fish/completions/listwatch.fish`.",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete commands, options, kinds and the names of objects."""
    made = get_completion_class(shell)
    assert made is not None  # click has these three
    # Bash's own `source` runs bash to see how old it is; the script needs nothing that bash 4.4 has not.
    click.echo(ShellComplete.source(made(click.Group(), {}, "listwatch", COMPLETE_VARIABLE)))


def timeout() -> float:
    """Seconds that the store has to answer."""
    try:
        return max(0.0, float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT)))
    except ValueError:
        return TIMEOUT


def complete(cli: click.Group, instruction: str) -> int:
    """Answer a shell's question, `bash_complete`; the exit code. Ends the process if it takes too long."""
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, min(timeout() + REST, MOST))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        code = shell_complete(cli, {"obj": Settings()}, "listwatch", COMPLETE_VARIABLE, instruction)
        sys.stdout.flush()
    except Exception:  # noqa: BLE001 - half a line may be wrong in every way, and the store away: nothing to offer
        return 1
    return code


def _give_up(number: int, frame: FrameType | None) -> None:
    os._exit(1)
