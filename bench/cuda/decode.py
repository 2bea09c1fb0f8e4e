"""Times decoding, few queries against many keys, next to PyTorch's SDPA, and compares it with the memory's bandwidth:

    python3 bench/cuda/decode.py LIB.so [--lengths 131072] [--queries 1] [--kv-heads 8] [--seconds 0.1]

GB/s count the bytes of the keys and values, which are read once. Their share is that of a copy on the device, which
reads and writes, in the same run. Calls take turns at several keys and values, so that no cache holds them, and are
replayed as a CUDA graph, so that the time of the host does not count.

SDPA is the fastest of PyTorch's backends that run, with the query heads of a key head as they are (enable_gqa) or as
rows of one head.
"""

import argparse
import warnings

import checks_path  # noqa: F401
import torch
import torch.nn.functional as F
from flashmask_torch import Call, Library, Mask
from reference import Dense
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import milliseconds

COPY_BYTES = 2**31
# Several times the L2 cache of any GPU.
LEAST_BYTES = 2**29
BACKENDS = {
    'math': SDPBackend.MATH,
    'efficient': SDPBackend.EFFICIENT_ATTENTION,
    'flash': SDPBackend.FLASH_ATTENTION,
    'cudnn': SDPBackend.CUDNN_ATTENTION,
}


def copy_bandwidth(seconds):
    """Bytes per millisecond that a copy reads and writes."""
    a = torch.ones(COPY_BYTES // 4, device='cuda')
    b = torch.empty_like(a)
    return 2 * COPY_BYTES / milliseconds(lambda: b.copy_(a), seconds)[0]


def time_of(runs, seconds):
    """Milliseconds of one of several runs."""
    for run in runs:
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    return milliseconds(graph.replay, seconds)[0] / len(runs)


class Setting:
    """Queries, and several keys and values."""

    def __init__(self, queries, keys, kv_heads, options):
        self.Sq, self.Sk, self.H, self.Hkv = queries, keys, options.heads, kv_heads
        self.D, self.seconds = options.dim, options.seconds
        draw = lambda heads, rows: torch.randn(1, heads, rows, self.D, device='cuda')
        self.q = draw(self.H, queries)
        self.bytes = 2 * kv_heads * keys * self.D * 4
        copies = max(1, LEAST_BYTES // self.bytes)
        self.pairs = [(draw(kv_heads, keys), draw(kv_heads, keys)) for _ in range(copies)]

    def ours(self, library):
        """(milliseconds, relative error of the output against float64)."""
        calls = [Call(library, self.q, k, v, Mask(None, False), layout='bhsd') for k, v in self.pairs]
        ms = time_of([call.forward for call in calls], self.seconds)
        see = torch.ones(1, 1, 1, 1, dtype=torch.bool, device='cuda')
        truth, _ = Dense(self.q, *self.pairs[0], see, self.D**-0.5, None, 0.0, 'float64').forward()
        return ms, float((calls[0].out - truth).norm() / truth.norm())

    def sdpa(self, dtype):
        """(milliseconds, name) of the fastest backend."""
        q = self.q.to(dtype)
        pairs = [(k.to(dtype), v.to(dtype)) for k, v in self.pairs]
        folded = q.reshape(1, self.Hkv, -1, self.D)
        times = []
        for name, backend in BACKENDS.items():
            for queries, how in [(q, 'as heads'), (folded, 'as rows')]:
                if how == 'as rows' and self.H == self.Hkv:
                    continue
                gqa = queries.shape[1] != self.Hkv
                attend = lambda k, v, x=queries, gqa=gqa: F.scaled_dot_product_attention(x, k, v, enable_gqa=gqa)
                try:
                    with sdpa_kernel(backend), torch.no_grad():
                        runs = [lambda k=k, v=v, attend=attend: attend(k, v) for k, v in pairs]
                        times.append((time_of(runs, self.seconds), f'{name} {how}'))
                except RuntimeError:  # no such kernel for this type or size, or out of memory
                    continue
        return min(times)


def compare(library, s, copy):
    ms, error = s.ours(library)
    speed = s.bytes / ms
    line = f'{s.Sq} queries, {s.Sk:6} keys, {s.H}/{s.Hkv} heads: {ms:7.4f} ms, {speed / 1e6:5.0f} GB/s'
    line += f', {100 * speed / copy:3.0f}% of a copy, error {error:.0e}'
    for dtype in (torch.float32, torch.bfloat16):
        theirs, name = s.sdpa(dtype)
        line += f'; SDPA {str(dtype)[6:]} {theirs:7.4f} ms ({name}), {theirs / ms:.2f}x'
    print(line, flush=True)


def arguments():
    numbers = lambda text: [int(x) for x in text.split(',')]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('--lengths', type=numbers, default=[4096, 32768, 131072])
    parser.add_argument('--queries', type=numbers, default=[1, 4])
    parser.add_argument('--kv-heads', type=numbers, default=[8, 32])
    parser.add_argument('--heads', type=int, default=32)
    parser.add_argument('--dim', type=int, default=128)
    parser.add_argument('--seconds', type=float, default=0.1, help='of measuring, each')
    return parser.parse_args()


def main():
    options = arguments()
    warnings.simplefilter('ignore')  # SDPA warns of each backend that does not run
    library = Library(options.library)
    copy = copy_bandwidth(options.seconds)
    print(f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; a copy: {copy / 1e6:.0f} GB/s', flush=True)
    for kv_heads in options.kv_heads:
        for queries in options.queries:
            for keys in options.lengths:
                compare(library, Setting(queries, keys, kv_heads, options), copy)
                torch.cuda.empty_cache()


if __name__ == '__main__':
    main()
