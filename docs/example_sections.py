"""An extension of the site's docstring reader: our section `Example:` is shown as code, as its `Examples:` is."""

import re

import griffe


class ExampleSections(griffe.Extension):
    """Reads `Example:` as `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section in an object's docstring.

        Args:
            obj: What was read.
        """
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
