"""``gatelog republish``: topics that were lost, filled again."""

import asyncio
import sys
from dataclasses import asdict
from typing import Annotated, Final

import typer

from gatelog.console import options
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import StageBars, bars
from gatelog.core import asking, logs, postgres, shards
from gatelog.core.settings import Settings
from gatelog.indexer import topics as indexed_topics
from gatelog.indexer.places import index_pools
from gatelog.producer.republish import Plan, Report, TopicPlan, republication

DISAGREE: Final = 8


def republish(
    apply: Annotated[bool, typer.Option("--apply", help="Write what is missing; without this, only look.")] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Fill topics that were lost, or lost their end, from the index: the same records, in the same order.

    Stop the relays first, and the indexers too. Without --apply nothing is changed, and the exit code is 8 if
    something is missing. If it is broken off, the next run goes on.

      gatelog republish
      gatelog republish --apply
    """
    settings = options.settings_of(store, home)
    logs.configure(json=json or not sys.stderr.isatty())
    with bars() as progress:
        plan, anew = asyncio.run(run(settings, StageBars(progress), apply=apply))
    if json:
        print_json(
            {**asdict(plan), "events": plan.events, "obstacles": plan.obstacles, "applied": apply, "anew": anew}
        )
    else:
        _show(settings.store, plan, anew, applied=apply)
    if (plan.events or plan.obstacles) and not apply:
        raise typer.Exit(DISAGREE)


async def run(settings: Settings, report: Report, *, apply: bool) -> tuple[Plan, list[str]]:
    """Return what Kafka lacks, and after ``apply`` the topics that were made anew; raises what it meets."""
    async with republication(settings, report) as made:
        if not apply:
            return await made.look(), []
        plan = await made.apply()
        return plan, await _tell_the_index(settings, plan)


async def _tell_the_index(settings: Settings, plan: Plan) -> list[str]:
    """Topics that were made anew are known to the indexer by their new ids from now on."""
    anew: set[str] = set()
    for shard, offsets in enumerate(plan.offsets):
        async with index_pools(settings, shard, "gatelog republish", 1) as (_, _, pool):
            with postgres.translated(settings.store, shards.dsn_of(settings, shard)):
                ids = await asyncio.to_thread(asking.ids, settings.kafka_properties, offsets)
                anew |= set(await indexed_topics.accept(pool, settings.store, ids, offsets))
    return sorted(anew)


def _show(store: str, plan: Plan, anew: list[str], *, applied: bool) -> None:
    facts = {
        "published by Postgres": f"up to position {plan.position:,}",
        "in Kafka": f"up to position {plan.kafka_position:,}" + (" now" if applied else ""),
    }
    for topic in plan.topics:
        facts[topic.topic] = _line(topic, applied=applied)
    if plan.from_outbox:
        facts["never indexed"] = f"{plan.from_outbox:,} of these come from the outbox, in its order"
    if anew:
        facts["made anew"] = ", ".join(anew) + ": the indexer goes on where the index ends"
    for number, obstacle in enumerate(plan.obstacles, 1):
        facts[f"obstacle {number}"] = obstacle
    print_table(f"Store {store!r}", facts)
    typer.echo(_outcome(plan, applied=applied))


def _line(topic: TopicPlan, *, applied: bool) -> str:
    state = f"it held {topic.held:,}" if topic.exists else f"it did not exist; {topic.partitions} partitions"
    verb = "were written" if applied else "are missing"
    return f"{topic.events:,} events {verb}, positions {topic.first:,} to {topic.last:,} ({state})"


def _outcome(plan: Plan, *, applied: bool) -> str:
    if plan.obstacles:
        return "This cannot be done as it is: see the obstacles. Nothing was written."
    if not plan.events:
        return "Kafka lacks nothing that the index holds."
    if applied:
        return (
            "Done. Start the relay and the indexer. Subscriptions without offsets begin anew: see docs/operations.md."
        )
    return f"Nothing was written. `gatelog republish --apply` writes {plan.events:,} records."
