"""The token index against a byte-by-byte oracle, on any text and on tokenizers of several kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from app.documents import memo
from app.documents.document import PAGE_SEPARATOR, Document, Page
from app.documents.encoding import encode
from app.documents.index import Passage, TokenIndex, find_documents
from app.documents.memo import document_tokens, token_index
from app.documents.passages import MAX_PASSAGE, MIN_PASSAGE, split_passages

CORPUS = [
    "The keeper wrote every evening. How many lamps were burning?\n\nThe old boats  had come home.\n",
    "    def lamp(count):\n        return count + 1\n\n\n   # naïve café, 東京の灯台, 👩‍🚀🚀 Ωμέγα\n",
] * 20


def byte_level(trim_offsets: bool, normalizer: str | None = None, template: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama-3 and Qwen have it, with few merges, so that characters split."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    # No splitting into words: tokens may hold blanks before and behind, and cross lines.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*\S+ ?|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    trim = processors.ByteLevel(trim_offsets=trim_offsets)
    added = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer.post_processor = processors.Sequence([trim, added]) if template else trim
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama-2 has it: ▁ for blanks, bytes for unknown characters, an extra blank at the front."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", *(f"<0x{b:02X}>" for b in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TRIMMED = byte_level(trim_offsets=True)
EXACT = {
    "trimmed offsets": TRIMMED,
    "untrimmed offsets": byte_level(trim_offsets=False),
    "with <s> and </s>": byte_level(trim_offsets=True, template=True),
}
ROUGH = {"NFC": byte_level(trim_offsets=True, normalizer="NFC"), "metaspace": metaspace()}

PIECES = st.sampled_from(
    [
        "👩‍🚀",
        "🇫🇷",
        "e\u0301",
        "한",
        "각",
        "東京",
        " ",
        "  ",
        "\n",
        "\n  ",
        "lamp ",
        ". ",
        "Ġ",
        "<|user|>",
        "naïve",
        "\t",
        "𝔸",
    ]
)
TEXT = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=25).map("".join)
PAGES = st.lists(TEXT, min_size=1, max_size=4)


def document(texts: list[str], name: str = "a.txt") -> Document:
    pages = tuple(Page(number, text, None if text else "blank") for number, text in enumerate(texts, start=1))
    return Document(name, "0" * 64, "txt", pages)


def characters_by_bytes(tokenizer: PreTrainedTokenizerFast, ids: list[int], text: str) -> list[tuple[int, int]]:
    """Which characters the bytes of each token belong to: bytes counted one by one, no offsets used."""
    of_byte = [place for place, character in enumerate(text) for _ in character.encode()]
    alphabet = byte_alphabet()
    spans = []
    done = 0
    for token in tokenizer.convert_ids_to_tokens(ids):
        if token == "<|user|>":
            size = len(token)
        elif token in ("<s>", "</s>") and not text.encode().startswith(token.encode(), done):
            size = 0
        elif token in ("<s>", "</s>"):
            size = len(token)
        else:
            size = len(bytes(alphabet[character] for character in token))
        covered = of_byte[done : done + size]
        place = covered[0] if covered else (of_byte[done - 1] + 1 if done else 0)
        spans.append((place, covered[-1] + 1 if covered else place))
        done += size
    assert done == len(of_byte)
    return spans


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(others)}


@pytest.mark.parametrize("kind", EXACT)
@given(text=TEXT)
def test_each_token_covers_exactly_the_characters_of_its_bytes(kind: str, text: str) -> None:
    index = TokenIndex(EXACT[kind], text, [])
    expected = characters_by_bytes(EXACT[kind], index.input_ids.tolist(), text)
    assert [tuple(row) for row in index.chars.tolist()] == expected


@pytest.mark.parametrize("kind", ROUGH)
@given(text=TEXT)
def test_tokens_cover_the_prompt_in_order_and_without_a_gap(kind: str, text: str) -> None:
    index = TokenIndex(ROUGH[kind], text, [])
    chars = index.chars
    assert (np.diff(chars[:, 0]) >= 0).all()
    assert (np.diff(chars[:, 1]) >= 0).all()
    covered = {place for start, end in chars.tolist() for place in range(start, end)}
    assert covered == (set(range(len(text))) if len(index) else set())


@pytest.mark.parametrize("kind", EXACT | ROUGH)
@given(texts=st.lists(TEXT, min_size=1, max_size=6))
def test_a_text_in_pieces_has_the_same_tokens_as_in_one_go(kind: str, texts: list[str]) -> None:
    tokenizer = (EXACT | ROUGH)[kind]
    text = "".join(texts) * (900 // max(sum(map(len, texts)), 1) + 1)
    for add in (True, False):
        whole = encode(tokenizer, text, add_special_tokens=add)
        pieces = encode(tokenizer, text, add_special_tokens=add, piece=200, overlap=160)
        assert all(np.array_equal(one, two) for one, two in zip(pieces, whole, strict=True))


def test_a_long_text_is_tokenized_in_pieces() -> None:
    asked: list[int] = []

    def tokenizer(text: str, **more: object) -> BatchEncoding:
        asked.append(len(text))
        return TRIMMED(text, **more)

    text = "The keeper wrote every evening. " * 100
    encode(tokenizer, text, add_special_tokens=True, piece=1000, overlap=160)
    assert asked == [1160, 1160, 1160, 200]


def test_metaspace_tokens_that_are_words_cover_those_words() -> None:
    text = "The old boats had come home"
    index = TokenIndex(ROUGH["metaspace"], text, [])
    tokens = ROUGH["metaspace"].convert_ids_to_tokens(index.input_ids.tolist())
    pieces = [text[start:end] for start, end in index.chars.tolist()]
    assert pieces == [tokens[0].replace("▁", " ")[1:], *(token.replace("▁", " ") for token in tokens[1:])]


def brute_page(index: TokenIndex, starts: list[int], token: int) -> tuple[int, int]:
    """Document and number of the first page that has a character of the token; -1, 0 where none has."""
    start, end = index.chars[token].tolist()
    for place in range(start, end):
        for which, (read, first) in enumerate(zip(index.documents, starts, strict=True)):
            for page, (begin, stop) in zip(read.pages, read.page_ranges, strict=True):
                if first + begin <= place < first + stop:
                    return which, page.number
    return -1, 0


@given(before=TEXT, first=PAGES, between=TEXT, second=PAGES, after=TEXT)
def test_tokens_find_their_page_and_pages_their_tokens(
    before: str, first: list[str], between: str, second: list[str], after: str
) -> None:
    documents = [document(first), document(second, "b.txt")]
    prompt = before + documents[0].text + between + documents[1].text + after
    starts = find_documents(prompt, documents)
    index = TokenIndex(TRIMMED, prompt, documents)

    owners = [brute_page(index, starts, token) for token in range(len(index))]
    assert list(zip(index.document.tolist(), index.page.tolist(), strict=True)) == owners
    passages = np.append(index.passages, None)[index.passage]
    assert [(-1, 0) if p is None else (p.document, p.page) for p in passages] == owners
    pages = [(which, page.number) for which, read in enumerate(documents) for page in read.pages]
    for which, number in pages:
        mine = [token for token, owner in enumerate(owners) if owner == (which, number)]
        start, stop = index.page_tokens(which, number)
        assert set(mine) <= set(range(start, stop))
        if mine:
            assert (start, stop) == (mine[0], mine[-1] + 1)
        else:
            assert start == stop


@given(text=st.one_of(TEXT, st.text(alphabet="ab. \nA!?", max_size=2000), TEXT.map(lambda text: text * 40)))
def test_passages_follow_each_other_and_keep_their_size(text: str) -> None:
    spans = split_passages(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(end <= start + MAX_PASSAGE for start, end in spans)
    if len(text) >= MIN_PASSAGE:
        assert all(end >= start + MIN_PASSAGE for start, end in spans)
    else:
        assert len(spans) == bool(text)


def test_passages_end_where_sentences_end() -> None:
    text = (
        "Dr. A. Heron kept the lighthouse for thirty-one years, e.g. in fog. "
        "The orchard opens with code 07919. The mill (see p. 12) closed in 1871! 灯台は北にある。" + "Was it red? " * 4
    )
    pieces = [text[start:end].strip() for start, end in split_passages(text)]
    assert pieces[0] == "Dr. A. Heron kept the lighthouse for thirty-one years, e.g. in fog."
    assert pieces[1].startswith("The orchard opens with code 07919. The mill (see p. 12) closed in 1871!")


def test_a_passage_names_its_text_and_its_tokens() -> None:
    read = document(["The keeper wrote every evening in the ledger. How many lamps were burning in the harbour?"])
    index = TokenIndex(TRIMMED, "Answer from this:\n" + read.text + "\nWhere?", [read])
    passage = index.passages[1]
    assert index.text(passage) == "How many lamps were burning in the harbour?"
    assert TRIMMED.decode(index.input_ids[passage.token_start : passage.token_stop]).strip() == index.text(passage)
    assert passage == Passage(0, 1, 45, 89, passage.token_start, passage.token_stop)
    assert (index.passage == 1).sum() == passage.token_stop - passage.token_start


def test_the_ids_are_the_tokenizers_own() -> None:
    tokenizer = EXACT["with <s> and </s>"]
    for add in (True, False):
        index = TokenIndex(tokenizer, "The old boats", [], add_special_tokens=add)
        assert index.input_ids.tolist() == tokenizer("The old boats", add_special_tokens=add)["input_ids"]


def test_a_document_that_is_not_in_the_prompt_is_refused() -> None:
    read = document(["One page.", "Another."])
    with pytest.raises(ValueError, match=r"a\.txt is not in the prompt"):
        TokenIndex(TRIMMED, "One page. Another.", [read])
    assert TokenIndex(TRIMMED, f"One page.{PAGE_SEPARATOR}Another.", [read]).page[0] == 1


def test_the_same_document_twice_stands_in_its_order() -> None:
    twice = [document(["The mill."]), document(["The mill."], "b.txt")]
    index = TokenIndex(TRIMMED, "The mill. And The mill.", twice)
    assert set(index.document.tolist()) == {0, 1, -1}
    assert index.page_tokens(1, 1)[0] > index.page_tokens(0, 1)[1]


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="slow tokenizer"):
        TokenIndex(object(), "text", [])


def test_a_prompt_asked_about_again_is_not_tokenized_again() -> None:
    tokenizer = byte_level(trim_offsets=True)
    mine, yours = document(["The old boats."]), document(["The old boats."])
    first = token_index(tokenizer, mine.text, [mine])
    assert token_index(tokenizer, mine.text, [mine]) is first
    # Time must not tell what another visitor has asked about.
    assert token_index(tokenizer, yours.text, [yours]) is not first
    assert document_tokens(tokenizer, mine) == len(first)


def test_tokens_are_counted_anew_for_every_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(memo, "count_tokens", lambda tokenizer, text: counted.append(text) or len(counted))
    tokenizer = byte_level(trim_offsets=True)
    mine, yours = document(["The old boats."]), document(["The old boats."])
    assert [document_tokens(tokenizer, each) for each in (mine, mine, yours, mine)] == [1, 1, 2, 1]


def test_a_deleted_document_is_forgotten() -> None:
    tokenizer = byte_level(trim_offsets=True)
    gone, other = document(["The old boats."]), replace(document(["The mill."]), sha256="1" * 64)
    prompt = f"{gone.text} {other.text}"
    both, alone = token_index(tokenizer, prompt, [gone, other]), token_index(tokenizer, other.text, [other])
    memo.forget(gone.sha256)
    assert token_index(tokenizer, prompt, [gone, other]) is not both
    assert token_index(tokenizer, other.text, [other]) is alone


def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, read = byte_level(trim_offsets=True), document(["The old boats had come home."])
    first = token_index(tokenizer, read.text, [read])
    monkeypatch.setattr(memo, "MOST_TOKENS", len(first))
    token_index(tokenizer, f"{read.text} When?", [read])
    assert token_index(tokenizer, read.text, [read]) is not first
