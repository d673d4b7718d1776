"""Two hosts of a front end: a page to be opened by double click, and a live widget of a notebook.

A front end is one text of JavaScript that defines

    function draw(root, data, ask, tell) -> handle

It fills ``root``, an empty element of class ``r2g`` and ``r2g-NAME``, from ``data``. The handle has
at least ``state()``; tests find it at ``window.r2genkit`` (page) or ``root.r2genkit`` (widget).
``tell({...})`` says what the reader has chosen. ``ask`` is null without a kernel; with one,
``await ask({...})`` gives what Python answers, throws with the sentence of a ``KitError``, and
gives null where a newer question has been asked before the answer came.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2genkit.errors import KitError
from r2genkit.viz.widgets.front import KIT, KIT_STYLE

_HOST = r"""
// --- hosts ---------------------------------------------------------------------------------------

const NAME = "@NAME@";

export function mount(root, data, ask = null, tell = () => {}) {
  root.replaceChildren();
  root.classList.add("r2g", `r2g-${NAME}`);
  root.r2genkit = draw(root, data, ask, tell);
  return root.r2genkit;
}

// Questions to the kernel, one at a time: while one is answered, only the newest waits.
function asker(model) {
  let number = 0;
  let open = null;
  let waiting = null;
  const send = (one) => {
    number += 1;
    open = { ...one, number };
    model.set("question", { ...one.question, number });
    model.save_changes();
  };
  const hear = () => {
    const answer = model.get("answer");
    if (!open || answer.number !== open.number) return;
    const { resolve, reject } = open;
    open = null;
    if (waiting) { // what is answered here is no longer asked
      const next = waiting;
      waiting = null;
      send(next);
      resolve(null);
    } else if (answer.error) reject(new Error(answer.error));
    else resolve(answer);
  };
  model.on("change:answer", hear);
  const ask = (question) => new Promise((resolve, reject) => {
    const one = { question, resolve, reject };
    if (!open) {
      send(one);
      return;
    }
    if (waiting) waiting.resolve(null);
    waiting = one;
  });
  return { ask, leave: () => model.off("change:answer", hear) };
}

function render({ model, el }) {
  const root = document.createElement("div");
  // JupyterLab takes keys from what has the focus (1 would make a heading of the cell, m a text),
  // unless that very element says that it keeps them.
  const keep = (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true");
  root.addEventListener("focusin", keep);
  el.append(root);
  const kernel = model.get("answers") ? asker(model) : null;
  const tell = (told) => {
    model.set("told", told);
    model.save_changes();
  };
  const build = () => mount(root, model.get("data"), kernel ? kernel.ask : null, tell);
  build();
  model.on("change:data", build);
  return () => {
    model.off("change:data", build);
    if (kernel) kernel.leave();
  };
}

export default { render };
"""
_START = """
const place = document.getElementById("figure");
window.r2genkit = mount(place, JSON.parse(document.getElementById("data").textContent));
"""
_PAGE_STYLE = """
body { margin: 0; background: #fff; }
body > .r2g { margin: 0 auto; }
noscript { display: block; font: 16px/1.5 system-ui, sans-serif; margin: 1em; color: #1b1b1b; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head><body>
<div id="figure"></div>
<noscript><p>This page needs JavaScript to show its figure.</p>{texts}</noscript>
<script id="data" type="application/json">{content}</script>
<script type="module">{script}</script>
</body></html>
"""
_IN_SCRIPT = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class FrontEnd:
    """Script and style of one interactive figure.

    Attributes:
        name: lower-case letters; the root element has the class ``r2g-NAME``.
        body: JavaScript that defines ``draw(root, data, ask, tell)``.
        rules: style, every rule below ``.r2g-NAME``.
    """

    name: str
    body: str
    rules: str

    @property
    def script(self) -> str:
        """The whole module, the same text in the page and in the widget."""
        return KIT + self.body + _HOST.replace("@NAME@", self.name)

    @property
    def style(self) -> str:
        """The whole style."""
        return KIT_STYLE + self.rules


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def page_html(
    front: FrontEnd,
    content: Mapping[str, Any],
    *,
    title: str,
    texts: Sequence[tuple[str, str]] = (),
) -> str:
    """One page with data, style and script inside, to be opened by double click.

    Its content security policy lets only its own script and style run, by their hashes, and images
    only from inside the page; nothing can be loaded or sent. Every text is escaped.

    Args:
        front: what draws.
        content: what it draws from; plain JSON.
        title: of the window.
        texts: (heading, text) for readers without JavaScript.
    """
    style, script = front.style + _PAGE_STYLE, front.script + _START
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src data:",
            "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return _PAGE.format(
        policy=policy,
        title=html.escape(title),
        style=style,
        texts="".join(
            f"<h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>" for heading, text in texts
        ),
        # In JSON these marks stand in strings only, where they may be written as escapes.
        content=json.dumps(content, separators=(",", ":")).translate(_IN_SCRIPT),
        script=script,
    )


def live(
    front: FrontEnd,
    content: Mapping[str, Any],
    answer: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
) -> Any:
    """A live widget for notebooks, with the same front end as the page.

    Its trait ``told`` is what the reader chose last; pointing at things does not reach the kernel.

    Args:
        front: what draws.
        content: what it draws from; plain JSON.
        answer: called in the kernel with each question of the front end; gives plain JSON. What it
            raises is shown in the widget: the sentence of a ``KitError``, else the kind and text of
            the error.

    Returns:
        ``anywidget.AnyWidget`` with the traits ``data``, ``told``, ``answers`` (whether a kernel
        answers), ``question`` and ``answer``.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    try:
        anywidget = importlib.import_module("anywidget")
        traitlets = importlib.import_module("traitlets")
    except ImportError:
        raise KitError(
            f"The live {front.name} needs anywidget: pip install 'r2genkit[widgets]', or use its "
            "page or its static figure."
        ) from None

    traits = {
        "data": traitlets.Dict().tag(sync=True),
        "told": traitlets.Dict().tag(sync=True),
        "answers": traitlets.Bool(False).tag(sync=True),
        "question": traitlets.Dict().tag(sync=True),
        "answer": traitlets.Dict().tag(sync=True),
    }
    # A class of its own for each figure: anywidget keeps one style per class name, and a second
    # figure in the notebook would take the first one's away.
    kind = type(
        front.name.capitalize(),
        (anywidget.AnyWidget,),
        {"_esm": front.script, "_css": front.style, "__module__": __name__, **traits},
    )
    widget = kind(data=dict(content), answers=answer is not None)
    if answer is not None:

        def reply(change: Mapping[str, Any]) -> None:
            asked = dict(change["new"])
            number = asked.pop("number", None)
            widget.answer = {**answered(answer, asked), "number": number}

        widget.observe(reply, "question")
    return widget


def answered(
    answer: Callable[[dict[str, Any]], Mapping[str, Any]], question: dict[str, Any]
) -> dict[str, Any]:
    """The answer to one question, or ``{"error": sentence}``."""
    try:
        return dict(answer(question))
    except KitError as error:
        return {"error": str(error)}
    except Exception as error:  # a widget that waits for ever would hide what went wrong
        logging.getLogger(__name__).exception("a live figure's question %s failed", question)
        return {"error": f"{type(error).__name__}: {error}"}
