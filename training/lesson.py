"""Records what the lesson shows: the bundled model's answers for every cell of a grid of lengths and settings.

One passkey stands at the start of a text and is asked for at its end. Each length is answered by the vanilla model, by
SelfExtend for every pair of settings, and by SelfExtend with a part left out. Prompts of one setting begin alike, so
what was read of a shorter one is read on: the whole grid costs a few minutes of two cores. One more passkey stands far
back in a far longer text, where all of its digits share one group.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import selfextend
from selfextend.attention.eager import attention_weights
from selfextend.config import SelfExtendConfig, suggest
from selfextend.generation import GenerationSettings, ReadingSettings, ReadyModel, answer_steps
from selfextend.lab.probes.cases import Case
from selfextend.lab.probes.passkey import FILLER, HEADER, NEEDLE, QUESTION, Passkey
from selfextend.loading.models import load_model
from selfextend.methods import Method, SelfExtend, Vanilla
from selfextend.observing import AttentionOptions, RotatedStates
from selfextend.plugin import active_extension
from selfextend.positions import (
    Band,
    PositionMap,
    grouped_key_positions,
    relative_position,
    unchanged,
)
from selfextend.profile import profile_of
from selfextend.reading import PrefixCache, log_probability_steps, read_steps, reading
from selfextend.steps import result_of

SEED = 0
LENGTHS = range(300, 1531, 30)
"""Tokens of prompt and answer together, at most."""
GROUP_SIZES = (2, 3, 4, 6, 8, 12, 16)
NEIGHBOR_WINDOWS = (1, 2, 8, 32, 128, 256, 384, 500)
SHOWN = SelfExtendConfig(8, 128)
"""The settings for which scores, weights and probabilities are kept too."""
FAR_LENGTH = 16_384
"""Tokens of the far passkey's prompt and answer together, at most: 32 times what the bundled model was trained on."""


@dataclass(frozen=True)
class Ablated(SelfExtend):
    """SelfExtend without the shift that joins the two bands, or without its neighbors.

    Attributes:
        without: "shift" or "neighbors". Without neighbors every key is grouped, and nothing is left to shift for.
    """

    without: str = "shift"

    kind = "ablated"

    @property
    def positions(self) -> Any:
        config = super().positions
        return AblatedPositions(config.group_size, config.neighbor_window if self.without == "shift" else 0)


@dataclass(frozen=True)
class AblatedPositions(SelfExtendConfig):
    """Exact below `neighbor_window`, floored and not shifted from there on; everything floored where it is 0."""

    def __post_init__(self) -> None:
        """Unlike SelfExtend's, the window may be 0."""

    @property
    def bands(self) -> Any:
        floored = partial(grouped_key_positions, group_size=self.group_size)
        far = Band(None, floored, floored)
        return (Band(self.neighbor_window, unchanged, unchanged), far) if self.neighbor_window else (far,)


def write(model: Path, path: Path) -> None:
    """Writes the recorded grid of the model in folder `model` to `path`, as JSON."""
    path.write_text(json.dumps(record(model), separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def record(folder: Path) -> dict[str, Any]:
    """The recorded grid, as plain JSON: what each part means stands in `training/README.md`."""
    model, tokenizer = load_model(folder, device="cpu")
    ready = ReadyModel(model, tokenizer, profile_of(str(folder), folder, model.config))
    trained_window = ready.profile.trained_window
    cases = [Passkey().case(tokenizer, length, 0.0, random.Random(SEED)) for length in LENGTHS]
    recorder = Recorder(ready, cases)
    pairs = [(group, window) for group in GROUP_SIZES for window in NEIGHBOR_WINDOWS]
    answers = {
        "vanilla": recorder.answers(Vanilla()),
        "selfextend": {f"{g},{w}": recorder.answers(SelfExtend("none", g, w)) for g, w in tqdm(pairs)},
        "no_shift": {f"{g},{w}": recorder.answers(Ablated("none", g, w)) for g, w in tqdm(pairs)},
        "no_neighbors": {
            str(g): recorder.answers(Ablated("none", g, 1, without="neighbors")) for g in tqdm(GROUP_SIZES)
        },
    }
    (key,) = cases[0].expected
    return {
        "made": {
            "command": "python -m training lesson",
            "model": {"name": folder.name, "sha256": _sha256(folder / "model.safetensors")},
            "seed": SEED,
            "versions": {
                "selfextend": selfextend.__version__,
                **{name: version(name) for name in ("torch", "transformers")},
            },
            "trained_window": trained_window,
            "layers": model.config.num_hidden_layers,
            "heads": model.config.num_attention_heads,
            "rope": {"base": model.config.rope_parameters["rope_theta"], "pairs": model.config.head_dim // 2},
            "query_scaling": "none",
        },
        "prompt": {
            "key": key,
            "header": HEADER,
            "needle": NEEDLE.format(key=key),
            "filler": FILLER.pieces[0],
            "question": QUESTION,
            "digits_at": _digits_at(cases[0], tokenizer)[0],
        },
        "lengths": [len(case.tokens) for case in cases],
        "group_sizes": list(GROUP_SIZES),
        "neighbor_windows": list(NEIGHBOR_WINDOWS),
        "texts": recorder.texts,
        "answers": answers,
        "chain": recorder.chain(),
        "far": far(ready),
        "log_n": _log_n(folder / "README.md"),
    }


def far(ready: ReadyModel) -> dict[str, Any]:
    """One passkey at the start of a text of `FAR_LENGTH` tokens, read as is recommended for the model.

    Of distinct digits, since of two that are the same nobody can tell which came first. The first seed with such a key
    that the model answers right is taken, and named; what it answers without log-n scaling is kept beside it.
    """
    profile = ready.profile
    config = suggest(
        profile.trained_window,
        FAR_LENGTH,
        neighbor_window=profile.neighbors,
        query_scaling=profile.query_scaling,
    )
    for seed in count():
        case = Passkey().case(ready.tokenizer, FAR_LENGTH, 0.0, random.Random(seed))
        (key,) = case.expected
        if len(set(key)) < len(key):
            continue
        scaled = _answer(ready, case, SelfExtend.of(config))
        if scaled == key:
            break
    return {
        "seed": seed,
        "query_scaling": config.query_scaling,
        "group_size": config.group_size,
        "neighbor_window": config.neighbor_window,
        "length": len(case.tokens),
        "key": key,
        "digits_at": _digits_at(case, ready.tokenizer)[0],
        "text": scaled,
        "unscaled": _answer(ready, case, SelfExtend("none", config.group_size, config.neighbor_window)),
    }


def _answer(ready: ReadyModel, case: Case, method: Method) -> str:
    recorder = Recorder(ready, [case])
    (number,) = recorder.answers(method)
    return recorder.texts[number]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digits_at(case: Case, tokenizer: Any) -> list[int]:
    """Where the key's digits begin in the prompt, in tokens: once for each time that it is said."""
    digits = [token for digit in case.expected[0] for token in tokenizer(digit, add_special_tokens=False).input_ids]
    tokens = list(case.tokens)
    return [at for at in range(len(tokens)) if tokens[at : at + len(digits)] == digits]


@dataclass
class Recorder:
    """Answers the cases, shortest first, and keeps each text once.

    Attributes:
        texts: the answers' texts; what was recorded refers to them by number.
    """

    ready: ReadyModel
    cases: Sequence[Case]
    texts: list[str] = field(default_factory=list)

    def answers(self, method: Method) -> list[int]:
        """For each case the number of the answer's text."""
        prefix, numbers = PrefixCache(), []
        how = ReadingSettings(method, past_reach="allow")
        for case in self.cases:
            settings = GenerationSettings(max_new_tokens=case.max_new_tokens)
            text = result_of(answer_steps(self.ready, case.tokens, settings, how, prefix=prefix)).text
            if text not in self.texts:
                self.texts.append(text)
            numbers.append(self.texts.index(text))
        return numbers

    def chain(self) -> dict[str, Any]:
        """How one head's score of the right digit becomes a weight, and what probability the digit gets, by length.

        The head is the one that looks most at the key's first digit in the shortest text, which fits the trained
        window, under the vanilla model.
        """
        vanilla, extended = SelfExtend("none", 1, 1), SelfExtend.of(SHOWN)  # G = 1 is the vanilla model, observed
        begins = _digits_at(self.cases[0], self.ready.tokenizer)
        first = self._look(vanilla, self.cases[:1])[0]
        weights = torch.stack([first.weights[layer][:, begins] for layer in sorted(first.weights)])
        layer, head, which = (int(n) for n in torch.unravel_index(weights.argmax(), weights.shape))
        at = begins[which]
        told = {
            name: [look.told(layer, head, at, method.positions) for look in self._look(method, self.cases)]
            for name, method in (("vanilla", vanilla), ("selfextend", extended))
        }
        wave = first.wave(layer, head, at, self.ready.model.config.rope_parameters["rope_theta"])
        return {
            "layer": layer,
            "head": head,
            "key_at": at,
            "group_size": SHOWN.group_size,
            "neighbor_window": SHOWN.neighbor_window,
            "wave": wave,
            **told,
        }

    def _look(self, method: SelfExtend, cases: Sequence[Case]) -> list[_Look]:
        """The last prompt token's attention in each case, and the first digit's probability."""
        prefix, looks = PrefixCache(), []
        length = max(case.length for case in cases)
        with reading(self.ready.model, method, self.ready.profile, length, observed=True) as reader:
            extension = active_extension(self.ready.model)
            assert extension is not None
            for case in cases:
                result_of(read_steps(reader, prefix, case.tokens[:-1], length=length))
                extension.observer = look = _Look()
                digit = self.ready.tokenizer(case.expected[0][0], add_special_tokens=False).input_ids
                (score,) = result_of(log_probability_steps(reader, prefix, case.tokens, digit))
                extension.observer = None
                look.probability = float(torch.tensor(score).exp())
                looks.append(look)
        return looks


class _Look:
    """One query's attention in every layer: an `AttentionObserver` of a pass of one token.

    Attributes:
        weights: layer -> (heads, t).
        probability: of the right token after this query.
    """

    def __init__(self) -> None:
        self.weights: dict[int, torch.Tensor] = {}
        self.probability = 0.0
        self._states: dict[int, tuple[RotatedStates, AttentionOptions]] = {}

    def observe(self, layer: int, states: RotatedStates, options: AttentionOptions, row: int) -> None:
        self._states[layer] = states, options
        last = [query[:, :, -1:] for query in states.queries]
        self.weights[layer] = attention_weights(last, states.keys, **options._asdict())[0, :, 0]

    def told(self, layer: int, head: int, key: int, positions: PositionMap) -> dict[str, float]:
        """The right key's score, what all other keys' exponentials add up to (its logarithm), the key's weight in the
        softmax over all, where the key is seen, and the right digit's probability."""
        weights = self.weights[layer][head].double()
        score = float(self._products(layer, head, key).real.sum())
        weight = float(weights[key])
        others = float(weights.sum() - weights[key])
        rest = score - float(torch.tensor(weight / others).log())
        position = relative_position(len(weights) - 1, key, positions)
        numbers = {"score": score, "rest": rest, "weight": weight, "probability": self.probability}
        return {"position": position, **{name: float(f"{number:.6g}") for name, number in numbers.items()}}

    def wave(self, layer: int, head: int, key: int, base: float) -> list[list[float]]:
        """For each frequency pair [amplitude, phase]: the score at relative position p is the sum of
        amplitude * cos(p * frequency + phase)."""
        products = self._products(layer, head, key)
        frequency = base ** -(torch.arange(len(products), dtype=torch.float64) / len(products))
        distance = self.weights[layer].shape[1] - 1 - key
        unrotated = products * torch.polar(torch.ones_like(frequency), -distance * frequency)
        return [[float(f"{n:.6g}") for n in (pair.abs(), pair.angle())] for pair in unrotated]

    def _products(self, layer: int, head: int, key: int) -> torch.Tensor:
        """What each frequency pair adds to the scaled score, as complex numbers whose real parts add up to it."""
        (states, options), tokens = self._states[layer], self.weights[layer].shape[1]
        distance = tokens - 1 - key
        band = next((band for band, end in enumerate(options.ends) if distance < end), len(options.ends))
        keys = states.keys[band][0, head]
        query, seen = states.queries[band][0, head, -1].double(), keys[len(keys) - tokens + key].double()
        half = len(query) // 2  # transformers' layout: a pair's parts lie half a head apart
        return options.scaling * torch.complex(query[:half], query[half:]) * torch.complex(seen[:half], -seen[half:])


def _log_n(card: Path) -> dict[str, Any]:
    """The passkeys that the model's card reports with and without log-n scaling."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in card.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    header = next(row for row in rows if row[0] == "tokens")
    named = {row[0]: row[1:] for row in rows}
    lengths = [int(cell.replace(",", "")) for cell in header[1:]]
    wanted = ("vanilla", "vanilla, log-n alone", "SelfExtend alone", "SelfExtend with log-n")
    return {"lengths": lengths, "rows": {name: named[name] for name in wanted}}
