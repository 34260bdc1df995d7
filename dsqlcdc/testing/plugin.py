"""The pytest plugin: fixtures that give a test an AWS of its own. Installed with dsqlcdc; needs the extra `local` when used.

    def test_my_consumer(local_aws, monkeypatch):
        for name, value in local_aws.environ.items():
            monkeypatch.setenv(name, value)
        local_aws.pipe("orders-cdc", shards=2)
        local_aws.commit(transactions=50, duplicates=0.1, disorder=20)
        …
        assert my_rows() == [change.row for change in local_aws.state(table="public.orders")]

`local_aws` is empty at the start of every test; the server behind it is started once for each test process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dsqlcdc.testing.local import LocalAws


@pytest.fixture(scope="session")
def local_aws_server() -> Iterator[LocalAws]:
    """The server behind `local_aws`. Override it to give it other options."""
    from dsqlcdc.testing.local import LocalAws

    with LocalAws() as aws:
        yield aws


@pytest.fixture
def local_aws(local_aws_server: LocalAws) -> Iterator[LocalAws]:
    """An empty embedded AWS: `endpoint`, `environ`, `pipe`, `commit`, `changes`, `state`, `record`, `advance`, `fault`, `deny`, `mend`,
    `cdc`, `cause`, `rules`, `control`."""
    local_aws_server.reset()
    yield local_aws_server
    local_aws_server.reset()  # moto's services belong to the process: another server in it would find what is left
