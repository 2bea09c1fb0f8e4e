"""Microseconds of short calls on float32 tensors, next to PyTorch's FlexAttention and SDPA on bfloat16, in one process:

    python3 bench/cuda/short.py LIB.so [--lengths 512,1024,2048] [--heads 8,32] [--dims 64] [--masks full,...]
    python3 bench/cuda/short.py LIB.so --kernels      what each kernel of a call takes, and its share

Each call is captured in a CUDA graph, which leaves out the work of the host. `planned` has the plan of the mask made
before, as tfjs has from the second call on a mask; `whole` makes it in each call. Peers' block masks are made before.
"""

import argparse
import re
import types

import checks_path  # noqa: F401
import torch
from flashmask_torch import Call, Library
from peers import PEERS

from bench import Setting, milliseconds

SECONDS = 0.05
REPEATS = 20


def microseconds(run):
    """Of one run, of many in a graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            run()
    return milliseconds(graph.replay, SECONDS)[0] / REPEATS * 1e3


def ours(library, s, planned):
    """Forward and backward calls."""
    call = Call(library, s.q, s.k, s.v, s.mask.mask, layout='bhsd', precision=s.options.precision)
    if planned:
        call.make_plan()
    call.forward()
    return call.forward, lambda: call.backward(s.d_out)


def peer(s, make):
    inputs = [x.bfloat16().requires_grad_() for x in (s.q, s.k, s.v)]
    run, d_out = make(s), s.d_out.bfloat16()

    @torch.no_grad
    def forward():
        run(*inputs)

    def both():
        torch.autograd.grad(run(*inputs), inputs, d_out)

    return forward, both


def peers_of(s):
    names = ['flex', *(['cudnn', 'fa2'] if s.mask.mask.bounds is None else [])]
    return {name: PEERS[name].make for name in names}


def show(library, s):
    torch._dynamo.reset()
    results = []
    for name, planned in (
        (('planned', True), ('whole', False)) if s.mask.mask.bounds is not None else (('ours', False),)
    ):
        forward, backward = (microseconds(run) for run in ours(library, s, planned))
        results.append(f'{name} {forward:6.1f} + {backward:6.1f}')
    for name, make in ({} if s.options.quick else peers_of(s)).items():
        forward, both = (microseconds(run) for run in peer(s, make))
        results.append(f'{name} {forward:6.1f} + {both - forward:6.1f}')
    print(f'{s.name:15} N {s.N:5} H {s.H:3} D {s.D:3}  {"   ".join(results)}', flush=True)


def kernel_name(signature):
    found = re.search(r'\w+Kernel', signature)
    return found.group() if found else signature[:24]


def show_kernels(library, s):
    """Names, counts, microseconds and shares of the kernels of a forward and a backward call."""
    for name, run in zip(('forward', 'backward'), ours(library, s, s.mask.mask.bounds is not None)):
        run()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(REPEATS):
                run()
            torch.cuda.synchronize()
        events = [e for e in profile.key_averages() if e.device_time]
        whole = sum(e.count * e.device_time for e in events)
        kernels = [
            f'{kernel_name(e.key)} {e.count / REPEATS:.0f} x {e.device_time:.1f} '
            f'({e.count * e.device_time / whole:.0%})'
            for e in events
        ]
        print(f'{s.name} N {s.N} H {s.H} D {s.D} {name}: {", ".join(kernels)}', flush=True)


def arguments():
    words = lambda text: text.split(',')
    numbers = lambda text: [int(x) for x in text.split(',')]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('--masks', type=words, default=['full', 'causal', 'causalDocument'])
    parser.add_argument('--lengths', type=numbers, default=[512, 1024, 2048])
    parser.add_argument('--heads', type=numbers, default=[8, 32])
    parser.add_argument('--dims', type=numbers, default=[64])
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--quick', action='store_true', help='without PyTorch')
    parser.add_argument('--kernels', action='store_true')
    return parser.parse_args()


def main():
    options = arguments()
    torch._dynamo.config.recompile_limit = 64
    library = Library(options.library)
    for name in options.masks:
        for N in options.lengths:
            for H in options.heads:
                for D in options.dims:
                    more = {'batch': 1, 'heads': H, 'kv_heads': H, 'dtype': 'float32', 'value_dim': None}
                    s = Setting(name, N, D, types.SimpleNamespace(**vars(options) | more))
                    (show_kernels if options.kernels else show)(library, s)


if __name__ == '__main__':
    main()
