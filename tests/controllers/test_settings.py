"""Where settings come from, what is said of bad ones, and the page that tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from controllers.settings import DESCRIBED, SettingError, Settings, page

PAGE = Path(__file__).parent.parent.parent / "docs" / "settings.md"


def in_file(directory: Path, text: str) -> str:
    file = directory / "settings.yaml"
    file.write_text(text)
    return str(file)


def test_argument_then_environment_then_file_then_default(tmp_path: Path) -> None:
    environ = {"LISTWATCH_CONFIG": in_file(tmp_path, "workers: 2\nstop_timeout: 2\nconnect_timeout: 2\n")}
    environ |= {"LISTWATCH_WORKERS": "3", "LISTWATCH_STOP_TIMEOUT": "3", "LISTWATCH_SYNC_TIMEOUT": ""}
    found = Settings.load(environ=environ, workers=4, stop_timeout=None)
    assert (found.workers, found.stop_timeout, found.connect_timeout, found.sync_timeout) == (4, 3.0, 2.0, 120.0)
    assert Settings.load(environ={}) == Settings()


def test_a_file_that_is_named_is_taken_instead_of_the_environments(tmp_path: Path) -> None:
    file = in_file(tmp_path, "workers: 7\n")
    assert Settings.load(file, {"LISTWATCH_CONFIG": "/nowhere"}).workers == 7
    assert Settings.load(in_file(tmp_path, "# nothing yet\n"), {}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("stop_timeout", "soon", "a number of seconds, at least 0"),
        ("stop_timeout", "-1", "a number of seconds, at least 0"),
        ("sync_timeout", "0", "a number of seconds above 0"),
        ("sync_timeout", "inf", "a number of seconds above 0"),
        ("sync_timeout", "nan", "a number of seconds above 0"),
        ("workers", "1.5", "a whole number of keys at a time, at least 1"),
        ("workers", "0", "a whole number of keys at a time, at least 1"),
    ],
)
def test_a_bad_value_is_one_line_with_its_source(name: str, value: str, expected: str) -> None:
    variable = f"LISTWATCH_{name.upper()}"
    with pytest.raises(SettingError) as raised:
        Settings.load(environ={variable: value})
    assert str(raised.value) == f"{name} ({variable}): expected {expected}, got {value!r}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workers: '3'", "workers (FILE): expected a whole number of keys at a time, at least 1, got '3'"),
        ("workers: true", "workers (FILE): expected a whole number of keys at a time, at least 1, got True"),
        ("http: 8080", "http (FILE): expected text, got 8080"),
        ("worker: 3", "worker (FILE): there is no such setting, did you mean workers?"),
        ("- workers", "LISTWATCH_CONFIG FILE: expected `name: value` lines"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = in_file(tmp_path, text)
    with pytest.raises(SettingError) as raised:
        Settings.load(environ={"LISTWATCH_CONFIG": file})
    assert str(raised.value).replace(file, "FILE") == told


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^--config .*/none.yaml: No such file or directory$"):
        Settings.load(tmp_path / "none.yaml", {})
    with pytest.raises(SettingError, match=r"^--config .*/settings.yaml: not YAML: [^\n]*$"):
        Settings.load(in_file(tmp_path, "a: [1,\nb"), {})
    with pytest.raises(SettingError, match="larger than 1048576 bytes"):
        Settings.load(in_file(tmp_path, "#" * 1048577), {})


def test_values_that_do_not_go_together_tell_where_they_are_from() -> None:
    with pytest.raises(SettingError) as raised:
        Settings.load(environ={"LISTWATCH_LEASE_SECONDS": "5"}, workers=2)
    assert str(raised.value) == (
        "lease_seconds > lease_renew_deadline > 1.2 * lease_retry_period must hold, got 5, 10 and 2 "
        "(lease_seconds from LISTWATCH_LEASE_SECONDS)"
    )
    with pytest.raises(SettingError, match="queue_base_delay must not be above queue_max_delay, got 2 and 1"):
        Settings(queue_base_delay=2, queue_max_delay=1)


def test_variables_that_are_no_setting_are_one_warning() -> None:
    environ = {"LISTWATCH_WORKER": "3", "LISTWATCH_ZZZ": "", "LISTWATCH_STORE": "data", "OTHER": "x"}
    environ["LISTWATCH_COMPLETION_TIMEOUT"] = "3"  # the shell completion's
    with structlog.testing.capture_logs() as logs:
        found = Settings.load(environ=environ)
    assert (found.workers, found.store) == (1, "data")
    assert logs == [
        {
            "event": "settings_unknown",
            "log_level": "warning",
            "variables": ["LISTWATCH_WORKER", "LISTWATCH_ZZZ"],
            "hint": "did you mean LISTWATCH_WORKERS?",
        }
    ]


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(SettingError, match=r"^workerz \(argument\): there is no such setting, did you mean workers\?$"):
        Settings.load(environ={}, workerz=3)


def test_every_setting_has_a_unit_or_is_text_and_a_reason() -> None:
    for name, (kind, setting) in DESCRIBED.items():
        assert setting.reason.endswith("."), name
        assert setting.unit or kind is str, name


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "stale: python -m controllers.settings > docs/settings.md"
