"""The site: what Sphinx reads of the package and of these pages, and how formulas are set."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

import roofstep

project = "roofstep"
project_copyright = "the authors of roofstep"
version = release = roofstep.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # so that a page may point at a section of another, as on GitHub
html_theme = "furo"
html_title = f"roofstep {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False

# In docstrings `name` is a reference and ``name`` is code; a name that is nowhere is an error.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # Of other libraries, whose sites a build would have to fetch.
    (r"py:.*", r"(collections|jax|numpy|paddle|torch)\..*"),
]
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"  # every docstring says what its arguments are
napoleon_attr_annotations = False
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # those of torch and Paddle are theirs
pygments_style, pygments_dark_style = "default", "github-dark"


def visit_math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """A formula as MathML, which browsers set by themselves: no script, and no other host."""
    block = isinstance(node, nodes.math_block)
    try:
        formula = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning(
            "formula %r: %s", node.astext(), error, location=node, type="mathml"
        )
        raise nodes.SkipNode from error
    self.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Lets Sphinx know the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
