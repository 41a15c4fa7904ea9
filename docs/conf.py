"""How the site is built: `make docs`, or ``sphinx-build -W docs out/docs`` with the package installed."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "ImmuneCam"
author = "the ImmuneCam authors"
copyright = "the ImmuneCam authors, Apache-2.0"
version = release = installed_version("immunecam")

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "formulas", "command_line"]
exclude_patterns = ["extensions"]

# Markdown: formulas between dollars, and every heading can be linked to, so that a wrong link is an error.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings: one backtick stands around code, as two do.
default_role = "code"
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say shape and range, too, which a type cannot
autodoc_default_options = {"members": True}

# Nothing of a page is fetched from anywhere, so that the site opens from a disk without a network.
html_theme = "furo"
html_title = f"ImmuneCam {release}"
html_copy_source = False
html_show_sphinx = False
