"""Dense masked attention in PyTorch, written from docs/design.md: the truth in float64, and the same in the
precision of a kernel.

The second shows which errors that precision allows. It rounds the operands of the matrix products (q, k, v, dO, the
weights and their gradients) as the kernel may, accumulates in float32 and keeps all else in float32. 'auto' and
'float16' both round to 11 bits, TF32's and float16's alike, with float32's range.
"""

import torch

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def intervals(bounds, causal):
    """The canonical [LTS, LTE, UTS, UTE] of bounds [..., n], each [...]; TWIN: src/mask/bounds/intervals.ts"""
    b = bounds.long().unbind(-1)
    low, high = torch.full_like(b[0], INT32_MIN), torch.full_like(b[0], INT32_MAX)
    none = torch.zeros_like(b[0])
    if len(b) == 4:
        return b
    if len(b) == 1:
        return b[0], high, none, none
    return (b[0], b[1], none, none) if causal else (b[0], high, low, b[1])


def visible(mask, B, H, Sq, Sk, device, first_row=0, rows=None):
    """bool [B, H, rows, Sk], or with the mask's fewer batches and heads, to be broadcast after `expand_heads`."""
    r = torch.arange(first_row, first_row + (rows or Sq), device=device)[:, None]
    j = torch.arange(Sk, device=device)[None, :]
    see = (r >= j - (Sk - Sq)) if mask.causal else torch.ones_like(r >= j)
    if mask.bounds is None:
        return see.expand(B, H, -1, -1)
    lts, lte, uts, ute = (x[:, :, None, :] for x in intervals(mask.bounds, mask.causal))
    see = see & ~((r >= lts) & (r < lte)) & ~((r >= uts) & (r < ute))
    return see.repeat_interleave(H // see.shape[1], 1).expand(B, H, -1, -1)


def multiply_high(a, b):
    """High 32 bits of the product of uint32 `a` (in int64) and the number `b`."""
    return (a * (b >> 16) + (a * (b & 0xFFFF) >> 16)) >> 16


def philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox4x32 on int64 tensors of uint32 values. TWIN: src/call/dropout.ts"""
    mask = 0xFFFFFFFF
    for _ in range(10):
        high0, low0 = multiply_high(c0, 0xD2511F53), (c0 * 0xD2511F53) & mask
        high1, low1 = multiply_high(c2, 0xCD9E8D57), (c2 * 0xCD9E8D57) & mask
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def kept(B, H, Sq, Sk, dropout, seed, device):
    """bool [B, H, Sq, Sk]: the pairs that dropout keeps. Word j & 3 of counter (j >> 2, r, b H + h, 0)."""
    shape = (B * H, Sq, (Sk + 3) // 4)
    bh, r, group = (torch.arange(n, device=device) for n in shape)
    zero = torch.zeros(shape, dtype=torch.int64, device=device)
    words = philox(zero + group, zero + r[:, None], zero + bh[:, None, None], zero, seed & 0xFFFFFFFF, seed >> 32)
    return (torch.stack(words, -1).reshape(B, H, Sq, -1) >= int(dropout * 2**32))[..., :Sk]


def keep_bits(x, bits):
    """float32 rounded to nearest with `bits` bits of precision and the exponent range of float32."""
    drop = 24 - bits
    i = x.float().view(torch.int32)
    rounded = ((i + ((1 << (drop - 1)) - 1) + ((i >> drop) & 1)) >> drop) << drop
    return torch.where(torch.isfinite(x), rounded.view(torch.float32), x.float())


ROUND = {
    'float64': lambda x: x.double(),
    'float32': lambda x: x.float(),
    'auto': lambda x: keep_bits(x, 11),
    'float16': lambda x: keep_bits(x, 11),
    'bfloat16': lambda x: keep_bits(x, 8),
}
UNIT = {'float32': 2.0**-24, 'auto': 2.0**-11, 'float16': 2.0**-11, 'bfloat16': 2.0**-8}


def heads_first(x, layout):
    return x if layout == 'bhsd' else x.transpose(1, 2)


class Dense:
    """Dense attention of one call in one precision; all tensors [B, heads, rows, channels]."""

    def __init__(self, q, k, v, see, scale, keep, dropout, precision):
        self.round = ROUND[precision]
        self.wide = (lambda x: x.double()) if precision == 'float64' else (lambda x: x.float())
        self.group = q.shape[1] // k.shape[1]
        self.q, self.k, self.v = q, k, v
        self.see, self.scale = see, scale
        self.factor = 1 if keep is None else keep / (1 - dropout)

    def product(self, a, b):
        return self.round(a) @ self.round(b)

    def per_query_head(self, x):
        return x.repeat_interleave(self.group, 1)

    def forward(self):
        k, v = self.per_query_head(self.k), self.per_query_head(self.v)
        scores = self.product(self.q, k.transpose(2, 3)) * self.scale
        scores = torch.where(self.see, scores, -torch.inf)
        self.lse = torch.logsumexp(scores, -1)
        self.p = torch.where(self.see, torch.exp(scores - self.lse[..., None]), 0)
        self.out = self.product(self.p * self.factor, v)
        return self.out, self.lse

    def backward(self, d_out, d_lse):
        """After forward: dq, dk, dv."""
        k, v = self.per_query_head(self.k), self.per_query_head(self.v)
        d_out, d_lse = self.wide(d_out), self.wide(d_lse)
        delta = (d_out * self.out).sum(-1) - d_lse
        d_p = self.product(d_out, v.transpose(2, 3)) * self.factor
        d_s = torch.where(self.see, self.p * (d_p - delta[..., None]), 0)
        dq = self.product(d_s, k) * self.scale
        dk = self.per_key_head(self.product(d_s.transpose(2, 3), self.q)) * self.scale
        dv = self.per_key_head(self.product((self.p * self.factor).transpose(2, 3), d_out))
        return dq, dk, dv

    def per_key_head(self, x):
        return x.unflatten(1, (-1, self.group)).sum(2)

    def sizes(self, d_out=None, d_lse=None):
        """For each element of the results, the root of the sum of squares of its terms. Times half a rounding step,
        this is about the error of a result whose terms are each rounded once. Exactly 0 where nothing is added. Only in
        float64."""

        def root(a, b):
            return (a**2 @ b**2).sqrt()

        q, k, v = self.q.double(), self.per_query_head(self.k).double(), self.per_query_head(self.v).double()
        scores = root(q, k.transpose(2, 3)) * abs(self.scale)
        p = self.p * (1 + scores**2).sqrt()
        result = {'out': root(p * self.factor, v), 'lse': (p**2).sum(-1).sqrt()}
        if d_out is not None:
            d_out = d_out.double()
            delta = (d_out**2 * self.out**2).sum(-1) + d_lse.double() ** 2
            d_s = p * (root(d_out, v.transpose(2, 3)) ** 2 * self.factor**2 + delta[..., None]).sqrt() * abs(self.scale)
            result['dq'] = root(d_s, k)
            result['dk'] = self.per_key_head(root(d_s.transpose(2, 3), q) ** 2).sqrt()
            result['dv'] = self.per_key_head(root((p * self.factor).transpose(2, 3), d_out) ** 2).sqrt()
        return result
