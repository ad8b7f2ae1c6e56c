"""What the suites share: services of their own, alternating rounds, medians, and how results are written.

Every figure stands beside a baseline that was measured in the same run, in turns with it: a shared machine is
noisy, ratios travel better than seconds. Everything in Python, baselines too, runs on uvloop.
"""

import json
import os
import secrets
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import uvloop

from gatelog.console.store import initialise
from gatelog.core.settings import Settings
from gatelog.local import LocalServices

OUT: Final = Path(__file__).parent / "out"
ROUNDS: Final = int(os.environ.get("ROUNDS", "3"))


@dataclass(frozen=True)
class Result:
    """A figure, its baseline, and what must be reached: the ratio is at least, or at most, ``target``."""

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    target: float | None
    at_most: bool = False

    @property
    def ratio(self) -> float:
        """The figure as a multiple of its baseline."""
        return self.value / self.baseline_value

    @property
    def is_reached(self) -> bool:
        """Whether the target, if there is one, is reached."""
        return self.target is None or (self.ratio <= self.target if self.at_most else self.ratio >= self.target)


Measure = Callable[[], Awaitable[float]]


async def alternate(*measures: Measure, rounds: int = ROUNDS) -> list[float]:
    """Run the measures in turns and return the median of each."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for place, measure in enumerate(measures):
            found[place].append(await measure())
    return [statistics.median(values) for values in found]


@contextmanager
def services() -> Iterator[Settings]:
    """Yield settings that name a Postgres and a Kafka of this run's own."""
    with tempfile.TemporaryDirectory(prefix="gatelog-bench-") as folder:
        local = LocalServices(Path(folder) / "services")
        endpoints = local.up()
        try:
            yield Settings.load(
                home=Path(folder),
                postgres_dsn=endpoints.postgres_dsn,
                kafka={"bootstrap.servers": endpoints.kafka_bootstrap_servers},
            )
        finally:
            local.destroy()


async def new_store(settings: Settings) -> Settings:
    """Initialise an empty store."""
    fresh = settings.model_copy(update={"store": f"b{secrets.token_hex(6)}"})
    await initialise(fresh)
    return fresh


def report(suite: str, results: Sequence[Result]) -> None:
    """Print the table, and write JSON and picture."""
    OUT.mkdir(exist_ok=True)
    rows = [{**asdict(result), "ratio": result.ratio} for result in results]
    (OUT / f"{suite}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (OUT / f"{suite}.svg").write_text(_picture(suite, results), encoding="utf-8")
    print(f"\n{suite}, medians of {ROUNDS} rounds")
    for result in results:
        wanted = "" if result.target is None else f"{'≤' if result.at_most else '≥'} {result.target:g}"
        verdict = "" if result.target is None else "reached" if result.is_reached else "MISSED"
        print(
            f"  {result.name:<30} {result.value:>12,.2f} {result.unit:<5} {result.ratio:>6.2f} times "
            f"{result.baseline:<34} ({result.baseline_value:,.2f})  {wanted:<7} {verdict}"
        )


def run(suite: str, measure: Callable[[Settings], Awaitable[list[Result]]]) -> None:
    """Start the services, measure, report."""
    with services() as settings:

        async def all_of_it() -> list[Result]:
            return await measure(settings)

        report(suite, uvloop.run(all_of_it()))


def _picture(suite: str, results: Sequence[Result]) -> str:
    """Bars of ratios as SVG, a mark where the target is."""
    widest = max([result.ratio for result in results] + [result.target or 0 for result in results])
    lines = []
    for place, result in enumerate(results):
        y, width = 40 + place * 26, 400 * result.ratio / widest
        colour = "#4a90d9" if result.is_reached else "#d9694a"
        lines.append(f'<text x="250" y="{y + 13}" text-anchor="end">{result.name}</text>')
        lines.append(f'<rect x="260" y="{y}" width="{width:.1f}" height="17" fill="{colour}"/>')
        lines.append(f'<text x="{266 + width:.1f}" y="{y + 13}">{result.ratio:.2f} times {result.baseline}</text>')
        if result.target is not None:
            x = 260 + 400 * result.target / widest
            lines.append(f'<path d="M{x:.1f} {y - 3}v23" stroke="currentColor" stroke-dasharray="3 2"/>')
    height = 50 + len(results) * 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/><text x="20" y="22" font-size="15">'
        f"{suite}: ratio to the baseline of the same run, the target dashed</text>{''.join(lines)}</svg>\n"
    )
