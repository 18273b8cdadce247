"""What a method is: one way for a model to read, from the page's controls down to the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from selfextend.config import checked_integer
from selfextend.errors import PastReachError
from selfextend.positions import EXACT, PositionMap, QueryScaling
from selfextend.profile import Profile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfextend.reader import Reader


def words_of(settings: Mapping[str, Any], equals: str = " = ") -> str:
    """Settled numbers by their symbols, and query scaling, as `Method.setting` has them.

    Args:
        settings: an open number is left out.
    """
    shown = ((name, value) for name, value in settings.items() if name != "query_scaling" and value is not None)
    words = [f"{name}{equals}{_number(value)}" for name, value in shown]
    return ", ".join([*words, *(["log-n"] if settings.get("query_scaling") == "logn" else [])])


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Method:
    """One way of reading. A number that is None is open: `at` settles it for a model and a length.

    Attributes:
        query_scaling: "logn" multiplies each query by a factor that grows with its position; see
            `selfextend.positions.logn_query_scale`. Only position maps take it.

    Raises:
        ValueError: a number is out of range, or the method takes no query scaling.
    """

    query_scaling: QueryScaling = "none"

    kind: ClassVar[str]
    """The name in records, on the command line and in the API, without query scaling."""
    heading: ClassVar[str]
    """The name for people, without query scaling."""
    symbols: ClassVar[tuple[tuple[str, str], ...]] = ()
    """The method's numbers: each attribute with the symbol that labels use for it."""
    takes_query_scaling: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.query_scaling not in ("none", "logn"):
            raise ValueError(f"query_scaling must be 'none' or 'logn', not {self.query_scaling!r}.")
        if self.query_scaling == "logn" and not self.takes_query_scaling:
            raise ValueError(f"{self.heading} takes no query scaling.")
        for attribute, _ in self.symbols:
            value = getattr(self, attribute)
            if value is not None:
                checked_integer(attribute, value, 1)

    @property
    def name(self) -> str:
        """For records, the command line and the API: "selfextend", "selfextend+logn"."""
        return self.kind + ("+logn" if self.query_scaling == "logn" else "")

    @property
    def title(self) -> str:
        """For headings: "SelfExtend with log-n"."""
        return self.heading + (" with log-n" if self.query_scaling == "logn" else "")

    @property
    def label(self) -> str:
        """For legends: the title, with the numbers that were fixed by hand."""
        fixed = [f"{symbol}={value}" for symbol, value in self._numbers().items() if value is not None]
        return self.title + (f" ({', '.join(fixed)})" if fixed else "")

    @property
    def setting(self) -> str:
        """The settled numbers as captions say them: "G = 8, w = 1,024"; empty where there are none."""
        return words_of({**self._numbers(), "query_scaling": self.query_scaling})

    def with_numbers(self, **numbers: Any) -> Self:
        """This method with those of the numbers that it takes; None leaves one open, and the others stay."""
        return replace(self, **{attribute: numbers[attribute] for attribute, _ in self.symbols if attribute in numbers})

    def _numbers(self) -> dict[str, Any]:
        return {symbol: getattr(self, attribute) for attribute, symbol in self.symbols}

    def at(self, profile: Profile, length: int) -> Self:
        """This method with every open number settled for texts of up to `length` tokens on a model.

        Raises:
            ValueError: settings that fit no such model.
        """
        return self

    def settings(self) -> dict[str, Any]:
        """What a record's row says about how it was made: every settled number."""
        numbers = {attribute: getattr(self, attribute) for attribute, _ in self.symbols}
        return {**numbers, **({"query_scaling": self.query_scaling} if self.takes_query_scaling else {})}

    def reach(self, trained_window: int) -> int | None:
        """The longest text, in tokens, without a relative position that the model never saw; None: no limit.

        Of a settled method.
        """
        return None if self.positions is None else self.positions.reach(trained_window)

    def check(self, profile: Profile, length: int) -> None:
        """Refuse a length that this method does not read.

        Raises:
            PastReachError: with settings that fit.
            ValueError: a number is out of range.
        """
        checked_integer("length", length, 1)
        positions = self.at(profile, length).positions
        if positions is None:
            return
        complaint = positions.complaint(profile.trained_window, length, profile.neighbors)
        if complaint is not None:
            raise PastReachError(complaint)

    @property
    def positions(self) -> PositionMap | None:
        """The relative positions of a settled method; None where it is not a position map."""
        return None

    @contextmanager
    def on(
        self, model: PreTrainedModel, *, trained_window: int, length: int, observed: bool = False
    ) -> Iterator[Reader]:
        """Have a model read this way inside a `with` block. Afterwards it is as it was before.

        Args:
            model: whatever is on for it already is off inside.
            trained_window: the paper's L, in tokens.
            length: the longest text to be read, in tokens.
            observed: have attention pass where `selfextend.recording` sees it.

        Yields:
            What calls the model as this method needs it.

        Raises:
            UnsupportedArchitectureError: the method does not fit this model, and why.
        """
        # The settings are there before torch is: whoever shows them need not wait for it.
        from selfextend.plugin import active_extension, paused

        with paused(model), self._change(model, trained_window, length, observed) as reader:
            extension = active_extension(model)
            reader.reads_as = self if extension is None else extension.positions
            yield reader

    @contextmanager
    def _change(self, model: PreTrainedModel, trained_window: int, length: int, observed: bool) -> Iterator[Reader]:
        """What `on` does to a model on which nothing else is on."""
        from selfextend.plugin import extended
        from selfextend.reader import Reader

        if self.positions is None or (self.positions == EXACT and not observed):
            yield Reader(model)
            return
        with extended(model, self.positions, trained_window):
            yield Reader(model)
