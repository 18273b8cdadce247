"""What a plan is: what is to be measured, as cells that are run one after the other (see `selfextend.lab.run`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfextend.lab.errors import LabError
from selfextend.lab.records import CellKey, Row
from selfextend.methods import Method
from selfextend.profile import Profile
from selfextend.reader import Reader
from selfextend.reading import PrefixCache, TokensRead

Work = Callable[[Reader], Generator[TokensRead, None, list[Row]]]


@dataclass(frozen=True, eq=False)
class Cell:
    """The smallest thing that is measured and recorded.

    Attributes:
        method: what the model reads with.
        row: what all rows of this cell have in common, see `blank_row`.
        words: what is being done.
        weight: how long it takes, beside other cells.
        tokens: about how many are read.
        work: reads, and returns the rows without what `row` holds and without what they cost; None where nothing is
            to be done, since the cell is recorded already.
        prefix: what `work` reads into. Cells that follow one another may share it.
    """

    method: Method
    row: Row
    words: str
    weight: int
    tokens: int = 0
    work: Work | None = None
    prefix: PrefixCache = field(default_factory=PrefixCache)


class Plan(ABC):
    """What is to be measured, independent of model and progress.

    Attributes:
        methods: to be compared.
        seed: of everything random.
    """

    methods: tuple[Method, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.methods:
            raise LabError("Name at least one method.")

    @property
    @abstractmethod
    def name(self) -> str:
        """The probe's, as records have it."""

    @property
    @abstractmethod
    def weight(self) -> int:
        """Of all cells together."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a record's header says about how the rows were made, besides the methods' labels."""

    @abstractmethod
    def check(self, profile: Profile, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse what cannot be run with such a model.

        Raises:
            PastReachError, ValueError: see `Method.check`.
            LabError: anything else.
        """

    @abstractmethod
    def cells(self, tokenizer: PreTrainedTokenizerBase, profile: Profile, done: AbstractSet[CellKey]) -> Iterable[Cell]:
        """All cells in order, made when they are needed.

        Args:
            done: cells that are recorded already.
        """

    def parts(self) -> Sequence[Plan]:
        """Plans that can be run on different machines and together give the same rows."""
        return [self]


def check_methods(methods: Sequence[Method], profile: Profile, lengths: Iterable[int]) -> None:
    """Refuse methods that do not read such texts. Errors as `Method.check`."""
    for length in lengths:
        for method in methods:
            method.check(profile, length)


def blank_row(probe: str, method: Method, profile: Profile, length: int, **more: Any) -> Row:
    """What the rows of one cell have in common: probe, method with its settings, length, and `more`."""
    return {
        "probe": probe,
        "method": method.name,
        "label": method.label,
        "settings": method.at(profile, length).settings(),
        "length": length,
        "depth": None,
        **more,
    }
