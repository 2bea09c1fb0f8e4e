"""The benchmark's masks, as bounds for our kernels and as rules for FlexAttention and for tests (`python3 masks.py`
compares the two)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import checks_path  # noqa: F401
import torch
from flashmask_torch import Mask
from reference import visible


@dataclass
class BenchMask:
    name: str  # name of the builder in src/mask/builders/index.ts
    mask: Mask
    rule: Callable | None  # mask_mod(b, h, q, k) of FlexAttention; None: each query sees all keys
    per_batch: bool  # whether the rule depends on b


LENGTHS = json.loads((Path(__file__).parent.parent / 'masks.json').read_text())


def scaled(lengths, N, turn):
    """Lengths of the same proportions that sum to N, rotated by `turn`."""
    turn %= len(lengths)
    lengths = lengths[turn:] + lengths[:turn]
    ends = [(2 * N * sum(lengths[:i]) + sum(lengths)) // (2 * sum(lengths)) for i in range(len(lengths) + 1)]
    return [b - a for a, b in zip(ends, ends[1:])]


class Builder:
    """Masks of N tokens in B batches; documents differ from batch to batch."""

    def __init__(self, N, B, device):
        self.N, self.B, self.device = N, B, device
        self.j = torch.arange(N)
        self.window = max(1, N // 16)

    def make(self, name, causal, vectors, rule, per_batch=False):
        """Vectors: list of [N] or [B, N] tensors."""
        bounds = None
        if vectors:
            columns = torch.stack([v if v.dim() == 2 else v[None] for v in torch.broadcast_tensors(*vectors)], -1)
            bounds = columns[:, None].to(torch.int32).contiguous().to(self.device)
        return BenchMask(name, Mask(bounds, causal), rule, per_batch)

    def full(self):
        return self.make('full', False, [], None)

    def causal(self):
        return self.make('causal', True, [], lambda b, h, q, k: q >= k)

    def slidingWindow(self):
        W = self.window
        return self.make('slidingWindow', True, [self.j + W], lambda b, h, q, k: (q >= k) & (q - k < W))

    def documents(self):
        """Start, end and number of each token's document, [B, N]."""
        rows = []
        for b in range(self.B):
            lengths = torch.tensor(scaled(LENGTHS['documents'], self.N, b))
            ends = lengths.cumsum(0)
            ids = torch.repeat_interleave(lengths)
            rows.append(((ends - lengths)[ids], ends[ids], ids))
        return [torch.stack(x) for x in zip(*rows)]

    def causalDocument(self):
        _, ends, ids = self.documents()
        doc = ids.to(self.device)
        return self.make('causalDocument', True, [ends], lambda b, h, q, k: (q >= k) & (doc[b, q] == doc[b, k]), True)

    def document(self):
        starts, ends, ids = self.documents()
        doc = ids.to(self.device)
        return self.make('document', False, [ends, starts], lambda b, h, q, k: doc[b, q] == doc[b, k], True)

    def sharedQuestion(self):
        """Documents, each a question (a tenth of its tokens) with two answers that do not see each other."""
        rows = []
        for b in range(self.B):
            lengths = torch.tensor(scaled(LENGTHS['questions'], self.N, b))
            question = (lengths // 10).clamp(min=1)
            first = (lengths - question) // 2
            second = lengths - question - first
            end = lengths.cumsum(0)
            ids = torch.repeat_interleave(torch.stack([question, first, second], 1).flatten())
            rows.append((torch.stack([end, end - second, end], 1).flatten()[ids], ids))
        ends, ids = (torch.stack(x) for x in zip(*rows))
        doc, part = (ids // 3).to(self.device), (ids % 3).to(self.device)
        rule = lambda b, h, q, k: (q >= k) & (doc[b, q] == doc[b, k]) & ((part[b, k] == 0) | (part[b, k] == part[b, q]))
        return self.make('sharedQuestion', True, [ends], rule, True)

    def globalSlidingWindow(self):
        """The first W tokens see all tokens and are seen by all. Every other token sees W - 1 tokens on each side."""
        N, W, j = self.N, self.window, self.j
        is_global = j < W
        zero = torch.zeros_like(j)
        lts = torch.where(is_global, N, (j + W).clamp(max=N))
        uts = zero + W
        ute = torch.where(is_global, uts, (j - W + 1).clamp(min=W))
        rule = lambda b, h, q, k: ((q - k).abs() < W) | (k < W) | (q < W)
        return self.make('globalSlidingWindow', False, [lts, zero + N, uts, ute], rule)

    def prefixLmCausal(self):
        N, j = self.N, self.j
        prefix = N // 2
        ute = torch.where(j < prefix, torch.zeros_like(j), j)
        return self.make(
            'prefixLmCausal', False, [torch.full_like(j, N), ute], lambda b, h, q, k: (q >= k) | (k < prefix)
        )


NAMES = [
    'full', 'causal', 'slidingWindow', 'causalDocument', 'document', 'sharedQuestion', 'globalSlidingWindow',
    'prefixLmCausal',
]  # fmt: skip
# Rows whose pairs are counted at a time.
ROWS = 1024


def build(name, N, B, device):
    return getattr(Builder(N, B, device), name)()


def visible_pairs(mask, B, N, device):
    """Visible pairs of all batches, for one head."""
    see = lambda first: visible(mask, B, 1, N, N, device, first_row=first, rows=min(ROWS, N - first))
    return sum(int(see(first).sum()) for first in range(0, N, ROWS))


def test():
    for N, B in [(64, 1), (200, 3)]:
        for name in NAMES:
            m = build(name, N, B, 'cpu')
            see = visible(m.mask, B, 1, N, N, 'cpu')[:, 0]
            b, q, k = torch.meshgrid(torch.arange(B), torch.arange(N), torch.arange(N), indexing='ij')
            rule = m.rule(b, 0, q, k) if m.rule else torch.ones_like(see)
            assert torch.equal(see, rule), f'{name}: bounds and rule differ at N {N}, B {B}'
            assert visible_pairs(m.mask, B, N, 'cpu') == int(see.sum()), f'{name}: wrong count of pairs at N {N}, B {B}'
    print('bounds, rules and counts agree')


if __name__ == '__main__':
    test()
