"""An answer's recorded attention, pooled: layers, heads and stretches of the prompt made one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .evidence import answer_rows
from .traces import ALL, chosen

if TYPE_CHECKING:
    from selfextend.recording import AttentionRecord

    from .documents.index import TokenIndex
    from .session import Turn

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

COLUMNS = 480
"""Most columns of a `View`; more are pooled."""
CITED, MAX, SUM = "cited", "max", "sum"


class Pool(NamedTuple):
    """A way to make one number of what several layers and heads paid to a stretch of the prompt.

    Attributes:
        unit: what the number is. sentence: says how it was made, given "{views}".
        of_views: (layers, heads, rows, bins) to (rows, bins).
        join: puts neighboring bins together. finish: makes the number of what was joined.
    """

    unit: str
    sentence: str
    of_views: Callable[[AttentionRecord, Any], Floats]
    join: np.ufunc
    finish: Callable[[Floats], Floats] = np.asarray


POOLS = {
    CITED: Pool(
        "share of attention",
        "A cell is the share of the token's attention that fell there, as the root mean square of {views}: what one "
        "head settles on shows, what many brush in passing does not. The citations are ranked by the same measure.",
        lambda record, views: np.square(record.sums[views].astype(np.float64)).mean(axis=(0, 1)),
        np.add,
        np.sqrt,
    ),
    MAX: Pool(
        "largest weight",
        "A cell is the largest weight that the token put on a single token there, the strongest of {views}.",
        lambda record, views: record.maxima[views].max(axis=(0, 1)).astype(np.float64),
        np.maximum,
    ),
    SUM: Pool(
        "share of attention",
        "A cell is the share of the token's attention that fell there, the mean of {views}: a row adds up to 100% over "
        "the whole prompt.",
        lambda record, views: record.sums[views].astype(np.float64).mean(axis=(0, 1)),
        np.add,
    ),
}


class Looked(NamedTuple):
    """What is looked at: a recorded layer and head as text, or "all"; how they are pooled, a key of `POOLS`; and
    whether what belongs to no document is looked at too."""

    layer: str = ALL
    head: str = ALL
    pooled: str = CITED
    sink: bool = False


EVERYTHING = Looked()


class View(NamedTuple):
    """Pooled attention.

    Attributes:
        shares: (rows, columns) attention of each answer token on each column.
        edges: (columns + 1,) token positions; column c covers edges[c] ... edges[c + 1] - 1.
    """

    shares: Floats
    edges: Integers


def view_of(turn: Turn, looked: Looked = EVERYTHING) -> View:
    """What was recorded, a column for each stretch of the prompt, pooled so that `COLUMNS` are enough.

    Without the sink it begins and ends with the documents, and what belongs to none of them is 0.

    Raises:
        ValueError: a layer, head or pool that there is none of.
    """
    bins, edges = bins_of(turn, looked)
    first, stop = 0, bins.shape[1]
    if not looked.sink and len(inside := np.flatnonzero(_in_passages(edges[:-1], turn.prompt.index))):
        first, stop = int(inside[0]), int(inside[-1]) + 1
    starts = first + np.unique(np.arange(COLUMNS) * (stop - first) // COLUMNS)
    pool = POOLS[looked.pooled]
    shares = pool.join.reduceat(bins[:, :stop], starts, axis=1)
    return View(pool.finish(shares), np.append(edges[starts], edges[stop]))


def bins_of(turn: Turn, looked: Looked) -> tuple[Floats, Integers]:
    """(rows, bins) of the record, to be joined and finished as the pool says, and the bins' (bins + 1,) edges.

    Raises:
        ValueError: a layer, head or pool that there is none of.
    """
    record = turn.answer.attention
    assert record is not None
    if looked.pooled not in POOLS:
        raise ValueError(f"Attention is pooled by one of {', '.join(POOLS)}.")
    rows = answer_rows(record, len(turn.answer.token_ids))
    layers, heads = chosen(looked.layer, record.layers, "layer"), chosen(looked.head, record.heads, "head")
    bins = POOLS[looked.pooled].of_views(record, np.ix_(layers, heads, range(rows), range(len(record.bin_starts))))
    edges = edges_of(turn)
    if not looked.sink:
        bins[:, ~_in_passages(edges[:-1], turn.prompt.index)] = 0.0
    return bins, edges


def edges_of(turn: Turn) -> Integers:
    """(bins + 1,) tokens of prompt and answer: recorded bin b covers edges[b] ... edges[b + 1] - 1."""
    record = turn.answer.attention
    assert record is not None
    rows = answer_rows(record, len(turn.answer.token_ids))
    return np.append(record.bin_starts, len(turn.prompt.index) + rows).astype(np.int64)


def _in_passages(starts: Integers, index: TokenIndex) -> npt.NDArray[np.bool_]:
    """(bins,): whether a bin begins with a token of a passage."""
    passage = np.append(index.passage, -1)
    return np.asarray(passage[np.minimum(starts, len(passage) - 1)] >= 0)
