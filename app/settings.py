"""The app's settings, from command-line arguments and environment variables, read once and never changed.

Each argument `--some-name` may also be given as `SELFEXTEND_SOME_NAME` in the environment; the argument wins.
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from selfextend.loading.hardware import AskedQuantization

Log = Literal["problems", "requests", "texts"]
PREFIX = "SELFEXTEND_"
QUANTIZATIONS: tuple[AskedQuantization, ...] = ("auto", "none", "int8", "nf4")
LOGS: tuple[Log, ...] = ("problems", "requests", "texts")
_ABOVE_ZERO = (
    "cache-mb", "evidence-mb", "max-file-mb", "max-pages", "max-characters", "max-all-characters", "read-seconds",
    "max-visitors", "upload-mb",
)  # fmt: skip
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


class Hidden(str):
    """A text that is printed as stars."""

    def __str__(self) -> str:
        return "***" if len(self) else ""


@dataclass(frozen=True)
class Settings:
    """What the app was started with.

    Attributes:
        model: "bundled", a local folder or GGUF file, or a hub id.
        models_folders: where to look for more models than the usual places have.
        quantization: "none", "int8", "nf4", or "auto": nf4 on a GPU for a hub model or a GGUF file, else none.
        device: "auto", "cpu", "cuda", "cuda:0", "mps".
        host, port: where to listen. Port 0 takes the first free one from 7860 on.
        auth: (user, password) pairs that may come in; empty lets everybody in.
        no_auth: let everybody in, from other machines too.
        admins: accounts that may load models; besides them, who sits at this machine may.
        trusted_hosts: names by which this server is reached besides its own, through a proxy for one.
        offline: ask nothing of the hub.
        data_folder: where documents and the browser's secret are kept.
        persist: whether conversation, settings and documents outlive a reload and a restart.
        read_ahead: read the sample as soon as the bundled model is ready.
        mcp: serve the API to MCP clients too.
        browser: open a browser window when ready.
        cache_bytes: what the keys and values of all visitors' documents may hold together.
        evidence_bytes: what the attention records and prompts of all visitors' answers may hold together.
        reading_bytes: what the files of what was read may hold together; 0 keeps none.
        share_reading: whether visitors who ask about the same documents in the same way share what was read.
        max_file_bytes, max_pages: of one uploaded file.
        max_characters, max_all_characters: of the text of one visitor's documents together, and of everybody's.
        read_seconds: for reading one file.
        max_visitors: whose documents and evidence are kept in memory at a time.
        keep_days: days after which what is kept of a visitor who was not here again is deleted; 0: never.
        upload_bytes: what one visitor may upload in an hour.
        log: what is written to stderr: problems; each request too; or the words of errors too, which may quote texts.
    """

    model: str
    models_folders: tuple[Path, ...]
    quantization: AskedQuantization
    device: str
    host: str
    port: int
    auth: tuple[tuple[str, str], ...] = field(repr=False)
    no_auth: bool
    admins: tuple[str, ...]
    trusted_hosts: frozenset[str]
    offline: bool
    data_folder: Path
    persist: bool
    read_ahead: bool
    mcp: bool
    browser: bool
    cache_bytes: int
    evidence_bytes: int
    reading_bytes: int
    share_reading: bool
    max_file_bytes: int
    max_pages: int
    max_characters: int
    max_all_characters: int
    read_seconds: float
    max_visitors: int
    keep_days: float
    upload_bytes: int
    log: Log

    @property
    def local_only(self) -> bool:
        """Whether only this machine can open the page, so that whoever does is its operator."""
        return is_this_machine(self.host)


def is_this_machine(name: str) -> bool:
    """Whether an address or a name leads to this machine itself, and to no other."""
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def default_data_folder() -> Path:
    """The user's own data folder, as the operating system has it."""
    from platformdirs import user_data_path

    return user_data_path("selfextend-explorer", appauthor=False)


def read_settings(
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    program: str = "python app.py",
) -> Settings:
    """The settings of this run; ends the program with a sentence where they make no sense.

    Args:
        arguments: without the program's name; those of this process unless given.
        environment: this process's unless given.
        program: its name in `--help` and in what is said of arguments that make no sense.
    """
    parser = _parser(os.environ if environment is None else environment, program)
    given = vars(parser.parse_args(arguments))
    try:
        given["auth"] = _accounts(given["auth"])
        for name in _ABOVE_ZERO:
            value = given[name.replace("-", "_")]
            if not value > 0:
                raise ValueError(f"--{name} must be above 0, not {value:g}.")
        if not 0 <= given["keep_days"] < math.inf:
            raise ValueError(f"--keep-days must be 0 (for ever) or more, not {given['keep_days']:g}.")
        if not given["reading_mb"] >= 0:
            raise ValueError(f"--reading-mb must be 0 (keep none) or more, not {given['reading_mb']:g}.")
        if not 0 <= given["port"] <= 65535:
            raise ValueError(f"--port must be 0 (any free one) to 65535, not {given['port']}.")
        if given["quantization"] not in QUANTIZATIONS:
            raise ValueError(f"--quantization must be {', '.join(QUANTIZATIONS)}; not {given['quantization']!r}.")
        if given["log"] not in LOGS:
            raise ValueError(f"--log must be {', '.join(LOGS)}; not {given['log']!r}.")
        given["admins"] = _names(given["admins"])
        given["trusted_hosts"] = frozenset(host.lower() for host in _names(given["trusted_hosts"]))
        _check_who_comes_in(given)
    except ValueError as error:
        parser.error(str(error))
    folder = given["data_folder"]
    given["data_folder"] = Path(folder).expanduser() if folder else default_data_folder()
    folders = filter(None, given.pop("models_folder").split(os.pathsep))
    given["models_folders"] = tuple(Path(folder).expanduser() for folder in folders)
    given["cache_bytes"] = int(given.pop("cache_mb") * 1e6)
    given["evidence_bytes"] = int(given.pop("evidence_mb") * 1e6)
    given["reading_bytes"] = int(given.pop("reading_mb") * 1e6)
    given["max_file_bytes"] = int(given.pop("max_file_mb") * 1e6)
    given["upload_bytes"] = int(given.pop("upload_mb") * 1e6)
    return Settings(**given)


class _Options:
    """Adds options to a parser, each with its default from the environment where it is set there."""

    def __init__(self, parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
        self.parser, self._environment = parser, environment

    def from_environment(self, name: str, default: object) -> object:
        return self._environment.get(PREFIX + name.upper().replace("-", "_"), default)

    def option(self, name: str, default: object, text: str, **more: Any) -> None:
        self.parser.add_argument(f"--{name}", default=self.from_environment(name, default), help=text, **more)

    def truth(self, name: str, default: bool, text: str, action: Any) -> None:
        try:
            value = _truth(name, self.from_environment(name, default))
        except ValueError as error:
            self.parser.error(str(error))
        self.parser.add_argument(f"--{name}", default=value, action=action, help=text)

    def switch(self, name: str, default: bool, text: str) -> None:
        self.truth(name, default, text, argparse.BooleanOptionalAction)


def _parser(environment: Mapping[str, str], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Chat over long documents with SelfExtend, and see what the model looked at.",
        epilog=f"Every option may also be set in the environment: --cache-mb 500 is {PREFIX}CACHE_MB=500.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    options = _Options(parser, environment)
    _add_model(options)
    _add_access(options)
    _add_limits(options)
    _add_visitors(options)
    return parser


def _add_model(options: _Options) -> None:
    options.option("model", "bundled", "'bundled', a folder, a GGUF file, or a hub id: owner/name or owner/name:Q4_K_M")
    options.option(
        "models-folder",
        "",
        f"where to look for more models for the menu; several with {os.pathsep!r} between them",
    )
    options.option(
        "quantization", "auto", "none, int8, nf4, or auto: nf4 on a GPU for a hub model or a GGUF file, else none"
    )
    options.option("device", "auto", "auto, cpu, cuda, cuda:0 or mps")


def _add_access(options: _Options) -> None:
    """Where to listen, and who may come in."""
    options.option(
        "host", "127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in, and wants --auth or --no-auth"
    )
    options.option("port", 0, "port to listen on; 0 takes the first free one from 7860 on", type=int)
    # Its default may be a password in the environment, which --help is not to print.
    options.parser.add_argument(
        "--auth",
        default=Hidden(str(options.from_environment("auth", ""))),
        help="user:password that may come in; several with commas between them. Other users of this machine see "
        f"arguments: rather set {PREFIX}AUTH",
    )
    options.truth("no-auth", False, "let everybody in, from other machines too", action="store_true")
    options.option(
        "admins", "", "users who may load models, with commas between them, besides who sits at this machine"
    )
    options.option(
        "trusted-hosts", "", "names by which this server is reached through a proxy, with commas between them"
    )


def _add_limits(options: _Options) -> None:
    """What is kept where, and how much may be uploaded and read."""
    options.switch("offline", False, "ask nothing of the Hugging Face hub")
    options.option(
        "data-folder", "", "where documents and the browser's secret are kept; the user's data folder unless given"
    )
    options.option("cache-mb", 4000, "megabytes of keys and values kept for all visitors together", type=float)
    options.option("evidence-mb", 1000, "megabytes kept to look into the answers of all visitors together", type=float)
    options.option(
        "reading-mb", 4000, "megabytes on disk for what was read, for after a restart; 0 keeps none", type=float
    )
    options.option("max-file-mb", 200, "largest file that may be uploaded, megabytes", type=float)
    options.option("max-pages", 2000, "most pages of one file", type=int)
    options.option("max-characters", 10_000_000, "most characters of one visitor's documents together", type=int)
    options.option("max-all-characters", 200_000_000, "most characters of everybody's documents together", type=int)
    options.option("read-seconds", 120, "longest time for reading one file", type=float)
    options.option("upload-mb", 2000, "megabytes that one visitor may upload in an hour", type=float)


def _add_visitors(options: _Options) -> None:
    """What is kept of visitors and done for them."""
    options.option(
        "log", "problems", "what to log: problems, requests, or texts (the words of errors, which may quote documents)"
    )
    options.option("max-visitors", 32, "visitors whose documents and evidence are kept in memory", type=int)
    options.option(
        "keep-days", 30, "days to keep what visitors have here after they were last seen; 0: for ever", type=float
    )
    options.switch("persist", True, "keep conversation, settings and documents over a reload and a restart")
    options.switch(
        "share-reading",
        False,
        "visitors who ask about the same documents with the same settings share what was read: for a class and its "
        "handout. How fast an answer comes then tells that somebody has asked about that file before",
    )
    options.switch(
        "read-ahead", True, "read the sample as soon as the bundled model is ready, for a first answer at once"
    )
    options.switch("mcp", False, "serve the API to MCP clients too")
    options.switch("browser", True, "open a browser window when ready")


def _truth(name: str, value: object) -> bool:
    word = str(value).strip().lower()
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError(f"{PREFIX}{name.upper()} must be 1 or 0, not {value!r}.")


def _accounts(text: str) -> tuple[tuple[str, str], ...]:
    accounts = []
    for part in filter(None, text.split(",")):
        user, colon, password = part.partition(":")
        if not (user and colon and password):
            raise ValueError("--auth must be user:password, several with commas between them.")
        accounts.append((user, password))
    return tuple(accounts)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _check_who_comes_in(given: Mapping[str, Any]) -> None:
    """Raises ValueError where it is not said, or not clear, who may come in and who may load models."""
    if not is_this_machine(given["host"]) and not given["auth"] and not given["no_auth"]:
        raise ValueError(
            f"--host {given['host']} lets other machines in: say who may come in with --auth user:password (or "
            f"{PREFIX}AUTH in the environment), or that everybody may with --no-auth."
        )
    if given["auth"] and given["no_auth"]:
        raise ValueError("--auth and --no-auth contradict each other: leave one of them out.")
    if given["auth"] and given["mcp"]:
        raise ValueError("--mcp has no log-in, so it does not go with --auth: leave one of them out.")
    if unknown := set(given["admins"]) - {user for user, _ in given["auth"]}:
        raise ValueError(f"--admins names {', '.join(sorted(unknown))}, whom --auth does not.")
