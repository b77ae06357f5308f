"""What a kernel body is told: the positions of its int64 words, the same for both directions."""

from __future__ import annotations

NAMES = (
    "next",  # the counter threads take chunks from
    "chunks",
    "tokens",
    "rank",
    "half",  # 1 where x, y and their gradients are bfloat16, 0 where they are float32
    "scale",  # a float32, in the word's lower half
    "k",
    "d",
    "degree_a",
    "degree_b",
    "index_a",  # addresses from here on
    "index_b",
    "values_a",
    "values_b",
    "x",
    "y",
    "out",
    "h",
    "grad",
    "grad_h",
    "grad_x",  # the rest are 0 where they are not wanted
    "sums_a",
    "sums_b",
    "add",  # 1 to add to what grad_x holds
    "grad_a",
    "grad_b",
)

(
    NEXT,
    CHUNKS,
    TOKENS,
    RANK,
    HALF,
    SCALE,
    K,
    D,
    DEGREE_A,
    DEGREE_B,
    INDEX_A,
    INDEX_B,
    VALUES_A,
    VALUES_B,
    X,
    Y,
    OUT,
    H,
    GRAD,
    GRAD_H,
    GRAD_X,
    SUMS_A,
    SUMS_B,
    ADD,
    GRAD_A,
    GRAD_B,
) = range(len(NAMES))
