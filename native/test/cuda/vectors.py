"""Checks reference.py against the shared vectors of test/vectors/, which the tests of every language read:

python3 native/test/cuda/vectors.py
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from reference import intervals, kept, philox, visible

FOLDER = Path(__file__).parents[3] / 'test' / 'vectors'


def cases(name):
    return json.loads((FOLDER / f'{name}.json').read_text())


@dataclass
class Mask:
    bounds: torch.Tensor
    causal: bool


def check_intervals(x):
    found = intervals(torch.tensor(x['bounds']), x['causal'])
    return [int(b) for b in found] == x['intervals']


def check_philox(x):
    words = philox(*(torch.tensor(word) for word in x['counter']), *x['key'])
    return [int(word) for word in words] == x['words']


def check_dropout(x):
    B, Sq, Sk = x['batchHead'] + 1, x['row'] + 1, len(x['kept'])
    found = kept(B, 1, Sq, Sk, x['rate'], x['seed'], 'cpu')[-1, 0, -1]
    return ''.join('01'[int(keep)] for keep in found) == x['kept']


def check_mask_head(x):
    """Only one head of the bounds hides key 0; it must be the head that (b, h) reads."""
    B = max(x['maskB'], x['b'] + 1)
    bounds = torch.ones(x['maskB'] * x['Hm'], dtype=torch.int32)
    bounds[x['maskHead']] = 0
    mask = Mask(bounds.view(x['maskB'], x['Hm'], 1, 1), True)
    return not visible(mask, B, x['H'], 1, 1, 'cpu')[x['b'], x['h']].any()


def check_vectors():
    """Problems in words."""
    checks = {
        'intervals': check_intervals,
        'philox': check_philox,
        'dropout': check_dropout,
        'mask_head': check_mask_head,
    }
    problems = []
    for name, check in checks.items():
        for x in cases(name):
            # Forms without bounds never reach intervals().
            if x.get('n') != 0 and not check(x):
                problems.append(f'reference.py differs from test/vectors/{name}.json: {x}')
    return problems


if __name__ == '__main__':
    found = check_vectors()
    print('\n'.join(found) or 'all vectors hold')
    raise SystemExit(1 if found else 0)
