"""Configuration of the documentation: `make docs` builds it, with or without a network."""

import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed_version
from pathlib import Path

import zennit_isnet

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "zennit_isnet"
author = copyright = "zennit_isnet contributors"
release = version = installed_version("zennit-isnet")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "command_options",
    "figure_code",
    "included_tables",
    "mathml",
    "plain_docstrings",
    "rule_table",
]
exclude_patterns = ["_build", "gallery"]
templates_path = ["_templates"]
nitpicky = True

# reference
default_role = "autolink"
autosummary_generate = True
autosummary_context = {"top_level": zennit_isnet.__all__}
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# pages
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# gallery: every script runs at each build
sphinx_gallery_conf = {
    "examples_dirs": ["gallery/tutorials", "gallery/explanation"],
    "gallery_dirs": ["auto_examples/tutorials", "auto_examples/explanation"],
    "filename_pattern": r"/plot_",
    "within_subsection_order": "gallery_order.ReadingOrder",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 0,
    "image_scrapers": ("matplotlib", "gallery_figures.last_figure"),
    "capture_repr": (),
    "reset_modules": ("matplotlib",),
    "abort_on_example_error": True,
}

# appearance
html_theme = "furo"
html_title = f"zennit_isnet {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False

# other projects: links where their inventories can be had, plain text where not
INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "torchvision": "https://docs.pytorch.org/vision/stable/",
    "zennit": "https://zennit.readthedocs.io/en/stable/",
    "captum": "https://captum.ai/api/",
}
PATIENCE = 5.0


def inventory(name: str) -> Path | None:
    """Fetch the inventory of another project, or return None where it cannot be had."""
    kept = HERE / "_build" / "inventories" / f"{name}.inv"
    try:
        with urllib.request.urlopen(
            f"{INVENTORIES[name]}objects.inv", timeout=PATIENCE
        ) as answer:
            content = answer.read()
    except OSError:
        return None
    if not content.startswith(b"# Sphinx inventory"):
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return kept


with ThreadPoolExecutor() as pool:
    found = dict(zip(INVENTORIES, pool.map(inventory, INVENTORIES), strict=True))
intersphinx_mapping = {
    name: (INVENTORIES[name], str(file))
    for name, file in found.items()
    if file is not None
}
nitpick_ignore_regex = [
    # names of others, as their code calls them: only some are in their inventories, and none without a network
    ("py:.*", r"(?!zennit_isnet\b).*"),
    ("py:.*", r"zennit_isnet\.lrp\.taps\.T"),  # a type variable
    # bases that are nobody's business
    (
        "py:class",
        r"zennit_isnet\.(.*\._\w+|data\.files\.\w+|metrics\.(Separate|Localization)Metric)",
    ),
    (
        "py:class",
        r"zennit_isnet\.(checks\.(Described|Drawing)|swap\.backgrounds\.RandomBackgrounds)",
    ),
]
