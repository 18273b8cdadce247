"""Thirty visitors of one server: each opens the page over HTTP, adds a class's handout of sixteen thousand tokens and a
document of his own with a code in it, and asks about both by turns, as the page's own script would.

    python -m benchmarks.visitors                       # thirty visitors, five minutes
    python -m benchmarks.visitors --tree ../other       # the same of another checkout, from before a change, say
    python -m benchmarks.visitors --evidence-mb 100     # other options go to app.py

Prints how long the first token takes, from the click on, answers that hold another visitor's code, errors, and the
server's memory. Wants an idle machine: the visitors themselves need little, and the server all of it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from gradio_client.utils import apply_diff

from benchmarks.serving import ROOT, served
from selfextend.config import suggest
from training.documents import held_out
from training.pdf import plain_pages

TRAINED_WINDOW, NEIGHBOR_WINDOW = 512, 128
"""Of the bundled model, whose page has no better settings before its script has run."""
LENGTH, NEW_TOKENS = 18_500, 24
OWN_PAGES = 2
OWN_QUESTION = "What is the access code of the Ironbridge kitchen?"
LOOK_SECONDS = 2.0
WAIT_SECONDS = 600.0


@dataclass
class Results:
    """What all visitors saw. Lists grow from many threads, which is safe.

    Attributes:
        first_tokens: seconds from the question to the first token, by kind of question.
        right, answers: how many answers held what was asked for, and how many there were, by kind of question.
        foreign: answers that held another visitor's code.
        places: updates that told a visitor the place in the line.
        memory: the server's, as (seconds, bytes).
    """

    first_tokens: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"handout": [], "own": []})
    right: dict[str, int] = field(default_factory=lambda: {"handout": 0, "own": 0})
    answers: dict[str, int] = field(default_factory=lambda: {"handout": 0, "own": 0})
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    places: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)


class Page:
    """As much of a browser as the page needs: it sends the events that a person's clicks send.

    Args:
        number: of the visitor, who has an address of his own on this machine.
    """

    def __init__(self, address: str, number: int) -> None:
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{number + 2}", retries=1)
        self.http = httpx.Client(base_url=address, transport=transport, timeout=httpx.Timeout(WAIT_SECONDS))
        self.session = f"visitor{number}{random.random()}"
        self.config: dict[str, Any] = self.http.get("/config").json()
        self.parts = {part["id"]: part for part in self.config["components"]}
        self.events = {event["id"]: event for event in self.config["dependencies"]}

    def close(self) -> None:
        """Leave."""
        self.http.close()

    def event(self, part: str | None, name: str) -> dict[str, Any]:
        """The event of the part with this id in the page; of the page itself for None."""
        for event in self.events.values():
            for target, trigger in event["targets"]:
                named = self.parts[target]["props"].get("elem_id") if target in self.parts else None
                if trigger == name and named == part and (part or self._reads_browser(event)):
                    return event
        raise LookupError(f"The page has no event {name} of {part}.")

    def _reads_browser(self, event: dict[str, Any]) -> bool:
        return [self.parts[part]["type"] for part in event["inputs"]] == ["browserstate"]

    def after(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event that answers what another has begun."""
        return next(e for e in self.events.values() if e.get("trigger_after") == event["id"] and len(e["inputs"]) > 9)

    def send(self, event: dict[str, Any], **given: Any) -> Iterator[dict[str, Any]]:
        """Have an event answered. Yields what the page's parts become, by their ids or types, again and again.

        Args:
            given: values of inputs by their ids, "-" written as "_"; the others have those of a new page.
        """
        data = [self._value(part, given) for part in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "event_data": None}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        shown: list[Any] = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] not in ("process_generating", "process_completed"):
                    continue
                if not message["success"]:
                    raise RuntimeError(f"an event failed: {message['output'].get('error')}")
                data = message["output"].get("data") or []
                if message["msg"] == "process_generating" and shown:
                    data = [apply_diff(before, diff) for before, diff in zip(shown, data, strict=True)]
                shown = data or shown
                yield {self._name(part): value for part, value in zip(event["outputs"], shown, strict=False)}
                if message["msg"] == "process_completed":
                    return

    def _name(self, part: int) -> str:
        return str(self.parts[part]["props"].get("elem_id") or self.parts[part]["type"])

    def _value(self, part: int, given: dict[str, Any]) -> Any:
        name = self._name(part).replace("-", "_")
        if name in given:
            return given[name]
        return None if self.parts[part]["type"] in ("state", "browserstate") else self.parts[part]["props"].get("value")

    def upload(self, path: Path) -> dict[str, Any]:
        """Send a file. What the server calls it."""
        with path.open("rb") as file:
            found = self.http.post("/gradio_api/upload", files={"files": (path.name, file)}).raise_for_status().json()
        return {"path": found[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def add(self, path: Path) -> None:
        """Add a document."""
        *_, last = self.send(self.event("upload", "upload"), upload=[self.upload(path)])
        if "alert" in str(last.get("documents-status")):
            raise RuntimeError(f"a document was refused: {last['documents-status']}")


def visitor(number: int, address: str, files: tuple[Path, Path], codes: list[str], work: Work) -> None:
    """One visitor, until the time is over."""
    random_ = random.Random(number)
    page = Page(address, number)
    try:
        list(page.send(page.event(None, "load")))
        for path in files:
            page.add(path)
        while not work.over:
            kind = random_.choice(("handout", "own"))
            record = random_.choice(work.questions) if kind == "handout" else None
            text = record["question"] if record else OWN_QUESTION
            wanted = record["value"] if record else codes[number]
            answer = ask(page, text, kind, work)
            work.results.right[kind] += wanted in answer
            work.results.answers[kind] += 1
            others = [code for place, code in enumerate(codes) if place != number and code in answer]
            work.results.foreign += [f"visitor {number} was told {code}" for code in others]
            time.sleep(random_.expovariate(1 / work.pause))
    except Exception as error:
        work.results.errors.append(f"visitor {number}: {type(error).__name__}: {error}")
    finally:
        page.close()


@dataclass
class Work:
    """What the visitors have in common. `ends`, `began`: on the monotonic clock; `pause`: mean seconds of thinking."""

    questions: list[dict[str, Any]]
    pause: float
    began: float
    ends: float
    results: Results

    @property
    def over(self) -> bool:
        """Whether nobody is to ask any more."""
        return time.monotonic() > self.ends


def ask(page: Page, text: str, kind: str, work: Work) -> str:
    """Ask, and take the time. Returns what the visitor sees of the answer."""
    settings = suggest(TRAINED_WINDOW, LENGTH, neighbor_window=NEIGHBOR_WINDOW)
    asked, first = time.monotonic(), 0.0
    begin = page.event("send", "click")
    list(page.send(begin, question=text))
    last: dict[str, Any] = {}
    controls = {"group_size": settings.group_size, "neighbor_window": NEIGHBOR_WINDOW, "max_new_tokens": NEW_TOKENS}
    for last in page.send(page.after(begin), **controls):
        told = str(last["chat"]) + str(last["chat-status"])
        work.results.places += "ahead of this one" in told
        if not first and "nswering: " in told:
            first = time.monotonic()
    if 'role="alert"' in str(last.get("chat-status")):
        raise RuntimeError(f"refused: {last['chat-status']}")
    work.results.first_tokens[kind].append((asked - work.began, (first or time.monotonic()) - asked))
    return json.dumps(last["chat"][-1], ensure_ascii=False)


def watch_memory(port: int, work: Work, ended: threading.Event) -> None:
    """Note what the server and its children have in memory, every few seconds."""
    processes = [p for p in psutil.Process().children(recursive=True) if str(port) in p.cmdline()]
    while not ended.wait(LOOK_SECONDS):
        total = 0
        for process in processes:
            for one in (process, *process.children(recursive=True)):
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
        work.results.memory.append((time.monotonic() - work.began, total))


def documents(folder: Path, count: int) -> tuple[Path, list[dict[str, Any]], list[Path], list[str]]:
    """The handout, its questions, each visitor's own document, and the code in each."""
    handout, questions = folder / "handout.pdf", folder / "questions.json"
    held_out(handout, questions)
    pages = plain_pages(handout)
    random_ = random.Random(1)
    codes = [str(code) for code in random_.sample(range(10_000, 100_000), count)]
    while any(code in " ".join(pages) for code in codes):
        codes = [str(code) for code in random_.sample(range(10_000, 100_000), count)]
    own = []
    for number, code in enumerate(codes):
        path = folder / f"own{number}.txt"
        sentence = f"Please note that the access code of the Ironbridge kitchen is {code}."
        chosen = random_.sample(pages, OWN_PAGES)
        path.write_text("\n\n".join([chosen[0], sentence, *chosen[1:]]), encoding="utf-8")
        own.append(path)
    return handout, json.loads(questions.read_text(encoding="utf-8")), own, codes


def ask_endpoint(page: Page, question: str, files: list[Any], new_tokens: int) -> dict[str, Any]:
    """What `/ask` answers, as a program calls it."""
    data = [question, files, 0, 0, "SelfExtend", new_tokens]
    begun = page.http.post("/gradio_api/call/ask", json={"data": data}).raise_for_status().json()
    with page.http.stream("GET", f"/gradio_api/call/ask/{begun['event_id']}") as stream:
        lines = [line for line in stream.iter_lines() if line]
    if "event: complete" not in lines:
        raise RuntimeError(f"/ask failed: {lines}")
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix("data:"))[0]
    return answer


def wait_for_model(address: str) -> None:
    """Until a question is answered."""
    page = Page(address, 0)
    ask_endpoint(page, "?", ["data:text/plain;base64,YQ=="], 1)
    page.close()


def run(options: argparse.Namespace, folder: Path) -> Results:
    """Serve, let the visitors in, and wait for them."""
    handout, questions, own, codes = documents(folder, options.visitors)
    server = [sys.executable, "app.py", "--no-browser", "--no-read-ahead", "--data-folder", str(folder / "data")]
    server += ["--max-visitors", str(options.visitors + 8)]
    environment = {"PYTHONPATH": str(options.tree)}
    known = subprocess.run(
        [sys.executable, "app.py", "--help"], cwd=options.tree, capture_output=True, text=True, check=True
    )
    if options.share and "--share-reading" in known.stdout:
        server.append("--share-reading")
    server += options.server
    ports: list[int] = []

    def command(port: int) -> list[str]:
        ports.append(port)
        return [*server, "--port", str(port)]

    with served(command, environment, folder=options.tree) as address:
        wait_for_model(address)
        began = time.monotonic()
        work = Work(questions, options.pause, began, began + 60 * options.minutes, Results())
        ended = threading.Event()
        watching = threading.Thread(target=watch_memory, args=(ports[0], work, ended))
        watching.start()
        threads = [
            threading.Thread(target=visitor, args=(number, address, (handout, own[number]), codes, work), daemon=True)
            for number in range(options.visitors)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60 * options.minutes + WAIT_SECONDS)
            if thread.is_alive():
                work.results.errors.append("a visitor was never answered")
        ended.set()
        watching.join()
        return work.results


def report(results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """The figures, by name."""

    def spread(values: list[float]) -> dict[str, float]:
        if not values:
            return {"n": 0}
        ordered = sorted(values)
        late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return {"n": len(values), "median": round(statistics.median(values), 2), "p95": round(late, 2)}

    both = [pair for pairs in results.first_tokens.values() for pair in pairs]
    half = 60 * options.minutes / 2
    by_minute: dict[int, list[int]] = {}
    for at, total in results.memory:
        by_minute.setdefault(int(at // 60), []).append(total)
    return {
        "visitors": options.visitors,
        "minutes": options.minutes,
        "questions": sum(results.answers.values()),
        "first_token_seconds": spread([seconds for _, seconds in both]),
        "first_token_seconds_second_half": spread([seconds for at, seconds in both if at > half]),
        "first_token_seconds_by_kind": {
            kind: spread([seconds for _, seconds in pairs]) for kind, pairs in results.first_tokens.items()
        },
        "right": {kind: f"{results.right[kind]} of {results.answers[kind]}" for kind in results.answers},
        "foreign_codes": results.foreign,
        "errors": results.errors,
        "updates_with_a_place_in_the_line": results.places,
        "memory_mb_by_minute": [round(statistics.median(totals) / 1e6) for totals in by_minute.values()],
        "memory_mb_at_most": round(max((total for _, total in results.memory), default=0) / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--pause", type=float, default=10, help="seconds that a visitor thinks on average")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose app is served")
    share = argparse.BooleanOptionalAction
    parser.add_argument("--share", action=share, default=True, help="serve with --share-reading")
    options, server = parser.parse_known_args()
    options.server = server
    options.tree = options.tree.resolve()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(report(run(options, Path(folder)), options), indent=1))


if __name__ == "__main__":
    main()
