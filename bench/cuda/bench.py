"""Times the CUDA kernels next to PyTorch's FlexAttention and SDPA, in one process, on the same masks:

    python3 bench/cuda/bench.py LIB.so [--masks causal,...] [--lengths 8192] [--dims 128,64] [--out FILE.jsonl]
    python3 bench/cuda/bench.py LIB.so --quick            our kernels alone: seconds, for tuning
    python3 bench/cuda/bench.py LIB.so --float32          from float32 tensors (Flex on TF32), and what conversions cost
    python3 bench/cuda/bench.py LIB.so --errors           relative errors of each precision, and of PyTorch's own

TFLOP/s count visible pairs only: 4 D operations per pair forward, 10 D backward. --out gets one line of JSON per
measurement.
"""

import argparse
import json
import os
import subprocess
import sys
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

    def __init__(self, name, N, D, options, dtype):
        self.name, self.N, self.D, self.B, self.H = name, N, D, options.batch, options.heads
        self.options, self.dtype = options, dtype
        self.mask = build(name, N, self.B, 'cuda')
        self.pairs = visible_pairs(self.mask.mask, self.B, N) * self.H
        generator = torch.Generator('cuda').manual_seed(1)
        draw = lambda heads: torch.randn(self.B, heads, N, D, generator=generator, device='cuda').to(dtype)
        self.q, self.k, self.v, self.d_out = draw(self.H), draw(options.kv_heads), draw(options.kv_heads), draw(self.H)

    def record(self, attention, forward, backward, **more):
        """One line of the JSON file; times are (best, median)."""
        tflops = lambda flops, ms: flops * self.D * self.pairs / ms / 1e9
        result = {
            'suite': 'cuda', 'backend': 'cuda', 'device': torch.cuda.get_device_name(),
            'mask': self.name, 'B': self.B, 'N': self.N, 'H': self.H,
            'Hkv': self.options.kv_heads, 'D': self.D, 'masked': 1 - self.pairs / (self.B * self.H * self.N**2),
            'attention': attention, 'input': str(self.dtype).removeprefix('torch.'), **more,
        }  # fmt: skip
        for key, times, flops in (('forward', forward, 4), ('backward', backward, 10)):
            if times:
                result |= {f'{key}Ms': times[0], f'{key}MedianMs': times[1], f'{key}Tflops': tflops(flops, times[0])}
        return result

    def with_gradients(self):
        return [x.detach().requires_grad_() for x in (self.q, self.k, self.v)]


def flash(library, s, **call_options):
    """Runs our kernels on the setting. Returns the record and the call, which holds the results."""
    call = Call(library, s.q, s.k, s.v, s.mask.mask, layout='bhsd', **call_options)
    forward = milliseconds(call.forward, s.options.seconds)
    backward = None if s.options.forward_only else milliseconds(lambda: call.backward(s.d_out), s.options.seconds)
    return s.record('flash', forward, backward, precision=call_options.get('precision', 'auto')), call


def autograd_record(s, attention, run):
    """Times a differentiable attention of PyTorch. Also returns its results."""
    inputs = s.with_gradients()
    with torch.no_grad():
        forward = milliseconds(lambda: run(*inputs), s.options.seconds)
    if s.options.forward_only:
        return s.record(attention, forward, None), [run(*inputs).detach()]
    out = run(*inputs)
    backward = milliseconds(lambda: torch.autograd.grad(out, inputs, s.d_out, retain_graph=True), s.options.seconds)
    grads = torch.autograd.grad(out, inputs, s.d_out)
    return s.record(attention, forward, backward), [out.detach(), *grads]


def flex_run(s):
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    rule = s.mask.rule
    block_mask = rule and create_block_mask(
        rule, s.B if s.mask.per_batch else None, None, s.N, s.N, device='cuda', _compile=True
    )
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask, enable_gqa=s.options.kv_heads != s.H)


def sdpa_run(s, backend):
    def run(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=s.name == 'causal', enable_gqa=s.options.kv_heads != s.H
            )

    return run


def difference(ours, theirs):
    return [
        float(torch.linalg.vector_norm(a.float() - b.float()) / torch.linalg.vector_norm(b.float()))
        for a, b in zip(ours, theirs)
    ]


def rows_error(s, call):
    """Relative error of a few rows of out against float64, so that a wrong kernel is noticed."""
    error = size = 0.0
    for first in range(0, s.N, max(1, s.N // 8)):
        see = visible(s.mask.mask, s.B, s.H, s.N, s.N, 'cuda', first_row=first, rows=2)[:1]
        truth = (
            Dense(s.q[:1, :, first : first + 2], s.k[:1], s.v[:1], see, s.D**-0.5, None, 0.0, 'float64')
            .forward()[0]
            .nan_to_num()
        )
        error += float(((call.out[:1, :, first : first + 2] - truth) ** 2).sum())
        size += float((truth**2).sum())
    return (error / size) ** 0.5


# ---- modes ----


class Output:
    """Prints the table row by row and keeps the records."""

    COLUMNS = (
        'mask                       N    D masked |  fwd ms   TF/s  {0:>6} ratio |  bwd ms   TF/s  {0:>6} ratio'
        ' | both ratio'
    )

    def __init__(self, options, other):
        self.options, self.records, self.ratios = options, [], []
        print(self.COLUMNS.format(other), flush=True)

    def row(self, s, ours, other, note=''):
        part = lambda key: self.part(ours, other, key)
        both = self.both(ours, other)
        self.ratios += [(both, s.name)] if both else []
        print(
            f'{s.name:20} {s.N:7} {s.D:4} {100 * ours["masked"]:5.1f}% | {part("forward")} | {part("backward")}'
            f' | {show(both)}  {note}',
            flush=True,
        )

    def part(self, ours, other, key):
        if f'{key}Ms' not in ours:
            return ' ' * 31
        theirs = (other or {}).get(f'{key}Tflops')
        speed = ours[key + 'Tflops']
        return f'{ours[key + "Ms"]:7.3f} {speed:6.1f}  {show(theirs, "6.1f")} {show(theirs and speed / theirs)}'

    def both(self, ours, other):
        if not other or 'forwardMs' not in other or 'backwardMs' not in ours or 'backwardMs' not in other:
            return None
        return (other['forwardMs'] + other['backwardMs']) / (ours['forwardMs'] + ours['backwardMs'])

    def add(self, record):
        self.records.append(record)
        if self.options.out:
            with open(self.options.out, 'a') as file:
                file.write(
                    json.dumps({k: float(f'{v:.5g}') if isinstance(v, float) else v for k, v in record.items()}) + '\n'
                )
        return record

    def finish(self):
        if self.ratios:
            print(f'least ratio forward + backward: {min(self.ratios)[0]:.2f} in {min(self.ratios)[1]}')


def show(value, form='5.2f'):
    return format(value, form) if value else '–'.rjust(int(form.split('.')[0]))


def settings(options, dtype):
    for N in options.lengths:
        for D in options.dims:
            for name in options.masks:
                yield Setting(name, N, D, options, dtype)
                torch.cuda.empty_cache()


def try_record(output, s, attention, run):
    """Measures an attention of PyTorch. Where it does not run here, prints the reason and returns None."""
    try:
        record, results = autograd_record(s, attention, run())
        return output.add(record), results
    except Exception as error:  # no such kernel for this size, out of memory or shared memory
        print(f'    {attention}: {str(error).splitlines()[0][:150]}')
        return None, None


def compare_sixteen(library, options):
    """Our 16-bit kernels against FlexAttention and, for the masks full and causal, SDPA."""
    output = Output(options, 'flex')
    for s in settings(options, getattr(torch, options.dtype)):
        record, call = flash(library, s, precision=options.dtype, deterministic=options.deterministic)
        record['rowsError'] = rows_error(s, call)
        note = f'rows err {record["rowsError"]:.1e}'
        ours = [x for x in (call.out, call.dq, call.dk, call.dv) if x is not None]
        flex = None
        if not options.quick:
            flex, results = try_record(output, s, 'flex', lambda: flex_run(s))
            if results:
                record['differences'] = difference(ours, results)
                note += ' vs flex ' + ' '.join(f'{x:.0e}' for x in record['differences'])
        output.add(record)
        output.row(s, record, flex, note)
        if not options.quick and s.name in ('full', 'causal'):
            for label, backend in SDPA.items():
                other, _ = try_record(output, s, label, lambda: sdpa_run(s, backend))
                if other:
                    print(
                        f'    {label:5} forward {other["forwardTflops"]:.1f}, '
                        f'backward {other.get("backwardTflops", 0):.1f} TFLOP/s'
                    )
        del call, ours
    output.finish()


def compare_float32(library, options):
    """Our kernels on float32 tensors against FlexAttention on the same, and the share of time outside the 16-bit
    kernel."""
    torch.set_float32_matmul_precision('high')
    output = Output(options, 'flex32')
    for s in settings(options, torch.float32):
        record, call = flash(library, s, precision=options.precision, deterministic=options.deterministic)
        record['rowsError'] = rows_error(s, call)
        note = f'rows err {record["rowsError"]:.1e}'
        if library.sixteen and options.precision != 'float32':
            sixteen = Setting(
                s.name, s.N, s.D, options, torch.bfloat16 if options.precision == 'bfloat16' else torch.float16
            )
            kernel, _ = flash(library, sixteen, precision=str(sixteen.dtype).removeprefix('torch.'))
            shares = [1 - kernel[key] / record[key] for key in ('forwardMs', 'backwardMs') if key in record]
            record['conversionShares'] = shares
            note += ' conversions ' + ' '.join(f'{100 * x:.0f}%' for x in shares)
            del sixteen
        flex = None if options.quick else try_record(output, s, 'flex', lambda: flex_run(s))[0]
        output.row(s, output.add(record), flex, note)
        del call
    output.finish()


def scaled_inputs(scales, N, H, D):
    generator = torch.Generator('cuda').manual_seed(1)
    return [torch.randn(1, H, N, D, generator=generator, device='cuda') * scale for scale in scales]


ERROR_INPUTS = {
    'normal': (1, 1, 1, 1),
    'v, dO × 1e-6': (1, 1, 1e-6, 1e-6),
    'v, dO × 1e6': (1, 1, 1e6, 1e6),
    'q × 1e-6, k × 1e6': (1e-6, 1e6, 1, 1),
}


def error_table(library, options):
    """Relative errors (Frobenius) of out, dq, dk and dv against float64, as a Markdown table."""
    N, H = options.lengths[0] if options.lengths != [8192] else 2048, 4
    for D in options.dims:
        for name in options.masks if options.masks != NAMES else ['causalDocument']:
            for inputs, scales in ERROR_INPUTS.items():
                print(
                    f'\n{name}, N {N}, D {D}, {inputs}\n\n'
                    '| computed by | out | dq | dk | dv |\n| --- | ---: | ---: | ---: | ---: |'
                )
                for label, errors in error_rows(library, name, N, H, D, scaled_inputs(scales, N, H, D)):
                    print(f'| {label} | ' + ' | '.join(f'{x:.1e}' for x in errors) + ' |', flush=True)


def error_rows(library, name, N, H, D, tensors):
    q, k, v, d_out = tensors
    mask = build(name, N, 1, 'cuda').mask
    see = visible(mask, 1, H, N, N, 'cuda')
    d_lse = torch.zeros(1, H, N, device='cuda')

    def dense(precision):
        attention = Dense(q, k, v, see, D**-0.5, None, 0.0, precision)
        return [attention.forward()[0], *attention.backward(d_out, d_lse)]

    truth = dense('float64')
    for precision in ('float32', 'auto', 'float16', 'bfloat16'):
        call = Call(library, q, k, v, mask, layout='bhsd', precision=precision)
        call.forward()
        call.backward(d_out)
        yield f"this library, `'{precision}'`", difference64([call.out, call.dq, call.dk, call.dv], truth)
    yield 'dense attention, float32', difference64(dense('float32'), truth)
    for label, dtype, tf32 in (
        ('TF32', torch.float32, True),
        ('float16', torch.float16, False),
        ('bfloat16', torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        yield f'dense attention of PyTorch, {label}', difference64(torch_dense(tensors, see, dtype), truth)
        torch.backends.cuda.matmul.allow_tf32 = False


def difference64(results, truth):
    return [
        float(torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b)) for a, b in zip(results, truth)
    ]


def torch_dense(tensors, see, dtype):
    """Dense attention as PyTorch users write it, with its autograd."""
    q, k, v, d_out = (x.to(dtype) for x in tensors)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).masked_fill(~see, -torch.inf)
        out = torch.softmax(scores.float(), -1).to(dtype) @ v
    return [out.detach(), *torch.autograd.grad(out, inputs, d_out)]


# ---- compiling Flex beforehand ----


def precompile(options):
    """Compiles FlexAttention's kernels of all settings into PyTorch's cache, in parallel processes. The measuring
    process then finds them there."""
    jobs = [(name, N, D) for name in options.masks for N in options.lengths for D in options.dims]
    if len(jobs) < 3:
        return
    started, running = time.time(), []
    width = max(1, min(12, (os.cpu_count() or 1) - 2))
    environment = os.environ | {'TORCHINDUCTOR_COMPILE_THREADS': '1'}
    for name, N, D in jobs:
        while len([p for p in running if p.poll() is None]) >= width:
            time.sleep(0.2)
        arguments = [
            '--masks',
            name,
            '--lengths',
            str(N),
            '--dims',
            str(D),
            '--batch',
            str(options.batch),
            '--heads',
            str(options.heads),
        ]
        arguments += ['--kv-heads', str(options.kv_heads), '--dtype', options.dtype, '--compile-only']
        arguments += ['--float32'] if options.float32 else []
        arguments += ['--forward-only'] if options.forward_only else []
        running.append(
            subprocess.Popen(
                [sys.executable, __file__, options.library, *arguments], env=environment, stderr=subprocess.DEVNULL
            )
        )
    for process in running:
        process.wait()
    print(f'compiled FlexAttention {len(jobs)} times in {time.time() - started:.0f} s', flush=True)


def compile_only(options):
    torch.set_float32_matmul_precision('high' if options.float32 else 'highest')
    for s in settings(options, torch.float32 if options.float32 else getattr(torch, options.dtype)):
        inputs = s.with_gradients()
        run = flex_run(s)
        with torch.no_grad():
            run(*inputs)
        if not options.forward_only:
            torch.autograd.grad(run(*inputs), inputs, s.d_out)
        torch.cuda.synchronize()


def arguments():
    words = lambda text: text.split(',')
    numbers = lambda text: [int(x) for x in text.split(',')]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('--masks', type=words, default=NAMES)
    parser.add_argument('--lengths', type=numbers, default=[8192])
    parser.add_argument('--dims', type=numbers, default=[128, 64])
    parser.add_argument('--heads', type=int, default=32)
    parser.add_argument('--kv-heads', type=int)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--dtype', default='bfloat16', help='of the 16-bit comparison: bfloat16 or float16')
    parser.add_argument('--precision', default='auto', help='of --float32')
    parser.add_argument('--seconds', type=float, default=0.5, help='of measuring, each')
    parser.add_argument('--out', help='JSON lines are appended to it')
    parser.add_argument('--quick', action='store_true', help='without PyTorch, a tenth of the time')
    for flag in ('--float32', '--errors', '--forward-only', '--deterministic', '--compile-only', '--no-precompile'):
        parser.add_argument(flag, action='store_true')
    options = parser.parse_args()
    options.kv_heads = options.kv_heads or options.heads
    options.seconds = min(options.seconds, 0.1) if options.quick else options.seconds
    return options


def main():
    options = arguments()
    torch._dynamo.config.recompile_limit = 64
    if options.compile_only:
        return compile_only(options)
    library = Library(options.library)
    print(
        f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; B {options.batch}, H {options.heads}, '
        f'Hkv {options.kv_heads}',
        flush=True,
    )
    with torch.no_grad():
        if options.errors:
            return error_table(library, options)
    if not (options.quick or options.no_precompile):
        precompile(options)
    (compare_float32 if options.float32 else compare_sixteen)(library, options)


if __name__ == '__main__':
    main()
