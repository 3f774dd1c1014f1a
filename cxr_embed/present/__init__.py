"""How results are shown: numbers, and tables as Markdown, CSV, HTML, LaTeX and in a terminal."""
