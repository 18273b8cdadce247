"""Plain attention that also returns its log-sum-exp, so that pieces of one softmax can be joined.

Uses torch's own fused kernels where the device has one that returns the log-sum-exp; everything else (other
devices, soft-cap, odd head sizes) goes through matrix products in pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from selfextend.attention.cpu import attend_cpu
from selfextend.attention.pieces import Piece, empty_piece

_Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, bool], Piece]
"""(query, key, value, scaling, is_causal) -> piece."""

_SCORES_AT_ONCE = 1 << 24
"""Scores that the portable kernel holds at a time: 64 MB in fp32."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
    is_causal: bool = False,
    softcap: float | None = None,
) -> Piece:
    """Attention of (batch, heads, q, head_dim) queries over (batch, kv_heads, k, head_dim) keys and values, k >= 1.

    With `is_causal`, query r sees keys 0 ... r, counted from the first key (top-left aligned), whatever q and k are.
    """
    fused = None if softcap is not None else _fused_kernel(query)
    if not is_causal and query.shape[1] != key.shape[1] and query.shape[2] == 1:
        # The heads that share keys become queries of one head: keys and values are read once.
        packed = query.reshape(query.shape[0], key.shape[1], -1, query.shape[-1])
        output, lse = attend(packed, key, value, scaling=scaling, softcap=softcap)
        return output.reshape(*query.shape[:3], -1), lse.reshape(query.shape[:3])
    if fused is None:
        return portable_attend(query, key, value, scaling, is_causal, softcap)
    return fused(query, key, value, scaling, is_causal)


def on_cpu(query: torch.Tensor, softcap: float | None) -> bool:
    """Whether a band of these states is for `selfextend.attention.cpu.attend_banded_cpu`."""
    return softcap is None and query.device.type == "cpu"


def portable_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    is_causal: bool,
    softcap: float | None = None,
) -> Piece:
    """`attend` from matrix products alone, for any device and dtype, a bounded number of scores at a time."""
    batch, heads, q_len, _ = query.shape
    kv_heads, kv_len = key.shape[1], key.shape[2]
    accumulate = torch.promote_types(query.dtype, torch.float32)
    output, lse = empty_piece(query, value)
    rows = max(1, _SCORES_AT_ONCE // max(1, batch * heads * kv_len))
    keys, values = key[:, :, None].transpose(-1, -2), value[:, :, None]
    for start in range(0, q_len, rows):
        stop = min(start + rows, q_len)
        by_kv_head = query[:, :, start:stop].unflatten(1, (kv_heads, -1))
        scores = (by_kv_head @ keys).to(accumulate).mul_(scaling)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if is_causal:
            seen = torch.arange(kv_len, device=query.device) <= torch.arange(start, stop, device=query.device)[:, None]
            scores.masked_fill_(~seen, -torch.inf)
        piece_lse = torch.logsumexp(scores, dim=-1, keepdim=True)
        weights = scores.sub_(piece_lse).exp_().to(value.dtype)
        output[:, :, start:stop] = (weights @ values).flatten(1, 2)
        lse[:, :, start:stop] = piece_lse[..., 0].flatten(1, 2)
    return output, lse


def _fused_kernel(query: torch.Tensor) -> _Kernel | None:
    """The fused kernel for these states, or None. None of them gives gradients of the log-sum-exp."""
    if query.device.type == "cpu":
        return attend_cpu
    if query.device.type == "cuda":
        kernel = _cuda_flash if query.dtype in (torch.float16, torch.bfloat16) else _cuda_efficient
        return kernel if _agrees(kernel, query.device, query.dtype, query.shape[-1]) else None
    return None


def _cuda_flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, is_causal: bool) -> Piece:
    return _with_square_causal(_cuda_flash_piece, query, key, value, scaling, is_causal)


def _cuda_efficient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, is_causal: bool
) -> Piece:
    return _with_square_causal(_cuda_efficient_piece, query, key, value, scaling, is_causal)


def _with_square_causal(
    kernel: _Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, is_causal: bool
) -> Piece:
    """Give CUDA's kernels only square causal calls: on others they disagree about where the diagonal starts."""
    q_len, kv_len = query.shape[2], key.shape[2]
    if not is_causal or q_len == kv_len:
        return kernel(query, key, value, scaling, is_causal)
    if q_len < kv_len:
        return kernel(query, key[:, :, :q_len], value[:, :, :q_len], scaling, True)
    corner = kernel(query[:, :, :kv_len], key, value, scaling, True)
    below = kernel(query[:, :, kv_len:], key, value, scaling, False)
    return torch.cat((corner[0], below[0]), dim=2), torch.cat((corner[1], below[1]), dim=2)


def _cuda_flash_piece(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, is_causal: bool
) -> Piece:
    result = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scaling)
    return result[0], result[1][..., : query.shape[2]]


def _cuda_efficient_piece(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, is_causal: bool
) -> Piece:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    result = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, is_causal, scale=scaling
    )
    return result[0], result[1][..., : query.shape[2]]


@cache
def _agrees(kernel: _Kernel, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether a private CUDA kernel gives what the portable one gives: they may change from release to release."""
    generator = torch.Generator(device=device).manual_seed(0)

    def states(heads: int, length: int) -> torch.Tensor:
        return torch.randn(1, heads, length, head_dim, device=device, generator=generator).to(dtype)

    query, key, value = states(4, 48), states(2, 48), states(2, 48)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    try:
        for is_causal in (False, True):
            got = kernel(query, key, value, head_dim**-0.5, is_causal)
            want = portable_attend(
                query.float(), key.float(), value.float(), scaling=head_dim**-0.5, is_causal=is_causal
            )
            if any((a.float() - b).abs().max() > tolerance for a, b in zip(got, want, strict=True)):
                return False
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True
