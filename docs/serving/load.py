"""Sends requests to the service of service.py, and prints how fast it responds.

python load.py cat.jpg --clients 32 --seconds 10
"""

import argparse
import http.client
import json
import os
import platform
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np


def load(url: str, image: bytes, clients: int, seconds: float) -> dict:
    """Posts an image from several clients, each with one request at a time.

    Returns:
        `images_per_second`; `p50` and `p99`, percentiles of the response time in
        milliseconds, NaN without any response; `answers`, the number of responses by
        HTTP status; `failed`, the number of requests without a response.
    """
    found, ends = [], time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_client, args=(url, image, ends, found))
        for _ in range(clients)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    statuses = [status for status, _ in found]
    times = [1000 * duration for status, duration in found if status == 200]
    p50, p99 = np.percentile(times or [np.nan], [50, 99]).tolist()
    return {
        "images_per_second": len(times) / wall,
        "p50": p50,
        "p99": p99,
        "answers": {each: statuses.count(each) for each in sorted({*statuses} - {0})},
        "failed": statuses.count(0),
    }


def _client(url, image, ends, found):
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(url).netloc, timeout=60
    )
    while (start := time.perf_counter()) < ends:
        try:
            connection.request("POST", "/classify", image)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            connection.close()
            status = 0
        found.append((status, time.perf_counter() - start))
    connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 200])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores,")
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(options.url).netloc)
    connection.request("GET", "/")
    about = json.loads(connection.getresponse().read())
    print(json.dumps({key: about[key] for key in ("model", "backend", "versions")}))
    print("| clients | images/s | p50, ms | p99, ms | answers | failed |")
    print("|---|---|---|---|---|---|")
    for clients in options.clients:
        row = load(options.url, options.image.read_bytes(), clients, options.seconds)
        numbers = [f"{row[key]:.1f}" for key in ("images_per_second", "p50", "p99")]
        print("|", " | ".join([f"{clients}", *numbers, f"{row['answers']}"]), end="")
        print(f" | {row['failed']} |")
