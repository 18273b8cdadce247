"""The app's settings: arguments before environment, limits in sensible ranges, errors in a sentence."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from app.settings import Settings, read_settings


def test_defaults_stay_on_this_machine() -> None:
    settings = read_settings([], {})
    assert settings.model == "bundled"
    assert settings.host == "127.0.0.1"
    assert settings.persist
    assert settings.browser
    assert not settings.mcp
    assert settings.auth == ()


def test_environment_sets_what_arguments_do_not() -> None:
    environment = {
        "SELFEXTEND_MODEL": "owner/name",
        "SELFEXTEND_PORT": "8000",
        "SELFEXTEND_PERSIST": "0",
        "SELFEXTEND_MCP": "1",
        "SELFEXTEND_CACHE_MB": "250",
        "SELFEXTEND_DATA_FOLDER": "/data",
    }
    settings = read_settings(["--port", "9000", "--no-mcp"], environment)
    assert settings.model == "owner/name"
    assert settings.port == 9000
    assert not settings.persist
    assert not settings.mcp
    assert settings.cache_bytes == 250_000_000
    assert str(settings.data_folder) == "/data"


def test_several_accounts() -> None:
    assert read_settings(["--auth", "ada:one,bob:t:wo"], {}).auth == (("ada", "one"), ("bob", "t:wo"))


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--port", "70000"], {}, "--port must be"),
        (["--quantization", "int3"], {}, "--quantization must be"),
        (["--auth", "ada"], {}, "user:password"),
        (["--host", "0.0.0.0"], {}, "say who may come in with --auth"),
        (["--host", "192.168.1.5"], {}, "or that everybody may with --no-auth"),
        (["--auth", "ada:one", "--no-auth"], {}, "contradict each other"),
        (["--auth", "ada:one", "--mcp"], {}, "--mcp has no log-in"),
        (["--auth", "ada:one", "--admins", "bob"], {}, "names bob, whom --auth does not"),
        (["--log", "all"], {}, "--log must be"),
        (["--upload-mb", "0"], {}, "--upload-mb must be above 0"),
        (["--cache-mb", "0"], {}, "--cache-mb must be above 0"),
        (["--max-pages", "-1"], {}, "--max-pages must be above 0"),
        (["--max-characters", "0"], {}, "--max-characters must be above 0"),
        ([], {"SELFEXTEND_MCP": "maybe"}, "SELFEXTEND_MCP must be 1 or 0"),
        ([], {"SELFEXTEND_PORT": "many"}, "invalid int value"),
        (["--shar"], {}, "unrecognized arguments"),
    ],
)
def test_nonsense_ends_with_a_sentence(
    arguments: list[str], environment: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_settings(arguments, environment)
    assert words in capsys.readouterr().err


# Where a field is called otherwise than its option.
_OPTIONS = {
    "cache_bytes": "cache_mb", "max_file_bytes": "max_file_mb", "models_folders": "models_folder",
    "reading_bytes": "reading_mb", "evidence_bytes": "evidence_mb", "upload_bytes": "upload_mb",
}  # fmt: skip


def test_help_lists_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(["--help"], {})
    text = capsys.readouterr().out
    for field in fields(Settings):
        name = _OPTIONS.get(field.name, field.name)
        assert f"--{name.replace('_', '-')}" in text


def test_the_environment_does_the_same_as_the_arguments() -> None:
    values = {
        "model": "owner/name", "quantization": "int8", "device": "cuda:1", "host": "0.0.0.0", "port": "8123",
        "auth": "ada:one", "data-folder": "/data", "cache-mb": "250", "max-file-mb": "7", "max-pages": "9",
        "max-characters": "70", "max-all-characters": "80", "evidence-mb": "90",
        "read-seconds": "3", "max-visitors": "2", "models-folder": "/models", "admins": "ada", "upload-mb": "5",
        "trusted-hosts": "a.example,b.example", "log": "requests", "keep-days": "7", "reading-mb": "6",
    }  # fmt: skip
    switches = {"persist": False, "read-ahead": False, "browser": False, "offline": True, "share-reading": True}
    arguments = [word for name, value in values.items() for word in (f"--{name}", value)]
    arguments += [f"--{name}" if on else f"--no-{name}" for name, on in switches.items()]
    given_so = {**values, **{name: str(int(on)) for name, on in switches.items()}}
    environment = {f"SELFEXTEND_{name.upper().replace('-', '_')}": value for name, value in given_so.items()}
    given = read_settings(arguments, {})
    assert given == read_settings([], environment)
    standard = read_settings([], {})
    # --mcp and --no-auth do not go with accounts.
    others = [field.name for field in fields(Settings) if field.name not in ("mcp", "no_auth")]
    assert all(getattr(given, name) != getattr(standard, name) for name in others)
    assert read_settings(["--mcp", "--no-auth"], {}) == read_settings(
        [], {"SELFEXTEND_MCP": "1", "SELFEXTEND_NO_AUTH": "1"}
    )


def test_several_folders_with_models() -> None:
    given = read_settings(["--models-folder", os.pathsep.join(["/a", "/b"])], {})
    assert given.models_folders == (Path("/a"), Path("/b"))


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.0.0.2", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_who_is_the_operator(host: str, local: bool) -> None:
    assert read_settings(["--host", host, "--no-auth"], {}).local_only is local


def test_a_password_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"SELFEXTEND_AUTH": "ada:hunter2"}
    with pytest.raises(SystemExit):
        read_settings(["--help"], environment)
    settings = read_settings(["--host", "0.0.0.0", "--admins", "ada"], environment)
    assert "hunter2" not in capsys.readouterr().out + repr(settings)
    assert settings.auth == (("ada", "hunter2"),)
    assert settings.admins == ("ada",)
