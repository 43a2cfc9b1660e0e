"""Mutation tests: plants small faults in the core, one at a time, and counts how many of them the fast tests notice.

    pip install cosmic-ray coverage
    python benchmarks/mutation/run.py --sample 100

Draws `--sample` mutants of each area with Cosmic Ray's operators. Runs the tests that execute the changed line, fastest
first and for at most `--seconds`, until one fails. Tests that did not get to run might have caught more, so the rates
are lower bounds. Mutants that only change annotations, or `is` into `==`, are left out.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.mutating
import cosmic_ray.plugins
import coverage
import pytest
import torch  # noqa: F401  (loaded once here, for all forked tests)
import torchvision  # noqa: F401
import zennit.composites  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from scipy.stats import binomtest
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[2]

AREAS = {
    "signal": (
        ["zennit_isnet/lrp/signal/*.py"],
        [
            "tests/signal",
            "tests/performance",
            "tests/coverage",
            "tests/models",
            "tests/regularizer",
            "tests/distributed",
        ],
    ),
    "relevance": (
        ["zennit_isnet/lrp/relevance/*.py"],
        ["tests/relevance", "tests/supervision", "tests/regularizer/test_copies.py"],
    ),
    "functional": (["zennit_isnet/functional/*.py"], ["tests/loss", "tests/metrics"]),
    "formulations": (["zennit_isnet/formulations.py"], ["tests/formulations"]),
}
"""Files that are changed, and the tests that should notice."""

ALIKE = re.compile(r"ComparisonOperator_(Is_Eq|Eq_Is|IsNot_NotEq|NotEq_IsNot)$")
"""Operators that change nothing for singletons: None, enum members, small numbers."""


class Mutant(NamedTuple):
    """A changed file."""

    file: str
    line: int
    operator: str
    source: str
    diff: str


class Tests(NamedTuple):
    """Results of the unchanged tests: seconds per test function, and the functions that run each line of a file."""

    seconds: dict[str, float]
    covering: dict[str, dict[int, set[str]]]

    def of(self, mutant: Mutant, limit: float) -> list[str]:
        """Test functions that run the mutant's statement, fastest first; all of them for code that runs at import."""
        lines = statement_lines(ROOT / mutant.file, mutant.line)
        found = set().union(*(self.covering[mutant.file].get(line, set()) for line in lines))
        chosen, total = [], 0.0
        for test in sorted(found - {""} or self.seconds, key=self.seconds.__getitem__):
            total += self.seconds[test]
            if chosen and total > limit:
                break
            chosen.append(test)
        return chosen


def statement_lines(path: Path, line: int) -> range:
    """Lines of the innermost statement; for a compound statement, those of its header."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno
            if node.lineno <= line <= (end or line):
                found = range(node.lineno, (end or line) + 1)
    return found


class _WithoutAnnotations(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def meaning(source: str) -> str | None:
    """A source's code without annotations; None if it does not compile."""
    try:
        return ast.dump(_WithoutAnnotations().visit(ast.parse(source)))
    except SyntaxError:  # the star of keyword-only parameters is not a product
        return None


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All of Cosmic Ray's mutations of a file that change its behaviour."""
    source = path.read_text()
    tree = get_ast_from_path(path)
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments() or ALIKE.search(name):
            continue
        positions = [p for node in ast_nodes(tree) for p in kind().mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            changed = cosmic_ray.mutating.mutate_code(source, kind(), occurrence)
            if changed is not None and meaning(changed) not in (None, meaning(source)):
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                diff = "\n".join(line for line in lines if line[:3] not in ("---", "+++", "@@ "))
                yield Mutant(str(path.relative_to(ROOT)), start[0], name.removeprefix("core/"), changed, diff)


class _Seconds:
    """Pytest plugin that adds up the time of each test function."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid.partition("[")[0]] += report.duration


def run_tests(folder: Path, tests: list[str], plugins: tuple[Any, ...] = ()) -> int:
    """Run tests of a copy of the project in this process."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
        return int(pytest.main([*options, *tests], plugins=list(plugins)))


def _measure(folder: Path, tests: list[str], files: list[str], found: Any) -> None:
    """Put the tests' exit code, seconds and lines into a queue."""
    tracer = coverage.Coverage(config_file=False, source=[str(folder / "zennit_isnet")], data_file=None)
    tracer.set_option("run:dynamic_context", "test_function")
    plugin = _Seconds()
    tracer.start()
    code = run_tests(folder, tests, (plugin,))
    tracer.stop()
    data = tracer.get_data()
    covering: dict[str, dict[int, set[str]]] = {}
    names = {
        f"{Path(file).stem}.{test}": f"{file}::{test}" for file, test in (t.split("::", 1) for t in plugin.seconds)
    }
    for file in files:
        lines = data.contexts_by_lineno(str(folder / file))
        covering[file] = {n: {names[c] for c in contexts if c in names} for n, contexts in lines.items()}
    found.put((code, dict(plugin.seconds), covering))


def measured(folder: Path, tests: list[str], files: list[str]) -> Tests:
    """Run the unchanged tests once."""
    forked = multiprocessing.get_context("fork")
    found = forked.Queue()
    process = forked.Process(target=_measure, args=(folder, tests, files, found))
    process.start()
    while found.empty() and process.is_alive():
        process.join(1)
    code, seconds, covering = (process.exitcode, {}, {}) if found.empty() else found.get()
    process.join()
    if code:
        raise SystemExit(f"the unchanged tests fail (exit code {code}): {' '.join(tests)}")
    return Tests(seconds, covering)


def killed(folder: Path, mutant: Mutant, tests: list[str], limit: float) -> bool:
    """Whether one of the tests fails or times out."""
    path = folder / mutant.file
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(run_tests(folder, tests)))
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode != 0
    finally:
        path.write_text(original)


def main() -> None:
    """Print a table, and write the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--areas", nargs="+", choices=AREAS, default=list(AREAS))
    parser.add_argument("--sample", type=int, default=100, help="mutants per area; 0: all")
    parser.add_argument("--seconds", type=float, default=60, help="time limit for the tests of one mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("mutants.json"))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    table = ["| area | mutants | tried | killed | 95 % interval |", "| --- | ---: | ---: | ---: | ---: |"]
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "project"
        ignored = shutil.ignore_patterns(".*", "_build", "results", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=ignored)
        for area in options.areas:
            patterns, tests = AREAS[area]
            paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
            found = [mutant for path in paths for mutant in mutants_of(path)]
            sample = found
            if options.sample:
                sample = random.Random(options.seed).sample(found, min(options.sample, len(found)))
            unchanged = measured(folder, tests, [str(path.relative_to(ROOT)) for path in paths])
            dead = 0
            for mutant in (bar := tqdm(sample, desc=area, unit="mutant")):
                chosen = unchanged.of(mutant, options.seconds)
                start = time.perf_counter()
                is_dead = killed(folder, mutant, chosen, 60 + 10 * options.seconds)
                dead += is_dead
                bar.set_postfix(killed=dead)
                row = {"area": area, "killed": is_dead, "tests": len(chosen), "seconds": time.perf_counter() - start}
                results.append(row | {k: v for k, v in mutant._asdict().items() if k != "source"})
                options.results.write_text(json.dumps(results, indent=1))
            interval = binomtest(dead, len(sample)).proportion_ci(method="wilson")
            share = f"{100 * dead / len(sample):.0f} % | {100 * interval.low:.0f} to {100 * interval.high:.0f} %"
            table.append(f"| {area} | {len(found)} | {len(sample)} | {share} |")
    sys.stdout.write("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
