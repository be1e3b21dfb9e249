"""The processes in which items are measured: one for each part of a case, one after the other."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from bench.case import Item, Options, Row

TOP = Path(__file__).parents[1]


def run(case: str, items: list[Item], options: Options) -> Iterator[Row]:
    """The rows of all items; one that fails gives a row that says how, and the others go on."""
    with tqdm(total=len(items), desc=case, unit="item", file=sys.stderr) as progress:
        for part, group in itertools.groupby(items, key=lambda item: item.part):
            progress.set_postfix_str(part)
            waiting = list(group)
            while waiting:
                for rows in _start(case, waiting, options):
                    yield from rows
                    waiting.pop(0)
                    progress.update()
                if waiting:  # the process ended before its work: the rest gets another
                    yield {"item": waiting[0].name, "part": part, "failure": "its process ended"}
                    waiting.pop(0)
                    progress.update()


def _start(case: str, items: list[Item], options: Options) -> Iterator[list[Row]]:
    """The rows of each item in turn, from a process of their own."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.child", case],
        cwd=TOP,
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        work = {
            "options": dataclasses.asdict(options),
            "items": list(map(dataclasses.asdict, items)),
        }
        process.stdin.write(json.dumps(work))
        process.stdin.close()
        for line in process.stdout:
            yield json.loads(line)


def main() -> None:
    """Measure the items that stdin names; a line of JSON on stdout for each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    work = json.load(sys.stdin)
    # Whatever a library counts to size its pool, it finds this number of CPUs.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: work["options"]["threads"]])
    from bench.__main__ import case_of

    case = case_of(sys.argv[1])
    options = Options(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in work["options"].items()
        }
    )
    for item in (Item(**fields) for fields in work["items"]):
        try:
            rows = list(case.measure(options, item))
        except Exception as error:  # named in the report; the other items are still worth measuring
            failure = f"{type(error).__name__}: {error}"
            rows = [{"item": item.name, "part": item.part, "failure": failure}]
        print(json.dumps(rows), file=answers, flush=True)


if __name__ == "__main__":
    main()
