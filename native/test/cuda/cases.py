"""The table of cases of check.py, and their inputs."""
from dataclasses import dataclass, replace
from zlib import crc32

import numpy
import torch
from flashmask_torch import Mask

FORMS = {'full': (False, 0), 'causal': (True, 0), 'lts': (True, 1), 'lts-lte': (True, 2), 'lts-ute': (False, 2), 'four': (False, 4)}
BOUNDED = [name for name, (_, n) in FORMS.items() if n]


@dataclass
class Case:
    group: str
    name: str
    B: int = 1
    H: int = 2
    Hkv: int = 2
    Sq: int = 67
    Sk: int = 67
    D: int = 64
    Dv: int = 64
    form: str = 'full'
    style: str = 'blocky'  # how bounds are drawn, or a function (j, Sq, Sk) -> bounds of column j
    maskB: int = 1
    Hm: int = 1
    layout: str = 'bshd'
    scale: float | None = None
    dropout: float = 0.0
    seed: int = 0
    precision: str = 'auto'
    deterministic: bool = False
    d_lse: bool = True
    factor32: float = 1  # how many times more than others it may err in 'float32'
    spread: dict | None = None  # 'q', 'k', 'v', 'dOut', 'dLse' -> (deviation, mean)
    zero_d_out: bool = False
    forward_only: bool = False
    sixteen: bool = False  # tensors of `precision`, and not float32
    check: str = 'dense'  # how check.py judges: one of its CHECKS

    @property
    def title(self):
        return f'{self.group}: {self.name}'


def case(group, name, **options):
    """A case. S sets both lengths; H without Hkv sets both numbers of heads."""
    if 'S' in options:
        options['Sq'] = options['Sk'] = options.pop('S')
    if 'DD' in options:
        options['D'] = options['Dv'] = options.pop('DD')
    if 'H' in options:
        options.setdefault('Hkv', options['H'])
    return Case(group, name, **options)


def all_forms(group, name, **options):
    return [case(group, f'{name}, {form}', form=form, **options) for form in FORMS]


def length_cases():
    lengths = [1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 95, 96, 97, 127, 128, 129, 191, 192, 193, 255, 256, 257, 385, 511]
    for S in lengths:
        yield from all_forms('length', f'S {S}', S=S, DD=64 if S % 2 else 128)


def cross_cases():
    pairs = [(1, 2), (1, 37), (1, 64), (1, 65), (1, 1000), (3, 131), (5, 70), (33, 65), (64, 128), (128, 64), (127, 257), (257, 127)]
    pairs += [(16, 200), (17, 300), (70, 5), (65, 33), (131, 1), (1000, 1), (2, 2113), (2113, 2), (7, 4097), (4097, 7), (1, 9000), (300, 700)]
    for i, (Sq, Sk) in enumerate(pairs):
        yield from all_forms('cross', f'{Sq} queries, {Sk} keys', Sq=Sq, Sk=Sk, DD=64 if i % 2 else 128, layout='bhsd' if i % 3 else 'bshd')


def head_cases():
    for H, Hkv in [(1, 1), (2, 2), (4, 2), (3, 1), (6, 3), (8, 1), (16, 2), (32, 4)]:
        for Hm in sorted({1, Hkv, H}):
            for i, layout in enumerate(['bshd', 'bhsd']):
                for maskB in (1, 3):
                    form = BOUNDED[(H + Hm + i + maskB) % 4]
                    name = f'H {H}, Hkv {Hkv}, mask heads {Hm}, mask batches {maskB}, {layout}, {form}'
                    yield case('heads', name, Sq=143, Sk=171, B=3, H=H, Hkv=Hkv, Hm=Hm, maskB=maskB, layout=layout, form=form, DD=64)


DIMS = [1, 3, 8, 16, 24, 32, 33, 40, 48, 64, 72, 80, 96, 100, 112, 128, 136, 144, 160, 176, 192, 200, 224, 240, 255, 256]


def channel_cases(sixteen):
    dims = [D for D in DIMS if D % 8 == 0] if sixteen else DIMS
    for i, D in enumerate(dims):
        for form in ('causal', 'four'):
            yield case('channels', f'D {D}, {form}', DD=D, Sq=131, Sk=203, form=form, H=4, Hkv=2, layout='bhsd' if i % 2 else 'bshd')
        for jump in (1, 4, 7, 11):
            Dv = dims[(i + jump) % len(dims)]
            form = list(FORMS)[(i + jump) % 6]
            layout = 'bhsd' if jump % 2 else 'bshd'
            yield case('channels', f'D {D}, Dv {Dv}, {form}, {layout}', D=D, Dv=Dv, Sq=131, Sk=131, form=form, H=2, Hkv=1, layout=layout)


SIZES = [(64, 64), (128, 128), (80, 80), (96, 96), (160, 160), (192, 192), (256, 256), (192, 128), (128, 192), (72, 40)]


def size_cases(sixteen):
    """Head sizes that have kernels of their own, and such that are padded up to them, with all else that a call has."""
    for i, (D, Dv) in enumerate(SIZES[2:]):
        for j, precision in enumerate(p for p in precisions(sixteen) if p != 'float32'):
            for at, form in enumerate(FORMS, i + j):
                lengths = {'Sq': 331, 'Sk': 417} if at % 2 else {'Sq': 290, 'Sk': 129}
                options = {'Hm': (1, 2, 4)[at % 3] if FORMS[form][1] else 1, 'layout': 'bhsd' if at // 2 % 2 else 'bshd'}
                options |= {'style': ('blocky', 'documents', 'any')[at % 3], 'deterministic': at % 4 == 1}
                name = f'D {D}, Dv {Dv}, {form}, {precision}'
                dropout = 0.0 if at % 4 else 0.3
                yield case('sizes', name, D=D, Dv=Dv, form=form, precision=precision, dropout=dropout, H=4, Hkv=2, **lengths, **options)


def form_cases():
    for style in ('blocky', 'any', 'extreme', 'documents', 'padding'):
        for form in BOUNDED:
            for S in (131, 300):
                for DD in (64, 128):
                    yield case('form', f'{form}, {style}, {S} tokens, D {DD}', form=form, style=style, Sq=S, Sk=S - 34, Hm=2, DD=DD)


def empty_cases():
    S = 297
    far = lambda low, high, inside, outside: lambda j, Sq, Sk: inside if low <= j < high else outside
    table = {
        'every pair masked, causal': ('lts', lambda j, Sq, Sk: [0]),
        'every pair masked, full': ('four', lambda j, Sq, Sk: [0, 150, 150, Sq]),
        'padding at the end': ('lts', lambda j, Sq, Sk: [200 if j < 200 else j]),
        'rows 140 to 279': ('four', lambda j, Sq, Sk: [140, 160, 160, 280]),
        'rows 140 to 279, intervals swapped': ('four', lambda j, Sq, Sk: [155, 280, 140, 162]),
        'columns 130 to 269': ('lts-lte', far(130, 270, [0, S], [S, S])),
        'one visible pair': ('four', far(166, 167, [0, 165, 166, S], [0, S, 0, 0])),
        'first 64 rows': ('four', lambda j, Sq, Sk: [0, 64, 0, 0]),
        'odd columns': ('lts', lambda j, Sq, Sk: [0 if j % 2 else S]),
        'odd rows of every tile but the last': ('four', lambda j, Sq, Sk: [0, 256, 290, 291]),
    }
    for name, (form, style) in table.items():
        for DD in (64, 128, 192):
            yield case('empty', f'{name}, D {DD}', S=S, form=form, style=style, DD=DD)
    for DD in (64, 128, 192):
        yield case('empty', f'causal with more queries than keys, D {DD}', Sq=331, Sk=40, form='causal', DD=DD)


def magnitude_cases(sixteen):
    tiny = 1e-3 if sixteen else 1e-6
    spreads = {
        'scores to several hundreds': {'q': (12, 0), 'k': (12, 0)},
        'queries times 50': {'q': (50, 0)},
        'scores near -3200': {'q': (1, 20), 'k': (1, -20)},
        'scores near +3200': {'q': (1, 20), 'k': (1, 20)},
        'tiny': {name: (tiny, 0) for name in ('q', 'k', 'v', 'dOut', 'dLse')},
        'zero queries': {'q': (0, 0)},
        'values far from zero': {'v': (1, 100)},
    }
    if not sixteen:
        spreads |= {
            'huge values': {'v': (1e6, 0), 'dOut': (1e6, 0), 'dLse': (1e12, 0)},
            'huge queries, tiny keys': {'q': (1e8, 0), 'k': (1e-8, 0)},
            'tiny queries, huge keys': {'q': (1e-12, 0), 'k': (1e12, 0)},
            'dOut near 1e-20': {'dOut': (1e-20, 0), 'dLse': (1e-20, 0)},
            'dOut near 1e-20, dLse near 1': {'dOut': (1e-20, 0)},
            'dOut near 1, dLse near 1e-20': {'dLse': (1e-20, 0)},
            'dOut near 1e10': {'dOut': (1e10, 0), 'dLse': (1e10, 0)},
            'values near 1e-20': {'v': (1e-20, 0)},
            'one large value': {'v': (1, 0, 1e5)},
            'one large key': {'k': (1, 0, 300)},
            'one large gradient': {'dOut': (1, 0, 1e5)},
        }
    for name, spread in spreads.items():
        for precision in precisions(sixteen):
            if sixteen and precision == 'float16' and name == 'tiny':
                continue  # gradients of weights underflow float16: users of float16 scale their loss
            # Sums have the absolute error of the largest terms.
            factor32 = 13 if name == 'one large value' else 1
            options = {'S': 131, 'form': 'lts', 'spread': spread, 'precision': precision, 'factor32': factor32}
            for DD in (64, 128):
                yield case('magnitude', f'{name}, {precision}, D {DD}', DD=DD, **options)
    for scale in (0, 1, 0.01):
        yield case('magnitude', f'scale {scale}', S=131, form='lts', scale=scale)
    for precision in precisions(sixteen):
        options = {'S': 131, 'form': 'four', 'precision': precision}
        yield case('magnitude', f'dOut 0, dLse alone, {precision}', zero_d_out=True, **options)
        yield case('magnitude', f'dOut 0, dLse 0, {precision}', zero_d_out=True, d_lse=False, **options)


def score_cases():
    """Scores so large that float32 rounds them by many powers of two; the weights of a row must still add up to 1."""
    for precision in precisions(False):
        options = {'precision': precision, 'H': 1, 'scale': 1, 'd_lse': False}
        for score in (1e2, 1.1e5, 1e6, 1e7, 1e9, 1e12, -1e3, -1e9):
            one = {'q': (0, score), 'k': (0, 1)}
            for form, Sk in [('causal', 1), ('causal', 2), ('lts', 3)]:
                yield case('score', f'{Sk} equal keys, {form}, scores of {score:g}, {precision}', Sq=1, Sk=Sk, DD=1, form=form, style=lambda j, Sq, Sk: [1], spread=one, **options)
            for Sk, DD in [(7, 16), (37, 64), (300, 128), (70, 256)]:
                spread = {'q': (abs(score) / DD**0.5, 0)}
                yield case('score', f'weights of {Sk} keys, scores of {score:g}, {precision}', Sq=3, Sk=Sk, DD=DD, check='sum', spread=spread, **options)
        for scale in (-0.3, -1e3, 1e-30, 1e30):
            spread = {'q': (0.3 / abs(scale), 0)}
            yield case('score', f'scale {scale:g}, {precision}', S=131, form='lts', spread=spread, **(options | {'scale': scale}))
        for score in (1e2, 1e3, 1e4):
            yield case('score', f'48 x 48, scores to {score:g}, {precision}', S=48, DD=16, form='causal', spread={'q': (score / 16, 0)}, **options)


def packed(form, length, rest):
    """Bounds of the columns of documents of `length` tokens; the last `rest` tokens are padding, without visible pairs."""

    def bounds(j, Sq, Sk):
        if j >= Sk - rest:
            return {'lts': [0], 'lts-lte': [0, Sq], 'lts-ute': [0, 0], 'four': [0, Sq, 0, 0]}[form]
        end, start = (min((j // length + i) * length, Sk - rest) * Sq // Sk for i in (1, 0))
        return {'lts': [end], 'lts-lte': [end, Sq], 'lts-ute': [end, start], 'four': [end, Sq, 0, start]}[form]

    return bounds


def poison_cases():
    """Calls for poison.py, which poisons padding, keys that no row sees, and one of many pairs."""
    lengths = [(131, 131), (67, 67), (200, 300), (129, 257), (64, 64), (33, 65), (256, 256), (97, 31)]
    for i, (Sq, Sk) in enumerate(lengths):
        for form in FORMS:
            styles = [packed(form, 32, Sk // 4), packed(form, 21, 5), 'any'] if FORMS[form][1] else ['']
            for j, style in enumerate(styles):
                for precision in precisions(False):
                    at = i + j + precisions(False).index(precision)
                    heads = {'H': 4, 'Hkv': 2, 'Hm': (1, 2, 4)[at % 3] if FORMS[form][1] else 1} if at % 2 else {'H': 2, 'Hkv': 2}
                    D, Dv = SIZES[(at + i) % len(SIZES)]
                    options = {'D': D, 'Dv': Dv, 'deterministic': (i // 2 + j) % 2 == 0, 'layout': 'bhsd' if at % 3 else 'bshd'}
                    options |= {'dropout': 0.2 if at % 7 == 0 else 0.0, 'seed': at, 'precision': precision, 'check': 'poison'}
                    name = f'{Sq} queries, {Sk} keys, {form} {j}, D {D}, Dv {Dv}, {precision}'
                    yield case('poison', name, Sq=Sq, Sk=Sk, form=form, style=style, **options, **heads)
    for precision in precisions(False):
        for Sk in (64, 1000):
            options = {'form': 'lts', 'style': lambda j, Sq, Sk: [1 if j < 20 else 0], 'precision': precision, 'check': 'poison'}
            yield case('poison', f'a cache of {Sk} keys, 20 of them filled, {precision}', Sq=1, Sk=Sk, DD=128, H=4, Hkv=2, **options)


def few_rows_cases():
    """Calls with so few rows a key head that their forward has kernels of its own, up to one row too many."""
    styles = ['blocky', 'any', 'documents', 'padding', 'extreme', 'any', 'blocky']
    sizes = [(64, 64), (128, 128), (80, 80), (256, 256), (5, 130), (72, 24), (33, 31), (200, 7), (16, 256), (1, 1), (128, 64)]
    rows = [(1, 1, 1), (1, 8, 2), (4, 4, 1), (1, 16, 1), (2, 16, 2), (3, 10, 2), (8, 4, 2), (16, 2, 2), (17, 2, 2), (5, 10, 2), (32, 1, 1), (33, 1, 1)]
    at = 0
    for Sq, H, Hkv in rows:
        for Sk in (1, 40, 129, 700, 5000):
            for form in FORMS:
                at += 1
                turn = at + at // 6
                D, Dv = sizes[turn % 11]
                options = {'D': D, 'Dv': Dv, 'form': form, 'style': styles[turn % 7], 'B': 2, 'maskB': 1, 'layout': 'bhsd' if turn % 2 else 'bshd'}
                # In float32 the other kernels, and those of the gradient, err by more than dense attention where few terms are added up.
                choice = precisions(False) if Sq * H // Hkv <= 16 else ['auto', 'bfloat16']
                precision = choice[turn % len(choice)]
                options |= {'precision': precision, 'forward_only': precision == 'float32', 'dropout': 0.3 if turn % 5 == 0 else 0.0, 'seed': at}
                if FORMS[form][1]:
                    options |= {'Hm': (1, Hkv, H)[turn % 3], 'maskB': 1 + turn % 2}
                name = f'{Sq} x {H} / {Hkv} rows, {Sk} keys, D {D}, Dv {Dv}, {form}, {options["style"]}, {precision}'
                yield case('few rows', name, Sq=Sq, Sk=Sk, H=H, Hkv=Hkv, **options)
                styled = packed(form, 21, Sk // 3) if turn % 2 else styles[turn % 7]
                if Sk > 1 and Sk < 5000:
                    yield case('few rows', f'poison, {name}', Sq=Sq, Sk=Sk, H=H, Hkv=Hkv, **(options | {'check': 'poison', 'style': styled}))


def dropout_cases(sixteen):
    for dropout, seed in [(0.5, 1), (0.1, 0), (0.25, 2**32 + 7), (0.3, 2**53 - 1), (0.95, 3)]:
        for form in FORMS:
            for DD in (64, 128, 192):
                options = {'dropout': dropout, 'seed': seed, 'form': form, 'DD': DD}
                yield case('dropout', f'{dropout}, {form}, D {DD}', Sq=133, Sk=150, **options)
                yield case('dropout', f'{dropout}, {form}, D {DD}, grouped', Sq=143, Sk=159, B=2, H=4, Hkv=2, Hm=4 if FORMS[form][1] else 1, layout='bhsd', **options)
    for precision in precisions(sixteen):
        yield case('dropout', f'precision {precision}', S=200, dropout=0.2, seed=9, form='lts', precision=precision)


def precisions(sixteen):
    return ('bfloat16', 'float16') if sixteen else ('auto', 'float32', 'bfloat16', 'float16')


def precision_cases(sixteen):
    for precision in precisions(sixteen):
        for DD in (16, 40, 64, 96, 128, 160, 192, 256):
            for form in ('full', 'causal', 'four'):
                yield case('precision', f'{precision}, D {DD}, {form}', S=193, DD=DD, form=form, precision=precision, H=4, Hkv=2)


def option_cases():
    for DD in (64, 128, 256):
        for form in FORMS:
            yield case('option', f'no dLse, D {DD}, {form}', S=165, form=form, d_lse=False, DD=DD)
            for H, Hkv in [(2, 2), (4, 1)]:
                name = f'deterministic, D {DD}, {form}, H {H}, Hkv {Hkv}'
                yield case('option', name, Sq=331, Sk=417, form=form, deterministic=True, DD=DD, H=H, Hkv=Hkv)
        yield case('option', f'deterministic, dropout, D {DD}', S=300, form='lts', deterministic=True, dropout=0.2, DD=DD)


def repeat_cases():
    """Many thread blocks that add to the same rows, at the head sizes that have kernels of their own."""
    for DD in (64, 96, 128, 192, 256):
        for form in FORMS:
            options = {'style': 'documents', 'deterministic': True, 'check': 'repeats', 'precision': 'bfloat16'}
            yield case('repeats', f'D {DD}, {form}', S=1500, DD=DD, form=form, B=2, H=8, Hkv=4, **options)


def long_cases():
    for form in FORMS:
        for style in ('documents', 'any') if FORMS[form][1] else ('',):
            for S, DD in [(1024, 64), (1500, 128), (2048, 128), (1111, 256)]:
                yield case('long', f'{form} {style} {S} tokens, D {DD}', S=S, form=form, style=style, DD=DD, H=4, Hkv=2)
    yield case('long', 'two intervals, many tiles', Sq=300, Sk=20000, form='four', style='documents', H=1)
    yield case('long', '70,016 heads of all batches', S=3, form='causal', B=2188, H=32, Hkv=16, DD=16)
    yield case('long', '70,016 heads of all batches, intervals', S=3, form='four', B=2188, H=32, maskB=2188, DD=8)
    yield case('long', 'causal, many heads', S=300, form='causal', B=4, H=32, Hkv=8, DD=128)
    for form in ('full', 'causal'):
        yield case('long', f'{form}, row blocks of 192 queries', Sq=300, Sk=333, form=form, B=2, H=32, Hkv=8, D=64, Dv=40)


def all_cases(sixteen):
    groups = [length_cases(), cross_cases(), head_cases(), channel_cases(sixteen), size_cases(sixteen), form_cases()]
    groups += [empty_cases(), magnitude_cases(sixteen), dropout_cases(sixteen), precision_cases(sixteen), option_cases(), long_cases(), repeat_cases()]
    cases = [c for group in groups for c in group]
    if not sixteen:
        return [*cases, *score_cases(), *poison_cases(), *few_rows_cases()]
    both = [replace(c, precision=p, name=f'{c.name} [{p}]') for c in cases for p in precisions(True) if c.precision == 'auto']
    return [replace(c, sixteen=True) for c in both + [c for c in cases if c.precision != 'auto']]


def draw_bounds(random, c):
    """int32 [maskB, Hm, Sk, n]: like randomBounds in test/support/cases.ts, documents, or right padding."""
    n, rows = FORMS[c.form][1], c.maskB * c.Hm
    if callable(c.style):
        return numpy.array([[c.style(j, c.Sq, c.Sk) for j in range(c.Sk)]] * rows).reshape(c.maskB, c.Hm, c.Sk, n)
    shape = (rows, c.Sk, n)
    values = random.integers(-3, c.Sq + 4, shape)
    if c.style in ('blocky', 'documents'):
        start = random.random((rows, c.Sk)) < 1 / (40 if c.style == 'blocky' else 150)
        start[:, 0] = True
        at = numpy.maximum.accumulate(numpy.where(start, numpy.arange(c.Sk), 0), 1)
        values = numpy.take_along_axis(values, at[..., None], 1)
    if c.style == 'blocky':
        values = values + numpy.where(random.random(shape) < 0.1, random.integers(-2, 3, shape), 0)
    if c.style == 'extreme':
        far = numpy.array([-(2**31), -1000, -1, 0, c.Sq, c.Sq + 1, c.Sq + 1000, 2**31 - 1])
        values = numpy.where(random.random(shape) < 0.5, random.choice(far, shape), values)
    if c.style == 'documents':
        values = document_bounds(at, c, n)
    if c.style == 'padding':
        # The last third of the rows and columns is padding, without visible pairs.
        pad, column = c.Sq * 2 // 3, numpy.arange(c.Sk)[None, :, None] + numpy.zeros((rows, 1, 1), int)
        start = numpy.where(column < c.Sk * 2 // 3, pad, 0)
        parts = {1: [start], 2: [start, c.Sq + 0 * start if c.form == 'lts-lte' else 0 * start], 4: [start, c.Sq + 0 * start, 0 * start, 0 * start]}
        values = numpy.concatenate(parts[n], 2)
    return values.reshape(c.maskB, c.Hm, c.Sk, n)


def document_bounds(start, c, n):
    """Documents that begin at column start[j], and at the same fraction of the rows."""
    starts = [numpy.append(numpy.unique(row), c.Sk) for row in start]
    ends = numpy.array([next_[numpy.searchsorted(next_, row, 'right')] for next_, row in zip(starts, start)])
    top, bottom = (x * c.Sq // c.Sk for x in (start, ends))
    parts = {'lts': [bottom], 'lts-lte': [bottom, 0 * bottom + c.Sq - 5], 'lts-ute': [bottom, top]}
    return numpy.stack(parts.get(c.form, [bottom, 0 * bottom + c.Sq, 0 * bottom, top]), -1)


class Inputs:
    def __init__(self, c, device):
        seed = crc32(c.title.split(' [')[0].encode())
        self.generator = torch.Generator(device).manual_seed(seed)
        self.case, self.device = c, device
        causal, n = FORMS[c.form]
        bounds = torch.tensor(draw_bounds(numpy.random.default_rng(seed), c), dtype=torch.int32, device=device) if n else None
        self.mask = Mask(bounds, causal)
        dtype = getattr(torch, c.precision) if c.sixteen else torch.float32
        self.q, self.k, self.v, self.d_out = (
            self.tensor(name, self.shape(rows, heads, channels)).to(dtype)
            for name, rows, heads, channels in [('q', c.Sq, c.H, c.D), ('k', c.Sk, c.Hkv, c.D), ('v', c.Sk, c.Hkv, c.Dv), ('dOut', c.Sq, c.H, c.Dv)]
        )
        if c.zero_d_out:
            self.d_out = torch.zeros_like(self.d_out)
        self.d_lse = self.tensor('dLse', (c.B, c.H, c.Sq)) * c.d_lse

    def shape(self, rows, heads, channels):
        return (self.case.B, rows, heads, channels) if self.case.layout == 'bshd' else (self.case.B, heads, rows, channels)

    def tensor(self, name, shape):
        deviation, mean, *outlier = (self.case.spread or {}).get(name, (1, 0))
        x = torch.randn(shape, generator=self.generator, device=self.device) * deviation + mean
        if outlier:
            x.view(-1)[x.numel() // 2] = outlier[0]
        return x
