"""Writers of one run that are killed at random moments, and what is left of the run. Prints what it saw as JSON.

    python crash.py FOLDER ROUNDS SEED

Every process is forked from one that has imported the store and never used it, so that a round takes a fraction of a second.
"""

import json
import os
import random
import signal
import sys
import time
import traceback

import half_runs as half
import numpy as np

from interp.store import Store

WRITERS = 3
half.LAYERS, half.EXAMPLES = 6, 8
half.CHUNKS = {"layer": 1, "example": 2}
UNITS = 24


def forked(work, *given):
    """Runs ``work`` in a process of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*given)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def writer(path, spec, seed, log=None):
    rng, done = random.Random(seed), []
    with Store(path).begin(half.skeleton(spec), chunks=half.CHUNKS) as writing:
        for unit in writing:
            time.sleep(rng.uniform(0, 0.008))
            writing.write(unit, half.part(unit), {"unit": unit.number})
            done.append(unit.number)
        writing.finish(lambda family, attrs: {"units": [facts["unit"] for facts in writing.facts()]})
    if log is not None:
        with open(log, "w") as file:
            json.dump(done, file)


def look(path, spec, log):
    """What the killed left: every unit that is there is right; nothing is damaged."""
    store = Store(path)
    assert set(store.runs()["status"]) <= {"complete", "unfinished"}, store.runs().to_string()
    runs = [run for run in store if run.marker and run.marker["spec"] == {"n": spec}]
    done, every = runs[0].progress if runs else (0, 1)
    if runs:
        found = runs[0].load(partial=True)["value"].values
        known = ~np.isnan(found)
        assert np.array_equal(found[known], half.whole()[known])
        assert known.sum() * every == done * known.size
    with open(log, "w") as file:
        json.dump([done, bool(runs) and runs[0].status == "complete"], file)


def compare(path, spec, logs, before):
    """The run is whole and right, and what was done before was not done again."""
    run = next(run for run in Store(path) if run.marker["spec"] == {"n": spec})
    assert run.status == "complete", run.reason
    found = run.load()
    assert np.array_equal(found["value"].values, half.whole())
    assert found.attrs["units"] == list(range(UNITS))
    done = [number for log in logs for number in json.load(open(log))]  # noqa: SIM115
    assert len(done) == len(set(done)), f"done twice: {done}"
    assert len(done) == UNITS - before, f"{len(done)} done after {before} of {UNITS}"
    Store(path).tidy()  # a process that was killed as it began or ended left a folder that nothing names
    assert len(os.listdir(run.path)) == 2, os.listdir(run.path)
    assert np.array_equal(run.load()["value"].values, half.whole())


def main(folder, rounds, seed):
    rng = random.Random(seed)
    path, seen = os.path.join(folder, "runs"), {"rounds": rounds, "killed": 0, "begun": 0, "units": 0, "whole": 0}
    began = time.monotonic()
    for pid in [forked(writer, path, "undisturbed", who) for who in range(WRITERS)]:
        assert wait(pid) == 0
    takes = time.monotonic() - began
    for number in range(rounds):
        pids = [forked(writer, path, number, rng.random()) for _ in range(WRITERS)]
        began = time.monotonic()
        for at, pid in sorted((rng.uniform(0, takes), pid) for pid in pids):
            time.sleep(max(0.0, began + at - time.monotonic()))
            os.kill(pid, signal.SIGKILL)
            code = wait(pid)
            assert code in (0, -signal.SIGKILL), code
            seen["killed"] += code != 0
        log = os.path.join(folder, f"{number}.json")
        assert wait(forked(look, path, number, log)) == 0
        with open(log) as file:
            before, whole = json.load(file)
        logs = [os.path.join(folder, f"{number}-{who}.json") for who in range(2)]
        for pid in [forked(writer, path, number, rng.random(), one) for one in logs]:
            assert wait(pid) == 0
        assert wait(forked(compare, path, number, logs, UNITS if whole else before)) == 0
        seen["begun"] += before > 0 and not whole
        seen["whole"] += whole
        seen["units"] += before
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
