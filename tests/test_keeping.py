"""Nobody's documents vanish while they are wanted, and what was deleted is gone: in memory and in the data folder."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import time
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.belongings import keep_document, remove_documents, remove_everything, remove_old, runs_folder, write_down
from app.documents import memo
from app.documents.document import Limits
from app.documents.holders import Holders
from app.documents.library import DataFolderError, Library, StoredDocument, browser_secret, locked
from app.jobs import InBackground, Job, JobStopped
from app.own_folder import OwnFolder
from app.prompting import PLAIN
from app.reading_places import EVERYBODY, ReadingKey
from app.runtime import Runtime, make_runtime
from app.sample import SAMPLE
from app.session import Pending, Session, SessionStore
from app.settings import read_settings
from selfextend.methods import Vanilla
from selfextend.steps import Progress, result_of

ADA, BOB = "ada-0123456789-0123456789", "bob-0123456789-0123456789"
OPTIONS = ["--no-browser", "--keep-days", "30"]


def text(folder: Path, name: str = "notes.txt", words: str = "The fox jumps.") -> Path:
    path = folder / name
    path.write_text(words)
    return path


def runtime_in(folder: Path, *options: str) -> Runtime:
    return make_runtime(read_settings([*OPTIONS, "--data-folder", str(folder), *options], {}))


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return runtime_in(tmp_path / "data")


def added(runtime: Runtime, visitor: str, path: Path) -> StoredDocument:
    stored = result_of(runtime.library.add_steps(path, path.name, visitor))
    keep_document(runtime, runtime.sessions.get(visitor), stored)
    return stored


def names(session: Session) -> list[str]:
    return [stored.document.name for stored in session.documents]


def kept(store: SessionStore, *visitors: str) -> list[Session]:
    sessions = [store.get(visitor) for visitor in visitors]
    for session in sessions:
        store.keep(session)
    return sessions


# In memory


def test_looking_makes_nobody_go() -> None:
    store = SessionStore(2)
    kept(store, "a", "b")
    for number in range(100):
        store.get(f"page {number}")
    assert len(store) == 2
    assert "a" in store
    assert "b" in store


def test_the_least_recently_used_goes_and_who_has_answers_last() -> None:
    store = SessionStore(2)
    first, second = kept(store, "a", "b")
    first.turns[1] = None  # type: ignore[assignment]
    gone = weakref.ref(second)
    del second
    kept(store, "c")
    gc.collect()
    assert gone() is None
    assert store.get("a") is first


def steps() -> Generator[Progress, None, None]:
    while True:
        yield Progress("working")
        time.sleep(0.01)


def test_who_is_busy_stays() -> None:
    store = SessionStore(2)
    measuring, asking, answered = kept(store, "measures", "asks", "has its answer")
    measuring.measuring.begin()
    work = measuring.measuring.follow(steps())
    next(work)
    asking.pending = Pending("Who?", [], [], None)  # type: ignore[arg-type]
    answered.pending = Pending("Who?", [], [], None, kept=[])  # type: ignore[arg-type]
    del answered
    for number in range(5):
        kept(store, f"other {number}")
    gc.collect()
    assert store.get("measures") is measuring
    assert store.get("asks") is asking
    assert "has its answer" not in store
    store.get("measures").measuring.stop()
    with pytest.raises(JobStopped):
        next(work)
    kept(store, "one more")
    del measuring, work
    kept(store, "and another")
    gc.collect()
    assert "measures" not in store


def test_an_answer_that_nobody_waits_for_keeps_nobody() -> None:
    job = Job()
    job.begin()
    work = InBackground(job.follow(steps()), job, patience=0.2)
    asked = Pending("Who?", [], [], None, work=work)  # type: ignore[arg-type]
    assert asked.is_open
    deadline = time.monotonic() + 10
    while asked.is_open and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not asked.is_open


def test_a_stop_reaches_who_has_gone_from_the_store_but_still_works() -> None:
    store = SessionStore(1)
    (session,) = kept(store, "a")
    session.reading.begin()  # between two files nothing is under way
    kept(store, "b")
    store.get("a").reading.stop()
    with pytest.raises(JobStopped):
        next(session.reading.follow(steps()))


def test_documents_are_found_again_by_who_has_gone(tmp_path: Path) -> None:
    runtime = runtime_in(tmp_path / "data", "--max-visitors", "1")
    added(runtime, ADA, text(tmp_path))
    added(runtime, BOB, text(tmp_path, "other.txt", "The dog sleeps."))
    gc.collect()
    assert ADA not in runtime.sessions
    assert names(runtime.sessions.get(ADA)) == ["notes.txt"]
    again = runtime_in(tmp_path / "data")
    assert names(again.sessions.get(BOB)) == ["other.txt"]


def test_what_is_no_longer_kept_is_named_and_can_be_added_again(runtime: Runtime, tmp_path: Path) -> None:
    stored = added(runtime, ADA, text(tmp_path))
    runtime.sessions.forget(ADA)
    stored.path.unlink()
    session = runtime.sessions.get(ADA)
    assert (names(session), session.missing) == ([], [(stored.document.sha256, "notes.txt")])
    added(runtime, ADA, text(tmp_path))
    assert (names(session), session.missing) == (["notes.txt"], [])


def test_no_turn_gets_the_number_of_one_in_the_conversation() -> None:
    from app.conversation import Entry, Reply

    session = Session("v")
    session.count_from([Entry("Who?", (Reply(7, "vanilla", "A fox."),))])
    assert session.new_id() == 8


# On disk


def test_a_file_of_two_goes_with_the_last_of_them(runtime: Runtime, tmp_path: Path) -> None:
    deleted: list[str] = []
    runtime.library.deleted.append(deleted.append)
    stored = added(runtime, ADA, text(tmp_path))
    added(runtime, BOB, text(tmp_path))
    remove_documents(runtime, runtime.sessions.get(ADA), stored.document.sha256)
    assert stored.path.is_file()
    assert deleted == []
    remove_documents(runtime, runtime.sessions.get(BOB), stored.document.sha256)
    assert list(runtime.library.folder.iterdir()) == []
    assert deleted == [stored.document.sha256]


def test_a_checksum_gives_nobody_what_another_has(runtime: Runtime, tmp_path: Path) -> None:
    """What a browser says that its visitor had is given back where it is nobody's, and else counts as missing."""
    hers = added(runtime, ADA, text(tmp_path)).document.sha256
    sample = added(runtime, ADA[::-1], SAMPLE).document.sha256
    nobodys = result_of(runtime.library.add_steps(text(tmp_path, words="Nobody's."), "b.txt")).document.sha256
    claims = [(hers, "x"), (sample, "sample.pdf"), (nobodys, "b.txt")]
    documents, missing = runtime.library.claimed(claims)
    assert [stored.document.name for stored in documents] == ["sample.pdf", "b.txt"]
    assert missing == [(hers, "x")]
    session = runtime.sessions.get(BOB)
    session.documents, session.missing = documents, missing
    write_down(runtime, session)
    assert session.named == claims[1:] + claims[:1]
    # Nor is it given to him later, when what he has is read from the disk again.
    del session
    runtime.sessions.forget(BOB)
    assert names(runtime.sessions.get(BOB)) == ["sample.pdf", "b.txt"]
    assert names(runtime.sessions.get(ADA)) == ["notes.txt"]


def test_a_page_without_a_visitor_deletes_nothing_of_everybodys(runtime: Runtime) -> None:
    shared = ReadingKey(1, EVERYBODY, (), Vanilla(), PLAIN)
    runtime.caches.get(shared)
    remove_everything(runtime, "")
    assert runtime.caches.held(shared) is not None


def test_prompts_with_a_deleted_document_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(memo, "forget", forgotten.append)
    runtime = runtime_in(tmp_path / "data")
    hers = added(runtime, ADA, text(tmp_path)).document
    remove_documents(runtime, runtime.sessions.get(ADA))
    assert forgotten == [hers.sha256]


def test_documents_of_a_question_by_a_program_count_while_they_are_held(runtime: Runtime, tmp_path: Path) -> None:
    hers = added(runtime, ADA, text(tmp_path))
    before, program = runtime.sessions.characters, Session("api:ada", [hers])
    with runtime.sessions.guest(program):
        assert runtime.sessions.characters == before + hers.document.characters
    assert runtime.sessions.characters == before


def test_the_sample_stays_when_nobody_has_it(runtime: Runtime, tmp_path: Path) -> None:
    added(runtime, ADA, SAMPLE)
    added(runtime, ADA, text(tmp_path))
    assert names(runtime.sessions.get(ADA)) == ["notes.txt"]
    assert len(list(runtime.library.folder.glob("*.pdf"))) == 1


def test_everything_of_one_goes_and_nothing_of_another(runtime: Runtime, tmp_path: Path) -> None:
    for visitor, words in ((ADA, "Hers."), (BOB, "His.")):
        added(runtime, visitor, text(tmp_path, f"{visitor}.txt", words))
        (runs_folder(runtime, visitor) / "run.jsonl").write_text("{}")
        runtime.own.save(visitor, "conversation.md", words)
    session = runtime.sessions.get(ADA)
    session.reading.begin()
    remove_everything(runtime, ADA)
    left = [path for path in tmp_path.joinpath("data").rglob("*") if path.is_file()]
    assert not [path for path in left if "ada" in str(path) or b"Hers." in path.read_bytes()]
    assert len([path for path in left if "bob" in str(path) or b"His." in path.read_bytes()]) == 5
    # What was under way meanwhile keeps nothing.
    keep_document(runtime, session, result_of(runtime.library.add_steps(text(tmp_path), "notes.txt", ADA)))
    assert len(list(runtime.library.folder.glob("*.txt"))) == 1
    assert session.is_busy is False


def test_who_was_not_here_for_long_is_forgotten(runtime: Runtime, tmp_path: Path) -> None:
    old, open_all_the_time = "old-0123456789-0123456789", "open-0123456789-0123456789"
    for number, visitor in enumerate((ADA, old, open_all_the_time)):
        added(runtime, visitor, text(tmp_path, "a.txt", f"Text {number}."))
    (runs_folder(runtime, BOB) / "run.jsonl").write_text("{}")
    (runs_folder(runtime, old) / "run.jsonl").write_text("{}")
    legacy = result_of(runtime.library.add_steps(text(tmp_path, "b.txt", "Of an earlier version."), "b.txt"))
    recent = result_of(runtime.library.add_steps(text(tmp_path, "c.txt", "Of nobody, but new."), "c.txt"))
    month = time.time() - 31 * 24 * 3600
    data = tmp_path / "data"
    for path in (
        *(data / "visitors").glob("o*.json"), *(data / "lab").glob("*"), *(data / "lab").glob("*/*"),
        legacy.path, legacy.path.with_suffix(".json"),
    ):  # fmt: skip
        os.utime(path, (month, month))
    again = runtime_in(data)
    held = again.sessions.get(open_all_the_time)
    remove_old(again)
    assert names(held) == ["a.txt"]
    assert {path.stem for path in (data / "visitors").iterdir()} == {ADA, open_all_the_time}
    assert list((data / "lab").iterdir()) == []
    assert not legacy.path.exists()
    assert recent.path.exists()
    assert len(list(again.library.folder.glob("*.txt"))) == 3


def test_what_an_earlier_version_kept_counts_as_just_seen(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "documents"
    folder.mkdir(parents=True)
    path = text(folder, f"{'a' * 64}.txt")
    os.utime(path, (0, 0))
    remove_old(runtime_in(tmp_path / "data"))
    assert path.is_file()


def test_without_an_end_nothing_is_forgotten(tmp_path: Path) -> None:
    runtime = runtime_in(tmp_path / "data", "--keep-days", "0")
    stored = added(runtime, ADA, text(tmp_path))
    os.utime(next(tmp_path.joinpath("data", "visitors").iterdir()), (0, 0))
    remove_old(runtime_in(tmp_path / "data", "--keep-days", "0"))
    assert stored.path.is_file()


def test_only_the_user_may_open_what_is_kept(tmp_path: Path) -> None:
    data = tmp_path / "data"
    folder = data / "documents"
    folder.mkdir(parents=True)
    text(folder, "of-an-earlier-version.txt")
    runtime = runtime_in(data)
    added(runtime, ADA, text(tmp_path))
    runs_folder(runtime, ADA)
    runtime.own.save(ADA, "run.html", "a")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.rglob("*"))}
    open_to_others = [path for path, mode in modes.items() if path.is_dir() and mode != 0o700]
    assert not open_to_others
    outside = {path: mode for path, mode in modes.items() if path.is_file() and runtime.own.path not in path.parents}
    assert set(outside.values()) == {0o600}


def test_parts_of_a_killed_process_go(tmp_path: Path) -> None:
    data = tmp_path / "data"
    runtime_in(data)
    for place in (data, data / "documents", data / "visitors"):
        text(place, "abc.1234.part")
    runtime_in(data)
    assert list(data.rglob("*.part")) == []


def test_a_document_goes_whose_holder_was_not_written_down_before_the_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """No code of the process runs after this."""

    def killed(*_: Any) -> None:
        raise Killed

    data = tmp_path / "data"
    runtime = runtime_in(data)
    added(runtime, ADA, text(tmp_path, "a.txt"))
    kept = set((data / "documents").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Holders, "put", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for path in (text(tmp_path, "a.txt"), text(tmp_path, "b.txt", "The dog sleeps.")):
            with pytest.raises(Killed):
                added(runtime, BOB, path)
    again = runtime_in(data)
    assert set((data / "documents").iterdir()) == kept
    assert [stored.document.name for stored in again.sessions.get(ADA).documents] == ["a.txt"]


@pytest.mark.parametrize("secret", [b"", b"\xff\x00\xfe", b"short", "ü".encode() * 16])
def test_a_damaged_secret_is_told(tmp_path: Path, secret: bytes) -> None:
    (tmp_path / "browser-secret").write_bytes(secret)
    with pytest.raises(DataFolderError, match=r"browser-secret is damaged: bring it back from a backup, or delete it"):
        browser_secret(tmp_path)


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match=r"cannot be used .*: make it a folder .* --data-folder"):
        Library(text(tmp_path), Limits())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder in which nobody can make anything")
def test_a_folder_that_cannot_be_written_to_ends_the_program_with_a_sentence() -> None:
    command = [sys.executable, "app.py", "--no-browser", "--data-folder", "/proc/explorer"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("The data folder /proc/explorer cannot be used")
    assert len(ended.stderr.splitlines()) == 1


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from app.documents import memo
from app.documents.document import Limits
from app.documents.library import Library, browser_secret
from selfextend.steps import result_of

folder, path, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
secret = browser_secret(folder)
library = Library(folder, Limits())
for again in range(8):
    holder = f"visitor-{number}-{again}-0123456789"
    stored = result_of(library.add_steps(path, path.name, holder))
    assert library.held_by(holder).documents, "it was deleted while it was held"
    library.forget(holder)
print(secret)
"""


def test_two_servers_on_one_folder_take_nothing_from_each_other(tmp_path: Path) -> None:
    """Both add and remove the same file again and again, and make the same secret."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "data"), str(text(tmp_path))]
    running = [
        subprocess.Popen([*command, str(number)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    ended = [each.communicate(timeout=120) for each in running]
    assert [each.returncode for each in running] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    assert list((tmp_path / "data" / "documents").iterdir()) == []


def test_the_lock_is_for_threads_too(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter(number: int) -> bool:
        with locked(tmp_path):
            inside.append(number)
            time.sleep(0.02)
            return inside[-1] == number

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(enter, range(8)))


# Uploads and files to save


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnFolder]:
    folder = OwnFolder(tmp_path / "temporary")
    yield folder
    folder.remove()


def test_a_read_upload_is_deleted_and_remembered(own: OwnFolder, tmp_path: Path) -> None:
    upload, elsewhere = text(own.uploads), text(tmp_path)
    assert own.read_as(upload) == ""
    own.read(upload, "a" * 64)
    own.read(elsewhere, "a" * 64)
    assert not upload.exists()
    assert own.read_as(upload) == "a" * 64
    text(own.uploads)
    assert own.read_as(upload) == ""  # another one in its place
    assert elsewhere.exists()
    assert own.read_as(elsewhere) == ""


def test_what_was_refused_or_broke_off_goes_after_a_while(own: OwnFolder) -> None:
    (own.uploads / "abc").mkdir()
    old, new = text(own.uploads / "abc", "old.txt"), text(own.uploads, "new.txt")
    os.utime(old, (0, 0))
    own.sweep(3600)
    assert not old.exists()
    assert new.exists()


def test_two_saved_files_of_one_name_are_two_and_go_with_their_owner(own: OwnFolder) -> None:
    first, second, other = (Path(own.save(owner, "run.html", words)) for owner, words in ("aa", "ab", "bc"))
    assert first.name == second.name == "run.html"
    assert (first.read_text(), second.read_text()) == ("a", "b")
    own.forget("a")
    assert [path.exists() for path in (first, second, other)] == [False, False, True]
    assert "a" not in first.parts


KILLED = """
import os, sys
from pathlib import Path
from app.own_folder import OwnFolder

own = OwnFolder(Path(sys.argv[1]))
own.save("a", "run.html", "a")
os._exit(1)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(own: OwnFolder, tmp_path: Path) -> None:
    before = set(own.path.parent.iterdir())
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", KILLED, str(own.path.parent)], cwd=root, check=False)
    assert len(set(own.path.parent.iterdir()) - before) == 1
    OwnFolder(own.path.parent).remove()
    assert set(own.path.parent.iterdir()) == before
    assert own.uploads.is_dir()
