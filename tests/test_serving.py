"""The HTTP service of the docs on the loopback: a real server, real connections."""

import asyncio
import concurrent.futures
import http.client
import importlib.util
import io
import json
import socket
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cbvit
from tests.tiny import tiny

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serving` is not installed")
pytest.importorskip("fastapi", reason="the extra `serving` is not installed")
FOLDER = Path(__file__).parents[1] / "docs" / "serving"
NAME = "vitcb_mini.cifar10"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def classifier():
    return keras_cbvit.Classifier(NAME)


@pytest.fixture(scope="module")
def address(classifier):
    """Where the service listens."""
    app = script("service").create_app(classifier)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until = time.monotonic() + 120
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until
        time.sleep(0.05)
    yield "{}:{}".format(*listener.getsockname())
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def post(address, body, path="/classify"):
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def assert_names(answer, expected):
    status, found = answer
    assert status == 200
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [p for _, p in found], [p for _, p in expected], rtol=0, atol=1e-5
    )


def test_an_image_gets_the_names_of_its_classes(address, classifier):
    answer = post(address, photo(), "/classify?top=3")
    assert_names(answer, classifier(photo(), top=3))


def test_the_service_says_what_it_is(address):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/")
    about = json.loads(connection.getresponse().read())
    connection.close()
    assert about["class_names"] == keras_cbvit.class_names(NAME)
    assert about["backend"] == keras.backend.backend()


def test_200_clients_at_once_get_their_own_answers(address, classifier):
    given = [photo(seed) for seed in range(200)]
    expected = classifier(given)
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda image: post(address, image), given))
    for answer, names in zip(answers, expected, strict=True):
        assert_names(answer, names)


@pytest.mark.parametrize("body", [b"no image", b"", photo()[:300]])
def test_what_is_no_image_is_said_to_be_none(address, body):
    status, answer = post(address, body)
    assert status == 400
    assert answer["detail"].startswith("The image is not a readable image")


def test_a_large_upload_is_refused(address):
    status, answer = post(address, bytes(50 << 20))
    assert (status, answer["detail"]) == (413, "The image exceeds 10,485,760 bytes.")
    chunks = (bytes(1 << 20) for _ in range(50))  # of a length that is not announced
    status, _ = post(address, chunks)
    assert status == 413


@pytest.mark.parametrize("top", [0, 10**20])
def test_a_number_of_classes_out_of_range_is_refused(address, top):
    status, _ = post(address, photo(), f"/classify?top={top}")
    assert status == 422


class Recording(keras_cbvit.Classifier):
    """Remembers the dtypes that it computed probabilities of."""

    def probabilities(self, batch, batch_size=32):
        self.dtypes = {*getattr(self, "dtypes", ()), str(batch.dtype)}
        return super().probabilities(batch, batch_size)


@pytest.mark.parametrize(("normalizes", "dtype"), [(True, "uint8"), (False, "float32")])
def test_the_model_is_compiled_for_what_it_gets(normalizes, dtype):
    model = tiny(include_preprocessing=normalizes)
    classifier = Recording(model, class_names=["a", "b", "c"])
    app = script("service").create_app(classifier)

    async def start():
        async with app.router.lifespan_context(app):
            pass

    asyncio.run(start())
    assert classifier.dtypes == {dtype}


def test_cut_connections_do_not_hurt(address, classifier, caplog):
    host, port = address.split(":")
    head = (
        f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo())}\r\n\r\n"
    )
    for sent in (head[:20].encode(), head.encode() + photo()[:100]):
        for _ in range(20):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
    for _ in range(20):  # and some that do not wait for the answer
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + photo())
    assert_names(post(address, photo()), classifier(photo()))
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_the_load_is_measured(address):
    load = script("load").load
    found = load(f"http://{address}", photo(), clients=4, seconds=1)
    assert list(found["answers"]) == [200] and found["failed"] == 0
    assert found["images_per_second"] == pytest.approx(found["answers"][200], rel=0.7)
    assert 0 < found["p50"] <= found["p99"]
    found = load(f"http://{address}", b"no image", clients=1, seconds=0.2)
    assert list(found["answers"]) == [400] and np.isnan(found["p50"])


def test_answers_that_are_not_http_are_counted_as_failed():
    def answer():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"nonsense\r\n")

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        url = "http://{}:{}".format(*listener.getsockname())
        found = script("load").load(url, photo(), clients=1, seconds=0.2)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
    assert found["failed"] > 0 and not found["answers"]
