"""The report in a headless browser: it filters, pages and explains, nothing fails, and no stranger's string runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from click.testing import CliRunner
from shipped import result_of

import classifier
from classifier import cli
from classifier.figures import host_map
from classifier.report import unseen, write
from classifier.result import Result

CAPTURES = Path(__file__).parents[1] / "captures"
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="NO BROWSER: the report was not opened; install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1400,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def opened(browser: Any, result: Result, folder: Path) -> Any:
    path = folder / "report.html"
    with path.open("wb") as file:
        write(result, file)
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    return browser


def place(browser: Any, table: str) -> str:
    return str(browser.find_element("css selector", f"#{table} .place").text)


def ticket() -> Result:
    path = CAPTURES / "ticket-49734.pcapng"
    return classifier.classify(path, inventory=path.with_suffix(".inventory.toml"), jobs=1)


def test_it_filters_and_explains(browser: Any, tmp_path: Path) -> None:
    opened(browser, ticket(), tmp_path)
    assert place(browser, "conversations") == "1 to 25 of 25"
    assert "25 conversations" in browser.find_element("css selector", "body").text
    browser.find_element("css selector", "#conversations input").send_keys("49734 certain")
    assert place(browser, "conversations") == "1 to 1 of 1"
    browser.find_element("css selector", "#conversations tbody td").click()
    assert "ept_map" in browser.find_element("css selector", "#conversations pre").text
    assert browser.get_log("browser") == []


def test_no_stranger_runs(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile <b>.pcap"
    shutil.copy(CAPTURES / "hostile-strings.pcap", path)
    inventory = CAPTURES / "hostile-strings.inventory.toml"
    for result in (classifier.classify(path, inventory=inventory, jobs=1), samples.hostile()):
        opened(browser, result, tmp_path)
        assert browser.execute_script("return window.owned") is None
        assert browser.title == "exflow report"
        assert browser.execute_script("return document.querySelectorAll('svg, iframe, object, embed').length") == 0
        assert {address.partition(",")[0] for address in attributes(browser, "img", "src")} == {
            "data:image/svg+xml;base64"
        }
        assert all(address.startswith("#") for address in attributes(browser, "a", "href"))
        for row in browser.find_elements("css selector", "#conversations tbody tr")[:20]:
            row.click()
        assert browser.execute_script("return window.owned") is None
        assert browser.get_log("browser") == []
    assert "<script>" in (browser.page_source and browser.execute_script("return document.body.innerText"))


def test_no_stranger_runs_in_a_notebook(browser: Any, tmp_path: Path) -> None:
    """Which has no policy: what a result, its frames and its figures show of themselves, as one page."""
    result = result_of("hostile-strings")
    frames = result.to_pandas(), result.hosts(), result.endpoints(), result.findings()
    shown = [result._repr_html_(), *(frame._repr_html_() for frame in frames), host_map(result).svg().decode()]
    page = tmp_path / "notebook.html"
    page.write_text("<!DOCTYPE html><meta charset=utf-8><title>notebook</title>" + "".join(shown), "utf-8")
    browser.get(page.as_uri())
    assert browser.execute_script("return [window.owned, document.title]") == [None, "notebook"]
    assert browser.execute_script("return document.querySelectorAll('img, script, iframe, svg').length") == 1
    assert "window.owned=1" in browser.execute_script("return document.body.innerText")
    assert browser.get_log("browser") == []


def attributes(browser: Any, tag: str, name: str) -> list[str]:
    """An attribute of every element of that kind, as it is written."""
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.getAttribute(arguments[1]))"
    return list(browser.execute_script(script, tag, name))


def test_the_map_is_there_and_whole(browser: Any, tmp_path: Path) -> None:
    opened(browser, ticket(), tmp_path)
    sizes = browser.execute_script("return [...document.images].map((image) => [image.complete, image.naturalWidth])")
    assert len(sizes) == 2
    assert all(complete and width > 400 for complete, width in sizes)
    assert all(attributes(browser, "img", "alt"))


def test_what_was_not_seen_is_said(browser: Any, tmp_path: Path) -> None:
    result = ticket()
    opened(browser, result, tmp_path)
    said = browser.find_element("css selector", "#unseen").text
    listed = [line.split()[0] for line in said.splitlines() if line.startswith(("cas-", "mailbox-", "transport-"))]
    taken = {path for talk in result for path in talk.data_paths}
    assert "mailbox-outlook-oab" in listed
    assert "mailbox-log-shipping" not in listed, "there is one mailbox server only"
    assert not set(listed) & taken
    assert "authentication: the packets don't show whether it is as documented" in said
    assert "unified-messaging" not in said
    opened(browser, samples.result(3), tmp_path)
    assert "byte 4711: record cut short" in browser.find_element("css selector", "#unseen").text


def test_parts_that_were_not_captured_are_counted() -> None:
    result = classifier.classify(CAPTURES / "rpc-mid-stream.pcap", CAPTURES / "rpc-hole.pcap", jobs=1)
    frame = result.to_pandas()
    told = {gap.what: gap.about for gap in unseen.parts(result)}
    begun = frame.orientation.isin(["syn", "syn-ack"])
    missing = int((~begun & (frame.transport == "tcp")).sum())
    assert missing
    assert told["TCP connections whose beginning is not in the capture"].startswith(f"{missing} conversation")
    assert told["bytes are missing inside"].startswith(f"{int((frame.missed_bytes > 0).sum())} conversation")


def test_a_finding_explains_itself(browser: Any, tmp_path: Path) -> None:
    path = CAPTURES / "audit-weak-ciphers.pcap"
    result = classifier.classify(path, inventory=path.with_suffix(".inventory.toml"), jobs=1)
    opened(browser, result, tmp_path)
    browser.find_element("css selector", "#findings input").send_keys("tls-broken-version")
    browser.find_element("css selector", "#findings tbody td").click()
    told = browser.find_element("css selector", "#findings pre").text
    assert told.startswith("# tls-broken-version")
    assert "Severity high" in told
    assert browser.get_log("browser") == []


def test_it_fits_on_paper(browser: Any, tmp_path: Path) -> None:
    opened(browser, classifier.classify(CAPTURES / "shown-2010-web.pcapng", jobs=1), tmp_path)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1030, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    )  # A4 across, less its margins, at 96 points an inch
    try:
        wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        needed, there = browser.execute_script(wide)
        assert needed <= there
        assert not browser.find_element("css selector", "#conversations input").is_displayed()
        assert browser.find_element("css selector", "#conversations .place").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_policy_admits_nothing_else(browser: Any, tmp_path: Path) -> None:
    opened(browser, samples.result(3), tmp_path)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s)"
    )
    assert browser.execute_script("return window.owned") is None
    assert "Content Security Policy" in str(browser.get_log("browser"))


def test_a_hundred_thousand_conversations_open(browser: Any, tmp_path: Path) -> None:
    opened(browser, samples.result(100_000), tmp_path)
    assert place(browser, "conversations") == "1 to 100 of 100000"
    browser.find_element("css selector", "#conversations .on").click()
    assert place(browser, "conversations") == "101 to 200 of 100000"


def test_nothing_at_all_is_a_report_too(browser: Any, tmp_path: Path) -> None:
    opened(browser, Result.empty(), tmp_path)
    assert place(browser, "conversations") == "none"


def test_the_command_writes_it_and_spares_the_captures(tmp_path: Path) -> None:
    capture, out = CAPTURES / "rpc-nat.pcap", tmp_path / "report.html"
    done = CliRunner().invoke(cli.exflow, ["report", str(capture), "-o", str(out)], standalone_mode=False)
    assert done.return_value == 0
    assert out.read_bytes().startswith(b"<!DOCTYPE html>")
    done = CliRunner().invoke(cli.exflow, ["report", str(capture), "-o", str(capture)], standalone_mode=False)
    assert "would be overwritten" in str(done.exception)
