"""Anchors of headings as Jupyter makes them, so that one link works in a notebook and on the site."""


def slug(heading):
    """Return a heading's anchor: its words joined by hyphens, nothing lowered or left out."""
    return heading.replace(" ", "-")
