"""Sphinx's settings for the site: `make docs`."""

project = "cxr_embed"
html_show_copyright = False
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page that starts with another file's heading
nitpicky = True
smartquotes = False  # an option is written with two dashes
html_theme = "furo"
html_title = "cxr_embed"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
