"""One number from a Prometheus server, for analysis steps and metric guards. What it means is not known here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from string import Template
from typing import Any

import aiohttp

TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 20


class QueryFailed(Exception):
    """The server gave no single number; `str()` says why."""


class Prometheus:
    """The HTTP API of one server, such as http://prometheus:9090."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"

    async def ask(self, query: str, names: Mapping[str, str]) -> float | None:
        """The value of an instant query, in which `$model`, `$stable` and `$canary` are what `names` says; None when
        there are no samples, or when it is not a number.

        Raises QueryFailed for an error, and for more series than one: which of them was meant?
        """
        text = Template(query).safe_substitute(names)
        try:
            timeout = aiohttp.ClientTimeout(TIMEOUT_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._url, data={"query": text}, allow_redirects=False) as answer,
            ):
                return _value(json.loads(await _read(answer)))
        except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise QueryFailed(f"{type(error).__name__}: {error}") from error


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    found = b""
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) > MAX_ANSWER_BYTES:
            raise QueryFailed(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return found


def _value(document: Any) -> float | None:
    if document["status"] != "success":
        raise QueryFailed(str(document.get("error", document["status"])))
    kind, result = document["data"]["resultType"], document["data"]["result"]
    if kind == "scalar":
        samples = [result]
    elif kind == "vector":
        samples = [one["value"] for one in result]
    else:
        raise QueryFailed(f"the query gives a {kind}, not a number")
    if len(samples) > 1:
        raise QueryFailed(f"the query gives {len(samples)} series: aggregate them to one")
    value = float(samples[0][1]) if samples else math.nan
    return None if math.isnan(value) else value
