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
def turn_of(file):
    """Waits until no other process measures on this GPU."""
    if file is None:
        yield
        return
    with open(file, 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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

    def record(self, attention, forward, backward, **more):
        """One line of the JSON file. Times both passes; None leaves the backward out."""
        result = {
            'suite': 'cuda', 'backend': 'cuda', 'device': torch.cuda.get_device_name(),
            'mask': self.name, 'B': self.B, 'N': self.N, 'H': self.H,
            'Hkv': self.options.kv_heads, 'D': self.D, 'masked': 1 - self.pairs / (self.B * self.H * self.N**2),
            'attention': attention, 'input': self.options.dtype, **more,
        }  # fmt: skip
        if self.Dv != self.D:
            result['Dv'] = self.Dv
        D, Dv = self.D, self.Dv
        for key, run, flops in (('forward', forward, 2 * D + 2 * Dv), ('backward', backward, 6 * D + 4 * Dv)):
            if run:
                run()  # the first call compiles
                torch.cuda.synchronize()
                with turn_of(self.options.turns):
                    best, median = milliseconds(run, self.options.seconds)
                speed = flops * self.pairs / best / 1e9
                result |= {f'{key}Ms': best, f'{key}MedianMs': median, f'{key}Tflops': speed}
        return result


def flash_call(library, s, deterministic):
    return Call(
        library, s.q, s.k, s.v, s.mask.mask,
        layout='bhsd', precision=s.options.precision, deterministic=deterministic,
    )  # fmt: skip


def flash(library, s):
    """Times our kernels. Returns the record and the results."""
    forward_only, deterministic = s.options.forward_only, s.options.deterministic
    call = flash_call(library, s, deterministic)
    backward = None if forward_only else lambda: call.backward(s.d_out)
    record = s.record('flash', call.forward, backward, precision=s.options.precision)
    if backward and deterministic:
        plain = flash_call(library, s, False)
        plain.forward()
        record['plainBackwardMs'] = milliseconds(lambda: plain.backward(s.d_out), s.options.seconds)[0]
    record['rowsError'] = rows_error(s, call.out)
    return record, [x for x in (call.out, call.dq, call.dk, call.dv) if x is not None]


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


def peer_run(s, attention, said):
    """Times another attention with its gradient. Returns the record and the results, or None where it does not run: it
    is not installed, has no kernel for this size, or is out of memory. Says why, each reason once."""
    peer = PEERS[attention]
    laid_out = lambda x: x.transpose(1, 2).contiguous() if peer.rows_first else x
    inputs = [laid_out(x).detach().requires_grad_() for x in (s.q, s.k, s.v)]
    d_out = laid_out(s.d_out)
    try:
        run = peer.make(s)
        out = run(*inputs)
        grads = lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True)

        @torch.no_grad
        def forward():
            run(*inputs)

        record = s.record(attention, forward, None if s.options.forward_only else grads)
        results = [out.detach(), *([] if s.options.forward_only else grads())]
        return record, [x.transpose(1, 2) if peer.rows_first else x for x in results]
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        words = f'{attention} does not run: {reason[:150]}'
        if words not in said:
            print(f'    {words}', flush=True)
        said.add(words)
        return None


def relative(ours, theirs):
    return float(torch.linalg.vector_norm(ours.float() - theirs.float()) / torch.linalg.vector_norm(theirs.float()))


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


def compare(library, s, said):
    """Times our kernels and, unless in a hurry, the peers. Returns the records by attention."""
    record, results = flash(library, s)
    show(record, s.options.out)
    records = {'flash': record}
    for name in () if s.options.quick else [name for name in s.options.peers if PEERS[name].runs(s)]:
        other = peer_run(s, name, said)
        if other:
            records[name], theirs = other
            if name == 'flex':
                records[name]['differences'] = [relative(*pair) for pair in zip(results, theirs)]
            show(records[name], s.options.out)
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
    parser.add_argument('--turns', metavar='FILE', help='processes with the same one measure in turn')
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
                rows.append(compare(library, Setting(name, N, D, options), said))
                torch.cuda.empty_cache()
    show_summary(rows)
    if options.deterministic and not options.forward_only:
        show_cost(rows)


if __name__ == '__main__':
    main()
