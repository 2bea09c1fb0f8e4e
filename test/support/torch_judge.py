"""An independent judge: PyTorch's scaled_dot_product_attention on the CPU in float64, with its autograd.

Reads a JSON list of calls from standard input: B, H, Hkv, Sq, Sk, D, Dv, scale, flat lists q, k, v, dOut, dLse in the
order batch, head, sequence, channel, and `visible` (0 or 1, batch, head, query, key). Writes a JSON list of out, lse,
dq, dk, dv. JSON has no infinity, so an lse of minus infinity is written as null.
"""

import json
import math
import sys

import torch


def judge(call):
    B, H, Hkv, Sq, Sk, D, Dv = (call[name] for name in ("B", "H", "Hkv", "Sq", "Sk", "D", "Dv"))

    def tensor(name, *shape):
        return torch.tensor(call[name], dtype=torch.float64).reshape(shape)

    q = tensor("q", B, H, Sq, D).requires_grad_()
    k = tensor("k", B, Hkv, Sk, D).requires_grad_()
    v = tensor("v", B, Hkv, Sk, Dv).requires_grad_()
    visible = tensor("visible", B, H, Sq, Sk) > 0
    keys, values = (x.repeat_interleave(H // Hkv, dim=1) for x in (k, v))

    out = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=visible, scale=call["scale"])
    # scaled_dot_product_attention does not return its log-sum-exp.
    scores = (call["scale"] * q @ keys.transpose(-1, -2)).masked_fill(~visible, -math.inf)
    seen = visible.any(dim=-1)
    lse = torch.logsumexp(scores[seen], dim=-1)

    loss = (out * tensor("dOut", B, H, Sq, Dv)).sum() + (lse * tensor("dLse", B, H, Sq)[seen]).sum()
    dq, dk, dv = torch.autograd.grad(loss, (q, k, v))
    all_lse = torch.full((B, H, Sq), -math.inf, dtype=torch.float64)
    all_lse[seen] = lse.detach()
    return {"out": flat(out), "lse": flat(all_lse), "dq": flat(dq), "dk": flat(dk), "dv": flat(dv)}


def flat(tensor):
    return [x if math.isfinite(x) else None for x in tensor.detach().flatten().tolist()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}", file=sys.stderr)
    json.dump([judge(call) for call in json.load(sys.stdin)], sys.stdout)
