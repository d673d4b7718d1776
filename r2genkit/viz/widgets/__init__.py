"""Interactive figures: one front end in plain JavaScript, two hosts (a page and a live widget).

A front end is a script and a style in a module ``..._front.py``, on top of what all share
(``front.py``). It draws from one JSON payload, needs no framework and no network, and is used
unchanged inside a self-contained HTML page and as the module of an ``anywidget`` (``host.py``). It
follows the pointer without a kernel; only what has to be computed anew asks for one. Every front
end has a static twin in matplotlib, drawn from the same data, for notebooks that run without a
browser.
"""
