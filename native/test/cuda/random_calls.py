"""The calls of `check.py --random`: lengths, heads, head sizes, masks and options of all kinds, each from its seed.

Most calls are only run. Their results must be finite, and if deterministic the same bits with the plan of the mask and
without. One of PERIOD is compared with dense attention, another is given wrong plans (wrong_plans.py).
"""

import random

from cases import FORMS, SIZES, case, precisions

STYLES = ['blocky', 'any', 'extreme', 'documents', 'padding']
LONGEST = 3000
# Pairs of all heads: dense attention takes a few milliseconds for these.
MOST_PAIRS = 2_000_000
PERIOD = 8
FEW_TERMS = 16


def drawn_length(draw):
    """Short lengths are as likely as long ones."""
    return int(LONGEST ** draw.random())


def drawn_heads(draw, bounded):
    B, Hkv, group = draw.choice([1, 1, 2]), draw.choice([1, 2, 3]), draw.choice([1, 1, 2, 4])
    H = Hkv * group
    masks = {'maskB': draw.choice([1, B]), 'Hm': draw.choice([1, Hkv, H])} if bounded else {}
    return {'B': B, 'H': H, 'Hkv': Hkv, **masks}


def drawn_channels(draw, sixteen):
    sizes = draw.choice(SIZES) if draw.random() < 0.7 else (draw.randint(1, 256), draw.randint(1, 256))
    return [-(-size // 8) * 8 if sixteen else size for size in sizes]


def random_case(seed):
    draw = random.Random(seed)
    sixteen, form = draw.random() < 0.3, draw.choice(list(FORMS))
    heads, (D, Dv) = drawn_heads(draw, FORMS[form][1] > 0), drawn_channels(draw, sixteen)
    Sk = drawn_length(draw)
    Sq = Sk if draw.random() < 0.3 else drawn_length(draw)
    precision = draw.choice(precisions(sixteen))
    check = 'finite'
    # Where 'float32' adds up few terms, its 22 bits are not judged by the few errors of dense attention in 24.
    if seed % PERIOD == 0 and not (precision == 'float32' and min(Sq, Sk) < FEW_TERMS):
        check = 'dense'
    elif seed % PERIOD == 1 and FORMS[form][1] and not sixteen:
        check = 'plan'
    options = {
        'Sq': max(1, min(Sq, MOST_PAIRS // (heads['B'] * heads['H'] * Sk))), 'Sk': Sk, 'D': D, 'Dv': Dv, 'form': form,
        'style': draw.choice(STYLES), 'layout': draw.choice(['bshd', 'bhsd']), 'd_lse': draw.random() < 0.5,
        'dropout': draw.choice([0.0, 0.0, 0.0, 0.2]), 'precision': precision, 'sixteen': sixteen,
        'deterministic': draw.random() < 0.4, 'check': check, **heads,
    }  # fmt: skip
    words = ', '.join(f'{name} {value}' for name, value in options.items())
    return case('random', f'{seed}, {words}', seed=seed, **options)
