"""Links every name in prose to its entry in the reference, and shows values as they are written.

`names` has the rules; here they meet Sphinx. Options are parameters, which have no entries of
their own, so each gets an anchor where its function describes it.
"""

from __future__ import annotations

import enum
import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.transforms.post_transforms import SphinxPostTransform

from .names import Names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

DESCRIBES_OPTIONS = ("trio_wsk.open_listening_socket", "trio_wsk.serve")
"""Where an option is described that several functions have: the first of these that has it."""

LOGGERS = frozenset({"trio_wsk.access"})
"""Names that look as if they were in the package."""

NO_PLACE_FOR_LINKS = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature)


def setup(app: Sphinx) -> dict[str, bool]:
    """Join in."""
    app.connect("doctree-read", give_options_anchors)
    app.connect("doctree-read", show_values_as_written)
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def give_options_anchors(app: Sphinx, doctree: nodes.document) -> None:
    """Give each described parameter an id, and remember where it is."""
    for name, content in descriptions(doctree):
        for parameter in content.findall(addnodes.literal_strong):
            place = parameter.parent.parent
            if isinstance(place, nodes.list_item | nodes.field_body) and is_in_entry(place, name):
                anchor = f"{name}.{parameter.astext()}"
                place["ids"].append(anchor)
                options(app)[anchor] = app.env.docname


def options(app: Sphinx) -> dict[str, str]:
    """Where options are described: a page for each ``function.option``."""
    if not hasattr(app.env, "trio_wsk_options"):
        app.env.trio_wsk_options = {}
    found: dict[str, str] = app.env.trio_wsk_options
    return found


def descriptions(doctree: nodes.document) -> Iterator[tuple[str, nodes.Element]]:
    """Yield the full name and the text of each entry."""
    for entry in doctree.findall(addnodes.desc):
        signature, content = entry[0], entry[-1]
        if signature.get("ids"):
            yield signature["ids"][0], content


def show_values_as_written(_app: Sphinx, doctree: nodes.document) -> None:
    """Show ``Status.PENDING`` and 0x00000103 where autodoc shows 259."""
    for entry in doctree.findall(addnodes.desc):
        signature = entry[0]
        value = value_of(signature["ids"][0]) if signature.get("ids") else None
        if not isinstance(value, enum.Enum):
            continue
        for annotation in signature.findall(addnodes.desc_annotation):
            if "=" in annotation.astext():
                is_member = signature["ids"][0].endswith(f".{type(value).__name__}.{value.name}")
                shown = in_hex(value) if is_member else f"{type(value).__name__}.{value.name}"
                annotation.children = [nodes.Text(f" = {shown}")]


def value_of(name: str) -> object:
    """Find what a full name stands for, if that can be known without an instance."""
    module, *parts = "trio_wsk", *name.removeprefix("trio_wsk.").split(".")
    thing: Any = importlib.import_module(module)
    for part in parts:
        thing = getattr(thing, part, None)
    return thing


def in_hex(value: enum.Enum) -> str:
    """Write a status as WSK's headers do, a mask in two digits, anything else as it is."""
    if isinstance(value, enum.Flag):
        return f"0x{value.value:02X}"
    if isinstance(value, int):
        return f"0x{value.value:08X}"
    return repr(value.value)


class LinkNames(SphinxPostTransform):
    """Turns code that names something into a link to it."""

    default_priority = 5  # before references are resolved, at 10

    def run(self, **_: object) -> None:
        """Go through one page."""
        names = self.names()
        for code in list(self.document.findall(is_code)):
            if not is_within(code, NO_PLACE_FOR_LINKS):
                self.link(code, names)

    def names(self) -> Names:
        """Collect what can be linked to: our entries, options, and what inventories list."""
        ours = {
            name: entry.objtype for name, entry in self.env.domains.python_domain.objects.items()
        }
        inventories = InventoryAdapter(self.env).main_inventory
        theirs = {
            name: kind.removeprefix("py:")
            for kind, listed in inventories.items()
            for name in listed
            if kind.startswith("py:")
        }
        times = Counter(anchor.rpartition(".")[2] for anchor in options(self.app))
        known = {
            option
            for option, count in times.items()
            if count == 1
            or any(f"{each}.{option}" in options(self.app) for each in DESCRIBES_OPTIONS)
        }
        return Names({**theirs, **ours}, known)

    def link(self, code: nodes.Element, names: Names) -> None:
        """Link one piece of code, if it names something that isn't what is described here."""
        text = code.astext()
        option, name = names.option(text), names.find(text)
        if option is not None:
            code.replace_self(self.to_option(option, code))
        elif name is not None and not is_described_here(code, name):
            xref = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=name, refdoc=self.env.docname
            )
            xref += code.deepcopy()
            code.replace_self(xref)
        elif text.startswith("trio_wsk.") and name is None and text not in LOGGERS:
            self.warn(code)

    def to_option(self, option: str, code: nodes.Element) -> nodes.reference:
        """Refer to where an option is described."""
        described = options(self.app)
        preferred = (f"{function}.{option}" for function in DESCRIBES_OPTIONS)
        anchor = next(filter(described.__contains__, preferred), None) or next(
            each for each in described if each.endswith(f".{option}")
        )
        page = self.app.builder.get_relative_uri(self.env.docname, described[anchor])
        reference = nodes.reference("", "", internal=True, refuri=f"{page}#{anchor}")
        reference += code.deepcopy()
        return reference

    def warn(self, code: nodes.Element) -> None:
        """Say that a full name leads nowhere; the build takes warnings for errors."""
        message = f"no entry in the reference for `{code.astext()}`"
        self.document.reporter.warning(message, base_node=code)


def is_code(node: nodes.Node) -> bool:
    """Whether a node is code, or one of several errors that stand before one description."""
    is_error = isinstance(node, addnodes.literal_strong) and node.astext().endswith("Error")
    return is_error or isinstance(node, nodes.literal)


def is_within(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    """Whether a node is inside one of some kinds."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def is_described_here(node: nodes.Node, name: str) -> bool:
    """Whether a node is in the entry of this very name."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, addnodes.desc) and name in node[0].get("ids", ()):
            return True
    return False


def is_in_entry(node: nodes.Node, name: str) -> bool:
    """Whether the entry that a node is in, and no other one in between, is that of this name."""
    while not isinstance(node, addnodes.desc):
        node = node.parent
    return name in node[0].get("ids", ())
