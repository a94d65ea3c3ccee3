"""Measures Roadstead beside nginx, docker-registry and Varnish.

    python3 scripts/bench                 everything; writes docs/benchmarks.md and docs/figures
    python3 scripts/bench quick           instructions and warm answers in three short rounds; prints
    python3 scripts/bench GROUP …         these groups; prints
    python3 scripts/bench profile         profiles of the answers; writes docs/profile.md
    python3 scripts/bench instructions-check
                                          compares with docs/instructions.json; ROADSTEAD_WRITE=1 records it

BENCH_ROUNDS and BENCH_SECONDS change how often and how long; ROADSTEAD is the binary. Loopback only. The exit
status is 1 where a target is missed or a measure failed; the page is written all the same.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import cold, hits, instructions, large, latency, memory, page, profile, pushes, servers  # noqa: E402
from bench.figures import Bench, Group, Target  # noqa: E402
from bench.processes import Failed, stop_all  # noqa: E402

GROUPS = {
    "instructions": instructions.run,
    "hits": hits.run,
    "latency": latency.run,
    "cold": cold.run,
    "lines": cold.run_lines,
    "pushes": pushes.run,
    "memory": memory.run,
    "large": large.run,
}
QUICK = ("instructions", "hits")
TIME_LIMIT_SECONDS = 45 * 60


def certificates(root):
    """Starts Roadstead once to make the certificate that all servers present; returns its folder."""
    keys = root / "keys"
    with servers.roadstead(root, "http://127.0.0.1:9", keys):
        pass
    # nginx's and Hitch's workers have no rights of root.
    for path in (keys, *keys.iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return keys


def groups_of(bench, names):
    """The groups' results. One that fails is a missed target, and the others still run."""
    results = []
    for name in names:
        started = time.monotonic()
        try:
            results.append(GROUPS[name](bench))
        except Exception as failure:  # Half an hour of the others is not lost to a mistake in one.
            if not isinstance(failure, Failed):
                traceback.print_exc()
            print(f"{name} FAILED: {failure}", file=sys.stderr)
            stop_all()
            results.append(Group(name, [], [Target(f"{name} can be measured", "no", False)], f"It failed: {failure}\n"))
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return results


def check_instructions(bench):
    absent = instructions.missing()
    if absent:
        print(f"NOT TESTED, because this is missing: {', '.join(absent)}", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    problems = instructions.check(bench)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


def write_profile(bench):
    absent = profile.missing()
    if absent:
        raise Failed(f"missing: {', '.join(absent)}; scripts/real-parts.sh installs it")
    profile.write(bench, page.conditions(bench))
    return 0


ALONE = {"instructions-check": check_instructions, "profile": write_profile}


def main(arguments):
    if any(one.startswith("-") for one in arguments):
        print(__doc__)
        return 0
    quick = arguments == ["quick"]
    names = QUICK if quick else arguments or list(GROUPS)
    alone = ALONE.get(arguments[0]) if len(arguments) == 1 else None
    unknown = [name for name in names if name not in GROUPS and not alone]
    if unknown:
        sys.exit(f"no such group: {', '.join(unknown)}; there are {', '.join((*GROUPS, *ALONE))}")
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    root.chmod(0o755)
    try:
        bench = Bench(
            root=root,
            keys=certificates(root),
            rounds=int(os.environ.get("BENCH_ROUNDS", "3" if quick else "5")),
            seconds=int(os.environ.get("BENCH_SECONDS", "1" if quick else "3")),
            quick=quick,
            deadline=time.monotonic() + TIME_LIMIT_SECONDS,
            load_before=os.getloadavg()[0],
        )
        if alone:
            return alone(bench)
        results = groups_of(bench, names)
        text = page.text(bench, results)
        print(text)
        if not arguments:
            page.write(text, results)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    finally:
        stop_all()
        # Much faster than shutil.rmtree for a million files.
        os.spawnvp(os.P_WAIT, "rm", ["rm", "-rf", str(root)])
    return int(any(not target.met for result in results for target in result.targets))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
