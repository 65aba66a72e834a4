"""Sphinx configuration: every name links or the build fails, with or without a network."""

from __future__ import annotations

import pkgutil
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.pycode import ModuleAnalyzer

import trio_wsk

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))  # for our own extensions

project = "trio_wsk"
copyright = "2026, Contributors to trio_wsk"
release = version = version_of("trio-wsk")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "_extensions.linked_names",
]
exclude_patterns = ["_build", "performance/*.md"]  # the latter are parts that a page includes
html_theme = "sphinx_rtd_theme"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False

nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(trio_wsk\..*\.)?(Client)?Ts?"),  # a type variable has no page
    ("py:class", r"exceptiongroup\..*"),  # what Python 3.10 calls the built-in ones
]
default_role = "obj"  # `accept` in a docstring is a link
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Names of other projects link to their documentation, but the list of those names is kept here,
# in Sphinx's plain-text inventory format: the build is the same without a network, and a name
# that isn't listed fails it. To refer to one more, add a line `name kind page`.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.txt"),
    "trio": ("https://trio.readthedocs.io/en/stable", "inventories/trio.txt"),
    "outcome": ("https://outcome.readthedocs.io/en/latest", "inventories/outcome.txt"),
    "anyio": ("https://anyio.readthedocs.io/en/stable", "inventories/anyio.txt"),
    "prometheus_client": (
        "https://prometheus.github.io/client_python",
        "inventories/prometheus_client.txt",
    ),
    "coredis": ("https://coredis.readthedocs.io/en/stable", "inventories/coredis.txt"),
}

NOT_MADE_BY_CALLING = {
    "trio_wsk.Connection",
    "trio_wsk.ConnectionRequest",
    "trio_wsk.Finding",
    "trio_wsk.Irp",
    "trio_wsk.ListeningSocket",
    "trio_wsk.PendingInspections",
    "trio_wsk.ProbeReport",
    "trio_wsk.Server",
    "trio_wsk.observers.Observer",
    "trio_wsk.testing.MemoryHost",
    "trio_wsk.testing.MemoryStream",
    "trio_wsk.testing.MemoryTransport",
    "trio_wsk.testing.TransportCheck",
    "trio_wsk.transports.Channel",
    "trio_wsk.transports.LinuxTransport",
    "trio_wsk.transports.PortableTransport",
    "trio_wsk.transports.RequestKeeper",
    "trio_wsk.transports.Syn",
}
NEEDS_PYTEST = "trio_wsk.pytest_plugin"
"""It can't be imported here, and what it has are fixtures: their page is written by hand."""
IMPORTED_AS = {"stdlib_socket.socket": "socket.socket"}


def setup(app: Sphinx) -> None:
    """Correct what autodoc and napoleon make of our sources."""
    app.connect("builder-inited", find_attribute_docstrings)
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("autodoc-process-docstring", keep_colons, priority=499)  # napoleon listens at 500
    app.connect("missing-reference", qualify_bare_name, priority=499)  # as does intersphinx


def find_attribute_docstrings(_app: Sphinx) -> None:
    """Let autodoc find the docstrings of attributes in the private modules.

    It reads them from the source of the module that a class calls its own, and that is a
    public one, which only imports it.
    """
    below = [found.name for found in pkgutil.walk_packages(trio_wsk.__path__, prefix="trio_wsk.")]
    names = [name for name in ("trio_wsk", *below) if "._" not in name and name != NEEDS_PYTEST]
    public = [ModuleAnalyzer.for_module(name) for name in names]
    for module in public:
        module.analyze()
    for name in below:
        if "._" in name:
            private = ModuleAnalyzer.for_module(name)
            private.analyze()
            for module in public:
                module.attr_docs.update(private.attr_docs)
                module.tagorder.update(private.tagorder)


def hide_signature(_app: Sphinx, _what: str, name: str, *_: object) -> tuple[str, None] | None:
    """Show no constructor where the class is nothing that users make by calling it."""
    return ("", None) if name in NOT_MADE_BY_CALLING else None


def show_public_bases(_app: Sphinx, _name: str, _thing: object, *rest: object) -> None:
    """Show what users may catch: in place of a private base, its own bases."""
    bases = rest[-1]
    assert isinstance(bases, list)
    shown = [base.__bases__ if base.__name__.startswith("_") else (base,) for base in bases]
    bases[:] = [base for each in shown for base in each]


def keep_colons(_app: Sphinx, what: str, *rest: object) -> None:
    """Keep napoleon from reading the words before a colon as the type of an attribute.

    Ours have annotations for that. It looks at the first line only, so that line becomes an
    empty reStructuredText comment.
    """
    lines = rest[-1]
    if what in {"attribute", "data", "property"} and isinstance(lines, list):
        lines[:0] = ["..", ""]


def qualify_bare_name(
    app: Sphinx, env: BuildEnvironment, node: Element, text: Element
) -> Element | None:
    """Find what a bare name means, of ours or of another project, if it can mean one thing only.

    What a module imports for its annotations only, autodoc can't resolve: `Outcome` stays
    `Outcome`, where the inventory has `outcome.Outcome`.
    """
    target = node["reftarget"]
    if "._" in target:  # where it is at home, but private
        target = re.sub(r"^trio_wsk\.(?:[a-z_]\w*\.)*", "", target)
    bare = IMPORTED_AS.get(target, target)
    ours = env.domains.python_domain
    others = InventoryAdapter(env).main_inventory.values()
    listed = {*ours.objects, *(name for names in others for name in names)}
    qualified = [bare] if bare in listed else [n for n in listed if n.endswith(f".{bare}")]
    if len(qualified) != 1:
        return None
    node["reftarget"] = qualified[0]
    if qualified[0] not in ours.objects:
        return None  # intersphinx is next, and finds it
    return ours.resolve_xref(env, node["refdoc"], app.builder, "obj", qualified[0], node, text)
