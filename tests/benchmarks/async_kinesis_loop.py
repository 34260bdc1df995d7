"""async-kinesis over the bench stream, tuned: orjson, no pause between reads, a long queue, uvloop. ENDPOINT RECORDS from the command line.

Run by `make bench-peers` in an environment of its own. Prints records, deletes and the CPU seconds since it began to read.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


async def read(endpoint: str, wanted: int) -> None:
    import orjson
    from kinesis import Consumer  # type: ignore[import-not-found]
    from kinesis.aggregators import SimpleAggregator  # type: ignore[import-not-found]
    from kinesis.processors import Processor  # type: ignore[import-not-found]

    class Orjson(Processor, SimpleAggregator):  # type: ignore[misc]
        def deserialize(self, data: bytes) -> Any:
            return orjson.loads(data)

    tuned = {"processor": Orjson(), "shard_fetch_rate": 1000, "max_queue_size": 100_000, "record_limit": 10_000}
    count = deletes = 0
    async with Consumer(
        "bench", endpoint_url=endpoint, region_name="us-east-1", iterator_type="TRIM_HORIZON", sleep_time_no_records=0.1, **tuned
    ) as consumer:
        before = time.process_time()
        while count < wanted:  # the iteration ends after two idle seconds
            async for change in consumer:
                count += 1
                deletes += change["op"] == "d"
                if count == wanted:
                    break
        print(json.dumps({"read": count, "deletes": deletes, "cpu": time.process_time() - before}), flush=True)


if __name__ == "__main__":
    import uvloop  # type: ignore[import-not-found]

    uvloop.run(read(sys.argv[1], int(sys.argv[2])))
