"""Settings of the book. build.py copies this file beside the sources and runs Sphinx there."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from dgtoy.interop.community.pipeline import DomainGuidancePipeline

del DomainGuidancePipeline.__init__.__signature__  # made for diffusers; autodoc holds it against the source

project = "dgtoy"
author = "the dgtoy authors"
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.githubpages",
    "sphinx_copybutton",
    "links",
]

# notebooks: shown with the outputs they were committed with
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables and formulas that a cell shows
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

# formulas: MathJax from the site itself
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}, "chtml": {"scale": 0.95}}

# the package's pages
autodoc_member_order = "bysource"
autodoc_mock_imports = ["triton"]
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
add_module_names = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_show_copyright = False
html_scaled_image_link = False  # a tap opens a figure on its page (page.js)
html_theme = "furo"
html_title = "dgtoy: Domain Guidance"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_favicon = "_static/icon.svg"
html_search_scorer = str(pathlib.Path(__file__).parent / "search.js")
html_css_files = ["book.css"]
html_js_files = ["page.js"]
templates_path = ["_templates"]
html_sourcelink_suffix = ""  # notebooks are offered under their own names
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-brand-primary": "#005A8C",
        "color-brand-content": "#005A8C",
        "color-brand-visited": "#5B3F86",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7CC4F0",
        "color-brand-content": "#7CC4F0",
        "color-brand-visited": "#C3A6E8",
    },
}
