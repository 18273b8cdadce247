"""SelfExtend attention, twice, under one contract: `eager` is readable and returns weights, `blockwise` is fast.

Both take, for t tokens of which the last q are queries:

    query_exact     (batch, heads, q, head_dim)     rotated at i
    query_grouped   (batch, heads, q, head_dim)     rotated at i // G_s + w_n - w_n // G_s
    key_exact       (batch, kv_heads, e, head_dim)  rotated at j: the last e tokens, e >= min(t, w_n + q - 1)
    key_grouped     (batch, kv_heads, t, head_dim)  rotated at j // G_s
    value_states    (batch, kv_heads, t, head_dim)

and give (batch, heads, q, head_dim). kv_heads divides heads (grouped-query attention). Causal: a query sees itself
and what came before. Neither knows anything about rotary embeddings, caches or models.
"""
