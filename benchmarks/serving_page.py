"""The page of a server in a real Chromium: a profile is taught, talked to, exported and deleted, wide and narrow.

It needs ``playwright`` and a Chromium, which are no dependencies of fedvpa, and a server that runs:

    fedvpa serve runs/mine --port 8000
    python benchmarks/serving_page.py http://127.0.0.1:8000 --chromium /usr/bin/chromium --shots shots

Screenshots are for somebody to look at. What is checked: no error in the console, nothing asked of another host, no
text wider than the screen, every step by keyboard. One JSON object is printed; a check that fails ends with 1.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

WIDTHS = {"wide": 1100, "narrow": 360}

ANSWERS = "abesabab"
"""Keys pressed: eight choices, one of them a tie and one a skip."""

PATIENCE = 120.0
"""Seconds for one step."""


def drive(page: Any, url: str, shots: Path, kind: str) -> dict[str, Any]:
    """Teach, talk, compare, export and delete in one window; what was found."""
    troubles: list[str] = []
    hosts: set[str] = set()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else request.url[:5]))
    name = f"visitor-{kind}-{int(time.time())}"
    page.goto(url)
    page.wait_for_selector("#model:not(:empty)")
    page.focus("#name")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#question:not([hidden])")
    waits = []
    for key in ANSWERS:
        before, start = page.text_content("#question"), time.monotonic()
        page.keyboard.press(key)
        while page.text_content("#question") == before or page.get_attribute("#question", "aria-busy"):
            if time.monotonic() - start > PATIENCE:
                raise SystemExit(f"no question after {key!r}: {page.text_content('#trouble')}")
            time.sleep(0.02)
        waits.append(time.monotonic() - start)
    learned = page.text_content("#bars"), page.text_content("#sure"), page.text_content("#count")
    shoot(page, shots, kind, "teach", troubles)
    prompt = page.text_content("#asked")
    page.focus("#tab-teach")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#left option", state="attached")
    model = page.text_content("#model")
    page.select_option("#left", f"{model}:{name}")
    page.check("#compare")
    page.fill("#words", prompt)
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:not([hidden])")
    said = [page.text_content(f"#column-{side} .log p:last-child") for side in ("left", "right")]
    if not all(said):
        troubles.append(f"an answer is empty: {said}")
    shoot(page, shots, kind, "talk", troubles)
    page.click("#tab-profiles")
    row = page.locator("#rows tr", has_text=name)
    row.wait_for()
    shoot(page, shots, kind, "profiles", troubles)
    with page.expect_download() as download:
        row.get_by_role("button", name="Export").click()
    kept = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    if kept["pairs"] != len(ANSWERS) - ANSWERS.count("s"):
        troubles.append(f"the export has {kept['pairs']} pairs")
    row.get_by_role("button", name="Delete").click()
    page.locator("dialog button[value=delete]").click()
    row.wait_for(state="detached")
    if page.is_visible("#trouble"):
        troubles.append(page.text_content("#trouble"))
    return {"learned": learned, "seconds_a_choice": waits, "hosts": sorted(hosts), "troubles": troubles}


def shoot(page: Any, shots: Path, kind: str, what: str, troubles: list[str]) -> None:
    """A picture, and whether anything is wider than the screen."""
    page.screenshot(path=shots / f"{what}-{kind}.png", full_page=True)
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        troubles.append(f"{what} is wider than the {kind} screen")


def main() -> None:
    """Open the page, use it, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=Path, default=Path("shots"))
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    options.shots.mkdir(parents=True, exist_ok=True)
    found = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for kind, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.set_default_timeout(1000 * PATIENCE)
            found[kind] = drive(page, options.url, options.shots, kind)
            page.close()
        browser.close()
    print(json.dumps(found, indent=2))
    host = options.url.split("/")[2]
    strange = {one for kind in found.values() for one in kind["hosts"]} - {host, "data:", "blob:"}
    raise SystemExit(bool(strange) or any(kind["troubles"] for kind in found.values()))


if __name__ == "__main__":
    main()
