"""Full collections stay short while a process holds more and more, and cycles still go."""

import subprocess
import sys

import pytest
from support.runner import environment

pytestmark = pytest.mark.slow

# Prints the CPU seconds of the longest full collection while half a million small objects become four millions.
GROWS = """
import gc, sys
from time import thread_time
from eyewall.gc_tuning import GarbageCollector

held, times = [], [0.0]
def watch(phase, info):
    if info["generation"] == 2 and len(held) > 500_000:
        times.append(thread_time()) if phase == "start" else times.__setitem__(-1, thread_time() - times[-1])
if sys.argv[1] == "collector":
    GarbageCollector().start()
gc.callbacks.append(watch)
while len(held) < 4_000_000:
    held.append([])
print(max(times))
"""

# A cycle that was frozen, and becomes garbage: prints whether the thorough collection found it.
CYCLE = """
import gc, weakref
from eyewall import gc_tuning

class Node:
    pass
node = Node()
node.itself = node
seen = weakref.ref(node)
one = gc_tuning.GarbageCollector()
one.start()
del node
gc.collect()
assert seen() is not None
gc_tuning.THOROUGH = 0.0
gc.collect()
assert seen() is None
assert gc.get_freeze_count()
"""


def run(program: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_full_collections_stay_short() -> None:
    without = float(run(GROWS, "nothing"))
    assert float(run(GROWS, "collector")) < without / 2


def test_a_frozen_cycle_goes_with_a_thorough_collection() -> None:
    run(CYCLE)
