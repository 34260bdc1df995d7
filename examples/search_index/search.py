"""Prints the rows that an alias shows, one JSON object a line: SEARCH_URL=http://… python search.py cdc-public.orders [QUERY]"""

import json
import os
import sys
import urllib.request


def search(alias: str, query: str = "*") -> None:
    about = {"size": 1000, "query": {"query_string": {"query": query}}, "sort": [{"__cdc.version": "asc"}, {"_id": "asc"}]}
    refresh = urllib.request.Request(f"{os.environ['SEARCH_URL']}/{alias}/_refresh", method="POST")  # what was written just now is seen
    urllib.request.urlopen(refresh).close()
    after: dict[str, object] = {}
    while True:
        body = json.dumps({**about, **after}).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{os.environ['SEARCH_URL']}/{alias}/_search", body, headers)) as answer:
            hits = json.load(answer)["hits"]["hits"]
        for hit in hits:
            print(json.dumps({name: value for name, value in hit["_source"].items() if name != "__cdc"}))
        if not hits:
            return
        after = {"search_after": hits[-1]["sort"]}


if __name__ == "__main__":
    search(*sys.argv[1:])
