"""Runs the kernels on the inputs of a case, and checks for writes outside of their buffers."""

import math

import torch
from flashmask_torch import Call
from reference import heads_first

NAMES = ('out', 'lse', 'dq', 'dk', 'dv')


class Guarded:
    """Allocates tensors of NaN (bytes of 255) each followed by a guard, and tells whether a guard was overwritten."""

    def __init__(self, guard_bytes):
        self.guards, self.guard_bytes = [], guard_bytes

    def __call__(self, shape, dtype, device):
        count = math.prod(shape)
        guard = self.guard_bytes // dtype.itemsize
        whole = torch.full(((count + guard) * dtype.itemsize,), 255, dtype=torch.uint8, device=device).view(dtype)
        self.guards.append(whole[count:])
        return whole[:count].view(shape)

    def broken(self):
        return torch.stack([(g.view(torch.uint8) != 255).any() for g in self.guards]).any()


def call_of(library, c, x, **options):
    return Call(library, x.q, x.k, x.v, x.mask, layout=c.layout, scale=c.scale, dropout=c.dropout, seed=c.seed,
                precision=c.precision, deterministic=c.deterministic, **options)  # fmt: skip


def actual_results(library, c, x, forward_only, guard_bytes=4096):
    """The results of the kernels, heads first, and problems with the buffers, in words."""
    guarded = Guarded(guard_bytes)
    call = call_of(library, c, x, allocate=guarded)
    names = NAMES[:2] if forward_only else NAMES
    runs = []
    for run in range(2 if c.deterministic else 1):
        # Of two runs one is given the plan of the mask, and the other makes it.
        if run == 0 and not call.bfloat16:
            call.make_plan()
        elif run == 1:
            call.plan = None
        call.forward()
        if not forward_only:
            call.backward(x.d_out, x.d_lse)
        runs.append({name: getattr(call, name).clone() for name in names})
    problems = []
    if guarded.broken():
        problems.append('wrote beyond a buffer')
    for name in names if c.deterministic else ():
        if not torch.equal(runs[0][name].view(torch.int32), runs[1][name].view(torch.int32)):
            problems.append(f'{name} differs between two runs')
    return {n: y if n == 'lse' else heads_first(y, c.layout) for n, y in runs[0].items()}, problems
