"""Configuration of Sphinx. Nothing here needs a network, neither the build nor its pages."""

import supernetnas

project = "supernetnas"
author = "The supernetnas developers"
copyright = f"2026, {author}"
version = release = supernetnas.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",  # of the results, which are the benchmarks' own page
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = False

html_theme = "furo"
html_title = f"supernetnas {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

autosummary_generate = True
# Made by scikit-learn, with references into its own documentation.
autodoc_default_options = {"exclude-members": "get_metadata_routing, set_score_request"}
autodoc_typehints = "none"  # the docstrings state types, with their shapes
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"quickstart\.py",
    "within_subsection_order": "FileNameSortKey",
    "reference_url": {},
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # its page would load scripts from elsewhere
    "abort_on_example_error": True,
}
