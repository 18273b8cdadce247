"""Where rows of text stand: which positions their tokens have, in a cache and in the pass that goes on from it.

A row's tokens are numbered from its first one that is no padding. Its positions are these numbers, or ahead of them by
the same for all; where they jump, each token's own is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from selfextend.positions import PositionMap


@dataclass(frozen=True)
class ReadRow:
    """Where a row of text in a cache stands.

    Attributes:
        start: index of its first token that is no padding; tokens are numbered from there.
        ahead: by how much its positions are ahead of these numbers.
        shift: what is taken off the position_ids that it is given: `start`, where these number tokens by their place,
            padding and all.
    """

    start: int
    ahead: int
    shift: int


ReadRows = Sequence[ReadRow | None]
"""One for each row; None where nothing but padding was read."""


@dataclass(frozen=True)
class Content:
    """What the keys in a cache stand for.

    Attributes:
        positions: the position map that they were read with.
        rows: its rows.
        jumping: each token's position, (rows or 1, t), where those of some row do not rise by one a token.
    """

    positions: PositionMap
    rows: ReadRows
    jumping: torch.Tensor | None = None

    def rows_for(self, batch: int) -> ReadRows:
        """The rows, to go on from.

        Raises:
            ValueError: the batch has another number of them.
        """
        if len(self.rows) != batch:
            raise ValueError(
                f"The cache was filled with {len(self.rows)} rows of text, and {batch} are to go on from it. Choose or "
                "repeat rows by the cache's own methods, which keep count of where each row stands."
            )
        return self.rows

    def followed_by(self, positions: torch.Tensor, past: int) -> torch.Tensor:
        """`positions` of new tokens, (rows or 1, q), behind those of the first `past`: (rows or 1, past + q)."""
        if self.jumping is not None:
            held = self.jumping[:, :past]
        else:
            offsets = [0 if row is None else row.ahead - row.start for row in self.rows]
            held = torch.tensor(offsets)[:, None] + torch.arange(past)
        count = max(len(held), len(positions))
        return torch.cat([held.to(positions).expand(count, -1), positions.expand(count, -1)], dim=1)

    def of_rows(self, rows: list[int]) -> Content:
        """The same of these rows."""
        jumping = self.jumping if self.jumping is None or len(self.jumping) == 1 else self.jumping[rows]
        return Content(self.positions, [self.rows[row] for row in rows], jumping)


@dataclass
class PlacedRows:
    """The rows of a pass: `ReadRow`'s numbers as columns, (rows, 1), or (1, 1) where all rows have the same.

    Attributes:
        known: whether the cache holds any of the row but padding; if not, the numbers are set by this pass.
    """

    known: torch.Tensor
    start: torch.Tensor
    ahead: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, rows: ReadRows, like: torch.Tensor) -> PlacedRows:
        def column(values: list[int]) -> torch.Tensor:
            same = len(set(values)) == 1
            return torch.tensor(values[:1] if same else values, device=like.device)[:, None]

        held = [ReadRow(0, 0, 0) if row is None else row for row in rows]
        known = column([row is not None for row in rows]).bool()
        return cls(known, *(column([getattr(row, name) for row in held]) for name in ("start", "ahead", "shift")))

    def begin(self, starts: torch.Tensor | None, *, every_pass: bool) -> None:
        """Set where new rows begin, from each row's first token that is seen in this pass.

        Args:
            every_pass: whether what hides tokens has to hide them in every pass.

        Raises:
            ValueError: a token is seen that was padding before.
        """
        first_seen = torch.zeros_like(self.start) if starts is None else starts[:, None]
        if every_pass and bool((self.known & (first_seen < self.start)).any()):
            raise ValueError(
                "Padding that was hidden before is seen now. Give each pass an attention_mask that covers the cached "
                "tokens too and hides the same of them."
            )
        self.start = torch.where(self.known, self.start, first_seen)

    def positions(
        self, numbers: torch.Tensor, given: torch.Tensor | None, has_jumped: bool
    ) -> tuple[torch.Tensor, bool]:
        """The new tokens' positions, (rows or 1, q), and whether they jump. Sets `ahead` and `shift` of new rows.

        Args:
            numbers: of the new tokens, (rows or 1, q); negative ones are padding, which has no position.
            given: position_ids, (rows or 1, q).
            has_jumped: whether positions jumped before.
        """
        counted = numbers >= 0
        ahead = torch.zeros_like(numbers) if given is None else given - numbers
        first = torch.gather(ahead, 1, counted.int().argmax(dim=1, keepdim=True).expand(len(ahead), 1))
        first = torch.where(counted.any(dim=1, keepdim=True), first, 0)
        # Without position_ids, or where they number tokens by their place, padding and all, the text that begins behind
        # the padding is meant.
        shift = self.start if given is None else torch.where(first == self.start, self.start, 0)
        self.shift = torch.where(self.known, self.shift, shift)
        if given is not None:
            goes_on = self.known & (first == self.ahead) & (not has_jumped)
            taken = torch.where(goes_on, 0, self.shift)
            ahead, first = ahead - taken, first - taken
        self.ahead = torch.where(self.known, self.ahead, first)
        jumps = has_jumped or bool(((ahead != self.ahead) & counted).any())
        return torch.where(counted, numbers + ahead, 0), jumps

    def told(self, batch: int, length: int) -> ReadRows:
        """One for each row of the batch; None for those that are padding up to `length`."""
        columns = [column.expand(batch, 1) for column in (self.start, self.ahead, self.shift)]
        return [ReadRow(*row) if row[0] < length else None for row in torch.cat(columns, dim=1).tolist()]


def evenly_ahead(rows: ReadRows, numbers: torch.Tensor, given: torch.Tensor | None) -> int | None:
    """By how much the positions of all rows are ahead of their tokens' numbers, where no row is padded and each goes on
    evenly; None where it takes `PlacedRows` to say. Most passes are such, and take one comparison.

    Args:
        numbers: of the new tokens, (q,).
        given: position_ids, (rows or 1, q).
    """
    first = rows[0]
    if any(row != first for row in rows) or (first is not None and first.start):
        return None
    if given is None:
        return 0 if first is None or first.ahead == 0 else None
    ahead = int(given[0, 0] - numbers[0]) if first is None else first.ahead
    return ahead if bool((given == numbers + ahead).all()) else None
