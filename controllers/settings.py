"""Every number of a manager in one place, with its unit, its default and the reason for it.

A value comes from the first of these that has it:

1. a keyword argument: `Manager(stop_timeout=5)`, `add_controller(..., workers=4)`;
2. the environment: `LISTWATCH_STOP_TIMEOUT=5`;
3. a YAML file of `stop_timeout: 5` lines: that of `listwatch run --config`, or the one LISTWATCH_CONFIG names;
4. the default.

`python -m controllers.settings` prints docs/settings.md.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import msgspec
import structlog

from controllers.controller import CATCH_UP_TIMEOUT, SYNC_TIMEOUT
from controllers.errors import ControllerError
from controllers.leader import JITTER, LEASE_SECONDS, RENEW_DEADLINE, RETRY_PERIOD, LeaderElection
from controllers.reconcile import Request
from controllers.workqueue import BASE_DELAY, BURST, MAX_DELAY, QPS, WorkQueue
from informer.machine import PAGE_SIZE
from informer.shared import QUEUE_LIMIT

PREFIX = "LISTWATCH_"
CONFIG_VARIABLE = "LISTWATCH_CONFIG"
OTHER_VARIABLES = {CONFIG_VARIABLE, "LISTWATCH_COMPLETION_TIMEOUT"}
FILE_LIMIT = 1024 * 1024  # bytes; a file of settings has a few hundred

log = structlog.get_logger("controllers")


class SettingError(ControllerError, ValueError):
    """A setting that cannot be; the text names it, where it came from, and what was expected."""


class Setting(NamedTuple):
    """What a setting is: `minimum` is the least value; with `above`, all values are more than that."""

    unit: str
    reason: str
    minimum: float | None = None
    above: bool = False

    def expected(self, kind: type) -> str:
        """What a value is to be."""
        what = {int: "a whole number", float: "a number", str: "text"}[kind]
        of = f" of {self.unit.partition(',')[0]}" if self.unit and kind is not str else ""
        least = (
            "" if self.minimum is None else f" above {self.minimum:g}" if self.above else f", at least {self.minimum:g}"
        )
        return what + of + least


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a manager. One made by hand is used as it is; `Settings.load` looks into environment and file.

    Raises SettingError for values that do not go together.
    """

    # fmt: off
    store: Annotated[str, Setting(
        "", "As for `--store`; empty: the local server, else a directory of one's own.")] = ""
    connect_timeout: Annotated[float, Setting(
        "seconds", "When both are started together the server may be on its way up.", 0)] = 10.0
    sync_timeout: Annotated[float, Setting(
        "seconds", "controller-runtime's CacheSyncTimeout: caches that do not fill are wrong.", 0, True)] = SYNC_TIMEOUT
    stop_timeout: Annotated[float, Setting(
        "seconds", "controller-runtime's GracefulShutdownTimeout; a Pod is given 30 s to end.", 0)] = 30.0

    workers: Annotated[int, Setting(
        "keys at a time", "controller-runtime's MaxConcurrentReconciles: a reconciler that is written for one is safe.",
        1)] = 1
    reconcile_timeout: Annotated[float, Setting(
        "seconds, 0 for no limit", "As in controller-runtime none: only the author knows.", 0)] = 0.0
    catch_up_timeout: Annotated[float, Setting(
        "seconds", "For caches to show a key's own writes, else it waits its turn again; milliseconds as a rule.",
        0, True)
    ] = CATCH_UP_TIMEOUT

    queue_base_delay: Annotated[float, Setting(
        "seconds", "client-go's; the wait after a first failure, doubled with each further one.", 0, True)] = BASE_DELAY
    queue_max_delay: Annotated[float, Setting(
        "seconds", "client-go's; the longest that a failing key waits.", 0, True)] = MAX_DELAY
    queue_qps: Annotated[float, Setting(
        "retries a second, 0 for no limit", "client-go's; over all keys of a queue, for when everything fails.", 0)
    ] = QPS
    queue_burst: Annotated[int, Setting(
        "retries", "client-go's; so many are free before that rate counts.", 1)] = BURST

    lease_seconds: Annotated[int, Setting(
        "seconds", "client-go's LeaseDuration: how long the office stays with a leader that fell silent.", 1)
    ] = LEASE_SECONDS
    lease_renew_deadline: Annotated[float, Setting(
        "seconds", "client-go's RenewDeadline: a leader that cannot renew by then stops.", 0, True)] = RENEW_DEADLINE
    lease_retry_period: Annotated[float, Setting(
        "seconds", "client-go's RetryPeriod: between renewals, and between attempts.", 0, True)] = RETRY_PERIOD

    list_page_size: Annotated[int, Setting(
        "objects", "client-go's pager: an answer of a few megabytes at most.", 1)] = PAGE_SIZE
    handler_queue_limit: Annotated[int, Setting(
        "notifications", "client-go's buffers begin at this; beyond it a slow handler's queue coalesces.", 1)
    ] = QUEUE_LIMIT

    http: Annotated[str, Setting(
        "HOST:PORT", "Where metrics and health are served; empty for nowhere: a port is opened when it is asked for.")
    ] = ""
    http_connections: Annotated[int, Setting(
        "connections", "A few scrapers and probes, and no way to use up the process's sockets.", 1)] = 64
    http_timeout: Annotated[float, Setting(
        "seconds", "For a client to say what it wants, and to take the answer.", 0, True)] = 10.0
    check_timeout: Annotated[float, Setting(
        "seconds", "For each health check; a store that needs longer cannot be worked with.", 0, True)] = 5.0
    loop_lag_limit: Annotated[float, Setting(
        "seconds", "An event loop blocked for longer is unhealthy: leases and watches need it.", 0, True)] = 5.0
    # fmt: on

    def __post_init__(self) -> None:
        if self.queue_base_delay > self.queue_max_delay:
            raise SettingError(
                f"queue_base_delay must not be above queue_max_delay, "
                f"got {self.queue_base_delay:g} and {self.queue_max_delay:g}"
            )
        renew, retry = self.lease_renew_deadline, self.lease_retry_period
        if not self.lease_seconds > renew > JITTER * retry:
            raise SettingError(
                f"lease_seconds > lease_renew_deadline > {JITTER} * lease_retry_period must hold, "
                f"got {self.lease_seconds}, {renew:g} and {retry:g}"
            )

    def queue(self) -> WorkQueue[Request]:
        """A work queue with these limits."""
        return WorkQueue(
            base_delay=self.queue_base_delay,
            max_delay=self.queue_max_delay,
            qps=self.queue_qps or None,
            burst=self.queue_burst,
        )

    def election(self, name: str) -> LeaderElection:
        """An election with these numbers for the office `NAME` or `NAMESPACE/NAME`."""
        namespace, _, name = name.rpartition("/")
        return LeaderElection(
            name,
            namespace=namespace or "default",
            lease_seconds=self.lease_seconds,
            renew_deadline=self.lease_renew_deadline,
            retry_period=self.lease_retry_period,
        )

    @classmethod
    def load(
        cls,
        config: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        *,
        base: Settings | None = None,
        **arguments: Any,
    ) -> Settings:
        """The settings as arguments, environment and file have them.

        config: the file; None = what LISTWATCH_CONFIG names, if anything. base: instead of the defaults.
        arguments: by name; None = not given.
        Raises SettingError. Variables that begin with LISTWATCH_ and are no setting are one warning in the log.
        """
        given: dict[str, tuple[Any, str]] = {}
        file, told_by = (os.fspath(config), "--config") if config else (environ.get(CONFIG_VARIABLE), CONFIG_VARIABLE)
        if file:
            given |= {name: (value, file) for name, value in _read(file, told_by).items()}
        names = {PREFIX + name.upper(): name for name in cls.__struct_fields__}
        given |= {name: (environ[key], key) for key, name in names.items() if environ.get(key)}
        if unknown := sorted(
            key for key in environ if key.startswith(PREFIX) and key not in OTHER_VARIABLES and key not in names
        ):
            log.warning("settings_unknown", variables=unknown, hint=_hint(unknown[0], names).removeprefix(", "))
        given |= {name: (value, "argument") for name, value in arguments.items() if value is not None}
        values = {name: _value(name, value, source) for name, (value, source) in given.items()}
        try:
            return msgspec.structs.replace(base or cls(), **values)
        except SettingError as error:
            sources = ", ".join(f"{name} from {source}" for name, (_, source) in given.items() if name in str(error))
            raise SettingError(f"{error} ({sources})" if sources else str(error)) from None


def _described() -> dict[str, tuple[type, Setting]]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: get_args(hints[name]) for name in Settings.__struct_fields__}


DESCRIBED = _described()
"""name -> its type, and what it is."""


def _value(name: str, value: Any, source: str) -> Any:
    if name not in DESCRIBED:
        raise SettingError(f"{name} ({source}): there is no such setting{_hint(name, DESCRIBED)}")
    kind, setting = DESCRIBED[name]
    try:
        # Text is read as a number only in the environment, where there is nothing else.
        found: Any = msgspec.convert(value, kind, strict=source != PREFIX + name.upper())
        if not isinstance(found, str):
            least = -math.inf if setting.minimum is None else setting.minimum
            if not math.isfinite(found) or found < least or (setting.above and found == least):
                raise msgspec.ValidationError("out of its range")
    except msgspec.ValidationError:
        raise SettingError(f"{name} ({source}): expected {setting.expected(kind)}, got {value!r}") from None
    return found


def _read(file: str, told_by: str) -> dict[str, Any]:
    import yaml  # not needed otherwise

    where = f"{told_by} {file}"
    try:
        with Path(file).open(encoding="utf-8") as opened:
            text = opened.read(FILE_LIMIT + 1)
        if len(text) > FILE_LIMIT:
            raise SettingError(f"{where}: larger than {FILE_LIMIT} bytes")
        content = yaml.safe_load(text)
    except OSError as error:
        raise SettingError(f"{where}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(f"{where}: expected `name: value` lines")
    return {str(name): value for name, value in content.items()}


def _hint(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


_SECTIONS = {
    "store": "Manager",
    "workers": "Controllers",
    "queue_base_delay": "Work queues",
    "lease_seconds": "Leader election",
    "list_page_size": "Informers",
    "http": "Endpoints",
}
"""The first setting of each section of the page."""


def page() -> str:
    """docs/settings.md."""
    lines = [_INTRODUCTION]
    defaults = Settings()
    for name, (_, setting) in DESCRIBED.items():
        if name in _SECTIONS:
            lines.append(f"\n## {_SECTIONS[name]}\n")
            lines.append("| setting | environment | default | unit | what for, and why so |\n|---|---|---|---|---|")
        default = getattr(defaults, name)
        shown = default if isinstance(default, str) else f"{default:g}"
        cells = (f"`{name}`", f"`{PREFIX}{name.upper()}`", f"`{shown}`" if shown else "", setting.unit, setting.reason)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_INTRODUCTION = """\
# Settings

<!-- Made by `python -m controllers.settings > docs/settings.md`: change controllers/settings.py instead. -->

Every number of a manager, its controllers, queues, informers and endpoints. A value comes from the first of these that
has it:

1. a keyword argument in the program: `Manager(stop_timeout=5)`, `@manager.reconciler(Website, workers=4)`
2. an environment variable: `LISTWATCH_STOP_TIMEOUT=5`
3. a YAML file: the one that `listwatch run --config FILE` or `LISTWATCH_CONFIG` names
4. the default

```yaml
# settings.yaml
workers: 4
stop_timeout: 10
http: 127.0.0.1:8080
```

A value that cannot be is one line, and the program does not start: `stop_timeout (LISTWATCH_STOP_TIMEOUT): expected a
number of seconds, at least 0, got 'soon'`. So is a name in the file that is no setting; a variable `LISTWATCH_...` that
is none is a warning. `Manager(settings=Settings(...))` uses exactly those, whatever environment and file say;
`Settings.load(stop_timeout=5)` is how a program looks at what it would get.

`listwatch serve` has settings of its own under etcd's names: see [Serving a store](serve.md)."""


if __name__ == "__main__":
    print(page(), end="")
