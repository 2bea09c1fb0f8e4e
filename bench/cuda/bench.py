"""Times the CUDA kernels next to PyTorch's FlexAttention and SDPA, in one process, on the same masks:

    python3 bench/cuda/bench.py LIB.so [--masks causal,...] [--lengths 8192] [--dims 128,64] [--out FILE.jsonl]
    python3 bench/cuda/bench.py LIB.so --quick            our kernels alone: seconds, for tuning
    python3 bench/cuda/bench.py LIB.so --dtype float32    from float32 tensors, next to FlexAttention on TF32

TFLOP/s count visible pairs only: 4 D operations per pair forward, 10 D backward. With --value-dim Dv, the head size of
values and outputs, these are 2 D + 2 Dv and 6 D + 4 Dv. --out gets one line of JSON per
measurement; `npm run bench -- tables --from FILE.jsonl` shows them side by side.
"""

import argparse
import json
import time

import checks_path  # noqa: F401
import torch
import torch.nn.functional as F
from flashmask_torch import Call, Library
from masks import NAMES, build, visible_pairs
from reference import Dense, visible
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

WARM_UP_SECONDS = 0.5
QUICK_SECONDS = 0.1
SDPA = {'cudnn': SDPBackend.CUDNN_ATTENTION, 'fa2': SDPBackend.FLASH_ATTENTION}


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
    """Inputs of one mask, length and head size, [B, H, N, D]."""

    def __init__(self, name, N, D, options):
        self.name, self.N, self.D, self.B, self.H = name, N, D, options.batch, options.heads
        self.Dv = options.value_dim or D
        self.options, self.dtype = options, getattr(torch, options.dtype)
        self.mask = build(name, N, self.B, 'cuda')
        self.pairs = visible_pairs(self.mask.mask, self.B, N, 'cuda') * self.H
        generator = torch.Generator('cuda').manual_seed(1)
        draw = lambda *shape: torch.randn(self.B, *shape, generator=generator, device='cuda').to(self.dtype)
        self.q, self.k = draw(self.H, N, D), draw(options.kv_heads, N, D)
        self.v, self.d_out = draw(options.kv_heads, N, self.Dv), draw(self.H, N, self.Dv)

    def record(self, attention, forward, backward, **more):
        """One line of the JSON file. Times both passes; None leaves the backward out."""
        result = {
            'suite': 'cuda', 'backend': 'cuda', 'device': torch.cuda.get_device_name(),
            'mask': self.name, 'B': self.B, 'N': self.N, 'H': self.H,
            'Hkv': self.options.kv_heads, 'D': self.D, 'Dv': self.Dv,
            'masked': 1 - self.pairs / (self.B * self.H * self.N**2),
            'attention': attention, 'input': self.options.dtype, **more,
        }  # fmt: skip
        operations = {'forward': 2 * (self.D + self.Dv), 'backward': 6 * self.D + 4 * self.Dv}  # of a pair
        for key, run in (('forward', forward), ('backward', backward)):
            if run:
                best, median = milliseconds(run, self.options.seconds)
                speed = operations[key] * self.pairs / best / 1e9
                result |= {f'{key}Ms': best, f'{key}MedianMs': median, f'{key}Tflops': speed}
        return result


def flash(library, s):
    """Times our kernels. Returns the record and the results."""
    precision, forward_only = s.options.precision, s.options.forward_only
    call = Call(
        library, s.q, s.k, s.v, s.mask.mask,
        layout='bhsd', precision=precision, deterministic=s.options.deterministic,
    )  # fmt: skip
    backward = None if forward_only else lambda: call.backward(s.d_out)
    record = s.record('flash', call.forward, backward, precision=precision)
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


def of_pytorch(s, attention, make):
    """Times an attention of PyTorch with its gradient. Returns the record and the results, or None where it does not
    run: no such kernel for this size, out of memory or shared memory."""
    inputs = [x.detach().requires_grad_() for x in (s.q, s.k, s.v)]
    try:
        run = make(s)
        out = run(*inputs)
        grads = lambda: torch.autograd.grad(out, inputs, s.d_out, retain_graph=True)

        @torch.no_grad
        def forward():
            run(*inputs)

        record = s.record(attention, forward, None if s.options.forward_only else grads)
        return record, [out.detach(), *([] if s.options.forward_only else grads())]
    except Exception as error:
        print(f'    {attention}: {str(error).splitlines()[0][:150]}')
        return None


def flex_run(s):
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    rule = s.mask.rule
    block_mask = rule and create_block_mask(
        rule, s.B if s.mask.per_batch else None, None, s.N, s.N, device='cuda', _compile=True
    )
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask, enable_gqa=s.options.kv_heads != s.H)


def sdpa_run(backend):
    def make(s):
        def run(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(
                    q, k, v, is_causal=s.name == 'causal', enable_gqa=s.options.kv_heads != s.H
                )

        return run

    return make


def relative(ours, theirs):
    return float(torch.linalg.vector_norm(ours.float() - theirs.float()) / torch.linalg.vector_norm(theirs.float()))


def show(record, out):
    """Prints a record, and adds it to the file."""
    speeds = [
        f'{key} {record[key + "Ms"]:8.3f} ms {record[key + "Tflops"]:6.1f} TFLOP/s'
        for key in ('forward', 'backward')
        if key + 'Ms' in record
    ]
    errors = [f'{x:.0e}' for x in (record.get('rowsError'), *record.get('differences', [])) if x is not None]
    print(
        f'{record["mask"]:20} N {record["N"]:6} D {record["D"]:3} {record["attention"]:5} {"  ".join(speeds)}'
        f'{"  errors " if errors else ""}{" ".join(errors)}',
        flush=True,
    )
    if out:
        rounded = {k: float(f'{v:.5g}') if isinstance(v, float) else v for k, v in record.items()}
        with open(out, 'a') as file:
            file.write(json.dumps(rounded) + '\n')


def compare(library, s):
    """Our kernels against FlexAttention and, for the masks full and causal of 16-bit tensors, SDPA."""
    record, results = flash(library, s)
    others = {} if s.options.quick else {'flex': flex_run}
    if others and s.name in ('full', 'causal') and s.dtype != torch.float32:
        others |= {name: sdpa_run(backend) for name, backend in SDPA.items()}
    for name, make in others.items():
        other = of_pytorch(s, name, make)
        if other and name == 'flex':
            record['differences'] = [relative(ours, theirs) for ours, theirs in zip(results, other[1])]
        if other:
            show(other[0], s.options.out)
    show(record, s.options.out)


def arguments():
    words = lambda text: text.split(',')
    numbers = lambda text: [int(x) for x in text.split(',')]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('--masks', type=words, default=NAMES)
    parser.add_argument('--lengths', type=numbers, default=[8192])
    parser.add_argument('--dims', type=numbers, default=[128, 64])
    parser.add_argument('--value-dim', type=int, help='of values and outputs (as --dims)')
    parser.add_argument('--heads', type=int, default=32)
    parser.add_argument('--kv-heads', type=int)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--dtype', default='bfloat16', choices=['bfloat16', 'float16', 'float32'])
    parser.add_argument('--precision', help='of float32 tensors (auto)')
    parser.add_argument('--seconds', type=float, default=0.5, help='of measuring, each')
    parser.add_argument('--out', help='JSON lines are appended to it')
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
    for N in options.lengths:
        for D in options.dims:
            for name in options.masks:
                compare(library, Setting(name, N, D, options))
                torch.cuda.empty_cache()


if __name__ == '__main__':
    main()
