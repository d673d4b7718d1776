"""Interactive figures: one front end in plain JavaScript, two hosts (a page and a live widget).

A front end is a script and a style in a module ``..._front.py``. It draws from one JSON payload,
needs no framework, no network and no kernel, and is used unchanged inside a self-contained HTML
page and as the module of an ``anywidget``. Every front end has a static twin in matplotlib, drawn
from the same data, for notebooks that run without a browser.
"""
