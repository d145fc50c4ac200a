"""The few functions in C that do the arithmetic of Linear and Conv2d layers."""

from __future__ import annotations


def taps(tile: int, bits: int) -> str:
    """`tile` neighbouring outputs of a convolution, in variables of their own: registers."""
    sums = range(tile)
    start = _rows([f"s{j} = bias" for j in sums], ", ", 6).replace("\n", ",\n" + " " * 10)
    add = _rows([f"s{j} += v * p[{j}];" for j in sums], " ", 4).replace("\n", "\n" + " " * 8)
    end = _rows([f"out[{j}] = s{j};" for j in sums], " ", 6).replace("\n", "\n    ")
    return f"""\
/* out[j] = bias + the sum over n weights of w[k] * in[at[k] + j]: {tile} in a row. */
static void taps_{tile}_u{bits}(const float *in, const float *w, const uint{bits}_t *at, int n,
    float bias, float *out)
{{
    float {start};
    for (int k = 0; k < n; ++k) {{
        const float *p = in + at[k];
        const float v = w[k];
        {add}
    }}
    {end}
}}
"""


def sparse_dot(bits: int) -> str:
    """One row of a sparse matrix times a vector."""
    return f"""\
/* bias + the sum over n weights of w[k] * in[at[k]]; four sums at once hide their latency. */
static float sparse_dot_u{bits}(const float *in, const float *w, const uint{bits}_t *at, int n,
    float bias)
{{
    float s0 = bias, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    for (; n > 3; n -= 4, w += 4, at += 4) {{
        s0 += w[0] * in[at[0]];
        s1 += w[1] * in[at[1]];
        s2 += w[2] * in[at[2]];
        s3 += w[3] * in[at[3]];
    }}
    if (n & 2) {{
        s0 += w[0] * in[at[0]];
        s1 += w[1] * in[at[1]];
        w += 2;
        at += 2;
    }}
    if (n & 1)
        s2 += w[0] * in[at[0]];
    return (s0 + s1) + (s2 + s3);
}}
"""


def dense_dot() -> str:
    """One row of a dense matrix times a vector."""
    start = _rows([f"s{j} = 0.0f" for j in range(16)], ", ", 6).replace("\n", ",\n" + " " * 10)
    terms = [f"s{j} += w[{j}] * in[{j}];" for j in range(16)]
    add = _rows(terms, " ", 4).replace("\n", "\n" + " " * 8)
    sums = [f"((s{j} + s{j + 8}) + (s{j + 4} + s{j + 12}))" for j in range(4)]
    return f"""\
/* bias + the sum of w[k] * in[k]; sixteen sums at once, so that they can be vectors. */
static float dense_dot(const float *in, const float *w, int n, float bias)
{{
    float {start};
    for (; n > 15; n -= 16, w += 16, in += 16) {{
        {add}
    }}
    for (; n > 3; n -= 4, w += 4, in += 4) {{
        {" ".join(terms[:4])}
    }}
    for (; n > 0; --n, ++w, ++in)
        bias += w[0] * in[0];
    return bias + (({sums[0]} + {sums[1]})
        + ({sums[2]} + {sums[3]}));
}}
"""


def _rows(parts: list[str], between: str, per_row: int) -> str:
    return "\n".join(between.join(parts[i : i + per_row]) for i in range(0, len(parts), per_row))
