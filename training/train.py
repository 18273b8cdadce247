"""The training loop: rows in, a transformers Llama model out. Resumable, logged, on a GPU where there is one.

Plain next-token training inside the window: no position at or past it, no SelfExtend.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from training.rows import LANGUAGE, RESTATEMENT, VALUE, RowMaker
from training.tokenizer import BOS, PAD

TRAINED_WINDOW = 512
# Of the tokens that teach only language, this share is trained on: the vocabulary's matrix is a third of the work.
LANGUAGE_SHARE = 0.2
LANGUAGE_WEIGHT = 0.3
RESTATEMENT_WEIGHT = 0.4
# The first tokens of a value are where the looking up happens; the rest is copying on.
OPENING_WEIGHT = 2.0
CHECKPOINT_EVERY = 200
LOG_EVERY = 50


@dataclass(frozen=True)
class Stage:
    """``steps`` steps on ``rows`` rows of ``length`` tokens; the learning rate goes straight between its two ends."""

    length: int
    rows: int
    steps: int
    recall_share: float
    learning_rate: float
    final_learning_rate: float
    crowded_share: float = 0.0
    """Of the steps, how many are crowded ones: see `Trainer.crowded()`."""
    crowd: int = 4
    """How many rows of a crowded step see one another."""


# Short rows first: matching is learnt suddenly, after a plateau, and the plateau is shorter in steps than in tokens.
PLAN = (
    Stage(64, 40, 1200, 0.60, 2e-3, 2e-3),
    Stage(128, 32, 300, 0.40, 2e-3, 2e-3),
    Stage(256, 16, 500, 0.30, 2e-3, 2e-3),
    Stage(512, 10, 800, 0.20, 2e-3, 1.3e-3),
    Stage(512, 10, 800, 0.05, 1.3e-3, 5e-5),
    Stage(512, 10, 1400, 0.05, 1.2e-3, 1e-4),
    Stage(512, 8, 2000, 0.05, 1.5e-3, 8e-4, crowded_share=0.25),
    Stage(512, 8, 1800, 0.05, 8e-4, 1e-5, crowded_share=0.5),
    Stage(512, 8, 2400, 0.05, 9e-4, 1e-5, crowded_share=0.35, crowd=8),
    Stage(512, 8, 500, 0.05, 4e-4, 1e-5, crowded_share=0.25, crowd=8),
)
# From how many tokens back the rows of a crowd see one another: a grouped key is no nearer.
CROWD_DISTANCE = 128
# Attention's logits are multiplied by a number between these in a crowded step, as log-n scaling does.
CROWDED_SCALE = (1.0, 1.5)


def configuration(vocabulary_size: int) -> LlamaConfig:
    """The bundled model's shape."""
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=TRAINED_WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float32",
    )


def model_of(state: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """A model with the weights of ``state``."""
    model = LlamaForCausalLM(configuration(len(state["model.embed_tokens.weight"])))
    model.load_state_dict(state)
    return model


def learning_rate(step: int, plan: tuple[Stage, ...], warm_up: int = 100) -> float:
    """The learning rate of ``step``, counted from the start of the whole plan."""
    first = step
    for stage in plan:
        if first < stage.steps:
            part = first / stage.steps
            rate = stage.learning_rate + (stage.final_learning_rate - stage.learning_rate) * part
            return rate * min(1.0, (step + 1) / warm_up)
        first -= stage.steps
    raise ValueError(f"step {step} is past the plan's {sum(stage.steps for stage in plan)} steps")


def stage_of(step: int, plan: tuple[Stage, ...]) -> Stage:
    """The stage that ``step`` falls in."""
    for stage in plan:
        if step < stage.steps:
            return stage
        step -= stage.steps
    raise ValueError("the step is past the plan")


class Trainer:
    """One training run kept in ``folder``: checkpoint.pt and log.jsonl. Calling run() again goes on where it stopped.

    Under torchrun each process takes its part of every step's rows. On a busy machine, two processes of one thread
    are faster than one of two threads, which wait for each other at every single operation.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path, plan: tuple[Stage, ...] = PLAN, seed: int = 1) -> None:
        self.tokenizer = tokenizer
        self.folder = folder
        self.plan = plan
        self.seed = seed
        if dist.is_torchelastic_launched() and not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(seed)
        self._train_on(LlamaForCausalLM(configuration(tokenizer.get_vocab_size())))
        self.step = 0
        self.seconds = 0.0
        self.tokens = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    def _train_on(self, model: LlamaForCausalLM) -> None:
        self.model = model
        torch.nn.Module.to(model, self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self._train_on(model_of(state["model"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.tokens = state["step"], state["seconds"], state["tokens"]
        # What was logged after the checkpoint is about to be done again.
        if self.log.exists():
            lines = self.log.read_text().splitlines(keepends=True)
            self.log.write_text("".join(line for line in lines if json.loads(line)["step"] <= self.step))

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "tokens": self.tokens,
            },
            partial,
        )
        partial.replace(self.checkpoint)

    def crowded(self, ids: torch.Tensor, crowd: int) -> torch.Tensor:
        """The last hidden states of ``crowd`` rows at a time: (rows, length) ids in, (rows, length, width) out.

        A hundred facts do not fit a window, yet have to be told apart. So each row of a crowd also attends to what the
        others hold CROWD_DISTANCE tokens or more before it, at the positions it has there: no position at or past the
        window, only more keys. The idea is that of Focused Transformer (arXiv 2307.03170). Rows must not contradict
        one another, so only rows of facts stand together, whose names are too many to meet twice.

        Raises ValueError when the rows do not make up whole crowds.
        """
        rows, length = ids.shape
        if rows % crowd:
            raise ValueError(f"{rows} rows a process make no crowds of {crowd}: use fewer processes, or more rows")
        crowds = rows // crowd
        position = torch.arange(length, device=ids.device).repeat(crowd)
        row = torch.arange(crowd, device=ids.device).repeat_interleave(length)
        distance = position[:, None] - position
        own = (row[:, None] == row) & (distance >= 0)
        ids = ids.view(crowds, crowd * length)
        # One row's first token is every head's resting place; a crowd's would be that many.
        nobodys = torch.tensor(self.tokenizer.encode(BOS + PAD, add_special_tokens=False).ids, device=ids.device)
        known = ~torch.isin(ids, nobodys)
        mask = own | ((distance >= CROWD_DISTANCE) & known[:, None, :])
        scale = random.Random(self.step).uniform(*CROWDED_SCALE)
        attentions = [layer.self_attn for layer in self.model.model.layers]
        usual = attentions[0].scaling
        for attention in attentions:
            attention.scaling = usual * scale
        try:
            output = self.model.model(
                input_ids=ids,
                position_ids=position.expand(crowds, -1),
                attention_mask=mask[:, None],
                use_cache=False,
            )
        finally:
            for attention in attentions:
                attention.scaling = usual
        return output.last_hidden_state.view(rows, length, -1)

    def losses(self, maker: RowMaker, rows: int, crowd: int = 1) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss over ``rows`` new rows, of which ``crowd`` at a time see one another, and what to log of it."""
        batch = [maker.row("facts" if crowd > 1 else None) for _ in range(rows)]
        ids = torch.tensor([row.ids for row in batch], device=self.device)
        roles = torch.tensor([row.roles for row in batch], device=self.device)[:, 1:]
        recall = torch.tensor([row.kind == "recall" for row in batch], device=self.device)
        taught = (roles == VALUE) | (roles == RESTATEMENT)
        taught |= (
            (roles == LANGUAGE) & ~recall[:, None] & (torch.rand(roles.shape, device=self.device) < LANGUAGE_SHARE)
        )
        if crowd > 1:
            hidden = self.crowded(ids, crowd)[:, :-1]
        else:
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = self.model.lm_head(hidden[taught])
        targets, role = ids[:, 1:][taught], roles[taught]
        loss_of = functional.cross_entropy(logits, targets, reduction="none")
        weights = torch.zeros_like(loss_of)
        # Two tokens, since the space before a digit is one of its own.
        opening = (roles == VALUE) & (functional.pad(roles, (2, 0), value=LANGUAGE)[:, :-2] != VALUE)
        for which, weight in ((VALUE, 1.0), (RESTATEMENT, RESTATEMENT_WEIGHT), (LANGUAGE, LANGUAGE_WEIGHT)):
            chosen = role == which
            weights[chosen] = weight / chosen.sum().clamp(min=1)
        weights[opening[taught] & ~recall[:, None].expand_as(taught)[taught]] *= OPENING_WEIGHT
        with torch.no_grad():
            right = (logits.argmax(-1) == targets).float()
            in_recall = recall[:, None].expand_as(taught)[taught]
            value = role == VALUE
            shown = {
                "recall": right[value & in_recall],
                "value": right[value & ~in_recall],
                "opening": right[opening[taught] & ~in_recall],
                "restated": right[role == RESTATEMENT],
                "language_loss": loss_of[role == LANGUAGE],
            }
            figures = {name: part.mean().item() for name, part in shown.items() if len(part)}
        return (loss_of * weights).sum(), figures

    def run(self, progress: bool = True) -> LlamaForCausalLM:
        """Trains to the end of the plan and returns the model."""
        total = sum(stage.steps for stage in self.plan)
        sums: dict[str, list[float]] = defaultdict(list)
        maker: RowMaker | None = None
        bar = tqdm(total=total, initial=self.step, unit="step", disable=not progress or self.rank > 0)
        while self.step < total:
            started = time.perf_counter()
            stage = stage_of(self.step, self.plan)
            if maker is None or (maker.length, maker.recall_share) != (stage.length, stage.recall_share):
                maker = RowMaker(self.tokenizer, 0, stage.length, stage.recall_share)
            # Seeded by step, so that a resumed run sees the rows it would have seen.
            seed = (self.seed * 1_000_003 + self.step) * self.processes + self.rank
            maker.rng.seed(seed)
            torch.manual_seed(seed)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.plan)
            crowd = stage.crowd if random.Random(seed).random() < stage.crowded_share else 1
            loss, figures = self.losses(maker, stage.rows // self.processes, crowd)
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"the loss became {loss.item()} at step {self.step}; lower the learning rate")
            loss.backward()
            self._average_gradients()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.tokens += stage.rows * stage.length
            self.seconds += time.perf_counter() - started
            for name, figure in (("loss", loss.item()), *figures.items()):
                sums[name].append(figure)
            bar.update()
            if self.step % LOG_EVERY == 0:
                if self.rank == 0:
                    self._log(stage, {name: sum(values) / len(values) for name, values in sums.items()}, bar)
                sums.clear()
            if self.rank == 0 and (self.step % CHECKPOINT_EVERY == 0 or self.step == total):
                self.save()
        bar.close()
        return self.model.eval()

    def _average_gradients(self) -> None:
        if self.processes == 1:
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.processes
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _log(self, stage: Stage, figures: dict[str, float], bar: Any) -> None:
        record: dict[str, float] = {
            "step": self.step,
            "seconds": round(self.seconds),
            "tokens": self.tokens,
            "length": stage.length,
        }
        record |= {name: round(value, 4) for name, value in figures.items()}
        with self.log.open("a") as log:
            log.write(json.dumps(record) + "\n")
        bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()})
