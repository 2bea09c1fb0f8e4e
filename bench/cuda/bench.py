"""Times the CUDA kernels next to other attentions (peers.py), in one process, on the same masks:

    python3 bench/cuda/bench.py LIB.so [--masks causal,...] [--lengths 8192] [--dims 128,64] [--out FILE.jsonl]
    python3 bench/cuda/bench.py LIB.so --quick            our kernels alone: seconds, for tuning
    python3 bench/cuda/bench.py LIB.so --dtype float32    from float32 tensors, next to FlexAttention on TF32
    python3 bench/cuda/bench.py LIB.so --quick --deterministic    and what the same bits in every run cost

TFLOP/s count visible pairs only: 2 D + 2 Dv operations per pair forward, 6 D + 4 Dv backward. --out gets one line of
JSON per measurement; `npm run bench -- tables --from FILE.jsonl` shows them side by side. The last lines are those of
summary.py.
"""

import argparse
import fcntl
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable

import checks_path  # noqa: F401
import torch
from flashmask_torch import Call, Library
from masks import NAMES, build, visible_pairs
from peers import PEERS
from reference import Dense, visible
from summary import geometric_mean, show_summary, sizes_of

WARM_UP_SECONDS = 0.5
QUICK_SECONDS = 0.1


@contextmanager
def held(turns, how):
    """Holds the lock of all processes that name the same file. Those that compile share it (LOCK_SH), and one that
    measures has it alone (LOCK_EX): so nothing else runs beside a measurement."""
    if turns is None:
        yield
        return
    with open(turns, 'w') as file:
        fcntl.flock(file, how)
        yield


def milliseconds(run, seconds):
    """(best, median) time of one run. Runs batches of about 20 ms for `seconds`, after a warm-up that raises the GPU's
    clock."""
    run()
    torch.cuda.synchronize()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < min(WARM_UP_SECONDS, seconds):
        run()
        torch.cuda.synchronize()
        count += 1
    repeats = max(1, round(0.02 * count / (time.perf_counter() - started)))
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / repeats)
    return min(times), sorted(times)[len(times) // 2]


class Setting:
    """Inputs of one mask, length and head sizes: q and k [B, H, N, D], v [B, H, N, Dv]."""

    def __init__(self, name, N, D, options):
        self.name, self.N, self.D, self.B, self.H = name, N, D, options.batch, options.heads
        self.Dv = options.value_dim or D
        self.options, self.dtype = options, getattr(torch, options.dtype)
        self.mask = build(name, N, self.B, 'cuda')
        self.pairs = visible_pairs(self.mask.mask, self.B, N, 'cuda') * self.H
        on_gpu = {'generator': torch.Generator('cuda').manual_seed(1), 'device': 'cuda'}
        draw = lambda heads, size: torch.randn(self.B, heads, N, size, **on_gpu).to(self.dtype)
        self.q, self.k = draw(self.H, D), draw(options.kv_heads, D)
        self.v, self.d_out = draw(options.kv_heads, self.Dv), draw(self.H, self.Dv)

    def call(self):
        """What a record says of the call."""
        result = {
            'suite': 'cuda', 'backend': 'cuda', 'device': torch.cuda.get_device_name(),
            'mask': self.name, 'B': self.B, 'N': self.N, 'H': self.H,
            'Hkv': self.options.kv_heads, 'D': self.D, 'masked': 1 - self.pairs / (self.B * self.H * self.N**2),
            'input': self.options.dtype,
        }  # fmt: skip
        return result | ({'Dv': self.Dv} if self.Dv != self.D else {})

    def flops(self, name):
        """Operations of a pass."""
        return (6 * self.D + 4 * self.Dv if 'ackward' in name else 2 * self.D + 2 * self.Dv) * self.pairs


@dataclass
class Attention:
    """An attention whose passes can be timed at once, because they have run and so are compiled."""

    name: str
    passes: dict[str, Callable]
    facts: dict  # what its record says besides

    def record(self, s):
        """One line of the JSON file. Times the passes."""
        result = {**s.call(), 'attention': self.name, **self.facts}
        for name, run in self.passes.items():
            best, median = milliseconds(run, s.options.seconds)
            speed = s.flops(name) / best / 1e9
            result |= {f'{name}Ms': best, f'{name}MedianMs': median, f'{name}Tflops': speed}
        return result


def flash_call(library, s, deterministic):
    return Call(
        library, s.q, s.k, s.v, s.mask.mask,
        layout='bhsd', precision=s.options.precision, deterministic=deterministic,
    )  # fmt: skip


def flash(library, s):
    """Our kernels, which have run once, and their results."""
    call = flash_call(library, s, s.options.deterministic)
    passes = {'forward': call.forward}
    if not s.options.forward_only:
        passes['backward'] = lambda: call.backward(s.d_out)
        if s.options.deterministic:
            plain = flash_call(library, s, False)
            plain.forward()
            passes['plainBackward'] = lambda: plain.backward(s.d_out)
    for run in passes.values():
        run()
    facts = {'precision': s.options.precision, 'rowsError': rows_error(s, call.out)}
    return Attention('flash', passes, facts), [x for x in (call.out, call.dq, call.dk, call.dv) if x is not None]


def rows_error(s, out):
    """Relative error of a few rows of out against float64, so that a wrong kernel is noticed."""
    error = size = 0.0
    for first in range(0, s.N, max(1, s.N // 8)):
        rows = slice(first, first + 2)
        see = visible(s.mask.mask, s.B, s.H, s.N, s.N, 'cuda', first_row=first, rows=2)[:1]
        dense = Dense(s.q[:1, :, rows], s.k[:1], s.v[:1], see, s.D**-0.5, None, 0.0, 'float64')
        truth = dense.forward()[0].nan_to_num()
        error += float(((out[:1, :, rows] - truth) ** 2).sum())
        size += float((truth**2).sum())
    return (error / size) ** 0.5


def peer(s, name, ours):
    """Another attention, which has run with its gradient. `ours`: our results."""
    kind = PEERS[name]
    laid_out = lambda x: x.transpose(1, 2).contiguous() if kind.rows_first else x
    inputs = [laid_out(x).detach().requires_grad_() for x in (s.q, s.k, s.v)]
    d_out = laid_out(s.d_out)
    run = kind.make(s)
    out = run(*inputs)

    @torch.no_grad
    def forward():
        run(*inputs)

    passes = {'forward': forward}
    if not s.options.forward_only:
        passes['backward'] = lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True)
    forward()
    results = [out.detach(), *(passes['backward']() if 'backward' in passes else ())]
    torch.cuda.synchronize()
    differences = {'differences': [relative(*pair) for pair in zip(ours, results)]} if name == 'flex' else {}
    return Attention(name, passes, differences)


def relative(ours, theirs):
    return float(torch.linalg.vector_norm(ours.float() - theirs.float()) / torch.linalg.vector_norm(theirs.float()))


def attentions(library, s, said):
    """Yields our kernels and, unless in a hurry, the peers that run. One does not if it is not installed, has no kernel
    for this size, or is out of memory. Says why, each reason once."""
    torch._dynamo.reset()
    ours, results = flash(library, s)
    yield ours
    for name in () if s.options.quick else [name for name in s.options.peers if PEERS[name].runs(s)]:
        try:
            yield peer(s, name, results)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            words = f'{name} does not run: {reason[:150]}'
            if words not in said:
                print(f'    {words}', flush=True)
            said.add(words)


def cost(record):
    """Times the time without `deterministic` that the backward takes with it."""
    return record['backwardMs'] / record['plainBackwardMs']


def show(record, out):
    """Prints a record, and adds it to the file."""
    speeds = [
        f'{key} {record[key + "Ms"]:8.3f} ms {record[key + "Tflops"]:6.1f} TFLOP/s'
        for key in ('forward', 'backward')
        if key + 'Ms' in record
    ]
    if 'plainBackwardMs' in record:
        speeds.append(f'{cost(record):4.2f}x the plain backward')
    errors = [f'{x:.0e}' for x in (record.get('rowsError'), *record.get('differences', [])) if x is not None]
    print(
        f'{record["mask"]:20} N {record["N"]:6} D {sizes_of(record):>7} {record["attention"]:10} {"  ".join(speeds)}'
        f'{"  errors " if errors else ""}{" ".join(errors)}',
        flush=True,
    )
    if out:
        rounded = {k: float(f'{v:.5g}') if isinstance(v, float) else v for k, v in record.items()}
        with open(out, 'a') as file:
            file.write(json.dumps(rounded) + '\n')


def compare(library, name, N, D, options, said):
    """Times our kernels next to the peers. Returns the records by attention."""
    records, started = {}, time.perf_counter()
    with held(options.turns, fcntl.LOCK_SH):
        s = Setting(name, N, D, options)
        ready = list(attentions(library, s, said))
        torch.cuda.empty_cache()
    if options.turns:
        print(f'{name} N {N} D {D}: compiled in {time.perf_counter() - started:.0f} s', flush=True)
    with held(options.turns, fcntl.LOCK_EX):
        for attention in ready:
            records[attention.name] = attention.record(s)
            show(records[attention.name], options.out)
    return records


def show_cost(rows):
    """What `deterministic` costs."""
    costs = [cost(row['flash']) for row in rows]
    print(
        f'deterministic backward: geometric mean {geometric_mean(costs):.3f}x, at most {max(costs):.3f}x the plain one'
    )


def arguments():
    words = lambda text: text.split(',')
    numbers = lambda text: [int(x) for x in text.split(',')]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('--masks', type=words, default=NAMES)
    parser.add_argument('--lengths', type=numbers, default=[8192])
    parser.add_argument('--dims', type=numbers, default=[128, 64])
    parser.add_argument('--peers', type=words, default=list(PEERS), help=f'of {", ".join(PEERS)}')
    parser.add_argument('--value-dim', type=int, help='channels of a value head (those of --dims)')
    parser.add_argument('--heads', type=int, default=32)
    parser.add_argument('--kv-heads', type=int)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--dtype', default='bfloat16', choices=['bfloat16', 'float16', 'float32'])
    parser.add_argument('--precision', help='of float32 tensors (auto)')
    parser.add_argument('--seconds', type=float, default=0.5, help='of measuring, each')
    parser.add_argument('--out', help='JSON lines are appended to it')
    parser.add_argument('--turns', metavar='FILE', help='processes with the same measure in turn, while none compiles')
    parser.add_argument('--quick', action='store_true', help='without PyTorch, a tenth of the time')
    for flag in ('--forward-only', '--deterministic'):
        parser.add_argument(flag, action='store_true')
    options = parser.parse_args()
    options.kv_heads = options.kv_heads or options.heads
    options.precision = options.precision or ('auto' if options.dtype == 'float32' else options.dtype)
    options.seconds = min(options.seconds, QUICK_SECONDS) if options.quick else options.seconds
    return options


def main():
    options = arguments()
    torch._dynamo.config.recompile_limit = 64
    torch.set_float32_matmul_precision('high')
    library = Library(options.library)
    print(f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; {vars(options)}', flush=True)
    rows, said = [], set()
    for N in options.lengths:
        for D in options.dims:
            for name in options.masks:
                rows.append(compare(library, name, N, D, options, said))
                torch.cuda.empty_cache()
    show_summary(rows)
    if options.deterministic and not options.forward_only:
        show_cost(rows)


if __name__ == '__main__':
    main()
