"""A network as C99 source: one file and its header, for anything that has a C compiler.

Nothing is allocated and no library is called; weights that are zero cost neither time nor memory.
docs/export.md has the method and the figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.errors import TicketError
from analysis.exports.c_loops import LoopFunction, loop_function
from analysis.exports.c_text import identifier
from trainers.bounds.program import Program
from trainers.lowering.memory import Loop, MemoryPlan, memory_plan


@dataclass(frozen=True)
class CSource:
    """The text of <name>.h and <name>.c, and the plan that they follow."""

    name: str
    header: str
    source: str
    plan: MemoryPlan


def c_source(program: Program, input_shape: Sequence[int], name: str = "model") -> CSource:
    """Write a network (best: `trainers.lowering.simplify`'s) as C for one example at a time.

    The same network gives the same bytes. Raises UnsupportedLayer, naming the step, for what is
    not written in C; ModelError for weights that are not finite; TicketError for a `name` that is
    no C identifier.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise TicketError(
            f"name {name!r}: it becomes the name of C functions and files, so it must be small "
            "letters, digits and underscores, and begin with a letter"
        )
    plan = memory_plan(program, input_shape)
    functions = [
        loop_function(plan.fusion, loop, function)
        for loop, function in zip(plan.loops, _names(plan, plan.loops), strict=True)
    ]
    header = _header(name, plan, tuple(input_shape))
    return CSource(name, header, _source(name, plan, functions), plan)


def _names(plan: MemoryPlan, loops: Sequence[Loop]) -> list[str]:
    """The functions' names: from the layer's, or the result's, with a number where it is taken."""
    names: list[str] = []
    for loop in loops:
        fused = loop.draft.fused
        value = fused.result if fused.kernel is None else fused.kernel
        place = "input" if value == 0 else identifier(plan.fusion.place(value))
        name = f"layer_{place}"
        if name in names:
            name = f"{name}_{len(names)}"
        names.append(name)
    return names


def _header(name: str, plan: MemoryPlan, input_shape: tuple[int, ...]) -> str:
    upper = name.upper()
    guard = f"{upper}_H"
    order = "x".join(str(n) for n in input_shape)
    kinds = "channels, rows, columns" if len(input_shape) == 3 else "features"
    return f"""\
/* A neural network in C99, written by goldenticket.

   Input: {plan.num_inputs} floats, {order} ({kinds}; the last index runs fastest), in [0, 1].
   Output: {plan.num_outputs} logits, one for each class.
   Read-only data: {plan.flash_bytes} bytes. Workspace: {plan.ram_bytes} bytes.

   Compile {name}.c with -O3 and your processor's options. ISO modes (-std=c99) keep compilers from
   fusing multiplications and additions: -std=gnu99 or -ffp-contract=fast is a little faster where
   the processor can do it, and rounds a little differently. */
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_INPUTS {plan.num_inputs}
#define {upper}_LOGITS {plan.num_outputs}
#define {upper}_WORKSPACE {plan.workspace} /* floats */
#define {upper}_FLASH_BYTES {plan.flash_bytes} /* weights and constants, without code */
#define {upper}_RAM_BYTES {plan.ram_bytes} /* the workspace */

/* The logits of one example. Uses a static workspace: one call at a time. */
void {name}_logits(const float *x, float *logits);

/* The class with the greatest logit. Uses the same static workspace. */
int {name}_predict(const float *x);

/* The same with a workspace of the caller's: {upper}_WORKSPACE floats, which may hold anything.
   Calls with different workspaces may run at the same time. */
void {name}_logits_in(float *workspace, const float *x, float *logits);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _source(name: str, plan: MemoryPlan, functions: Sequence[LoopFunction]) -> str:
    kernels: dict[str, str] = {}
    for function in functions:
        kernels.update(function.kernels)
    calls = [f"    {function.call}" for function in functions]
    used = {word for call in calls for word in re.findall(r"\w+", call.partition("(")[2])}
    calls = [f"    (void){unused};" for unused in ("workspace", "x") if unused not in used] + calls
    upper, body = name.upper(), "\n".join(calls)
    end = f"""\
void {name}_logits_in(float *workspace, const float *x, float *logits)
{{
{body}
}}

static float workspace[{upper}_WORKSPACE];

void {name}_logits(const float *x, float *logits)
{{
    {name}_logits_in(workspace, x, logits);
}}

int {name}_predict(const float *x)
{{
    float logits[{upper}_LOGITS];
    int best = 0;
    {name}_logits(x, logits);
    for (int k = 1; k < {upper}_LOGITS; ++k)
        if (logits[k] > logits[best])
            best = k;
    return best;
}}
"""
    texts = [kernels[kernel] for kernel in sorted(kernels)]
    texts += [function.text for function in functions]
    head = f'/* See {name}.h. */\n#include "{name}.h"\n\n#include <stdint.h>\n'
    return "\n".join([head, *texts, end])
