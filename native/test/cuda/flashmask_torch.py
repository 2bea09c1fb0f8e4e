"""Calls the native kernels from PyTorch: ctypes loads a library compiled from native/test/cuda/c_api.cu.

    library = Library('build/flashmask.so')
    call = Call(library, q, k, v, Mask(bounds, causal=True), layout='bhsd')
    call.forward(); call.backward(d_out)          # fill call.out, call.lse, call.row_stats, call.dq, call.dk, call.dv

Tensors of float32 go to flashmask::cuda::Forward and Backward, those of bfloat16 or float16 to the 16-bit
functions (attention16.h).
"""

import ctypes
import math
from dataclasses import dataclass

import torch

PRECISIONS = ['auto', 'float32', 'float16', 'bfloat16']
POINTER = ctypes.c_void_p


class Problem(ctypes.Structure):
    """struct Problem of native/attention.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ('B', 'H', 'Hkv', 'Sq', 'Sk', 'D', 'Dv', 'maskB', 'Hm', 'n')),
        ('causal', ctypes.c_bool),
        ('bhsd', ctypes.c_bool),
        ('scale', ctypes.c_float),
        ('dropoutThreshold', ctypes.c_uint32),
        ('keepScale', ctypes.c_float),
        ('seed', ctypes.c_uint64),
        ('precision', ctypes.c_int32),
        ('deterministic', ctypes.c_bool),
    ]


@dataclass
class Mask:
    """Bounds int32 [1 or B, Hm, Sk, n], or None for n = 0."""

    bounds: torch.Tensor | None
    causal: bool


class Library:
    """The C functions of a shared library, with errors as exceptions."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.flashmask_problem_bytes.restype = ctypes.c_size_t
        if self.c.flashmask_problem_bytes() != ctypes.sizeof(Problem):
            raise RuntimeError(
                f'{path}: struct Problem must be {ctypes.sizeof(Problem)} bytes as in flashmask_torch.py, got '
                f'{self.c.flashmask_problem_bytes()}. Bring both in line with native/attention.h.'
            )
        self.sixteen = hasattr(self.c, 'flashmask_forward16')
        for sixteen in ('', '16') if self.sixteen else ('',):
            for name, pointers in (('forward', 9), ('backward', 13)):
                run, scratch = self.functions(name, sixteen)
                run.restype, scratch.restype = ctypes.c_char_p, ctypes.c_size_t
                flag = [ctypes.c_int] if sixteen else [POINTER]  # the plan
                run.argtypes = [ctypes.POINTER(Problem), *flag, *[POINTER] * pointers]
                scratch.argtypes = [ctypes.POINTER(Problem)]
        self.c.flashmask_plan_bytes.restype, self.c.flashmask_make_plan.restype = ctypes.c_size_t, ctypes.c_char_p
        self.c.flashmask_plan_bytes.argtypes = [ctypes.POINTER(Problem)]
        self.c.flashmask_make_plan.argtypes = [ctypes.POINTER(Problem), *[POINTER] * 3]

    def functions(self, name, sixteen):
        return getattr(self.c, f'flashmask_{name}{sixteen}'), getattr(
            self.c, f'flashmask_{name}{sixteen}_scratch_bytes'
        )


def address(x):
    return None if x is None or x.numel() == 0 else x.data_ptr()


class Call:
    """One attention call with its outputs and scratch, which every run reuses."""

    def __init__(
        self,
        library,
        q,
        k,
        v,
        mask,
        *,
        layout='bshd',
        scale=None,
        dropout=0.0,
        seed=0,
        precision='auto',
        deterministic=False,
        allocate=torch.empty,
    ):
        if q.dtype != torch.float32 and not library.sixteen:
            raise RuntimeError('The library has no 16-bit entry points: native/cuda/attention16.h was not there.')
        self.library, self.inputs, self.mask = library, (q, k, v), mask
        self.bfloat16 = [] if q.dtype == torch.float32 else [int(q.dtype == torch.bfloat16)]
        heads, rows = (1, 2) if layout == 'bhsd' else (2, 1)
        bounds = mask.bounds
        self.problem = p = Problem(
            B=q.shape[0], H=q.shape[heads], Hkv=k.shape[heads], Sq=q.shape[rows], Sk=k.shape[rows], D=q.shape[3],
            Dv=v.shape[3], maskB=1 if bounds is None else bounds.shape[0], Hm=1 if bounds is None else bounds.shape[1],
            n=0 if bounds is None else bounds.shape[3], causal=mask.causal, bhsd=layout == 'bhsd',
            scale=1 / math.sqrt(q.shape[3]) if scale is None else scale, dropoutThreshold=int(dropout * 2**32),
            keepScale=1 / (1 - dropout), seed=seed, precision=PRECISIONS.index(precision), deterministic=deterministic,
        )  # fmt: skip
        self.allocate, self.device = allocate, q.device
        self.out = self.empty((*q.shape[:3], p.Dv))
        self.lse = self.empty((p.B, p.H, p.Sq))
        self.row_stats = self.empty((p.B, p.H, p.Sq, 2))
        self.dq = self.dk = self.dv = self.zero_d_lse = self.plan = None
        self.scratches = {}

    def empty(self, shape, dtype=torch.float32):
        return self.allocate(shape, dtype=dtype, device=self.device)

    def make_plan(self):
        """Queues the plan of the mask, for all later runs of float32 tensors."""
        self.plan = self.empty((self.library.c.flashmask_plan_bytes(self.problem),), torch.uint8)
        pointers = map(address, (self.mask.bounds, self.plan))
        self.expect_ok('plan', self.library.c.flashmask_make_plan(self.problem, *pointers, self.stream()))

    def forward(self):
        """Queues the forward pass on torch's current stream."""
        tensors = (*self.inputs, *self.masked(), self.out, self.lse, self.row_stats)
        self.run('forward', *map(address, tensors))

    def backward(self, d_out, d_lse=None):
        """Queues the backward pass, after `forward`. Default d_lse: 0."""
        if self.dq is None:
            self.dq, self.dk, self.dv = (self.empty(x.shape) for x in self.inputs)
        if d_lse is None:
            d_lse = self.zeros()
        tensors = (*self.inputs, *self.masked(), self.out, self.row_stats, d_out, d_lse, self.dq, self.dk, self.dv)
        self.run('backward', *map(address, tensors))

    def masked(self):
        return (self.mask.bounds,) if self.bfloat16 else (self.mask.bounds, self.plan)

    def zeros(self):
        if self.zero_d_lse is None:
            self.zero_d_lse = torch.zeros_like(self.lse)
        return self.zero_d_lse

    def run(self, name, *pointers):
        run, scratch_bytes = self.library.functions(name, '16' if self.bfloat16 else '')
        if name not in self.scratches:
            self.scratches[name] = self.empty((scratch_bytes(self.problem),), torch.uint8)
        self.expect_ok(name, run(self.problem, *self.bfloat16, *pointers, address(self.scratches[name]), self.stream()))

    def stream(self):
        return torch.cuda.current_stream().cuda_stream if self.device.type == 'cuda' else None

    def expect_ok(self, name, error):
        if error:
            raise RuntimeError(f'{name}: {error.decode()}')
