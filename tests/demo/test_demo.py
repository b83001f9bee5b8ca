"""The demo page in Chromium, beside the package; docs/demo/build.py builds it first."""

import base64
import functools
import http.server
import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import keras_cbvit
from keras_cbvit.analysis import attention_maps
from keras_cbvit.images import decode, fit

playwright = pytest.importorskip("playwright.sync_api")
playwright.expect.set_options(timeout=60_000)  # on a busy machine
PAGE = Path(__file__).parents[2] / "docs" / "demo"
if not (PAGE / "assets" / "axe.min.js").exists():
    pytest.skip("`nox -s demo` builds the page.", allow_module_level=True)
PLAIN, CB = "vit_mini.cifar10", "vitcb_mini.cifar10"
UPERNET = "upernet_vitcb_mini.camvid_mini"
LIMIT = 1e-4
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def page():
    """The page, open in Chromium, with the addresses that it loads (`page.asked`)."""
    handler = functools.partial(Quiet, directory=PAGE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_address[1]}"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, BROWSERS))),
            args=["--no-sandbox"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.origin = origin
        page.set_default_timeout(60_000)
        page.goto(f"{origin}/index.html")
        yield page
        browser.close()
    server.shutdown()


def picture(width, height, mode="RGB"):
    """Smooth colors with noise, so that a pixel too far left or right is seen."""
    rng = np.random.default_rng(width)
    channels = len(Image.new(mode, (1, 1)).getbands())
    small = rng.integers(0, 256, (6, 5, channels), "uint8").squeeze()
    large = Image.fromarray(small, mode).resize((width, height), Image.BICUBIC)
    noise = rng.integers(-20, 20, np.asarray(large).shape)
    noisy = np.clip(np.asarray(large) + noise, 0, 255).astype("uint8")
    return Image.fromarray(noisy, mode)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def rotated(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = picture(150, 100)
    return encoded(image, "JPEG", quality=95, subsampling=0, exif=exif)


# Chromium lays transparency over white, and decodes JPEG, within a level or two of
# what Pillow does; of the rest every pixel is the same.
PNG_FILES = {
    "model-size": encoded(picture(32, 32), "PNG"),
    "odd": encoded(picture(101, 67), "PNG"),
    "tall": encoded(picture(33, 450), "PNG"),
    "tiny": encoded(picture(5, 3), "PNG"),
    "gray": encoded(picture(77, 91, "L"), "PNG"),
    "photo": encoded(picture(1200, 900), "PNG"),
}
NEAR_FILES = {
    "alpha": (encoded(picture(64, 48, "RGBA"), "PNG"), "image/png"),
    "rotated-6": (rotated(6), "image/jpeg"),
    "rotated-3": (rotated(3), "image/jpeg"),
}

PREDICT = """async ([name, bytes, type]) => {
    const { predict, received } = await import("./main.js");
    const { decode } = await import("./image.js");
    const content = Uint8Array.from(atob(bytes), (c) => c.charCodeAt());
    const base64 = ({ buffer, byteOffset, byteLength }) =>
        new Uint8Array(buffer, byteOffset, byteLength).toBase64();
    const file = new File([content], "image", { type });
    const found = await predict(name, await decode(file));
    return {
        pixels: [...found.pixels.data],
        predictions: base64(found.predictions.data),
        attention: found.attention ? base64(found.attention.data) : "",
        received: found.attention ? base64(received(found, "2", "1")) : "",
    };
}"""


def predict(page, name, content, kind="image/png"):
    found = page.evaluate(PREDICT, [name, base64.b64encode(content).decode(), kind])
    floats = ("predictions", "attention", "received")
    outputs = {
        key: np.frombuffer(base64.b64decode(found[key]), "float32") for key in floats
    }
    return {"pixels": np.array(found["pixels"]), **outputs}


@functools.cache
def loaded(name):
    return keras_cbvit.load_model(name)


@pytest.mark.parametrize("model_name", [PLAIN, CB])
@pytest.mark.parametrize("name", PNG_FILES)
def test_predictions_and_attention_are_the_packages(page, name, model_name):
    model, content = loaded(model_name), PNG_FILES[name]
    pixels = fit(decode(content, name), (32, 32))
    found = predict(page, model_name, content)
    assert (found["pixels"] == pixels.ravel()).all()
    batch = pixels[None].astype("float32")
    expected = model.predict(batch, verbose=0).ravel()
    np.testing.assert_allclose(found["predictions"], expected, atol=LIMIT, rtol=0)
    maps = np.stack(attention_maps(model, batch), axis=1)
    np.testing.assert_allclose(found["attention"], maps.ravel(), atol=LIMIT, rtol=0)
    shown = maps[0, 2, 1].mean(axis=0)[1:]  # without the class token
    np.testing.assert_allclose(found["received"], shown, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("name", NEAR_FILES)
def test_other_decoders_differ_by_two_levels_at_most(page, name):
    content, kind = NEAR_FILES[name]
    pixels = fit(decode(content, name), (32, 32)).ravel().astype(int)
    found = predict(page, CB, content, kind)
    assert np.abs(found["pixels"] - pixels).max() <= 2
    batch = found["pixels"].reshape(1, 32, 32, 3).astype("float32")
    expected = loaded(CB).predict(batch, verbose=0).ravel()
    np.testing.assert_allclose(found["predictions"], expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("size", [(301, 200), (240, 180)])
def test_segmentation_is_the_packages(page, size):
    content = encoded(picture(*size), "PNG")
    pixels = fit(decode(content, "street"), (176, 240))
    found = predict(page, UPERNET, content)
    assert (found["pixels"] == pixels.ravel()).all()
    expected = loaded(UPERNET).predict(pixels[None].astype("float32"), verbose=0)
    np.testing.assert_allclose(
        found["predictions"], expected.ravel(), atol=LIMIT, rtol=0
    )


def large_png():
    return encoded(Image.new("1", (8000, 6251)), "PNG")


@pytest.mark.parametrize(
    ("name", "kind", "content", "sentence"),
    [
        ("notes.txt", "text/plain", b"Not an image.", "notes.txt is not an image;"),
        (
            "scan.tiff",
            "image/tiff",
            encoded(picture(9, 9), "TIFF"),
            "scan.tiff cannot be decoded by this browser;",
        ),
        ("large.png", "image/png", large_png(), "large.png has 50.0 million pixels"),
        ("cut.png", "image/png", PNG_FILES["odd"][:900], "cut.png is damaged;"),
    ],
)
def test_a_bad_file_gets_a_sentence_and_the_page_goes_on(
    page, name, kind, content, sentence
):
    file = {"name": name, "mimeType": kind, "buffer": content}
    page.set_input_files("#file", file)
    playwright.expect(page.locator("#error")).to_contain_text(sentence)
    page.click("[data-sample='samples/cat.jpg']")
    playwright.expect(page.locator("#status")).to_contain_text("Cat. Plain:")
    playwright.expect(page.locator("#error")).to_be_empty()


def test_an_image_can_be_dropped(page):
    page.evaluate(
        """(bytes) => {
            const dataTransfer = new DataTransfer();
            const content = Uint8Array.from(atob(bytes), (c) => c.charCodeAt());
            const file = new File([content], "mine.png", { type: "image/png" });
            dataTransfer.items.add(file);
            const event = new DragEvent("drop", { dataTransfer, cancelable: true });
            document.querySelector("#drop").dispatchEvent(event);
        }""",
        base64.b64encode(PNG_FILES["odd"]).decode(),
    )
    playwright.expect(page.locator("#status")).to_contain_text("mine.png. ")


def test_keyboard_alone_is_enough(page):
    page.reload()
    for _ in range(3):  # the link home, the file, the first sample
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#status")).to_contain_text("Ship. Plain: ship")
    for _ in range(4):  # the other samples, the task
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    status = page.locator("#status")
    playwright.expect(status).to_contain_text("Most frequent classes:")
    page.keyboard.press("ArrowUp")
    playwright.expect(status).to_contain_text("Ship. Plain:")
    page.keyboard.press("Tab")
    seen = "document.querySelector('#models canvas').toDataURL()"
    before = page.evaluate(seen)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == "block"
    assert page.evaluate(seen) != before


@pytest.mark.parametrize(
    ("sample", "status"),
    [
        ("ship", "Ship. Plain: ship"),
        ("airplane", "Airplane. Plain: airplane"),
        ("street", "Street. Most frequent classes:"),
    ],
)
def test_samples_on_a_phone(page, sample, status):
    page.click(f"[data-sample='samples/{sample}.jpg']")
    playwright.expect(page.locator("#status")).to_contain_text(status)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["empty", "classify", "segment", "error"])
def test_axe_finds_nothing(page, scheme, state):
    page.emulate_media(color_scheme=scheme)
    page.reload()
    if state == "error":
        file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"text"}
        page.set_input_files("#file", file)
        playwright.expect(page.locator("#error")).to_contain_text("notes.txt")
    elif state != "empty":
        page.check(f"[value={state}]")
        page.click("[data-sample]")
        playwright.expect(page.locator("h2:visible")).to_have_count(2)
    page.evaluate((PAGE / "assets" / "axe.min.js").read_text())
    violations = page.evaluate("axe.run().then(({violations}) => violations)")
    found = [
        (violation["id"], [node["html"] for node in violation["nodes"]])
        for violation in violations
    ]
    assert not found


def test_no_other_origin_is_asked(page):
    own = (page.origin, f"blob:{page.origin}", "data:")
    assert page.asked and all(url.startswith(own) for url in page.asked)
    blocked = "fetch('http://localhost:9/').then(() => false, () => true)"
    violation = (
        "new Promise((done) => {document.addEventListener("
        "'securitypolicyviolation', (e) => done(e.effectiveDirective));"
        f"{blocked}}})"
    )
    assert page.evaluate(violation) == "connect-src"
