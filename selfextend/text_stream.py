"""The text of an answer while its tokens come."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


class TextStream:
    """The text of a growing answer, as far as it is certain: no half character, no beginning of a stop string.

    Only the last few tokens are decoded again with each new one, since how a token is written may depend on the one
    before it.

    Attributes:
        at_stop: whether a stop string has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.at_stop = False
        self._ids: list[int] = []
        self._text = ""
        self._start = self._settled = 0  # the text of tokens before `_settled` is written; those from `_start` go along

    def add(self, token: int) -> str:
        """Take one more token. What can be shown of the whole answer."""
        self._ids.append(token)
        before = self._decoded(self._ids[self._start : self._settled])
        here = self._decoded(self._ids[self._start :])
        written = self._text + here[len(before) :].rstrip("\N{REPLACEMENT CHARACTER}")
        if not here.endswith("\N{REPLACEMENT CHARACTER}"):
            self._text, self._start, self._settled = written, self._settled, len(self._ids)
        shown = self._before_stop(written)
        self.at_stop = len(shown) < len(written)
        if self.at_stop:
            return shown
        held = [n for string in self.stop for n in range(1, len(string)) if written.endswith(string[:n])]
        return written[: len(written) - max(held, default=0)]

    def whole(self) -> str:
        """The finished answer's text, decoded as a whole, up to the first stop string."""
        return self._before_stop(self._decoded(self._ids))

    def _before_stop(self, text: str) -> str:
        return min((text.partition(string)[0] for string in self.stop), key=len, default=text)

    def _decoded(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text
