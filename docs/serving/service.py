"""An HTTP service that classifies images.

    pip install "keras_cbvit[torch,serving]"
    KERAS_BACKEND=torch python service.py vitcb_mini.cifar10 --port 8000
    curl --data-binary @cat.jpg "http://localhost:8000/classify?top=3"

Images of concurrent requests are batched.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import keras
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from starlette.requests import ClientDisconnect

import keras_cbvit
from keras_cbvit.images import BrokenImageError

MOST_BYTES = 10 << 20  # of an image
MOST_IMAGES = 32  # of a batch


class Batcher:
    """Classifies images of several requests at once."""

    def __init__(self, classifier: keras_cbvit.Classifier):
        self.classifier = classifier
        self.waiting = asyncio.Queue()
        self.decoding = ThreadPoolExecutor(os.cpu_count())
        self.model = ThreadPoolExecutor(1)

    async def classify(self, image: bytes, top: int) -> list[tuple[str, float]]:
        """Names the most probable classes of an encoded image.

        Raises:
            BrokenImageError: if it is not an image.
        """
        loop = asyncio.get_running_loop()
        preprocess = self.classifier.preprocess
        pixels = await loop.run_in_executor(self.decoding, preprocess, image)
        answer = loop.create_future()
        self.waiting.put_nowait((pixels, answer))
        row = await answer
        names = self.classifier.class_names
        return keras_cbvit.decode_predictions(row[None], names, top)[0]

    async def run(self) -> None:
        """Classifies waiting images in batches until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < MOST_IMAGES and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            pixels, answers = zip(*batch, strict=True)
            try:
                rows = await loop.run_in_executor(
                    self.model, self.classifier.probabilities, np.stack(pixels)
                )
            except Exception as error:  # the requests fail, the service continues
                rows = [error] * len(batch)
            for answer, row in zip(answers, rows, strict=True):
                if answer.done():  # canceled
                    continue
                if isinstance(row, Exception):
                    answer.set_exception(row)
                else:
                    answer.set_result(row)


async def read(request: Request) -> bytes:
    """Reads the body of a request, up to a maximum size.

    A client reads the error only after sending everything, so the rest is read, too.
    """
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MOST_BYTES:
            body += chunk
        elif size > 10 * MOST_BYTES:
            break
    if size > MOST_BYTES:
        raise HTTPException(413, f"The image exceeds {MOST_BYTES:,} bytes.")
    return bytes(body)


def create_app(classifier: keras_cbvit.Classifier) -> FastAPI:
    """Creates the service of a classifier."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state.batcher = batcher = Batcher(classifier)
        blank = np.zeros((*classifier.preprocessing.image_size, 3), "uint8")
        image = classifier.preprocess(blank)
        for power in range(MOST_IMAGES.bit_length()):  # compiles the model
            classifier.probabilities(np.stack([image] * 2**power))
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(title="keras_cbvit", lifespan=lifespan)

    @app.get("/")
    def about() -> dict:
        """Returns the model, its classes and the versions."""
        return {
            "model": classifier.model.name,
            "class_names": classifier.class_names,
            "backend": keras.backend.backend(),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("keras", "fastapi", "uvicorn")
            },
        }

    @app.post("/classify")
    async def classify(
        request: Request, top: Annotated[int, Query(ge=1, le=1000)] = 5
    ) -> list[tuple[str, float]]:
        """Returns the most probable classes of the encoded image in the body."""
        try:
            return await app.state.batcher.classify(await read(request), top)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        except BrokenImageError as error:
            raise HTTPException(400, str(error)) from None

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", help="a name, handle or path, as for load_model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    app = create_app(keras_cbvit.Classifier(options.weights))
    uvicorn.run(app, host=options.host, port=options.port, access_log=False)
