"""The verdicts are Java's: random schemas, random changes to them, both directions."""

import json
import random
from collections import Counter

from support.avro_judge import AvroJudge, JudgeError
from support.avro_schemas import Schemas, changed

from gatelog.core.errors import SchemaError
from gatelog.schemas.compatibility import is_structural, mismatches
from gatelog.schemas.parsing import parse

PAIRS, PAIRS_LONG = 600, 20_000


def ours(reader: object, writer: object) -> tuple[bool, set[str]]:
    found = [each for each in mismatches(parse(reader), parse(writer)) if is_structural(each)]
    return not found, {each.rule.value for each in found}


def javas(judge: AvroJudge, reader: object, writer: object) -> tuple[bool, set[str]]:
    try:
        answer = judge.ask("compare", reader=reader, writer=writer)
    except JudgeError as error:
        if "matches multiple fields" in str(error):
            return False, {"AMBIGUOUS_ALIAS"}
        raise
    return answer["compatible"], set(answer["rules"])


def refused_by_us(schema: object) -> str | None:
    try:
        parse(schema)
    except SchemaError as error:
        return str(error)
    return None


def is_legal(judge: AvroJudge, schema: object) -> bool:
    try:
        judge.ask("parse", schema=schema)
    except JudgeError:
        return False
    return True


def test_verdicts_agree_with_java(judge: AvroJudge, chance: random.Random, long: bool) -> None:
    verdicts: Counter[bool] = Counter()
    rules: Counter[str] = Counter()
    disagreements = []
    while verdicts.total() < (PAIRS_LONG if long else PAIRS):
        old = Schemas(chance).record()
        new = changed(old, chance, chance.randint(1, 3))
        if not is_legal(judge, old) or not is_legal(judge, new) or refused_by_us(new):
            continue
        for reader, writer in ((new, old), (old, new)):
            theirs, mine = javas(judge, reader, writer), ours(reader, writer)
            verdicts[theirs[0]] += 1
            rules.update(theirs[1])
            if theirs[0] != mine[0]:
                disagreements.append((reader, writer, theirs, mine))
    print(verdicts, rules)
    assert not disagreements, f"{len(disagreements)}, the first: {json.dumps(disagreements[0], default=list)}"
    assert min(verdicts[True], verdicts[False]) > verdicts.total() / 5, "both verdicts are common in the corpus"
    assert len(rules) >= 7, f"every rule occurs: {rules}"


STRICTER = (
    "nor defined before this place",  # Java 1.12 takes names that are defined further down; fastavro does not
    "is taken already",  # Java takes a second definition that is equal to the first
    "its default does not fit its type",  # Java does not look at symbols, sizes of fixed, and years
)


def test_what_is_legal_for_us_is_legal_for_java(judge: AvroJudge, chance: random.Random, long: bool) -> None:
    refused: Counter[str] = Counter()
    for _ in range(2000 if long else 300):
        schema = changed(Schemas(chance).record(), chance, chance.randint(0, 3))
        why = refused_by_us(schema)
        reason = next((each for each in STRICTER if why and each in why), None)
        refused[reason or str(why is None)] += 1
        assert reason or (why is None) == is_legal(judge, schema), (why, json.dumps(schema))
    assert refused["True"] > refused.total() / 2
