"""Ends a process that makes no progress:

python3 native/test/cuda/watchdog.py SECONDS COMMAND ...

The process prints a line that begins with `STEP` before each step. Its other lines are printed on.
"""

import os
import select
import subprocess
import sys
import time

STEP = '> '
# How long a killed process may take to leave the GPU.
GRACE = 20


def watch(command, seconds):
    """The exit status of a process. It is killed if it prints nothing for `seconds`, and its last step told."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    step, rest, heard = 'its start', b'', time.monotonic()
    while True:
        if not select.select([process.stdout], [], [], max(0, heard + seconds - time.monotonic()))[0]:
            return end(process, f'nothing happened for {seconds:g} s', step)
        read = os.read(process.stdout.fileno(), 1 << 16)
        if not read:
            break
        heard = time.monotonic()
        *lines, rest = (rest + read).split(b'\n')
        for line in (line.decode() for line in lines):
            if line.startswith(STEP):
                step = line[len(STEP) :]
            else:
                print(line, flush=True)
    status = process.wait()
    return status if status >= 0 else end(process, f'the process ended by signal {-status}', step)


def end(process, what, step):
    process.kill()
    print(f'FAILED: {what} in {step}', flush=True)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        print('the process cannot be killed', flush=True)
    return 1


if __name__ == '__main__':
    sys.exit(watch(sys.argv[2:], float(sys.argv[1])))
