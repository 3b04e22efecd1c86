"""The settings of `listwatch serve` by etcd's names: flags, environment variables and a configuration file.

`SETTINGS` is the one list of them; the command line, its help and `docs/serve.md` follow it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from kvstore.autocompact import HOUR, AutoCompaction
from kvstore.node import NodeOptions
from kvstore.server.config import LogConfig, ServeConfig
from kvstore.server.tls import ServerTLS

log = structlog.get_logger("kvstore")

TLS_SECTION = "client-transport-security"
LOG_LEVELS = ("debug", "info", "warn", "warning", "error", "dpanic", "panic", "fatal")
LOG_FORMATS = ("auto", "console", "logfmt", "json")
MODES = ("periodic", "revision")

_NANOSECONDS = {"h": 3600e9, "m": 60e9, "s": 1e9, "ms": 1e6, "us": 1e3, "µs": 1e3, "ns": 1.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)")


class SettingError(Exception):
    """A setting that cannot be; the text names it and says what was expected."""


class Setting(NamedTuple):
    """One setting: `--name`, `ETCD_NAME`, and `name` in the file, there perhaps in a section.

    `default` is as one would write it; nothing means that it is off, or what `help` says.
    """

    name: str
    default: str
    unit: str
    help: str
    section: str = ""
    alias: str = ""
    is_flag: bool = False

    @property
    def variable(self) -> str:
        """The environment variable, as etcd forms it."""
        return "ETCD_" + self.name.upper().replace("-", "_")


SETTINGS = (
    Setting("data-dir", "", "path", "Where the data is; made if it is not there. It must be given."),
    Setting("name", "default", "", "The member's name."),
    Setting("listen-client-urls", "http://127.0.0.1:2379", "URLs", "Where to listen for gRPC; port 0 for any."),
    Setting("advertise-client-urls", "", "URLs", "What the member list shows; else where it listens."),
    Setting("listen-client-http-urls", "", "URLs", "Where to listen for HTTP; may be the same as for gRPC."),
    Setting("listen-metrics-urls", "", "URLs", "Where to listen for HTTP with health and metrics only."),
    Setting("cert-file", "", "path", "The server's certificate, for https URLs.", TLS_SECTION),
    Setting("key-file", "", "path", "The key of that certificate.", TLS_SECTION),
    Setting("trusted-ca-file", "", "path", "Clients need a certificate signed by one of these.", TLS_SECTION),
    Setting("client-cert-auth", "false", "", "Ask clients for a certificate.", TLS_SECTION, is_flag=True),
    Setting("quota-backend-bytes", "0", "bytes", "How large the data may grow; 0 is 2 GiB."),
    Setting("max-request-bytes", "1572864", "bytes", "The largest request."),
    Setting("max-txn-ops", "128", "operations", "The most operations in a transaction."),
    Setting("max-concurrent-streams", "2147483647", "streams", "The most calls at a time on one connection."),
    Setting("auto-compaction-mode", "periodic", "", "periodic: retention is a time; revision: a number of revisions."),
    Setting("auto-compaction-retention", "0", "hours, duration or revisions", "How much history to keep; 0 is all."),
    Setting(
        "watch-progress-notify-interval",
        "10m",
        "duration",
        "How often idle watches that asked for it are told of progress.",
        alias="experimental-watch-progress-notify-interval",
    ),
    Setting("auth-token", "simple", "", "How users' tokens are made: simple, the only one there is here."),
    Setting("auth-token-ttl", "300", "seconds", "How long after its last use a token of a user is good."),
    Setting("bcrypt-cost", "10", "", "How much work checking a password is: 4 to 31, each step doubles it."),
    Setting("auto-disarm", "false", "", "End the NOSPACE alarm once there is room again.", is_flag=True),
    Setting("log-level", "info", "", "debug, info, warn, error, panic or fatal."),
    Setting("log-format", "auto", "", "console, json, logfmt; auto: by whether it is a terminal."),
    Setting("log-outputs", "default", "", "default or stderr, stdout, or a file to append to."),
)
CONFIG_FILE = Setting("config-file", "", "path", "A YAML file with all settings: flags and environment do not count.")

_BY_NAME = {name: setting for setting in SETTINGS for name in (setting.name, setting.alias) if name}


def load_config(flags: Mapping[str, str], environ: Mapping[str, str]) -> ServeConfig:
    """The configuration. As in etcd a flag wins over its environment variable, and a configuration file over both.

    `flags` has the settings given on the command line, by name. Raises SettingError.
    """
    given = {
        setting.name: environ[variable]
        for setting in (*SETTINGS, CONFIG_FILE)
        for variable in _variables(setting)
        if variable in environ
    }
    given |= {_canonical(name): value for name, value in flags.items()}
    file = given.pop(CONFIG_FILE.name, "")
    if file:
        if given:
            log.warning("settings_ignored", settings=sorted(given), reason=f"the configuration file {file} is used")
        given = _read(Path(file))
    return _config({setting.name: given.get(setting.name, setting.default) for setting in SETTINGS})


def parse_duration(text: str) -> float:
    """Seconds of Go's `1h30m`, `90s` or `200ms`. Raises ValueError."""
    found = list(_PART.finditer(text))
    if text == "0":
        return 0.0
    if not found or "".join(part[0] for part in found) != text:
        raise ValueError("expected a duration such as 90s, 10m or 1h30m")
    return sum(float(part[1]) * _NANOSECONDS[part[2]] for part in found) / 1e9


def _variables(setting: Setting) -> tuple[str, ...]:
    return (setting._replace(name=setting.alias).variable, setting.variable) if setting.alias else (setting.variable,)


def _canonical(name: str) -> str:
    return _BY_NAME[name].name if name in _BY_NAME else name


# ---- the file -------------------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, str]:
    import yaml  # not needed otherwise

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--config-file {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"--config-file {file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SettingError(f"--config-file {file}: expected `name: value` lines")
    section = content.get(TLS_SECTION) or {}
    if not isinstance(section, dict):
        raise SettingError(f"--config-file {file}: {TLS_SECTION} is no section")
    found: dict[str, str] = {}
    unknown: list[str] = []
    for where, values in (("", content), (TLS_SECTION, section)):
        for key, value in values.items():
            setting = _BY_NAME.get(str(key))
            if setting is not None and setting.section == where:
                if value is not None:
                    found[setting.name] = _as_text(setting, value)
            elif key != TLS_SECTION:
                unknown.append(f"{where}.{key}" if where else str(key))
    if unknown:
        log.warning(
            "settings_unknown", file=str(file), settings=sorted(unknown), detail="ignored, as etcd ignores them"
        )
    return found


def _as_text(setting: Setting, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if setting.unit == "duration" and isinstance(value, int):
        return f"{value}ns"  # as Go's YAML reads a number there
    return str(value)


# ---- values ---------------------------------------------------------------------------------------------------------


def _config(values: Mapping[str, str]) -> ServeConfig:
    if not values["data-dir"]:
        raise SettingError("Missing option '--data-dir', ETCD_DATA_DIR, or data-dir in the --config-file")
    listen = _urls(values["listen-client-urls"])
    if not listen:
        raise SettingError("--listen-client-urls names no URL")
    http, metrics = _urls(values["listen-client-http-urls"]), _urls(values["listen-metrics-urls"])
    for url in metrics:
        if url in (*listen, *http) and not url.endswith(":0"):
            raise SettingError(f"{url} is for clients: --listen-metrics-urls needs a port of its own")
    if values["auth-token"] != "simple":
        raise SettingError(f"--auth-token: only simple tokens are made here, got {values['auth-token']!r}")
    quota = _integer(values, "quota-backend-bytes", 0)
    interval = _duration(values, "watch-progress-notify-interval")
    if interval <= 0:
        raise SettingError("--watch-progress-notify-interval: expected a time above 0")
    return ServeConfig(
        data_dir=Path(values["data-dir"]),
        listen_client_urls=listen,
        advertise_client_urls=_urls(values["advertise-client-urls"]),
        listen_client_http_urls=http,
        listen_metrics_urls=metrics,
        max_concurrent_streams=min(_integer(values, "max-concurrent-streams", 1), 2**31 - 1),
        tls=_tls(values),
        auto_compaction=_auto_compaction(values),
        log=LogConfig(
            _one_of(values, "log-level", LOG_LEVELS), _one_of(values, "log-format", LOG_FORMATS), _output(values)
        ),
        node=NodeOptions(
            name=values["name"],
            max_txn_ops=_integer(values, "max-txn-ops", 1),
            max_request_bytes=_integer(values, "max-request-bytes", 1),
            quota_bytes=quota or NodeOptions().quota_bytes,
            progress_interval=interval,
            bcrypt_cost=_integer(values, "bcrypt-cost", 4, 31),
            auth_token_ttl=float(_integer(values, "auth-token-ttl", 1)),
            auto_disarm=_boolean(values, "auto-disarm"),
        ),
    )


def _tls(values: Mapping[str, str]) -> ServerTLS | None:
    cert, key, authority = values["cert-file"], values["key-file"], values["trusted-ca-file"]
    asked = _boolean(values, "client-cert-auth")
    if not (cert or key):
        if authority or asked:
            raise SettingError("--trusted-ca-file and --client-cert-auth need --cert-file and --key-file")
        return None
    if not (cert and key):
        raise SettingError(f"--{'key-file' if cert else 'cert-file'} is missing: certificate and key go together")
    if asked and not authority:
        raise SettingError("--client-cert-auth needs --trusted-ca-file")
    return ServerTLS(Path(cert), Path(key), Path(authority) if authority else None, asked)


def _auto_compaction(values: Mapping[str, str]) -> AutoCompaction | None:
    mode, text = values["auto-compaction-mode"], values["auto-compaction-retention"]
    if text in ("", "0"):
        return None
    name = "--auto-compaction-retention"
    if mode == "revision":
        kept = _integer(values, "auto-compaction-retention", 0)
        return AutoCompaction("revision", kept) if kept else None
    if mode != "periodic":
        raise SettingError(f"--auto-compaction-mode: expected {' or '.join(MODES)}, got {mode!r}")
    try:
        period = float(text) * HOUR if text.isascii() and text.isdigit() else parse_duration(text)
    except ValueError as error:
        raise SettingError(f"{name}: {error}, or a number of hours; got {text!r}") from None
    if not math.isfinite(period) or 0 < period < 1:
        raise SettingError(f"{name}: expected at least 1s, got {text!r}")
    return AutoCompaction("periodic", period) if period else None


def _urls(text: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in text.split(",") if url.strip())


def _integer(values: Mapping[str, str], name: str, least: int, most: int = 10**18) -> int:
    text = values[name].strip()
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
        told = f"from {least} on" if most == 10**18 else f"from {least} to {most}"
        raise SettingError(f"--{name}: expected a whole number {told}, got {values[name]!r}")
    return int(text)


def _boolean(values: Mapping[str, str], name: str) -> bool:
    return _one_of(values, name, ("true", "false")) == "true"


def _duration(values: Mapping[str, str], name: str) -> float:
    try:
        return parse_duration(values[name])
    except ValueError as error:
        raise SettingError(f"--{name}: {error}, got {values[name]!r}") from None


def _one_of(values: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    if values[name] not in choices:
        raise SettingError(f"--{name}: expected one of {', '.join(choices)}, got {values[name]!r}")
    return values[name]


def _output(values: Mapping[str, str]) -> str:
    outputs = [output.strip() for output in values["log-outputs"].split(",") if output.strip()]
    if len(outputs) != 1:
        raise SettingError(f"--log-outputs: expected one output, got {values['log-outputs']!r}")
    return "stderr" if outputs[0] == "default" else outputs[0]
