"""The judge, started once a worker."""

from collections.abc import Iterator

import pytest
from support.avro_judge import AvroJudge, avro_judge


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AvroJudge]:
    with avro_judge(tmp_path_factory.mktemp("judge")) as judge:
        yield judge
