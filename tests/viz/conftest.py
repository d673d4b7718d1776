"""Front ends in a real browser: a tab of headless Chromium, and JupyterLab in one.

Chromium is driven over its DevTools protocol.
"""

import base64
import contextlib
import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import requests
import websocket

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIMIT_S = 120
_KEYS = {
    "Enter": 13, "Escape": 27, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


def wait_for(ready, what, limit_s=LIMIT_S):
    """The first true answer of ``ready()``."""
    end = time.monotonic() + limit_s
    while not (answer := ready()):
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(0.05)
    return answer


class Page:
    """One tab: commands go out, their answers and all events come in."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=LIMIT_S, suppress_origin=True)
        self.number, self.events = 0, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")
        self.window(1200)

    def __call__(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def go(self, url, ready):
        """Open an address and wait until an expression is true."""
        self.events.clear()
        self("Page.navigate", url=url)
        wait_for(
            lambda: self.js(f"document.readyState === 'complete' && Boolean({ready})"),
            lambda: [e for e in self.events if "Entry" in e["method"] or "exc" in e["method"]],
        )

    def open(self, path):
        """Open a page of the kit."""
        self.go(path.as_uri(), "window.r2genkit")

    def show(self, html, folder, width=1200):
        """Write a page of the kit and open it, the pointer out of the way."""
        path = folder / "figure.html"
        path.write_text(html, encoding="utf-8")
        self.window(width)
        self.mouse("mouseMoved", 1, 1)
        self.open(path)
        return path

    def state(self):
        """What the figure says of itself."""
        return self.js("window.r2genkit.state()")

    def texts(self, selector):
        """Texts of all matches."""
        found = f"Array.from(document.querySelectorAll({json.dumps(selector)}))"
        return self.js(f"{found}.map((e) => e.textContent)")

    def js(self, expression):
        """Value of an expression; a promise is awaited."""
        answer = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, limit_s=LIMIT_S):
        """The first true value of an expression."""
        return wait_for(lambda: self.js(expression), f"never true: {expression}", limit_s)

    def mouse(self, kind, x, y, **more):
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def centre(self, selector, nth=0):
        """Middle of the nth match, in pixels of the window, scrolled into sight."""
        return self.js(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{nth}];"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )

    def hover(self, selector, nth=0):
        self.mouse("mouseMoved", *self.centre(selector, nth))

    def click(self, selector, nth=0):
        x, y = self.centre(selector, nth)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def key(self, name):
        """Press a key by its name, e.g. "ArrowLeft", "Enter", "m" or "3"."""
        typed = {"text": "\r"} if name == "Enter" else {"text": name} if len(name) == 1 else {}
        # JupyterLab reads its shortcuts from the old numbers of keys.
        number = ord(name.upper()) if len(name) == 1 else _KEYS.get(name, 0)
        code = (
            f"Digit{name}" if name.isdigit() else f"Key{name.upper()}" if len(name) == 1 else name
        )
        known = {"key": name, "code": code, "windowsVirtualKeyCode": number}
        self("Input.dispatchKeyEvent", type="keyDown", **known, **typed)
        self("Input.dispatchKeyEvent", type="keyUp", **known)

    def pixels(self, selector, nth=0):
        """A canvas as RGBA ``[H, W, 4]``."""
        width, data = self.js(
            f"(() => {{ const c = document.querySelectorAll({json.dumps(selector)})[{nth}];"
            "const i = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return [c.width, btoa(Array.from(i.data, (b) => String.fromCharCode(b)).join(''))];"
            "})()"
        )
        found = np.frombuffer(base64.b64decode(data), np.uint8)
        return found.reshape(-1, width, 4).astype(int)

    def painted_ms(self, move):
        """From a pointer event to the frame that shows its effect, in ms.

        Args:
            move: moves the pointer once, over another element.
        """
        self.js(
            "window.painted = new Promise((done) => document.addEventListener('mouseover',"
            "(e) => requestAnimationFrame(() => { const c = new MessageChannel();"
            "c.port1.onmessage = () => done(performance.now() - e.timeStamp);"
            "c.port2.postMessage(0); }), { once: true })); 0"
        )
        move()
        return self.js("window.painted")

    def window(self, width, height=900):
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self, path):
        whole = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(whole["data"]))
        return path


@pytest.fixture(scope="session")
def new_tab(tmp_path_factory):
    """Opens a tab of one headless Chromium."""
    if BROWSER is None:
        pytest.skip("needs Chromium")
    profile = tmp_path_factory.mktemp("chromium")
    # No sandbox: containers run as root. Its own profile: no settings of the user's.
    browser = subprocess.Popen(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--hide-scrollbars", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    tabs = []
    try:
        port = profile / "DevToolsActivePort"

        def started():
            assert browser.poll() is None, "the browser ended"
            return port.is_file() and port.read_text().strip().count("\n")

        wait_for(started, "the browser did not start")
        number, path = port.read_text().split()
        control = websocket.create_connection(
            f"ws://127.0.0.1:{number}{path}", timeout=LIMIT_S, suppress_origin=True
        )

        def tab():
            # One above the other: a tab in the background draws no frames.
            command = {"url": "about:blank", "newWindow": True}
            control.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": command}))
            while "result" not in (answer := json.loads(control.recv())):
                pass
            target = answer["result"]["targetId"]
            tabs.append(Page(f"ws://127.0.0.1:{number}/devtools/page/{target}"))
            return tabs[-1]

        yield tab
        control.close()
    finally:
        for one in tabs:
            one.socket.close()
        browser.terminate()
        browser.wait(30)


@pytest.fixture(scope="module")
def page(new_tab):
    """A tab for pages."""
    return new_tab()


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory):
    """Address, token and folder of a JupyterLab of its own."""
    folder = tmp_path_factory.mktemp("jupyterlab")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    names = ("CONFIG", "DATA", "RUNTIME")
    homes = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in names}
    homes |= {
        f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")
    }
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    log = folder / "log.txt"
    (folder / "work").mkdir()
    with log.open("w") as out:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser",
                "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}",
                "--LabApp.news_url=",
            ],
            env=os.environ | homes | {"PYTHONPATH": paths},
            stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers():
        assert server.poll() is None, log.read_text()[-2000:]
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{address}/api/status", params={"token": token}, timeout=5).ok

    try:
        wait_for(answers, lambda: log.read_text()[-2000:])
        yield address, token, folder / "work"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def lab(new_tab, jupyterlab):
    """Runs code in a new notebook of a real JupyterLab: ``lab(source, ...) -> Page``.

    Each source is a code cell; the last one shows a live figure. The tab is given back once an
    output holds it.
    """
    address, token, folder = jupyterlab
    number = itertools.count()

    def show(*sources):
        # A tab of its own: leaving an unsaved notebook would ask first.
        tab = new_tab()
        name = f"figure{next(number)}.ipynb"
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, folder / name)
        # Reset: JupyterLab opens nothing of the notebook before it.
        tab.go(
            f"{address}/lab/tree/{name}?token={token}&reset",
            "window.jupyterapp && jupyterapp.shell.currentWidget"
            f" && jupyterapp.shell.currentWidget.title.label === '{name}'"
            " && jupyterapp.shell.currentWidget.context.isReady"
            " && jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
        )
        tab.js("jupyterapp.commands.execute('notebook:run-all-cells'); 0")
        seen = "document.querySelector('.jp-OutputArea .r2g')?.r2genkit"
        failed = "Array.from(document.querySelectorAll('.jp-OutputArea-output'), e => e.innerText)"
        wait_for(
            lambda: tab.js(f"Boolean({seen})"), lambda: f"no figure: {tab.js(failed)}", LIMIT_S
        )
        return tab

    return show
