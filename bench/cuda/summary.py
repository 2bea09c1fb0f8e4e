"""What records of bench.py say in short: our speeds, their share of our causal rate, and how many times faster we are
than the faster backend of FlexAttention and the fastest of all peers, by the time of both passes:

    python3 bench/cuda/summary.py FILE.jsonl ...
"""

import json
import math
import sys
from pathlib import Path

FLEX = ('flex', 'flex-flash')
SPEEDS = ('forwardTflops', 'backwardTflops')


def sizes_of(record):
    return '/'.join(str(record[name]) for name in ('D', 'Dv') if name in record)


def total(record):
    return record['forwardMs'] + record.get('backwardMs', 0)


def speeds(record):
    return ' / '.join(f'{record[key]:.0f}' for key in SPEEDS if key in record)


def share(record, causal):
    return ' / '.join(f'{record[key] / causal[key]:.0%}' for key in SPEEDS if key in record)


def best_of(row, names):
    """The fastest of these attentions, and how many times faster we are; None if none of them was timed."""
    found = [row[name] for name in names if name in row]
    best = min(found, key=total, default=None)
    return best and (best, total(best) / total(row['flash']))


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def show_summary(rows):
    """Rows are records of one call by attention."""
    causal = {(r['N'], sizes_of(r)): r for r in (row['flash'] for row in rows) if r['mask'] == 'causal'}
    print('\nTFLOP/s forward / backward, share of causal, FlexAttention, best peer')
    ratios = []
    for row in rows:
        record = row['flash']
        of = causal.get((record['N'], sizes_of(record)))
        line = f'{record["mask"]:20} N {record["N"]:6} D {sizes_of(record):>7}  {speeds(record):>11}'
        line += f'  {share(record, of) if of else "":>11}'
        flex, peer = best_of(row, FLEX), best_of(row, row.keys() - {'flash'})
        for best, ratio in filter(None, (flex, peer)):
            line += f'  {best["attention"]:10} {speeds(best):>11} {ratio:5.2f}x'
        ratios += [flex[1]] if flex else []
        print(line)
    if ratios:
        print(
            f'times faster than FlexAttention, over {len(ratios)} rows: geometric mean {geometric_mean(ratios):.3f}, '
            f'least {min(ratios):.2f}'
        )


def rows_of(files):
    """The calls of record files that we were timed in, by length and head sizes."""
    rows = {}
    for line in (line for file in files for line in Path(file).read_text().splitlines()):
        record = json.loads(line)
        rows.setdefault((record['mask'], record['N'], sizes_of(record)), {})[record['attention']] = record
    ours = [row for row in rows.values() if 'flash' in row]
    return sorted(ours, key=lambda row: [row['flash'].get(name, 0) for name in ('N', 'D', 'Dv')])


if __name__ == '__main__':
    show_summary(rows_of(sys.argv[1:]))
