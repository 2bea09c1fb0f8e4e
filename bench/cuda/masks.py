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


BUCKETS = 16
LENGTHS = json.loads((Path(__file__).parent.parent / 'masks.json').read_text())


def scaled(lengths, N, turn):
    """Lengths of the same proportions that sum to N, rotated by `turn`."""
    turn %= len(lengths)
    lengths = lengths[turn:] + lengths[:turn]
    ends = [(2 * N * sum(lengths[:i]) + sum(lengths)) // (2 * sum(lengths)) for i in range(len(lengths) + 1)]
    return [b - a for a, b in zip(ends, ends[1:])]


def seeded_random(seed):
    """Yields numbers in [0, 1) of the generator mulberry32. TWIN: src/mask/builders/random.ts"""
    while True:
        seed = (seed + 0x6D2B79F5) & 0xFFFFFFFF
        t = (seed ^ (seed >> 15)) * (seed | 1) & 0xFFFFFFFF
        t ^= (t + (t ^ (t >> 7)) * (t | 61)) & 0xFFFFFFFF
        yield (t ^ (t >> 14)) / 2**32


def evictions(random, N, keep):
    """The row that evicts each key, N for keys that stay. TWIN: src/mask/builders/selected.ts"""
    evicted, cache = [N] * N, []
    for row in range(N):
        if row >= keep:
            slot = int(next(random) * len(cache))
            evicted[cache[slot]] = row
            cache[slot] = cache[-1]
            cache.pop()
        cache.append(row)
    return evicted


def dropped_columns(spans, N):
    """LTS and LTE of each column: [j, end) in spans; other columns have an empty interval. TWIN:
    src/mask/builders/index.ts"""
    columns = []
    for (start, end), following in zip(spans, [*spans[1:], None]):
        until = N if following is None else (end + following[0] + 1) // 2
        columns += [(j if start <= j < end else end, end) for j in range(len(columns), until)]
    return columns


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

    def causalBlockwise(self):
        """Each document sees itself; the last one sees all before it too."""
        _, ends, ids = self.documents()
        last = (ids < ids[:, -1:]).sum(1, keepdim=True)
        doc, final = ids.to(self.device), ids[:, -1].to(self.device)
        rule = lambda b, h, q, k: (q >= k) & ((doc[b, q] == doc[b, k]) | (doc[b, q] == final[b]))
        return self.make('causalBlockwise', True, [ends.minimum(last), last.expand_as(ends)], rule, True)

    def prefixLmCausal(self):
        N, j = self.N, self.j
        prefix = N // 2
        ute = torch.where(j < prefix, torch.zeros_like(j), j)
        return self.make(
            'prefixLmCausal', False, [torch.full_like(j, N), ute], lambda b, h, q, k: (q >= k) | (k < prefix)
        )

    def prefixLmDocument(self):
        """Documents whose first quarter the whole document sees."""
        starts, ends, ids = self.documents()
        place = self.j - starts
        in_prefix = place < (ends - starts) // 4
        doc, prefix = ids.to(self.device), in_prefix.to(self.device)
        rule = lambda b, h, q, k: (doc[b, q] == doc[b, k]) & ((q >= k) | prefix[b, k])
        return self.make('prefixLmDocument', False, [ends, torch.where(in_prefix, starts, self.j)], rule, True)

    def qkSparse(self):
        """Causal; the tokens of every third document see no key of their document."""
        rows, drops = [], []
        for b in range(self.B):
            ends = torch.tensor(scaled(LENGTHS['documents'], self.N, b)).cumsum(0).tolist()
            spans = [*zip([0, *ends], ends)][1::3]
            rows.append(dropped_columns(spans, self.N))
            drops.append([sum(start <= j < end for start, end in spans) for j in range(self.N)])
        lts, lte = torch.tensor(rows).unbind(-1)
        _, _, ids = self.documents()
        doc, dropped = ids.to(self.device), torch.tensor(drops, dtype=torch.bool).to(self.device)
        rule = lambda b, h, q, k: (q >= k) & ~(dropped[b, k] & (doc[b, q] == doc[b, k]))
        return self.make('qkSparse', True, [lts, lte], rule, True)

    def hashSparse(self):
        """Queries and keys sorted by the hash of their token: those of a bucket are neighbours."""
        rows = []
        for b in range(self.B):
            random = seeded_random(1 + b)
            hashes = torch.tensor([int(next(random) * BUCKETS) for _ in range(self.N)])
            rows.append(torch.bincount(hashes, minlength=BUCKETS))
        sizes = torch.stack(rows)
        ids = torch.stack([torch.repeat_interleave(row) for row in sizes])
        ends = sizes.cumsum(1).gather(1, ids)
        bucket = ids.to(self.device)
        rule = lambda b, h, q, k: (q >= k) & (bucket[b, q] == bucket[b, k])
        return self.make('hashSparse', False, [ends, self.j.expand_as(ends)], rule, True)

    def randomEviction(self):
        """A cache of half of the keys: every later row first evicts a key at random."""
        rows = [evictions(seeded_random(1 + b), self.N, max(1, self.N // 2)) for b in range(self.B)]
        evicted = torch.tensor(rows)
        until = evicted.to(self.device)
        rule = lambda b, h, q, k: (q >= k) & (q < until[b, k])
        return self.make('randomEviction', True, [evicted], rule, True)


NAMES = [
    'full', 'causal', 'slidingWindow', 'causalDocument', 'document', 'sharedQuestion', 'globalSlidingWindow',
    'causalBlockwise', 'prefixLmCausal', 'prefixLmDocument', 'qkSparse', 'hashSparse', 'randomEviction',
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
