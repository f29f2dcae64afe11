"""Sphinx configuration of the course's site; ``docs/site.py`` assembles the pages and calls Sphinx."""

import importlib.metadata

project = "Exact feature collisions"
author = copyright = "the authors of the course"
release = version = importlib.metadata.version("exact-collisions")
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx-mathjax-offline",
]
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # excerpts are fetched, which no browser does where pages are files
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "use_download_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "collapse_navbar": False,
}

nb_execution_mode = "off"  # the outputs are those that notebooks/build.py has just computed
nb_render_markdown_format = "myst"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
myst_heading_slug_func = "site_slugs.slug"
suppress_warnings = ["config.cache"]  # the slug function cannot be pickled
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
