"""The page that shows a run, in Chromium and from the disk."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tuner.config.loading import load_config
from tuner.events import Evaluated, ImagesValidated, RunEnded, RunStarted, StepEnded
from tuner.tracking.gallery.extension import Gallery
from tuner.tracking.journal import Journal
from tuner.training.run import train

pytestmark = pytest.mark.browser

PROMPTS = {
    "cat": "a cat, 50% off #1?",
    "script": "</script><script>window.inert = false</script> <img src=x onerror='window.inert = false'> \"quotes\"",
    "unconditional": "",
}
STEPS, ROUNDS = 5000, (1000, 3000, 5000)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a long run that exists in its events alone."""
    folder = tmp_path_factory.mktemp("runs") / "run #1 & <b>more"
    folder.mkdir()
    gallery = Gallery()
    origin = {"base_model": "toy", "seed": "42"}
    gallery.run_started(RunStarted(None, 0, STEPS, folder, SimpleNamespace(title="Toy"), origin))
    show_round(gallery, folder, 0, "base model")
    evaluate(gallery, 0, "base model", 2.0)
    for step in range(1, STEPS + 1):
        bins = {f"loss_by_sigma/{low / 10:.1f}-{(low + 1) / 10:.1f}": torch.tensor(2.0 - low / 10) for low in range(10)}
        loss = torch.tensor(50.0 if step == 777 else 1.0 + 1.0 / step)
        gallery.step_ended(StepEnded(step, loss, 1e-4, 1, bins, logged=True))
        if step in ROUNDS:
            for label in ("live", "ema"):
                show_round(gallery, folder, step, label)
                evaluate(gallery, step, label, 1.0 + 1 / step)
    gallery.run_ended(RunEnded(STEPS, "done", None))
    return folder / "index.html"


def show_round(gallery: Gallery, folder: Path, step: int, label: str) -> None:
    home = folder / "validation_images"
    home.mkdir(exist_ok=True)
    files = {}
    for number, name in enumerate(PROMPTS):
        files[name] = tuple(home / f"step_{step}_{label}_# {name} 100%_{side}.png" for side in (64, 96))
        for file, side in zip(files[name], (64, 96), strict=True):
            Image.new("RGB", (side, side), (step % 256, 80 * number, 90)).save(file)
    gallery.images_validated(ImagesValidated(step, label, files, PROMPTS))


def evaluate(gallery: Gallery, step: int, label: str, loss: float) -> None:
    curve = tuple((level / 10, loss * (2 - level / 10)) for level in range(1, 10))
    metrics = {"eval_loss/photographs": loss, "eval_loss/pooled": loss}
    gallery.evaluated(Evaluated(step, label, metrics, {"eval_loss_by_sigma/photographs": curve}))


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that writes down what it is asked to load, and what it complains of."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


Opened = Callable[[Path], webdriver.Chrome]


@pytest.fixture
def opened(chromium: webdriver.Chrome) -> Iterator[Opened]:
    """Open a page; at the end, nothing must have been loaded from elsewhere and nothing gone wrong."""
    chromium.get_log("performance")
    chromium.get_log("browser")

    def open_page(path: Path) -> webdriver.Chrome:
        chromium.get(path.resolve().as_uri())
        return chromium

    yield open_page
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith("file:///")] == []
    assert chromium.get_log("browser") == []


def shown(driver: webdriver.Chrome, card: int = 0) -> list[tuple[str, int, str]]:
    """File name, width in pixels once it is loaded, and caption of the pictures of a card."""
    script = """
        const done = arguments[1], card = document.querySelectorAll(".card")[arguments[0]];
        card.scrollIntoView();
        const images = [...card.querySelectorAll("img[src]")];
        Promise.all(images.map((image) => image.decode())).then(() => done(images.map((image) => {
            const caption = image.closest("figure").querySelector("figcaption");
            return [decodeURIComponent(image.src.split("/").pop()), image.naturalWidth, caption.innerText.trim()];
        })), (error) => done(String(error)));
    """
    return [tuple(each) for each in driver.execute_async_script(script, card)]


def slider(driver: webdriver.Chrome, card: int | None = None) -> WebElement:
    where = "#toolbar" if card is None else f".card:nth-child({card + 1})"
    return driver.find_element(By.CSS_SELECTOR, f"{where} input[type=range]")


def names(pictures: list[tuple[str, int, str]]) -> list[str]:
    return [name for name, _, _ in pictures]


def test_sliders_and_keys_change_the_pictures(page, opened):
    driver = opened(page)
    three = [
        f"step_{step}_{label}_# cat 100%_64.png" for step, label in ((0, "base model"), (5000, "live"), (5000, "ema"))
    ]
    assert [each[:2] for each in shown(driver)] == [(name, 64) for name in three]
    assert [each[2] for each in shown(driver)] == [
        "base model",
        "live step 5\u202f000",
        "EMA step 5\u202f000",
    ]
    slider(driver).send_keys(Keys.ARROW_LEFT)
    assert names(shown(driver)) == [three[0], *(name.replace("5000", "3000") for name in three[1:])]
    driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_LEFT)
    assert names(shown(driver, 1))[1] == "step_1000_live_# script 100%_64.png"
    slider(driver, 1).send_keys(Keys.END)
    assert names(shown(driver, 1))[1] == "step_5000_live_# script 100%_64.png"
    assert names(shown(driver, 0))[1] == "step_1000_live_# cat 100%_64.png"
    assert slider(driver, 1).get_attribute("aria-valuetext") == "step 5\u202f000"
    slider(driver).send_keys(Keys.HOME)
    assert names(shown(driver)) == [three[0]]


def test_weights_and_sizes_are_chosen(page, opened):
    driver = opened(page)
    base, live, _ = driver.find_elements(By.CSS_SELECTOR, "#toolbar input[type=checkbox]")
    base.click()
    live.click()
    driver.find_element(By.CSS_SELECTOR, "#toolbar option:nth-child(2)").click()
    assert [each[:2] for each in shown(driver)] == [("step_5000_ema_# cat 100%_96.png", 96)]
    sheet = driver.find_element(By.LINK_TEXT, "contact sheet").get_attribute("href")
    assert sheet == page.parent.as_uri() + "/contact_sheets/step_5000_live.jpg"


def test_a_picture_opens_large_and_follows_the_keys(page, opened):
    driver = opened(page)
    driver.find_elements(By.CSS_SELECTOR, ".open")[1].click()
    dialog = driver.find_element(By.ID, "closeup")
    assert dialog.is_displayed()
    assert dialog.find_element(By.ID, "closeup-prompt").text == PROMPTS["cat"]
    driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    image = dialog.find_elements(By.TAG_NAME, "img")[1]
    assert "step_3000_live" in image.get_attribute("src")
    assert image.get_attribute("alt") == f"{PROMPTS['cat']}, live, step 3\u202f000"
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_what_users_type_is_text(page, opened):
    driver = opened(page)
    assert driver.execute_script("return window.inert") is None
    assert driver.find_elements(By.CSS_SELECTOR, ".prompt")[1].text == PROMPTS["script"]
    assert driver.find_element(By.ID, "name").text == page.parent.name
    assert len(driver.find_elements(By.TAG_NAME, "script")) == 2


def test_charts_draw_what_was_measured(page, opened):
    driver = opened(page)
    driver.set_window_size(1200, 900)
    titles = [each.text for each in driver.find_elements(By.CSS_SELECTOR, ".chart-title")]
    assert [title.lower() for title in titles] == [
        "loss", "loss by sigma", "learning rate", "eval loss", "eval loss by sigma, photographs",
    ]  # fmt: skip
    points = """
        return [...document.querySelectorAll(".chart")].map((chart) =>
            [...chart.querySelectorAll("path")].map((path) => path.getAttribute("d").split(/[ML]/).length - 1));
    """
    loss, bins, rate, evaluation, curves = driver.execute_script(points)
    width = driver.find_element(By.CSS_SELECTOR, "#training-charts .plot").size["width"]
    assert all(width - 100 < count <= 2 * width for count in loss)  # the raw line, and the smoothed one
    assert len(bins) == 10
    assert all(count > 100 for count in [*bins, *rate])
    assert evaluation == [4, 4, 4, 4]  # the base model and three rounds; two data sets, live and EMA
    assert curves == [9] * 5  # the base model, live at three steps, EMA at the last
    assert len(driver.find_elements(By.CSS_SELECTOR, "#evaluation-charts .level")) == 2
    highest = "return Math.min(...document.querySelector('.raw').getAttribute('d').match(/ [\\d.]+/g).map(Number))"
    assert 10 <= driver.execute_script(highest) < 25  # the one step whose loss was 50


def test_a_chart_reads_values_and_changes_its_scale(page, opened):
    driver = opened(page)
    plot = driver.find_element(By.CSS_SELECTOR, "#training-charts .plot")
    driver.execute_script("document.getElementById('smoothing').value = 0")
    driver.find_element(By.ID, "smoothing").send_keys(Keys.HOME)
    driver.execute_script("document.getElementById('smoothing').dispatchEvent(new Event('input'))")
    plot.send_keys(Keys.HOME)
    assert plot.find_element(By.CSS_SELECTOR, ".readout").text.split("\n") == ["step 1", "loss 2"]
    plot.send_keys(Keys.ARROW_RIGHT)
    assert plot.find_element(By.CSS_SELECTOR, ".readout").text.split("\n") == ["step 2", "loss 1.5"]
    assert plot.get_attribute("aria-label").startswith("loss by step. loss: from 2 to 1.")
    ticks = [each.text for each in plot.find_elements(By.CSS_SELECTOR, ".tick")]
    assert {"0", "20", "40"} <= set(ticks)
    driver.find_element(By.XPATH, "(//button[text()='log'])[1]").click()
    ticks = [each.text for each in plot.find_elements(By.CSS_SELECTOR, ".tick")]
    assert {"1", "2", "5", "10", "20", "50"} <= set(ticks)


@pytest.mark.parametrize("width", [360, 820, 1600])
def test_the_page_fits_its_window(page, opened, width):
    driver = opened(page)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    root = "document.documentElement"
    needed, there = driver.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
    assert width - 20 <= there  # but for the scroll bar
    assert needed == there
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page, opened, scheme):
    driver = opened(page)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    colors = """
        const style = getComputedStyle(document.documentElement);
        const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        return Object.fromEntries(arguments[0].map((name) => {
            pixel.fillStyle = style.getPropertyValue(`--${name}`);
            pixel.fillRect(0, 0, 1, 1);
            return [name, [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3)];
        }));
    """
    texts, papers = ("ink", "faint", "accent", "good", "bad", "warn"), ("paper", "card")
    found = driver.execute_script(colors, [*texts, *papers, "warn-soft", "accent-soft"])

    def luminance(name: str) -> float:
        shares = [value / 255 for value in found[name]]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2.2, relative luminance

    pairs = [(text, paper) for text in texts for paper in papers] + [("warn", "warn-soft"), ("accent", "accent-soft")]
    for text, paper in pairs:
        low, high = sorted([luminance(text), luminance(paper)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, paper)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_failure_says_why_and_letters_of_all_directions_are_shown(tmp_path, opened):
    gallery, prompt = Gallery(), "\u0642\u0637\u0629 in a garden"
    gallery.run_started(RunStarted(None, 0, 4, tmp_path, SimpleNamespace(title="Toy")))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    gallery.images_validated(ImagesValidated(0, "base model", {"cat": (tmp_path / "a.png",)}, {"cat": prompt}))
    Journal().run_started(RunStarted(None, 0, 4, tmp_path, SimpleNamespace(title="Toy")))
    (tmp_path / "evaluations.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "label": label, "metrics": {"eval_loss/a": value}, "curves": {}}) + "\n"
            for step, label, value in ((0, "base model", 2.0), (4, "live", 1.0))
        )
    )
    gallery.evaluated(Evaluated(4, "live", {"eval_loss/a": 1.0}))
    gallery.run_ended(RunEnded(4, "failed", None, "<b>the disk</b> is full"))
    driver = opened(tmp_path / "index.html")
    assert driver.find_element(By.ID, "reason").text == "<b>the disk</b> is full"
    assert driver.find_element(By.ID, "summary").text.startswith("Evaluation loss after step 4: 1.0000, better than")
    text = driver.find_element(By.CSS_SELECTOR, ".card .prompt")
    assert (text.text, driver.execute_script("return getComputedStyle(arguments[0]).direction", text)) == (
        prompt,
        "rtl",
    )


def test_a_real_run_shows_itself(project, opened):
    settings = {"validation_prompt": "a cat", "validation_step_interval": 2, "validation_num_inference_steps": 2}
    train(load_config(project(max_train_steps=4, validation_resolution="64", log_interval=1, **settings)))
    driver = opened(Path("output/index.html"))
    assert names(shown(driver)) == ["step_0_validation_0_64x64.png", "step_4_validation_0_64x64.png"]
    slider(driver).send_keys(Keys.ARROW_LEFT)
    assert names(shown(driver))[1] == "step_2_validation_0_64x64.png"
    assert driver.find_element(By.ID, "state").text == "done"
    row = driver.find_element(By.XPATH, "//tr[th='max_train_steps']")
    assert [cell.text for cell in row.find_elements(By.TAG_NAME, "td")] == ["4", "config.json"]
