"""The attentions that bench.py times next to our kernels. FlashAttention-4 (flash-attn-4) is one only where it is
installed, by itself and as the backend FLASH of FlexAttention."""

from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

# Sides of the blocks of a mask. FlashAttention-4's kernels need these.
BLOCK = (128, 128)
# Block masks of longer rows are made by compiled code, which holds no N x N numbers but takes seconds to compile.
LONGEST_EAGER = 8192


@dataclass
class Peer:
    make: Callable  # of a bench.py Setting: attention of q, k and v
    runs: Callable = lambda s: True  # whether it computes a Setting at all
    rows_first: bool = False  # tensors are [B, N, H, D] instead of [B, H, N, D]


def flex(backend):
    def make(s):
        if backend == 'FLASH':
            import flash_attn.cute  # noqa: F401  FlexAttention's own words for a missing module are longer
        compiled = torch.compile(flex_attention, dynamic=False)
        rule, batch = s.mask.rule, s.B if s.mask.per_batch else None
        how = {'device': 'cuda', 'BLOCK_SIZE': BLOCK, '_compile': s.N > LONGEST_EAGER}
        block_mask = rule and create_block_mask(rule, batch, None, s.N, s.N, **how)
        options = {'BACKEND': backend} if backend == 'FLASH' else None
        gqa = s.options.kv_heads != s.H
        return lambda q, k, v: compiled(q, k, v, block_mask=block_mask, enable_gqa=gqa, kernel_options=options)

    return make


def sdpa(backend):
    def make(s):
        gqa = s.options.kv_heads != s.H

        def run(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=s.name == 'causal', enable_gqa=gqa)

        return run

    return make


def flash_attention_4(s):
    from flash_attn.cute.interface import flash_attn_func

    def run(q, k, v):
        result = flash_attn_func(q, k, v, causal=s.name == 'causal')
        return result[0] if isinstance(result, tuple) else result

    return run


def in_16_bits(s):
    return s.dtype != torch.float32


def dense_in_16_bits(s):
    return in_16_bits(s) and s.name in ('full', 'causal')


# By their names in records (bench/record.ts).
PEERS = {
    'flex': Peer(flex('TRITON')),
    'flex-flash': Peer(flex('FLASH'), in_16_bits),
    'cudnn': Peer(sdpa(SDPBackend.CUDNN_ATTENTION), dense_in_16_bits),
    'fa2': Peer(sdpa(SDPBackend.FLASH_ATTENTION), dense_in_16_bits),
    'fa4': Peer(flash_attention_4, dense_in_16_bits, rows_first=True),
}
