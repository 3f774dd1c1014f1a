"""Sphinx's settings for the site: `make docs`."""

project = "cxr_embed"
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"  # docstrings have single backquotes
autodoc_typehints = "none"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page that starts with another file's heading
smartquotes = False  # an option is written with two dashes
html_theme = "furo"
html_title = "cxr_embed"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
