"""Sphinx configuration; the build treats every warning as an error."""

project = "expandermask"
author = "The expandermask authors"
copyright = "2026, the expandermask authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "expandermask"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
default_role = "code"
# Docstrings say `mask : array, shape (n1, n2)`, which Sphinx takes for a list of types: it looks up
# each word, and finds that several classes have an attribute n1.
suppress_warnings = ["ref.python"]
