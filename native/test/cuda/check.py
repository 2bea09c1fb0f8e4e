r"""Checks the CUDA kernels in some thousand calls: against dense attention in float64, and poisoned calls against calls
without poison (poison.py):

    python3 native/test/cuda/check.py LIB.so [--forward-only] [--sixteen] [--filter TEXT] [--list] [--device cpu]
    python3 native/test/cuda/check.py LIB.so --random 10000 [--seed 1]
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck \
        python3 native/test/cuda/check.py LIB.so --sanitize --every 9

A result's error (norm over the tensor) may be twice that of dense attention in the precision under test ('float32':
eight times), plus a small fraction of a rounding step of the terms that are added up. Elements to which nothing is
added must be exactly 0 (lse -inf). NaN never passes. No byte outside outputs and scratch may change. The last line is
`N passed, M failed`.

--random runs random calls (random_calls.py) in a process of their own. It is killed if a call does not end, and the
call is told: `--random 1 --seed` and its number runs it again.
"""

import argparse
import math
import sys
import time
import traceback
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace

import torch
from calls import NAMES, actual_results, call_of
from cases import Inputs, all_cases
from flashmask_torch import Library
from poison import check_poison
from random_calls import random_case
from reference import UNIT, Dense, heads_first, kept, visible
from vectors import check_vectors
from watchdog import STEP, watch
from wrong_plans import check_plan

FACTOR = 2
# For 'float32'. Two halves have 22 bits of a float's 24, which shows where few terms are added up.
FACTOR32 = 8
REPEATS = 200
SHOWN = 40
# How long a random call may take, and the start of its process. Calls take milliseconds.
SECONDS = 60


# ---- one case ----


def run_alone(library, c, options):
    """For compute-sanitizer: runs only the kernels, on tensors that end where their allocations end."""
    with torch.no_grad():
        results, _ = actual_results(library, c, Inputs(c, options.device), options.forward_only, guard_bytes=0)
        bad = [name for name, x in results.items() if torch.isnan(x).any()]
    return [f'{name} has NaN' for name in bad], {}


def dense_results(c, x, see, keep, precision, forward_only):
    q, k, v, d_out = (heads_first(t, c.layout) for t in (x.q, x.k, x.v, x.d_out))
    scale = 1 / math.sqrt(c.D) if c.scale is None else c.scale
    dense = Dense(q, k, v, see, scale, keep, c.dropout, precision)
    out, lse = dense.forward()
    result = {'out': out, 'lse': lse}
    if not forward_only:
        result |= dict(zip(('dq', 'dk', 'dv'), dense.backward(d_out, x.d_lse)))
    sizes = dense.sizes(*(() if forward_only else (d_out, x.d_lse))) if precision == 'float64' else None
    return result, sizes


def norm(x):
    return torch.linalg.vector_norm(x.double())


def judge(actual, truth, dense, size, precision, factor):
    """Tensor of [count of NaN or inexact elements, error / allowed error, relative error]."""
    actual = actual.double()
    infinite = torch.isinf(truth)
    exact = infinite | ((size == 0) & (truth == 0))
    wrong = torch.where(exact, actual != truth, ~torch.isfinite(actual)).sum()
    zero = torch.zeros_like(truth)
    error, dense_error = (torch.where(exact, zero, y.double() - truth) for y in (actual, dense))
    size, value = torch.where(exact, zero, size), torch.where(infinite, zero, truth)
    unit = UNIT[precision]
    few = 0.1 + 4 / math.sqrt(truth.numel())
    allowed = factor * norm(dense_error) + few * unit * norm(size) + 2.0**-22 * norm(value)
    allowed_max = 2 * factor * dense_error.abs().max() + 4 * unit * size.abs().max() + 2.0**-22 * value.abs().max()
    ratio = torch.maximum(ratio_of(norm(error), allowed), ratio_of(error.abs().max(), allowed_max))
    return torch.stack([wrong.double(), ratio, norm(error) / norm(value).clamp_min(1e-300)])


def ratio_of(error, allowed):
    return torch.where(error == 0, 0.0, error / allowed)


def check_case(library, c, options):
    """Problems in words, and {result: [wrong, ratio, relative error]}."""
    forward_only = options.forward_only or c.forward_only
    with torch.no_grad():
        x = Inputs(c, options.device)
        see = visible(x.mask, c.B, c.H, c.Sq, c.Sk, options.device)
        keep = kept(c.B, c.H, c.Sq, c.Sk, c.dropout, c.seed, options.device) if c.dropout else None
        actual, problems = actual_results(library, c, x, forward_only)
        truth, sizes = dense_results(c, x, see, keep, 'float64', forward_only)
        dense, _ = dense_results(c, x, see, keep, c.precision, forward_only)
        factor = options.factor32 * c.factor32 if c.precision == 'float32' else FACTOR
        rows = torch.stack(
            [judge(actual[n], truth[n], dense[n], sizes[n], c.precision, factor) for n in actual]
        ).tolist()
    found = dict(zip(actual, rows))
    for name, (wrong, ratio, error) in found.items():
        if wrong or not ratio <= 1:
            what = (
                f'{wrong:.0f} elements NaN or inexact'
                if wrong
                else f'error {ratio:.2f} x allowed (relative {error:.1e})'
            )
            problems.append(f'{name} {what}')
    return problems, found


def check_sum(library, c, options):
    """Problems in words. The weights of a row add up to 1, so dv of all keys must add up to dO of all rows."""
    with torch.no_grad():
        x = Inputs(c, options.device)
        x.d_out = torch.ones_like(x.d_out)
        actual, problems = actual_results(library, c, x, options.forward_only)
        if not options.forward_only:
            error = (actual['dv'].double().sum(2) / c.Sq - 1).abs().max().item()
            if not error <= 2 * UNIT[c.precision] + 2.0**-21:
                problems.append(f'the weights of a row add up to 1 but for {error:.1e}')
    return problems, {}


def check_finite(library, c, options):
    """Problems in words."""
    with torch.no_grad():
        results, problems = actual_results(library, c, Inputs(c, options.device), options.forward_only)
        unseen = results['lse'] == -torch.inf
        results['lse'] = results['lse'].masked_fill(unseen, 0)
        return problems + [f'{name} is not finite' for name, x in results.items() if not torch.isfinite(x).all()], {}


def check_repeats(library, c, options):
    """Problems in words. Gradients must have the same bits in every run."""
    with torch.no_grad():
        x = Inputs(c, options.device)
        call = call_of(library, c, x)
        call.forward()
        bits = lambda: torch.cat([y.view(torch.int32).flatten() for y in (call.dq, call.dk, call.dv)])
        call.backward(x.d_out, x.d_lse)
        first = bits()
        differ = torch.zeros((), dtype=torch.int64, device=options.device)
        for _ in range(REPEATS):
            call.backward(x.d_out, x.d_lse)
            differ += (bits() != first).any()
    return [f'{differ} of {REPEATS} runs differ from the first'] if differ else [], {}


CHECKS = {
    'dense': check_case,
    'sum': check_sum,
    'poison': check_poison,
    'finite': check_finite,
    'plan': check_plan,
    'repeats': check_repeats,
}


def check_of(c, options):
    return run_alone if options.sanitize and c.check == 'dense' else CHECKS[c.check]


# ---- all of them ----


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('--filter', default='', help='only cases whose title has this text (several: a|b)')
    parser.add_argument('--every', type=int, default=1, help='only every n-th case')
    parser.add_argument('--forward-only', action='store_true')
    parser.add_argument('--sixteen', action='store_true', help='the 16-bit entry points')
    parser.add_argument('--factor32', type=float, default=FACTOR32, help="errors of dense attention for 'float32'")
    parser.add_argument('--precision', default='auto', help="of the cases whose precision is 'auto'")
    parser.add_argument('--device', default='cuda')
    parser.add_argument(
        '--sanitize', action='store_true', help='run small cases without the reference, for compute-sanitizer'
    )
    parser.add_argument('--random', type=int, default=0, metavar='N', help='N random calls, not the table of cases')
    parser.add_argument('--seed', type=int, default=1, help='number of the first random call')
    parser.add_argument('--unwatched', action='store_true', help='random calls in this process')
    parser.add_argument('--list', action='store_true', help='print the cases')
    return parser.parse_args()


def cases_of(options):
    numbers = range(options.seed, options.seed + options.random)
    cases = map(random_case, numbers) if options.random else all_cases(options.sixteen)
    wanted = options.filter.split('|')
    cases = [c for c in cases if any(text in c.title for text in wanted)]
    cases = [replace(c, precision=options.precision) if c.precision == 'auto' else c for c in cases]
    if options.forward_only:
        cases = [c for c in cases if c.check != 'repeats']
    if options.sanitize:
        cases = [c for c in cases if c.B * c.H * c.Sq * c.Sk <= 200_000]
    return cases[:: options.every]


def main():
    options = arguments()
    if options.random and not options.unwatched:
        sys.exit(watch([sys.executable, *sys.argv, '--unwatched'], SECONDS))
    cases = cases_of(options)
    if options.list:
        print('\n'.join(c.title for c in cases))
        return
    for problem in check_vectors():
        sys.exit(problem)
    started, library = time.time(), Library(options.library)
    failures, worst = [], defaultdict(lambda: [0.0, 0.0, ''])
    stream = torch.cuda.stream(torch.cuda.Stream()) if options.device == 'cuda' else nullcontext()
    with stream:
        for c in cases:
            if options.unwatched:
                print(f'{STEP}{c.title}', flush=True)
            try:
                problems, found = check_of(c, options)(library, c, options)
            except Exception as error:  # a CUDA error, after which no call may work
                problems, found = [''.join(traceback.format_exception_only(error)).strip()[:300]], {}
                failures.append((c, problems))
                if 'CUDA error' in problems[0] or 'cudaError' in problems[0]:
                    print('stopped at the first CUDA error')
                    break
                continue
            if problems:
                failures.append((c, problems))
            for name, (_, ratio, error) in found.items():
                if ratio > worst[c.precision, name][0]:
                    worst[c.precision, name] = [ratio, error, c.title]
    report(cases, failures, worst, time.time() - started)


def report(cases, failures, worst, seconds):
    for (precision, name), (ratio, error, title) in sorted(
        worst.items(), key=lambda x: (x[0][0], NAMES.index(x[0][1]))
    ):
        print(f'{precision:9} {name:4} worst error {ratio:5.2f} of allowed (relative {error:.1e}) in {title}')
    by_group = defaultdict(int)
    for c, _ in failures:
        by_group[c.group] += 1
    for c, problems in failures[:SHOWN]:
        more = f'; and {len(problems) - 4} more' if len(problems) > 4 else ''
        print(f'FAILED {c.title}: {"; ".join(problems[:4])}{more}')
    if len(failures) > SHOWN:
        print(f'... and {len(failures) - SHOWN} more; by group: {dict(by_group)}')
    print(f'{seconds:.0f} s')
    print(f'{len(cases) - len(failures)} passed, {len(failures)} failed')
    sys.exit(1 if failures else 0)


if __name__ == '__main__':
    main()
