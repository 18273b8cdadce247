"""Attention over bands of distance, twice, under one contract: `eager` is readable and returns weights, `blockwise` is
fast.

A band holds the keys at some distances from the query, nearest band first; SelfExtend has two, neighbors and grouped
keys. Both versions take, for t tokens of which the last q are queries, and n bands:

    queries         n times (batch, heads, q, head_dim)     rotated as each band has them
    keys            n times (batch, kv_heads, e, head_dim)  rotated as each band has them: the last e tokens, with
                                                            e >= min(t, end + q - 1); for the last band e = t
    value_states    (batch, kv_heads, t, head_dim)
    ends            n - 1 distances: band m holds keys at distances below ends[m], from where the band before it ends

and give (batch, heads, q, head_dim): one softmax over all bands. kv_heads divides heads (grouped-query attention).
Causal: a query sees itself and what came before.
"""
