"""Gives calls wrong plans. With the plan of another mask a call must compute attention under that one, forward and
backward, because all its kernels take the mask from the plan. With plans that contradict each other or are damaged its
results mean nothing, but it must end without an error."""

from dataclasses import replace

import torch
from calls import NAMES
from cases import Inputs
from flashmask_torch import Call


def check_plan(library, c, options):
    """Problems in words. The case must have bounds."""
    with torch.no_grad():
        x, other = Inputs(c, options.device), Inputs(replace(c, name=f'{c.name}, another mask'), options.device)
        calls = [call_of(library, replace(c, deterministic=True), x, mask) for mask in (other.mask, x.mask)]
        calls[1].plan = plan_of(calls[0])
        for call in calls:
            call.forward()
            call.backward(x.d_out, x.d_lse)
        adding = replace(c, deterministic=False)
        run_contradicting(adding, call_of(library, adding, x, x.mask), x, calls[1].plan)
        expected, found = ([getattr(call, name).view(torch.int32) for name in NAMES] for call in calls)
        different = [name for name, a, b in zip(NAMES, expected, found) if not torch.equal(a, b)]
    return [f'{name} is not that of the mask of the plan' for name in different], {}


def call_of(library, c, x, mask):
    return Call(library, x.q, x.k, x.v, mask, layout=c.layout, scale=c.scale, dropout=c.dropout, seed=c.seed,
                precision=c.precision, deterministic=c.deterministic)  # fmt: skip


def plan_of(call):
    call.make_plan()
    plan, call.plan = call.plan, None
    return plan


def run_contradicting(c, call, x, other):
    own = plan_of(call)
    plans = [(own, other)]
    # Kernels before Hopper, and those of float32, trust a plan.
    if c.precision != 'float32' and (x.device != 'cuda' or torch.cuda.get_device_capability() == (9, 0)):
        damaged = own.clone()
        damaged[len(damaged) // 3 :].random_()
        plans.append((damaged, damaged))
    for forward, backward in plans:
        call.plan = forward
        call.forward()
        call.plan = backward
        call.backward(x.d_out, x.d_lse)
    if x.device == 'cuda':
        torch.cuda.synchronize()
