"""Compares calls with NaN, infinities and the largest floats in some places with the same call with zeros there.

Numbers that no visible pair reads have no influence: results that do not depend on the poisoned numbers must be the
same, bit for bit. A NaN that a visible pair reads spreads as in dense attention over the visible pairs, and no further.
"""

import copy
import math
from zlib import crc32

import torch
from calls import actual_results
from cases import Inputs
from reference import heads_first, kept, visible

VALUES = {'NaN': math.nan, 'inf': math.inf, '-inf': -math.inf, '3e38': 3e38, '7': 7}
TENSORS = {'q': 'q', 'k': 'k', 'v': 'v', 'dOut': 'd_out', 'dLse': 'd_lse'}


def check_poison(library, c, options):
    """Problems in words."""
    with torch.no_grad():
        x = Inputs(c, options.device)
        see = visible(x.mask, c.B, c.H, c.Sq, c.Sk, options.device)
        keep = kept(c.B, c.H, c.Sq, c.Sk, c.dropout, c.seed, options.device) if c.dropout else None
        problems = []
        for place, masks, values in places(c, x, see):
            clean, found = actual_results(library, c, poisoned(c, x, masks, 0), options.forward_only)
            problems += found
            depends, spreads = influence(see, see, masks), influence(see, see if keep is None else see & keep, masks)
            for value in values:
                y, found = actual_results(library, c, poisoned(c, x, masks, VALUES[value]), options.forward_only)
                found += compare(c, clean, y, depends, spreads, value)
                if place in ('q', 'v') and value != '3e38' and torch.isfinite(y['out'][spreads['out']]).any():
                    found.append('out is finite where dense attention is not')
                problems += [f'{value} in {place}: {words}' for words in found]
    return problems, {}


def empty_masks(c, x):
    """A mask of poisoned numbers for each tensor, heads first."""
    shape = lambda name: x.d_lse.shape if name == 'dLse' else heads_first(getattr(x, TENSORS[name]), c.layout).shape
    return {name: torch.zeros(shape(name), dtype=torch.bool, device=x.device) for name in TENSORS}


def places(c, x, see):
    """Yields (name, masks of poisoned numbers, values to try): all numbers that no visible pair reads, then in each
    tensor one number of a visible pair. The latter is 3e38 only in bfloat16: in other precisions all numbers of a head
    share a power of two with it."""
    blind, unseen = ~see.any(-1), ~see.any(-2).unflatten(1, (c.Hkv, -1)).any(2)
    masks = empty_masks(c, x)
    for name, rows in (('q', blind), ('k', unseen), ('v', unseen), ('dOut', blind)):
        masks[name] |= rows[..., None]
    masks['dLse'] |= blind
    if any(mask.any() for mask in masks.values()):
        yield 'what nothing connects', masks, VALUES
    pairs = see.nonzero()
    if not len(pairs):
        return
    b, h, r, j = pairs[crc32(c.title.encode()) % len(pairs)].tolist()
    at = {
        'q': (b, h, r),
        'k': (b, h // (c.H // c.Hkv), j),
        'v': (b, h // (c.H // c.Hkv), j),
        'dOut': (b, h, r),
        'dLse': (b, h, r),
    }
    for name, index in at.items():
        masks = empty_masks(c, x)
        masks[name][index if name == 'dLse' else (*index, masks[name].shape[-1] // 2)] = True
        yield name, masks, list(VALUES)[: 4 if c.precision == 'bfloat16' else 3]


def poisoned(c, x, masks, value):
    """The inputs with a value at the masked places."""
    result = copy.copy(x)
    for name, attribute in TENSORS.items():
        tensor = getattr(x, attribute).clone()
        view = tensor if name == 'dLse' else heads_first(tensor, c.layout)
        view[masks[name]] = value
        setattr(result, attribute, tensor)
    return result


def influence(see, used, masks):
    """For each result, which of its numbers depend on poisoned numbers through visible pairs. Only weights of `used`
    pairs are multiplied by v and dO: numbers that read a pair dropped by dropout may be NaN or not."""
    group = see.shape[1] // masks['k'].shape[1]
    wide = lambda x: x.repeat_interleave(group, 1)
    narrow = lambda x: x.unflatten(1, (-1, group)).any(2)
    joined = lambda a, b: (a.float() @ b.float()) > 0  # [.., m, n] and [.., n, channels]
    rows = see.any(-1)
    keys, values = wide(masks['k'].any(-1)), wide(masks['v'])
    weights = rows & (masks['q'].any(-1) | joined(see, keys[..., None])[..., 0])
    out = weights[..., None] | joined(used, values)
    gradients = rows & (out.any(-1) | masks['dOut'].any(-1) | masks['dLse'])
    seen = see.transpose(2, 3)
    return {
        'out': out,
        'lse': weights,
        'dq': gradients[..., None].expand(masks['q'].shape),
        'dk': narrow(joined(seen, gradients[..., None])).expand(masks['k'].shape),
        'dv': narrow(joined(used.transpose(2, 3), weights[..., None] | masks['dOut'])),
    }


def compare(c, clean, y, depends, spreads, value):
    """Problems of poisoned results, in words."""
    problems = []
    for name in y:
        same = clean[name].view(torch.int32) == y[name].view(torch.int32)
        if name == 'dq' and not c.deterministic:  # its order of additions varies
            size = clean[name].abs().max().nan_to_num(0, 0, 0)
            same |= (clean[name] - y[name]).abs() <= 1e-5 * size
        changed = int((~same & ~depends[name]).sum())
        if changed:
            problems.append(f'{name} has {changed} numbers that changed')
        hidden = int((~torch.isnan(y[name]) & spreads[name]).sum()) if value == 'NaN' else 0
        if hidden:
            problems.append(f'{name} has {hidden} numbers that should be NaN')
    return problems
